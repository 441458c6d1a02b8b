//! Every public method called from inside every hook: calm, and with the hook panicking after the call.
//!
//! A cell of the matrix is a fresh reactor with two connections, one hook that is made to run, and one call
//! made in it. Afterwards the reactor has to go on and serve another connection, every connection has to be
//! reported lost once, and nothing may be left when the reactor is dropped: no descriptor, no user value, no
//! allocation. The tests run in a process of their own, because they count its descriptors.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use twistor::{Deferred, Handle, Protocol, Transport};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::process::open_descriptors;
use twistor_tests::{Driver, World, contract, in_child};

use calls::{ON_ANYTHING, ON_TRANSPORT};
use hooks::HOOKS;
use stage::{Action, HOUR, Hook, Kind, Mailman, Place, Probe, STAGE, Stage, VALUES, Value, stage};

mod calls;
mod hooks;
mod stage;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The protocol of the connection that is served afterwards.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Sets a reactor up and has the hook run. Returns what is wrong.
fn play(driver: Driver, hook: &Hook, action: Action, panics: bool) -> Vec<String> {
    let world = World::with(driver, |builder| {
        builder
            .drain_timeout(Duration::from_millis(1))
            .linger_timeout(Duration::from_millis(20))
            .slow_hook_threshold(None)
    });
    let reactor = &world.reactor;
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
        handle: Handle::clone(reactor),
        machine: world.machine(),
        own: RefCell::default(),
        other: RefCell::default(),
        peer: RefCell::default(),
        other_peer: RefCell::default(),
        port: reactor.listen(endpoint, factory).expect("a port"),
        mailbox: reactor.listen_datagram("udp:0:interface=127.0.0.1", Mailman::new()).expect("a mailbox"),
        delayed: RefCell::new(reactor.call_later(HOUR, move |_| drop(value))),
        typed_delayed: RefCell::default(),
        looping: RefCell::new(reactor.every(HOUR, move |_, _| {
            let _ = &looped;
        })),
        typed_looping: RefCell::default(),
        call: RefCell::new(reactor.call_soon(|_| {})),
        pending: RefCell::new(Some(Deferred::new(reactor))),
        sender: reactor.channel(2, |_, _: Value| {}).expect("a channel"),
        remote: reactor.remote(),
        world: RefCell::new(Some(Rc::new(world))),
    });
    STAGE.set(Some(Rc::clone(&stage)));
    if catch_unwind(AssertUnwindSafe(|| scene(&stage, hook))).is_err() {
        stage.fault("a panic escaped");
    }
    STAGE.set(None);
    // What may hold the reactor or a value.
    let simulation = stage.end();
    stage.pending.take();
    if simulation.is_some() && stage.machine.open_descriptors() != 0 {
        stage.fault("simulated descriptors are left");
    }
    stage.faults.take()
}

fn scene(stage: &Stage, hook: &Hook) {
    *stage.other_peer.borrow_mut() = Some(stage.connect(stage.address()));
    stage.until("the second connection", || stage.other.borrow().is_some());
    if hook.kind != Kind::Made {
        *stage.peer.borrow_mut() = Some(stage.connect(stage.address()));
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
            stage.until("the hook", || stage.reached.get());
            assert_goes_on(stage, u64::from(stage.panics) + hook.panics);
        }
        Place::Outside => {
            stage.act();
            assert_goes_on(stage, 0);
        }
        Place::TearDown => {
            (hook.trigger)(stage);
            let _simulation = stage.end();
            if !stage.reached.get() {
                stage.fault("the value was not dropped with the reactor");
            }
        }
        Place::Afterwards => {
            let _simulation = stage.end();
            stage.act();
        }
    }
}

/// The reactor serves another connection, reports every loss once, and has counted the panics.
fn assert_goes_on(stage: &Stage, panics: u64) {
    stage.turns(3);
    stage.until("the shutdown is over", || !stage.handle.is_stopping());
    let port = stage.handle.listen("tcp:0:interface=127.0.0.1", |_| Echo).expect("a port");
    let guest = stage.connect(port.local_addr().socket_addr().expect("an IP port"));
    assert_eq!(guest.write(b"ping").expect("a new connection takes data"), 4);
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
    if gone && (stats.queued_bytes, stats.lost) != (0, stats.accepted + stats.connected + stats.adopted) {
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
    let mut before = live();
    for hook in HOOKS {
        if panics && matches!(hook.place, Place::Outside | Place::Afterwards) {
            continue;
        }
        for (name, action) in &actions {
            let cell = format!("{name} from {}", hook.name);
            let found = play(driver, hook, *action, panics);
            let mut after = live();
            if after != before {
                // The first of its kind may set up something for the thread or the process.
                before = after;
                play(driver, hook, *action, panics);
                after = live();
                if after != before {
                    faults
                        .push(format!("{cell}: (values, descriptors, allocations) {before:?} -> {after:?}"));
                }
            }
            before = after;
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
