//! Every public method called from inside every hook: calm, and with the hook panicking after the call.
//!
//! A cell of the matrix is a fresh reactor with two connections, one hook that is made to run, and one call made in
//! it. Afterwards the reactor has to go on and serve another connection, every connection has to be reported lost
//! once, and nothing may be left when the reactor is dropped: no descriptor, no user value, no allocation. The tests
//! run in a process of their own, because they count its descriptors.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use twistor::endpoint::KeepAlive;
use twistor::{
    CallHandle, Deferred, DelayedCall, Eof, Factory, Handle, LoopingCall, OnTimeout, Port, Protocol, Reactor,
    Reason, Remote, Resolver, Sender, SharedFactory, ShutdownPhase, Timeout, Timeouts, Transport,
    TransportId,
};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::process::open_descriptors;
use twistor_tests::{Driver, contract, in_child};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(5);
static BLOCK: [u8; 1 << 20] = [b'b'; 1 << 20];

thread_local! {
    /// The stage of the cell that runs. Not captured, so that closures and values for other threads reach it too.
    static STAGE: RefCell<Option<Rc<Stage>>> = const { RefCell::new(None) };
    static VALUES: Cell<isize> = const { Cell::new(0) };
}

/// A user's value, counted as long as it lives.
#[derive(Debug)]
struct Value;

