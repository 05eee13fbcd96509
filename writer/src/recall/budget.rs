//! Which items fit a budget of estimated tokens.

use std::collections::HashSet;
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
}

/// Which facts and messages, each best first, fit one budget: in turns, a fact and a message, so that neither crowds out the other;
/// what is taken already is not paid for twice: neither a fact all of whose messages are there, nor a message that a fact stands for.
#[must_use]
pub fn together<P: Copy + Eq + Hash>(facts: &[Statement<P>], said: &[Said<P>], mut left: usize) -> (Vec<bool>, Vec<bool>) {
    let mut there: HashSet<P> = HashSet::new();
    let (mut of_facts, mut of_messages) = (vec![false; facts.len()], vec![false; said.len()]);
    let (mut next_fact, mut next_message) = (0, 0);
    while next_fact < facts.len() || next_message < said.len() {
        // Each turn goes on to the next one that is taken.
        while let Some(fact) = facts.get(next_fact) {
            next_fact += 1;
            let known = !fact.rests_on.is_empty() && fact.rests_on.iter().all(|place| there.contains(place));
            if !known && fits(fact.tokens, &mut left) {
                of_facts[next_fact - 1] = true;
                if fact.stands_for_them {
                    there.extend(&fact.rests_on);
                }
                break;
            }
        }
        while let Some(message) = said.get(next_message) {
            next_message += 1;
            if !there.contains(&message.place) && fits(message.tokens, &mut left) {
                of_messages[next_message - 1] = true;
                there.insert(message.place);
                break;
            }
        }
    }
    (of_facts, of_messages)
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

    #[test]
    fn facts_and_messages_take_turns_and_nothing_is_paid_for_twice() {
        let said = |tokens, place| Said { tokens, place };
        let facts = [fact(10, &[1]), fact(10, &[2]), fact(10, &[3])];
        // The first fact stands for message 1, message 2 for the second fact; the third fact's turn is before message 4's.
        let messages = [said(10, 1), said(10, 2), said(10, 4)];
        assert_eq!(together(&facts, &messages, 30), (vec![true, false, true], vec![false, true, false]));
        assert_eq!(together(&facts, &messages, 1_000), (vec![true, false, true], vec![false, true, true]));
        // A digest stands for nothing, and is left out where all of it is there.
        let digest = Statement { stands_for_them: false, ..fact(5, &[1, 2]) };
        assert_eq!(together(std::slice::from_ref(&digest), &[said(5, 1)], 10), (vec![true], vec![true]));
        assert_eq!(together(&[fact(1, &[1, 2]), digest], &[], 10), (vec![true, false], vec![]));
    }

    proptest! {
        #[test]
        fn a_budget_holds_and_nothing_new_that_fits_is_left_out(
            facts in prop::collection::vec((0..50_usize, prop::collection::vec(0..12_u8, 0..4), any::<bool>()), 0..12),
            said in prop::collection::vec((0..50_usize, 0..12_u8), 0..12),
            budget in 0..200_usize,
        ) {
            let facts: Vec<Statement<u8>> =
                facts.into_iter().map(|(tokens, rests_on, stands)| Statement { tokens, rests_on, stands_for_them: stands }).collect();
            let said: Vec<Said<u8>> = said.into_iter().map(|(tokens, place)| Said { tokens, place }).collect();
            let (of_facts, of_messages) = together(&facts, &said, budget);
            let mut spent = 0;
            let mut there: HashSet<u8> = HashSet::new();
            for (fact, _) in facts.iter().zip(&of_facts).filter(|(_, taken)| **taken) {
                spent += fact.tokens;
                if fact.stands_for_them {
                    there.extend(&fact.rests_on);
                }
            }
            for (message, _) in said.iter().zip(&of_messages).filter(|(_, taken)| **taken) {
                spent += message.tokens;
                prop_assert!(there.insert(message.place) || facts.iter().zip(&of_facts).any(|(f, taken)| *taken && f.rests_on.contains(&message.place)));
            }
            prop_assert!(spent <= budget);
            for (message, taken) in said.iter().zip(&of_messages) {
                prop_assert!(*taken || there.contains(&message.place) || message.tokens > budget - spent);
            }
            for (fact, taken) in facts.iter().zip(&of_facts) {
                let known = !fact.rests_on.is_empty() && fact.rests_on.iter().all(|place| there.contains(place));
                prop_assert!(*taken || known || fact.tokens > budget - spent);
            }
        }
    }
}
