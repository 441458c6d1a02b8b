//! What a cell works with, the values and protocols that notice their hooks, and the way from a hook to the
//! call.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use twistor::testing::Simulation;
use twistor::{
    Address, CallHandle, DatagramProtocol, DatagramSocket, Deferred, DelayedCall, Eof, Factory, Handle,
    LoopingCall, OnTimeout, Port, Protocol, Reason, Remote, Resolver, Sender, Timeout, Timeouts, Transport,
    TransportId, UnixAddress,
};
use twistor_tests::{Machine, Socket, World};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) static BLOCK: [u8; 1 << 20] = [b'b'; 1 << 20];

thread_local! {
    /// The stage of the cell that runs. Not captured, so that closures and values for other threads reach it
    /// too.
    pub(crate) static STAGE: RefCell<Option<Rc<Stage>>> = const { RefCell::new(None) };
    pub(crate) static VALUES: Cell<isize> = const { Cell::new(0) };
}

/// An address of a Unix socket that nobody else has.
pub(crate) fn a_unix_address() -> UnixAddress {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    UnixAddress::from_abstract_name(format!("twistor-matrix-{}-{number}", std::process::id()))
}

/// A user's value, counted as long as it lives.
#[derive(Debug)]
pub(crate) struct Value;

impl Value {
    pub(crate) fn new() -> Self {
        VALUES.set(VALUES.get() + 1);
        Self
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        VALUES.set(VALUES.get() - 1);
    }
}

/// A user's value whose destructor is the hook.
#[derive(Debug)]
pub(crate) struct Dropper(#[allow(dead_code, reason = "counted")] Value);

impl Dropper {
    pub(crate) fn new() -> Self {
        Self(Value::new())
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        reach(Kind::Dropped);
    }
}

/// Memory whose owner is a [`Dropper`].
pub(crate) struct Memory(#[allow(dead_code, reason = "dropped")] pub(crate) Dropper);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &BLOCK[..1 << 17]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Made,
    Data,
    Eof,
    Pause,
    Resume,
    TimedOut,
    ShuttingDown,
    Lost,
    /// A closure or factory that the trigger has made.
    Closure,
    /// A value that the trigger has made, or the protocol of the connection.
    Dropped,
}

/// When the hook runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Loop,
    /// While the reactor is dropped.
    TearDown,
    /// In no hook at all.
    Outside,
    /// After the reactor was dropped.
    Afterwards,
}

pub(crate) struct Hook {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// Panics that belong to the trigger.
    pub(crate) panics: u64,
    pub(crate) trigger: fn(&Stage),
}

#[derive(Clone, Copy)]
pub(crate) enum Action {
    Any(fn(&Stage)),
    Own(fn(&Stage, &Transport, &Transport)),
    Other(fn(&Stage, &Transport, &Transport)),
}

/// What a cell works with.
pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) action: Action,
    pub(crate) panics: bool,
    pub(crate) drops_protocol: bool,
    pub(crate) armed: Cell<bool>,
    pub(crate) reached: Cell<bool>,
    pub(crate) inside: Cell<bool>,
    pub(crate) built: Cell<u32>,
    pub(crate) faults: RefCell<Vec<String>>,
    pub(crate) lives: RefCell<HashMap<TransportId, (u32, u32)>>,
    pub(crate) transports: RefCell<Vec<Transport>>,
    pub(crate) world: RefCell<Option<Rc<World>>>,
    pub(crate) handle: Handle,
    pub(crate) machine: Machine,
    pub(crate) own: RefCell<Option<Transport>>,
    pub(crate) other: RefCell<Option<Transport>>,
    pub(crate) peer: RefCell<Option<Socket>>,
    pub(crate) other_peer: RefCell<Option<Socket>>,
    pub(crate) port: Port,
    pub(crate) mailbox: DatagramSocket,
    pub(crate) delayed: RefCell<DelayedCall>,
    pub(crate) typed_delayed: RefCell<Option<DelayedCall>>,
    pub(crate) looping: RefCell<LoopingCall>,
    pub(crate) typed_looping: RefCell<Option<LoopingCall>>,
    pub(crate) call: RefCell<CallHandle>,
    pub(crate) pending: RefCell<Option<(Resolver<u32, String>, Deferred<u32, String>)>>,
    pub(crate) sender: Sender<Value>,
    pub(crate) remote: Remote,
}

pub(crate) fn stage() -> Option<Rc<Stage>> {
    STAGE.with_borrow(Clone::clone)
}

/// A hook runs: if it is the one, the call is made here.
pub(crate) fn reach(kind: Kind) {
    let Some(stage) = stage() else { return };
    if stage.inside.get() {
        if kind != Kind::Dropped {
            stage.fault(format!("{kind:?} was called from inside the call"));
        }
        return;
    }
    if stage.kind == kind && stage.armed.get() && !stage.reached.replace(true) {
        stage.act();
    }
}

impl Stage {
    pub(crate) fn own(&self) -> Transport {
        self.own.borrow().clone().expect("the first connection")
    }

    pub(crate) fn other(&self) -> Transport {
        self.other.borrow().clone().expect("the second connection")
    }

    pub(crate) fn fault(&self, text: impl Into<String>) {
        self.faults.borrow_mut().push(text.into());
    }

    pub(crate) fn is_simulated(&self) -> bool {
        !matches!(self.machine, Machine::Real)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.local_addr().socket_addr().expect("an IP port")
    }

