//! A protocol for datagrams that writes down what it was told.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use twistor::{Address, DatagramProtocol, DatagramSocket};

/// What a [`Post`] was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The socket is open.
    Started,
    /// A datagram arrived.
    Datagram(Vec<u8>),
    /// One that is too long arrived, with this beginning.
    Truncated(Vec<u8>),
    /// A datagram came back.
    Refused,
    /// A datagram could not be sent.
    Failed(io::ErrorKind),
    /// The socket is closed.
    Stopped,
}

/// What was heard, in order, and who can be answered.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    heard: Rc<RefCell<Vec<Heard>>>,
    senders: Rc<RefCell<Vec<Address>>>,
}

impl Mail {
    /// Everything.
    #[must_use]
    pub fn all(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// The datagrams that arrived.
    #[must_use]
    pub fn datagrams(&self) -> Vec<Vec<u8>> {
        let heard = self.heard.borrow();
        let datagrams = heard.iter().filter_map(|one| match one {
            Heard::Datagram(data) => Some(data.clone()),
            _ => None,
        });
        datagrams.collect()
    }

    /// How often it was this.
    #[must_use]
    pub fn count(&self, wanted: &Heard) -> usize {
        self.heard.borrow().iter().filter(|one| *one == wanted).count()
    }

    /// Who sent the datagrams.
    #[must_use]
    pub fn senders(&self) -> Vec<Address> {
        self.senders.borrow().clone()
    }

    fn push(&self, heard: Heard) {
        self.heard.borrow_mut().push(heard);
    }
}

type Hook = Box<dyn FnMut(&DatagramSocket, &Heard)>;

/// Writes down what it is told, and calls a closure after that.
pub struct Post {
    mail: Mail,
    hook: Hook,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").field("mail", &self.mail).finish_non_exhaustive()
    }
}

impl Post {
    /// A protocol, and what it hears.
    #[must_use]
    pub fn new() -> (Self, Mail) {
        Self::with(|_, _| {})
    }

    /// With a closure for every hook.
    pub fn with(hook: impl FnMut(&DatagramSocket, &Heard) + 'static) -> (Self, Mail) {
        let mail = Mail::default();
        (Self { mail: mail.clone(), hook: Box::new(hook) }, mail)
    }

    fn note(&mut self, socket: &DatagramSocket, heard: &Heard) {
        self.mail.push(heard.clone());
        (self.hook)(socket, heard);
    }
}

impl DatagramProtocol for Post {
    fn started(&mut self, socket: &DatagramSocket) {
        self.note(socket, &Heard::Started);
    }

    fn datagram_received(&mut self, socket: &DatagramSocket, data: &[u8], from: &Address) {
        self.mail.senders.borrow_mut().push(from.clone());
        self.note(socket, &Heard::Datagram(data.to_vec()));
    }

    fn datagram_truncated(&mut self, socket: &DatagramSocket, data: &[u8], _: &Address) {
        self.note(socket, &Heard::Truncated(data.to_vec()));
    }

    fn connection_refused(&mut self, socket: &DatagramSocket) {
        self.note(socket, &Heard::Refused);
    }

    fn send_failed(&mut self, socket: &DatagramSocket, _: Option<&Address>, error: &io::Error) {
        self.note(socket, &Heard::Failed(error.kind()));
    }

    fn stopped(&mut self, socket: &DatagramSocket) {
        self.note(socket, &Heard::Stopped);
    }
}
