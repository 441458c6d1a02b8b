//! [`Transport`]: what a protocol holds of its connection.
//!
//! Every method only edits state: it queues bytes, sets flags and asks for attention. The pass does the rest,
//! so that a method never calls a hook and can be called from any of them.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::core::address::Address;
use crate::core::interruption::Interruption;
use crate::core::outbox::{FileRange, SHARE_FROM};
use crate::core::pool::Pool;
use crate::core::pruned;
use crate::core::slots::Token;
use crate::core::wheel::TimerId;
use crate::driver::Interest;
use crate::endpoint::KeepAlive;
use crate::net::connection::{Connection as Machine, End, Room, Written};
use crate::net::ends::Ends;
use crate::net::reason::Reason;
use crate::net::timeouts::Timeouts;
use crate::net::tls::Tls;
use crate::protocol::Protocol;
use crate::reactor::deferred::{Deferred, Resolver};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, TypedCall};
use crate::reactor::looping::LoopingCall;
use crate::reactor::relay::RelayOut;
use crate::reactor::stats::Counters;
use crate::reactor::timers::{DelayedCall, Timer};
use crate::reactor::typed::Connection;
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// A connection, as its protocol sees it: write to it, pause it, end it, ask about it.
///
/// A `Transport` is a cheap handle on the connection's state. Hooks are lent one; a clone can be kept to
/// write from elsewhere, and changes nothing by being dropped. After the connection is lost every method
/// still works and does nothing; the addresses stay readable.
///
/// What is written in a hook of the connection itself goes out when the hook returns; what is written from
/// elsewhere goes out at the end of the pass. No method ever calls a hook.
#[derive(Clone)]
pub struct Transport(pub(crate) Rc<Link>);

/// What all handles of one connection share.
pub(crate) struct Link {
    handle: Handle,
    pool: Rc<Pool>,
    pub(crate) token: Token,
    ends: Ends,
    pub(crate) machine: RefCell<Machine>,
    pub(crate) extra: RefCell<Option<Box<Extra>>>,
    /// Only the dispatcher touches it; empty while one of its hooks runs, and after the loss. (A protocol
    /// that keeps its own transport makes a cycle, which the loss breaks.)
    pub(crate) protocol: Cell<Option<Box<dyn Protocol>>>,
    pub(crate) protocol_type: Cell<TypeId>,
    /// The reactor will look after it without being asked: a hook of its own runs, or it is on the list.
    pub(crate) attended: Cell<bool>,
    pub(crate) awaits_redelivery: Cell<bool>,
    /// What the driver was told to watch it for.
    pub(crate) interest: Cell<Interest>,
}

/// Users' values that belong to a connection; few connections have any.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) switch: Option<Box<dyn Protocol>>,
    /// Who waits until the kernel has taken the bytes up to a position.
    pub(crate) flushed: Vec<(u64, Resolver<(), Reason>)>,
    /// Who waits for TLS to begin.
    #[cfg(feature = "tls")]
    pub(crate) secured: Option<Resolver<crate::tls::TlsInfo, Reason>>,
    /// Who waits for the loss.
    pub(crate) lost: Vec<Resolver<Reason, Interruption>>,
    pub(crate) relay_out: Option<Box<RelayOut>>,
    pub(crate) relay_from: Option<Transport>,
    pub(crate) timers: Vec<TimerId>,
    pub(crate) loops: Vec<LoopingCall>,
}

impl Extra {
    fn is_unused(&self) -> bool {
        let Self { switch, flushed, lost, relay_out, relay_from, timers, loops, .. } = self;
        #[cfg(feature = "tls")]
        if self.secured.is_some() {
            return false;
        }
        switch.is_none()
            && flushed.is_empty()
            && lost.is_empty()
            && relay_out.is_none()
            && relay_from.is_none()
            && timers.is_empty()
            && loops.is_empty()
    }
}

/// A write of at least this many bytes in a hook of the connection itself is offered to the kernel at once,
/// not when the hook returns: to copy it first would cost more than a system call that other writes could
/// share.
pub(crate) const AT_ONCE_FROM: usize = 32 * 1024;

