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
//!
//! Timers can be many: long lists of them do not double, but grow by an eighth.

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
/// Lists of so many timers or items do not double.
const DOUBLED: usize = 64 * 1024;

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
    generation: u32,
    /// The ticket of its item. Changes whenever it is filed or loses its item; goes on over all timers in
    /// this place.
    ticket: u16,
    standing: Standing,
    value: Option<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Vacant,
    /// In the slot of this index.
    Filed(u16),
    Due,
}

/// The place of a timer and whether it is referenced, in 16 bits.
#[derive(Clone, Copy)]
struct Standing(u16);

impl Standing {
    const REFERENCED: u16 = 1 << 15;
    const VACANT: u16 = (LEVELS * SLOTS_PER_LEVEL) as u16;
    const DUE: u16 = Self::VACANT + 1;
    /// Vacant, and referenced once it is not.
    const NEW: Self = Self(Self::VACANT | Self::REFERENCED);

    fn place(self) -> Place {
        match self.0 & !Self::REFERENCED {
            Self::VACANT => Place::Vacant,
            Self::DUE => Place::Due,
            slot => Place::Filed(slot),
        }
    }

    fn set_place(&mut self, place: Place) {
        let bits = match place {
            Place::Vacant => Self::VACANT,
            Place::Due => Self::DUE,
            Place::Filed(slot) => slot,
        };
        self.0 = self.0 & Self::REFERENCED | bits;
    }

    fn is_referenced(self) -> bool {
        self.0 & Self::REFERENCED != 0
    }

    fn set_referenced(&mut self, referenced: bool) {
        self.0 = self.0 & !Self::REFERENCED | if referenced { Self::REFERENCED } else { 0 };
    }
}

/// Ordered by `filed`; the order of equal ones is restored when due timers are sorted.
///
/// Should tickets come round to the one of a dead item, that is taken for alive: then it is either right or
/// outdated, and filed anew as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    filed: u64,
    index: u32,
    ticket: u16,
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
                timer.standing = Standing::NEW;
                timer.value = Some(value);
                TimerId { index, generation: timer.generation }
            }
            None => {
                let index = u32::try_from(self.timers.len()).expect("fewer than 2^32 timers fit into memory");
                if self.timers.len() == self.timers.capacity() {
                    self.timers.reserve_exact(growth(self.timers.len()));
                }
                self.timers.push(Timer {
                    deadline,
                    sequence,
                    generation: 0,
                    ticket: 0,
                    standing: Standing::NEW,
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
        let place = self.timer(id)?.standing.place();
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
        let place = timer.standing.place();
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

    /// The timer's value; `None` if the id is stale.
    pub(crate) fn value_mut(&mut self, id: TimerId) -> Option<&mut T> {
        self.timer_mut(id)?.value.as_mut()
    }

    /// Says whether the timer counts in [`referenced`](Self::referenced); `false` if the id is stale.
    pub(crate) fn set_referenced(&mut self, id: TimerId, referenced: bool) -> bool {
        let Some(timer) = self.timer_mut(id) else { return false };
        let before = timer.standing.is_referenced();
        timer.standing.set_referenced(referenced);
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
            if self.timers[index].value.is_some() {
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
        self.referenced -= usize::from(timer.standing.is_referenced());
        timer.standing.set_place(Place::Vacant);
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
        let slot = level * SLOTS_PER_LEVEL + digit;
        timer.standing.set_place(Place::Filed(slot as u16));
        let item = Item { filed: timer.deadline, ticket: timer.ticket, index };
        self.slots[slot].push(item);
        self.occupied[level] |= 1 << digit;
        self.occupied_levels |= 1 << level;
    }

    /// Counts an item that has lost its timer, and cleans its slot when there are too many.
    fn note_dead(&mut self, place: Place) {
        let Place::Filed(index) = place else { return };
        let index = usize::from(index);
        let slot = &mut self.slots[index];
        slot.dead += 1;
        if slot.dead > TOLERATED_DEAD && slot.dead > slot.len() / 2 {
            let timers = &self.timers;
            slot.retain(|item| timers[item.index as usize].has(*item));
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
            if !timer.has(item) {
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
            if !timer.has(item) {
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
        timer.standing.set_place(Place::Due);
        self.due.push(Due { deadline: timer.deadline, sequence: timer.sequence, index });
    }

    /// The next timer to pop; those before it that were removed or reset are dropped from the list.
    fn first_due(&mut self) -> Option<Due> {
        while let Some(&due) = self.due.last() {
            let timer = &self.timers[due.index as usize];
            if timer.standing.place() == Place::Due && timer.sequence == due.sequence {
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
        self.generation == id.generation && self.value.is_some()
    }

    /// Whether the item is alive: a timer that stands nowhere has none, whatever tickets say.
    fn has(&self, item: Item) -> bool {
        self.ticket == item.ticket && matches!(self.standing.place(), Place::Filed(_))
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
            Items::Unordered(items) => {
                if items.len() == items.capacity() {
                    items.reserve_exact(growth(items.len()));
                }
                items.push(Reverse(item));
            }
            Items::Heap(heap) => {
                if heap.len() == heap.capacity() {
                    heap.reserve_exact(growth(heap.len()));
                }
                heap.push(Reverse(item));
            }
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

/// By how much a full list grows.
#[cold]
fn growth(len: usize) -> usize {
    if len >= DOUBLED { len / 8 } else { len.max(4) }
}

fn clamped_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
