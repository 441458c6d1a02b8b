//! What the tests of the simulation share: three hosts that echo, and a client on each.

// Each test program uses its part of it.
#![allow(dead_code)]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use twistor::endpoint::{IntoConnectEndpoint, TcpConnect};
use twistor::testing::{
    AccumulatingProtocol, Host, RawListener, RawStream, RecordedLog, RecordingFactory, Simulation,
};
use twistor::{ConnectError, ConnectErrorKind, Connection, Handle, Protocol, Transport};

/// The port on which each host echoes.
pub(crate) const ECHO: u16 = 7;
/// The port on which each host takes everything and says nothing.
pub(crate) const DISCARD: u16 = 9;

pub(crate) const RESET: &str = "reset by the peer or the network";

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// A client that writes down what it hears.
pub(crate) struct Client {
    pub(crate) connection: Connection<AccumulatingProtocol>,
    pub(crate) log: RecordedLog,
}

impl Client {
    pub(crate) fn write(&self, data: &[u8]) {
        self.connection.write(data);
    }

    pub(crate) fn lost(&self) -> Option<String> {
        self.log.lost()
    }
}

/// Hosts `a`, `b` and `c`: each echoes on one port, discards on another, and knows what it got there.
pub(crate) struct Network {
    pub(crate) sim: Simulation,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) c: Host,
    /// Of `a`, `b` and `c`; each life of a host goes on with the same.
    discarded: [RecordingFactory; 3],
}

impl Network {
    pub(crate) fn new() -> Self {
        Self::with_seed(1)
    }

    pub(crate) fn with_seed(seed: u64) -> Self {
        let sim = Simulation::new(seed);
        let discarded: [RecordingFactory; 3] = std::array::from_fn(|_| RecordingFactory::new());
        let host = |number: usize| {
            let factory = discarded[number].clone();
            sim.host(["a", "b", "c"][number], move |reactor| serve(reactor, &factory))
        };
        Self { a: host(0), b: host(1), c: host(2), discarded, sim }
    }

    /// What each connection to the discarding port of `a` was told, in the order in which they came.
    pub(crate) fn discarded_at_a(&self) -> Vec<RecordedLog> {
        self.discarded[0].logs()
    }

    /// Connects, and waits for the outcome.
    pub(crate) fn try_connect(
        &self,
        from: &Host,
        to: impl IntoConnectEndpoint,
    ) -> Result<Client, ConnectError> {
        let (protocol, log) = AccumulatingProtocol::new();
        let outcome = Rc::new(RefCell::new(None));
        let place = Rc::clone(&outcome);
        from.reactor()
            .connect_protocol(to, protocol)
            .on_done(move |_, done| *place.borrow_mut() = Some(done));
        self.sim.run_until("the attempt is decided", || outcome.borrow().is_some());
        let outcome = outcome.take().expect("it was decided");
        outcome.map(|connection| Client { connection, log })
    }

    pub(crate) fn connect(&self, from: &Host, to: &Host, port: u16) -> Client {
        self.try_connect(from, to.address(port)).expect("a connection")
    }

    /// The kind of error of an attempt that must fail, and how long it took.
    pub(crate) fn failure(&self, from: &Host, to: impl IntoConnectEndpoint) -> (ConnectErrorKind, Duration) {
        let before = self.sim.now();
        match self.try_connect(from, to) {
            Ok(_) => panic!("the attempt succeeded"),
            Err(error) => (error.kind(), self.sim.now() - before),
        }
    }

    /// Has an echoed client hear something that it says; how long that took.
    pub(crate) fn exchange(&self, client: &Client, text: &[u8]) -> Duration {
        let (before, heard) = (self.sim.now(), client.log.data().len());
        client.write(text);
        self.sim.run_until("the echo is there", || client.log.data().len() >= heard + text.len());
        assert_eq!(&client.log.data()[heard..], text);
        self.sim.now() - before
    }

    pub(crate) fn run_until_lost(&self, client: &Client) -> String {
        self.sim.run_until("the connection is lost", || client.lost().is_some());
        client.lost().expect("lost")
    }
}

fn serve(reactor: &Handle, discard: &RecordingFactory) {
    reactor.listen(format!("tcp:{ECHO}"), |_| Echo).expect("a port");
    reactor.listen(format!("tcp:{DISCARD}"), discard.clone()).expect("a port");
}

/// Waits until the listener has a stream.
pub(crate) fn accept(sim: &Simulation, listener: &RawListener) -> RawStream {
    let accepted = RefCell::new(None);
    sim.run_until("there is somebody to accept", || {
        *accepted.borrow_mut() = listener.accept();
        accepted.borrow().is_some()
    });
    accepted.take().expect("it was accepted")
}

/// An endpoint that waits longer than the kernel does.
pub(crate) fn patient(to: SocketAddr) -> TcpConnect {
    TcpConnect::new(to).timeout(secs(1000))
}

/// Bytes in which every place is recognised.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes())
        .take(length)
        .collect()
}

/// The text of the panic that `f` must end with.
pub(crate) fn panic_of(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("no panic");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => (*payload.downcast::<&str>().expect("a text")).to_owned(),
    }
}
