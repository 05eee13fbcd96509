//! What popping costs, in steps: the same however many tenants wait.

use std::collections::VecDeque;

use super::*;

const TENANTS: usize = 10_000;

fn name(tenant: usize) -> String {
    format!("t{tenant}")
}

fn waiting(fairness: Fairness, cost: u64) -> Schedule<Item> {
    let (now, mut schedule) = (Instant::now(), single(fairness));
    for tenant in 0..TENANTS {
        for n in 0..3 {
            schedule.push(live(&format!("{tenant}-{n}")), Item::alone(&name(tenant), cost), now);
            schedule.push(backfill(&format!("{tenant}-{n}")), Item::alone(&name(tenant), cost), now);
        }
    }
    schedule
}

/// Pops so often, each window being done when `in_flight` others are out; says how many turns were looked at.
fn visits(schedule: &mut Schedule<Item>, pops: u64, in_flight: usize, bound: usize) -> u64 {
    let before = schedule.visits();
    let mut out = VecDeque::new();
    for _ in 0..pops {
        let (key, items) = schedule.pop(bound).expect("enough waits");
        schedule.push(key.clone(), items[0].clone(), Instant::now());
        out.push_back(key);
        if out.len() > in_flight
            && let Some(key) = out.pop_front()
        {
            schedule.done(&key);
        }
    }
    out.iter().for_each(|key| schedule.done(key));
    schedule.visits() - before
}

/// Most are at their cap; a few are not.
fn mostly_capped() -> Fairness {
    let free: Vec<String> = (0..100).map(name).collect();
    let set: Vec<_> = free.iter().map(|name| (name.as_str(), 1, None)).collect();
    Fairness { default: Share { weight: 1, max_in_flight: Some(1) }, ..shares(2_000, &set) }
}

#[test]
fn a_pop_looks_at_few_turns_whoever_is_capped() {
    let mut schedule = waiting(mostly_capped(), 1_000);
    let mut capped = Vec::new();
    // All that are capped have their one window out.
    while capped.len() < TENANTS - 100 {
        let (key, items) = schedule.pop(usize::MAX / 200).unwrap();
        if items[0].tenant[1..].parse::<usize>().unwrap() >= 100 {
            capped.push(key);
        } else {
            schedule.push(key.clone(), items[0].clone(), Instant::now());
            schedule.done(&key);
        }
    }
    let pops = 5_000;
    let looked = visits(&mut schedule, pops, 50, usize::MAX / 200);
    assert!(looked <= 3 * pops + 2 * TENANTS as u64, "{looked} for {pops}");
}

#[test]
fn a_pop_looks_at_few_turns_whatever_is_parked() {
    let mut schedule = waiting(Fairness::default(), 1_000);
    let later = Instant::now() + Duration::from_secs(60);
    for _ in 0..3 * TENANTS {
        let (key, items) = schedule.pop(usize::MAX / 200).unwrap();
        schedule.park(&key, items, later);
    }
    assert_eq!(schedule.parked(), 3 * TENANTS);
    let looked = visits(&mut schedule, 5_000, 50, usize::MAX / 200);
    assert!(looked <= 3 * 5_000, "{looked}");
}

#[test]
fn a_quantum_far_below_a_window_costs_two_rounds_at_most() {
    let mut schedule = waiting(Fairness { quantum: 1, ..Fairness::default() }, 1_000);
    let (first, more) = (visits(&mut schedule, 1, 0, 50), visits(&mut schedule, 1_000, 20, 50));
    assert!(first <= 3 * TENANTS as u64, "{first}");
    assert!(more <= 5 * TENANTS as u64, "{more}: nobody is looked at a thousand times");
}