impl Value {
    fn new() -> Self {
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
struct Dropper(#[allow(dead_code, reason = "counted")] Value);

impl Dropper {
    fn new() -> Self {
        Self(Value::new())
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        reach(Kind::Dropped);
    }
}

/// Memory whose owner is a [`Dropper`].
struct Memory(#[allow(dead_code, reason = "dropped")] Dropper);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &BLOCK[..1 << 17]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
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
enum Place {
    Loop,
    /// While the reactor is dropped.
    TearDown,
    /// In no hook at all.
    Outside,
    /// After the reactor was dropped.
    Afterwards,
}

struct Hook {
    name: &'static str,
    kind: Kind,
    place: Place,
    /// Panics that belong to the trigger.
    panics: u64,
    trigger: fn(&Stage),
}

#[derive(Clone, Copy)]
enum Action {
    Any(fn(&Stage)),
    Own(fn(&Stage, &Transport, &Transport)),
    Other(fn(&Stage, &Transport, &Transport)),
}

/// What a cell works with.
struct Stage {
    kind: Kind,
    place: Place,
    action: Action,
    panics: bool,
    drops_protocol: bool,
    armed: Cell<bool>,
    reached: Cell<bool>,
    inside: Cell<bool>,
    built: Cell<u32>,
    faults: RefCell<Vec<String>>,
    lives: RefCell<HashMap<TransportId, (u32, u32)>>,
    transports: RefCell<Vec<Transport>>,
    reactor: RefCell<Option<Rc<Reactor>>>,
    handle: Handle,
    own: RefCell<Option<Transport>>,
    other: RefCell<Option<Transport>>,
    peer: RefCell<Option<TcpStream>>,
    other_peer: RefCell<Option<TcpStream>>,
    port: Port,
    delayed: RefCell<DelayedCall>,
    typed_delayed: RefCell<Option<DelayedCall>>,
    looping: RefCell<LoopingCall>,
    typed_looping: RefCell<Option<LoopingCall>>,
    call: RefCell<CallHandle>,
    pending: RefCell<Option<(Resolver<u32, String>, Deferred<u32, String>)>>,
    sender: Sender<Value>,
    remote: Remote,
}

fn stage() -> Option<Rc<Stage>> {
    STAGE.with_borrow(Clone::clone)
}

/// A hook runs: if it is the one, the call is made here.
fn reach(kind: Kind) {
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
    fn own(&self) -> Transport {
        self.own.borrow().clone().expect("the first connection")
    }

    fn other(&self) -> Transport {
        self.other.borrow().clone().expect("the second connection")
    }

    fn fault(&self, text: impl Into<String>) {
        self.faults.borrow_mut().push(text.into());
    }

    fn address(&self) -> SocketAddr {
        self.port.local_addr().socket_addr().expect("an IP port")
    }

    fn act(&self) {
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

    fn turn(&self) {
        let reactor = self.reactor.borrow().clone().expect("a reactor");
        reactor.turn(Some(Duration::from_millis(1))).expect("a turn");
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            if Instant::now() > deadline {
                self.fault(format!("still waiting: {what}"));
                return false;
            }
            self.turn();
        }
        true
    }

    /// Whether the call is made inside of `turn`.
    fn in_loop(&self) -> bool {
        self.place == Place::Loop
    }
}

/// Panics without the message that `panic!` prints.
fn panic_as_planned() {
    resume_unwind(Box::new("planned"));
}

/// The protocol of all connections.
struct Probe {
    /// The connection whose hooks are looked at.
    own: bool,
    _dropper: Option<Dropper>,
    _value: Value,
}

impl Probe {
    fn new(own: bool) -> Self {
        let drops = own && stage().is_some_and(|stage| stage.drops_protocol);
        Self { own, _dropper: drops.then(Dropper::new), _value: Value::new() }
    }

    fn reach(&self, kind: Kind) {
        if self.own {
            reach(kind);
        } else if stage().is_some_and(|stage| stage.inside.get()) {
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
struct Other(#[allow(dead_code, reason = "counted")] Value);

impl Protocol for Other {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        if let Some(stage) = stage() {
            stage.lives.borrow_mut().entry(transport.id()).or_default().1 += 1;
        }
    }
}

/// A factory each of whose methods may be the hook.
struct Watched {
    build: bool,
    start: bool,
    stop: bool,
    _dropper: Option<Dropper>,
    _value: Value,
}

impl Watched {
    fn new() -> Self {
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

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

fn reset(socket: &RefCell<Option<TcpStream>>) {
    if let Some(socket) = socket.borrow_mut().take() {
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger");
    }
}

fn peer_of(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_nonblocking(true).expect("non-blocking");
    socket
}

fn listen_with(stage: &Stage, factory: Watched) -> Port {
    stage.handle.listen("tcp:0:interface=127.0.0.1", factory).expect("a port")
}

/// A closure of any shape: the hook, with a value of its own.
fn closure() -> impl FnMut() {
    let value = Value::new();
    move || {
        let _ = &value;
        reach(Kind::Closure);
    }
}

const fn hook(name: &'static str, kind: Kind, trigger: fn(&Stage)) -> Hook {
    Hook { name, kind, place: Place::Loop, panics: 0, trigger }
}

const fn at(place: Place, name: &'static str, kind: Kind, trigger: fn(&Stage)) -> Hook {
    Hook { name, kind, place, panics: 0, trigger }
}

const HOOKS: &[Hook] = &[
    hook("connection_made", Kind::Made, |stage| {
        *stage.peer.borrow_mut() = Some(peer_of(stage.address()));
    }),
    hook("data_received", Kind::Data, |stage| {
        stage.peer.borrow().as_ref().unwrap().write_all(b"data").unwrap();
    }),
    hook("data_received, again", Kind::Data, |stage| stage.own().unread(&b"data"[..])),
    hook("eof_received", Kind::Eof, |stage| {
        stage.peer.borrow().as_ref().unwrap().shutdown(std::net::Shutdown::Write).unwrap();
    }),
    hook("pause_writing", Kind::Pause, |stage| stage.own().write_bytes(&BLOCK[..])),
    hook("resume_writing", Kind::Resume, |stage| {
        stage.own().write_bytes(&BLOCK[..]);
        stage.turn();
        stage.turn();
    }),
    hook("timed_out", Kind::TimedOut, |stage| {
        stage.own().set_timeouts(Timeouts::new().read(Duration::from_micros(1)));
    }),
    hook("shutting_down", Kind::ShuttingDown, |stage| stage.handle.stop()),
    hook("connection_lost", Kind::Lost, |stage| reset(&stage.peer)),
    hook("connection_lost after an abort", Kind::Lost, |stage| stage.own().abort_connection()),
    hook("posted closure", Kind::Closure, |stage| {
        let mut call = closure();
        stage.own().connection::<Probe>().unwrap().post(move |_, _| call());
    }),
    hook("typed timer", Kind::Closure, |stage| {
        let mut call = closure();
        let timer = stage.own().call_later::<Probe>(Duration::ZERO, move |_, _| call());
        *stage.typed_delayed.borrow_mut() = Some(timer);
    }),
    hook("typed looping call", Kind::Closure, |stage| {
        let mut call = closure();
        let looping = stage.own().every::<Probe>(Duration::from_micros(1), move |_, _| call());
        *stage.typed_looping.borrow_mut() = Some(looping);
    }),
    hook("timer", Kind::Closure, |stage| {
        let mut call = closure();
        *stage.delayed.borrow_mut() = stage.handle.call_later(Duration::ZERO, move |_| call());
    }),
    hook("callback", Kind::Closure, |stage| {
        let mut call = closure();
        *stage.call.borrow_mut() = stage.handle.call_soon(move |_| call());
    }),
    hook("looping call", Kind::Closure, |stage| {
        let mut call = closure();
        let looping = stage.handle.every(Duration::from_micros(1), move |_, _| call());
        *stage.looping.borrow_mut() = looping;
    }),
    hook("build_protocol", Kind::Closure, |stage| {
        let port = listen_with(stage, Watched { build: true, ..Watched::new() });
        *stage.other_peer.borrow_mut() = Some(peer_of(port.local_addr().socket_addr().unwrap()));
    }),
    hook("build_protocol of a connector", Kind::Closure, |stage| {
        let factory = Watched { build: true, ..Watched::new() };
        drop(stage.handle.connect(stage.address(), factory));
    }),
    hook("Factory::started", Kind::Closure, |stage| {
        listen_with(stage, Watched { start: true, ..Watched::new() });
    }),
    hook("Factory::started of a connector", Kind::Closure, |stage| {
        let factory = Watched { start: true, ..Watched::new() };
        drop(stage.handle.connect(stage.address(), factory));
    }),
    hook("Factory::stopped", Kind::Closure, |stage| {
        let port = listen_with(stage, Watched { stop: true, ..Watched::new() });
        stage.turn();
        drop(port.stop_listening());
    }),
    hook("before_wait", Kind::Closure, |stage| {
        let mut call = closure();
        stage.handle.before_wait(move |_| call());
    }),
    hook("shutdown trigger before", Kind::Closure, |stage| trigger(stage, ShutdownPhase::Before)),
    hook("shutdown trigger during", Kind::Closure, |stage| trigger(stage, ShutdownPhase::During)),
    hook("shutdown trigger after", Kind::Closure, |stage| trigger(stage, ShutdownPhase::After)),
    hook("channel receiver", Kind::Closure, |stage| {
        let mut call = closure();
        let sender = stage.handle.channel(2, move |_, _: Value| call()).unwrap();
        sender.send(Value::new()).unwrap();
    }),
    hook("Remote::call", Kind::Closure, |stage| {
        let value = Value::new();
        let sent = stage.remote.call(move |_| {
            let _value = value;
            reach(Kind::Closure);
        });
        assert!(sent.is_ok());
    }),
    hook("Deferred::on_done", Kind::Closure, |stage| {
        let mut call = closure();
        let (resolver, deferred) = Deferred::<u32, String>::new(&stage.handle);
        deferred.on_done(move |_, _| call());
        resolver.resolve(Ok(1));
    }),
    hook("Deferred::deliver", Kind::Closure, |stage| {
        let mut call = closure();
        let (resolver, deferred) = Deferred::<u32, String>::new(&stage.handle);
        deferred.deliver::<Probe>(&stage.own(), move |_, _, _| call());
        resolver.resolve(Ok(1));
    }),
    hook("outcome of connect", Kind::Closure, |stage| {
        let mut call = closure();
        stage.handle.connect(stage.address(), |_| Probe::new(false)).on_done(move |_, _| call());
    }),
    hook("outcome of finished", Kind::Closure, |stage| {
        let mut call = closure();
        stage.looping.borrow().finished().on_done(move |_, _| call());
        stage.looping.borrow().stop();
    }),
    hook("drop of a lost protocol", Kind::Dropped, |stage| reset(&stage.peer)),
    hook("drop of a replaced protocol", Kind::Dropped, |stage| {
        stage.own().switch_protocol(Other(Value::new()));
    }),
    hook("drop of a protocol that nobody needs", Kind::Dropped, |stage| {
        struct Unused(#[allow(dead_code, reason = "dropped")] Dropper);
        impl Protocol for Unused {
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        stage.own().switch_protocol(Unused(Dropper::new()));
        stage.own().abort_connection();
    }),
    hook("drop of a post", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().connection::<Probe>().unwrap().post(move |_, _| drop(dropper));
        stage.own().abort_connection();
    }),
    hook("drop of a typed timer", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().call_later::<Probe>(HOUR, move |_, _| drop(dropper));
        reset(&stage.peer);
    }),
    hook("drop of a typed looping call", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().every::<Probe>(HOUR, move |_, _| {
            let _ = &dropper;
        });
        reset(&stage.peer);
    }),
    hook("drop of a typed looping call of another protocol", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().every::<Other>(Duration::from_micros(1), move |_, _| {
            let _ = &dropper;
        });
    }),
    Hook {
        panics: 1,
        ..hook("drop of a looping call that panicked", Kind::Dropped, |stage| {
            let dropper = Dropper::new();
            stage.handle.every(Duration::from_micros(1), move |_, _| {
                let _ = &dropper;
                panic_as_planned();
            });
        })
    },
    hook("drop of the error of a looping call", Kind::Dropped, |stage| {
        #[derive(Debug)]
        struct Failure(#[allow(dead_code, reason = "dropped")] Dropper);
        impl std::fmt::Display for Failure {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("failure")
            }
        }
        impl std::error::Error for Failure {}
        stage.handle.every(Duration::from_micros(1), |handle, _| {
            let (resolver, deferred) = Deferred::<(), Box<dyn std::error::Error>>::new(handle);
            resolver.resolve(Err(Failure(Dropper::new()).into()));
            deferred
        });
    }),
    hook("drop of written bytes", Kind::Dropped, |stage| {
        stage.own().write_bytes(Bytes::from_owner(Memory(Dropper::new())));
        reset(&stage.peer);
    }),
    hook("drop of unread bytes", Kind::Dropped, |stage| {
        stage.own().pause_reading();
        stage.own().unread(Bytes::from_owner(Memory(Dropper::new())));
        reset(&stage.peer);
    }),
    hook("drop of delivered bytes", Kind::Dropped, |stage| {
        stage.own().unread(Bytes::from_owner(Memory(Dropper::new())));
    }),
    hook("drop of a factory", Kind::Dropped, |stage| {
        let port = listen_with(stage, Watched { _dropper: Some(Dropper::new()), ..Watched::new() });
        drop(port.stop_listening());
    }),
    hook("drop of a callback when the reactor stops", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_later(HOUR, move |_| drop(dropper));
        stage.handle.stop();
    }),
    at(Place::TearDown, "drop of a callback at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_soon(move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a timer at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_later(HOUR, move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a looping call at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.every(HOUR, move |_, _| {
            let _ = &dropper;
        });
    }),
    at(Place::TearDown, "drop of a protocol at the end", Kind::Dropped, |_| {}),
    at(Place::TearDown, "drop of a factory at the end", Kind::Dropped, |stage| {
        listen_with(stage, Watched { _dropper: Some(Dropper::new()), ..Watched::new() });
    }),
    at(Place::TearDown, "drop of a receiver at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        let receive = move |_: &Handle, _: u32| {
            let _ = &dropper;
        };
        drop(stage.handle.channel(1, receive));
    }),
    at(Place::TearDown, "drop of a message at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        assert!(stage.remote.call(move |_| drop(dropper)).is_ok());
    }),
    at(Place::TearDown, "drop of a trigger at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.on_shutdown(ShutdownPhase::After, move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a before_wait hook at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.before_wait(move |_| {
            let _ = &dropper;
        });
    }),
    at(Place::TearDown, "drop of written bytes at the end", Kind::Dropped, |stage| {
        stage.own().write_bytes(&BLOCK[..]);
        stage.own().write_bytes(Bytes::from_owner(Memory(Dropper::new())));
    }),
    at(Place::Outside, "no hook", Kind::Closure, |_| {}),
    at(Place::Afterwards, "no reactor", Kind::Closure, |_| {}),
];

