//! What can stand between the loop and a driver: a tracer, and an injector of faults that any kernel may
//! show.
//!
//! Everything that is neither traced nor disturbed goes through to the driver below, by `Deref`.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::{
    ConnectSpec, DatagramSpec, ListenSpec, UnixConnectSpec, UnixDatagramSpec, UnixListenSpec,
};
use super::{Completion, DatagramBatch, DatagramsSent, Driver, Sent};
use crate::core::address::{Address, UnixAddress};
use crate::core::datagrams::DatagramQueue;
use crate::core::outbox::{Front, MAX_SLICES, Outbox};
use crate::core::pool::Pool;
use crate::core::random::Generator;
use crate::core::slots::Token;

/// Faults that a kernel may show at any time and that a correct program does not notice: reads and writes
/// that do only part of what was asked, or nothing; wake-ups for nothing; connections that are gone before
/// they are accepted. Each with its probability, and all of it from a seed.
///
/// See [`ReactorBuilder::fault_injection`](crate::ReactorBuilder::fault_injection).
#[derive(Clone, Debug)]
#[must_use = "nothing is injected until a reactor is built with it"]
pub struct Injection {
    seed: u64,
    short_reads: f64,
    short_writes: f64,
    would_block: f64,
    spurious_wakeups: f64,
    delays: (f64, Duration),
    aborted_accepts: f64,
    resets: f64,
}

impl Injection {
    /// Nothing yet.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            short_reads: 0.0,
            short_writes: 0.0,
            would_block: 0.0,
            spurious_wakeups: 0.0,
            delays: (0.0, Duration::ZERO),
            aborted_accepts: 0.0,
            resets: 0.0,
        }
    }

    /// Everything that does no harm to a correct program, often.
    pub const fn harmless(seed: u64) -> Self {
        Self::new(seed).short_reads(0.5).short_writes(0.5).would_block(0.2).spurious_wakeups(0.2)
    }

    /// A read brings only a few bytes although more have arrived.
    pub const fn short_reads(mut self, probability: f64) -> Self {
        self.short_reads = probability;
        self
    }

    /// A write is taken only in part.
    pub const fn short_writes(mut self, probability: f64) -> Self {
        self.short_writes = probability;
        self
    }

    /// A write is not taken at all for now (`EAGAIN`), or what was reported as ready turns out not to be.
    ///
    /// # Panics
    ///
    /// With a certainty of 1 nothing would ever get on.
    pub const fn would_block(mut self, probability: f64) -> Self {
        assert!(probability < 1.0, "if everything would always block, nothing would ever get on");
        self.would_block = probability;
        self
    }

    /// A wait ends although nothing has happened.
    pub const fn spurious_wakeups(mut self, probability: f64) -> Self {
        self.spurious_wakeups = probability;
        self
    }

    /// Before a wait the loop sleeps up to this long, as if the machine were busy with other things. (In a
    /// simulation links have latencies instead.)
    pub const fn delays(mut self, probability: f64, longest: Duration) -> Self {
        self.delays = (probability, longest);
        self
    }

    /// A connection is lost before it is accepted.
    pub const fn aborted_accepts(mut self, probability: f64) -> Self {
        self.aborted_accepts = probability;
        self
    }

    /// A connection breaks instead of bringing what was sent.
    pub const fn resets(mut self, probability: f64) -> Self {
        self.resets = probability;
        self
    }
}

/// Something that went through between the loop and its driver.
///
/// See [`ReactorBuilder::trace`](crate::ReactorBuilder::trace).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TraceEvent {
    /// When, on the reactor's clock.
    pub at: Instant,
    /// What happened, or what the loop asked for.
    pub what: &'static str,
    /// How many bytes were received or sent.
    pub bytes: usize,
    /// The connection, listener or attempt that it was about.
    pub(crate) token: Option<Token>,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = self.token {
            write!(f, "{token:?} ")?;
        }
        f.write_str(self.what)?;
        if self.bytes > 0 { write!(f, " {} B", self.bytes) } else { Ok(()) }
    }
}

/// Who is told of everything that goes through.
pub(crate) type Tracer = Arc<dyn Fn(&TraceEvent) + Send + Sync>;

struct Injector {
    faults: Injection,
    random: Generator,
}

/// A driver with a tracer or an injector above it.
pub(crate) struct Middleware {
    below: Driver,
    injector: Option<Injector>,
    tracer: Option<Tracer>,
    /// Events were thrown away; a wake-up may have been among them, and is not reported twice.
    owes_woken: bool,
}

impl Deref for Middleware {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.below
    }
}

impl DerefMut for Middleware {
    fn deref_mut(&mut self) -> &mut Driver {
        &mut self.below
    }
}

