//! Random operations in every hook, against random peers: whatever happens, the rules of a connection hold.
//!
//! A seed is a small world: some connections to plain sockets, some between two ends of the same reactor, and
//! some dozens of passes in which every hook does something at random, as do the sockets. A failing seed is
//! named by the test; `TWISTOR_SEED=n` plays it alone, `TWISTOR_SEED=n..m` a range. Every stream carries
//! bytes that say from their place which stream and position they belong to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use twistor::endpoint::{ConnectEndpoint, IntoConnectEndpoint, ListenEndpoint, TlsConnect, TlsListen};
use twistor::testing::{Link, Pieces};
use twistor::tls::rustls::pki_types::ServerName;
use twistor::{
    DelayedCall, Eof, Handle, LoopingCall, OnTimeout, Peer, Port, Protocol, Reason, Timeout, Timeouts,
    Transport,
};
use twistor_tests::process::open_descriptors;
use twistor_tests::tls::{self, NAME};
use twistor_tests::{Driver, Event, HOST, Line, Log, Machine, Script, World, contract, in_child, set_seed};

const SEEDS: u64 = 3000;
/// With TLS, whose handshakes take their time.
const TLS_SEEDS: u64 = 100;
const MOST_CONNECTIONS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(10);
/// Length of the text of which every stream is a turn.
const TEXT: usize = 1 << 16;

/// Random text, twice, so that every turn of it up to its length is one piece.
fn text() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let random = Random::new(7);
        let once: Vec<u8> = (0..TEXT).map(|_| (random.next() >> 32) as u8).collect();
        [&once[..], &once[..]].concat()
    })
}

/// A file with the same text.
fn text_file() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hammer-{}.txt", std::process::id()))
}

/// SplitMix64.
struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }

    fn one_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// One direction of a connection: what its writer writes.
struct Stream {
    turn: usize,
    written: Cell<u64>,
    /// From this position on it carries what comes in another stream from that position on.
    link: RefCell<Option<(u64, Rc<Self>, u64)>>,
}

impl Stream {
    fn piece(&self, position: u64, length: usize) -> &'static [u8] {
        let start = (self.turn + position as usize) % TEXT;
        &text()[start..start + length]
    }

    /// The next bytes to write.
    fn next(&self, length: usize) -> &'static [u8] {
        self.piece(self.written.get(), length)
    }

    fn wrote(&self, length: usize) {
        self.written.set(self.written.get() + length as u64);
    }

    fn is_linked(&self) -> bool {
        self.link.borrow().is_some()
    }

    fn has(&self, position: u64, data: &[u8]) -> bool {
        let link = self.link.borrow();
        let own = link.as_ref().map_or(self.written.get(), |(own, ..)| *own);
        let here = data.len().min(own.saturating_sub(position) as usize);
        let (ours, theirs) = data.split_at(here);
        let mut at = position;
        for part in ours.chunks(TEXT) {
            if part != self.piece(at, part.len()) {
                return false;
            }
            at += part.len() as u64;
        }
        match &*link {
            _ if theirs.is_empty() => true,
            Some((own, source, from)) => source.has(from + (at - own), theirs),
            None => false,
        }
    }
}

/// Whether a hook of a connection has panicked, and when.
#[derive(Clone, Copy)]
enum Panicked {
    No,
    Open,
    Closing,
}

/// A connection as the test knows it.
struct Life {
    transport: Transport,
    out: Rc<Stream>,
    input: Rc<Stream>,
    /// Bytes of the input that were delivered and not given back.
    position: Cell<u64>,
    last: Cell<usize>,
    lost: Cell<u32>,
    writing_paused: Cell<bool>,
    reading_paused: Cell<bool>,
    finished_writing: Cell<bool>,
    piped_out: Cell<bool>,
    switches: Cell<u32>,
    panicked: Cell<Panicked>,
    ticks: Cell<u32>,
}

struct Game {
    random: Random,
    handle: Handle,
    machine: Machine,
    port: RefCell<Port>,
    lives: RefCell<Vec<Rc<Life>>>,
    streams: RefCell<HashMap<(u16, u16), Rc<Stream>>>,
    timers: RefCell<Vec<DelayedCall>>,
    faults: RefCell<Vec<String>>,
    protocols: Cell<isize>,
    /// Whether something may happen although no peer does anything.
    with_timers: bool,
    with_tls: bool,
    over: Cell<bool>,
}