fn trigger(stage: &Stage, phase: ShutdownPhase) {
    let mut call = closure();
    stage.handle.on_shutdown(phase, move |_| call());
    stage.handle.stop();
}

type OnTransport = (&'static str, fn(&Stage, &Transport, &Transport));

/// Calls on a connection: the hook's own, and another.
const ON_TRANSPORT: &[OnTransport] = &[
    ("write", |_, it, _| it.write(b"written")),
    ("write_bytes, small", |_, it, _| it.write_bytes(&b"written"[..])),
    ("write_bytes, large", |_, it, _| it.write_bytes(&BLOCK[..])),
    ("write_vectored", |_, it, _| {
        it.write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"b")])
    }),
    ("write_fmt", |_, it, _| write!(it, "{} {}", 1, 2)),
    ("io::Write", |_, it, _| {
        let mut it = it;
        let written = Write::write(&mut it, b"written");
        assert_eq!(written.is_err(), it.is_closing());
        it.flush().unwrap();
    }),
    ("try_write", |_, it, _| {
        let fits = it.try_write(b"written");
        assert!(!fits || !it.is_closing());
    }),
    ("send_file", |_, it, _| {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let value = Value::new();
        it.send_file(file, 10..2000).on_done(move |_, _| drop(value));
    }),
    ("send_file beyond the end", |_, it, _| {
        let file = std::fs::File::open("/dev/null").unwrap();
        drop(it.send_file(file, 0..2000));
    }),
    ("flushed", |_, it, _| {
        let value = Value::new();
        it.write(b"written");
        it.flushed().on_done(move |_, _| drop(value));
    }),
    ("pause_reading", |_, it, _| {
        it.pause_reading();
        assert!(!it.is_reading());
    }),
    ("resume_reading", |_, it, _| {
        it.pause_reading();
        it.resume_reading();
        assert!(it.is_reading());
    }),
    ("unread", |_, it, _| it.unread(&b"again"[..])),
    ("unread, paused", |_, it, _| {
        it.pause_reading();
        it.unread(Bytes::from_owner(Memory(Dropper::new())));
    }),
    ("unread, too much", |_, it, _| {
        it.unread(&BLOCK[..]);
        it.unread(&b"one more"[..]);
    }),
    ("lose_connection", |_, it, _| {
        it.write(b"last words");
        it.lose_connection();
        assert!(it.is_closing() || !it.reactor().now().elapsed().is_zero());
    }),
    ("abort_connection", |_, it, _| it.abort_connection()),
    ("abort_connection after lose_connection", |_, it, _| {
        it.lose_connection();
        it.abort_connection();
        it.lose_connection();
    }),
    ("lose_write_connection", |_, it, _| it.lose_write_connection()),
    ("fail", |_, it, _| it.fail("a failure")),
    ("check", |_, it, _| {
        assert_eq!(it.check(Ok::<_, String>(1)), Some(1));
        assert_eq!(it.check(Err::<u32, _>("a failure")), None);
    }),
    ("switch_protocol, another type", |_, it, _| it.switch_protocol(Other(Value::new()))),
    ("switch_protocol, the same type", |_, it, _| it.switch_protocol(Probe::new(false))),
    ("switch_protocol twice", |_, it, _| {
        it.unread(&b"for the next"[..]);
        it.switch_protocol(Other(Value::new()));
        it.switch_boxed(Box::new(Probe::new(false)));
    }),
    ("switch_protocol and abort", |_, it, _| {
        it.switch_protocol(Other(Value::new()));
        it.abort_connection();
    }),
    ("pipe", |_, it, second| {
        let value = Value::new();
        it.pipe(second).on_done(move |_, _| drop(value));
    }),
    ("pipe to itself", |_, it, _| drop(it.pipe(it))),
    ("pipe both ways", |_, it, second| {
        drop(it.pipe(second));
        drop(second.pipe(it));
        drop(it.pipe(second));
    }),
    ("pipe and abort", |_, it, second| {
        drop(it.pipe(second));
        second.abort_connection();
    }),
    ("set_watermarks", |_, it, _| {
        it.set_watermarks(0, 0);
        it.write_bytes(&BLOCK[..]);
        it.set_watermarks(usize::MAX, usize::MAX);
    }),
    ("set_write_limit", |_, it, _| {
        it.set_write_limit(1);
        it.write(b"12");
        it.write(b"34");
    }),
    ("set_timeouts", |_, it, _| {
        it.set_timeouts(Timeouts::new().idle(HOUR).minimum_rate(1, HOUR));
        let _ = it.timeouts();
    }),
    ("set_timeouts, passed", |_, it, _| it.set_timeouts(Timeouts::new().total(Duration::from_nanos(1)))),
    ("socket options", |_, it, _| {
        let _ = it.set_nodelay(false);
        let _ = it.set_keep_alive(Some(KeepAlive::default()));
        let _ = it.set_keep_alive(None);
    }),
    ("questions", |stage, it, _| {
        assert_eq!(it.peer_addr(), it.clone().peer_addr());
        assert_eq!(it.local_addr(), stage.port.local_addr());
        let found = stage.handle.transport(it.id());
        assert!(found.is_none_or(|found| found.id() == it.id()));
        assert!(!format!("{it:?} {} {:?}", it.id(), it.reactor()).is_empty());
        let _ = (it.queued(), it.is_closing(), it.stats(), it.is_reading());
    }),
    ("connection", |_, it, _| {
        assert!(it.connection::<Echo>().is_none());
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            assert_eq!(connection.transport().id(), connection.clone().id());
            assert!(connection.post(move |_, _| drop(value)));
        }
    }),
    ("Connection::post, closing", |_, it, _| {
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            it.lose_connection();
            assert!(!connection.post(move |_, _| drop(value)) || stage_is_gone());
        }
    }),
    ("Connection::post, and switch", |_, it, _| {
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            connection.post(move |_, _| drop(value));
        }
        it.switch_protocol(Other(Value::new()));
    }),
    ("call_later", |_, it, _| {
        let (now, later) = (Value::new(), Value::new());
        it.call_later::<Probe>(Duration::ZERO, move |_, _| drop(now));
        it.call_later::<Probe>(HOUR, move |_, _| drop(later));
    }),
    ("call_later for another type", |_, it, _| {
        let value = Value::new();
        it.call_later::<Echo>(Duration::ZERO, move |_, _| drop(value));
    }),
    ("every", |_, it, _| {
        let value = Value::new();
        it.every::<Probe>(Duration::from_micros(1), move |_, it| {
            let _ = &value;
            it.write(b"tick");
        });
    }),
    ("every, stopped", |_, it, _| {
        let value = Value::new();
        let looping = it.every::<Probe>(HOUR, move |_, _| {
            let _ = &value;
        });
        looping.stop();
    }),
    ("Deferred::deliver", |stage, it, _| {
        let value = Value::new();
        let (resolver, deferred) = Deferred::<Value, String>::new(&stage.handle);
        deferred.deliver::<Probe>(it, move |_, _, _| drop(value));
        resolver.resolve(Ok(Value::new()));
    }),
];

