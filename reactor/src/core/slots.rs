//! A slab whose keys outlive their entries safely.
//!
//! A [`Token`] is an index and a generation. Freeing a slot advances its generation, so a token kept by a
//! late event, a timer or a user never reaches the slot's next tenant.

use std::fmt;

/// Bits of a `usize` key that hold the index; the others hold the generation.
const INDEX_BITS: u32 = if usize::BITS >= 64 { 32 } else { 20 };
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = if usize::BITS >= 64 { u32::MAX } else { (1 << (32 - 20)) - 1 };
/// The upper half of the indexes is left unused: a key with one of these names the output of a stream that
/// has another descriptor for it, or is one of the poller's reserved keys.
const OUTPUT: u64 = 1 << (INDEX_BITS - 1);
const MAX_INDEX: u32 = (OUTPUT - 1) as u32;

/// Names one tenancy of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(u64);

impl Token {
    /// Names nothing.
    pub(crate) const NOBODY: Self = Self(u64::MAX);

    fn new(index: u32, generation: u32) -> Self {
        Self((u64::from(generation) << INDEX_BITS) | u64::from(index))
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        (self.0 & INDEX_MASK) as usize
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> INDEX_BITS) as u32
    }

    /// The token as the key of a poller.
    #[inline]
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }

    /// The key of the descriptor for output, where a stream has one of its own.
    #[cfg_attr(not(unix), allow(dead_code, reason = "only pipes have two"))]
    pub(crate) fn output_key(self) -> usize {
        (self.0 | OUTPUT) as usize
    }

    /// The token of which this is the [output key](Self::output_key).
    #[cfg_attr(not(unix), allow(dead_code, reason = "only pipes have two"))]
    pub(crate) fn of_output(key: usize) -> Option<Self> {
        let key = key as u64;
        (key & OUTPUT != 0).then_some(Self(key & !OUTPUT))
    }

    /// The inverse of [`Token::key`].
    #[inline]
    pub(crate) fn from_key(key: usize) -> Self {
        Self(key as u64)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

enum Entry<T> {
    Vacant { next: u32 },
    Occupied(T),
}

struct Slot<T> {
    generation: u32,
    entry: Entry<T>,
}

const NO_SLOT: u32 = u32::MAX;

/// From here on a table grows by less.
const LARGE: usize = 64 * 1024;

/// By how much a full table grows: idle connections and tasks are many, and a doubled table would be half
/// air.
#[cold]
fn growth(len: usize) -> usize {
    if len < LARGE { (len / 4).max(16) } else { len / 8 }
}

/// The slab.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    first_free: u32,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), first_free: NO_SLOT, len: 0 }
    }

    /// Stores the value that `make` builds from its own token; `None` when no index is left.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Token) -> T) -> Option<Token> {
        let index = self.first_free;
        if index != NO_SLOT {
            let slot = &mut self.slots[index as usize];
            let token = Token::new(index, slot.generation);
            let Entry::Vacant { next } = slot.entry else { unreachable!("the free list holds vacant slots") };
            self.first_free = next;
            slot.entry = Entry::Occupied(make(token));
            self.len += 1;
            return Some(token);
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|index| *index <= MAX_INDEX)?;
        let token = Token::new(index, 0);
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(growth(self.slots.len()));
        }
        self.slots.push(Slot { generation: 0, entry: Entry::Occupied(make(token)) });
        self.len += 1;
        Some(token)
    }

    /// The token of the next value to be stored; `None` when no index is left.
    pub(crate) fn next_token(&self) -> Option<Token> {
        if self.first_free != NO_SLOT {
            return Some(Token::new(self.first_free, self.slots[self.first_free as usize].generation));
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|index| *index <= MAX_INDEX)?;
        Some(Token::new(index, 0))
    }

    pub(crate) fn insert(&mut self, value: T) -> Option<Token> {
        self.insert_with(|_| value)
    }

    pub(crate) fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.index()) {
            Some(Slot { generation, entry: Entry::Occupied(value) }) if *generation == token.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.index()) {
            Some(Slot { generation, entry: Entry::Occupied(value) }) if *generation == token.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    /// Frees the slot; its token and every copy of it are dead from here on.
    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        let slot = &mut self.slots[token.index()];
        let entry = std::mem::replace(&mut slot.entry, Entry::Vacant { next: self.first_free });
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        self.first_free = token.index() as u32;
        match entry {
            Entry::Occupied(value) => {
                self.len -= 1;
                Some(value)
            }
            Entry::Vacant { .. } => None,
        }
    }

    /// How many tenants there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no tenant.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tokens of all tenants, in slot order.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.iter().map(|(token, _)| token).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.entry {
            Entry::Occupied(value) => Some((Token::new(index as u32, slot.generation), value)),
            Entry::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_reaches_the_next_tenant_of_its_slot() {
        let mut slots = Slots::new();
        let first = slots.insert("first").unwrap();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").unwrap();
        assert_eq!(first.index(), second.index(), "the slot is reused");
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
    }

    #[test]
    fn a_token_survives_the_way_through_a_poller_key() {
        let mut slots = Slots::new();
        let mut last = slots.insert(0).unwrap();
        for round in 1..1000 {
            slots.remove(last);
            last = slots.insert(round).unwrap();
        }
        assert_eq!(Token::from_key(last.key()), last);
        assert_eq!(slots.get(Token::from_key(last.key())), Some(&999));
    }

    #[test]
    fn a_generation_wraps_without_a_panic() {
        let mut slots = Slots::new();
        let token = slots.insert(1).unwrap();
        slots.remove(token);
        slots.slots[0].generation = GENERATION_MASK;
        let last = slots.insert(2).unwrap();
        assert_eq!(Token::from_key(last.key()), last);
        slots.remove(last);
        assert_eq!(slots.insert(3).unwrap().generation(), 0);
    }

    #[test]
    fn iteration_sees_tenants_only() {
        let mut slots = Slots::new();
        let tokens: Vec<_> = (0..5).map(|n| slots.insert(n).unwrap()).collect();
        slots.remove(tokens[1]);
        slots.remove(tokens[3]);
        assert_eq!(slots.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(slots.tokens(), [tokens[0], tokens[2], tokens[4]]);
    }

    #[test]
    fn a_table_grows_by_a_quarter_and_a_large_one_by_an_eighth() {
        assert_eq!([0, 1000, 8 * LARGE].map(growth), [16, 250, LARGE]);
    }
}
