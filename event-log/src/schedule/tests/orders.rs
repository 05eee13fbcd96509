//! Order, windows, readiness and what is counted, against the naive model.

use proptest::prelude::*;

use super::model::Model;
use super::*;

const LARGEST_COST: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    Push { key: usize, stranger: bool, cost: u64, window: Windowing },
    Pop(usize),
    Done(usize),
    Park(usize, u64),
    Apart(usize),
    Pass(u64),
    CloseAll,
    SetFull(bool),
    Discard(usize),
    Lose(i32),
}

fn windowing() -> impl Strategy<Value = Windowing> {
    prop_oneof![
        8 => ((0_u64..2), (0_u32..4)).prop_map(|(group, messages)| Windowing::With { group, messages }),
        1 => Just(Windowing::Alone),
        1 => Just(Windowing::Closes),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => ((0_usize..6), prop::bool::weighted(0.05), (1_u64..=LARGEST_COST), windowing())
            .prop_map(|(key, stranger, cost, window)| Step::Push { key, stranger, cost, window }),
        6 => (0_usize..6).prop_map(Step::Pop),
        4 => (0_usize..5).prop_map(Step::Done),
        2 => ((0_usize..5), (0_u64..20)).prop_map(|(n, ms)| Step::Park(n, ms)),
        1 => (0_usize..5).prop_map(Step::Apart),
        3 => (0_u64..20).prop_map(Step::Pass),
        1 => Just(Step::CloseAll),
        1 => any::<bool>().prop_map(Step::SetFull),
        1 => (0_usize..6).prop_map(Step::Discard),
        1 => (0_i32..2).prop_map(Step::Lose),
    ]
}

fn nth_key(n: usize) -> (Key, &'static str) {
    let [live, backfill] = TOPICS;
    [
        (key(live, 0, "a"), "t"),
        (key(live, 1, "b"), "t"),
        (key(live, 1, "c"), "u"),
        (key(backfill, 0, "a"), "t"),
        (key(backfill, 0, "c"), "u"),
        (key(backfill, 1, "d"), "v"),
    ][n]
        .clone()
}

fn bounds() -> impl Strategy<Value = WindowBounds> {
    ((1_usize..5), (1_usize..9), (1_u64..25), (0_u64..15), (0_u64..30)).prop_map(|(events, messages, cost, idle, age)| {
        WindowBounds { events, messages, cost, idle: Duration::from_millis(idle), age: Duration::from_millis(age) }
    })
}

fn cap() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![Just(None), (1_usize..4).prop_map(Some)]
}

fn serials(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.serial).collect()
}