/// Whether the reactor was dropped before the call.
fn stage_is_gone() -> bool {
    stage().is_some_and(|stage| stage.place == Place::Afterwards)
}

type OnAnything = (&'static str, fn(&Stage));

/// Calls on everything else.
const ON_ANYTHING: &[OnAnything] = &[
    ("Reactor::run", |stage| {
        if let Some(reactor) = stage.reactor.borrow().as_ref().filter(|_| stage.in_loop()) {
            assert!(reactor.run().is_err());
            assert!(reactor.run_until_idle().is_err());
            assert!(reactor.turn(None).is_err());
            assert!(reactor.turn(Some(Duration::ZERO)).is_err());
            assert!(!format!("{reactor:?}").is_empty());
        }
    }),
    ("Handle::current", |stage| assert_eq!(Handle::current().is_some(), stage.in_loop())),
    ("Handle::listen", |stage| {
        let port = stage.handle.listen("tcp:0:interface=127.0.0.1", Watched::new());
        assert_eq!(port.is_err(), stage_is_gone());
    }),
    ("Handle::listen, refused", |stage| {
        assert!(stage.handle.listen(stage.address(), Watched::new()).is_err() || !stage.port.is_listening());
        assert!(stage.handle.listen("nonsense", Watched::new()).is_err());
    }),
    ("Handle::listen, shared factory", |stage| {
        let factory = SharedFactory::new(Watched::new());
        for _ in 0..2 {
            let _ = stage.handle.listen("tcp:0:interface=127.0.0.1", factory.clone());
        }
    }),
    ("Handle::connect", |stage| {
        let value = Value::new();
        stage.handle.connect(stage.address(), Watched::new()).on_done(move |_, _| drop(value));
    }),
    ("Handle::connect, cancelled", |stage| {
        let value = Value::new();
        let deferred = stage.handle.connect(stage.address(), Watched::new());
        deferred.cancel();
        assert!(!deferred.cancel());
        deferred.on_done(move |_, _| drop(value));
    }),
    ("Handle::connect, nonsense", |stage| drop(stage.handle.connect("nonsense", Watched::new()))),
    ("Handle::connect_protocol", |stage| {
        drop(stage.handle.connect_protocol(stage.address(), Probe::new(false)));
    }),
    ("Handle::connector", |stage| {
        let connector = stage.handle.connector(stage.address()).unwrap();
        assert!(!format!("{:?}", connector.endpoint()).is_empty());
        drop(connector.connect(Watched::new()));
        drop(connector.connect(Watched::new()));
    }),
    ("Handle::call_soon", |stage| {
        let value = Value::new();
        let call = stage.handle.call_soon(move |_| drop(value));
        assert_eq!(call.is_active(), !stage_is_gone());
    }),
    ("CallHandle::cancel", |stage| {
        stage.call.borrow().cancel();
        assert!(!stage.call.borrow().is_active());
        let value = Value::new();
        let call = stage.handle.call_soon(move |_| drop(value));
        assert_eq!(call.cancel(), !stage_is_gone());
        assert!(!call.cancel() && !call.is_active());
    }),
    ("Handle::call_later", |stage| {
        let value = Value::new();
        stage.handle.call_later(Duration::ZERO, move |_| drop(value));
    }),
    ("Handle::call_at", |stage| {
        let value = Value::new();
        stage.handle.call_at(stage.handle.now(), move |_| drop(value));
    }),
    ("DelayedCall::cancel", |stage| {
        stage.delayed.borrow().cancel();
        assert!(!stage.delayed.borrow().cancel() && !stage.delayed.borrow().is_active());
    }),
    ("DelayedCall::reset", |stage| {
        let _ = stage.delayed.borrow().reset(Duration::ZERO);
    }),
    ("DelayedCall::delay", |stage| {
        let _ = (stage.delayed.borrow().delay(HOUR), stage.delayed.borrow().deadline());
    }),
    ("DelayedCall::unref", |stage| stage.delayed.borrow().unref()),
    ("DelayedCall::cancel_on_drop", |stage| {
        let call = stage.delayed.borrow().clone();
        drop(call.cancel_on_drop());
        assert!(!stage.delayed.borrow().is_active());
    }),
    ("typed DelayedCall", |stage| {
        if let Some(call) = &*stage.typed_delayed.borrow() {
            let _ = (call.delay(HOUR), call.reset(HOUR), call.deadline(), call.is_active());
            call.unref();
            call.cancel();
            assert!(!call.is_active());
        }
    }),
    ("Handle::every", |stage| {
        let value = Value::new();
        let mut rounds = 0;
        stage.handle.every(Duration::from_micros(1), move |_, _| {
            let _ = &value;
            rounds += 1;
            assert!(rounds < 1_000_000);
        });
    }),
    ("Handle::every, with a Deferred", |stage| {
        let value = Value::new();
        stage.handle.every(Duration::from_micros(1), move |handle, _| {
            let _ = &value;
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            handle.call_soon(move |_| drop(resolver.resolve(Ok(()))));
            deferred
        });
    }),
    ("LoopingCall::stop", |stage| {
        stage.looping.borrow().stop();
        assert!(!stage.looping.borrow().stop() && !stage.looping.borrow().is_running());
    }),
    ("LoopingCall::reset", |stage| {
        let reset = stage.looping.borrow().reset();
        assert!(reset || !stage.looping.borrow().is_running() || stage.place != Place::Loop);
        let _ = stage.looping.borrow().skipped();
    }),
    ("LoopingCall::unref", |stage| stage.looping.borrow().unref()),
    ("LoopingCall::finished", |stage| {
        let value = Value::new();
        stage.looping.borrow().finished().on_done(move |_, _| drop(value));
        stage.looping.borrow().stop();
    }),
    ("typed LoopingCall", |stage| {
        if let Some(looping) = &*stage.typed_looping.borrow() {
            let value = Value::new();
            looping.finished().on_done(move |_, _| drop(value));
            let _ = (looping.reset(), looping.skipped(), looping.is_running());
            looping.unref();
            looping.stop();
            assert!(!looping.is_running());
        }
    }),
    ("Handle::before_wait", |stage| {
        let value = Value::new();
        stage.handle.before_wait(move |_| {
            let _ = &value;
        });
    }),
    ("Handle::stop", |stage| {
        stage.handle.stop();
        stage.handle.stop();
        assert!(stage.handle.is_stopping());
    }),
    ("Handle::on_shutdown", |stage| {
        for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
            let value = Value::new();
            stage.handle.on_shutdown(phase, move |handle| {
                drop(value);
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                handle.call_soon(move |_| drop(resolver.resolve(Err("a failure".to_owned()))));
                deferred
            });
        }
        stage.handle.stop();
    }),
    ("Handle::remote", |stage| {
        let remote = stage.handle.remote();
        let value = Value::new();
        let sent = remote.call(move |_| {
            let _value = value;
        });
        assert_eq!(sent.is_err(), !remote.is_alive());
    }),
    ("Remote::call", |stage| {
        for _ in 0..3 {
            let value = Value::new();
            drop(stage.remote.call(move |_| {
                let _value = value;
            }));
        }
    }),
    ("Remote::stop", |stage| stage.remote.stop()),
    ("Handle::channel", |stage| {
        let value = Value::new();
        let sender = stage.handle.channel(1, move |_, _: Value| {
            let _ = &value;
        });
        assert_eq!(sender.is_err(), stage_is_gone());
        if let Ok(sender) = sender {
            let sent = sender.clone().send(Value::new());
            assert!(sent.is_ok() || !stage.remote.is_alive());
            assert!(sender.send(Value::new()).is_err());
        }
    }),
    ("Sender::send", |stage| {
        let _ = stage.sender.send(Value::new());
        let _ = stage.sender.send(Value::new());
        assert!(stage.sender.send(Value::new()).is_err());
    }),
    ("Deferred::on_done", |stage| {
        let value = Value::new();
        if let Some((_, deferred)) = stage.pending.take() {
            deferred.on_done(move |_, _| drop(value));
        }
    }),
    ("Resolver::resolve", |stage| {
        let value = Value::new();
        if let Some((resolver, deferred)) = stage.pending.take() {
            assert!(resolver.resolve(Ok(1)));
            deferred.cancel();
            deferred.on_done(move |_, _| drop(value));
        }
    }),
    ("Resolver::resolve, nobody cares", |stage| {
        if let Some((resolver, deferred)) = stage.pending.take() {
            assert!(!deferred.cancel());
            drop(deferred);
            resolver.resolve(Err("a failure".to_owned()));
        }
    }),
    ("Handle, questions", |stage| {
        let handle = stage.handle.clone();
        let _ = (handle.now(), handle.next_deadline(), handle.stats(), handle.lag(), handle.ports());
        assert!(!format!("{handle:?} {:?} {}", stage.remote, handle.stats()).is_empty());
        assert!(!format!("{:?} {:?}", stage.port, stage.looping).is_empty());
        assert!(!format!("{:?} {:?} {:?}", stage.delayed, stage.call, stage.sender).is_empty());
    }),
    ("Port::stop_listening", |stage| {
        let value = Value::new();
        stage.port.stop_listening().on_done(move |_, _| drop(value));
        drop(stage.port.stop_listening());
        assert!((!stage.port.is_listening() && !stage.port.is_accepting()) || stage_is_gone());
    }),
    ("Port::pause_accepting", |stage| {
        stage.port.pause_accepting();
        assert!(!stage.port.is_accepting());
    }),
    ("Port::resume_accepting", |stage| {
        stage.port.pause_accepting();
        stage.port.resume_accepting();
        assert_eq!(stage.port.is_accepting(), stage.port.is_listening());
    }),
    ("Port::unref", |stage| {
        stage.port.unref();
        stage.port.unref();
        assert!(!format!("{:?}", stage.port.reactor()).is_empty());
    }),
];

