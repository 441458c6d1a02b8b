//! Many futures in one: each child has a waker of its own, so that only those are polled that were woken.
//!
//! The wakers put the child's number into a list that is shared with whatever thread they are used on, and
//! wake whoever polls the whole. Children are polled in the order in which they were woken.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Children polled at one go before it is another task's turn.
const POLLS_PER_TURN: usize = 256;

#[derive(Default)]
struct Lists {
    woken: Vec<usize>,
    /// Whoever waits for the children; taken by the first that is woken.
    parent: Option<Waker>,
}

#[derive(Default)]
struct Woken {
    lists: Mutex<Lists>,
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Lists> {
        // Nothing that can panic runs under the lock.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ChildWaker {
    woken: Arc<Woken>,
    number: usize,
    queued: AtomicBool,
}

impl Wake for ChildWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let parent = {
            let mut lists = self.woken.lock();
            lists.woken.push(self.number);
            lists.parent.take()
        };
        if let Some(parent) = parent {
            parent.wake();
        }
    }
}

struct Child<F: ?Sized> {
    future: Pin<Box<F>>,
    state: Arc<ChildWaker>,
    waker: Waker,
}

/// The futures, by number. Dropping it drops them.
pub(super) struct Children<F: ?Sized> {
    children: Vec<Option<Child<F>>>,
    woken: Arc<Woken>,
    /// Those to be polled, in order.
    turn: VecDeque<usize>,
    /// Memory for those that were woken meanwhile.
    fresh: Vec<usize>,
    /// Numbers of children that have ended, for those to come.
    free: Vec<usize>,
    left: usize,
}

impl<F: Future + ?Sized> Children<F> {
    pub(super) fn new() -> Self {
        Self {
            children: Vec::new(),
            woken: Arc::default(),
            turn: VecDeque::new(),
            fresh: Vec::new(),
            free: Vec::new(),
            left: 0,
        }
    }

    pub(super) fn of(futures: impl IntoIterator<Item = Pin<Box<F>>>) -> Self {
        let mut children = Self::new();
        for future in futures {
            children.push(future);
        }
        children
    }

    /// Adds a child, to be polled in the next round. It may get the number of one that has ended; a late
    /// waker of that one has it polled once more than it asked for.
    pub(super) fn push(&mut self, future: Pin<Box<F>>) {
        let number = self.free.pop().unwrap_or(self.children.len());
        let state =
            Arc::new(ChildWaker { woken: Arc::clone(&self.woken), number, queued: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&state));
        let child = Some(Child { future, state, waker });
        match self.children.get_mut(number) {
            Some(place) => *place = child,
            None => self.children.push(child),
        }
        self.turn.push_back(number);
        self.left += 1;
    }

    /// How many have not ended.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Polls those that were woken, or some of them and wakes `cx` again. `done` is told of each that ends,
    /// by its number, and may break the round off.
    pub(super) fn poll_woken(
        &mut self,
        cx: &Context<'_>,
        done: impl FnMut(usize, F::Output) -> ControlFlow<()>,
    ) {
        self.poll_some(cx, POLLS_PER_TURN, done);
    }

    /// As [`poll_woken`](Self::poll_woken), but all of them.
    pub(super) fn poll_all_woken(
        &mut self,
        cx: &Context<'_>,
        done: impl FnMut(usize, F::Output) -> ControlFlow<()>,
    ) {
        self.poll_some(cx, usize::MAX, done);
    }