/// A single item, or a run of one group and one tenant within the bounds, perhaps with what closed it.
fn is_within(bounds: &WindowBounds, items: &[Item]) -> bool {
    let Some((last, before)) = items.split_last().filter(|(_, before)| !before.is_empty()) else { return items.len() == 1 };
    let work = if last.window == Windowing::Closes { before } else { items };
    let of = |item: &Item| match item.window {
        Windowing::With { group, messages } => Some((group, messages as usize)),
        Windowing::Alone | Windowing::Closes => None,
    };
    let Some(groups) = work.iter().map(of).collect::<Option<Vec<(u64, usize)>>>() else { return false };
    let (messages, cost): (usize, u64) = (groups.iter().map(|group| group.1).sum(), work.iter().map(|item| item.cost).sum());
    let is_one = items.iter().all(|item| item.tenant == last.tenant) && groups.iter().all(|group| group.0 == groups[0].0);
    let fits = work.len() == 1 || (messages <= bounds.messages && cost <= bounds.cost);
    is_one && fits && items.len() <= bounds.events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn orders_windows_and_counts_as_the_naive_model(
        bounds in [bounds(), bounds()],
        caps in [cap(), cap()],
        quantum in 1_u64..30,
        floors in ((1_u32..60), (1_u32..40)).prop_map(|(live_percent, backfill_percent)| LaneFloors { live_percent, backfill_percent }),
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let windows: BTreeMap<Topic, WindowBounds> = TOPICS.into_iter().zip(bounds).collect();
        let fairness = shares(quantum, &[("t", 2, caps[0]), ("u", 1, caps[1])]);
        let mut schedule = Schedule::new(&TOPICS, windows.clone(), fairness.clone(), floors);
        let mut model = Model::new(windows.clone(), fairness, floors);
        let (mut serial, mut now_ms) = (0, 0);
        for step in steps {
            match step {
                Step::Push { key, stranger, cost, window } => {
                    serial += 1;
                    let (key, tenant) = nth_key(key);
                    let item = Item { serial, tenant: if stranger { "" } else { tenant }.into(), cost, window };
                    schedule.push(key.clone(), item.clone(), at(now_ms));
                    model.push(key, item);
                }
                Step::Pop(bound) => {
                    let (may, surely) = (model.may_go(bound, false), model.may_go(bound, true));
                    match schedule.pop(bound) {
                        None => prop_assert_eq!(surely, Vec::new(), "something may go"),
                        Some((key, items)) => {
                            prop_assert!(may.contains(&key), "{:?} may not go", key);
                            prop_assert!(is_within(&windows[&key.0.topic], &items), "{:?}", items);
                            prop_assert_eq!(serials(&items), serials(&model.pop(&key)));
                        }
                    }
                }
                Step::Done(n) if !model.out.is_empty() => {
                    let (key, _) = model.out.remove(n % model.out.len());
                    schedule.done(&key);
                }
                Step::Park(n, ms) if !model.out.is_empty() => {
                    let (key, items) = model.out.remove(n % model.out.len());
                    schedule.park(&key, items.clone(), at(now_ms + ms));
                    model.park(&key, items, now_ms + ms);
                }
                Step::Apart(n) if !model.out.is_empty() => {
                    let (key, items) = model.out.remove(n % model.out.len());
                    schedule.apart(&key, items.clone());
                    model.apart(&key, items);
                }
                Step::Pass(ms) => {
                    now_ms += ms;
                    schedule.wake(at(now_ms));
                    model.wake(now_ms);
                }
                Step::CloseAll => {
                    schedule.close_all();
                    model.close_all();
                }
                Step::SetFull(full) => {
                    schedule.set_full(full);
                    model.set_full(full);
                }
                Step::Discard(n) => {
                    let (gone, _) = nth_key(n);
                    prop_assert_eq!(serials(&schedule.discard(|key| *key == gone)), model.discard(|key| *key == gone));
                }
                Step::Lose(partition) => {
                    let mut dropped = serials(&schedule.discard(|key| key.0.partition == partition));
                    let mut expected = model.discard(|key| key.0.partition == partition);
                    dropped.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(dropped, expected);
                }
                Step::Done(_) | Step::Park(..) | Step::Apart(_) => {}
            }
            model.settle();
            prop_assert_eq!((schedule.len(), schedule.in_flight(), schedule.parked()), (model.len(), model.out.len(), model.parked()));
            let in_flight = [schedule.in_flight_of(Lane::Live), schedule.in_flight_of(Lane::Backfill)];
            prop_assert_eq!(in_flight, TOPICS.map(|topic| model.in_flight(topic)));
            prop_assert_eq!(schedule.next_wake(), model.next_wake_ms().map(at));
            for partition in model.partitions() {
                let held: BTreeMap<Arc<str>, Holding> = schedule.held_in(partition).map(|(tenant, held)| (Arc::clone(tenant), held)).collect();
                prop_assert_eq!(schedule.tenants_in(partition), held.len());
                prop_assert!(held.iter().all(|(tenant, held)| schedule.held(partition, tenant) == *held));
                prop_assert_eq!(held, model.held(partition));
            }
            schedule.assert_consistent(LARGEST_COST * 6);
        }
        // Whatever came before: once everything may go, everything goes, and nothing is kept.
        for (key, _) in std::mem::take(&mut model.out) {
            schedule.done(&key);
        }
        schedule.wake(at(now_ms + 1_000));
        model.wake(now_ms + 1_000);
        model.settle();
        while let Some((key, items)) = schedule.pop(3) {
            prop_assert_eq!(serials(&items), serials(&model.pop(&key)));
            model.out.clear();
            schedule.done(&key);
            schedule.wake(at(now_ms + 1_000));
            model.wake(now_ms + 1_000);
            model.settle();
        }
        prop_assert_eq!(model.len(), 0);
        schedule.assert_nothing_is_kept();
    }
}

fn with(serial: u64, group: u64) -> Item {
    Item { serial, tenant: "t".into(), cost: 1, window: Windowing::With { group, messages: 1 } }
}

fn windowed(events: usize) -> Schedule<Item> {
    let bounds = WindowBounds { events, idle: Duration::from_secs(10), age: Duration::from_secs(60), ..WindowBounds::SINGLE };
    Schedule::new(&TOPICS, TOPICS.into_iter().map(|topic| (topic, bounds)).collect(), Fairness::default(), LaneFloors::default())
}

