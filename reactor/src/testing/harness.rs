//! One protocol, or two, without a network to speak of: [`ProtocolTest`] and [`Pair`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::clock::Clock;
use super::simulation::{Simulation, strict};
use crate::driver::simulated::link::Link;
use crate::driver::simulated::raw::RawStream;
use crate::protocol::Protocol;
use crate::reactor::builder::ReactorBuilder;
use crate::reactor::transport::Transport;
use crate::reactor::typed::Connection;

/// Turns of the loop after which two protocols that do not come to rest are taken for a loop of their own.
const MANY_TURNS: usize = 100_000;

/// How the transport of a tested protocol stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ending {
    /// The stream is open.
    Open,
    /// The protocol has finished sending: the peer has got the end of the stream.
    Finished,
    /// The peer was told with a reset.
    Reset,
}

/// A protocol on a transport in memory: feed it bytes in whatever pieces, read what it writes, look at what
/// it does with its connection, and let its timers fire.
///
/// ```
/// use twistor::testing::ProtocolTest;
/// use twistor::{Protocol, Transport};
///
/// struct Shout;
/// impl Protocol for Shout {
///     fn connection_made(&mut self, transport: &Transport) {
///         transport.write(b"what?\n");
///     }
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(&data.to_ascii_uppercase());
///         if data.contains(&b'\n') {
///             transport.lose_connection();
///         }
///     }
/// }
///
/// let mut test = ProtocolTest::new(Shout);
/// assert_eq!(test.written(), b"what?\n");
/// test.feed(b"hel");
/// assert_eq!(test.written(), b"HEL");
/// test.feed(b"lo\n");
/// assert_eq!(test.written(), b"LO\n");
/// assert!(test.is_closing());
/// test.finish();
/// assert_eq!(test.lost().as_deref(), Some("closed"));
/// ```
pub struct ProtocolTest<P> {
    connection: Connection<P>,
    peer: Option<RawStream>,
    ending: Cell<Ending>,
    /// Everything that the peer got and the test has not looked at.
    written: RefCell<Vec<u8>>,
    clock: Clock,
}

impl<P: Protocol> ProtocolTest<P> {
    /// A connection with this protocol, whose `connection_made` has been called. A hook that panics fails the
    /// test.
    #[must_use]
    pub fn new(protocol: P) -> Self {
        Self::with(strict(), protocol)
    }

    /// The same on a reactor with these settings.
    ///
    /// # Panics
    ///
    /// They make no sense.
    #[must_use]
    pub fn with(builder: ReactorBuilder, protocol: P) -> Self {
        let clock = Clock::with(builder);
        let (connection, peer) = connect(&clock, protocol);
        let test = Self {
            connection,
            peer: Some(peer),
            ending: Cell::new(Ending::Open),
            written: RefCell::new(Vec::new()),
            clock,
        };
        test.clock.run_due();
        test
    }

    /// Sends bytes to the protocol, in one piece as far as its read buffer has room.
    ///
    /// # Panics
    ///
    /// The connection is over.
    pub fn feed(&mut self, data: &[u8]) {
        let mut left = data;
        while !left.is_empty() {
            let sent = match self.peer().send(left) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => panic!("the protocol's peer cannot send: {error}"),
            };
            left = &left[sent..];
            self.settle();
            assert!(sent > 0 || !self.connection.is_reading(), "the protocol neither reads nor pauses");
            if sent == 0 {
                panic!("{} bytes do not fit: the protocol has paused reading", left.len());
            }
        }
    }

    /// Sends bytes to the protocol in pieces of this length.
    ///
    /// # Panics
    ///
    /// The connection is over, or the length is 0.
    pub fn feed_in_pieces(&mut self, data: &[u8], length: usize) {
        for piece in data.chunks(length) {
            self.feed(piece);
        }
    }

    /// What the protocol has written since the last look.
    #[must_use]
    pub fn written(&mut self) -> Vec<u8> {
        self.settle();
        self.written.take()
    }

    /// The peer finishes sending.
    pub fn finish(&mut self) {
        if let Some(peer) = &self.peer {
            let _ = peer.finish();
        }
        self.settle();
    }

    /// The peer breaks the connection.
    pub fn reset(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.reset();
        }
        self.settle();
    }

    /// Moves the time on: the protocol's timers and time-outs fire.
    pub fn advance(&mut self, time: Duration) {
        self.collect();
        self.clock.advance(time);
        self.settle();
    }

    /// Calls `f` with the protocol, as a callback of the loop does, and returns what it returns.
    ///
    /// # Panics
    ///
    /// The connection is over, or its protocol is another one by now.
    pub fn with_protocol<R: 'static>(&mut self, f: impl FnOnce(&mut P, &Transport) -> R + 'static) -> R {
        let result = Rc::new(RefCell::new(None));
        let place = Rc::clone(&result);
        self.connection.post(move |protocol, transport| *place.borrow_mut() = Some(f(protocol, transport)));
        self.settle();
        let value = result.take();
        value.unwrap_or_else(|| panic!("the connection is over, or its protocol was replaced"))
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        self.connection.transport()
    }

    /// The reactor and its clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the protocol wants input.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.connection.is_reading()
    }

    /// Whether the connection is on its way out, or gone.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.connection.is_closing()
    }

    /// How the stream stands for the peer.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.collect();
        self.ending.get()
    }

    /// The reason of the loss, as text, once the connection is lost.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.connection.transport().loss().map(|reason| reason.to_string())
    }

    fn peer(&self) -> &RawStream {
        match &self.peer {
            Some(peer) => peer,
            None => panic!("the connection was reset by the test"),
        }
    }

    /// Lets everything happen that happens now.
    fn settle(&self) {
        loop {
            self.clock.run_due();
            if !self.collect() {
                return;
            }
        }
    }

    /// Takes what the protocol has written; whether there was anything.
    fn collect(&self) -> bool {
        let Some(peer) = &self.peer else { return false };
        let mut buffer = vec![0; 64 * 1024];
        let before = self.written.borrow().len();
        loop {
            match peer.receive(&mut buffer) {
                // A reset is told once, then the stream has ended.
                Ok(0) if self.ending.get() == Ending::Reset => {}
                Ok(0) => self.ending.set(Ending::Finished),
                Ok(count) => {
                    self.written.borrow_mut().extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.ending.set(Ending::Reset),
            }
            return self.written.borrow().len() > before;
        }
    }
}