    fn poll_some(
        &mut self,
        cx: &Context<'_>,
        limit: usize,
        mut done: impl FnMut(usize, F::Output) -> ControlFlow<()>,
    ) {
        let parent = cx.waker().clone();
        let old = {
            let mut lists = self.woken.lock();
            std::mem::swap(&mut lists.woken, &mut self.fresh);
            lists.parent.replace(parent)
        };
        drop(old);
        self.turn.extend(self.fresh.drain(..));
        let mut polls = 0;
        while let Some(number) = self.turn.pop_front() {
            let Some(child) = &mut self.children[number] else { continue };
            // What happens from here on queues it again.
            child.state.queued.swap(false, Ordering::AcqRel);
            if let Poll::Ready(output) = child.future.as_mut().poll(&mut Context::from_waker(&child.waker)) {
                self.left -= 1;
                self.children[number] = None;
                self.free.push(number);
                if done(number, output).is_break() {
                    return;
                }
            }
            polls += 1;
            if polls >= limit && !self.turn.is_empty() {
                cx.waker().wake_by_ref();
                return;
            }
        }
    }
}

impl<F: ?Sized> fmt::Debug for Children<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_woken_children_are_polled_and_the_parent_is_woken_once() {
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let polls = Rc::new(Cell::new(0));
        let mut children = Children::of((0..10).map(|_| {
            let (given, counted) = (Rc::clone(&wakers), Rc::clone(&polls));
            let mut asked = false;
            Box::pin(poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                if std::mem::replace(&mut asked, true) {
                    return Poll::Ready(());
                }
                given.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }))
        }));
        let parent = Arc::new(Counted(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&parent));
        let cx = Context::from_waker(&waker);
        let mut ended = Vec::new();
        let mut round = |children: &mut Children<_>| {
            children.poll_woken(&cx, |number, ()| {
                ended.push(number);
                ControlFlow::Continue(())
            });
        };
        round(&mut children);
        assert_eq!((polls.get(), children.left()), (10, 10));
        for number in [7, 3, 7] {
            wakers.borrow()[number].wake_by_ref();
        }
        assert_eq!(parent.0.load(Ordering::SeqCst), 1);
        round(&mut children);
        assert_eq!((polls.get(), children.left()), (12, 8));
        // A late waker of one that has ended does no harm.
        wakers.borrow()[7].wake_by_ref();
        round(&mut children);
        assert_eq!(ended, [7, 3]);
        assert_eq!(polls.get(), 12);
        drop(children);
        wakers.borrow()[0].wake_by_ref();
    }

    #[test]
    fn children_that_come_and_go_leave_nothing_behind() {
        let mut children = Children::new();
        let cx = Context::from_waker(Waker::noop());
        let mut stays = false;
        let mut late: Option<Waker> = None;
        for round in 0..1000 {
            let first = !std::mem::replace(&mut stays, true);
            let place = Rc::new(RefCell::new(None));
            let given = Rc::clone(&place);
            children.push(Box::pin(poll_fn(move |cx: &mut Context<'_>| {
                *given.borrow_mut() = Some(cx.waker().clone());
                if first { Poll::Pending } else { Poll::Ready(round) }
            })));
            if let Some(late) = late.take() {
                late.wake();
            }
            let mut ended = Vec::new();
            children.poll_woken(&cx, |_, output| {
                ended.push(output);
                ControlFlow::Continue(())
            });
            assert_eq!(ended.len(), usize::from(!first));
            late = place.take();
        }
        assert_eq!((children.left(), children.children.len()), (1, 2));
    }

    #[test]
    fn children_can_be_woken_from_other_threads() {
        let done = Arc::new(AtomicUsize::new(0));
        let mut children = Children::of((0..4).map(|_| {
            let mut thread = None;
            Box::pin(poll_fn(move |cx| {
                if thread.is_some() {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                thread = Some(std::thread::spawn(move || waker.wake()));
                Poll::Pending
            }))
        }));
        while children.left() > 0 {
            let ended = Arc::clone(&done);
            children.poll_woken(&Context::from_waker(Waker::noop()), |_, ()| {
                ended.fetch_add(1, Ordering::SeqCst);
                ControlFlow::Continue(())
            });
            std::thread::yield_now();
        }
        assert_eq!(done.load(Ordering::SeqCst), 4);
    }
}
