//! Protocols and factories that write down what they are told.

use std::cell::RefCell;
use std::rc::Rc;

use crate::net::reason::Reason;
use crate::protocol::{Eof, Factory, Peer, Protocol};
use crate::reactor::transport::Transport;

#[derive(Default, Debug)]
struct Record {
    transport: Option<Transport>,
    data: Vec<u8>,
    chunks: Vec<usize>,
    has_ended: bool,
    lost: Option<String>,
}

/// What an [`AccumulatingProtocol`] was told. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct RecordedLog {
    record: Rc<RefCell<Record>>,
}

impl RecordedLog {
    /// The transport, once `connection_made` was called.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.record.borrow().transport.clone()
    }

    /// All bytes received so far.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        self.record.borrow().data.clone()
    }

    /// The lengths of the pieces in which they came.
    #[must_use]
    pub fn chunks(&self) -> Vec<usize> {
        self.record.borrow().chunks.clone()
    }

    /// Whether the peer has finished sending.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.record.borrow().has_ended
    }

    /// The reason of the loss, as text, once the connection is lost.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.record.borrow().lost.clone()
    }
}

/// A protocol that does nothing but write down what it is told: the other end of what is tested.
///
/// # Panics
///
/// Its hooks panic when they are called in an order that the contract rules out.
#[derive(Debug)]
pub struct AccumulatingProtocol {
    log: RecordedLog,
}

impl AccumulatingProtocol {
    /// The protocol, and where to read what it was told.
    #[must_use]
    pub fn new() -> (Self, RecordedLog) {
        let log = RecordedLog::default();
        (Self { log: log.clone() }, log)
    }
}

impl Protocol for AccumulatingProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        let mut record = self.log.record.borrow_mut();
        assert!(record.transport.is_none(), "connection_made was called twice");
        record.transport = Some(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let mut record = self.log.record.borrow_mut();
        assert!(!data.is_empty(), "an empty piece was delivered");
        assert!(!record.has_ended && record.lost.is_none(), "data came after the end");
        record.data.extend_from_slice(data);
        record.chunks.push(data.len());
    }

    fn eof_received(&mut self, _: &Transport) -> Eof {
        self.log.record.borrow_mut().has_ended = true;
        Eof::Close
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let mut record = self.log.record.borrow_mut();
        assert!(record.lost.is_none(), "connection_lost was called twice");
        record.lost = Some(reason.to_string());
    }
}

/// Makes [`AccumulatingProtocol`]s, and remembers them and whom they were for. Clones share what they
/// remember.
#[derive(Clone, Default, Debug)]
pub struct RecordingFactory {
    made: Rc<RefCell<Vec<(Peer, RecordedLog)>>>,
    uses: Rc<RefCell<(usize, usize)>>,
}

impl RecordingFactory {
    /// One that has made nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The logs of all protocols made so far, in order.
    #[must_use]
    pub fn logs(&self) -> Vec<RecordedLog> {
        self.made.borrow().iter().map(|(_, log)| log.clone()).collect()
    }

    /// The peers they were made for.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.made.borrow().iter().map(|(peer, _)| peer.clone()).collect()
    }

    /// How often `started` and `stopped` were called.
    #[must_use]
    pub fn started_and_stopped(&self) -> (usize, usize) {
        *self.uses.borrow()
    }
}

impl Factory for RecordingFactory {
    type Protocol = AccumulatingProtocol;

    fn build_protocol(&mut self, peer: Peer) -> Option<AccumulatingProtocol> {
        let (protocol, log) = AccumulatingProtocol::new();
        self.made.borrow_mut().push((peer, log));
        Some(protocol)
    }

    fn started(&mut self) {
        self.uses.borrow_mut().0 += 1;
    }

    fn stopped(&mut self) {
        self.uses.borrow_mut().1 += 1;
    }
}