impl Game {
    fn fault(&self, text: impl Into<String>) {
        if self.faults.borrow().len() < 5 {
            self.faults.borrow_mut().push(text.into());
        }
    }

    fn stream(&self, writer: u16, reader: u16) -> Rc<Stream> {
        let mut streams = self.streams.borrow_mut();
        let stream = streams.entry((writer, reader)).or_insert_with(|| {
            let turn = Random::new(u64::from(writer) << 16 | u64::from(reader)).below(TEXT);
            Rc::new(Stream { turn, written: Cell::new(0), link: RefCell::new(None) })
        });
        Rc::clone(stream)
    }

    fn protocol<const N: u8>(self: &Rc<Self>, life: Option<Rc<Life>>) -> Hammer<N> {
        self.protocols.set(self.protocols.get() + 1);
        Hammer { game: Rc::clone(self), life }
    }

    fn some_life(&self) -> Option<Rc<Life>> {
        let lives = self.lives.borrow();
        if lives.is_empty() { None } else { Some(Rc::clone(&lives[self.random.below(lives.len())])) }
    }

    fn connect(self: &Rc<Self>) {
        if self.lives.borrow().len() >= MOST_CONNECTIONS || self.over.get() {
            return;
        }
        let Some(address) = self.port.borrow().local_addr().socket_addr() else { return };
        let game = Rc::clone(self);
        let endpoint = if self.with_tls {
            let name = ServerName::try_from(NAME).expect("a name");
            let client = tls::common().client.clone();
            ConnectEndpoint::Tls(TlsConnect::new(address, client, name).expect("an endpoint"))
        } else {
            address.into_connect_endpoint().expect("an endpoint")
        };
        let deferred = self.handle.connect(endpoint, move |_| game.protocol::<0>(None));
        if self.random.one_in(8) {
            deferred.cancel();
        }
    }

    fn listen(self: &Rc<Self>) -> Port {
        let game = Rc::clone(self);
        let factory = move |_: Peer| {
            if game.random.one_in(20) {
                game.panic();
            }
            (!game.random.one_in(20)).then(|| game.protocol::<0>(None))
        };
        let endpoint = "tcp:0:interface=127.0.0.1:send_buffer=16384";
        if self.with_tls {
            let endpoint = TlsListen::new(endpoint, tls::common().server.clone()).expect("an endpoint");
            return self.handle.listen(ListenEndpoint::Tls(endpoint), factory).expect("a port");
        }
        self.handle.listen(endpoint, factory).expect("a port")
    }

    fn panic(&self) {
        // Without the message that `panic!` prints.
        resume_unwind(Box::new("planned"));
    }

