//! The lanes' floors, at every step.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Next { bound: usize, ready: [bool; 2] },
    Ended(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => ((0_usize..40), any::<[bool; 2]>()).prop_map(|(bound, ready)| Step::Next { bound, ready }),
        2 => (0_usize..2).prop_map(Step::Ended),
    ]
}

proptest! {
    #[test]
    fn floors_hold_at_every_step(
        live_percent in 1_u32..60,
        backfill_percent in 1_u32..40,
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut lanes = Lanes::new(LaneFloors { live_percent, backfill_percent });
        let (mut in_flight, mut passed_over) = ([0_usize; 2], [0_usize; 2]);
        for step in steps {
            match step {
                Step::Next { bound, ready } => {
                    let backfill = in_flight[BACKFILL];
                    // Places left to live: what its percentage comes to, but never the last one.
                    let reserved = (bound * live_percent as usize).div_ceil(100).min(bound.max(1) - 1);
                    let free = in_flight[LIVE] + backfill < bound;
                    let may = [free && ready[LIVE], free && ready[BACKFILL] && backfill + reserved < bound];
                    let below = backfill * 100 < bound * backfill_percent as usize;
                    let far_below = (backfill + 1) * 100 <= bound * backfill_percent as usize;
                    let next = lanes.next(bound, ready);
                    match next {
                        None => prop_assert_eq!(may, [false, false]),
                        Some(BACKFILL) => prop_assert!(may[BACKFILL] && (!may[LIVE] || below)),
                        Some(_) => {
                            let is_its_turn = (passed_over[LIVE] + 1) * live_percent as usize >= 100;
                            prop_assert!(may[LIVE] && (!may[BACKFILL] || !far_below || is_its_turn));
                        }
                    }
                    if may == [true, true] && let Some(lane) = next {
                        passed_over[1 - lane] += 1;
                        passed_over[lane] = 0;
                        if !below {
                            passed_over[BACKFILL] = 0;
                        }
                        prop_assert!(passed_over[LIVE] < 100_usize.div_ceil(live_percent as usize));
                        prop_assert!(passed_over[BACKFILL] <= 100_usize.div_ceil(backfill_percent as usize));
                    }
                    if let Some(lane) = next {
                        in_flight[lane] += 1;
                    }
                }
                Step::Ended(lane) if in_flight[lane] > 0 => {
                    in_flight[lane] -= 1;
                    lanes.ended(lane);
                }
                Step::Ended(_) => {}
            }
            prop_assert_eq!([lanes.in_flight_of(LIVE), lanes.in_flight_of(BACKFILL)], in_flight);
        }
    }

    #[test]
    fn with_one_place_the_floors_are_turns(backfill_percent in 1_u32..90) {
        let mut lanes = Lanes::new(LaneFloors { live_percent: 10, backfill_percent });
        let went = |lanes: &mut Lanes| {
            let lane = lanes.next(1, [true, true]).unwrap();
            lanes.ended(lane);
            lane
        };
        let backfill = (0..100).filter(|_| went(&mut lanes) == BACKFILL).count();
        prop_assert_eq!(backfill, backfill_percent as usize);
    }
}

fn waiting(lane: fn(&str) -> Key, keys: usize, schedule: &mut Schedule<Item>) {
    for n in 0..keys {
        schedule.push(lane(&n.to_string()), Item::alone("t", 1), Instant::now());
    }
}

fn lanes_popped(schedule: &mut Schedule<Item>, bound: usize) -> Vec<Key> {
    std::iter::from_fn(|| schedule.pop(bound)).map(|popped| popped.0).collect()
}

#[test]
fn a_live_window_finds_a_place_at_once_and_backfill_keeps_its_own() {
    let mut schedule = single(Fairness::default());
    waiting(backfill, 100, &mut schedule);
    let mut out = lanes_popped(&mut schedule, 10);
    assert_eq!((out.len(), schedule.in_flight_of(Lane::Backfill)), (9, 9));
    waiting(live, 100, &mut schedule);
    out.extend(lanes_popped(&mut schedule, 10));
    assert_eq!((schedule.in_flight_of(Lane::Live), schedule.in_flight_of(Lane::Backfill)), (1, 9));
    for _ in 0..60 {
        schedule.done(&out.remove(0));
        out.extend(lanes_popped(&mut schedule, 10));
    }
    assert_eq!((schedule.in_flight_of(Lane::Live), schedule.in_flight_of(Lane::Backfill)), (9, 1));
}

#[test]
fn a_bound_of_none_lets_nothing_go_and_a_lower_one_waits_for_what_is_out() {
    let mut schedule = single(Fairness::default());
    waiting(live, 10, &mut schedule);
    assert_eq!(lanes_popped(&mut schedule, 0), []);
    let out = lanes_popped(&mut schedule, 5);
    assert_eq!((out.len(), schedule.len()), (5, 5));
    out.iter().take(3).for_each(|key| schedule.done(key));
    assert_eq!(lanes_popped(&mut schedule, 2), []);
    assert_eq!(lanes_popped(&mut schedule, 3).len(), 1);
}

#[test]
fn where_there_is_one_lane_it_has_every_place() {
    for topics in [&[Topic::ConversationsBackfill][..], &[Topic::FactsBackfill, Topic::ConversationsBackfill]] {
        let mut schedule = Schedule::new(topics, BTreeMap::new(), Fairness::default(), LaneFloors::default());
        waiting(backfill, 20, &mut schedule);
        assert_eq!(lanes_popped(&mut schedule, 10).len(), 10);
    }
}

#[test]
fn a_lane_whose_floor_is_never_reached_does_not_take_every_turn() {
    // One at a time, by the tenant's cap and not by the bound: backfill's floor of 5 places is out of its reach.
    let mut schedule = single(shares(100, &[("t", 1, Some(1))]));
    waiting(live, 100, &mut schedule);
    waiting(backfill, 100, &mut schedule);
    for _ in 0..100 {
        let (key, _) = schedule.pop(50).unwrap();
        schedule.done(&key);
    }
    let of_backfill = schedule.discard(|key| key.0.topic == Topic::ConversationsBackfill).len();
    assert!((10..=90).contains(&of_backfill), "{of_backfill} are left of one, {} of the other", schedule.len());
}
