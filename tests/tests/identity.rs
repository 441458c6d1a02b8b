//! Places are reused at once, identities never: what belonged to a connection, port or attempt does not reach
//! the next one that has its slot and its descriptor's number.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use twistor::{
    ConnectErrorKind, Deferred, DelayedCall, Eof, LoopingCall, OnTimeout, Protocol, Reason, Resolver,
    Timeout, Timeouts, Transport, TransportId,
};
use twistor_tests::process::next_descriptor;
use twistor_tests::{World, in_child, kernel_contract};

const GENERATIONS: u64 = 10_000;
const HOUR: Duration = Duration::from_secs(3600);

/// What one generation leaves behind.
struct Estate {
    generation: u64,
    id: TransportId,
    transport: Transport,
    timer: DelayedCall,
    looping: LoopingCall,
    resolver: Resolver<u64, String>,
}

#[derive(Default)]
struct Ledger {
    made: Cell<u64>,
    lost: Cell<u64>,
    data: Cell<u64>,
    estates: RefCell<Vec<Estate>>,
    faults: RefCell<Vec<String>>,
}

impl Ledger {
    fn fault(&self, text: String) {
        if self.faults.borrow().len() < 10 {
            self.faults.borrow_mut().push(text);
        }
    }
}

/// One generation after another, all of one type, so that only identity keeps them apart.
struct Tenant {
    generation: u64,
    ledger: Rc<Ledger>,
}

impl Tenant {
    /// Something of `generation` has come to this protocol.
    fn heard(&self, generation: u64, what: &str) {
        if generation != self.generation {
            self.ledger.fault(format!("{} heard of {what} of {generation}", self.generation));
        }
    }

    /// Leaves something behind of every kind that can wait for a connection.
    fn bequeath(&self, transport: &Transport) {
        let generation = self.generation;
        let connection = transport.connection::<Self>().expect("a Tenant");
        assert!(connection.post(move |it, _| it.heard(generation, "a post")));
        transport.call_later::<Self>(Duration::ZERO, move |it, _| it.heard(generation, "a due timer"));
        let timer = transport.call_later::<Self>(HOUR, move |it, _| it.heard(generation, "a timer"));
        let looping = transport
            .every::<Self>(Duration::from_micros(1), move |it, _| it.heard(generation, "a looping call"));
        let (resolver, deferred) = Deferred::new(transport.reactor());
        deferred.deliver::<Self>(transport, move |it, _, _| it.heard(generation, "a Deferred"));
        transport.flushed().deliver::<Self>(transport, move |it, _, _| it.heard(generation, "a flush"));
        transport.set_timeouts(Timeouts::new().total(Duration::from_nanos(1)));
        transport.unread(generation.to_le_bytes().to_vec());
        transport.set_watermarks(0, 0);
        let (id, transport) = (transport.id(), transport.clone());
        let estate = Estate { generation, id, transport, timer, looping, resolver };
        self.ledger.estates.borrow_mut().push(estate);
    }
}

impl Protocol for Tenant {
    fn connection_made(&mut self, _: &Transport) {
        self.ledger.made.set(self.ledger.made.get() + 1);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let Ok(bytes) = data.try_into() else {
            self.ledger.fault(format!("{} got {} bytes", self.generation, data.len()));
            return;
        };
        self.heard(u64::from_le_bytes(bytes), "bytes");
        self.ledger.data.set(self.ledger.data.get() + 1);
        self.bequeath(transport);
        transport.write(data);
        if self.generation.is_multiple_of(2) { transport.abort_connection() } else { transport.fail("over") }
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.ledger.fault(format!("{} heard of an end", self.generation));
        Eof::Close
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.ledger.fault(format!("{} was told to pause", self.generation));
    }

    fn timed_out(&mut self, _: &Transport, _: Timeout) -> OnTimeout {
        self.ledger.fault(format!("{} timed out", self.generation));
        OnTimeout::Keep
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.ledger.lost.set(self.ledger.lost.get() + 1);
        // One that failed says so, also when its peer resets it meanwhile.
        let goodbye = !self.generation.is_multiple_of(2) && matches!(reason, Reason::Failed(_));
        if !goodbye && !matches!(reason, Reason::Aborted) {
            self.ledger.fault(format!("{} was lost: {reason}", self.generation));
        }
    }
}