    /// Writes the next bytes of the stream in one of many ways.
    fn write(&self, life: &Life) {
        let transport = &life.transport;
        let length = match self.random.below(8) {
            0..5 => 1 + self.random.below(200),
            5 | 6 => 1 + self.random.below(8000),
            _ => 1 + self.random.below(60_000),
        };
        let takes = !transport.is_closing() && !life.finished_writing.get();
        if life.out.is_linked() {
            return;
        }
        let data = life.out.next(length);
        match self.random.below(6) {
            0 | 1 => transport.write(data),
            2 => transport.write_bytes(Bytes::from_static(data)),
            3 => {
                let (first, second) = data.split_at(length / 2);
                transport.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]);
            }
            4 => {
                let start = (life.out.turn + life.out.written.get() as usize) % TEXT;
                let file = File::open(text_file()).expect("the file");
                drop(transport.send_file(file, start as u64..(start + length) as u64));
            }
            _ => {
                if transport.try_write(data) {
                    life.out.wrote(length);
                    if !takes {
                        self.fault("try_write took bytes that nobody will send");
                    }
                }
                return;
            }
        }
        if takes {
            life.out.wrote(length);
        }
    }

    fn pipe(&self, life: &Rc<Life>) {
        let Some(target) = self.some_life() else { return };
        // No circles: what goes round in one never ends.
        let blocked = life.input.is_linked()
            || target.out.is_linked()
            || Rc::ptr_eq(&life.input, &target.out)
            || life.piped_out.get();
        if blocked || target.transport.is_closing() || life.transport.is_closing() {
            return;
        }
        life.piped_out.set(true);
        let link = (target.out.written.get(), Rc::clone(&life.input), life.position.get());
        *target.out.link.borrow_mut() = Some(link);
        drop(life.transport.pipe(&target.transport));
    }

    /// Does something at random to a connection, from wherever.
    fn act(self: &Rc<Self>, life: &Rc<Life>) {
        let transport = &life.transport;
        match self.random.below(64) {
            0..24 => self.write(life),
            24..28 => {
                transport.pause_reading();
                life.reading_paused.set(true);
            }
            28..33 => {
                transport.resume_reading();
                life.reading_paused.set(false);
            }
            33 => transport.lose_connection(),
            34 => transport.abort_connection(),
            35 => {
                transport.lose_write_connection();
                life.finished_writing.set(true);
            }
            36 => transport.fail("a failure"),
            37..40 if self.with_timers => {
                let (game, after) = (Rc::clone(self), Duration::from_micros(self.random.next() % 1500));
                let it = Rc::clone(life);
                let timer = match self.random.below(3) {
                    0 => self.handle.call_later(after, move |_| game.act(&it)),
                    1 => transport.call_later::<Hammer<0>>(after, move |it, _| it.enter("timer")),
                    _ => transport.call_later::<Hammer<1>>(after, move |it, _| it.enter("timer")),
                };
                self.timers.borrow_mut().push(timer);
            }
            40 => {
                if let Some(timer) = self.timers.borrow_mut().pop() {
                    let _ = if self.random.one_in(2) { timer.cancel() } else { timer.reset(Duration::ZERO) };
                }
            }
            41 if self.with_timers => {
                let it = Rc::clone(life);
                // The closure holds its own call, as a user's might: stopping it breaks the cycle.
                let looping = Rc::new(RefCell::new(None::<LoopingCall>));
                let own = Rc::clone(&looping);
                let call = transport.every::<Hammer<0>>(Duration::from_micros(200), move |hammer, _| {
                    it.ticks.set(it.ticks.get() + 1);
                    let over = it.ticks.get().is_multiple_of(4);
                    if let Some(call) = if over { own.take() } else { None } {
                        call.stop();
                    }
                    hammer.enter("looping call");
                });
                *looping.borrow_mut() = Some(call);
            }
            42 | 43 => {
                life.switches.set(life.switches.get() + 1);
                if self.random.one_in(2) {
                    transport.switch_protocol(self.protocol::<0>(Some(Rc::clone(life))));
                } else {
                    transport.switch_protocol(self.protocol::<1>(Some(Rc::clone(life))));
                }
            }
            44 | 45 => self.give_back(life),
            46 => self.pipe(life),
            47 | 48 => {
                let high = self.random.below(20_000);
                transport.set_watermarks(high, self.random.below(high + 1));
            }
            49 if self.with_timers => {
                let after = Duration::from_micros(500 + self.random.next() % 2000);
                transport.set_timeouts(match self.random.below(4) {
                    0 => Timeouts::new().idle(after),
                    1 => Timeouts::new().read(after).write_stall(after),
                    2 => Timeouts::new().total(after),
                    _ => Timeouts::new(),
                });
            }
            50 => self.connect(),
            51 if self.random.one_in(4) => {
                drop(self.port.borrow().stop_listening());
                let port = self.listen();
                *self.port.borrow_mut() = port;
            }
            51 => {
                self.port.borrow().pause_accepting();
                self.port.borrow().resume_accepting();
            }
            52..56 => {
                let Some(other) = self.some_life() else { return };
                let posted = if let Some(connection) = other.transport.connection::<Hammer<0>>() {
                    connection.post(move |it, _| it.enter("post"))
                } else if let Some(connection) = other.transport.connection::<Hammer<1>>() {
                    connection.post(move |it, _| it.enter("post"))
                } else {
                    return;
                };
                if !posted {
                    self.fault("a post to an open connection was refused");
                }
            }
            56 => {
                let game = Rc::clone(self);
                let it = Rc::clone(life);
                transport.flushed().on_done(move |_, outcome| {
                    if outcome.is_ok() || game.random.one_in(2) {
                        game.act(&it);
                    }
                });
            }
            57..60 => {
                if let Some(other) = self.some_life() {
                    self.write(&other);
                }
            }
            _ => {}
        }
    }

    /// Gives back bytes that were delivered last.
    fn give_back(&self, life: &Life) {
        let count = self.random.below(life.last.get() + 1).min(4000);
        if count == 0 || life.piped_out.get() || life.transport.is_closing() {
            return;
        }
        let start = life.position.get() - count as u64;
        if life.input.is_linked() {
            return;
        }
        life.transport.unread(Bytes::from_static(life.input.piece(start, count)));
        life.position.set(start);
        life.last.set(life.last.get() - count);
    }
}

