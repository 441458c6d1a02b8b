//! The timers of one reactor: a hierarchical timing wheel on a slab.
//!
//! Deadlines come in as `Instant`s, due values go out through [`Wheel::collect_due`] and [`Wheel::pop_due`];
//! the wheel reads no clock itself. Time is kept in nanoseconds since the wheel's origin and only *filed* by
//! ticks of about a millisecond, so nothing is ever early.
//!
//! Eight levels of 64 slots cover all 64 bits of nanoseconds. A timer stands at the level of the highest
//! digit in which its tick differs from the current one: so every slot of a level lies after every slot of
//! the levels below, and the first occupied slot holds the earliest timer. A slot is a plain vector until
//! somebody asks for its earliest timer and a binary heap from then on: the next deadline is known exactly,
//! without a search, also when it is always the earliest timer that is cancelled.
//!
//! The invariant to know: a slot holds *items*, and an item counts only while its timer still carries its
//! ticket. Cancelling touches the timer alone and leaves a dead item behind; a slot where those outnumber the
//! living is cleaned. Moving a deadline later only stamps the timer: its item, filed too early, is filed anew
//! when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

/// One tick is 2^20 ns = 1.05 ms.
const TICK_BITS: u32 = 20;
const DIGIT_BITS: u32 = 6;
const SLOTS_PER_LEVEL: usize = 1 << DIGIT_BITS;
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(DIGIT_BITS) as usize;

/// So many dead items are left in a slot before it is worth looking at.
const TOLERATED_DEAD: usize = 64;
/// Memory for more items than this is given back when they are gone: per slot, and for the list of due
/// timers.
const KEPT_PER_SLOT: usize = 2 * TOLERATED_DEAD;
const KEPT_DUE: usize = 4096;

/// Names one timer of a [`Wheel`]; stale after the timer is popped or removed, and never valid again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

impl TimerId {
    /// Names no timer.
    pub(crate) const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };
}

/// Timers with values of type `T`.
///
/// Call [`collect_due`](Self::collect_due) with the time, then [`pop_due`](Self::pop_due) until `None`;
/// between two pops timers may be inserted, removed and reset at will. [`next_deadline`](Self::next_deadline)
/// says how long to sleep.
///
/// Deadlines before the origin count as the origin, those more than 584 years after it as 584 years.
pub(crate) struct Wheel<T> {
    origin: Instant,
    timers: Vec<Timer<T>>,
    /// Places in `timers` to use again.
    vacant: Vec<u32>,
    slots: Box<[Slot]>,
    /// Slots with items, dead or alive, of each level.
    occupied: [u64; LEVELS],
    /// Levels with such a slot.
    occupied_levels: u8,
    /// The tick relative to which timers are filed.
    tick: u64,
    /// The collected timers, the next to pop last.
    due: Vec<Due>,
    /// Orders equal deadlines; counts insertions and resets.
    sequence: u64,
    len: usize,
    referenced: usize,
}

struct Timer<T> {
    deadline: u64,
    /// Its place in the order of all creations and resets.
    sequence: u64,
    /// The ticket of its item. Changes whenever it is filed or loses its item; goes on over all timers in
    /// this place.
    ticket: u32,
    generation: u32,
    place: Place,
    referenced: bool,
    value: Option<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Vacant,
    Filed { level: u8, digit: u8 },
    Due,
}

/// Ordered by `filed`; the order of equal ones is restored when due timers are sorted.
///
/// Should tickets come round to the one of a forgotten dead item, that is taken for alive: then it is either
/// right or outdated, and filed anew as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    filed: u64,
    index: u32,
    ticket: u32,
}

/// A collected timer, which counts only while it is due with this sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    deadline: u64,
    sequence: u64,
    index: u32,
}

struct Slot {
    items: Items,
    dead: usize,
}

enum Items {
    Unordered(Vec<Reverse<Item>>),
    Heap(BinaryHeap<Reverse<Item>>),
}

/// Where a slot lies: its level, index among all slots, and its first and last tick.
struct Span {
    level: usize,
    slot: usize,
    first: u64,
    last: u64,
}

