//! Tests of the timer wheel, among them a comparison with an ordered map under random operations.

use super::*;
use std::collections::{BTreeMap, HashMap};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const YEAR: u64 = 365 * 24 * 3600 * SECOND;

/// A wheel whose times are nanoseconds since its origin.
struct Clocked {
    wheel: Wheel<u64>,
    origin: Instant,
}

impl Clocked {
    fn new() -> Self {
        let origin = Instant::now();
        Self { wheel: Wheel::new(origin), origin }
    }

    fn at(&self, nanos: u64) -> Instant {
        self.origin + Duration::from_nanos(nanos)
    }

    fn insert(&mut self, nanos: u64, value: u64) -> TimerId {
        let deadline = self.at(nanos);
        self.wheel.insert(deadline, value)
    }

    fn reset(&mut self, id: TimerId, nanos: u64) -> bool {
        let deadline = self.at(nanos);
        self.wheel.reset(id, deadline)
    }

    fn collect(&mut self, nanos: u64) {
        let now = self.at(nanos);
        self.wheel.collect_due(now);
    }

    fn pop(&mut self) -> Option<u64> {
        self.wheel.pop_due().map(|(_, value)| value)
    }

    fn expire(&mut self, nanos: u64) -> Vec<u64> {
        self.collect(nanos);
        std::iter::from_fn(|| self.pop()).collect()
    }

