//! How a port or an attempt to connect holds a connection back until it is secure: the factory's protocol is
//! built after the handshake, so that it can be told what was agreed on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use rustls::pki_types::ServerName;

use crate::core::slots::Token;
use crate::endpoint::TlsConnect;
use crate::net::connection::End;
use crate::net::reason::Reason;
use crate::net::tls::Tls;
use crate::protocol::{ErasedFactory, Peer, Protocol};
use crate::reactor::connect_error::{ConnectError, ConnectErrorKind};
use crate::reactor::connecting::Finish;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;
use crate::reactor::timers::deadline;
use crate::reactor::transport::Transport;
use crate::tls::TlsError;
use crate::tls::{TlsClient, TlsInfo, TlsServer};

/// What is asked of a connection before it is let through.
enum Role {
    Server(TlsServer),
    /// With the time at which the attempt to connect is given up.
    Client(TlsClient, ServerName<'static>, Option<Instant>),
}

/// So many tokens may stand in a list for nothing.
const FEW: usize = 64;

/// Who wants to know whether a connection was let through.
type Waiting = Rc<Attempt>;

/// What connections of one port, or of one attempt, have to pass.
struct Gate {
    role: Role,
    /// `None` while it builds a protocol, and after the end.
    factory: RefCell<Option<Box<dyn ErasedFactory>>>,
    /// Whether there will be further connections.
    is_open: Cell<bool>,
    /// How many are in their handshake, or were until their loss is told.
    inside: Cell<usize>,
    /// How many of these have had to give way.
    evicted: Cell<usize>,
    /// Those that may be in their handshake, the oldest first.
    order: RefCell<VecDeque<Token>>,
    attempt: Option<Waiting>,
    handle: Handle,
}

/// The factory of a port with TLS: its protocols are [guards](Guard).
struct Guarded(Rc<Gate>);

impl ErasedFactory for Guarded {
    fn build(&mut self, peer: Peer) -> Option<Box<dyn Protocol>> {
        Some(Box::new(Guard::new(Rc::clone(&self.0), peer)))
    }

    fn started(&mut self) {
        self.0.with_factory(|factory| factory.started());
    }

    fn stopped(&mut self) {
        self.0.is_open.set(false);
        self.0.end_if_unused();
    }
}

impl Gate {
    fn new(
        handle: &Handle,
        role: Role,
        factory: Box<dyn ErasedFactory>,
        attempt: Option<Waiting>,
    ) -> Rc<Self> {
        Rc::new(Self {
            role,
            factory: RefCell::new(Some(factory)),
            is_open: Cell::new(true),
            inside: Cell::new(0),
            evicted: Cell::new(0),
            order: RefCell::default(),
            attempt,
            handle: handle.clone(),
        })
    }

    fn with_factory<R>(&self, f: impl FnOnce(&mut dyn ErasedFactory) -> R) -> Option<R> {
        let inner = self.handle.inner()?;
        let mut factory = self.factory.borrow_mut().take()?;
        let result = inner.contain("a factory", || f(&mut *factory));
        *self.factory.borrow_mut() = Some(factory);
        self.end_if_unused();
        result
    }

    /// The factory hears that it is not needed any more when the last connection that it might be asked about
    /// is through.
    fn end_if_unused(&self) {
        if self.is_open.get() || self.inside.get() > 0 {
            return;
        }
        let factory = self.factory.borrow_mut().take();
        if let (Some(factory), Some(inner)) = (factory, self.handle.inner()) {
            inner.end_factory(factory, true);
        }
    }

    /// Makes room for one more: the one that has waited longest gives way.
    fn admit(&self, inner: &Inner, token: Token) {
        let Role::Server(server) = &self.role else { return };
        let mut order = self.order.borrow_mut();
        let under_way = self.inside.get().saturating_sub(self.evicted.get());
        let mut excess = under_way.saturating_sub(server.max_handshakes());
        // The first may stand still for long, while many behind it come and go.
        if order.len() > 2 * self.inside.get() + FEW {
            order.retain(|token| waiting(inner, *token).is_some());
        }
        while let Some(oldest) = order.front().map(|oldest| waiting(inner, *oldest)) {
            match oldest {
                Some(_) if excess == 0 => break,
                Some(oldest) => {
                    Counters::bump(&inner.counters.tls_failures);
                    oldest.end(Reason::Tls(TlsError::TooManyHandshakes), End::Abrupt);
                    self.evicted.set(self.evicted.get() + 1);
                    excess -= 1;
                }
                None => {}
            }
            order.pop_front();
        }
        order.push_back(token);
    }
}

/// A connection, if it is in its handshake.
fn waiting(inner: &Inner, token: Token) -> Option<Transport> {
    inner.transport(token).filter(|transport| {
        let machine = transport.0.machine.borrow();
        machine.is_open() && machine.tls().is_some_and(Tls::is_in_handshake)
    })
}

/// The protocol of a connection that is in its handshake.
struct Guard {
    gate: Rc<Gate>,
    peer: Peer,
    is_evicted: bool,
}

impl Guard {
    fn new(gate: Rc<Gate>, peer: Peer) -> Self {
        gate.inside.set(gate.inside.get() + 1);
        Self { gate, peer, is_evicted: false }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gate.inside.set(self.gate.inside.get() - 1);
        self.gate.evicted.set(self.gate.evicted.get() - usize::from(self.is_evicted));
        self.gate.end_if_unused();
    }
}

impl Protocol for Guard {
    fn connection_made(&mut self, transport: &Transport) {
        let begun = match &self.gate.role {
            Role::Server(server) => transport.begin_tls_server(server),
            Role::Client(client, name, limit) => transport.begin_tls_client(client, name.clone(), *limit),
        };
        match begun {
            Ok(()) => {
                if let Some(inner) = transport.inner() {
                    self.gate.admit(&inner, transport.0.token);
                }
            }
            Err(reason) => log::debug!("{}: cannot begin TLS: {reason}", transport.peer_addr()),
        }
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        // Between the handshake and the protocol that follows there is no hook.
    }