/// Uses everything that a generation has left behind, while the next one has its place.
fn execute(world: &World, estate: Estate, ledger: &Ledger) {
    let Estate { generation, id, transport, timer, looping, resolver } = estate;
    let fault = |wrong: bool, what: &str| {
        if wrong {
            ledger.fault(format!("{what} of {generation} is alive"));
        }
    };
    fault(world.reactor.transport(id).is_some(), "the id");
    fault(timer.cancel() || timer.reset(Duration::ZERO), "the timer");
    fault(looping.stop() || looping.reset(), "the looping call");
    fault(transport.connection::<Tenant>().is_some(), "the connection");
    fault(!transport.is_closing(), "the transport");
    resolver.resolve(Ok(generation));
    transport.write(b"of a predecessor");
    transport.write_bytes(vec![b'x'; 100_000]);
    transport.pause_reading();
    transport.unread(&b"of a predecessor"[..]);
    transport.set_watermarks(1, 0);
    transport.set_timeouts(Timeouts::new().total(Duration::ZERO));
    transport.switch_protocol(Bystander::default());
    fault(transport.set_nodelay(false).is_ok(), "the socket");
    drop(transport.pipe(&transport));
    transport.lose_write_connection();
    transport.lose_connection();
    transport.abort_connection();
}

/// Writes down what it gets.
#[derive(Default)]
struct Bystander {
    got: Rc<RefCell<Vec<u8>>>,
}

impl Protocol for Bystander {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.got.borrow_mut().extend_from_slice(data);
    }
}

/// Runs its closure when data comes, once.
struct OnData<F>(Option<F>);

impl<F: FnOnce() + 'static> Protocol for OnData<F> {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

fn slot_of(id: TransportId) -> String {
    id.to_string().split('.').next().expect("a slot").to_owned()
}

/// Reads a socket to its end; false when it was reset.
fn read_to_end(world: &World, socket: &TcpStream) -> (Vec<u8>, bool) {
    let (mut got, mut buffer, mut clean) = (Vec::new(), [0; 256], None);
    let mut socket = socket;
    socket.set_nonblocking(true).expect("non-blocking");
    world.until("the stream ends", || {
        match socket.read(&mut buffer) {
            Ok(0) => clean = Some(true),
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => clean = Some(false),
        }
        clean.is_some()
    });
    (got, clean.expect("just seen"))
}

fn address_of(port: &twistor::Port) -> SocketAddr {
    port.local_addr().socket_addr().expect("an IP port")
}

