//! TLS as a filter of a connection: sealed bytes on the side of the network, plain ones on the side of the
//! protocol.
//!
//! A sans-I/O machine around rustls. Input goes through [`Tls::open`], which hands out one step at a time (a
//! record that was opened, the end of the handshake, the end of the peer's stream), so that between two
//! records anybody may pause or close. Output stays plain in the connection's outbox until it is about to
//! leave: then [`Tls::seal`] makes records of it, which stand in [`Tls::wire`] until the kernel has taken
//! them. What the connection had written before TLS began leaves first, as it is.
//!
//! No memory is kept for a connection at rest but what rustls needs: buffers are lent by the reactor,
//! and only an incomplete record or sealed output that the kernel does not take stays here.

use std::sync::Arc;
use std::time::Instant;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use crate::core::outbox::Outbox;
use crate::core::pool::Pool;
use crate::tls::TlsError;
use crate::tls::{ServerNameTap, TlsInfo, TlsServer};

/// Plain bytes in a full record (RFC 8446, section 5.1).
const FULL_RECORD: usize = 16 * 1024;
/// Plain bytes in an early record: sealed, it fits into one segment, so that the peer can open it when that
/// has come.
const EARLY_RECORD: usize = 1350;
/// So many bytes of a connection are sent in early records.
const EARLY_BYTES: u64 = 16 * 1024;
/// Plain bytes sealed before the kernel is asked to take them.
pub(crate) const BATCH: usize = 4 * FULL_RECORD;
/// What a record takes beside its plain bytes: header, nonce, type and tag, with room to spare.
const RECORD_OVERHEAD: usize = 64;

/// Input that is being opened. The connections of a reactor share it, one after the other.
#[derive(Default)]
pub(crate) struct Opening {
    /// Sealed.
    input: Vec<u8>,
    /// How much of it was used.
    used: usize,
    /// The plain bytes of the record that was opened last.
    pub(crate) plain: Vec<u8>,
}

/// Memory for what is sealed, for the next connection that has something to send.
pub(crate) type SpareWire = Vec<u8>;

/// What opening has come to.
#[derive(Debug)]
pub(crate) enum Opened {
    /// To a record, whose plain bytes stand in the buffers.
    Record,
    /// To the end of the handshake.
    Secured,
    /// To the end of the peer's stream, as the peer says.
    PeerEnd,
    /// To the end of the input.
    Nothing,
    Failed(TlsError),
}

/// How far TLS has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing plain comes in, and nothing goes out.
    Handshake,
    Open,
    /// We have said that nothing more comes from us.
    Ended,
    Failed,
}

enum Session {
    /// A server that has heard nothing yet, and so needs no memory.
    Waiting(TlsServer),
    Server(Box<UnbufferedServerConnection>, Arc<ServerNameTap>),
    Client(Box<UnbufferedClientConnection>, Box<str>),
}

/// The filter; see the module.
pub(crate) struct Tls {
    session: Session,
    stage: Stage,
    /// Whether the handshake was completed, whatever came then.
    was_secured: bool,
    /// When the handshake has to be complete.
    deadline: Option<Instant>,
    /// Sealed input that was looked at and is incomplete. rustls may know the places of parts of a message in
    /// it, and has to be shown it whenever it is asked for anything. (While a handshake waits for its turn:
    /// input that was not looked at.)
    input: Vec<u8>,
    awaits_turn: bool,
    /// What came with the end of the handshake and was not handed out yet.
    behind_handshake: Option<Opened>,
    /// Input is being opened: what is answered to its records leaves together, and with what rustls itself
    /// has to say.
    is_opening: bool,
    /// The stream has ended without an announcement.
    is_cut_off: bool,
    /// What was written before TLS began.
    before: Outbox,
    wire: Wire,
    /// Plain bytes whose sealed form is on the wire.
    in_wire: u64,
    /// How many of these were in a file, and count towards no mark and no limit.
    of_file: u64,
    /// Plain bytes sealed so far, up to where that matters.
    sealed: u64,
    server_name: Option<Box<str>>,
}

/// Sealed bytes that wait for the kernel. The memory behind `end` is initialised as well, so that it is only
/// done once.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Has `write` fill a part of the memory behind what is there, which is at least `room` long.
    fn write<E>(&mut self, room: usize, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        if self.bytes.len() - self.end < room {
            self.bytes.resize(self.end + room, 0);
        }
        self.end += write(&mut self.bytes[self.end..])?;
        Ok(())
    }
}

/// What rustls wants to be done.
enum Turn {
    Again,
    Record,
    PeerEnd,
    Rest,
    Failed(rustls::Error),
}

