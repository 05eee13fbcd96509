//! Tenants' turns: what each is given, whom a cap holds up, and that nobody waits for ever.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Keys of a tenant each of which has something waiting, whatever is out.
fn fill(schedule: &mut Schedule<Item>, key: &Key, item: Item, now: Instant) {
    for _ in 0..2 {
        schedule.push(key.clone(), item.clone(), now);
    }
}

/// What each tenant was given, pop by pop, while all have something ready all the time.
fn given(schedule: &mut Schedule<Item>, keys: usize, costs: &[Vec<u64>], bound: usize, ends: &[usize]) -> Vec<Vec<u64>> {
    let now = Instant::now();
    let mut pushed = vec![0; costs.len()];
    let mut next = |tenant: usize| {
        pushed[tenant] += 1;
        Item::alone(NAMES[tenant], costs[tenant][pushed[tenant] % costs[tenant].len()])
    };
    for tenant in 0..costs.len() {
        for n in 0..keys {
            fill(schedule, &live(&format!("{tenant}-{n}")), next(tenant), now);
        }
    }
    let mut out: Vec<Key> = Vec::new();
    let mut totals = vec![vec![0; costs.len()]];
    for end in ends {
        if out.len() == bound {
            schedule.done(&out.swap_remove(end % bound));
        }
        let (key, items) = schedule.pop(bound).expect("all have something ready");
        let tenant = NAMES.iter().position(|name| **name == *items[0].tenant).unwrap();
        schedule.push(key.clone(), next(tenant), now);
        out.push(key);
        let mut total = totals[totals.len() - 1].clone();
        total[tenant] += items[0].cost;
        totals.push(total);
    }
    totals
}

proptest! {
    /// Over every stretch of time, and so over the whole.
    #[test]
    fn what_tenants_are_given_by_their_weights_differs_by_a_quantum_and_a_window_of_each(
        quantum in 1_u64..60,
        tenants in proptest::collection::vec(((1_u32..5), proptest::collection::vec(1_u64..50, 1..5)), 2..=4),
        (bound, one_key) in prop_oneof![Just((1, true)), (1_usize..6).prop_map(|bound| (bound, false))],
        ends in proptest::collection::vec(0_usize..6, 300),
    ) {
        let weights: Vec<u32> = tenants.iter().map(|tenant| tenant.0).collect();
        let costs: Vec<Vec<u64>> = tenants.into_iter().map(|tenant| tenant.1).collect();
        let largest = i128::from(costs.iter().flatten().copied().max().unwrap());
        let set: Vec<(&str, u32, Option<usize>)> = weights.iter().zip(NAMES).map(|(weight, name)| (name, *weight, None)).collect();
        let mut schedule = single(shares(quantum, &set));
        let keys = if one_key { 1 } else { bound + 1 };
        let totals = given(&mut schedule, keys, &costs, bound, &ends);
        for i in 0..weights.len() {
            for j in 0..i {
                let (wi, wj) = (i128::from(weights[i]), i128::from(weights[j]));
                let ahead = || totals.iter().map(|total| i128::from(total[i]) * wj - i128::from(total[j]) * wi);
                let differs = ahead().max().unwrap() - ahead().min().unwrap();
                prop_assert!(differs <= i128::from(quantum) * wi * wj + largest * (wi + wj), "{} of {:?}", differs, totals.last());
            }
        }
    }

    /// Everybody has something ready in both lanes all the time; whatever comes newly is out at some time.
    #[test]
    fn nothing_that_is_ready_waits_for_ever(
        quantum in 1_u64..10,
        caps in proptest::collection::vec(prop_oneof![Just(None), (1_usize..3).prop_map(Some)], 1..=3),
        bounds in proptest::collection::vec(1_usize..12, 1..4),
        backfill_percent in 5_u32..50,
        cost in 1_u64..6,
        (probe, lane, before) in ((0_usize..3), any::<bool>(), 0_usize..50),
        ends in proptest::collection::vec(0_usize..12, 1..20),
    ) {
        let now = Instant::now();
        let set: Vec<_> = caps.iter().zip(NAMES).map(|(cap, name)| (name, 1, *cap)).collect();
        let floors = LaneFloors { live_percent: 10, backfill_percent };
        let mut schedule = Schedule::new(&TOPICS, BTreeMap::new(), shares(quantum, &set), floors);
        let mut fresh = 0;
        let mut more = |schedule: &mut Schedule<Item>, key: Key, tenant: &str| {
            // New keys as well: they come behind those that wait.
            fresh += 1;
            let name = [format!("{tenant}-{}", fresh % 20), format!("{tenant}-new-{fresh}")];
            schedule.push(key, Item::alone(tenant, cost), now);
            schedule.push(live(&name[0]), Item::alone(tenant, cost), now);
            schedule.push(backfill(&name[1]), Item::alone(tenant, cost), now);
        };
        for name in NAMES.iter().take(caps.len()) {
            for n in 0..3 {
                fill(&mut schedule, &live(&format!("{name}-{n}")), Item::alone(name, cost), now);
                fill(&mut schedule, &backfill(&format!("{name}-{n}")), Item::alone(name, cost), now);
            }
        }
        let tenant = NAMES[probe % caps.len()];
        let probed = if lane { live("probe") } else { backfill("probe") };
        let mut out: VecDeque<Key> = VecDeque::new();
        let mut went = None;
        for pops in 0..20_000 {
            let bound = bounds[pops / 100 % bounds.len()];
            if pops == before {
                schedule.push(probed.clone(), Item::alone(tenant, 1), now);
            }
            let popped = loop {
                if let Some((key, items)) = schedule.pop(bound) {
                    break (key, items);
                }
                // The oldest ends, or any other of those that are out.
                let n = ends[pops % ends.len()] % out.len();
                let ended = if pops % 3 == 0 { out.pop_front() } else { out.remove(n) };
                schedule.done(&ended.expect("something is out, or something would go"));
            };
            if popped.0 == probed {
                went = Some(pops);
                break;
            }
            if schedule.len() < 500 {
                more(&mut schedule, popped.0.clone(), &popped.1[0].tenant);
            } else {
                schedule.push(popped.0.clone(), Item::alone(&popped.1[0].tenant, cost), now);
            }
            out.push_back(popped.0);
        }
        prop_assert!(went.is_some());
    }
}