impl Link {
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Puts the protocol back after its hook.
    #[inline]
    pub(crate) fn put_back(&self, protocol: Box<dyn Protocol>) {
        // The cell is empty while a hook runs: there is nothing to drop.
        std::mem::forget(self.protocol.replace(Some(protocol)));
    }

    /// Whether a hook of this connection runs: then its protocol is not here.
    fn is_in_hook(&self) -> bool {
        match self.protocol.take() {
            Some(protocol) => {
                self.put_back(protocol);
                false
            }
            None => true,
        }
    }

    /// Whether a protocol may be waiting to be switched to.
    #[inline]
    pub(crate) fn may_switch(&self) -> bool {
        !self.machine.borrow().is_at_peace() && self.extra.borrow().is_some()
    }
}

/// Names a connection of a reactor: to look a transport up with
/// [`Handle::transport`](crate::Handle::transport), to log it, to use it as a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportId(pub(crate) Token);

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransportId({:?})", self.0)
    }
}

/// What one connection has moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TransportStats {
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// Bytes queued and not yet taken.
    pub bytes_queued: usize,
}

impl Transport {
    pub(crate) fn new(
        inner: &Inner,
        token: Token,
        peer: Address,
        local: Address,
        protocol: Box<dyn Protocol>,
    ) -> Self {
        Self::with_machine(inner, token, Ends::new(peer, local), Machine::new(), protocol)
    }

    pub(crate) fn with_machine(
        inner: &Inner,
        token: Token,
        ends: Ends,
        machine: Machine,
        protocol: Box<dyn Protocol>,
    ) -> Self {
        Self(Rc::new(Link {
            handle: inner.handle.clone(),
            pool: Rc::clone(&inner.pool),
            token,
            ends,
            machine: RefCell::new(machine),
            extra: RefCell::new(None),
            protocol_type: Cell::new(Any::type_id(&*protocol)),
            protocol: Cell::new(Some(protocol)),
            attended: Cell::new(false),
            awaits_redelivery: Cell::new(false),
            interest: Cell::new(Interest::READ),
        }))
    }

    // Writing.

    /// Queues a copy of `data`. Dropped when the connection is closing or lost. In a hook of the connection
    /// itself a large `data` is not copied as far as the kernel takes it at once.
    ///
    /// When more than the write limit is queued already, the connection is aborted with
    /// [`Reason::WriteLimit`]: its peer does not read.
    #[inline]
    pub fn write(&self, data: &[u8]) {
        if self.0.machine.borrow_mut().write_small(data, &self.0.pool) {
            self.attend();
        } else {
            self.write_any(data);
        }
    }

    #[inline(never)]
    fn write_any(&self, mut data: &[u8]) {
        if data.len() >= AT_ONCE_FROM
            && self.0.is_in_hook()
            && let Some(inner) = self.inner()
        {
            data = &data[inner.send_at_once(self, data)..];
        }
        let written = self.0.machine.borrow_mut().write(data, &self.0.pool);
        self.after_write(written);
    }

    /// Queues `bytes`: by reference when they are large, so that the kernel reads them where they are.
    pub fn write_bytes(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if bytes.len() < SHARE_FROM {
            // Dropped at the end, with nothing borrowed: the destructor of shared bytes may be user code.
            return self.write(&bytes);
        }
        let (written, copied) = self.0.machine.borrow_mut().write_bytes(bytes, &self.0.pool);
        self.after_write(written);
        drop(copied);
    }

    /// Queues copies of several buffers, in order.
    pub fn write_vectored(&self, buffers: &[IoSlice<'_>]) {
        for buffer in buffers {
            self.write(buffer);
        }
    }

    /// Queues formatted text: what `write!(transport, "…")` calls.
    ///
    /// ```
    /// # fn hook(transport: &twistor::Transport) {
    /// write!(transport, "{} of {}\r\n", 3, 7);
    /// # }
    /// ```
    pub fn write_fmt(&self, text: fmt::Arguments<'_>) {
        /// Adapts a transport to the formatter.
        struct Writer<'t>(&'t Transport);
        impl fmt::Write for Writer<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        // An error can only come from a `Display` of the user's; what it has written so far stays.
        let _ = fmt::write(&mut Writer(self), text);
    }