    pub(crate) fn act(&self) {
        self.inside.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| match self.action {
            Action::Any(action) => action(self),
            Action::Own(action) => action(self, &self.own(), &self.other()),
            Action::Other(action) => action(self, &self.other(), &self.own()),
        }));
        self.inside.set(false);
        if outcome.is_err() {
            self.fault("the call panicked");
        }
        if self.panics && !std::thread::panicking() {
            panic_as_planned();
        }
    }

    pub(crate) fn turn(&self) {
        let world = self.world.borrow().clone().expect("a reactor");
        world.turn(Duration::from_millis(1));
    }

    /// Turns without waiting.
    pub(crate) fn turns(&self, passes: usize) {
        let world = self.world.borrow().clone().expect("a reactor");
        world.turns(passes);
    }

    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> bool {
        let deadline = self.machine.now() + PATIENCE;
        while !condition() {
            if self.machine.now() > deadline {
                self.fault(format!("still waiting: {what}"));
                return false;
            }
            self.turn();
        }
        true
    }

    /// Ends the reactor. A simulation goes on while it is held.
    pub(crate) fn end(&self) -> Option<Simulation> {
        let world = self.world.take()?;
        Rc::into_inner(world).expect("nobody else holds the reactor").end()
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> Socket {
        self.machine.connect(address).expect("a connection")
    }

    /// Whether the call is made inside of `turn`.
    pub(crate) fn in_loop(&self) -> bool {
        self.place == Place::Loop
    }
}

/// Panics without the message that `panic!` prints.
pub(crate) fn panic_as_planned() {
    resume_unwind(Box::new("planned"));
}

/// The protocol of all connections.
pub(crate) struct Probe {
    /// The connection whose hooks are looked at.
    pub(crate) own: bool,
    pub(crate) _dropper: Option<Dropper>,
    pub(crate) _value: Value,
}

impl Probe {
    pub(crate) fn new(own: bool) -> Self {
        let drops = own && stage().is_some_and(|stage| stage.drops_protocol);
        Self { own, _dropper: drops.then(Dropper::new), _value: Value::new() }
    }

    fn reach(&self, kind: Kind) {
        if self.own || stage().is_some_and(|stage| stage.inside.get()) {
            reach(kind);
        }
    }
}

impl Protocol for Probe {
    fn connection_made(&mut self, transport: &Transport) {
        let stage = stage().expect("a stage");
        stage.lives.borrow_mut().entry(transport.id()).or_default().0 += 1;
        stage.transports.borrow_mut().push(transport.clone());
        if self.own && stage.own.borrow().is_none() {
            *stage.own.borrow_mut() = Some(transport.clone());
        } else if stage.other.borrow().is_none() {
            *stage.other.borrow_mut() = Some(transport.clone());
        }
        self.reach(Kind::Made);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.reach(Kind::Data);
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.reach(Kind::Eof);
        Eof::Close
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.reach(Kind::Pause);
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.reach(Kind::Resume);
    }

    fn timed_out(&mut self, transport: &Transport, _: Timeout) -> OnTimeout {
        transport.set_timeouts(Timeouts::new());
        self.reach(Kind::TimedOut);
        OnTimeout::Keep
    }

    fn shutting_down(&mut self, transport: &Transport) {
        self.reach(Kind::ShuttingDown);
        transport.lose_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        if let Some(stage) = stage() {
            stage.lives.borrow_mut().entry(transport.id()).or_default().1 += 1;
        }
        self.reach(Kind::Lost);
    }
}

/// Another protocol, to switch to.
pub(crate) struct Other(#[allow(dead_code, reason = "counted")] pub(crate) Value);

impl Protocol for Other {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        if let Some(stage) = stage() {
            stage.lives.borrow_mut().entry(transport.id()).or_default().1 += 1;
        }
    }
}

/// A protocol of datagrams each of whose hooks may be the hook.
pub(crate) struct Mailman {
    pub(crate) receive: bool,
    pub(crate) start: bool,
    pub(crate) stop: bool,
    pub(crate) hear: bool,
    pub(crate) _dropper: Option<Dropper>,
    pub(crate) _value: Value,
}

impl Mailman {
    pub(crate) fn new() -> Self {
        Self { receive: false, start: false, stop: false, hear: false, _dropper: None, _value: Value::new() }
    }
}

impl DatagramProtocol for Mailman {
    fn started(&mut self, _: &DatagramSocket) {
        if self.start {
            reach(Kind::Closure);
        }
    }

    fn datagram_received(&mut self, _: &DatagramSocket, _: &[u8], _: &Address) {
        if self.receive {
            reach(Kind::Closure);
        }
    }

    fn connection_refused(&mut self, _: &DatagramSocket) {
        if self.hear {
            reach(Kind::Closure);
        }
    }

    fn send_failed(&mut self, _: &DatagramSocket, _: Option<&Address>, _: &std::io::Error) {
        if self.hear {
            reach(Kind::Closure);
        }
    }

    fn stopped(&mut self, _: &DatagramSocket) {
        if self.stop {
            reach(Kind::Closure);
        }
    }
}

/// A factory each of whose methods may be the hook.
pub(crate) struct Watched {
    pub(crate) build: bool,
    pub(crate) start: bool,
    pub(crate) stop: bool,
    pub(crate) _dropper: Option<Dropper>,
    pub(crate) _value: Value,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self { build: false, start: false, stop: false, _dropper: None, _value: Value::new() }
    }
}

impl Factory for Watched {
    type Protocol = Probe;

    fn build_protocol(&mut self, _: twistor::Peer) -> Option<Probe> {
        if self.build {
            reach(Kind::Closure);
        }
        Some(Probe::new(false))
    }

    fn started(&mut self) {
        if self.start {
            reach(Kind::Closure);
        }
    }

    fn stopped(&mut self) {
        if self.stop {
            reach(Kind::Closure);
        }
    }
}
