//! How digests read: dates, counts and statements, in order. Nothing but the counts is in a language of ours.

use std::collections::{BTreeMap, HashSet};

use memori_schemas::Micros;
use memori_schemas::normalise::normalise;

use super::topics::Texts;
use super::{DAY_US, DigestFact};
use crate::recall::budget::tokens;
use crate::recall::language;

/// Entries that a timeline shows.
const MAX_ENTRIES: usize = 24;
/// Estimated tokens that a timeline's entries may take.
const TIMELINE_TOKENS: usize = 400;
/// Estimated tokens that a summary's statements may take.
const SUMMARY_TOKENS: usize = 200;
/// A statement is shown to this many characters.
const MAX_STATEMENT_CHARS: usize = 200;
/// Words beyond which a statement counts as no more informative.
const TELLING_WORDS: usize = 12;

/// What happened on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Since 1970-01-01.
    pub(super) day: i64,
    /// When it was said, µs.
    pub(super) at_us: i64,
    /// Which of the facts.
    pub(super) fact: u32,
}

/// The first whole date in a statement, in days since 1970-01-01.
pub(super) fn day_in(statement: &str) -> Option<i64> {
    let bytes = statement.as_bytes();
    bytes.windows(10).enumerate().find_map(|(start, window)| {
        let is_date =
            window.iter().enumerate().all(|(i, byte)| if i == 4 || i == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
        let alone = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_digit() && *byte != b'-');
        if !is_date || !alone(start.checked_sub(1).and_then(|before| bytes.get(before))) || !alone(bytes.get(start + 10)) {
            return None;
        }
        let date = std::str::from_utf8(window).ok()?;
        Micros::parse_rfc3339(&format!("{date}T00:00:00Z")).map(|at| at.0.div_euclid(DAY_US))
    })
}

fn date(day: i64) -> String {
    let mut text = Micros(day.saturating_mul(DAY_US)).to_rfc3339();
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

/// A statement, cut between characters where it is long.
fn shown(statement: &str) -> String {
    match statement.char_indices().nth(MAX_STATEMENT_CHARS) {
        None => statement.to_owned(),
        Some((end, _)) => format!("{}…", statement[..end].trim_end()),
    }
}

/// `Berlin, 3 times: 2026-03-02 …; 2026-03-09 …; 2026-03-16 …`. Of many the first and the last are shown, and how many are not.
pub(super) fn timeline(name: &str, facts: &[DigestFact<'_>], entries: &[Entry]) -> String {
    let days = entries.iter().map(|entry| entry.day).collect::<HashSet<_>>().len();
    let count =
        if days == entries.len() { format!("{days} times") } else { format!("{} statements on {days} days", entries.len()) };
    let whole = |i: usize| format!("{} {}", date(entries[i].day), shown(facts[entries[i].fact as usize].content));
    let repeats = |i: usize| i > 0 && facts[entries[i - 1].fact as usize].content == facts[entries[i].fact as usize].content;
    let line = |i: usize| if repeats(i) { date(entries[i].day) } else { whole(i) };
    format!("{name}, {count}: {}", pieces(entries.len(), line, whole).join("; "))
}

/// The pieces that are shown: all, or the first and the last with the number of those between. `after_cut` is how a piece reads
/// that does not stand behind the one before it.
fn pieces(count: usize, piece: impl Fn(usize) -> String, after_cut: impl Fn(usize) -> String) -> Vec<String> {
    let (head, tail) = ends(count, MAX_ENTRIES, TIMELINE_TOKENS, |i| tokens(&piece(i)));
    let mut shown: Vec<String> = (0..head).map(&piece).collect();
    if head < tail {
        shown.push(format!("[{} more]", tail - head));
    }
    shown.extend((tail..count).map(|i| if i == tail && head < tail { after_cut(i) } else { piece(i) }));
    shown
}

/// How many of the first, and from where on of the last, fit; taken in turn from both ends.
fn ends(count: usize, most: usize, budget: usize, cost: impl Fn(usize) -> usize) -> (usize, usize) {
    let (mut head, mut tail, mut left) = (0, count, budget);
    while head < tail && head + (count - tail) < most {
        let from_head = head <= count - tail;
        let cost = cost(if from_head { head } else { tail - 1 });
        if cost > left && head > 0 {
            break;
        }
        left = left.saturating_sub(cost);
        if from_head { head += 1 } else { tail -= 1 }
    }
    (head, tail)
}

/// `2026-03-02: …; …; …`, the most telling statements that fit, in the order in which they were made, and how many were left out.
pub(super) fn summary<'a>(facts: &[DigestFact<'a>], evidence: &[(u32, u32)], texts: &Texts<'a>) -> String {
    let at = |(fact, mention): (u32, u32)| facts[fact as usize].mentions[mention as usize].occurred_at_us.div_euclid(DAY_US);
    let (first, last) = (evidence.first().map_or(0, |one| at(*one)), evidence.last().map_or(0, |one| at(*one)));
    let mut seen = HashSet::new();
    let members: Vec<u32> = evidence.iter().map(|(fact, _)| *fact).filter(|fact| seen.insert(*fact)).collect();
    let mut by_weight: Vec<(usize, usize)> =
        members.iter().enumerate().map(|(place, fact)| (informative(&facts[*fact as usize], texts), place)).collect();
    by_weight.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut left = SUMMARY_TOKENS;
    let mut taken: Vec<usize> = Vec::new();
    for (_, place) in by_weight {
        let cost = tokens(&shown(facts[members[place] as usize].content));
        if cost <= left || taken.is_empty() {
            left = left.saturating_sub(cost);
            taken.push(place);
        }
    }
    taken.sort_unstable();
    let said: Vec<String> = taken.iter().map(|place| shown(facts[members[*place] as usize].content)).collect();
    let when = if first == last { date(first) } else { format!("{} to {}", date(first), date(last)) };
    let more = members.len() - taken.len();
    let more = if more == 0 { String::new() } else { format!("; [{more} more]") };
    format!("{when}: {}{more}", said.join("; "))
}