/// Sets a reactor up and has the hook run. Returns what is wrong.
fn play(driver: Driver, hook: &Hook, action: Action, panics: bool) -> Vec<String> {
    let reactor = Reactor::builder()
        .portable_polling(driver == Driver::Portable)
        .drain_timeout(Duration::from_millis(1))
        .linger_timeout(Duration::from_millis(20))
        .slow_hook_threshold(None)
        .build()
        .expect("a reactor");
    let endpoint = "tcp:0:interface=127.0.0.1:send_buffer=4096";
    let factory = |_: twistor::Peer| {
        let stage = stage().expect("a stage");
        let built = stage.built.replace(stage.built.get() + 1);
        Probe::new(built == 1)
    };
    let (value, looped) = (Value::new(), Value::new());
    let stage = Rc::new(Stage {
        kind: hook.kind,
        place: hook.place,
        action,
        panics,
        drops_protocol: hook.name.contains("protocol") && hook.kind == Kind::Dropped,
        armed: Cell::new(false),
        reached: Cell::new(false),
        inside: Cell::new(false),
        built: Cell::new(0),
        faults: RefCell::default(),
        lives: RefCell::default(),
        transports: RefCell::default(),
        handle: (*reactor).clone(),
        own: RefCell::default(),
        other: RefCell::default(),
        peer: RefCell::default(),
        other_peer: RefCell::default(),
        port: reactor.listen(endpoint, factory).expect("a port"),
        delayed: RefCell::new(reactor.call_later(HOUR, move |_| drop(value))),
        typed_delayed: RefCell::default(),
        looping: RefCell::new(reactor.every(HOUR, move |_, _| {
            let _ = &looped;
        })),
        typed_looping: RefCell::default(),
        call: RefCell::new(reactor.call_soon(|_| {})),
        pending: RefCell::new(Some(Deferred::new(&reactor))),
        sender: reactor.channel(2, |_, _: Value| {}).expect("a channel"),
        remote: reactor.remote(),
        reactor: RefCell::new(Some(Rc::new(reactor))),
    });
    STAGE.set(Some(Rc::clone(&stage)));
    if catch_unwind(AssertUnwindSafe(|| scene(&stage, hook))).is_err() {
        stage.fault("a panic escaped");
    }
    STAGE.set(None);
    // What may hold the reactor or a value.
    drop(stage.reactor.take());
    stage.pending.take();
    stage.faults.take()
}