/// The longest short read.
const FEW_BYTES: u64 = 16;

impl Middleware {
    /// Puts them above a driver; gives it back as it is if there is nothing to put.
    pub(crate) fn above(below: Driver, injection: Option<Injection>, tracer: Option<Tracer>) -> Driver {
        if injection.is_none() && tracer.is_none() {
            return below;
        }
        let injector = injection.map(|faults| Injector { random: Generator::new(faults.seed), faults });
        Driver::Middleware(Box::new(Self { below, injector, tracer, owes_woken: false }))
    }

    /// Whether a fault of this kind happens now.
    fn happens(&mut self, probability: impl Fn(&Injection) -> f64) -> bool {
        self.injector.as_mut().is_some_and(|injector| injector.random.chance(probability(&injector.faults)))
    }

    /// A length of at least 1, and shorter than `length` where that is possible.
    fn shorter(&mut self, length: usize) -> usize {
        match &mut self.injector {
            Some(injector) if length > 1 => 1 + injector.random.below(length as u64 - 1) as usize,
            _ => length,
        }
    }

    fn trace(&self, token: Option<Token>, what: &'static str, bytes: usize) {
        if let Some(tracer) = &self.tracer {
            tracer(&TraceEvent { at: self.below.now(), what, bytes, token });
        }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.happens(|faults| faults.delays.0)
            && !self.below.is_simulated()
            && let Some(Injector { faults, random }) = &mut self.injector
        {
            let longest = u64::try_from(faults.delays.1.as_nanos()).unwrap_or(u64::MAX);
            std::thread::sleep(Duration::from_nanos(random.below(longest.max(1))));
        }
        let early = self.owes_woken || self.happens(|faults| faults.spurious_wakeups);
        self.below.wait(if early { Some(Duration::ZERO) } else { timeout })
    }