/// The two kinds of connections that rustls has, for what is the same in both.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether there is a message to be sent: if so, [`process`](Self::process) hands that out and looks at
    /// no input.
    fn has_message(&self) -> bool;
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn has_message(&self) -> bool {
        self.wants_write()
    }
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn has_message(&self) -> bool {
        self.wants_write()
    }
}

/// Does what a state of rustls asks for. Returns how much of the input is used up.
fn take_turn<D>(status: UnbufferedStatus<'_, '_, D>, wire: &mut Wire, plain: &mut Vec<u8>) -> (usize, Turn) {
    let UnbufferedStatus { mut discard, state } = status;
    let turn = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            plain.clear();
            while let Some(Ok(record)) = traffic.next_record() {
                plain.extend_from_slice(record.payload);
                discard += record.discard;
            }
            if plain.is_empty() { Turn::Again } else { Turn::Record }
        }
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            if let Err(EncodeError::InsufficientSize(error)) = wire.write(0, |room| message.encode(room)) {
                // It fits now.
                let _ = wire.write(error.required_size, |room| message.encode(room));
            }
            Turn::Again
        }
        // It is as good as sent: the wire keeps it until it is.
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Turn::Again
        }
        Ok(ConnectionState::PeerClosed) => Turn::PeerEnd,
        Ok(_) => Turn::Rest,
        Err(error) => Turn::Failed(error),
    };
    (discard, turn)
}

/// Has rustls take steps until it asks for something that is not done here.
fn advance(
    records: &mut impl Records,
    input: &mut [u8],
    wire: &mut Wire,
    plain: &mut Vec<u8>,
) -> (usize, Turn) {
    let mut used = 0;
    loop {
        let (discard, turn) = take_turn(records.process(&mut input[used..]), wire, plain);
        used += discard;
        if !matches!(turn, Turn::Again) {
            return (used, turn);
        }
    }
}

/// What is to be said in a record.
#[derive(Clone, Copy)]
enum Said<'a> {
    Plain(&'a [u8]),
    /// That nothing more follows.
    End,
}

/// Seals a record onto the wire. `input` is what was looked at and is incomplete.
fn emit(
    records: &mut impl Records,
    said: Said<'_>,
    input: &mut Vec<u8>,
    wire: &mut Wire,
) -> Result<(), rustls::Error> {
    let mut room = RECORD_OVERHEAD + if let Said::Plain(plain) = said { plain.len() } else { 0 };
    loop {
        let used = match records.process(input) {
            UnbufferedStatus { discard, state: Ok(ConnectionState::WriteTraffic(mut traffic)) } => {
                let written = wire.write(room, |room| match said {
                    Said::Plain(plain) => traffic.encrypt(plain, room),
                    Said::End => traffic.queue_close_notify(room),
                });
                match written {
                    Ok(()) => {
                        input.drain(..discard);
                        return Ok(());
                    }
                    Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                    Err(EncryptError::EncryptExhausted) => return Err(rustls::Error::EncryptError),
                }
                discard
            }
            // New keys, perhaps, which have to be told first.
            status => match take_turn(status, wire, &mut Vec::new()) {
                (_, Turn::Failed(error)) => return Err(error),
                (_, Turn::Rest) => return Err(rustls::Error::HandshakeNotComplete),
                (used, Turn::Again | Turn::Record | Turn::PeerEnd) => used,
            },
        };
        input.drain(..used);
    }
}

/// Puts the messages that there are onto the wire. No input is looked at: behind an error it must not be.
fn emit_messages(records: &mut impl Records, wire: &mut Wire) {
    while records.has_message() {
        take_turn(records.process(&mut []), wire, &mut Vec::new());
    }
}

impl Tls {
    fn new(session: Session, deadline: Option<Instant>) -> Self {
        Self {
            session,
            stage: Stage::Handshake,
            was_secured: false,
            deadline,
            input: Vec::new(),
            awaits_turn: false,
            behind_handshake: None,
            is_opening: false,
            is_cut_off: false,
            before: Outbox::default(),
            wire: Wire::default(),
            in_wire: 0,
            of_file: 0,
            sealed: 0,
            server_name: None,
        }
    }

    /// The server's side.
    pub(crate) fn server(server: TlsServer, deadline: Option<Instant>) -> Self {
        Self::new(Session::Waiting(server), deadline)
    }

    /// What was written before leaves first.
    pub(crate) fn begin_behind(&mut self, before: Outbox) {
        self.before = before;
    }

    /// The client's side; `name` is what the server is to prove to be.
    pub(crate) fn client(
        client: UnbufferedClientConnection,
        name: Box<str>,
        deadline: Option<Instant>,
    ) -> Result<Self, TlsError> {
        let mut tls = Self::new(Session::Client(Box::new(client), name), deadline);
        // The client speaks first.
        match tls.advance(&mut [], &mut Vec::new()) {
            (_, Turn::Failed(error)) => Err(error.into()),
            _ => Ok(tls),
        }
    }

