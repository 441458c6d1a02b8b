//! [`Cache`]: a bounded number of values by name, each good for some time.
//!
//! Time comes in with each call. The invariant: never more entries than the limit; to make room, those that
//! are too old go first, then the one that was asked for longest ago.

use std::collections::HashMap;
use std::time::Instant;

/// Values by name that are forgotten after a while, or when there are too many.
pub(crate) struct Cache<V> {
    entries: HashMap<Box<str>, Entry<V>>,
    limit: usize,
    /// Counts uses, to tell which came first.
    uses: u64,
}

struct Entry<V> {
    value: V,
    until: Instant,
    last_use: u64,
}

impl<V> Cache<V> {
    /// One of at most so many names; with 0 it keeps nothing.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), limit, uses: 0 }
    }

    /// What is known, unless it is too old.
    pub(crate) fn get(&mut self, name: &str, now: Instant) -> Option<&V> {
        if self.entries.get(name)?.until <= now {
            self.entries.remove(name);
            return None;
        }
        self.uses += 1;
        let entry = self.entries.get_mut(name)?;
        entry.last_use = self.uses;
        Some(&entry.value)
    }

    /// Keeps a value until then.
    pub(crate) fn insert(&mut self, name: Box<str>, value: V, until: Instant, now: Instant) {
        if self.limit == 0 || until <= now {
            self.entries.remove(&name);
            return;
        }
        if self.entries.len() >= self.limit && !self.entries.contains_key(&name) {
            self.make_room(now);
        }
        self.uses += 1;
        self.entries.insert(name, Entry { value, until, last_use: self.uses });
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Looks at every entry, which is little beside the look-up that brought the new one.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.until > now);
        if self.entries.len() >= self.limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.entries.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A cache with these names, each good for so many seconds, and the time at which they came.
    fn with(limit: usize, names: &[(&str, u64)]) -> (Cache<String>, Instant) {
        let (mut cache, now) = (Cache::new(limit), Instant::now());
        for (name, seconds) in names {
            cache.insert((*name).into(), (*name).to_owned(), now + Duration::from_secs(*seconds), now);
        }
        (cache, now)
    }

    #[test]
    fn a_value_is_there_until_its_time_is_over() {
        let (mut cache, now) = with(2, &[("a", 10)]);
        assert_eq!(cache.get("a", now + Duration::from_millis(9999)).map(String::as_str), Some("a"));
        assert_eq!(cache.get("a", now + Duration::from_secs(10)), None);
        assert!(cache.entries.is_empty());
        assert_eq!(cache.get("b", now), None);
    }

    #[test]
    fn the_one_that_nobody_asked_for_makes_room() {
        let (mut cache, now) = with(3, &[("a", 10), ("b", 10), ("c", 10)]);
        assert!(cache.get("a", now).is_some());
        cache.insert("d".into(), "d".into(), now + Duration::from_secs(10), now);
        assert!(cache.get("b", now).is_none());
        for name in ["a", "c", "d"] {
            assert!(cache.get(name, now).is_some(), "{name}");
        }
        // The same name again needs no room.
        cache.insert("a".into(), "new".into(), now + Duration::from_secs(10), now);
        assert_eq!(cache.entries.len(), 3);
    }

    #[test]
    fn what_is_too_old_makes_room_first() {
        let (mut cache, now) = with(3, &[("a", 10), ("old", 1), ("older", 1)]);
        let later = now + Duration::from_secs(2);
        cache.insert("b".into(), "b".into(), later + Duration::from_secs(1), later);
        assert!(cache.get("a", later).is_some());
        assert_eq!(cache.entries.len(), 2);
    }

    #[test]
    fn without_room_or_time_nothing_is_kept() {
        let (mut none, now) = with(0, &[("a", 10)]);
        assert!(none.get("a", now).is_none());
        let (mut cache, now) = with(3, &[("a", 10)]);
        cache.insert("a".into(), "b".into(), now, now);
        assert!(cache.get("a", now).is_none(), "what was known is not either");
    }
}
