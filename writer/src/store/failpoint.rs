//! Named points of a flush at which a test holds the process, to kill it there.
//!
//! Promises: every statement of a flush, `BEGIN` and `COMMIT` included, passes one point before it is sent and one after it was
//! answered (a COPY a third one between its rows), because the only ways from the stores to a database lead through [`around`].
//! Builds without debug assertions, releases among them, have none of it.
//!
//! `MEMORI_FAILPOINT=trace` tells each point on the error output. `MEMORI_FAILPOINT="hold before copy facts"` tells when a flush
//! first reaches it, and holds its thread there: for ever, so that whoever watches can `kill -9`, or until there is a file of the
//! name in `MEMORI_FAILPOINT_UNTIL`.

/// Where in a statement's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Not sent yet.
    Before,
    /// Some of a COPY's rows are sent.
    During,
    /// Answered.
    After,
}

/// Sends a statement: `sent` does, and ends with its answer.
pub(crate) async fn around<T>(statement: &str, sent: impl Future<Output = T>) -> T {
    reach(Side::Before, statement);
    let answer = sent.await;
    reach(Side::After, statement);
    answer
}

/// Passes a point, or stays there.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn reach(_: Side, _: &str) {}

/// Passes a point, or stays there.
#[cfg(debug_assertions)]
pub(crate) fn reach(side: Side, statement: &str) {
    armed::reach(side, statement);
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::Side;

    const VARIABLE: &str = "MEMORI_FAILPOINT";
    const UNTIL: &str = "MEMORI_FAILPOINT_UNTIL";
    const LOOK_AGAIN: Duration = Duration::from_millis(5);

    fn asked() -> Option<&'static str> {
        static ASKED: OnceLock<Option<String>> = OnceLock::new();
        ASKED.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref()
    }

    pub(super) fn reach(side: Side, statement: &str) {
        let Some(asked) = asked() else { return };
        // What is read before a flush begins is none of its steps.
        static BEGUN: AtomicBool = AtomicBool::new(false);
        static HELD: AtomicBool = AtomicBool::new(false);
        let label = label(statement);
        if label == "begin" {
            BEGUN.store(true, Ordering::SeqCst);
        }
        let point = format!("{} {label}", name(side));
        if asked == "trace" {
            let _ = writeln!(std::io::stderr(), "failpoint {point}");
        }
        let here = BEGUN.load(Ordering::SeqCst) && asked.strip_prefix("hold ") == Some(&point);
        if here && !HELD.swap(true, Ordering::SeqCst) {
            let _ = writeln!(std::io::stderr(), "failpoint holds {point}");
            let until = std::env::var_os(UNTIL);
            while until.as_ref().is_none_or(|file| !Path::new(file).exists()) {
                std::thread::park_timeout(LOOK_AGAIN);
            }
        }
    }

    fn name(side: Side) -> &'static str {
        match side {
            Side::Before => "before",
            Side::During => "during",
            Side::After => "after",
        }
    }

    /// The statement's verb and the first table that it names.
    pub(super) fn label(statement: &str) -> String {
        let mut words = statement.split_whitespace();
        let verb = words.next().unwrap_or_default().trim_end_matches(';').to_lowercase();
        let leads = |word: &str| ["from", "into", "update", "join", "copy"].contains(&word.to_lowercase().as_str());
        let mut follows = leads(&verb);
        for word in words {
            if follows && !word.starts_with(['(', '$']) && !word.contains("unnest(") {
                return format!("{verb} {}", word.trim_start_matches("memori.").trim_end_matches([',', ';']));
            }
            follows = leads(word);
        }
        verb
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn statements_are_told_by_verb_and_table() {
            for (statement, label) in [
                ("COMMIT", "commit"),
                ("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL x = 'y'", "begin"),
                ("COPY memori.facts (a, b) FROM STDIN BINARY", "copy facts"),
                ("SELECT r.a FROM unnest($1::text[]) AS q(t) JOIN memori.events r ON r.a = q.t", "select events"),
                ("INSERT INTO memori.entities AS e (a) SELECT t FROM unnest($1) ON CONFLICT DO NOTHING", "insert entities"),
                ("UPDATE memori.log_offsets o SET a = 1", "update log_offsets"),
                ("DELETE FROM memori.messages r USING unnest($1) AS q(a)", "delete messages"),
                ("SELECT a, b FROM facts WHERE tenant = ?", "select facts"),
            ] {
                assert_eq!(super::label(statement), label);
            }
        }
    }
}
