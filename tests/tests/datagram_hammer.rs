//! Sockets for datagrams under random treatment: every hook and every callback does something at random, for
//! many seeds.
//!
//! Whatever happens: a datagram reaches only the socket that it was sent to, once, and none that is paused or
//! closed; `started` comes first and `stopped` last, each once; and the counters add up.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use twistor::endpoint::UdpBind;
use twistor::testing::Injection;
use twistor::{Address, DatagramProtocol, DatagramSocket, Handle, PanicPolicy};
use twistor_tests::{Driver, Machine, World, contract};

const SOCKETS: usize = 4;
const STEPS: u32 = 300;

/// What the sockets share.
struct Ground {
    sockets: RefCell<Vec<Option<Member>>>,
    next: Cell<u32>,
    steps: Cell<u32>,
    delivered: RefCell<HashSet<u32>>,
    faults: RefCell<Vec<String>>,
    panics: Cell<u64>,
    machine: Machine,
    open: Cell<i32>,
}

#[derive(Clone)]
struct Member {
    id: u32,
    socket: DatagramSocket,
}

impl Ground {
    fn number(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    fn fault(&self, text: String) {
        self.faults.borrow_mut().push(text);
    }

    fn open(self: &Rc<Self>, reactor: &Handle, place: usize) {
        let id = self.number();
        let endpoint = UdpBind::new(0).interface([127, 0, 0, 1]).queue_limit(8, 70_000).max_datagram(1000);
        let protocol = Wild { id, ground: Rc::clone(self), started: false, stopped: false };
        if let Ok(socket) = reactor.listen_datagram(endpoint, protocol) {
            self.open.set(self.open.get() + 1);
            self.sockets.borrow_mut()[place] = Some(Member { id, socket });
        }
    }

    fn member(&self, place: usize) -> Option<Member> {
        self.sockets.borrow()[place].clone()
    }

    /// Does something at random; true when it was a panic's turn.
    fn act(self: &Rc<Self>, reactor: &Handle) {
        if self.steps.get() == 0 {
            return;
        }
        self.steps.set(self.steps.get() - 1);
        let below = |limit| reactor.random().below(limit);
        let (place, other) = (below(SOCKETS as u64) as usize, below(SOCKETS as u64) as usize);
        let Some(it) = self.member(place) else { return self.open(reactor, place) };
        match below(20) {
            0..=8 => {
                for _ in 0..=below(5) {
                    let Some(target) = self.member(other) else { break };
                    // Not the socket's number: the next one may be given the same port.
                    let port = u32::from(target.socket.local_addr().port());
                    let mut data = port.to_be_bytes().to_vec();
                    data.extend(self.number().to_be_bytes());
                    data.resize(8 + below(1200) as usize, 7);
                    let _ = it.socket.send_to(&data, target.socket.local_addr());
                }
            }
            9 | 10 => it.socket.pause_reading(),
            11 | 12 => it.socket.resume_reading(),
            13 => {
                drop(it.socket.close());
                self.sockets.borrow_mut()[place] = None;
            }
            14 => {
                let again = Rc::clone(self);
                reactor.call_soon(move |reactor| again.act(reactor));
            }
            15 => {
                let again = Rc::clone(self);
                reactor.call_later(Duration::from_micros(below(500)), move |reactor| again.act(reactor));
            }
            16 => {
                let nobody = self.machine.vacant_for_datagrams();
                let _ = it.socket.send_to(b"nobody", nobody);
                assert!(it.socket.send_to(&[0; 65_508], nobody).is_err());
            }
            17 => {
                let _ = (it.socket.set_ttl(3), it.socket.set_broadcast(false), it.socket.queued());
            }
            18 => {
                self.panics.set(self.panics.get() + 1);
                panic!("planned");
            }
            _ => {
                let _ = it.socket.send_to(b"", it.socket.local_addr());
            }
        }
    }
}

struct Wild {
    id: u32,
    ground: Rc<Ground>,
    started: bool,
    stopped: bool,
}

impl Wild {
    fn check(&self, socket: &DatagramSocket, what: &str) {
        if !self.started || self.stopped {
            self.ground.fault(format!("{what} of {} before the start or after the end", self.id));
        }
        if !socket.is_open() {
            self.ground.fault(format!("{what} of {}, which is closed", self.id));
        }
    }

