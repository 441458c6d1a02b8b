//! Channels into the loop: values sent from any thread, heard by a closure on the loop's thread.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::core::slots::Token;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::remote::{Inbox, Refusal, SendError};
use crate::reactor::watchdog::Hook;

type Receive<T> = Box<dyn FnMut(&Handle, T)>;

/// The sending end of a channel into the loop. Clones send to the same receiver.
pub struct Sender<T> {
    line: Arc<Line>,
    values: std::marker::PhantomData<fn(T)>,
}

/// What the senders of a channel and the values on their way share.
struct Line {
    inbox: Arc<Inbox>,
    receiver: Token,
    waiting: AtomicUsize,
    capacity: usize,
}

/// Nobody sends any more, and what was sent was heard: the receiver can go.
impl Drop for Line {
    fn drop(&mut self) {
        let receiver = self.receiver;
        self.inbox.push_always(Box::new(move |handle| {
            if let Some(inner) = handle.inner() {
                let receive = inner.channels.borrow_mut().remove(receiver);
                inner.discard(receive);
            }
        }));
    }
}

impl<T: Send + 'static> Sender<T> {
    /// Sends `value` to the loop. Values and calls of one thread arrive in order. Never blocks.
    ///
    /// # Errors
    ///
    /// The channel or the reactor's inbox is full, or the reactor is gone. The value comes back in the error.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let line = &self.line;
        if line.waiting.fetch_add(1, Ordering::Relaxed) >= line.capacity {
            line.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(SendError::Full(value));
        }
        let mut value = Some(value);
        let pushed: Result<(), Refusal> = line.inbox.push(|| {
            let (value, line) = (value.take(), Arc::clone(line));
            Box::new(move |handle: &Handle| {
                line.waiting.fetch_sub(1, Ordering::Relaxed);
                if let (Some(inner), Some(value)) = (handle.inner(), value) {
                    inner.receive(line.receiver, value);
                }
            })
        });
        match (pushed, value) {
            (Err(refusal), Some(value)) => {
                line.waiting.fetch_sub(1, Ordering::Relaxed);
                Err(refusal.with(value))
            }
            _ => Ok(()),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { line: Arc::clone(&self.line), values: std::marker::PhantomData }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("waiting", &self.line.waiting.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn channel<T: Send + 'static>(
        &self,
        capacity: usize,
        receive: impl FnMut(&Handle, T) + 'static,
    ) -> Sender<T> {
        let receive: Receive<T> = Box::new(receive);
        let receiver = self.channels.borrow_mut().insert(Some(Box::new(receive)));
        let line = Line {
            inbox: Arc::clone(&self.inbox),
            receiver: receiver.expect("a billion channels are not made"),
            waiting: AtomicUsize::new(0),
            capacity: capacity.max(1),
        };
        Sender { line: Arc::new(line), values: std::marker::PhantomData }
    }

    /// Hands a value to the receiver of a channel.
    fn receive<T: 'static>(&self, receiver: Token, value: T) {
        let taken = self.channels.borrow_mut().get_mut(receiver).and_then(Option::take);
        let Some(mut boxed) = taken else { return };
        let any: &mut dyn Any = &mut *boxed;
        if let Some(receive) = any.downcast_mut::<Receive<T>>() {
            self.contain("a channel's receiver", || receive(&self.handle, value));
            self.hook_ran(Token::NOBODY, Hook::Callback);
        }
        if let Some(slot) = self.channels.borrow_mut().get_mut(receiver) {
            *slot = Some(boxed);
        }
    }
}