/// The tenants of the next windows, each of which is done at once.
fn order(schedule: &mut Schedule<Item>, windows: usize) -> Vec<Arc<str>> {
    let mut next = || {
        let (key, items) = schedule.pop(1)?;
        schedule.done(&key);
        Some(Arc::clone(&items[0].tenant))
    };
    std::iter::from_fn(&mut next).take(windows).collect()
}

fn backlog(schedule: &mut Schedule<Item>, tenant: &str, keys: usize, items: usize) {
    for n in 0..keys * items {
        schedule.push(live(&format!("{tenant}-{}", n % keys)), Item::alone(tenant, 1), Instant::now());
    }
}

#[test]
fn a_turn_is_a_quantum_by_weight() {
    let mut schedule = single(shares(2, &[("b", 2, None)]));
    backlog(&mut schedule, "a", 4, 3);
    backlog(&mut schedule, "b", 1, 12);
    let order = order(&mut schedule, 12).concat();
    assert_eq!(order, "aabbbbaabbbb", "with one key as with many, while each window is done before the next");
}

#[test]
fn who_had_nothing_keeps_nothing() {
    let mut schedule = single(shares(3, &[]));
    backlog(&mut schedule, "a", 1, 1);
    assert_eq!(order(&mut schedule, 1).concat(), "a", "two thirds of its turn are left");
    backlog(&mut schedule, "b", 3, 4);
    backlog(&mut schedule, "a", 3, 4);
    assert_eq!(order(&mut schedule, 9).concat(), "bbbaaabbb");
}

#[test]
fn keys_of_a_tenant_go_one_after_the_other() {
    let mut schedule = single(shares(100, &[]));
    backlog(&mut schedule, "a", 3, 2);
    let mut keys = Vec::new();
    while let Some((key, _)) = schedule.pop(1) {
        schedule.done(&key);
        keys.push(key);
    }
    assert_eq!(keys, ["a-0", "a-1", "a-2", "a-0", "a-1", "a-2"].map(live));
}

