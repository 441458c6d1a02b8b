//! How the reactor learns that a child has ended, without asking again and again.
//!
//! On Linux each child has a descriptor, which is readable when the child has ended. Where there is none,
//! SIGCHLD says that some child has ended, and each of ours is asked. Either way only children of this
//! reactor are reaped, each by its number.

use std::io;
use std::rc::Rc;

use super::State;
use crate::core::slots::Token;
use crate::reactor::descriptor::DescriptorWatch;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::watchdog::Hook;
use crate::sys::process::Running;

/// What tells of a child's end.
#[derive(Default)]
pub(super) enum Watch {
    /// Nothing any more: it is reaped.
    #[default]
    Over,
    Descriptor(DescriptorWatch),
    /// SIGCHLD, which is wanted once for each child.
    Signal,
}

impl Inner {
    /// Whether the ends of children are told by signal. Asked, and prepared for, before a child is started,
    /// because it may end at once.
    pub(super) fn prepare_for_child(&self) -> io::Result<ByWhat> {
        // Where the system buries children itself, only a handler of the signal keeps it from doing so.
        let by_signal =
            !cfg!(target_os = "linux") || self.config.portable || crate::sys::signal::buries_children();
        if by_signal {
            self.want_signal(libc::SIGCHLD)?;
            return Ok(ByWhat::Signal);
        }
        Ok(ByWhat::Descriptor)
    }

    /// Takes back what was prepared for a child that did not start.
    pub(super) fn unprepare_for_child(&self, by: ByWhat) {
        if by == ByWhat::Signal {
            self.unwant_signal(libc::SIGCHLD);
        }
    }

    /// Watches a child that has just started, and may have ended since.
    pub(super) fn watch_child(&self, by: ByWhat, state: &Rc<State>) -> io::Result<()> {
        let watch = match by {
            ByWhat::Signal => Watch::Signal,
            ByWhat::Descriptor => {
                let watched = match &*state.child.borrow() {
                    Some(child) => self.watch_descriptor_of(child, state),
                    None => return Ok(()),
                };
                match watched {
                    Some(watch) => Watch::Descriptor(watch),
                    None => self.watch_late(state)?,
                }
            }
        };
        *state.watch.borrow_mut() = watch;
        Ok(())
    }

    fn watch_descriptor_of(&self, child: &Running, state: &Rc<State>) -> Option<DescriptorWatch> {
        let descriptor = child.descriptor()?;
        let token = state.token.get();
        let hook = move |handle: &Handle| {
            let Some(inner) = handle.inner() else { return };
            let state = inner.processes.borrow().get(token).map(Rc::clone);
            if let Some(state) = state {
                inner.reap(&state);
            }
        };
        let watch = self.handle.add_reader(&descriptor, hook).ok()?;
        // The child itself is what `run_until_idle` waits for.
        watch.unref();
        Some(watch)
    }

    /// The signal may have come before anybody wanted it: the child is asked once without it.
    fn watch_late(&self, state: &Rc<State>) -> io::Result<Watch> {
        self.want_signal(libc::SIGCHLD)?;
        let state = Rc::downgrade(state);
        self.handle.call_soon(move |handle| {
            if let (Some(inner), Some(state)) = (handle.inner(), state.upgrade()) {
                inner.reap(&state);
            }
        });
        Ok(Watch::Signal)
    }

    /// Some child has ended: looks which.
    pub(crate) fn reap_children(&self) {
        let tokens = self.processes.borrow().tokens();
        for token in tokens {
            let state = self.processes.borrow().get(token).map(Rc::clone);
            if let Some(state) = state {
                self.reap(&state);
            }
        }
    }

    /// Reaps a child if it has ended, and says so.
    fn reap(&self, state: &Rc<State>) {
        let end = {
            let mut child = state.child.borrow_mut();
            child.as_mut().and_then(Running::reap)
        };
        let Some(end) = end else { return };
        let status = end.into();
        let child = state.child.take();
        drop(child);
        state.status.set(Some(status));
        self.stop_watching(state);
        state.unreference();
        state.close_terminal();
        state.tell_end(self, "process_exited", |protocol, process| protocol.process_exited(process, status));
        for resolver in state.exited.take() {
            resolver.resolve(Ok(status));
        }
        state.end_if_complete(self);
        self.hook_ran(Token::NOBODY, Hook::Callback);
    }

    /// Lets go of a child whose end nobody would be told of.
    pub(super) fn abandon_unwatched(&self, state: &State) {
        if !matches!(*state.watch.borrow(), Watch::Over) {
            return;
        }
        let child = state.child.take();
        if let Some(child) = child {
            child.abandon();
        }
        state.unreference();
        state.forget(self);
    }

    fn stop_watching(&self, state: &State) {
        let watch = state.watch.take();
        match watch {
            Watch::Over => {}
            Watch::Descriptor(watch) => drop(watch.remove()),
            Watch::Signal => self.unwant_signal(libc::SIGCHLD),
        }
    }
}

/// By what the end of a child is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByWhat {
    Descriptor,
    Signal,
}
