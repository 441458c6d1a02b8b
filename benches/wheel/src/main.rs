//! What the timer wheel costs beside a binary heap with lazy deletion and a `BTreeMap`.
//!
//! Run with `cargo run --release`; takes half a minute. Each figure is the median over batches, in
//! nanoseconds per operation, with 100 000 and 10⁶ live timers whose deadlines lie at random within a minute:
//!
//! - `insert`: 1000 more timers (they are removed again between batches);
//! - `random`: cancel and insert; a random live timer is replaced by a new one, so each finds cold memory;
//! - `recent`: cancel and insert; the same 1000 timers are replaced time and again, as those of the busy
//!   connections are;
//! - `push later`: a random timer gets a later deadline (for the others a cancel and an insert);
//! - `idle pass`: collecting with nothing due, and asking for the next deadline;
//! - `expire`: the clock runs in steps of a millisecond until all have fired; the mean per timer, and the
//!   longest single step in microseconds.

#[path = "../../../reactor/src/core/wheel.rs"]
#[allow(dead_code)]
mod wheel;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use wheel::{TimerId, Wheel};

const BATCH: usize = 1000;
const BATCHES: usize = 301;
const MINUTE: u64 = 60_000_000_000;

trait Timers {
    const NAME: &str;
    type Id: Copy;
    fn new(origin: Instant) -> Self;
    fn insert(&mut self, deadline: Instant, value: u64) -> Self::Id;
    fn cancel(&mut self, id: Self::Id) -> Option<u64>;
    fn push_later(&mut self, id: Self::Id, deadline: Instant) -> Self::Id;
    fn next_deadline(&mut self) -> Option<Instant>;
    fn expire(&mut self, now: Instant, fired: &mut dyn FnMut(u64));
}

impl Timers for Wheel<u64> {
    const NAME: &str = "wheel";
    type Id = TimerId;

    fn new(origin: Instant) -> Self {
        Wheel::new(origin)
    }

    fn insert(&mut self, deadline: Instant, value: u64) -> TimerId {
        Wheel::insert(self, deadline, value)
    }

    fn cancel(&mut self, id: TimerId) -> Option<u64> {
        self.remove(id)
    }

    fn push_later(&mut self, id: TimerId, deadline: Instant) -> TimerId {
        self.reset(id, deadline);
        id
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        Wheel::next_deadline(self)
    }

    fn expire(&mut self, now: Instant, fired: &mut dyn FnMut(u64)) {
        self.collect_due(now);
        while let Some((_, value)) = self.pop_due() {
            fired(value);
        }
    }
}

/// Cancelled timers stay in the heap until they come up, or until they are the majority.
struct Heap {
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    /// The sequence number and value of the timer that lives in each slot.
    slots: Vec<Option<(u64, u64)>>,
    vacant: Vec<u32>,
    sequence: u64,
}

impl Timers for Heap {
    const NAME: &str = "binary heap";
    type Id = (u64, u32);

    fn new(_: Instant) -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), vacant: Vec::new(), sequence: 0 }
    }

    fn insert(&mut self, deadline: Instant, value: u64) -> Self::Id {
        self.sequence += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some((self.sequence, value));
        self.heap.push(Reverse((deadline, self.sequence, slot)));
        (self.sequence, slot)
    }

    fn cancel(&mut self, (sequence, slot): Self::Id) -> Option<u64> {
        let (_, value) = self.slots[slot as usize].take_if(|live| live.0 == sequence)?;
        self.vacant.push(slot);
        if self.heap.len() > 2 * (self.slots.len() - self.vacant.len()) + 64 {
            let slots = &self.slots;
            self.heap.retain(|&Reverse((_, sequence, slot))| lives(slots, sequence, slot));
        }
        Some(value)
    }

    fn push_later(&mut self, id: Self::Id, deadline: Instant) -> Self::Id {
        match self.cancel(id) {
            Some(value) => self.insert(deadline, value),
            None => id,
        }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&Reverse((deadline, sequence, slot))) = self.heap.peek() {
            if lives(&self.slots, sequence, slot) {
                return Some(deadline);
            }
            self.heap.pop();
        }
        None
    }

    fn expire(&mut self, now: Instant, fired: &mut dyn FnMut(u64)) {
        while let Some(&Reverse((deadline, sequence, slot))) = self.heap.peek()
            && deadline <= now
        {
            self.heap.pop();
            if let Some((_, value)) = self.slots[slot as usize].take_if(|live| live.0 == sequence) {
                self.vacant.push(slot);
                fired(value);
            }
        }
    }
}

fn lives(slots: &[Option<(u64, u64)>], sequence: u64, slot: u32) -> bool {
    slots[slot as usize].is_some_and(|live| live.0 == sequence)
}

struct Tree {
    tree: BTreeMap<(Instant, u64), u64>,
    sequence: u64,
}

impl Timers for Tree {
    const NAME: &str = "BTreeMap";
    type Id = (Instant, u64);

    fn new(_: Instant) -> Self {
        Self { tree: BTreeMap::new(), sequence: 0 }
    }

    fn insert(&mut self, deadline: Instant, value: u64) -> Self::Id {
        self.sequence += 1;
        self.tree.insert((deadline, self.sequence), value);
        (deadline, self.sequence)
    }

    fn cancel(&mut self, id: Self::Id) -> Option<u64> {
        self.tree.remove(&id)
    }

