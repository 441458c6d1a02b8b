//! How hooks of a protocol are called.
//!
//! Every one goes through [`Inner::enter`] and [`Inner::leave`]: the protocol is taken out of its cell,
//! called with nothing borrowed, put back, and its connection [tended](Inner::tend). (But for the one path
//! that has to be short: [`Inner::received`].)

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::core::slots::Token;
use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::protocol::Protocol;
use crate::reactor::inner::{Inner, TypedCall};
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;
use crate::reactor::watchdog::Hook;

impl Inner {
    /// Takes the protocol out of its cell, so that it can be called.
    pub(super) fn enter(&self, token: Token) -> Option<(Transport, Box<dyn Protocol>)> {
        let transport = self.transport(token)?;
        let protocol = transport.0.protocol.take()?;
        transport.0.attended.set(true);
        if transport.0.may_switch() {
            let protocol = self.apply_switch(&transport, protocol);
            return Some((transport, protocol));
        }
        Some((transport, protocol))
    }

    /// Puts the protocol back after its hook and does what the hook asked for.
    pub(super) fn leave<R>(
        &self,
        transport: &Transport,
        mut protocol: Box<dyn Protocol>,
        hook: Hook,
        outcome: thread::Result<R>,
    ) -> Option<R> {
        self.hook_ran(transport.0.token, hook);
        let value = match outcome {
            Ok(value) => Some(value),
            Err(payload) => {
                self.hook_panicked(transport, &*protocol, hook, payload);
                None
            }
        };
        if transport.0.may_switch() {
            protocol = self.apply_switch(transport, protocol);
        }
        self.leave_uncalled(transport, protocol);
        value
    }

    #[cold]
    pub(super) fn hook_panicked(
        &self,
        transport: &Transport,
        protocol: &dyn Protocol,
        hook: Hook,
        payload: Box<dyn Any + Send>,
    ) {
        let what = format!(
            "{}::{} ({}, peer {})",
            protocol.type_name(),
            hook.name(),
            transport.id(),
            transport.peer_addr()
        );
        self.panicked(&what, payload);
        transport.0.machine.borrow_mut().lose(Reason::Panicked, End::Abrupt, transport.pool());
    }

    /// Calls `f` with the protocol of an open connection.
    pub(crate) fn call_hook<R>(
        &self,
        token: Token,
        hook: Hook,
        f: impl FnOnce(&mut dyn Protocol, &Transport) -> R,
    ) -> Option<R> {
        let (transport, mut protocol) = self.enter(token)?;
        if !transport.0.machine.borrow().is_open() {
            self.leave_uncalled(&transport, protocol);
            return None;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *protocol, &transport)));
        self.leave(&transport, protocol, hook, outcome)
    }

    pub(super) fn leave_uncalled(&self, transport: &Transport, protocol: Box<dyn Protocol>) {
        transport.0.put_back(protocol);
        transport.0.attended.set(false);
        self.tend(transport);
    }

    /// Installs the protocol that `switch_protocol` left, and greets it, until no further one is left.
    #[cold]
    fn apply_switch(&self, transport: &Transport, mut protocol: Box<dyn Protocol>) -> Box<dyn Protocol> {
        while let Some(mut next) = transport.with_extra(|extra| extra.switch.take()) {
            if !transport.0.machine.borrow().is_open() {
                self.discard(next);
                continue;
            }
            transport.0.protocol_type.set(Any::type_id(&*next));
            let made = catch_unwind(AssertUnwindSafe(|| next.connection_made(transport)));
            self.hook_ran(transport.0.token, Hook::ConnectionMade);
            if let Err(payload) = made {
                self.hook_panicked(transport, &*next, Hook::ConnectionMade, payload);
            }
            self.discard(std::mem::replace(&mut protocol, next));
        }
        transport.release_unused_extra();
        protocol
    }

    /// Runs a closure that was posted to the protocol.
    pub(crate) fn run_typed(&self, token: Token, hook: Hook, call: TypedCall) {
        // The closure is a user's value: when it is not called it is dropped here, with nothing borrowed.
        let mut call = Some(call);
        let ran = self.call_hook(token, hook, |protocol, transport| {
            call.take().is_some_and(|call| call(protocol, transport))
        });
        if ran != Some(true) {
            Counters::bump(&self.counters.dropped_posts);
        }
        self.discard(call);
    }

    /// Switches before it is decided what the protocol is told next: a new one may pause or close when it is
    /// greeted.
    pub(super) fn switch_first(&self, transport: &Transport) {
        if transport.0.may_switch() {
            self.call_hook_if_switching(transport);
        }
    }

    #[cold]
    pub(super) fn call_hook_if_switching(&self, transport: &Transport) {
        if transport.with_extra(|extra| extra.switch.is_some())
            && let Some((transport, protocol)) = self.enter(transport.0.token)
        {
            self.leave_uncalled(&transport, protocol);
        }
    }
}