/// How much a statement tells, by itself: words that mean something, figures, and whether its parts are known.
fn informative<'a>(fact: &DigestFact<'a>, texts: &Texts<'a>) -> usize {
    let text = texts.of(fact.content);
    let language = text.language;
    let telling: HashSet<&String> =
        text.words.iter().filter(|word| !language::of_word(word, language).unwrap_or(language).is_stop_word(word)).collect();
    let figures = fact.content.bytes().any(|byte| byte.is_ascii_digit());
    telling.len().min(TELLING_WORDS) + 2 * usize::from(figures) + 3 * usize::from(fact.object.is_some())
}

/// `Alice lives in: Paris (2025-01-01) → Berlin (2025-06-01)`, and its name; none where the value never changed.
pub(super) fn course(facts: &[DigestFact<'_>], evidence: &[(u32, u32)]) -> Option<(String, String)> {
    let mut members: Vec<u32> = evidence.iter().map(|(fact, _)| *fact).collect();
    members.sort_unstable();
    members.dedup();
    let members = || members.iter().map(|fact| &facts[*fact as usize]);
    let objects: HashSet<String> = members().filter_map(|fact| fact.object.map(normalise)).collect();
    // Where the object stays, it is what is said of it that changes.
    let value = |fact: &DigestFact<'_>| {
        if objects.len() > 1 { fact.object.map(str::to_owned) } else { fact.predicate.map(str::to_owned) }
    };
    let mut steps: BTreeMap<(i64, memori_schemas::FactId), String> = BTreeMap::new();
    for fact in members() {
        for (from, _) in &fact.intervals {
            steps.insert((*from, fact.fact_id), value(fact)?);
        }
    }
    let mut course: Vec<(i64, String)> = Vec::new();
    for ((from, _), value) in steps {
        if course.last().is_none_or(|(_, last)| normalise(last) != normalise(&value)) {
            course.push((from.div_euclid(DAY_US), value));
        }
    }
    if course.len() < 2 {
        return None;
    }
    let first = members().min_by_key(|fact| (fact.intervals.first().map(|interval| interval.0), fact.fact_id))?;
    let named = if objects.len() > 1 { first.predicate } else { first.object };
    let name = [first.subject, named].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let step = |i: usize| format!("{} ({})", shown(&course[i].1), date(course[i].0));
    let content = format!("{name}: {}", pieces(course.len(), step, step).join(" → "));
    Some((name, content))
}