fn scene(stage: &Stage, hook: &Hook) {
    *stage.other_peer.borrow_mut() = Some(peer_of(stage.address()));
    stage.until("the second connection", || stage.other.borrow().is_some());
    if hook.kind != Kind::Made {
        *stage.peer.borrow_mut() = Some(peer_of(stage.address()));
        stage.until("the first connection", || stage.own.borrow().is_some());
        let (value, looped) = (Value::new(), Value::new());
        let own = stage.own();
        *stage.typed_delayed.borrow_mut() = Some(own.call_later::<Probe>(HOUR, move |_, _| drop(value)));
        *stage.typed_looping.borrow_mut() = Some(own.every::<Probe>(HOUR, move |_, _| {
            let _ = &looped;
        }));
    }
    stage.armed.set(true);
    match hook.place {
        Place::Loop => {
            (hook.trigger)(stage);
            let mut buffer = [0; 1 << 14];
            stage.until("the hook", || {
                if hook.kind == Kind::Resume
                    && let Some(mut peer) = stage.peer.borrow().as_ref()
                {
                    while matches!(peer.read(&mut buffer), Ok(1..)) {}
                }
                stage.reached.get()
            });
            assert_goes_on(stage, u64::from(stage.panics) + hook.panics);
        }
        Place::Outside => {
            stage.act();
            assert_goes_on(stage, 0);
        }
        Place::TearDown => {
            (hook.trigger)(stage);
            let reactor = stage.reactor.take();
            drop(reactor);
            if !stage.reached.get() {
                stage.fault("the value was not dropped with the reactor");
            }
        }
        Place::Afterwards => {
            let reactor = stage.reactor.take();
            drop(reactor);
            stage.act();
        }
    }
}

