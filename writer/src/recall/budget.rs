//! Which items fit a budget of estimated tokens.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

pub use memori_service::tokens::{ITEM_TOKENS, of_item as tokens};

/// Which of the items, best first, fit: each is taken where what is left suffices for it.
#[must_use]
pub fn fitting(costs: impl IntoIterator<Item = usize>, mut left: usize) -> Vec<bool> {
    costs.into_iter().map(|cost| fits(cost, &mut left)).collect()
}

fn fits(cost: usize, left: &mut usize) -> bool {
    let fits = cost <= *left;
    if fits {
        *left -= cost;
    }
    fits
}

/// A fact as a budget sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<P> {
    /// What it costs.
    pub tokens: usize,
    /// The messages that it rests on.
    pub rests_on: Vec<P>,
    /// Whoever has it need not read those.
    pub stands_for_them: bool,
}

/// A message as a budget sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<P> {
    /// What it costs.
    pub tokens: usize,
    /// Which it is.
    pub place: P,
    /// How many statements that stand for what they rest on rest on it, whether they are among the facts to choose from or not.
    pub statements: usize,
}

/// Which facts and messages, each best first, fit one budget: in turns, a fact and a message, so that neither crowds out the other;
/// what is there already is not paid for twice: neither a fact all of whose messages are taken, nor a message of which every
/// statement is.
#[must_use]
pub fn together<P: Copy + Eq + Hash>(facts: &[Statement<P>], said: &[Said<P>], mut left: usize) -> (Vec<bool>, Vec<bool>) {
    let mut messages: HashSet<P> = HashSet::new();
    let mut statements: HashMap<P, usize> = HashMap::new();
    let (mut of_facts, mut of_messages) = (vec![false; facts.len()], vec![false; said.len()]);
    let (mut next_fact, mut next_message) = (0, 0);
    while next_fact < facts.len() || next_message < said.len() {
        // Each turn goes on to the next one that is taken.
        while let Some(fact) = facts.get(next_fact) {
            next_fact += 1;
            if !is_said(fact, &messages) && fits(fact.tokens, &mut left) {
                of_facts[next_fact - 1] = true;
                if fact.stands_for_them {
                    fact.rests_on.iter().for_each(|place| *statements.entry(*place).or_default() += 1);
                }
                break;
            }
        }
        while let Some(message) = said.get(next_message) {
            next_message += 1;
            let is_stated = message.statements > 0 && statements.get(&message.place).is_some_and(|n| *n >= message.statements);
            if !is_stated && fits(message.tokens, &mut left) {
                of_messages[next_message - 1] = true;
                messages.insert(message.place);
                break;
            }
        }
    }
    (of_facts, of_messages)
}

/// Whether every message that a fact rests on is there.
fn is_said<P: Eq + Hash>(fact: &Statement<P>, messages: &HashSet<P>) -> bool {
    !fact.rests_on.is_empty() && fact.rests_on.iter().all(|place| messages.contains(place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_item_does_not_shut_out_the_short_ones_behind_it() {
        assert_eq!(fitting([10, 90, 20], 40), vec![true, false, true]);
        assert_eq!(fitting([1], 0), vec![false]);
    }

    fn fact(tokens: usize, rests_on: &[u8]) -> Statement<u8> {
        Statement { tokens, rests_on: rests_on.to_vec(), stands_for_them: true }
    }

    fn said(tokens: usize, place: u8, statements: usize) -> Said<u8> {
        Said { tokens, place, statements }
    }

    #[test]
    fn facts_and_messages_take_turns_and_nothing_is_paid_for_twice() {
        let facts = [fact(10, &[1]), fact(10, &[2]), fact(10, &[3])];
        // The first fact says all of message 1; message 2 says the second fact; then it is the third fact's turn.
        let messages = [said(10, 1, 1), said(10, 2, 1), said(10, 4, 0)];
        assert_eq!(together(&facts, &messages, 30), (vec![true, false, true], vec![false, true, false]));
        assert_eq!(together(&facts, &messages, 1_000), (vec![true, false, true], vec![false, true, true]));
        // A message that says more than the facts that are taken is worth its tokens.
        assert_eq!(together(&facts[..1], &[said(10, 1, 2)], 30), (vec![true], vec![true]));
        // Two statements of one message are two.
        assert_eq!(together(&[fact(5, &[1]), fact(5, &[1])], &[], 30), (vec![true, true], vec![]));
        // A digest stands for nothing, and is left out where all of it is there.
        let digest = Statement { stands_for_them: false, ..fact(5, &[1, 2]) };
        assert_eq!(together(std::slice::from_ref(&digest), &[said(5, 1, 1)], 10), (vec![true], vec![true]));
        assert_eq!(together(&[fact(1, &[9]), digest], &[said(1, 1, 0), said(1, 2, 0)], 30).0, vec![true, true]);
        assert_eq!(together(&[fact(1, &[9]), fact(1, &[8]), fact(1, &[1])], &[said(1, 1, 0)], 30).0, vec![true, true, false]);
    }

    proptest! {
        #[test]
        fn a_budget_holds_and_nothing_new_that_fits_is_left_out(
            facts in prop::collection::vec((0..50_usize, prop::collection::btree_set(0..12_u8, 0..4), any::<bool>()), 0..12),
            said in prop::collection::btree_map(0..12_u8, (0..50_usize, 0..2_usize), 0..12),
            budget in 0..200_usize,
        ) {
            let facts: Vec<Statement<u8>> = facts
                .into_iter()
                .map(|(tokens, rests_on, stands)| Statement { tokens, rests_on: rests_on.into_iter().collect(), stands_for_them: stands })
                .collect();
            let resting = |place: u8| facts.iter().filter(|f| f.stands_for_them && f.rests_on.contains(&place)).count();
            let said: Vec<Said<u8>> =
                said.into_iter().map(|(place, (tokens, more))| Said { tokens, place, statements: resting(place) + more }).collect();
            let (of_facts, of_messages) = together(&facts, &said, budget);
            let taken = || facts.iter().zip(&of_facts).filter(|(_, taken)| **taken).map(|(fact, _)| fact);
            let messages: HashSet<u8> = said.iter().zip(&of_messages).filter(|(_, taken)| **taken).map(|(m, _)| m.place).collect();
            let spent = taken().map(|fact| fact.tokens).sum::<usize>()
                + said.iter().filter(|m| messages.contains(&m.place)).map(|m| m.tokens).sum::<usize>();
            prop_assert!(spent <= budget);
            for message in said.iter().filter(|message| !messages.contains(&message.place)) {
                let stated = taken().filter(|f| f.stands_for_them && f.rests_on.contains(&message.place)).count();
                prop_assert!((stated > 0 && stated == message.statements) || message.tokens > budget - spent);
            }
            for (fact, _) in facts.iter().zip(&of_facts).filter(|(_, taken)| !**taken) {
                prop_assert!(is_said(fact, &messages) || fact.tokens > budget - spent);
            }
        }
    }
}
