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
    inbox: Arc<Inbox>,
    receiver: Token,
    waiting: Arc<AtomicUsize>,
    capacity: usize,
    values: std::marker::PhantomData<fn(T)>,
}

impl<T: Send + 'static> Sender<T> {
    /// Sends `value` to the loop. Values and calls of one thread arrive in order. Never blocks.
    ///
    /// # Errors
    ///
    /// The channel or the reactor's inbox is full, or the reactor is gone. The value comes back in the error.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(SendError::Full(value));
        }
        let mut value = Some(value);
        let pushed: Result<(), Refusal> = self.inbox.push(|| {
            let (value, receiver, waiting) = (value.take(), self.receiver, Arc::clone(&self.waiting));
            Box::new(move |handle: &Handle| {
                waiting.fetch_sub(1, Ordering::Relaxed);
                if let (Some(inner), Some(value)) = (handle.inner(), value) {
                    inner.receive(receiver, value);
                }
            })
        });
        match (pushed, value) {
            (Err(refusal), Some(value)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                Err(refusal.with(value))
            }
            _ => Ok(()),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            inbox: Arc::clone(&self.inbox),
            receiver: self.receiver,
            waiting: Arc::clone(&self.waiting),
            capacity: self.capacity,
            values: std::marker::PhantomData,
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("waiting", &self.waiting.load(Ordering::Relaxed))
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
        Sender {
            inbox: Arc::clone(&self.inbox),
            receiver: receiver.expect("a billion channels are not made"),
            waiting: Arc::new(AtomicUsize::new(0)),
            capacity: capacity.max(1),
            values: std::marker::PhantomData,
        }
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