    /// Queues a copy of `data` only if it fits below the limits; false, with nothing queued, if not or if the
    /// connection takes no more output.
    #[must_use = "false means that nothing was written"]
    pub fn try_write(&self, data: &[u8]) -> bool {
        let fits = self.0.machine.borrow_mut().try_write(data, &self.0.pool);
        if fits {
            self.attend();
        }
        fits
    }

    /// Queues a range of bytes of `file`, in order with what else is written, and tells when the kernel has
    /// taken it. Files do not count towards marks and limits: they cost no memory.
    ///
    /// A file that turns out shorter than the range ends the connection with [`Reason::Failed`], because the
    /// peer was promised more. An error that nobody takes is logged at the level debug only:
    /// `connection_lost` tells it.
    #[track_caller]
    pub fn send_file(&self, file: File, range: Range<u64>) -> Deferred<(), Reason> {
        // Offsets are signed for the kernel; what is asked for beyond is missing from every file.
        let remaining = range.end.min(i64::MAX as u64).saturating_sub(range.start);
        let range = FileRange { file, offset: range.start, remaining };
        let written = self.0.machine.borrow_mut().write_file(range, &self.0.pool);
        self.after_write(written);
        self.flushed()
    }

    /// Queues a copy of `data` with a descriptor on its first byte: the peer's process gets a duplicate of
    /// it, before the bytes. Both ends have to be Unix sockets, and the peer has to [ask for
    /// descriptors](crate::endpoint::UnixConnect::descriptors).
    ///
    /// ```no_run
    /// # use std::fs::File;
    /// # fn hook(transport: &twistor::Transport) -> std::io::Result<()> {
    /// transport.send_descriptor(File::open("/var/log/messages")?, b"the log\n")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// This is no Unix socket, or `data` is empty: a descriptor needs a byte to ride on.
    #[cfg(unix)]
    pub fn send_descriptor(
        &self,
        descriptor: impl Into<std::os::fd::OwnedFd>,
        data: &[u8],
    ) -> io::Result<()> {
        if self.peer_addr().unix().is_none() || self.0.machine.borrow().tls().is_some() {
            let text = "only Unix sockets without TLS pass descriptors";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        if data.is_empty() {
            let text = "a descriptor needs at least one byte to ride on";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (descriptor, data) = (descriptor.into(), Bytes::copy_from_slice(data));
        let written = self.0.machine.borrow_mut().write_passed(descriptor, data, &self.0.pool);
        self.after_write(written);
        Ok(())
    }

    /// Who is at the other end, as the kernel vouches for it: the process that connected, or that listens, as
    /// it was when it did so.
    ///
    /// # Errors
    ///
    /// This is no Unix socket, the connection is lost, or the system does not tell.
    #[cfg(unix)]
    pub fn peer_credentials(&self) -> io::Result<crate::Credentials> {
        self.0.handle.alive()?.driver.borrow_mut().peer_credentials(self.0.token)
    }

    /// Fires when the kernel has taken all that is queued so far, or fails with the reason of the loss. An
    /// error that nobody takes is logged at the level debug only: `connection_lost` tells it.
    #[track_caller]
    pub fn flushed(&self) -> Deferred<(), Reason> {
        let (resolver, deferred) = Deferred::new(&self.0.handle);
        let deferred = deferred.hushed();
        let (position, reason, waiting) = {
            let machine = self.0.machine.borrow();
            // After a failed send the loss is on its way, and nothing more will be taken.
            let waiting = machine.has_output() || machine.sending_has_failed();
            let position = if machine.sending_has_failed() { u64::MAX } else { machine.position() };
            (position, machine.reason().cloned(), waiting)
        };
        if let Some(reason) = reason {
            resolver.resolve(Err(reason));
        } else if waiting {
            self.with_extra(|extra| extra.flushed.push((position, resolver)));
        } else {
            resolver.resolve(Ok(()));
        }
        deferred
    }

    /// Fires when the connection is lost, after its protocol was told, with the reason.
    #[track_caller]
    pub fn lost(&self) -> Deferred<Reason, Interruption> {
        let (resolver, deferred) = Deferred::new(&self.0.handle);
        // Once its loss was reported, nobody finds it any more.
        let is_over = self.inner().is_none_or(|inner| inner.transport(self.0.token).is_none());
        let reason = self.0.machine.borrow().reason().cloned().filter(|_| is_over);
        match reason {
            Some(reason) => drop(resolver.resolve(Ok(reason))),
            None => self.with_extra(|extra| extra.lost.push(resolver)),
        }
        deferred
    }

    #[inline]
    fn after_write(&self, written: Written) {
        match written {
            Written::Queued => self.attend(),
            Written::Dropped => {}
            Written::Overflow => self.over_limit(),
        }
    }

    #[cold]
    fn over_limit(&self) {
        if let Some(inner) = self.inner() {
            Counters::bump(&inner.counters.write_limit_hits);
        }
        log::warn!("{}: aborted, because it does not read what is written for it", self.0.ends.peer());
        self.attend();
    }

    // Reading.

    /// Stops input at once: no `data_received` until [`resume_reading`](Self::resume_reading). Nothing is
    /// lost.
    pub fn pause_reading(&self) {
        self.0.machine.borrow_mut().pause_reading();
        self.update_interest();
        self.attend();
    }

    /// Lets input flow again.
    pub fn resume_reading(&self) {
        self.0.machine.borrow_mut().resume_reading();
        self.update_interest();
        self.attend();
    }

    /// Whether input is not paused.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.0.machine.borrow().is_reading()
    }

    /// Gives back bytes that the protocol cannot use yet: they are delivered again, before anything newer, in
    /// a later call of `data_received`, and never while reading is paused.
    ///
    /// This is for a protocol that pauses in the middle of a chunk, or hands the connection over with
    /// [`switch_protocol`](Self::switch_protocol). Bytes of an incomplete message are better kept: given
    /// back, they return in the very next pass. Of several calls in one hook, what was given back last comes
    /// first. More than the unread limit (1 MiB) ends the connection with [`Reason::Failed`].
    pub fn unread(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let limit = self.inner().map_or(0, |inner| inner.config.unread_limit);
        if bytes.is_empty() || !self.0.machine.borrow().is_open() {
            return;
        }
        #[cfg(feature = "tls")]
        if self.0.machine.borrow().tls().is_some_and(Tls::is_in_handshake) {
            if let Some(inner) = self.inner() {
                Counters::bump(&inner.counters.tls_failures);
            }
            return self.end(Reason::Tls(TlsError::Injected), End::Abrupt);
        }
        let waiting = self.0.machine.borrow_mut().unread(bytes);
        if waiting > limit {
            self.end(
                Reason::failed(format!("{waiting} bytes were given back, above the limit of {limit}")),
                End::Abrupt,
            );
        }
        self.attend();
    }

    // Ending.

    /// Flushes what is written, ends our side, and waits for the peer to end its own: the peer gets all bytes
    /// and a clean end. The loss says [`Reason::Closed`]. How long a peer may take is the reactor's linger
    /// time-out.
    pub fn lose_connection(&self) {
        self.leave(None);
    }

    /// Drops what is queued and ends the connection so that the peer sees a reset.
    pub fn abort_connection(&self) {
        self.end(Reason::Aborted, End::Abrupt);
    }

    /// Flushes what is written, then ends our side of the stream. Reading goes on; later writes are dropped.
    pub fn lose_write_connection(&self) {
        self.0.machine.borrow_mut().lose_write_side();
        self.attend();
    }

    /// Ends the connection like [`lose_connection`](Self::lose_connection), but the loss says
    /// [`Reason::Failed`] with this error.
    pub fn fail(&self, error: impl Into<Box<dyn Error>>) {
        self.leave(Some(Reason::failed(error)));
    }

    /// The value of an `Ok`; an `Err` [fails](Self::fail) the connection.
    ///
    /// ```
    /// # fn hook(transport: &twistor::Transport, data: &[u8]) {
    /// if let Some(text) = transport.check(std::str::from_utf8(data)) {
    ///     transport.write(text.to_uppercase().as_bytes());
    /// }
    /// # }
    /// ```
    pub fn check<T, E: Into<Box<dyn Error>>>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fail(error)).ok()
    }

    fn leave(&self, reason: Option<Reason>) {
        // A reason that comes too late is dropped here, with nothing borrowed.
        if let Some(inner) = self.inner()
            && !self.is_closing()
        {
            self.0.machine.borrow_mut().lose_connection(reason, || inner.now());
            self.attend();
        }
    }

    pub(crate) fn end(&self, reason: Reason, end: End) {
        self.0.machine.borrow_mut().lose(reason, end, &self.0.pool);
        self.update_interest();
        self.attend();
    }

    // Handing over.

    /// Replaces the protocol when the current hook returns, or, called from elsewhere, before this
    /// connection's next hook. Bytes given back go to the new one, which gets `connection_made`; the old one
    /// is dropped.
    pub fn switch_protocol(&self, protocol: impl Protocol) {
        self.switch_boxed(Box::new(protocol));
    }

    /// The same for a protocol that is boxed already.
    pub fn switch_boxed(&self, protocol: Box<dyn Protocol>) {
        let previous = if self.0.machine.borrow().is_open() {
            self.with_extra(|extra| extra.switch.replace(protocol))
        } else {
            Some(protocol)
        };
        self.attend();
        drop(previous);
    }

    /// Whether a protocol waits to be switched to, or TLS is about to begin: the current protocol gets
    /// nothing more of what has come, and a layer that cuts a chunk into messages gives the rest back.
    #[must_use]
    pub fn is_switching(&self) -> bool {
        if self.0.machine.borrow().tls().is_some_and(Tls::is_in_handshake) {
            return true;
        }
        self.0.extra.borrow().as_ref().is_some_and(|extra| extra.switch.is_some())
    }

    /// Relays everything that arrives here to `target`, with back-pressure, until the peer finishes; then
    /// ends the target's write side. A source that was paused has to be resumed. While it runs,
    /// `data_received` and `eof_received` of this connection are not called. The loss of either ends both.
    /// The outcome is the number of bytes relayed, or why it broke off; that is logged at the level debug
    /// only if nobody takes it, because `connection_lost` tells it.
    ///
    /// Between sockets on Linux the bytes stay in the kernel (`splice`). A proxy pipes both ways.
    #[track_caller]
    pub fn pipe(&self, target: &Transport) -> Deferred<u64, Reason> {
        let (resolver, deferred) = Deferred::new(&self.0.handle);
        let deferred = deferred.hushed();
        match self.inner() {
            Some(inner) => inner.start_relay(self, target, resolver),
            None => {
                resolver.resolve(Err(Reason::Shutdown));
            }
        }
        deferred
    }

    // Limits and time-outs.

    /// Sets the high and the low mark of this connection. They are compared with the queue at once, at the
    /// end of the pass.
    pub fn set_watermarks(&self, high: usize, low: usize) {
        self.0.machine.borrow_mut().set_marks(high, low);
        self.attend();
    }

    /// Sets the write limit of this connection.
    pub fn set_write_limit(&self, bytes: usize) {
        self.0.machine.borrow_mut().set_write_limit(bytes);
    }

    /// Sets the time-outs of this connection, all at once; they count from now.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        let Some(inner) = self.inner() else { return };
        self.0.machine.borrow_mut().set_timeouts(timeouts, inner.read_clock());
        self.attend();
    }

    /// The time-outs that are set.
    pub fn timeouts(&self) -> Timeouts {
        self.0.machine.borrow().timeouts()
    }

    // Socket options.

    /// Whether small segments are sent at once (`TCP_NODELAY`, on by default).
    ///
    /// # Errors
    ///
    /// The system refuses, or the connection is lost.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.driver(|inner| inner.driver.borrow_mut().set_nodelay(self.0.token, on))
    }

    /// Probes an idle peer, or stops doing so.
    ///
    /// # Errors
    ///
    /// The system refuses, or the connection is lost.
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) -> io::Result<()> {
        let spec = keep_alive.map(KeepAlive::checked_spec).transpose()?;
        self.driver(|inner| inner.driver.borrow_mut().set_keep_alive(self.0.token, spec))
    }

    fn driver(&self, f: impl FnOnce(&Inner) -> io::Result<()>) -> io::Result<()> {
        let lost = || io::Error::new(io::ErrorKind::NotConnected, "the connection is lost");
        if self.0.machine.borrow().reason().is_some() {
            return Err(lost());
        }
        f(&*self.inner().ok_or_else(lost)?)
    }

    // Questions.

    /// Where the peer is.
    #[must_use]
    pub fn peer_addr(&self) -> Address {
        self.0.ends.peer()
    }

    /// Where we are.
    #[must_use]
    pub fn local_addr(&self) -> Address {
        self.0.ends.local()
    }

    /// The name of this connection in its reactor; never used again for another.
    #[must_use]
    pub fn id(&self) -> TransportId {
        TransportId(self.0.token)
    }

    /// The reactor.
    #[must_use]
    pub fn reactor(&self) -> &Handle {
        &self.0.handle
    }

    /// Whether what is received and written is protected by TLS now; never without the feature `tls`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.machine.borrow().tls().is_some_and(Tls::was_secured)
    }

    /// Bytes queued in memory and not yet taken by the kernel.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.machine.borrow().queued()
    }

    /// Whether the connection is closing or lost: writes are dropped and no hook but `connection_lost`
    /// follows.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        !self.0.machine.borrow().is_open()
    }

    /// What this connection has moved.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        let machine = self.0.machine.borrow();
        let (bytes_received, bytes_sent) = machine.counts();
        TransportStats { bytes_received, bytes_sent, bytes_queued: machine.queued() }
    }

    // Back into the protocol.

    /// The connection with its protocol's type, to [post](Connection::post) to it; `None` if it is another
    /// type or the connection has ended.
    #[must_use]
    pub fn connection<P: Protocol>(&self) -> Option<Connection<P>> {
        let is_that = self.0.protocol_type.get() == TypeId::of::<P>() && !self.is_closing();
        is_that.then(|| Connection::new(self.clone()))
    }

    /// Calls `f` with the protocol after a while. Ends with the connection; dropped and counted when the
    /// protocol has another type by then.
    pub fn call_later<P: Protocol>(
        &self,
        after: Duration,
        f: impl FnOnce(&mut P, &Transport) + 'static,
    ) -> DelayedCall {
        let Some(inner) = self.inner().filter(|_| !self.is_closing()) else {
            return DelayedCall::dead(&self.0.handle);
        };
        let call = inner.add_timer(after, Timer::Typed(self.0.token, typed(f)));
        self.with_extra(|extra| {
            if extra.timers.len() == extra.timers.capacity() {
                // Those that were cancelled are not worth more room.
                let pending = inner.timers.borrow();
                extra.timers.retain(|timer| pending.deadline(*timer).is_some());
            }
            extra.timers.push(call.id());
        });
        call
    }

    /// Calls `f` with the protocol at regular intervals, the first time after one interval. Ends with the
    /// connection, and when the protocol has another type.
    pub fn every<P: Protocol>(
        &self,
        interval: Duration,
        mut f: impl FnMut(&mut P, &Transport) + 'static,
    ) -> LoopingCall {
        let action = move |protocol: &mut dyn Protocol, transport: &Transport| {
            let protocol: &mut dyn Any = protocol;
            protocol.downcast_mut::<P>().map(|protocol| f(protocol, transport)).is_some()
        };
        let call = LoopingCall::typed(&self.0.handle, interval, self.0.token, Box::new(action));
        if self.is_closing() {
            call.stop();
        } else {
            self.with_extra(|extra| pruned::push(&mut extra.loops, call.clone(), LoopingCall::is_running));
        }
        call
    }

    /// Queues `f` for the protocol, whatever the sender knows of it.
    pub(crate) fn post_typed<P: Protocol>(&self, f: impl FnOnce(&mut P, &Transport) + 'static) -> bool {
        match self.inner() {
            Some(inner) if !self.is_closing() => {
                inner.post(self.0.token, typed(f));
                true
            }
            _ => false,
        }
    }

    // Inside.

    pub(crate) fn inner(&self) -> Option<Rc<Inner>> {
        self.0.handle.inner()
    }

    /// Has the reactor look after the connection before the pass ends.
    #[inline]
    pub(crate) fn attend(&self) {
        if !self.0.attended.get() {
            self.ask_for_attention();
        }
    }

    #[inline]
    fn ask_for_attention(&self) {
        if let Some(inner) = self.inner() {
            self.0.attended.set(true);
            inner.attention.borrow_mut().push(self.0.token);
            inner.host_needs_to_know();
            inner.eventful.set(true);
        }
    }

    /// How much output fits below the high mark.
    #[inline]
    pub(crate) fn room(&self) -> Room {
        self.0.machine.borrow().room(&self.0.pool)
    }

    /// Queues a copy of a little `data` if all of it stays below the high mark and nothing is out of the
    /// ordinary.
    #[inline]
    pub(crate) fn write_below_mark(&self, data: &[u8]) -> bool {
        let fits = {
            let mut machine = self.0.machine.borrow_mut();
            machine.queued() + data.len() <= self.0.pool.limits().high
                && machine.write_small(data, &self.0.pool)
        };
        if fits {
            self.attend();
        }
        fits
    }

    /// Whether something is queued, or was and will never leave.
    pub(crate) fn has_unsent_output(&self) -> bool {
        let machine = self.0.machine.borrow();
        machine.has_output() || machine.sending_has_failed()
    }

    /// Whether nothing that is written will leave any more, because sending failed.
    pub(crate) fn sending_has_failed(&self) -> bool {
        self.0.machine.borrow().sending_has_failed()
    }

    /// Whether the connection is lost; its protocol may not have heard of it.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.machine.borrow().reason().is_some()
    }

    /// Why the connection was lost, once it is.
    pub(crate) fn loss(&self) -> Option<Reason> {
        self.0.machine.borrow().reason().cloned()
    }

    /// Offers what is queued to the kernel now instead of at the end of the pass. Calls no hook.
    pub(crate) fn send_now(&self) {
        if let Some(inner) = self.inner() {
            inner.tend(self);
        }
    }

    /// Sends of a large `data` what the kernel takes at once, if nothing is queued before it; how much that
    /// was.
    pub(crate) fn send_at_once(&self, data: &[u8]) -> usize {
        let Some(inner) = self.inner() else { return 0 };
        let sent = inner.send_at_once(self, data);
        // If the kernel takes no more, the driver has to watch for that.
        self.attend();
        sent
    }

    /// Whether the peer has finished and a protocol was told.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.machine.borrow().has_ended()
    }

    /// Tells the next protocol once more that the peer has finished.
    pub(crate) fn tell_end_again(&self) {
        self.0.machine.borrow_mut().tell_end_again();
    }

    /// Tells the driver what to watch for, if that changed: what is paused is not read any more.
    fn update_interest(&self) {
        if let Some(inner) = self.inner() {
            inner.watch(self);
        }
    }

    pub(crate) fn with_extra<R>(&self, f: impl FnOnce(&mut Extra) -> R) -> R {
        // The short way leads past what stands here.
        self.0.machine.borrow_mut().rare();
        f(self.0.extra.borrow_mut().get_or_insert_default())
    }

    /// Gives the memory back that only few connections need, and this one no more.
    pub(crate) fn release_unused_extra(&self) {
        let mut extra = self.0.extra.borrow_mut();
        if extra.as_ref().is_some_and(|extra| extra.is_unused()) {
            *extra = None;
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }
}

/// Forgets the type of a closure for a protocol, but checks it.
fn typed<P: Protocol>(f: impl FnOnce(&mut P, &Transport) + 'static) -> TypedCall {
    Box::new(move |protocol: &mut dyn Protocol, transport: &Transport| {
        let protocol: &mut dyn Any = protocol;
        protocol.downcast_mut::<P>().map(|protocol| f(protocol, transport)).is_some()
    })
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Transport");
        debug.field("id", &self.id()).field("peer", &self.peer_addr()).field("local", &self.local_addr());
        if let Ok(machine) = self.0.machine.try_borrow() {
            debug.field("phase", &machine.phase()).field("queued", &machine.queued());
        }
        debug.finish()
    }
}

impl io::Write for &Transport {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.is_closing() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closing"));
        }
        Transport::write(self, data);
        Ok(data.len())
    }

    /// Does nothing: what is written goes out when the hook returns.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Write for Transport {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    /// An idle connection costs this and its places in two tables; `tests/` counts all of it.
    #[test]
    fn the_state_of_a_connection_stays_small() {
        assert!(size_of::<Link>() <= 160, "{}", size_of::<Link>());
    }
}