    fn tls_started(&mut self, transport: &Transport, tls: &TlsInfo) {
        let peer = Peer { tls: Some(tls.clone()), ..self.peer.clone() };
        match self.gate.with_factory(|factory| factory.build(peer)).flatten() {
            Some(protocol) => {
                transport.switch_boxed(protocol);
                if let Some(attempt) = &self.gate.attempt {
                    attempt.secured(transport);
                }
            }
            None => {
                if let Some(inner) = transport.inner() {
                    Counters::bump(&inner.counters.refused);
                }
                if let Some(attempt) = &self.gate.attempt {
                    attempt.finish(Err(attempt.error(ConnectErrorKind::Declined)));
                }
                transport.lose_connection();
                transport.0.machine.borrow_mut().shorten_linger();
            }
        }
    }

    fn shutting_down(&mut self, transport: &Transport) {
        transport.abort_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        log::debug!("{}: lost in the handshake: {reason}", transport.peer_addr());
        self.is_evicted = matches!(reason, Reason::Tls(TlsError::TooManyHandshakes));
        if let Some(attempt) = &self.gate.attempt {
            attempt.finish(Err(ConnectError::unsecured(&attempt.target, reason)));
        }
    }
}

/// An attempt to connect with TLS.
struct Attempt {
    target: String,
    progress: RefCell<Progress>,
    /// `None` when it was told.
    finish: Cell<Option<Finish>>,
}

enum Progress {
    /// The attempt below has not come about.
    Connecting(Option<Box<dyn FnOnce() -> bool>>),
    Handshake(Transport),
    Over,
}

impl Attempt {
    fn error(&self, kind: ConnectErrorKind) -> ConnectError {
        ConnectError::new(&self.target, kind)
    }

    /// Tells how it ended; once.
    fn finish(&self, outcome: Result<Transport, ConnectError>) {
        let before = self.progress.replace(Progress::Over);
        drop(before);
        if let Some(finish) = self.finish.take() {
            finish(outcome);
        }
    }

    /// There is a connection below.
    fn connected(&self, transport: Transport) {
        let before = match &mut *self.progress.borrow_mut() {
            progress @ Progress::Connecting(_) => {
                Some(std::mem::replace(progress, Progress::Handshake(transport)))
            }
            Progress::Handshake(_) | Progress::Over => None,
        };
        drop(before);
    }

    /// The connection is secure; its protocol is greeted before anybody hears of this.
    fn secured(self: &Rc<Self>, transport: &Transport) {
        let (this, transport) = (Rc::clone(self), transport.clone());
        self.progress.replace(Progress::Over);
        transport.reactor().clone().call_soon(move |handle| {
            let panicked = matches!(transport.0.machine.borrow().reason(), Some(Reason::Panicked));
            if handle.inner().is_some() && !panicked {
                return this.finish(Ok(transport));
            }
            this.finish(Err(this.error(ConnectErrorKind::Declined)));
        });
    }

    fn cancel(&self) -> bool {
        let progress = self.progress.replace(Progress::Over);
        match progress {
            Progress::Connecting(cancel) => {
                // The attempt below says so itself.
                cancel.is_some_and(|cancel| cancel())
            }
            Progress::Handshake(transport) => {
                transport.abort_connection();
                self.finish(Err(self.error(ConnectErrorKind::Cancelled)));
                true
            }
            Progress::Over => false,
        }
    }
}

impl Inner {
    /// A factory whose connections get their protocol when they are secure.
    pub(crate) fn with_tls(
        &self,
        factory: Box<dyn ErasedFactory>,
        server: &TlsServer,
    ) -> Box<dyn ErasedFactory> {
        Box::new(Guarded(Gate::new(&self.handle, Role::Server(server.clone()), factory, None)))
    }

    /// Connects, and then begins TLS. Returns what cancels it.
    pub(crate) fn begin_tls(
        &self,
        tls: &TlsConnect,
        factory: Box<dyn ErasedFactory>,
        finish: Finish,
    ) -> Option<Box<dyn FnOnce() -> bool>> {
        let limit = tls.under().time_limit();
        let limit = (limit != std::time::Duration::MAX).then(|| deadline(self.now(), limit));
        let attempt = Rc::new(Attempt {
            target: tls.under().to_string(),
            progress: RefCell::new(Progress::Connecting(None)),
            finish: Cell::new(Some(finish)),
        });
        let role = Role::Client(tls.client().clone(), tls.name().clone(), limit);
        let gate = Gate::new(&self.handle, role, factory, Some(Rc::clone(&attempt)));
        let below = Rc::clone(&attempt);
        let cancel = self.begin(
            tls.under(),
            Box::new(Guarded(gate)),
            Box::new(move |outcome| match outcome {
                Ok(transport) => below.connected(transport),
                Err(error) => below.finish(Err(error)),
            }),
        );
        if let Progress::Connecting(place) = &mut *attempt.progress.borrow_mut() {
            *place = cancel;
        }
        Some(Box::new(move || attempt.cancel()))
    }
}
