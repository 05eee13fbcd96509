//! What each member captured, and what became of it.
//!
//! Promises: pure; an event is open until its end is known; ends are counted, and those that are failures are kept, the latest
//! [`MAX_FAILURES`] of a member; at most [`MAX_OPEN`] events of a member are open, and one that is given up for that is a failure, so
//! that nobody takes it for applied.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;

/// The most open events of one member.
pub const MAX_OPEN: usize = 50_000;
/// The most failures of one member that are kept.
pub const MAX_FAILURES: usize = 1_000;
/// The member that inherits what is open when another is dropped.
pub const ORPHANS: u64 = 0;

/// An event that did not come through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its number in the queue; none where it was never taken in.
    #[serde(skip)]
    pub number: Option<u64>,
    /// Its id.
    pub event_id: String,
    /// `dropped`, `refused`, `dead_lettered` or `unknown`.
    pub status: &'static str,
    /// What kind of failure.
    pub class: String,
    /// Why.
    pub reason: String,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Captured, and not durable yet.
    pub queued: usize,
    /// Durable, and its end not known yet.
    pub open: usize,
    /// Failures, ever.
    pub failed: u64,
}

#[derive(Debug)]
struct Open {
    event_id: String,
    durable: bool,
}

#[derive(Debug, Default)]
struct Member {
    open: BTreeMap<u64, Open>,
    queued: usize,
    failures: VecDeque<Failure>,
    failed: u64,
}

/// The ledger of one process and target.
#[derive(Debug)]
pub struct Ledger {
    members: HashMap<u64, Member>,
    next_member: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { members: HashMap::from([(ORPHANS, Member::default())]), next_member: 1 }
    }
}

impl Ledger {
    /// A new member.
    pub fn member(&mut self) -> u64 {
        let member = self.next_member;
        self.next_member += 1;
        self.members.insert(member, Member::default());
        member
    }

    /// Nobody asks for this member any more; what it left open still comes to an end.
    pub fn gone(&mut self, member: u64) {
        if member == ORPHANS {
            return;
        }
        if let Some(left) = self.members.remove(&member)
            && let Some(orphans) = self.members.get_mut(&ORPHANS)
        {
            orphans.queued += left.queued;
            orphans.open.extend(left.open);
            orphans.bound();
        }
    }

    /// An event was captured under this number.
    pub fn captured(&mut self, member: u64, number: u64, event_id: &str) {
        let Some(member) = self.members.get_mut(&member) else { return };
        member.open.insert(number, Open { event_id: event_id.to_owned(), durable: false });
        member.queued += 1;
        member.bound();
    }

    /// It is durable.
    pub fn durable(&mut self, member: u64, number: u64) {
        if let Some(member) = self.owner(member, number)
            && let Some(open) = member.open.get_mut(&number)
            && !std::mem::replace(&mut open.durable, true)
        {
            member.queued -= 1;
        }
    }

    /// It came through, or was erased since: nothing is left to wait for.
    pub fn ended(&mut self, member: u64, number: u64) -> bool {
        self.owner(member, number).is_some_and(|member| member.remove(number).is_some())
    }

    /// It did not come through.
    pub fn failed(&mut self, member: u64, number: u64, status: &'static str, class: &str, reason: &str) -> bool {
        let Some(member) = self.owner(member, number) else { return false };
        let Some(open) = member.remove(number) else { return false };
        let (class, reason) = (class.to_owned(), reason.to_owned());
        member.fail(Failure { number: Some(number), event_id: open.event_id, status, class, reason });
        true
    }

    /// One that was never taken in.
    pub fn dropped(&mut self, member: u64, event_id: &str, class: &str, reason: &str) {
        if let Some(member) = self.members.get_mut(&member) {
            let (class, reason) = (class.to_owned(), reason.to_owned());
            member.fail(Failure { number: None, event_id: event_id.to_owned(), status: "dropped", class, reason });
        }
    }

    /// Whether this event of the member is known not to have come through.
    #[must_use]
    pub fn has_failed(&self, member: u64, number: u64) -> bool {
        self.members.get(&member).is_some_and(|member| member.failures.iter().any(|failure| failure.number == Some(number)))
    }

    /// How a member stands.
    #[must_use]
    pub fn tally(&self, member: u64) -> Tally {
        let Some(member) = self.members.get(&member) else { return Tally::default() };
        Tally { queued: member.queued, open: member.open.len() - member.queued, failed: member.failed }
    }

    /// The oldest durable events of a member whose end is not known.
    #[must_use]
    pub fn oldest_open(&self, member: u64, at_most: usize) -> Vec<(u64, String)> {
        let Some(member) = self.members.get(&member) else { return Vec::new() };
        let durable = member.open.iter().filter(|(_, open)| open.durable);
        durable.take(at_most).map(|(number, open)| (*number, open.event_id.clone())).collect()
    }

