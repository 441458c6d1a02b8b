//! The reactor's side of tasks: where they live, how they are polled, how they end.
//!
//! A task is a slot. Its future is taken out of the slot while it is polled and while it is dropped, so that
//! both happen with nothing borrowed. What the future waits for keeps a waker, which puts the slot's token
//! into the callback queue; a token that comes too late names no slot any more.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem::{forget, replace};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::core::interruption::Interruption;
use crate::core::slots::{Slots, Token};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, panic_text};
use crate::reactor::remote::Inbox;
use crate::reactor::stats::Counters;
use crate::reactor::task::budget;
use crate::reactor::task::cell::{AnyTask, TaskCell};
use crate::reactor::task::waker::TaskWaker;

/// Wakers kept for tasks to come.
const SPARE_WAKERS: usize = 1024;

pub(super) type Running = Pin<Box<dyn AnyTask>>;

/// How a task ended.
pub(super) enum Ended {
    /// With this output.
    Finished(Running),
    /// Boxed: it is rare, and a task is to be small.
    Interrupted(Box<Interruption>),
}

impl Ended {
    pub(super) fn outcome<T: 'static>(self) -> Result<T, Interruption> {
        match self {
            Self::Finished(mut task) => {
                let mut output = None;
                task.as_mut().take_output(&mut output);
                output.ok_or(Interruption::Dropped)
            }
            Self::Interrupted(why) => Err(*why),
        }
    }
}

enum State {
    /// Waits to be woken, or is queued.
    Waiting(Running),
    /// Its future is out of the slot, being polled; afterwards it is cancelled if that was asked for.
    Polled { cancelled: bool },
    /// Queued to be dropped by the loop.
    Cancelled(Running),
    /// Its future is being dropped.
    Ending,
    /// The outcome waits to be taken.
    Ended(Ended),
}

pub(super) type DoneHook = Box<dyn FnOnce(&Handle, Ended)>;

/// Who wants the outcome.
enum Consumer {
    /// Nobody: the slot ends with the task.
    Nobody,
    /// A `Task` that may ask.
    Handle,
    /// A `Task` that somebody waits for.
    Waker(Waker),
    Hook(DoneHook),
}

struct TaskSlot {
    state: State,
    consumer: Consumer,
    spawned_at: &'static Location<'static>,
}

impl TaskSlot {
    fn is_live(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }
}

/// All tasks of a reactor.
pub(crate) struct Tasks {
    slots: Slots<TaskSlot>,
    /// Not in the slots: few tasks have one, and a task is to be small.
    names: BTreeMap<Token, Box<str>>,
    /// Wakers of ended tasks that nobody else holds.
    spare: Vec<Arc<TaskWaker>>,
    live: usize,
}

impl Tasks {
    pub(crate) const fn new() -> Self {
        Self { slots: Slots::new(), names: BTreeMap::new(), spare: Vec::new(), live: 0 }
    }

    /// Tasks that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// A waker for a new task.
    fn waker_of(&mut self, token: Token, inbox: &Arc<Inbox>) -> Arc<TaskWaker> {
        if let Some(mut spare) = self.spare.pop()
            && let Some(reused) = Arc::get_mut(&mut spare)
        {
            reused.reuse(token);
            return spare;
        }
        Arc::new(TaskWaker::new(Arc::clone(inbox), token))
    }

    /// The task has ended: its waker may serve another.
    fn keep_waker(&mut self, task: &mut Running) {
        if let Some(mut waker) = task.as_mut().take_waker()
            && self.spare.len() < SPARE_WAKERS
            && Arc::get_mut(&mut waker).is_some()
        {
            self.spare.push(waker);
        }
    }

    fn remove(&mut self, token: Token) -> Option<(State, Consumer)> {
        let slot = self.slots.remove(token)?;
        if !self.names.is_empty() {
            self.names.remove(&token);
        }
        Some((slot.state, slot.consumer))
    }