/// The protocol of all ends: checks what it is told and does something at random.
struct Hammer<const N: u8> {
    game: Rc<Game>,
    life: Option<Rc<Life>>,
}

impl<const N: u8> Drop for Hammer<N> {
    fn drop(&mut self) {
        self.game.protocols.set(self.game.protocols.get() - 1);
    }
}

impl<const N: u8> Hammer<N> {
    fn life(&self, hook: &str) -> Rc<Life> {
        match &self.life {
            Some(life) => Rc::clone(life),
            None => panic!("{hook} before connection_made"),
        }
    }

    fn check(&self, hook: &str) -> Rc<Life> {
        let life = self.life(hook);
        if life.lost.get() > 0 {
            self.game.fault(format!("{hook} after the loss"));
        }
        if life.transport.is_closing() {
            self.game.fault(format!("{hook} on a closing connection"));
        }
        life
    }

    fn act(&self, life: &Rc<Life>) {
        for _ in 0..self.game.random.below(3) {
            self.game.act(life);
        }
        if self.game.random.one_in(150) {
            let closing = life.transport.is_closing();
            life.panicked.set(if closing { Panicked::Closing } else { Panicked::Open });
            self.game.panic();
        }
    }

    /// A hook without further rules.
    fn enter(&self, hook: &str) {
        let life = self.check(hook);
        self.act(&life);
    }
}

impl<const N: u8> Protocol for Hammer<N> {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(life) = &self.life {
            if life.switches.get() == 0 {
                self.game.fault("connection_made twice");
            }
        } else {
            let (here, there) = (transport.local_addr().port(), transport.peer_addr().port());
            let life = Rc::new(Life {
                transport: transport.clone(),
                out: self.game.stream(here, there),
                input: self.game.stream(there, here),
                position: Cell::new(0),
                last: Cell::new(0),
                lost: Cell::new(0),
                writing_paused: Cell::new(false),
                reading_paused: Cell::new(false),
                finished_writing: Cell::new(false),
                piped_out: Cell::new(false),
                switches: Cell::new(0),
                panicked: Cell::new(Panicked::No),
                ticks: Cell::new(0),
            });
            self.game.lives.borrow_mut().push(Rc::clone(&life));
            self.life = Some(life);
        }
        self.enter("connection_made");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let life = self.check("data_received");
        if data.is_empty() {
            self.game.fault("an empty slice was delivered");
        }
        if life.reading_paused.get() || !transport.is_reading() {
            self.game.fault("data_received while reading is paused");
        }
        if !life.input.has(life.position.get(), data) {
            self.game.fault(format!(
                "{} got bytes at {} that its peer has not written there",
                transport.id(),
                life.position.get()
            ));
        }
        life.position.set(life.position.get() + data.len() as u64);
        life.last.set(data.len());
        self.act(&life);
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        let life = self.check("eof_received");
        if life.reading_paused.get() {
            self.game.fault("eof_received while reading is paused");
        }
        if !life.input.is_linked() && life.position.get() != life.input.written.get() {
            self.game.fault(format!(
                "the stream ended at {} of {}",
                life.position.get(),
                life.input.written.get()
            ));
        }
        self.act(&life);
        if self.game.random.one_in(2) { Eof::Close } else { Eof::KeepOpen }
    }

    fn pause_writing(&mut self, _: &Transport) {
        let life = self.check("pause_writing");
        if life.writing_paused.replace(true) {
            self.game.fault("pause_writing twice");
        }
        self.act(&life);
    }

    fn resume_writing(&mut self, _: &Transport) {
        let life = self.check("resume_writing");
        if !life.writing_paused.replace(false) {
            self.game.fault("resume_writing without pause_writing");
        }
        self.act(&life);
    }

    fn timed_out(&mut self, _: &Transport, _: Timeout) -> OnTimeout {
        self.enter("timed_out");
        match self.game.random.below(3) {
            0 => OnTimeout::Abort,
            1 => OnTimeout::Close,
            _ => OnTimeout::Keep,
        }
    }

    fn shutting_down(&mut self, transport: &Transport) {
        self.enter("shutting_down");
        if self.game.random.one_in(2) {
            transport.lose_connection();
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let life = self.life("connection_lost");
        life.lost.set(life.lost.get() + 1);
        if life.lost.get() > 1 {
            self.game.fault("connection_lost twice");
        }
        if !transport.is_closing() {
            self.game.fault("a lost connection is open");
        }
        let told = matches!(reason, Reason::Panicked);
        match life.panicked.get() {
            Panicked::No if told => self.game.fault("no hook has panicked, but the loss says so"),
            Panicked::Open if !told => {
                self.game.fault(format!("a hook panicked, but the loss says: {reason}"));
            }
            // One that was aborted before is lost already; one that was flushing is not.
            _ => {}
        }
        // Whatever is done now has no effect on this one; others may feel it.
        for _ in 0..self.game.random.below(3) {
            self.game.act(&life);
        }
    }
}