    fn arrived(&self, socket: &DatagramSocket, data: &[u8], what: &str) {
        self.check(socket, what);
        if !socket.is_reading() {
            self.ground.fault(format!("{what} of {}, which is paused", self.id));
        }
        if data.len() >= 8 {
            let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
            if word(0) != u32::from(socket.local_addr().port()) {
                self.ground.fault(format!("{} got what was sent to port {}", self.id, word(0)));
            }
            if !self.ground.delivered.borrow_mut().insert(word(4)) {
                self.ground.fault(format!("{} came twice", word(4)));
            }
        }
    }
}

impl DatagramProtocol for Wild {
    fn started(&mut self, socket: &DatagramSocket) {
        if self.started {
            self.ground.fault(format!("{} was started twice", self.id));
        }
        self.started = true;
        self.check(socket, "started");
        self.ground.clone().act(socket.reactor());
    }

    fn datagram_received(&mut self, socket: &DatagramSocket, data: &[u8], _: &Address) {
        if data.len() > 1000 {
            self.ground.fault("a datagram that is too long was received whole".to_owned());
        }
        self.arrived(socket, data, "datagram_received");
        self.ground.clone().act(socket.reactor());
    }

    fn datagram_truncated(&mut self, socket: &DatagramSocket, data: &[u8], _: &Address) {
        if data.len() != 1000 {
            self.ground.fault(format!("{} bytes of a truncated datagram", data.len()));
        }
        self.arrived(socket, data, "datagram_truncated");
        self.ground.clone().act(socket.reactor());
    }

    fn send_failed(&mut self, socket: &DatagramSocket, _: Option<&Address>, error: &std::io::Error) {
        self.ground.fault(format!("a send failed: {error}"));
        self.check(socket, "send_failed");
    }

    fn stopped(&mut self, socket: &DatagramSocket) {
        if self.stopped || !self.started || socket.is_open() {
            self.ground.fault(format!("{} was stopped out of turn", self.id));
        }
        self.stopped = true;
        self.ground.clone().act(socket.reactor());
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        self.ground.open.set(self.ground.open.get() - 1);
    }
}

fn play(driver: Driver, seed: u64) {
    let world = World::with(driver, |builder| {
        let builder = builder.panic_policy(PanicPolicy::Isolate).datagram_budget(7);
        if seed.is_multiple_of(2) { builder.fault_injection(Injection::harmless(seed)) } else { builder }
    });
    for _ in 0..seed {
        // Another place in the random numbers of the reactor; those of a real one are not repeatable anyway.
        let _ = world.reactor.random().unit();
    }
    let ground = Rc::new(Ground {
        sockets: RefCell::new(vec![None; SOCKETS]),
        next: Cell::new(0),
        steps: Cell::new(STEPS),
        delivered: RefCell::default(),
        faults: RefCell::default(),
        panics: Cell::new(0),
        machine: world.machine(),
        open: Cell::new(0),
    });
    let mut rounds = 0;
    while ground.steps.get() > 0 && rounds < 2000 {
        rounds += 1;
        let acting = Rc::clone(&ground);
        world.reactor.call_soon(move |reactor| acting.act(reactor));
        world.turns(1);
    }
    world.turns(3);
    let sockets = ground.sockets.take();
    for Member { socket, id } in sockets.iter().flatten() {
        socket.resume_reading();
        world.until("the queue drains", || socket.queued() == (0, 0));
        let stats = socket.stats();
        assert!(stats.received >= stats.truncated && stats.refused == 0, "{id}: {stats:?}");
    }
    world.turns(3);
    let stats = world.reactor.stats();
    assert_eq!(stats.panics, ground.panics.get(), "seed {seed}");
    assert!(ground.faults.borrow().is_empty(), "seed {seed}: {:?}", ground.faults.borrow());
    drop(sockets);
    let _simulation = world.end();
    assert_eq!(ground.open.get(), 0, "a protocol is left, seed {seed}");
}

contract! {
    fn nothing_goes_wrong_whatever_is_done(driver) {
        for seed in 0..60 {
            play(driver, seed);
        }
    }
}