impl<P> fmt::Debug for ProtocolTest<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolTest").field("ending", &self.ending.get()).finish_non_exhaustive()
    }
}

/// A connection with this protocol on the clock's reactor, and its peer.
fn connect<P: Protocol>(clock: &Clock, protocol: P) -> (Connection<P>, RawStream) {
    let listener = clock
        .host()
        .listen_raw(([127, 0, 0, 1], 0).into(), 1)
        .unwrap_or_else(|error| panic!("no listener: {error}"));
    let made = Rc::new(RefCell::new(None));
    let place = Rc::clone(&made);
    clock
        .connect_protocol(listener.local_addr(), protocol)
        .on_done(move |_, outcome| *place.borrow_mut() = Some(outcome));
    clock.run_due();
    let connection = match made.take() {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => panic!("the protocol was not connected: {error}"),
        None => panic!("the protocol was not connected"),
    };
    let peer = listener.accept().unwrap_or_else(|| panic!("the protocol's peer was not connected"));
    (connection, peer)
}

/// Two protocols, each with a reactor of its own, connected to each other.
///
/// ```
/// use twistor::testing::{AccumulatingProtocol, Pair};
/// use twistor::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// let (client, log) = AccumulatingProtocol::new();
/// let mut pair = Pair::new(client, Echo);
/// pair.client().write(b"ping");
/// pair.pump();
/// assert_eq!(log.data(), b"ping");
/// ```
pub struct Pair<C, S> {
    client: Connection<C>,
    server: Connection<S>,
    sim: Simulation,
}

impl<C: Protocol, S: Protocol> Pair<C, S> {
    /// Connects them; both `connection_made` have been called. What they write meanwhile is on its way.
    #[must_use]
    pub fn new(client: C, server: S) -> Self {
        Self::over(&Link::instant(), client, server)
    }

    /// Connects them over a link of your choice: one that cuts streams into small pieces, or is slow.
    ///
    /// # Panics
    ///
    /// A `connection_made` panicked.
    #[must_use]
    pub fn over(link: &Link, client: C, server: S) -> Self {
        let sim = Simulation::new(0);
        let (near, far) = (sim.host("client", |_| {}), sim.host("server", |_| {}));
        sim.set_link("client", "server", link);
        let (accepted, connected) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let mut server = Some(server);
        let port = far
            .reactor()
            .listen("tcp:1", move |_| server.take())
            .unwrap_or_else(|error| panic!("no port: {error}"));
        let place = Rc::clone(&connected);
        near.reactor()
            .connect_protocol(far.address(1), client)
            .on_done(move |_, outcome| *place.borrow_mut() = Some(outcome));
        sim.run_until("the protocols are connected", || {
            if accepted.borrow().is_none() {
                *accepted.borrow_mut() = far.reactor().connections().into_iter().next();
            }
            accepted.borrow().is_some() && connected.borrow().is_some()
        });
        drop(port.stop_listening());
        let Some(Ok(client)) = connected.take() else { panic!("the client's connection_made panicked") };
        let server: Option<Transport> = accepted.take();
        let server = server.and_then(|transport| transport.connection::<S>());
        let server = server.unwrap_or_else(|| panic!("the server has replaced its protocol already"));
        Self { client, server, sim }
    }

    /// The client's connection.
    #[must_use]
    pub fn client(&self) -> &Connection<C> {
        &self.client
    }

    /// The server's connection.
    #[must_use]
    pub fn server(&self) -> &Connection<S> {
        &self.server
    }

    /// Carries bytes to and fro until neither has anything to say. Time passes as far as bytes are on their
    /// way, and timers that are due by then fire; nobody waits for others.
    ///
    /// # Panics
    ///
    /// They never come to rest.
    pub fn pump(&mut self) {
        self.sim.run_until_quiet(MANY_TURNS);
    }

    /// Lets time pass, with everything that happens in it.
    pub fn advance(&mut self, time: Duration) {
        self.sim.run_for(time);
    }

    /// The simulation that they are in.
    #[must_use]
    pub fn simulation(&self) -> &Simulation {
        &self.sim
    }
}

impl<C, S> fmt::Debug for Pair<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("simulation", &self.sim).finish_non_exhaustive()
    }
}