/// A socket at the other end that is nothing to the reactor.
struct Plain {
    socket: Option<Line>,
    out: Rc<Stream>,
    input: Rc<Stream>,
    position: u64,
    finished: bool,
}

impl Plain {
    fn connect(game: &Game) -> Option<Self> {
        let socket = game.machine.connect(game.port.borrow().local_addr().socket_addr()?).ok()?;
        let (here, there) = (socket.local_addr().port(), socket.peer_addr().port());
        let (out, input) = (game.stream(here, there), game.stream(there, here));
        let socket =
            if game.with_tls { Line::secured(socket, tls::common().session()) } else { Line::plain(socket) };
        Some(Self { socket: Some(socket), out, input, position: 0, finished: false })
    }

    fn act(&mut self, game: &Game) {
        let Some(socket) = &mut self.socket else { return };
        match game.random.below(40) {
            0..10 if !self.finished => {
                let length = 1 + game.random.below(if game.random.one_in(6) { 20_000 } else { 500 });
                match socket.write(self.out.next(length)) {
                    Ok(count) => self.out.wrote(count),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    // Reset: the error is told once, after which a read finds what looks like an end.
                    Err(_) => self.socket = None,
                }
            }
            10..30 => self.read(game, 4),
            30 => {
                self.finished = true;
                // An error means that it is reset already.
                let _ = socket.finish();
            }
            31 => self.socket.take().into_iter().for_each(Line::reset),
            32 => self.socket = None,
            _ => {}
        }
    }

