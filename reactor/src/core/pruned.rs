//! Lists whose entries die without being taken out.

/// Adds one. Dead ones are thrown away when the list is full, which costs amortised constant time: half of
/// the list is free afterwards, so that as many have to be added before the next look as were looked at in
/// this.
pub(crate) fn push<T>(list: &mut Vec<T>, one: T, is_alive: impl FnMut(&T) -> bool) {
    if list.len() == list.capacity() {
        list.retain(is_alive);
        list.reserve(list.len() + 4);
    }
    list.push(one);
}

#[cfg(test)]
mod tests {
    use super::push;

    #[test]
    fn looking_for_the_dead_costs_a_few_looks_for_each_one_added() {
        // One of many dies for each that is added, so that each look finds few.
        const MANY: usize = 10_000;
        let (mut list, mut looks) = (Vec::new(), 0);
        for one in 0..10 * MANY {
            push(&mut list, one, |&other| {
                looks += 1;
                other + MANY > one
            });
        }
        assert!(list.len() <= 3 * MANY, "{} are kept", list.len());
        assert!(looks <= 3 * 10 * MANY, "{looks} looks");
    }

    #[test]
    fn whoever_lives_stays() {
        let mut list = Vec::new();
        for one in 0..1000 {
            push(&mut list, one, |other| other % 2 == 0);
        }
        assert!((0..1000).step_by(2).all(|one| list.contains(&one)));
        assert!(list.len() < 1000);
    }
}