impl<T> Wheel<T> {
    /// An empty wheel; `origin` is the earliest time that its clock can show.
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            timers: Vec::new(),
            vacant: Vec::new(),
            slots: (0..LEVELS * SLOTS_PER_LEVEL).map(|_| Slot::new()).collect(),
            occupied: [0; LEVELS],
            occupied_levels: 0,
            tick: 0,
            due: Vec::new(),
            sequence: 0,
            len: 0,
            referenced: 0,
        }
    }

    /// Adds a referenced timer. One whose deadline has passed is due at the next `collect_due`.
    pub(crate) fn insert(&mut self, deadline: Instant, value: T) -> TimerId {
        let deadline = self.nanos(deadline);
        let sequence = self.next_sequence();
        self.len += 1;
        self.referenced += 1;
        let id = match self.vacant.pop() {
            Some(index) => {
                let timer = &mut self.timers[index as usize];
                timer.deadline = deadline;
                timer.sequence = sequence;
                timer.referenced = true;
                timer.value = Some(value);
                TimerId { index, generation: timer.generation }
            }
            None => {
                let index = u32::try_from(self.timers.len()).expect("fewer than 2^32 timers fit into memory");
                self.timers.push(Timer {
                    deadline,
                    sequence,
                    ticket: 0,
                    generation: 0,
                    place: Place::Vacant,
                    referenced: true,
                    value: Some(value),
                });
                TimerId { index, generation: 0 }
            }
        };
        self.file(id.index);
        id
    }

    /// Cancels a timer, also one that is collected but not yet popped. `None` if the id is stale.
    pub(crate) fn remove(&mut self, id: TimerId) -> Option<T> {
        let place = self.timer(id)?.place;
        let value = self.release(id.index);
        self.note_dead(place);
        value
    }

    /// Gives a timer another deadline, also one that is collected but not yet popped: it is then not due any
    /// more. Among equal deadlines it counts as created now. `false` if the id is stale.
    pub(crate) fn reset(&mut self, id: TimerId, deadline: Instant) -> bool {
        let deadline = self.nanos(deadline);
        let sequence = self.sequence;
        let Some(timer) = self.timer_mut(id) else { return false };
        let place = timer.place;
        let stamp_suffices = place != Place::Due && deadline >= timer.deadline;
        timer.deadline = deadline;
        timer.sequence = sequence;
        self.sequence += 1;
        if !stamp_suffices {
            self.file(id.index);
            self.note_dead(place);
        }
        true
    }

    /// When the timer is due (within the clamping described at [`Wheel`]); `None` if the id is stale.
    pub(crate) fn deadline(&self, id: TimerId) -> Option<Instant> {
        self.timer(id).map(|timer| self.instant(timer.deadline))
    }

    /// Says whether the timer counts in [`referenced`](Self::referenced); `false` if the id is stale.
    pub(crate) fn set_referenced(&mut self, id: TimerId, referenced: bool) -> bool {
        let Some(timer) = self.timer_mut(id) else { return false };
        let before = mem::replace(&mut timer.referenced, referenced);
        self.referenced = self.referenced - usize::from(before) + usize::from(referenced);
        true
    }

    /// How many live timers are referenced.
    pub(crate) fn referenced(&self) -> usize {
        self.referenced
    }

    /// How many timers are live: inserted and neither removed nor popped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is live.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The earliest deadline of all live timers, exactly; collected ones that are not popped yet count too.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        let filed = self.first_filed().map(|(_, item)| item.filed);
        let due = self.first_due().map(|due| due.deadline);
        let earliest = match (filed, due) {
            (Some(filed), Some(due)) => filed.min(due),
            (one, other) => one.or(other)?,
        };
        Some(self.instant(earliest))
    }

    /// Marks every timer with a deadline at or before `now` as due, ordered by deadline and creation.
    pub(crate) fn collect_due(&mut self, now: Instant) {
        let Some(now) = now.checked_duration_since(self.origin).map(clamped_nanos) else { return };
        let target = (now >> TICK_BITS).max(self.tick);
        let left = self.due.len();
        while let Some(span) = self.first_slot() {
            if span.first > target {
                break;
            }
            if span.level == 0 && span.last == target {
                self.tick = target;
                self.collect_current(now);
                break;
            }
            // The slot lies before the current tick, or contains it and is too coarse. All other slots come
            // later, so the tick may advance over this one.
            let items = self.empty_slot(span.slot);
            self.tick = target.min(span.last);
            self.distribute(&items, now);
            self.slots[span.slot].reuse(items);
        }
        self.tick = target;
        if self.due.len() > left {
            self.due.sort_unstable_by(|one, other| other.cmp(one));
        }
    }

    /// The next of the collected timers that were neither removed nor reset meanwhile.
    pub(crate) fn pop_due(&mut self) -> Option<(TimerId, T)> {
        let index = self.first_due()?.index;
        self.due.pop();
        let generation = self.timers[index as usize].generation;
        let value = self.release(index)?;
        Some((TimerId { index, generation }, value))
    }

    /// Removes every timer, due or not, and returns the values in no particular but a reproducible order.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.slots.fill_with(Slot::new);
        self.occupied.fill(0);
        self.occupied_levels = 0;
        self.due = Vec::new();
        let mut values = Vec::with_capacity(self.len);
        for index in 0..self.timers.len() {
            if self.timers[index].place != Place::Vacant {
                values.extend(self.release(index as u32));
            }
        }
        values
    }

    fn nanos(&self, time: Instant) -> u64 {
        clamped_nanos(time.saturating_duration_since(self.origin))
    }

    /// Cannot overflow: no more nanoseconds than the `Instant` they were made from.
    fn instant(&self, nanos: u64) -> Instant {
        self.origin + Duration::from_nanos(nanos)
    }

    fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    fn timer(&self, id: TimerId) -> Option<&Timer<T>> {
        self.timers.get(id.index as usize).filter(|timer| timer.is_named_by(id))
    }

    fn timer_mut(&mut self, id: TimerId) -> Option<&mut Timer<T>> {
        self.timers.get_mut(id.index as usize).filter(|timer| timer.is_named_by(id))
    }

    /// Ends a timer and takes its value.
    fn release(&mut self, index: u32) -> Option<T> {
        let timer = &mut self.timers[index as usize];
        self.len -= 1;
        self.referenced -= usize::from(timer.referenced);
        timer.place = Place::Vacant;
        timer.ticket = timer.ticket.wrapping_add(1);
        // A place whose generations are used up stays out of use, so that no old id ever names a new timer.
        if let Some(generation) = timer.generation.checked_add(1) {
            timer.generation = generation;
            self.vacant.push(index);
        }
        timer.value.take()
    }

    /// Files a timer that has no item under its deadline.
    fn file(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        let tick = (timer.deadline >> TICK_BITS).max(self.tick);
        let differing = tick ^ self.tick;
        let level = ((differing | 1).ilog2() / DIGIT_BITS) as usize;
        let digit = (tick >> (DIGIT_BITS * level as u32)) as usize % SLOTS_PER_LEVEL;
        timer.ticket = timer.ticket.wrapping_add(1);
        timer.place = Place::Filed { level: level as u8, digit: digit as u8 };
        let item = Item { filed: timer.deadline, ticket: timer.ticket, index };
        self.slots[level * SLOTS_PER_LEVEL + digit].push(item);
        self.occupied[level] |= 1 << digit;
        self.occupied_levels |= 1 << level;
    }

    /// Counts an item that has lost its timer, and cleans its slot when there are too many.
    fn note_dead(&mut self, place: Place) {
        let Place::Filed { level, digit } = place else { return };
        let index = usize::from(level) * SLOTS_PER_LEVEL + usize::from(digit);
        let slot = &mut self.slots[index];
        slot.dead += 1;
        if slot.dead > TOLERATED_DEAD && slot.dead > slot.len() / 2 {
            let timers = &self.timers;
            slot.retain(|item| timers[item.index as usize].ticket == item.ticket);
            if slot.len() == 0 {
                let items = self.empty_slot(index);
                self.slots[index].reuse(items);
            }
        }
    }

    /// The earliest slot that has items.
    fn first_slot(&self) -> Option<Span> {
        if self.occupied_levels == 0 {
            return None;
        }
        let level = self.occupied_levels.trailing_zeros() as usize;
        let digit = u64::from(self.occupied[level].trailing_zeros());
        let low_bits = DIGIT_BITS * level as u32;
        let high_bits = low_bits + DIGIT_BITS;
        let first = (self.tick >> high_bits << high_bits) | (digit << low_bits);
        let last = first | ((1 << low_bits) - 1);
        Some(Span { level, slot: level * SLOTS_PER_LEVEL + digit as usize, first, last })
    }

    /// Takes the items out of a slot.
    fn empty_slot(&mut self, slot: usize) -> Vec<Reverse<Item>> {
        let (level, digit) = (slot / SLOTS_PER_LEVEL, slot % SLOTS_PER_LEVEL);
        self.occupied[level] &= !(1 << digit);
        if self.occupied[level] == 0 {
            self.occupied_levels &= !(1 << level);
        }
        mem::replace(&mut self.slots[slot], Slot::new()).items.into_vec()
    }

    /// The item of the earliest filed timer, and its slot; dead and outdated items before it are disposed of.
    fn first_filed(&mut self) -> Option<(usize, Item)> {
        loop {
            let index = self.first_slot()?.slot;
            let slot = &mut self.slots[index];
            let heap = slot.items.heap();
            let Some(&Reverse(item)) = heap.peek() else {
                let items = self.empty_slot(index);
                self.slots[index].reuse(items);
                continue;
            };
            let timer = &self.timers[item.index as usize];
            if timer.ticket != item.ticket {
                heap.pop();
                slot.dead = slot.dead.saturating_sub(1);
            } else if timer.deadline != item.filed {
                heap.pop();
                self.file(item.index);
            } else {
                return Some((index, item));
            }
        }
    }

    /// Collects from the slot of the current tick, which may hold timers that are due and others that are
    /// not.
    fn collect_current(&mut self, now: u64) {
        while let Some((slot, item)) = self.first_filed() {
            if item.filed > now {
                return;
            }
            self.slots[slot].items.heap().pop();
            self.mark_due(item.index);
        }
    }

    /// Marks those timers due that are, and files the others relative to the current tick.
    fn distribute(&mut self, items: &[Reverse<Item>], now: u64) {
        for &Reverse(item) in items {
            let timer = &self.timers[item.index as usize];
            if timer.ticket != item.ticket {
                continue;
            }
            if timer.deadline <= now {
                self.mark_due(item.index);
            } else {
                self.file(item.index);
            }
        }
    }

    fn mark_due(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        timer.ticket = timer.ticket.wrapping_add(1);
        timer.place = Place::Due;
        self.due.push(Due { deadline: timer.deadline, sequence: timer.sequence, index });
    }

    /// The next timer to pop; those before it that were removed or reset are dropped from the list.
    fn first_due(&mut self) -> Option<Due> {
        while let Some(&due) = self.due.last() {
            let timer = &self.timers[due.index as usize];
            if timer.place == Place::Due && timer.sequence == due.sequence {
                return Some(due);
            }
            self.due.pop();
        }
        if self.due.capacity() > KEPT_DUE {
            self.due = Vec::new();
        }
        None
    }
}