    fn push_later(&mut self, id: Self::Id, deadline: Instant) -> Self::Id {
        match self.cancel(id) {
            Some(value) => self.insert(deadline, value),
            None => id,
        }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        self.tree.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    fn expire(&mut self, now: Instant, fired: &mut dyn FnMut(u64)) {
        while let Some(first) = self.tree.first_entry()
            && first.key().0 <= now
        {
            fired(first.remove());
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The median of `BATCHES` runs of `batch`, which returns how long its `BATCH` operations took.
fn median(mut batch: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..BATCHES).map(|_| batch()).collect();
    times.sort_unstable();
    times[BATCHES / 2].as_nanos() as f64 / BATCH as f64
}

fn measure<T: Timers>(live: usize) {
    let origin = Instant::now();
    let now = origin + Duration::from_secs(1);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut timers = T::new(origin);
    timers.expire(now, &mut |_| {});
    let later = |random: &mut Random| now + Duration::from_nanos(MINUTE / 60 + random.below(MINUTE));
    let mut ids: Vec<T::Id> =
        (0..live).map(|value| timers.insert(later(&mut random), value as u64)).collect();
    // Shuffled once, so that a batch finds its ids side by side, as a program has the id at hand in the
    // object that it is working on, while the timers lie at random.
    for index in (1..live).rev() {
        ids.swap(index, random.below(index as u64 + 1) as usize);
    }
    // As many again come and go, so that what follows does not measure how the kernel maps fresh memory.
    let passing: Vec<T::Id> =
        (0..live).map(|value| timers.insert(later(&mut random), value as u64)).collect();
    for id in passing {
        timers.cancel(id);
    }
    let mut first = 0;
    let mut next_batch = || {
        first = (first + BATCH) % live;
        first..first + BATCH
    };

    let insert = median(|| {
        let deadlines: Vec<Instant> = (0..BATCH).map(|_| later(&mut random)).collect();
        let mut added = Vec::with_capacity(BATCH);
        let start = Instant::now();
        for &deadline in &deadlines {
            added.push(timers.insert(deadline, 1));
        }
        let elapsed = start.elapsed();
        for id in added {
            timers.cancel(id);
        }
        elapsed
    });

    let mut replace = |timers: &mut T, batch: &mut [T::Id]| {
        let deadlines: Vec<Instant> = (0..BATCH).map(|_| later(&mut random)).collect();
        let start = Instant::now();
        for (id, &deadline) in batch.iter_mut().zip(&deadlines) {
            black_box(timers.cancel(*id));
            *id = timers.insert(deadline, 1);
        }
        start.elapsed()
    };
    let cancel_insert = median(|| replace(&mut timers, &mut ids[next_batch()]));
    let recent = median(|| replace(&mut timers, &mut ids[..BATCH]));

    let mut pushed = 0;
    let push_later = median(|| {
        // Each time round, a minute later than before.
        pushed += BATCH;
        let minutes = Duration::from_nanos(MINUTE) * (pushed / live + 1) as u32;
        let deadlines: Vec<Instant> = (0..BATCH).map(|_| later(&mut random) + minutes).collect();
        let batch = &mut ids[next_batch()];
        let start = Instant::now();
        for (id, &deadline) in batch.iter_mut().zip(&deadlines) {
            *id = timers.push_later(*id, deadline);
        }
        start.elapsed()
    });

    let idle = median(|| {
        let start = Instant::now();
        for _ in 0..BATCH {
            timers.expire(black_box(now), &mut |_| {});
            black_box(timers.next_deadline());
        }
        start.elapsed()
    });

    let mut fired = 0_usize;
    let mut longest = Duration::ZERO;
    let start = Instant::now();
    let mut step_start = start;
    for milli in 0.. {
        timers.expire(now + Duration::from_millis(milli), &mut |_| fired += 1);
        let step_end = Instant::now();
        longest = longest.max(step_end - step_start);
        step_start = step_end;
        if fired == live {
            break;
        }
    }
    let expire = start.elapsed().as_nanos() as f64 / fired as f64;

    print!("{live:>9}  {:<12}{insert:>8.1}{cancel_insert:>9.1}{recent:>9.1}", T::NAME);
    println!("{push_later:>12.1}{idle:>11.1}{expire:>9.1}{:>14}", longest.as_micros());
}

/// What memory alone costs: a read and a write at a random one of as many records as a timer is large, in a chain,
/// as a program waits for what it needs, and side by side.
fn measure_memory(live: usize) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut records = vec![[1_u64; 6]; live];
    let mut touch = |chained: bool| {
        median(|| {
            let places: Vec<usize> = (0..BATCH).map(|_| random.below(live as u64) as usize).collect();
            let start = Instant::now();
            let mut found = 0;
            for place in &places {
                let record = &mut records[if chained { place ^ (found as usize & 1) } else { *place }];
                record[0] += 2;
                found = record[0] - 1;
            }
            black_box(found);
            start.elapsed()
        })
    };
    let (chained, apart) = (touch(true), touch(false));
    println!("{live:>9}  {:<12}{:>17.1} in a chain, {apart:.1} side by side", "memory", chained);
}

fn main() {
    println!(
        "{:>9}  {:<12}{:>8}{:>9}{:>9}{:>12}{:>11}{:>9}{:>14}",
        "live", "", "insert", "random", "recent", "push later", "idle pass", "expire", "longest (us)"
    );
    for live in [100_000, 1_000_000] {
        measure::<Wheel<u64>>(live);
        measure::<Heap>(live);
        measure::<Tree>(live);
        measure_memory(live);
    }
}
