//! Watching descriptors of any kind: [`Handle::add_reader`], [`Handle::add_writer`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::core::slots::Token;
use crate::driver::Interest;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::stats::Counters;
use crate::reactor::watchdog::Hook;

type Ready = Box<dyn FnMut(&Handle)>;

/// A watched descriptor inside the reactor.
pub(crate) struct Watched {
    token: Token,
    interest: Interest,
    is_paused: Cell<bool>,
    referenced: Cell<bool>,
    /// Not here while it runs, and after the end.
    hook: RefCell<Option<Ready>>,
}

/// A descriptor that is watched for being ready. Dropping it changes nothing.
#[derive(Clone)]
pub struct DescriptorWatch {
    handle: Handle,
    watched: Rc<Watched>,
}

impl DescriptorWatch {
    /// Ends the watch, at once: its hook is not called any more, even if the descriptor is ready already.
    /// False when it has ended before.
    pub fn remove(&self) -> bool {
        self.handle.inner().is_some_and(|inner| inner.end_watch(self.watched.token))
    }

    /// Does not call the hook for a while.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Calls the hook again.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    /// Whether the descriptor is watched, paused or not.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.handle.inner().is_some_and(|inner| inner.watched(self.watched.token).is_some())
    }

    /// Does not let [`Reactor::run_until_idle`](crate::Reactor::run_until_idle) wait for this watch.
    pub fn unref(&self) {
        if self.watched.referenced.replace(false)
            && let Some(inner) = self.handle.inner()
        {
            inner.referenced_ports.set(inner.referenced_ports.get() - 1);
        }
    }

    fn set_paused(&self, paused: bool) {
        if let Some(inner) = self.handle.inner()
            && inner.watched(self.watched.token).is_some()
        {
            self.watched.is_paused.set(paused);
            let interest = if paused { Interest::NONE } else { self.watched.interest };
            inner.set_interest(self.watched.token, interest);
        }
    }
}

impl fmt::Debug for DescriptorWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DescriptorWatch").field("active", &self.is_active()).finish()
    }
}

impl Handle {
    /// Has the loop call `hook` whenever `descriptor` can be read from, or has ended: a socket, a pipe, a
    /// terminal, an eventfd, an inotify instance, whatever can be polled. The level counts: what the hook
    /// leaves unread is reported again. Reading is the hook's own business, and must not block.
    ///
    /// A regular file, which no poller takes, counts as always ready.
    ///
    /// The reactor keeps a duplicate of the descriptor, so that closing yours does not end the watch;
    /// [`DescriptorWatch::remove`] does. A hook that panics ends it, too.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use twistor::Reactor;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (mut ours, mut theirs) = UnixStream::pair()?;
    /// let reactor = Reactor::new()?;
    /// reactor.add_reader(&ours.try_clone()?, move |reactor| {
    ///     let mut buffer = [0; 100];
    ///     let count = ours.read(&mut buffer).unwrap();
    ///     assert_eq!(&buffer[..count], b"hello");
    ///     reactor.stop();
    /// })?;
    /// theirs.write_all(b"hello")?;
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The descriptor cannot be duplicated or polled.
    pub fn add_reader(
        &self,
        descriptor: &impl AsFd,
        hook: impl FnMut(&Self) + 'static,
    ) -> io::Result<DescriptorWatch> {
        self.add_watch(descriptor, Interest::READ, Box::new(hook))
    }

    /// Has the loop call `hook` whenever `descriptor` can be written to. As [`add_reader`](Self::add_reader)
    /// otherwise; most descriptors are ready for this most of the time, so pause or remove the watch when
    /// there is nothing to write.
    ///
    /// # Errors
    ///
    /// As [`add_reader`](Self::add_reader).
    pub fn add_writer(
        &self,
        descriptor: &impl AsFd,
        hook: impl FnMut(&Self) + 'static,
    ) -> io::Result<DescriptorWatch> {
        self.add_watch(descriptor, Interest::WRITE, Box::new(hook))
    }

    fn add_watch(
        &self,
        descriptor: &impl AsFd,
        interest: Interest,
        hook: Ready,
    ) -> io::Result<DescriptorWatch> {
        let inner = self.alive()?;
        let duplicate = descriptor.as_fd().try_clone_to_owned()?;
        let token = inner.reserve()?;
        let begun = inner.driver.borrow_mut().watch_descriptor(token, duplicate);
        if let Err(error) = begun {
            inner.slots.borrow_mut().remove(token);
            return Err(io::Error::new(error.kind(), format!("cannot watch the descriptor: {error}")));
        }
        let watched = Rc::new(Watched {
            token,
            interest,
            is_paused: Cell::new(false),
            referenced: Cell::new(true),
            hook: RefCell::new(Some(hook)),
        });
        if let Some(slot) = inner.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Descriptor(Rc::clone(&watched));
        }
        inner.referenced_ports.set(inner.referenced_ports.get() + 1);
        inner.set_interest(token, interest);
        Ok(DescriptorWatch { handle: self.clone(), watched })
    }
}

impl Watched {
    /// Takes the hook out, to be dropped with nothing borrowed.
    pub(crate) fn end(&self) -> Option<Ready> {
        self.hook.borrow_mut().take()
    }
}

impl Inner {
    fn watched(&self, token: Token) -> Option<Rc<Watched>> {
        match self.slots.borrow().get(token) {
            Some(Slot::Descriptor(watched)) => Some(Rc::clone(watched)),
            _ => None,
        }
    }

    pub(crate) fn descriptor_ready(&self, token: Token) {
        let Some(watched) = self.watched(token) else {
            Counters::bump(&self.counters.stale);
            return;
        };
        if watched.is_paused.get() {
            return;
        }
        let Some(mut hook) = watched.end() else { return };
        let outcome = self.contain("a hook of a descriptor", || hook(&self.handle));
        self.hook_ran(Token::NOBODY, Hook::Callback);
        if outcome.is_some() && self.watched(token).is_some() {
            *watched.hook.borrow_mut() = Some(hook);
        } else {
            self.end_watch(token);
            self.discard(hook);
        }
    }

    fn end_watch(&self, token: Token) -> bool {
        let Some(watched) = self.watched(token) else { return false };
        self.driver.borrow_mut().close(token);
        let slot = self.slots.borrow_mut().remove(token);
        drop(slot);
        if watched.referenced.replace(false) {
            self.referenced_ports.set(self.referenced_ports.get() - 1);
        }
        self.discard(watched.end());
        true
    }
}