    pub(super) fn next<'b>(&mut self, scratch: &'b mut [u8]) -> Option<Completion<'b>> {
        if std::mem::take(&mut self.owes_woken) {
            return Some(Completion::Woken);
        }
        if self.happens(|faults| faults.would_block / 4.0) {
            // A level-triggered poller reports it all again.
            self.owes_woken = true;
            if self.below.is_simulated() {
                // Nobody else knows that there is something left.
                self.below.waker().wake();
            }
            return None;
        }
        let length = if self.happens(|faults| faults.short_reads) {
            self.shorter(scratch.len().min(FEW_BYTES as usize + 1))
        } else {
            scratch.len()
        };
        let is_reset = self.happens(|faults| faults.resets);
        let is_aborted = self.happens(|faults| faults.aborted_accepts);
        let completion = self.below.next_into(&mut scratch[..length])?;
        let completion = match completion {
            Completion::Received { stream, .. } if is_reset => {
                Completion::Failed { stream, error: io::ErrorKind::ConnectionReset.into() }
            }
            Completion::Accepted { listener, .. } if is_aborted => {
                Completion::AcceptFailed { listener, error: io::ErrorKind::ConnectionAborted.into() }
            }
            other => other,
        };
        if self.tracer.is_some() {
            let (token, what, bytes) = described(&completion);
            self.trace(token, what, bytes);
        }
        Some(completion)
    }

    pub(super) fn send_small(&mut self, stream: Token, data: &[u8]) -> io::Result<usize> {
        if self.happens(|faults| faults.would_block) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length =
            if self.happens(|faults| faults.short_writes) { self.shorter(data.len()) } else { data.len() };
        let sent = self.below.send_small(stream, &data[..length])?;
        self.trace(Some(stream), "sends", sent);
        Ok(sent)
    }

    pub(super) fn send(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> io::Result<Sent> {
        if self.happens(|faults| faults.would_block) {
            return Ok(Sent::Blocked);
        }
        let before = outbox.pending();
        let is_short = self.happens(|faults| faults.short_writes);
        let result = if is_short { self.send_a_little(stream, outbox, pool) } else { None };
        let result = match result {
            Some(result) => result,
            None => self.below.send(stream, outbox, pool),
        };
        self.trace(Some(stream), "sends", (before - outbox.pending()) as usize);
        result
    }

    /// Sends a part of the first buffer; `None` if there is none.
    fn send_a_little(&mut self, stream: Token, outbox: &mut Outbox, pool: &Pool) -> Option<io::Result<Sent>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let sent = match outbox.front(&mut slices) {
            Front::Nothing | Front::File(_) => return None,
            #[cfg(unix)]
            Front::Passed(..) => return None,
            Front::One(data) => {
                let length = self.shorter(data.len());
                self.below.send_small(stream, &data[..length])
            }
            Front::Many(list) => {
                let length = self.shorter(list[0].len());
                self.below.send_small(stream, &list[0][..length])
            }
        };
        Some(match sent {
            Ok(sent) => {
                outbox.consume(sent, pool);
                Ok(if outbox.is_empty() { Sent::All } else { Sent::Blocked })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Blocked),
            // Not every stream can do this.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return None,
            Err(error) => Err(error),
        })
    }

    pub(super) fn bind_datagram(&mut self, token: Token, spec: &DatagramSpec) -> io::Result<Address> {
        self.trace(Some(token), "opens for datagrams", 0);
        self.below.bind_datagram(token, spec)
    }

    pub(super) fn bind_unix_datagram(
        &mut self,
        token: Token,
        spec: &UnixDatagramSpec,
    ) -> io::Result<(UnixAddress, usize)> {
        self.trace(Some(token), "opens for datagrams", 0);
        self.below.bind_unix_datagram(token, spec)
    }

    pub(super) fn receive_datagrams(
        &mut self,
        socket: Token,
        batch: &mut DatagramBatch,
        count: usize,
        max: usize,
    ) -> io::Result<()> {
        if self.happens(|faults| faults.would_block) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = if self.happens(|faults| faults.short_reads) { self.shorter(count) } else { count };
        self.below.receive_datagrams(socket, batch, count, max)?;
        if self.tracer.is_some() {
            for datagram in (0..batch.len()).filter_map(|index| batch.get(index)) {
                self.trace(Some(socket), "receives a datagram", datagram.data.len());
            }
        }
        Ok(())
    }

    pub(super) fn send_datagrams(
        &mut self,
        socket: Token,
        queue: &mut DatagramQueue<Address>,
    ) -> io::Result<DatagramsSent> {
        if self.happens(|faults| faults.would_block) {
            return Ok(DatagramsSent::Blocked);
        }
        let before = queue.byte_count();
        let result = self.below.send_datagrams(socket, queue);
        self.trace(Some(socket), "sends datagrams", before - queue.byte_count());
        result
    }

    pub(super) fn listen(&mut self, token: Token, spec: &ListenSpec) -> io::Result<SocketAddr> {
        self.trace(Some(token), "listens", 0);
        self.below.listen(token, spec)
    }

    pub(super) fn connect(&mut self, token: Token, spec: &ConnectSpec) -> io::Result<()> {
        self.trace(Some(token), "connects", 0);
        self.below.connect(token, spec)
    }

    pub(super) fn listen_unix(&mut self, token: Token, spec: &UnixListenSpec) -> io::Result<()> {
        self.trace(Some(token), "listens", 0);
        self.below.listen_unix(token, spec)
    }

    pub(super) fn connect_unix(&mut self, token: Token, spec: &UnixConnectSpec) -> io::Result<()> {
        self.trace(Some(token), "connects", 0);
        self.below.connect_unix(token, spec)
    }

    pub(super) fn shutdown(&mut self, stream: Token) -> io::Result<()> {
        self.trace(Some(stream), "finishes", 0);
        self.below.shutdown(stream)
    }

    pub(super) fn close(&mut self, token: Token, reset: bool) {
        if reset {
            self.trace(Some(token), "resets", 0);
            self.below.abort(token);
        } else {
            self.trace(Some(token), "closes", 0);
            self.below.close(token);
        }
    }
}

fn described(completion: &Completion<'_>) -> (Option<Token>, &'static str, usize) {
    match completion {
        Completion::Accepted { listener, .. } => (Some(*listener), "accepts", 0),
        Completion::AcceptFailed { listener, .. } => (Some(*listener), "cannot accept", 0),
        Completion::Exhausted { listener, .. } => (Some(*listener), "has no descriptor left", 0),
        Completion::Received { stream, data } => (Some(*stream), "receives", data.len()),
        #[cfg(unix)]
        Completion::Passed { stream, data, .. } => (Some(*stream), "receives descriptors", data.len()),
        Completion::EndOfStream { stream } => (Some(*stream), "gets the end", 0),
        Completion::Writable { stream } => (Some(*stream), "can send again", 0),
        Completion::RelayReady { stream } => (Some(*stream), "has something to relay", 0),
        Completion::Connected { stream, .. } => (Some(*stream), "is connected", 0),
        Completion::Failed { stream, .. } => (Some(*stream), "fails", 0),
        Completion::Datagrams { socket, .. } => (Some(*socket), "is ready for datagrams", 0),
        #[cfg(unix)]
        Completion::Ready { source } => (Some(*source), "is ready", 0),
        Completion::Woken => (None, "is woken", 0),
    }
}