    /// Members with durable events whose end is not known, those with most first.
    #[must_use]
    pub fn busiest(&self) -> Vec<(u64, usize)> {
        let mut members: Vec<(u64, usize)> = self
            .members
            .iter()
            .map(|(name, member)| (*name, member.open.len() - member.queued))
            .filter(|(_, n)| *n > 0)
            .collect();
        members.sort_by_key(|(name, open)| (std::cmp::Reverse(*open), *name));
        members
    }

    /// Open events of all members.
    #[must_use]
    pub fn open(&self) -> usize {
        self.members.values().map(|member| member.open.len()).sum()
    }

    /// Members that are alive.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len() - 1
    }

    /// The latest failures of a member, oldest first.
    #[must_use]
    pub fn failures(&self, member: u64) -> Vec<Failure> {
        self.members.get(&member).map(|member| member.failures.iter().cloned().collect()).unwrap_or_default()
    }

    /// Who has this event now.
    fn owner(&mut self, member: u64, number: u64) -> Option<&mut Member> {
        let has = self.members.get(&member).is_some_and(|member| member.open.contains_key(&number));
        self.members.get_mut(if has { &member } else { &ORPHANS })
    }
}

impl Member {
    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if !open.durable {
            self.queued -= 1;
        }
        Some(open)
    }

    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() >= MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }

    fn bound(&mut self) {
        while self.open.len() > MAX_OPEN
            && let Some((number, _)) = self.open.first_key_value()
        {
            let number = *number;
            if let Some(open) = self.remove(number) {
                let reason = format!("more than {MAX_OPEN} events are open; what became of this one is not followed any more");
                let class = "not_followed".to_owned();
                self.fail(Failure { number: Some(number), event_id: open.event_id, status: "unknown", class, reason });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(queued: usize, open: usize, failed: u64) -> Tally {
        Tally { queued, open, failed }
    }

    #[test]
    fn an_event_is_queued_then_open_then_ended() {
        let mut ledger = Ledger::default();
        let (a, b) = (ledger.member(), ledger.member());
        ledger.captured(a, 0, "x");
        ledger.captured(b, 1, "y");
        ledger.captured(a, 2, "z");
        assert_eq!(ledger.tally(a), tally(2, 0, 0));
        ledger.durable(a, 0);
        ledger.durable(a, 0);
        assert_eq!((ledger.tally(a), ledger.tally(b)), (tally(1, 1, 0), tally(1, 0, 0)));
        assert_eq!(ledger.oldest_open(a, 10), [(0, "x".to_owned())]);
        assert!(ledger.ended(a, 0) && !ledger.ended(a, 0));
        assert!(ledger.failed(a, 2, "refused", "422", "bad"));
        assert_eq!((ledger.tally(a), ledger.open()), (tally(0, 0, 1), 1));
        assert_eq!(ledger.failures(a)[0].event_id, "z");
        assert!(ledger.failures(b).is_empty());
    }

    #[test]
    fn what_a_dropped_member_left_is_followed_to_its_end() {
        let mut ledger = Ledger::default();
        let a = ledger.member();
        ledger.captured(a, 0, "x");
        ledger.captured(a, 1, "y");
        ledger.durable(a, 0);
        ledger.gone(a);
        assert_eq!((ledger.members(), ledger.tally(ORPHANS)), (0, tally(1, 1, 0)));
        ledger.durable(a, 1);
        assert_eq!(ledger.busiest(), [(ORPHANS, 2)]);
        assert!(ledger.failed(a, 0, "dead_lettered", "c", "r") && ledger.ended(ORPHANS, 1));
        assert_eq!(ledger.tally(ORPHANS), tally(0, 0, 1));
        ledger.gone(ORPHANS);
        assert_eq!(ledger.tally(ORPHANS).failed, 1, "it stays");
    }

    #[test]
    fn both_bounds_hold_and_what_is_given_up_is_no_success() {
        let mut ledger = Ledger::default();
        let a = ledger.member();
        for number in 0..(MAX_OPEN + MAX_FAILURES + 5) as u64 {
            ledger.captured(a, number, "e");
        }
        let now = ledger.tally(a);
        assert_eq!((now.queued, now.failed), (MAX_OPEN, (MAX_FAILURES + 5) as u64));
        assert_eq!(ledger.failures(a).len(), MAX_FAILURES);
        ledger.dropped(a, "late", "queue_full", "full");
        assert_eq!(ledger.failures(a).last().map(|f| (f.event_id.as_str(), f.status)), Some(("late", "dropped")));
    }
}