#[test]
fn who_is_at_its_cap_is_passed_over_and_goes_on_where_it_was() {
    let mut schedule = single(shares(3, &[("a", 1, Some(1))]));
    backlog(&mut schedule, "a", 6, 1);
    backlog(&mut schedule, "b", 20, 1);
    let pop = |schedule: &mut Schedule<Item>| schedule.pop(100).map(|(key, items)| (key, items[0].tenant.to_string())).unwrap();
    let (first, tenant) = pop(&mut schedule);
    assert_eq!(tenant, "a");
    let others: String = (0..7).map(|_| pop(&mut schedule).1).collect();
    assert_eq!(others, "bbbbbbb", "it holds up nobody");
    schedule.done(&first);
    let (second, tenant) = pop(&mut schedule);
    assert_eq!(tenant, "a", "its turn was not over");
    schedule.done(&second);
    let (third, tenant) = pop(&mut schedule);
    assert_eq!(tenant, "a");
    schedule.done(&third);
    let rest: String = (0..3).map(|_| pop(&mut schedule).1).collect();
    assert_eq!(rest, "bba", "now it was, and the others end theirs first");
}

#[test]
fn a_capped_tenants_backfill_leaves_its_live_windows_a_place() {
    let now = Instant::now();
    let mut schedule = single(shares(100, &[("a", 1, Some(2))]));
    for name in ["x", "y", "z"] {
        schedule.push(backfill(name), Item::alone("a", 1), now);
    }
    assert_eq!(schedule.pop(100).map(|popped| popped.0), Some(backfill("x")));
    assert_eq!(schedule.pop(100), None);
    schedule.push(live("x"), Item::alone("a", 1), now);
    assert_eq!(schedule.pop(100).map(|popped| popped.0), Some(live("x")));
}

#[test]
fn of_a_capped_tenant_neither_lane_takes_every_place() {
    // The ring of one lane is long and that of the other short, so that the short one always comes round first, and has the floor for it.
    let floors = LaneFloors { live_percent: 10, backfill_percent: 50 };
    for (long, short) in [(live as fn(&str) -> Key, backfill as fn(&str) -> Key), (backfill, live)] {
        let now = Instant::now();
        let mut schedule = Schedule::new(&TOPICS, BTreeMap::new(), shares(1, &[("a", 1, Some(1))]), floors);
        for lane in [long, short] {
            fill(&mut schedule, &lane("x"), Item::alone("a", 1), now);
        }
        for n in 0..50 {
            fill(&mut schedule, &long(&n.to_string()), Item::alone(&format!("b{n}"), 1), now);
        }
        let (mut out, mut went) = (VecDeque::new(), [0; 2]);
        for _ in 0..5_000 {
            while let Some((key, items)) = schedule.pop(4) {
                schedule.push(key.clone(), items[0].clone(), now);
                went[0] += u32::from(key == long("x"));
                went[1] += u32::from(key == short("x"));
                out.push_back(key);
            }
            schedule.done(&out.pop_front().unwrap());
        }
        assert!(went.iter().all(|went| *went >= 5), "{went:?}");
    }
}

#[test]
fn a_place_kept_for_a_lane_that_cannot_pay_for_it_is_free_again() {
    let now = Instant::now();
    let bounds = WindowBounds { events: 3, idle: Duration::from_secs(10), age: Duration::from_secs(60), ..WindowBounds::SINGLE };
    let windows = BTreeMap::from([(Topic::ConversationsBackfill, bounds)]);
    let mut schedule = Schedule::new(&TOPICS, windows, shares(2, &[("a", 1, Some(1))]), LaneFloors::default());
    let growing = |cost| Item { window: Windowing::With { group: 1, messages: 1 }, ..Item::alone("a", cost) };
    schedule.push(backfill("x"), growing(1), now);
    schedule.close_all();
    schedule.push(backfill("y1"), Item::alone("b", 1), now);
    schedule.push(backfill("y2"), Item::alone("b", 1), now);
    schedule.push(live("x1"), Item::alone("a", 1), now);
    schedule.push(live("x2"), Item::alone("a", 1), now);
    let pop = |schedule: &mut Schedule<Item>| schedule.pop(2).map(|popped| popped.0);
    assert_eq!(pop(&mut schedule), Some(live("x1")));
    assert_eq!(pop(&mut schedule), Some(backfill("y1")), "the turn was another's, which is at its cap");
    schedule.done(&live("x1"));
    schedule.done(&backfill("y1"));
    schedule.push(backfill("x"), growing(50), now);
    assert_eq!(pop(&mut schedule), Some(backfill("y2")), "what was to have the place has become dearer than a turn");
    assert_eq!(pop(&mut schedule), Some(live("x2")));
}