kernel_contract! {
    // Line 42.
    fn ten_thousand_tenants_of_one_slot_hear_nothing_of_each_other(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let ledger = Rc::new(Ledger::default());
            let (next, shared) = (Cell::new(0), Rc::clone(&ledger));
            let port = world.listen(move |_: twistor::Peer| {
                next.set(next.get() + 1);
                Tenant { generation: next.get(), ledger: Rc::clone(&shared) }
            });
            let mut slots = std::collections::HashSet::new();
            let mut highest = 0;
            let mut before: Option<TcpStream> = None;
            let first = next_descriptor();
            for generation in 1..=GENERATIONS {
                // Its bytes wait in the socket when its predecessor ends, and the predecessor's peer still
                // sends.
                let mut peer = TcpStream::connect(address_of(&port)).expect("a connection");
                peer.write_all(&generation.to_le_bytes()).expect("a new connection takes data");
                if let Some(mut before) = before.take() {
                    // An error means that the reset has come already.
                    let _ = before.write(b"for a predecessor");
                    SockRef::from(&before).set_linger(Some(Duration::ZERO)).expect("linger");
                }
                let estates = ledger.estates.take();
                world.until("the next generation is served", || {
                    world.turns(1);
                    ledger.data.get() == generation
                });
                for estate in estates {
                    execute(&world, estate, &ledger);
                }
                slots.extend(ledger.estates.borrow().last().map(|estate| slot_of(estate.id)));
                highest = highest.max(next_descriptor());
                before = Some(peer);
            }
            drop(before);
            world.until("the last one is lost", || world.reactor.stats().connections == 0);
            world.turns(3);
            assert!(ledger.faults.borrow().is_empty(), "{:#?}", ledger.faults.borrow());
            assert_eq!((ledger.made.get(), ledger.lost.get()), (GENERATIONS, GENERATIONS));
            // The places were really reused.
            assert!(slots.len() <= 2, "the slots {slots:?} were used");
            assert!(highest <= first + 6, "descriptors went from {first} to {highest}");
            let stats = world.reactor.stats();
            assert!(stats.dropped_posts >= GENERATIONS, "{stats:?}");
            assert_eq!((stats.timers, stats.queued_bytes), (0, 0));
        });
    }

    // Line 42.
    fn a_port_in_the_place_of_another_takes_none_of_its_connections(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let mistaken = Rc::new(Cell::new(0));
            for _ in 0..500 {
                let old = world.listen(|_: twistor::Peer| None::<Bystander>);
                let successor = Rc::new(RefCell::new(None));
                let (port, made, wrong) = (old.clone(), Rc::clone(&successor), Rc::clone(&mistaken));
                let (transport, peer) = world.pair(OnData(Some(move || {
                    let reactor = port.reactor().clone();
                    drop(port.stop_listening());
                    let new = reactor.listen("tcp:0:interface=127.0.0.1", move |_: twistor::Peer| {
                        wrong.set(wrong.get() + 1);
                        None::<Bystander>
                    });
                    *made.borrow_mut() = new.ok();
                })));
                // Both are ready in one pass, the connection with the hook first.
                assert_eq!(peer.try_send(b"go"), 2);
                let waiting = TcpStream::connect(address_of(&old)).expect("the backlog takes it");
                world.until("the hook has run", || successor.borrow().is_some());
                world.turns(2);
                let port = successor.take().expect("just seen");
                assert!(port.is_listening() && !old.is_listening());
                drop((waiting, port.stop_listening()));
                transport.abort_connection();
                world.turns(2);
            }
            assert_eq!(mistaken.get(), 0, "connections came through the wrong port");
            let stats = world.reactor.stats();
            assert!(stats.stale_events > 0, "no event was late: {stats:?}");
            assert_eq!(stats.connections, 0);
        });
    }

    // Lines 42 and 51.
    fn an_attempt_in_the_place_of_another_is_not_answered_for_it(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let wanted = TcpListener::bind("127.0.0.1:0").expect("a port");
            let unwanted = TcpListener::bind("127.0.0.1:0").expect("a port");
            let (there, elsewhere) = (wanted.local_addr().expect("an address"), unwanted.local_addr().expect("an address"));
            for _ in 0..500 {
                let first = Rc::new(RefCell::new(None));
                let outcomes = Rc::new(RefCell::new(Vec::new()));
                let (cancelled, told) = (Rc::clone(&first), Rc::clone(&outcomes));
                let handle = (*world.reactor).clone();
                let (transport, peer) = world.pair(OnData(Some(move || {
                    let attempt: Deferred<_, _> = cancelled.borrow_mut().take().expect("an attempt");
                    attempt.cancel();
                    let other = Rc::clone(&told);
                    attempt.on_done(move |_, outcome| {
                        let kind = outcome.err().map(|error: twistor::ConnectError| error.kind());
                        other.borrow_mut().push(format!("first {:?}", kind == Some(ConnectErrorKind::Cancelled)));
                    });
                    let second = handle.connect_protocol(there, Bystander::default());
                    second.on_done(move |_, outcome| {
                        let connection = outcome.expect("somebody listens there");
                        told.borrow_mut().push(format!("second {}", connection.peer_addr()));
                        connection.abort_connection();
                    });
                })));
                assert_eq!(peer.try_send(b"go"), 2);
                let attempt = world.reactor.connect_protocol(elsewhere, Bystander::default());
                *first.borrow_mut() = Some(attempt);
                world.until("both attempts are over", || outcomes.borrow().len() == 2);
                assert_eq!(*outcomes.borrow(), ["first true".to_owned(), format!("second {there}")]);
                transport.abort_connection();
                world.turns(2);
                let (stranger, _) = unwanted.accept().expect("the first attempt has reached it");
                assert_eq!(read_to_end(&world, &stranger).0, b"", "the first attempt sent something");
                drop(wanted.accept().expect("the second attempt has reached it"));
            }
            let stats = world.reactor.stats();
            assert!(stats.stale_events > 0, "no event was late: {stats:?}");
            assert_eq!(stats.connections, 0);
        });
    }

    // Line 42.
    fn a_connection_made_in_the_loss_of_another_gets_only_its_own_bytes(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            for round in 0..1000_u32 {
                let got = Rc::new(RefCell::new(Vec::new()));
                let successor = Rc::clone(&got);
                let script = twistor_tests::Script::new(&twistor_tests::Log::new()).on_lost(move |it, _| {
                    let bystander = Bystander { got: Rc::clone(&successor) };
                    it.reactor().connect_protocol(address, bystander).on_done(|_, outcome| {
                        assert!(outcome.is_ok());
                    });
                });
                let (victim, mut victims_peer) = world.pair(script);
                let (other, peer) = world.pair(OnData(Some(move || victim.abort_connection())));
                // In one pass: the hook that aborts the victim, then the victim's own event.
                assert_eq!(peer.try_send(b"go"), 2);
                assert_eq!(victims_peer.try_send(b"for the victim"), 14);
                match round % 3 {
                    0 => victims_peer.finish(),
                    1 => victims_peer.reset(),
                    _ => {}
                }
                listener.set_nonblocking(true).expect("non-blocking");
                let mut accepted = None;
                world.until("the successor connects", || {
                    accepted = listener.accept().ok();
                    accepted.is_some()
                });
                let (mut socket, _) = accepted.expect("just seen");
                socket.write_all(&round.to_le_bytes()).expect("a new connection takes data");
                world.until("its bytes arrive", || got.borrow().len() >= 4);
                assert_eq!(*got.borrow(), round.to_le_bytes(), "bytes of another connection");
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger");
                drop(socket);
                other.abort_connection();
                world.until("all are lost", || world.reactor.stats().connections == 0);
            }
        });
    }
}
