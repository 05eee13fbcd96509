//! The map of what is finished above a partition's frontier, as the text that stands beside the committed offset.
//!
//! `1` (the version), then in base64url without padding: four bytes of BLAKE3 over the frontier (eight bytes, big-endian) and what
//! follows, then for each run, ascending, how many offsets lie between it and the one before it (the first: the frontier) less one,
//! and how many it has less one, each as LEB128. Nothing finished above the frontier is the empty text.
//!
//! Promises: what is read back is a prefix of what was written, whole where it fits; a text that is longer is cut at its far end, which
//! costs repeats and loses nothing. A text that is not ours, that was written beside another offset, or that reaches beyond the log's
//! end says nothing, and never panics.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The longest text: what a Kafka broker takes as a commit's metadata unless it is told otherwise (`offset.metadata.max.bytes`).
pub const MAX_BYTES: usize = 4096;

const VERSION: &str = "1";
const CHECK_BYTES: usize = 4;

/// Offsets that are finished, `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: i64,
    /// The last; not below the first.
    pub last: i64,
}

/// The text for as many of `runs` as `max_bytes` hold. They are ascending, above the frontier, with an offset between any two; what
/// comes after one that is not is left out.
#[must_use]
pub fn encode(frontier: i64, runs: impl IntoIterator<Item = Run>, max_bytes: usize) -> String {
    let letters = max_bytes.saturating_sub(VERSION.len());
    let room = letters / 4 * 3 + letters % 4 * 3 / 4;
    let mut body = vec![0; CHECK_BYTES];
    let mut end = frontier;
    for run in runs {
        let (Some(between), Some(length)) = (run.first.checked_sub(end), run.last.checked_sub(run.first)) else { break };
        let (Ok(between @ 1..), Ok(length)) = (u64::try_from(between), u64::try_from(length)) else { break };
        let whole = body.len();
        push(&mut body, between - 1);
        push(&mut body, length);
        if body.len() > room || run.last == i64::MAX {
            body.truncate(whole);
            break;
        }
        end = run.last + 1;
    }
    if body.len() == CHECK_BYTES {
        return String::new();
    }
    let check = check(frontier, &body[CHECK_BYTES..]);
    body[..CHECK_BYTES].copy_from_slice(&check);
    let mut text = VERSION.to_owned();
    URL_SAFE_NO_PAD.encode_string(&body, &mut text);
    text
}

/// What a text says is finished above the `frontier` that it stands beside, in a log that ends at `log_end`: ascending, with an offset
/// between any two. None where it is not [`encode`]'s, or says what cannot be.
#[must_use]
pub fn decode(text: &str, frontier: i64, log_end: i64) -> Option<Vec<Run>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    if text.len() > MAX_BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(VERSION)?).ok()?;
    let (said, mut body) = bytes.split_at_checked(CHECK_BYTES)?;
    if body.is_empty() || said != check(frontier, body) {
        return None;
    }
    let mut runs = Vec::new();
    let mut end = frontier;
    while !body.is_empty() {
        let first = end.checked_add_unsigned(take(&mut body)?)?.checked_add(1)?;
        let last = first.checked_add_unsigned(take(&mut body)?)?;
        if last >= log_end {
            return None;
        }
        runs.push(Run { first, last });
        end = last + 1;
    }
    Some(runs)
}