/// The reactor serves another connection, reports every loss once, and has counted the panics.
fn assert_goes_on(stage: &Stage, panics: u64) {
    for _ in 0..3 {
        stage.turn();
    }
    stage.until("the shutdown is over", || !stage.handle.is_stopping());
    let port = stage.handle.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
    let mut guest = peer_of(port.local_addr().socket_addr().expect("an IP port"));
    guest.write_all(b"ping").expect("a new connection takes data");
    let (mut answer, mut filled) = ([0; 4], 0);
    stage.until("another connection is served", || {
        match guest.read(&mut answer[filled..]) {
            Ok(0) => stage.fault("the new connection ended"),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => stage.fault(format!("the new connection failed: {error}")),
        }
        filled == 4
    });
    drop(guest);
    drop(port.stop_listening());
    stage.peer.take();
    stage.other_peer.take();
    let gone = stage.until("all connections are lost", || {
        let transports = stage.transports.borrow().clone();
        for transport in transports {
            transport.abort_connection();
        }
        stage.handle.stats().connections == 0
    });
    let stats = stage.handle.stats();
    if stats.panics != panics {
        stage.fault(format!("{} panics were counted instead of {panics}", stats.panics));
    }
    if gone && (stats.queued_bytes, stats.lost) != (0, stats.accepted + stats.connected) {
        stage.fault(format!("the counters do not add up: {stats:?}"));
    }
    for (id, (made, lost)) in &*stage.lives.borrow() {
        if *made == 0 || *lost != 1 {
            stage.fault(format!("connection {id}: {made} times made, {lost} times lost"));
        }
    }
}