    fn read(&mut self, game: &Game, rounds: usize) {
        let mut buffer = [0; 8192];
        for _ in 0..rounds {
            let Some(socket) = &mut self.socket else { return };
            let length = 1 + game.random.below(buffer.len());
            match socket.read(&mut buffer[..length]) {
                Ok(0) => {
                    if !self.input.is_linked() && self.position != self.input.written.get() {
                        let (seen, all) = (self.position, self.input.written.get());
                        game.fault(format!("a socket's stream ended at {seen} of {all}"));
                    }
                    if self.finished {
                        self.socket = None;
                    }
                    return;
                }
                Ok(count) => {
                    if !self.input.has(self.position, &buffer[..count]) {
                        game.fault(format!("a socket got bytes at {} that are not its own", self.position));
                    }
                    self.position += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.socket = None,
            }
        }
    }
}

/// Turns until nothing happens any more, then looks whether the loop sleeps.
fn assert_sleeps(world: &World, game: &Game) {
    let reactor = &world.reactor;
    let work = || {
        let stats = reactor.stats();
        (stats.hooks, stats.calls, stats.system_calls.sends, stats.system_calls.receives)
    };
    let deadline = world.now() + PATIENCE;
    let (mut last, mut quiet) = (work(), 0);
    while quiet < 3 && world.now() < deadline {
        world.turn(Duration::ZERO);
        quiet = if work() == last { quiet + 1 } else { 0 };
        last = work();
    }
    let (before, end) = (reactor.stats().passes, world.now() + Duration::from_millis(3));
    while let Some(left) = end.checked_duration_since(world.now()).filter(|left| !left.is_zero()) {
        world.turn(left);
    }
    let (passes, now) = (reactor.stats().passes - before, work());
    if quiet < 3 || (passes > 12 && now == last) {
        game.fault(format!("{passes} passes in 3 ms although nothing happens: {last:?} {now:?}"));
    }
}

/// Plays one seed. Returns what is wrong.
fn play(driver: Driver, seed: u64, with_tls: bool) -> Vec<String> {
    let random = Random::new(seed);
    set_seed(seed);
    let world = World::with(driver, |builder| {
        builder
            .watermarks(4096, 1024)
            .write_limit(300_000)
            .read_budget(1 + random.below(20_000))
            .linger_timeout(Duration::from_millis(4))
            .linger_bytes(10_000)
            .drain_timeout(Duration::from_millis(2))
            .unread_limit(40_000)
            .slow_hook_threshold(None)
    });
    let mut slow_link = Link::instant();
    if let Some(simulation) = world.simulation() {
        // What a kernel decides by itself: sizes of buffers and pieces.
        let link = match seed % 4 {
            0 => Link::instant(),
            1 => Link::instant().buffers(3000, 2000),
            2 => Link::instant().pieces(Pieces::UpTo(700)),
            _ => Link::instant().buffers(50_000, 10_000).pieces(Pieces::UpTo(5000)),
        };
        simulation.set_link(HOST, HOST, &link);
        slow_link = link.latency(Duration::from_micros(300)).jitter(Duration::from_micros(500));
    }
    let reactor = &world.reactor;
    let port = reactor.listen("tcp:0:interface=127.0.0.1", |_| None::<Hammer<0>>).expect("a port");
    let game = Rc::new(Game {
        with_timers: !random.one_in(4),
        with_tls,
        random,
        handle: Handle::clone(reactor),
        machine: world.machine(),
        port: RefCell::new(port),
        lives: RefCell::default(),
        streams: RefCell::default(),
        timers: RefCell::default(),
        faults: RefCell::default(),
        protocols: Cell::new(0),
        over: Cell::new(false),
    });
    let port = game.listen();
    drop(game.port.replace(port).stop_listening());
    let mut plain = Vec::new();
    for _ in 0..=game.random.below(4) {
        if game.random.one_in(3) {
            game.connect();
        } else {
            plain.extend(Plain::connect(&game));
        }
    }
    // A handshake takes some passes.
    let steps = (20 + game.random.below(40)) * if with_tls { 3 } else { 1 };
    for step in 0..steps {
        for peer in &mut plain {
            peer.act(&game);
        }
        if game.random.one_in(4)
            && let Some(life) = game.some_life()
        {
            game.act(&life);
        }
        if step == 5
            && seed / 4 % 2 == 1
            && let Some(simulation) = world.simulation()
        {
            simulation.set_link(HOST, HOST, &slow_link);
        }
        if step == 10 && plain.len() < 4 {
            plain.extend(Plain::connect(&game));
        }
        world.turn(Duration::ZERO);
    }
    if !game.with_timers {
        assert_sleeps(&world, &game);
    }
    finish(&world, &game, plain);
    let simulation = world.end();
    if simulation.is_some() && game.machine.open_descriptors() != 0 {
        game.fault(format!("{} simulated descriptors are left", game.machine.open_descriptors()));
    }
    game.lives.take();
    game.timers.take();
    if game.protocols.get() != 0 {
        game.fault(format!("{} protocols are left", game.protocols.get()));
    }
    game.faults.take()
}

/// Ends all connections in one way or another and checks the account.
fn finish(world: &World, game: &Rc<Game>, mut plain: Vec<Plain>) {
    let reactor = &world.reactor;
    game.over.set(true);
    let way = game.random.below(8);
    if way == 0 {
        // The reactor is dropped in the middle of everything.
        return;
    }
    drop(game.port.borrow().stop_listening());
    let deadline = world.now() + PATIENCE;
    if way == 1 {
        reactor.stop();
        while world.turn(Duration::from_millis(1)) && world.now() < deadline {}
    }
    if way == 2 {
        plain.clear();
    }
    loop {
        let lives = game.lives.borrow().clone();
        for life in lives {
            if way < 5 {
                life.transport.abort_connection();
            } else {
                life.transport.resume_reading();
                life.reading_paused.set(false);
                life.transport.lose_connection();
            }
        }
        for peer in &mut plain {
            peer.read(game, 64);
        }
        // A stream that is closing still owes its bytes to sockets that read.
        let stats = reactor.stats();
        if stats.connections == 0 {
            break;
        }
        if world.now() > deadline {
            game.fault(format!(
                "connections are left: {stats:?} {:?}",
                game.lives
                    .borrow()
                    .iter()
                    .map(|life| format!("{:?} {}", life.transport, life.lost.get()))
                    .collect::<Vec<_>>()
            ));
            return;
        }
        world.turn(Duration::from_millis(1));
    }
    for peer in &mut plain {
        peer.read(game, 1000);
    }
    let stats = reactor.stats();
    if stats.queued_bytes != 0 || stats.lost != stats.accepted + stats.connected {
        game.fault(format!("the account is wrong: {stats:?}"));
    }
    for life in &*game.lives.borrow() {
        if life.lost.get() != 1 {
            game.fault(format!("{} losses of one connection", life.lost.get()));
        }
    }
}

fn hammer(driver: Driver, with_tls: bool) {
    std::fs::write(text_file(), text()).expect("a file");
    let seeds = std::env::var("TWISTOR_SEED").map_or(0..if with_tls { TLS_SEEDS } else { SEEDS }, |wanted| {
        let number = |text: &str| text.parse::<u64>().expect("TWISTOR_SEED is a number or a range n..m");
        match wanted.split_once("..") {
            Some((from, to)) => number(from)..number(to),
            None => number(&wanted)..number(&wanted) + 1,
        }
    });
    let mut failures = Vec::new();
    play(driver, u64::MAX, with_tls);
    let descriptors = open_descriptors();
    for seed in seeds {
        let mut faults = play(driver, seed, with_tls);
        let left = open_descriptors();
        if left != descriptors {
            faults.push(format!("{left} descriptors instead of {descriptors}"));
        }
        if !faults.is_empty() {
            failures.push(format!("TWISTOR_SEED={seed}: {}", faults.join("; ")));
        }
        if left != descriptors || failures.len() >= 10 {
            break;
        }
    }
    // Only for tidiness.
    let _ = std::fs::remove_file(text_file());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

contract! {
    fn the_rules_hold_whatever_hooks_and_peers_do(driver) {
        in_child(module_path!(), driver, || hammer(driver, false));
    }

    fn the_rules_hold_with_tls_whatever_hooks_and_peers_do(driver) {
        in_child(module_path!(), driver, || hammer(driver, true));
    }

    fn a_protocol_that_pauses_when_it_takes_over_hears_nothing_meanwhile(driver) {
        let world = World::new(driver);
        let (first, second) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&first));
        transport.unread(&b"again"[..]);
        peer.finish();
        transport.switch_protocol(Script::new(&second).on_made(Transport::pause_reading));
        world.turns(5);
        assert_eq!(second.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || second.lost().is_some());
        let lost = Event::Lost("closed".to_owned());
        assert_eq!(second.events(), [Event::Made, Event::Data(b"again".to_vec()), Event::Eof, lost]);
    }