impl<T> Timer<T> {
    fn is_named_by(&self, id: TimerId) -> bool {
        self.generation == id.generation && self.place != Place::Vacant
    }
}

impl Slot {
    fn new() -> Self {
        Slot { items: Items::Unordered(Vec::new()), dead: 0 }
    }

    fn len(&self) -> usize {
        match &self.items {
            Items::Unordered(items) => items.len(),
            Items::Heap(heap) => heap.len(),
        }
    }

    fn push(&mut self, item: Item) {
        match &mut self.items {
            Items::Unordered(items) => items.push(Reverse(item)),
            Items::Heap(heap) => heap.push(Reverse(item)),
        }
    }

    fn retain(&mut self, mut lives: impl FnMut(&Item) -> bool) {
        match &mut self.items {
            Items::Unordered(items) => items.retain(|Reverse(item)| lives(item)),
            Items::Heap(heap) => heap.retain(|Reverse(item)| lives(item)),
        }
        self.dead = 0;
    }

    /// Gives an emptied slot its memory back, unless it is much.
    fn reuse(&mut self, mut items: Vec<Reverse<Item>>) {
        if items.capacity() <= KEPT_PER_SLOT {
            items.clear();
            self.items = Items::Unordered(items);
        }
    }
}

impl Items {
    /// The items as a heap, which they stay until the slot is emptied.
    fn heap(&mut self) -> &mut BinaryHeap<Reverse<Item>> {
        if let Items::Unordered(items) = self {
            *self = Items::Heap(mem::take(items).into());
        }
        match self {
            Items::Heap(heap) => heap,
            Items::Unordered(_) => unreachable!("made a heap above"),
        }
    }

    fn into_vec(self) -> Vec<Reverse<Item>> {
        match self {
            Items::Unordered(items) => items,
            Items::Heap(heap) => heap.into_vec(),
        }
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("referenced", &self.referenced)
            .finish_non_exhaustive()
    }
}

fn clamped_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
    fn cancelling_always_the_earliest_timer_stays_cheap() {
        let count = if cfg!(miri) { 100 } else { 200_000 };
        let mut wheel = Clocked::new();
        let mut ids: Vec<_> =
            (0..count).map(|value| wheel.insert(30 * SECOND + value * 1000, value)).collect();
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
                    let from = if random.below(3) == 0 {
                        now
                    } else {
                        model.keys.get(&value).map_or(now, |key| key.0)
                    };
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
}