fn live() -> (isize, usize, i64) {
    (VALUES.get(), open_descriptors(), counts().live)
}

/// All calls from all hooks of some places.
fn run_matrix(driver: Driver, panics: bool) {
    let own = ON_TRANSPORT.iter().map(|(name, call)| (format!("own Transport: {name}"), Action::Own(*call)));
    let other =
        ON_TRANSPORT.iter().map(|(name, call)| (format!("other Transport: {name}"), Action::Other(*call)));
    let anything = ON_ANYTHING.iter().map(|(name, call)| ((*name).to_owned(), Action::Any(*call)));
    let actions: Vec<_> = own.chain(other).chain(anything).collect();
    let mut faults = Vec::new();
    for hook in HOOKS {
        if panics && matches!(hook.place, Place::Outside | Place::Afterwards) {
            continue;
        }
        for (name, action) in &actions {
            let cell = format!("{name} from {}", hook.name);
            let before = live();
            let found = play(driver, hook, *action, panics);
            let mut after = live();
            if after != before {
                // The first of its kind may set up something for the thread or the process.
                let again = live();
                play(driver, hook, *action, panics);
                after = live();
                if after != again {
                    faults.push(format!("{cell}: (values, descriptors, allocations) {again:?} -> {after:?}"));
                }
            }
            faults.extend(found.into_iter().map(|fault| format!("{cell}: {fault}")));
            assert!(faults.len() < 40, "and perhaps more:\n{}", faults.join("\n"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

contract! {
    fn everything_can_be_called_from_every_hook(driver) {
        in_child(module_path!(), driver, || run_matrix(driver, false));
    }

    fn everything_can_be_called_from_a_hook_that_then_panics(driver) {
        in_child(module_path!(), driver, || run_matrix(driver, true));
    }
}