    // Seed 971: the switch was made on the way into the hook, after it had been decided to call it.
    fn a_protocol_that_pauses_when_it_takes_over_does_not_hear_of_the_end_meanwhile(driver) {
        let world = World::new(driver);
        let (first, second) = (Log::new(), Log::new());
        let (transport, peer) = world.pair(Script::new(&first));
        peer.finish();
        transport.switch_protocol(Script::new(&second).on_made(Transport::pause_reading));
        world.turns(5);
        assert_eq!(second.events(), [Event::Made]);
        transport.resume_reading();
        world.until("the loss", || second.lost().is_some());
        assert_eq!(second.events(), [Event::Made, Event::Eof, Event::Lost("closed".to_owned())]);
    }

    fn a_protocol_that_lifts_the_time_outs_when_it_takes_over_hears_of_none(driver) {
        let world = World::new(driver);
        let (first, second) = (Log::new(), Log::new());
        let (transport, _peer) = world.pair(Script::new(&first));
        transport.set_timeouts(Timeouts::new().total(Duration::from_millis(1)));
        world.turns(1);
        world.spend(Duration::from_millis(2));
        transport.switch_protocol(Script::new(&second).on_made(|it| it.set_timeouts(Timeouts::new())));
        world.turns(5);
        assert_eq!((first.events(), second.events()), (vec![Event::Made], vec![Event::Made]));
    }
}