    fn next(&mut self) -> Option<u64> {
        let origin = self.origin;
        self.wheel.next_deadline().map(|next| (next - origin).as_nanos() as u64)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn an_empty_wheel_has_nothing_due() {
    let mut wheel = Clocked::new();
    assert_eq!(wheel.next(), None);
    assert_eq!(wheel.expire(YEAR), []);
    assert!(wheel.wheel.is_empty());
}

#[test]
fn a_timer_is_never_a_nanosecond_early() {
    for deadline in
        [1, 999, MILLI, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, SECOND + 7, 3600 * SECOND + 123_456_789]
    {
        let mut wheel = Clocked::new();
        wheel.insert(deadline, 1);
        assert_eq!(wheel.next(), Some(deadline));
        assert_eq!(wheel.expire(deadline - 1), []);
        assert_eq!(wheel.next(), Some(deadline));
        assert_eq!(wheel.expire(deadline), [1]);
        assert_eq!(wheel.next(), None);
    }
}

#[test]
fn equal_deadlines_are_popped_in_order_of_creation() {
    let mut wheel = Clocked::new();
    for value in 0..100 {
        wheel.insert(5 * SECOND, value);
    }
    assert_eq!(wheel.expire(5 * SECOND), (0..100).collect::<Vec<_>>());
    // The same within the millisecond that is current.
    for value in 0..100 {
        wheel.insert(5 * SECOND + 1, value);
    }
    assert_eq!(wheel.expire(5 * SECOND + 1), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_reset_counts_as_a_new_creation_among_equal_deadlines() {
    for other in [3 * SECOND, 5 * SECOND, 9 * SECOND] {
        let mut wheel = Clocked::new();
        let first = wheel.insert(other, 1);
        wheel.insert(5 * SECOND, 2);
        assert!(wheel.reset(first, 5 * SECOND));
        wheel.insert(5 * SECOND, 3);
        assert_eq!(wheel.expire(5 * SECOND), [2, 1, 3]);
    }
}

#[test]
fn a_stamped_timer_does_not_disturb_the_order_of_those_filed_with_it() {
    let mut wheel = Clocked::new();
    let stale = wheel.insert(SECOND, 0);
    wheel.insert(SECOND, 1);
    assert!(wheel.reset(stale, 2 * SECOND));
    wheel.insert(SECOND, 2);
    wheel.insert(SECOND, 3);
    assert_eq!(wheel.expire(3 * SECOND), [1, 2, 3, 0]);
}

#[test]
fn past_deadlines_are_due_at_the_next_collection_and_in_order() {
    let mut wheel = Clocked::new();
    assert_eq!(wheel.expire(100 * SECOND), []);
    wheel.insert(99 * SECOND, 2);
    wheel.insert(0, 1);
    wheel.insert(100 * SECOND, 3);
    assert_eq!(wheel.pop(), None);
    assert_eq!(wheel.next(), Some(0));
    assert_eq!(wheel.expire(100 * SECOND), [1, 2, 3]);
    let before = wheel.origin.checked_sub(Duration::from_nanos(1)).unwrap_or(wheel.origin);
    wheel.wheel.insert(before, 4);
    assert_eq!(wheel.expire(100 * SECOND), [4]);
}

#[test]
fn a_timer_inserted_after_the_collection_waits_for_the_next_one() {
    let mut wheel = Clocked::new();
    wheel.insert(SECOND, 1);
    wheel.insert(SECOND, 2);
    wheel.collect(SECOND);
    assert_eq!(wheel.pop(), Some(1));
    wheel.insert(SECOND, 3);
    assert_eq!(wheel.pop(), Some(2));
    assert_eq!(wheel.pop(), None);
    assert_eq!(wheel.expire(SECOND), [3]);
}

#[test]
fn timers_left_from_one_collection_are_merged_with_those_of_the_next() {
    let mut wheel = Clocked::new();
    wheel.insert(2 * SECOND, 2);
    wheel.insert(4 * SECOND, 4);
    wheel.collect(5 * SECOND);
    wheel.insert(3 * SECOND, 3);
    wheel.insert(SECOND, 1);
    wheel.insert(5 * SECOND, 5);
    assert_eq!(wheel.next(), Some(SECOND));
    assert_eq!(wheel.expire(5 * SECOND), [1, 2, 3, 4, 5]);
}

#[test]
fn a_collected_timer_can_be_cancelled() {
    let mut wheel = Clocked::new();
    let ids: Vec<_> = (0..5).map(|value| wheel.insert(SECOND, value)).collect();
    wheel.collect(SECOND);
    for index in [0, 2, 4] {
        assert_eq!(wheel.wheel.remove(ids[index]), Some(index as u64));
        assert_eq!(wheel.wheel.remove(ids[index]), None);
    }
    assert_eq!(wheel.pop(), Some(1));
    assert_eq!(wheel.pop(), Some(3));
    assert_eq!(wheel.pop(), None);
    assert!(wheel.wheel.is_empty());
}

#[test]
fn a_collected_timer_that_is_reset_is_not_due_any_more() {
    let mut wheel = Clocked::new();
    let later = wheel.insert(SECOND, 1);
    let same = wheel.insert(SECOND, 2);
    wheel.insert(SECOND, 3);
    wheel.collect(SECOND);
    assert!(wheel.reset(later, 2 * SECOND));
    assert!(wheel.reset(same, SECOND));
    assert_eq!(wheel.pop(), Some(3));
    assert_eq!(wheel.pop(), None);
    assert_eq!(wheel.expire(SECOND), [2]);
    assert_eq!(wheel.expire(2 * SECOND - 1), []);
    assert_eq!(wheel.expire(2 * SECOND), [1]);
}

#[test]
fn moving_a_deadline_later_or_earlier_takes_effect_at_once() {
    let mut wheel = Clocked::new();
    let id = wheel.insert(SECOND, 1);
    wheel.insert(50 * SECOND, 2);
    assert!(wheel.reset(id, 100 * SECOND));
    assert_eq!(wheel.next(), Some(50 * SECOND));
    assert_eq!(wheel.expire(99 * SECOND), [2]);
    assert!(wheel.reset(id, 99 * SECOND + 5));
    assert_eq!(wheel.next(), Some(99 * SECOND + 5));
    assert_eq!(wheel.wheel.deadline(id), Some(wheel.at(99 * SECOND + 5)));
    assert_eq!(wheel.expire(99 * SECOND + 5), [1]);
    assert!(!wheel.reset(id, 200 * SECOND));
    assert_eq!(wheel.wheel.deadline(id), None);
}

#[test]
fn centuries_neither_overflow_nor_fire() {
    let mut wheel = Clocked::new();
    wheel.insert(300 * YEAR, 300);
    let endless = wheel.origin + Duration::from_secs(5000 * 365 * 24 * 3600);
    let id = wheel.wheel.insert(endless, 5000);
    wheel.insert(u64::MAX - 1, 584);
    assert_eq!(wheel.expire(299 * YEAR), []);
    assert_eq!(wheel.next(), Some(300 * YEAR));
    assert_eq!(wheel.expire(300 * YEAR), [300]);
    assert_eq!(wheel.next(), Some(u64::MAX - 1));
    assert_eq!(wheel.expire(u64::MAX - 2), []);
    assert_eq!(wheel.expire(u64::MAX - 1), [584]);
    assert_eq!(wheel.wheel.deadline(id), Some(wheel.at(u64::MAX)));
    assert!(wheel.reset(id, SECOND));
    assert_eq!(wheel.expire(u64::MAX - 1), [5000]);
}

#[test]
fn one_jump_across_all_levels_keeps_the_order() {
    let mut random = Random(7);
    let mut wheel = Clocked::new();
    let mut expected = Vec::new();
    for value in 0..if cfg!(miri) { 200 } else { 20_000 } {
        let deadline = random.next() >> random.below(64);
        wheel.insert(deadline, value);
        expected.push((deadline, value));
    }
    expected.sort_unstable();
    let popped = wheel.expire(u64::MAX);
    assert_eq!(popped, expected.iter().map(|&(_, value)| value).collect::<Vec<_>>());
}

#[test]
fn jumps_from_deadline_to_deadline_hit_each_exactly() {
    let mut wheel = Clocked::new();
    let mut deadlines: Vec<u64> =
        (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, 3 << bit.min(62)]).collect();
    for &deadline in &deadlines {
        wheel.insert(deadline, deadline);
    }
    deadlines.sort_unstable();
    let mut popped = Vec::new();
    while let Some(next) = wheel.next() {
        if let Some(before) = next.checked_sub(1) {
            assert_eq!(wheel.expire(before), []);
        }
        let due = wheel.expire(next);
        assert!(due.iter().all(|&deadline| deadline == next));
        popped.extend(due);
    }
    assert_eq!(popped, deadlines);
}

#[test]
fn a_clock_that_steps_back_delivers_what_is_due_at_that_time() {
    let mut wheel = Clocked::new();
    assert_eq!(wheel.expire(100 * SECOND), []);
    wheel.insert(50 * SECOND, 1);
    wheel.insert(70 * SECOND, 2);
    assert_eq!(wheel.expire(60 * SECOND), [1]);
    assert_eq!(wheel.expire(100 * SECOND), [2]);
}

#[test]
fn stale_ids_name_nothing() {
    let mut wheel = Clocked::new();
    let id = wheel.insert(SECOND, 1);
    assert_eq!(wheel.wheel.remove(id), Some(1));
    let reused = wheel.insert(SECOND, 2);
    assert_eq!(reused.index, id.index);
    assert_ne!(reused, id);
    assert_eq!(wheel.wheel.remove(id), None);
    assert!(!wheel.reset(id, 0));
    assert!(!wheel.wheel.set_referenced(id, false));
    assert_eq!(wheel.wheel.deadline(id), None);
    assert_eq!(wheel.expire(SECOND), [2]);
    assert_eq!(wheel.wheel.remove(reused), None);
}

#[test]
fn a_place_whose_generations_are_used_up_is_retired() {
    let mut wheel = Clocked::new();
    let id = wheel.insert(SECOND, 1);
    wheel.wheel.timers[id.index as usize].generation = u32::MAX;
    let last = TimerId { generation: u32::MAX, ..id };
    assert_eq!(wheel.wheel.remove(last), Some(1));
    assert_ne!(wheel.insert(SECOND, 2).index, id.index);
    assert_eq!(wheel.wheel.remove(last), None);
    assert_eq!(wheel.wheel.drain(), [2]);
}

#[test]
fn references_are_counted_through_every_end_of_a_timer() {
    let mut wheel = Clocked::new();
    let ids: Vec<_> = (0..4).map(|value| wheel.insert(SECOND, value)).collect();
    assert_eq!(wheel.wheel.referenced(), 4);
    assert!(wheel.wheel.set_referenced(ids[0], false));
    assert!(wheel.wheel.set_referenced(ids[0], false));
    assert!(wheel.wheel.set_referenced(ids[1], false));
    assert_eq!((wheel.wheel.referenced(), wheel.wheel.len()), (2, 4));
    assert!(wheel.wheel.set_referenced(ids[1], true));
    assert_eq!(wheel.wheel.referenced(), 3);
    wheel.wheel.remove(ids[0]);
    assert_eq!(wheel.wheel.referenced(), 3);
    wheel.wheel.remove(ids[1]);
    assert_eq!((wheel.wheel.referenced(), wheel.wheel.len()), (2, 2));
    assert_eq!(wheel.expire(SECOND), [2, 3]);
    assert_eq!((wheel.wheel.referenced(), wheel.wheel.len()), (0, 0));
}

#[test]
fn draining_returns_everything_and_leaves_a_usable_wheel() {
    let mut wheel = Clocked::new();
    let id = wheel.insert(SECOND, 1);
    wheel.insert(100 * SECOND, 2);
    wheel.insert(100 * SECOND, 3);
    wheel.collect(SECOND);
    let mut values = wheel.wheel.drain();
    values.sort_unstable();
    assert_eq!(values, [1, 2, 3]);
    assert_eq!((wheel.wheel.len(), wheel.wheel.referenced(), wheel.next()), (0, 0, None));
    assert_eq!(wheel.wheel.remove(id), None);
    wheel.insert(2 * SECOND, 4);
    assert_eq!(wheel.expire(200 * SECOND), [4]);
}

#[test]
fn memory_of_cancelled_timers_is_reused() {
    let mut wheel = Clocked::new();
    for round in 0..if cfg!(miri) { 100 } else { 1_000_000 } {
        let id = wheel.insert(30 * SECOND + round, round);
        assert_eq!(wheel.wheel.remove(id), Some(round));
    }
    assert_eq!(wheel.wheel.timers.len(), 1);
    let items: usize = wheel.wheel.slots.iter().map(Slot::len).sum();
    assert!(items <= 2 * TOLERATED_DEAD, "{items} items");
}

#[test]
fn a_ticket_that_has_come_round_to_that_of_a_dead_item_does_no_harm() {
    let mut wheel = Clocked::new();
    let ticket = |wheel: &mut Clocked, ticket| wheel.wheel.timers[0].ticket = ticket;
    let id = wheel.insert(SECOND, 1);
    assert_eq!(wheel.wheel.remove(id), Some(1));
    // While nobody has the place, and the next tenant is filed with the same.
    ticket(&mut wheel, 1);
    assert_eq!(wheel.next(), None);
    let id = wheel.insert(SECOND, 1);
    assert_eq!(wheel.wheel.remove(id), Some(1));
    ticket(&mut wheel, u16::MAX);
    wheel.insert(3 * SECOND, 2);
    ticket(&mut wheel, 2);
    assert_eq!(wheel.next(), Some(3 * SECOND));
    assert_eq!(wheel.expire(2 * SECOND), []);
    assert_eq!(wheel.expire(3 * SECOND), [2]);
    assert!(wheel.wheel.is_empty());
}

#[test]
fn a_place_that_is_used_more_often_than_there_are_tickets_serves_as_ever() {
    let mut wheel = Clocked::new();
    // Enough living items that the dead ones stay.
    let living = if cfg!(miri) { 100 } else { 70_000 };
    for n in 0..living {
        wheel.insert(50 * SECOND, n);
    }
    for n in 0..living {
        let id = wheel.insert(50 * SECOND + n % 3, n);
        assert!(wheel.reset(id, 50 * SECOND + n % 5));
        assert_eq!(wheel.wheel.remove(id), Some(n));
    }
    assert_eq!(wheel.next(), Some(50 * SECOND));
    assert_eq!(wheel.expire(50 * SECOND + 9), (0..living).collect::<Vec<_>>());
    assert!(wheel.wheel.is_empty());
}

#[test]
fn a_timer_is_small_and_a_long_list_has_little_room_to_spare() {
    // With a value of 32 bytes that leaves a niche for `None`.
    assert_eq!(size_of::<Timer<(std::num::NonZeroU64, [u64; 3])>>(), 56);
    assert_eq!(growth(0), 4);
    assert_eq!(growth(1000), 1000);
    assert_eq!(growth(8 * DOUBLED), DOUBLED);
}

#[test]
fn cancelling_always_the_earliest_timer_stays_cheap() {
    let count = if cfg!(miri) { 100 } else { 200_000 };
    let mut wheel = Clocked::new();
    let mut ids: Vec<_> = (0..count).map(|value| wheel.insert(30 * SECOND + value * 1000, value)).collect();
    ids.reverse();
    // Each scan of the remaining timers would make this quadratic: minutes.
    for value in 0..count {
        assert_eq!(wheel.next(), Some(30 * SECOND + value * 1000));
        assert_eq!(ids.pop().and_then(|id| wheel.wheel.remove(id)), Some(value));
    }
}

/// What the wheel does, the plain way.
#[derive(Default)]
struct Model {
    /// By (deadline, sequence) and whether it is collected.
    timers: BTreeMap<(u64, u64), (u64, bool)>,
    keys: HashMap<u64, (u64, u64)>,
    sequence: u64,
}

impl Model {
    fn insert(&mut self, deadline: u64, value: u64) {
        self.sequence += 1;
        self.timers.insert((deadline, self.sequence), (value, false));
        self.keys.insert(value, (deadline, self.sequence));
    }

    fn remove(&mut self, value: u64) -> bool {
        self.keys.remove(&value).is_some_and(|key| self.timers.remove(&key).is_some())
    }

    fn collect(&mut self, now: u64) {
        for (_, timer) in self.timers.range_mut(..=(now, u64::MAX)) {
            timer.1 = true;
        }
    }

    fn pop(&mut self) -> Option<u64> {
        let value = self.timers.values().find(|timer| timer.1)?.0;
        self.remove(value);
        Some(value)
    }
}

fn behaves_like_the_model(seed: u64, steps: u64) {
    let mut random = Random(seed);
    let mut wheel = Clocked::new();
    let mut model = Model::default();
    let mut ids: Vec<(TimerId, u64)> = Vec::new();
    let mut now = 0;
    // Coarse deadlines collide often, fine ones share slots, wide ones use all levels.
    let grain = [1, 1000, MILLI, 1 << 20, SECOND][random.below(5) as usize];
    let reach = 1 + random.below(44);
    for step in 0..steps {
        let deadline = |random: &mut Random, now: u64| {
            let after = random.next() >> (63 - random.below(reach));
            let time: u64 = if random.below(16) == 0 {
                now.saturating_sub(after.saturating_mul(grain))
            } else {
                now.saturating_add(after.saturating_mul(grain))
            };
            time / grain * grain
        };
        match random.below(16) {
            0..=5 => {
                let deadline = deadline(&mut random, now);
                ids.push((wheel.insert(deadline, step), step));
                model.insert(deadline, step);
            }
            6..=7 if !ids.is_empty() => {
                let (id, value) = ids.swap_remove(random.below(ids.len() as u64) as usize);
                assert_eq!(wheel.wheel.remove(id).is_some(), model.remove(value));
            }
            8..=11 if !ids.is_empty() => {
                let (id, value) = ids[random.below(ids.len() as u64) as usize];
                // Later than before more often than not, as time-outs are.
                let from =
                    if random.below(3) == 0 { now } else { model.keys.get(&value).map_or(now, |key| key.0) };
                let deadline = deadline(&mut random, from);
                let lives = model.remove(value);
                assert_eq!(wheel.reset(id, deadline), lives);
                if lives {
                    model.insert(deadline, value);
                }
            }
            12 => assert_eq!(wheel.next(), model.timers.keys().next().map(|key| key.0)),
            13 => {
                now = deadline(&mut random, now).max(now);
                wheel.collect(now);
                model.collect(now);
            }
            14 => {
                if let (Some(next), 0..3) = (wheel.next(), random.below(4)) {
                    now = now.max(next);
                }
                wheel.collect(now);
                model.collect(now);
            }
            _ => {
                for _ in 0..random.below(4) {
                    assert_eq!(wheel.pop(), model.pop(), "seed {seed}, step {step}");
                }
            }
        }
        assert_eq!(wheel.wheel.len(), model.timers.len());
    }
    wheel.collect(u64::MAX);
    model.collect(u64::MAX);
    while let Some(value) = model.pop() {
        assert_eq!(wheel.pop(), Some(value), "seed {seed}, at the end");
    }
    assert!(wheel.wheel.is_empty());
    assert_eq!(wheel.wheel.referenced(), 0);
}

#[test]
fn random_operations_behave_like_an_ordered_map() {
    let (seeds, steps) = if cfg!(miri) { (4, 150) } else { (400, 1000) };
    for seed in 0..seeds {
        behaves_like_the_model(seed, steps);
    }
}