    fn advance(&mut self, input: &mut [u8], plain: &mut Vec<u8>) -> (usize, Turn) {
        match &mut self.session {
            Session::Waiting(_) => (0, Turn::Rest),
            Session::Server(server, _) => advance(&mut **server, input, &mut self.wire, plain),
            Session::Client(client, _) => advance(&mut **client, input, &mut self.wire, plain),
        }
    }

    fn state(&self) -> Option<&CommonState> {
        match &self.session {
            Session::Waiting(_) => None,
            Session::Server(server, _) => Some(server),
            Session::Client(client, _) => Some(client),
        }
    }

    /// What was agreed on; `None` before the handshake is complete.
    pub(crate) fn info(&self) -> Option<TlsInfo> {
        if !self.was_secured {
            return None;
        }
        TlsInfo::of(self.state()?, self.server_name.as_deref())
    }

    // Input.

    /// Keeps input of a handshake that has to wait for its turn.
    pub(crate) fn wait_with(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
        self.awaits_turn = true;
    }

    /// Whether a handshake has input that waits for its turn.
    pub(crate) fn awaits_turn(&self) -> bool {
        self.awaits_turn
    }

    /// Prepares the input that is there, and `data` behind it, to be [opened](Self::open).
    pub(crate) fn begin(&mut self, data: &[u8], opening: &mut Opening) -> Result<(), TlsError> {
        self.awaits_turn = false;
        self.is_opening = true;
        opening.used = 0;
        opening.input.clear();
        opening.input.append(&mut std::mem::take(&mut self.input));
        opening.input.extend_from_slice(data);
        if let Session::Waiting(server) = &self.session
            && !opening.input.is_empty()
        {
            match server.session() {
                Ok((session, tap)) => self.session = Session::Server(Box::new(session), tap),
                Err(error) => {
                    self.stage = Stage::Failed;
                    self.deadline = None;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Opens what comes next of the input.
    pub(crate) fn open(&mut self, opening: &mut Opening, spare: &mut SpareWire) -> Opened {
        if let Some(opened) = self.behind_handshake.take() {
            return opened;
        }
        let is_used_up = opening.used == opening.input.len() && self.stage == Stage::Open;
        if is_used_up || self.stage == Stage::Failed || !self.input.is_empty() {
            return Opened::Nothing;
        }
        self.borrow_wire(spare);
        let (used, turn) = self.advance(&mut opening.input[opening.used..], &mut opening.plain);
        opening.used += used;
        if matches!(turn, Turn::Rest) {
            // From here on whoever seals has to show it.
            self.keep_rest(opening);
        }
        let is_secured = self.is_in_handshake() && self.state().is_some_and(|state| !state.is_handshaking());
        let opened = match turn {
            Turn::Failed(error) => {
                self.stage = Stage::Failed;
                self.deadline = None;
                // The alert.
                match &mut self.session {
                    Session::Waiting(_) => {}
                    Session::Server(server, _) => emit_messages(&mut **server, &mut self.wire),
                    Session::Client(client, _) => emit_messages(&mut **client, &mut self.wire),
                }
                Opened::Failed(error.into())
            }
            turn if is_secured => {
                self.stage = Stage::Open;
                self.was_secured = true;
                self.deadline = None;
                self.server_name = match &self.session {
                    Session::Server(_, tap) => tap.take(),
                    Session::Client(_, name) => Some(name.clone()),
                    Session::Waiting(_) => None,
                };
                self.behind_handshake = match turn {
                    Turn::Record => Some(Opened::Record),
                    Turn::PeerEnd => Some(Opened::PeerEnd),
                    Turn::Again | Turn::Rest | Turn::Failed(_) => None,
                };
                Opened::Secured
            }
            Turn::Record => Opened::Record,
            Turn::PeerEnd => Opened::PeerEnd,
            Turn::Again | Turn::Rest => Opened::Nothing,
        };
        self.return_wire(spare);
        opened
    }

    /// Does not ask rustls for anything any more.
    pub(crate) fn give_up(&mut self) -> Opened {
        self.stage = Stage::Failed;
        self.deadline = None;
        Opened::Failed(rustls::Error::General("it panicked".to_owned()).into())
    }

    /// Keeps what was not opened, if it `is_wanted`, and lets output leave again. What is not wanted was not
    /// looked at either, and must not be in the way of output: it may be anything.
    pub(crate) fn end(&mut self, opening: &mut Opening, is_wanted: bool) {
        self.is_opening = false;
        if self.stage != Stage::Failed && is_wanted {
            self.keep_rest(opening);
        }
    }

    fn keep_rest(&mut self, opening: &mut Opening) {
        self.input.extend_from_slice(&opening.input[opening.used..]);
        opening.used = opening.input.len();
    }

    pub(crate) fn is_in_handshake(&self) -> bool {
        self.stage == Stage::Handshake
    }

    /// Whether the handshake was completed, whatever came then.
    pub(crate) fn was_secured(&self) -> bool {
        self.was_secured
    }

    /// Whether plain output can be sealed.
    pub(crate) fn takes_output(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether plain output can be sealed behind what is on the wire.
    pub(crate) fn takes_more(&self) -> bool {
        self.takes_output() && self.wire.start == 0 && self.wire.end <= FULL_RECORD
    }

    /// Whether output has to wait until what has come is opened.
    pub(crate) fn is_opening(&self) -> bool {
        self.is_opening
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The stream has ended below.
    pub(crate) fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// Whether the stream ended without an announcement.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    // Output.

    /// Gives this connection the common buffer for what it seals, unless it has one.
    fn borrow_wire(&mut self, spare: &mut SpareWire) {
        if self.wire.bytes.is_empty() {
            self.wire.bytes = std::mem::take(spare);
        }
    }

    /// Gives the buffer back if nothing is in it.
    pub(crate) fn return_wire(&mut self, spare: &mut SpareWire) {
        if self.wire.is_empty() {
            let bytes = std::mem::take(&mut self.wire).bytes;
            if bytes.len() > spare.len() && bytes.len() <= 2 * BATCH {
                *spare = bytes;
            }
        }
    }

    /// What was written before TLS began and has to leave first.
    pub(crate) fn before(&mut self) -> &mut Outbox {
        &mut self.before
    }

    /// Sealed bytes for the kernel.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire.bytes[self.wire.start..self.wire.end]
    }

    /// The kernel took `count` sealed bytes. What was sealed in one go counts as sent when the last of it
    /// was.
    pub(crate) fn wire_sent(&mut self, count: usize, pool: &Pool) {
        self.wire.start += count;
        if self.wire.is_empty() {
            self.wire.start = 0;
            self.wire.end = 0;
            self.of_file = 0;
            pool.shrink(std::mem::take(&mut self.in_wire) as usize);
        }
    }

    /// Whether something waits to be sent beside what is in the connection's outbox.
    pub(crate) fn has_output(&self) -> bool {
        !self.before.is_empty() || !self.wire.is_empty()
    }

    /// Plain bytes that wait to be sent beside what is in the connection's outbox.
    pub(crate) fn pending(&self) -> u64 {
        self.before.pending().saturating_add(self.in_wire)
    }

    /// The same without those in files.
    pub(crate) fn queued(&self) -> usize {
        self.before.queued() + (self.in_wire - self.of_file) as usize
    }

    /// How many plain bytes the next record takes.
    fn next_record(&self) -> usize {
        if self.sealed < EARLY_BYTES { EARLY_RECORD } else { FULL_RECORD }
    }

    /// Makes records of `plain`, which are from now on counted as queued here.
    pub(crate) fn seal(
        &mut self,
        mut plain: &[u8],
        spare: &mut SpareWire,
        pool: &Pool,
    ) -> Result<(), TlsError> {
        self.borrow_wire(spare);
        while !plain.is_empty() {
            let (record, rest) = plain.split_at(plain.len().min(self.next_record()));
            self.emit(Said::Plain(record))?;
            self.sealed = self.sealed.saturating_add(record.len() as u64);
            self.in_wire += record.len() as u64;
            pool.grow(record.len());
            plain = rest;
        }
        Ok(())
    }

    /// The last `count` bytes that were sealed were in a file.
    pub(crate) fn sealed_of_file(&mut self, count: usize) {
        self.of_file += count as u64;
    }

    fn emit(&mut self, said: Said<'_>) -> Result<(), rustls::Error> {
        match &mut self.session {
            Session::Waiting(_) => Err(rustls::Error::HandshakeNotComplete),
            Session::Server(server, _) => emit(&mut **server, said, &mut self.input, &mut self.wire),
            Session::Client(client, _) => emit(&mut **client, said, &mut self.input, &mut self.wire),
        }
    }

    /// Whether the peer has to be told that our stream ends.
    pub(crate) fn has_to_announce(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Says that nothing more comes from us.
    pub(crate) fn announce_end(&mut self, spare: &mut SpareWire) {
        self.borrow_wire(spare);
        self.stage = Stage::Ended;
        if let Err(error) = self.emit(Said::End) {
            // The stream ends all the same.
            log::debug!("cannot announce the end of a TLS stream: {error}");
        }
    }

    /// Nothing more is sent.
    pub(crate) fn clear_output(&mut self, pool: &Pool) {
        self.before.clear(pool);
        self.of_file = 0;
        pool.shrink(std::mem::take(&mut self.in_wire) as usize);
        self.wire = Wire::default();
    }
}