fn check(frontier: i64, body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&frontier.to_be_bytes()).update(body);
    let mut check = [0; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(first: i64, last: i64) -> Run {
        Run { first, last }
    }

    /// Made by a second implementation. For ever: a newer version reads what an older one has committed.
    #[test]
    fn the_text_is_this() {
        let golden: [(i64, &[Run], &str); 5] = [
            (0, &[], ""),
            (0, &[run(1, 999)], "1VTdtggDmBw"),
            (41, &[run(42, 42), run(44, 47), run(400, 400)], "1jSwGqwAAAAPfAgA"),
            (5_000_000_000, &[run(5_000_000_001, 5_000_000_001), run(5_001_000_000, 6_000_000_000)], "1z7h51QAAvYQ9wI-u3AM"),
            (0, &[run(1, i64::MAX - 1)], "1F5ERmwD9_________38"),
        ];
        for (frontier, runs, text) in golden {
            assert_eq!(encode(frontier, runs.iter().copied(), MAX_BYTES), text);
            assert_eq!(decode(text, frontier, i64::MAX).as_deref(), Some(runs));
        }
    }

    #[test]
    fn what_was_not_written_beside_this_offset_of_this_log_says_nothing() {
        let text = encode(10, [run(12, 20), run(30, 30)], MAX_BYTES);
        assert!(decode(&text, 10, 31).is_some());
        assert_eq!(decode(&text, 10, 30), None, "the log has lost its end");
        assert_eq!(decode(&text, 11, 31), None, "the offset was moved");
        for foreign in ["1", "0", "2", "1====", "host-17", "{\"v\":1}", "1AAAA", "1AAAAAA", "é", "\u{fffd}\0"] {
            assert_eq!(decode(foreign, 10, i64::MAX), None, "{foreign:?}");
        }
        assert_eq!(decode(&format!("2{}", &text[1..]), 10, 31), None, "a newer version's");
        assert_eq!(decode(&format!("{text}{}", "A".repeat(MAX_BYTES)), 10, 31), None);
    }

    /// Right by its check, and yet impossible: lengths that overflow, varints without an end, half a run.
    #[test]
    fn impossible_runs_say_nothing() {
        for body in [&[0xff; 12][..], &[0x80], &[3], &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            for frontier in [0, i64::MAX, i64::MIN] {
                let mut bytes = check(frontier, body).to_vec();
                bytes.extend_from_slice(body);
                let text = format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(bytes));
                assert_eq!(decode(&text, frontier, i64::MAX), None, "{body:?} above {frontier}");
            }
        }
    }

    #[test]
    fn a_thousand_runs_fit() {
        let alternating = (0..).map(|n| run(2 * n + 1, 2 * n + 1));
        let kept = decode(&encode(0, alternating.take(10_000), MAX_BYTES), 0, i64::MAX).expect("ours");
        assert_eq!(kept.len(), 1533);
    }

    prop_compose! {
        fn runs()(frontier in 0_i64..1 << 40, steps in proptest::collection::vec((1_i64..3000, 1_i64..300_000), 0..800)) -> (i64, Vec<Run>) {
            let mut end = frontier;
            let runs = steps.into_iter().map(|(between, length)| {
                let first = end + between;
                end = first + length;
                run(first, end - 1)
            });
            (frontier, runs.collect())
        }
    }

    proptest! {
        #[test]
        fn what_comes_back_is_the_prefix_that_fits((frontier, runs) in runs(), max_bytes in prop_oneof![0_usize..200, Just(MAX_BYTES)]) {
            let text = encode(frontier, runs.iter().copied(), max_bytes);
            prop_assert!(text.len() <= max_bytes && text.is_ascii());
            let kept = decode(&text, frontier, i64::MAX).expect("ours");
            prop_assert_eq!(&kept[..], &runs[..kept.len()]);
            if kept.len() < runs.len() {
                let longer = encode(frontier, runs[..=kept.len()].iter().copied(), usize::MAX);
                prop_assert!(longer.len() > max_bytes, "one more would have fitted");
            }
        }

        #[test]
        fn anything_decodes_or_says_nothing(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..64), frontier: i64, log_end: i64) {
            let dressed = format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(&bytes));
            for text in [text, dressed] {
                if let Some(runs) = decode(&text, frontier, log_end) {
                    prop_assert!(runs.iter().all(|run| frontier < run.first && run.first <= run.last && run.last < log_end));
                }
            }
        }

        #[test]
        fn one_changed_letter_says_nothing((frontier, runs) in runs(), place: prop::sample::Index, letter in "[A-Za-z0-9_-]") {
            let text = encode(frontier, runs.iter().copied(), MAX_BYTES);
            prop_assume!(!text.is_empty());
            let place = place.index(text.len());
            let changed = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
            prop_assume!(changed != text);
            prop_assert_eq!(decode(&changed, frontier, i64::MAX), None);
        }
    }
}