    fn name(&self, token: Token) -> Option<String> {
        self.names.get(&token).map(ToString::to_string)
    }

    /// How the log calls a task.
    fn label(&self, token: Token) -> Option<String> {
        let spawned_at = self.slots.get(token)?.spawned_at;
        Some(match self.names.get(&token) {
            Some(name) => format!("the task {name:?} spawned at {spawned_at}"),
            None => format!("the task spawned at {spawned_at}"),
        })
    }
}

/// What [`Handle::tasks`] tells of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Where it was spawned.
    pub spawned_at: &'static Location<'static>,
}

impl Inner {
    /// Makes a task of `future` and queues it; `None`, with the future dropped, when there is no room.
    pub(super) fn spawn<F: Future + 'static>(
        &self,
        future: F,
        spawned_at: &'static Location<'static>,
    ) -> Option<Token> {
        let mut tasks = self.tasks.borrow_mut();
        let Some(token) = tasks.slots.next_token() else {
            drop(tasks);
            self.discard(future);
            return None;
        };
        let waker = tasks.waker_of(token, &self.inbox);
        let state = State::Waiting(Box::pin(TaskCell::new(future, waker)));
        tasks.slots.insert(TaskSlot { state, consumer: Consumer::Handle, spawned_at });
        tasks.live += 1;
        drop(tasks);
        self.queue_task(token);
        Some(token)
    }

    /// Polls a task that was woken, or ends one that was cancelled.
    pub(crate) fn run_task(&self, token: Token) {
        let (mut task, spawned_at) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(slot) = tasks.slots.get_mut(token) else { return };
            let task = match replace(&mut slot.state, State::Polled { cancelled: false }) {
                State::Waiting(task) => task,
                State::Cancelled(mut task) => {
                    slot.state = State::Ending;
                    tasks.keep_waker(&mut task);
                    drop(tasks);
                    self.discard(task);
                    self.task_ended(token, Ended::Interrupted(Box::new(Interruption::Cancelled)));
                    return;
                }
                other => {
                    slot.state = other;
                    return;
                }
            };
            (task, slot.spawned_at)
        };
        Counters::bump(&self.counters.polls);
        let polled = budget::with_a_turn(|| catch_unwind(AssertUnwindSafe(|| task.as_mut().poll())));
        self.task_ran(token, spawned_at);
        let ended = match polled {
            Ok(Poll::Pending) => {
                let Some(task) = self.put_back(token, task) else { return };
                self.discard(task);
                Ended::Interrupted(Box::new(Interruption::Cancelled))
            }
            Ok(Poll::Ready(())) => {
                self.tasks.borrow_mut().keep_waker(&mut task);
                Ended::Finished(task)
            }
            Err(payload) => {
                let text = panic_text(&*payload).to_owned();
                self.panicked(&self.task_label(token).unwrap_or_default(), payload);
                if task.is_finished() {
                    // It was the destructor of the future that panicked.
                    Ended::Finished(task)
                } else {
                    self.mark_ending(token);
                    self.discard(task);
                    Ended::Interrupted(Box::new(Interruption::Panicked(text)))
                }
            }
        };
        self.task_ended(token, ended);
    }

    /// Gives a polled future back to its slot; returns it if it is to be dropped instead.
    fn put_back(&self, token: Token, task: Running) -> Option<Running> {
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(token) else { return Some(task) };
        let polled = replace(&mut slot.state, State::Waiting(task));
        if let State::Polled { cancelled: false } = polled {
            // There is nothing in it to drop; the compiler would look for it all the same.
            forget(polled);
            return None;
        }
        match replace(&mut slot.state, State::Ending) {
            State::Waiting(task) => Some(task),
            _ => None,
        }
    }

    /// A cancel that comes from here on comes too late.
    fn mark_ending(&self, token: Token) {
        if let Some(slot) = self.tasks.borrow_mut().slots.get_mut(token) {
            slot.state = State::Ending;
        }
    }

    /// Hands the outcome to whom it concerns.
    fn task_ended(&self, token: Token, ended: Ended) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(token) else {
            drop(tasks);
            self.discard(ended);
            return;
        };
        if matches!((&slot.state, &ended), (State::Polled { cancelled: true }, Ended::Finished(_))) {
            // Cancelled in its last poll: whoever did that was told that it would be.
            slot.state = State::Ending;
            drop(tasks);
            self.discard(ended);
            return self.task_ended(token, Ended::Interrupted(Box::new(Interruption::Cancelled)));
        }
        match replace(&mut slot.consumer, Consumer::Handle) {
            Consumer::Handle => {
                slot.state = State::Ended(ended);
                tasks.live -= 1;
            }
            Consumer::Waker(waker) => {
                slot.state = State::Ended(ended);
                tasks.live -= 1;
                drop(tasks);
                self.contain("a waker", || waker.wake());
            }
            Consumer::Nobody => {
                tasks.live -= 1;
                let removed = tasks.remove(token);
                drop(tasks);
                self.discard(removed);
                self.discard(ended);
            }
            Consumer::Hook(hook) => {
                let label = tasks.label(token).unwrap_or_default();
                tasks.live -= 1;
                let removed = tasks.remove(token);
                drop(tasks);
                self.discard(removed);
                self.contain(format_args!("the hook at the end of {label}"), || hook(&self.handle, ended));
                self.hook_ran(Token::NOBODY, crate::reactor::watchdog::Hook::Callback);
            }
        }
    }

    /// Marks a task as cancelled; the loop drops its future. False when it has ended, or was cancelled
    /// before.
    pub(super) fn cancel_task(&self, token: Token) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(token) else { return false };
        match replace(&mut slot.state, State::Ending) {
            State::Waiting(task) => {
                let is_to_be_queued = task.claim();
                slot.state = State::Cancelled(task);
                drop(tasks);
                if is_to_be_queued {
                    self.queue_task(token);
                }
                true
            }
            State::Polled { cancelled } => {
                slot.state = State::Polled { cancelled: true };
                !cancelled
            }
            other => {
                slot.state = other;
                false
            }
        }
    }

    /// Takes the outcome of a task; if there is none yet, `cx` is woken when there is.
    pub(super) fn poll_task(&self, token: Token, cx: &Context<'_>) -> Poll<Ended> {
        let waker = cx.waker();
        let mut tasks = self.tasks.borrow_mut();
        let gone = || Poll::Ready(Ended::Interrupted(Box::new(Interruption::Dropped)));
        let Some(slot) = tasks.slots.get_mut(token) else { return gone() };
        if slot.is_live() {
            if matches!(&slot.consumer, Consumer::Waker(old) if old.will_wake(waker)) {
                return Poll::Pending;
            }
            drop(tasks);
            // Foreign code, as far as anybody knows: nothing is borrowed while it is cloned.
            let mut consumer = Consumer::Waker(waker.clone());
            if let Some(slot) = self.tasks.borrow_mut().slots.get_mut(token) {
                std::mem::swap(&mut slot.consumer, &mut consumer);
            }
            self.discard(consumer);
            return Poll::Pending;
        }
        drop(tasks);
        // It may wake this very task.
        ready!(budget::poll_turn(cx));
        let removed = self.tasks.borrow_mut().remove(token);
        match removed {
            Some((State::Ended(ended), _)) => Poll::Ready(ended),
            other => {
                self.discard(other);
                gone()
            }
        }
    }

    /// Has `hook` called with the outcome, from the loop.
    pub(super) fn hook_task(&self, token: Token, hook: DoneHook) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(token) else {
            drop(tasks);
            self.handle.call_soon(move |handle| {
                hook(handle, Ended::Interrupted(Box::new(Interruption::Dropped)));
            });
            return;
        };
        if slot.is_live() {
            let old = replace(&mut slot.consumer, Consumer::Hook(hook));
            drop(tasks);
            self.discard(old);
            return;
        }
        let removed = tasks.remove(token);
        drop(tasks);
        if let Some((State::Ended(ended), consumer)) = removed {
            self.discard(consumer);
            self.handle.call_soon(move |handle| hook(handle, ended));
        }
    }

    /// The `Task` is gone. A task that somebody waited for through it is cancelled; another goes on.
    pub(super) fn let_go_of_task(&self, token: Token) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(token) else { return };
        if slot.is_live() {
            let old = replace(&mut slot.consumer, Consumer::Nobody);
            drop(tasks);
            if matches!(old, Consumer::Waker(_)) {
                self.cancel_task(token);
            }
            self.discard(old);
        } else {
            let removed = tasks.remove(token);
            drop(tasks);
            self.discard(removed);
        }
    }

    /// Nobody wants the outcome any more; the task goes on.
    pub(super) fn detach_task(&self, token: Token) {
        let mut forgotten = None;
        if let Some(slot) = self.tasks.borrow_mut().slots.get_mut(token)
            && let Consumer::Waker(waker) = replace(&mut slot.consumer, Consumer::Handle)
        {
            forgotten = Some(waker);
        }
        self.discard(forgotten);
        self.let_go_of_task(token);
    }

    /// Whether a task's outcome is there, or will never be.
    pub(crate) fn has_task_ended(&self, token: Token) -> bool {
        self.tasks.borrow().slots.get(token).is_none_or(|slot| !slot.is_live())
    }

    pub(super) fn name_task(&self, token: Token, name: &str) {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.slots.get(token).is_some() {
            tasks.names.insert(token, name.into());
        }
    }

    pub(super) fn task_name(&self, token: Token) -> Option<String> {
        self.tasks.borrow().name(token)
    }

    /// How the log calls a task.
    pub(crate) fn task_label(&self, token: Token) -> Option<String> {
        self.tasks.borrow().label(token)
    }

    pub(super) fn task_infos(&self) -> Vec<TaskInfo> {
        let tasks = self.tasks.borrow();
        let live = tasks.slots.iter().filter(|(_, slot)| slot.is_live());
        live.map(|(token, slot)| TaskInfo { name: tasks.name(token), spawned_at: slot.spawned_at }).collect()
    }

    /// Drops the futures of all tasks that have not ended, with whoever waits for them; no hook is called.
    /// False when there were none.
    pub(crate) fn drop_tasks(&self) -> bool {
        let tokens: Vec<_> = {
            let tasks = self.tasks.borrow();
            tasks.slots.iter().filter(|(_, slot)| slot.is_live()).map(|(token, _)| token).collect()
        };
        for &token in &tokens {
            let taken = {
                let mut tasks = self.tasks.borrow_mut();
                let Some(slot) = tasks.slots.get_mut(token).filter(|slot| slot.is_live()) else { continue };
                let why = Ended::Interrupted(Box::new(Interruption::Cancelled));
                let state = replace(&mut slot.state, State::Ended(why));
                let is_held = matches!(slot.consumer, Consumer::Handle | Consumer::Waker(_));
                let consumer = replace(&mut slot.consumer, Consumer::Handle);
                tasks.live -= 1;
                let removed = if is_held { None } else { tasks.remove(token) };
                (state, consumer, removed)
            };
            self.discard(taken.0);
            self.discard(taken.1);
            self.discard(taken.2);
        }
        !tokens.is_empty()
    }

    /// Drops the outcomes that nobody took as well, at the end of the reactor.
    pub(crate) fn drop_outcomes(&self) {
        let tokens = self.tasks.borrow().slots.tokens();
        for token in tokens {
            let removed = self.tasks.borrow_mut().remove(token);
            if let Some((state, consumer)) = removed {
                self.discard(state);
                self.discard(consumer);
            }
        }
        let mut tasks = self.tasks.borrow_mut();
        tasks.live = 0;
        tasks.spare = Vec::new();
    }
}