fn popped(schedule: &mut Schedule<Item>) -> Option<Vec<u64>> {
    schedule.pop(10).map(|(_, items)| serials(&items))
}

#[test]
fn a_window_waits_for_its_bounds_a_stranger_a_closing_record_or_its_time() {
    let now = Instant::now();
    let mut schedule = windowed(3);
    for serial in 1..=2 {
        schedule.push(live("a"), with(serial, 1), now);
        assert_eq!(popped(&mut schedule), None, "it is open");
    }
    schedule.push(live("a"), with(3, 1), now);
    assert_eq!(popped(&mut schedule), Some(vec![1, 2, 3]));
    schedule.push(live("b"), with(4, 1), now);
    schedule.push(live("b"), with(5, 2), now);
    assert_eq!(popped(&mut schedule), Some(vec![4]), "another session closes it");
    schedule.push(live("c"), with(6, 1), now);
    schedule.push(live("c"), Item { window: Windowing::Closes, ..with(7, 0) }, now);
    assert_eq!(popped(&mut schedule), Some(vec![6, 7]));
    let soon = now + Duration::from_secs(5);
    schedule.push(live("d"), with(8, 1), now);
    schedule.push(live("d"), with(9, 1), soon);
    assert_eq!(schedule.next_wake(), Some(now + Duration::from_secs(15)), "its last record came then");
    schedule.wake(now + Duration::from_secs(15));
    schedule.push(live("d"), with(10, 1), now + Duration::from_secs(15));
    assert_eq!(popped(&mut schedule), Some(vec![8, 9, 10]), "what waits for its turn still grows");
    schedule.push(live("e"), Item { window: Windowing::Closes, ..with(11, 0) }, now);
    assert_eq!(popped(&mut schedule), Some(vec![11]), "with nothing to close it goes alone, at once");
}

#[test]
fn what_was_tried_comes_again_as_it_was_and_apart_one_by_one() {
    let now = Instant::now();
    let mut schedule = windowed(3);
    schedule.push(live("a"), with(1, 1), now);
    schedule.push(live("a"), with(2, 1), now);
    schedule.close_all();
    let (key, items) = schedule.pop(1).unwrap();
    schedule.push(live("a"), with(3, 1), now);
    schedule.park(&key, items, now);
    assert_eq!(popped(&mut schedule), None, "its time is looked at when the schedule is told of it");
    schedule.wake(now);
    let (key, items) = schedule.pop(1).unwrap();
    assert_eq!(serials(&items), [1, 2]);
    schedule.apart(&key, items);
    assert_eq!(popped(&mut schedule), Some(vec![1]));
    schedule.done(&key);
    assert_eq!(popped(&mut schedule), Some(vec![2]));
    schedule.done(&key);
    assert_eq!(popped(&mut schedule), None, "what came meanwhile is a window of its own, and open");
    schedule.set_full(true);
    assert_eq!(popped(&mut schedule), Some(vec![3]));
    schedule.push(live("b"), with(4, 1), now);
    assert_eq!(popped(&mut schedule), Some(vec![4]), "nothing is waited for while it is full");
    schedule.set_full(false);
    schedule.push(live("c"), with(5, 1), now);
    assert_eq!(popped(&mut schedule), None);
}

#[test]
fn what_closes_a_window_costs_no_turn() {
    let now = Instant::now();
    let mut schedule = windowed(3);
    schedule.push(live("a"), Item { cost: 3, ..with(1, 1) }, now);
    schedule.push(live("a"), Item { cost: 5, window: Windowing::Closes, ..with(2, 1) }, now);
    let cost = |schedule: &Schedule<Item>| schedule.keys[&live("a")].first().map(|first| first.cost);
    assert_eq!(cost(&schedule), Some(3));
    let (key, items) = schedule.pop(1).unwrap();
    schedule.park(&key, items, now);
    assert_eq!(cost(&schedule), Some(3), "however often it is tried");
}

#[test]
fn what_is_told_of_a_key_that_is_not_out_changes_nothing() {
    let now = Instant::now();
    let mut schedule = windowed(1);
    schedule.push(live("a"), with(1, 1), now);
    schedule.done(&live("a"));
    schedule.park(&live("a"), vec![with(7, 1)], now);
    schedule.apart(&live("b"), vec![with(8, 1)]);
    assert_eq!((schedule.len(), schedule.in_flight(), schedule.next_wake()), (1, 0, None));
    assert_eq!(popped(&mut schedule), Some(vec![1]));
}
