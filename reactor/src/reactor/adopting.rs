//! Descriptors from elsewhere as connections and ports: inherited ones, pipes, terminals, the standard
//! streams.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::core::address::Address;
use crate::core::slots::Token;
use crate::driver::Interest;
use crate::driver::options::PipeEnds;
use crate::endpoint::{Activated, ConnectEndpoint, Inherited, Which};
use crate::net::connection::Connection as Machine;
use crate::net::ends::Ends;
use crate::protocol::{ErasedFactory, Factory, Peer, Protocol};
use crate::reactor::connect_error::{ConnectError, ConnectErrorKind};
use crate::reactor::connecting::Finish;
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::listening::Port;
use crate::reactor::stats::Counters;
use crate::reactor::transport::Transport;
use crate::reactor::typed::Connection;
use crate::reactor::watchdog::Hook;
use crate::sys::descriptor::{self, Nature};
use crate::sys::inherited;

/// A stream that was opened by somebody else.
pub(crate) enum Adopted {
    /// A connected stream socket.
    Socket(OwnedFd),
    /// Descriptors of any kind; what bytes come from and go to.
    Pipe(PipeEnds, Address),
}

impl Handle {
    /// Makes a connection of a connected stream socket that was opened elsewhere: inherited, received from
    /// another process, or one end of a socket pair. It is made non-blocking and close-on-exec, and belongs
    /// to the reactor from now on.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::os::unix::net::UnixStream;
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// struct Greeter;
    /// impl Protocol for Greeter {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write(b"hello");
    ///         transport.lose_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let reactor = Reactor::new()?;
    /// let connection = reactor.adopt_connection(ours, Greeter)?;
    /// connection.lost().on_done(|reactor, _| reactor.stop());
    /// let reader = std::thread::spawn(move || {
    ///     let mut text = String::new();
    ///     theirs.read_to_string(&mut text).map(|_| text)
    /// });
    /// reactor.run()?;
    /// assert_eq!(reader.join().unwrap()?, "hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The descriptor is not a stream socket, or is not connected; the reactor is gone or has no slot left.
    pub fn adopt_connection<P: Protocol>(
        &self,
        descriptor: impl Into<OwnedFd>,
        protocol: P,
    ) -> io::Result<Connection<P>> {
        let inner = self.alive()?;
        Ok(Connection::new(inner.adopt(Adopted::Socket(descriptor.into()), Box::new(protocol))?))
    }

    /// Makes a port of a listening stream socket that was opened elsewhere, as by a service manager. It is
    /// made non-blocking and close-on-exec, and belongs to the reactor from now on. The file of a Unix socket
    /// stays where it is when the port is stopped.
    ///
    /// # Errors
    ///
    /// The descriptor is not a stream socket, or nobody listens on it; the reactor is gone or has no slot
    /// left.
    pub fn adopt_listener(&self, descriptor: impl Into<OwnedFd>, factory: impl Factory) -> io::Result<Port> {
        let descriptor = descriptor.into();
        self.alive()?.adopt_listener(descriptor, Box::new(factory))
    }

    /// Makes a connection that reads from `input` and writes to `output`: pipes, terminals, other devices,
    /// files. One of them may be missing: then the stream goes one way. Both belong to the reactor from now
    /// on, and are made non-blocking.
    ///
    /// The rules are those of every connection. A stream without an input is lost with
    /// [`Reason::Reset`](crate::Reason::Reset) when its reader goes away, one without an output with
    /// [`Reason::Closed`](crate::Reason::Closed) when its input has ended. After `lose_connection` nobody is
    /// waited for: what is written is flushed, then both are closed. Files are read and written at once,
    /// which may take as long as the disk takes.
    ///
    /// ```
    /// use twistor::{Protocol, Reactor, Transport};
    ///
    /// struct Collect(Vec<u8>);
    /// impl Protocol for Collect {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         self.0.extend_from_slice(data);
    ///     }
    ///     fn connection_lost(&mut self, transport: &Transport, _: &twistor::Reason) {
    ///         assert_eq!(self.0, b"through a pipe");
    ///         transport.reactor().stop();
    ///     }
    /// }
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let (reader, mut writer) = std::io::pipe()?;
    /// let reactor = Reactor::new()?;
    /// reactor.adopt_pipe(Some(reader.into()), None, Collect(Vec::new()))?;
    /// std::io::Write::write_all(&mut writer, b"through a pipe")?;
    /// drop(writer);
    /// reactor.run()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// There is neither input nor output, one of them is not open for its direction or cannot be watched; the
    /// reactor is gone or has no slot left.
    pub fn adopt_pipe<P: Protocol>(
        &self,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        protocol: P,
    ) -> io::Result<Connection<P>> {
        let numbers: Vec<String> =
            input.iter().chain(&output).map(|end| format!("fd {}", end.as_raw_fd())).collect();
        let name = Address::other(numbers.join(", "));
        let ends = PipeEnds { input, output, is_shared: false };
        let inner = self.alive()?;
        Ok(Connection::new(inner.adopt(Adopted::Pipe(ends, name), Box::new(protocol))?))
    }

    /// Makes a connection of the program's standard input and output, whatever they are: a terminal, pipes,
    /// files, sockets.
    ///
    /// Other programs share them. So their open files are not made non-blocking, but opened once more, where
    /// the system can do that; where it cannot (a terminal or pipe elsewhere than on Linux, the master side
    /// of a terminal), their flags are put back at the end. Closing the connection does not close the
    /// descriptors 0 and 1 themselves. Use no other way to read the standard input meanwhile.
    ///
    /// # Errors
    ///
    /// As [`adopt_pipe`](Self::adopt_pipe), and if one of them is closed.
    pub fn stdio<P: Protocol>(&self, protocol: P) -> io::Result<Connection<P>> {
        let inner = self.alive()?;
        Ok(Connection::new(inner.adopt(standard_streams()?, Box::new(protocol))?))
    }
}

/// The standard input and output as a stream.
pub(crate) fn standard_streams() -> io::Result<Adopted> {
    let named = |name: &str, error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let input = descriptor::standard(0).map_err(|error| named("the standard input", error))?;
    let output = descriptor::standard(1).map_err(|error| named("the standard output", error))?;
    let ends = PipeEnds { input: Some(input), output: Some(output), is_shared: true };
    Ok(Adopted::Pipe(ends, Address::other("stdio")))
}

/// A stream from elsewhere that the driver has taken in, and that has no protocol yet.
struct Opened {
    place: Place,
    ends: Ends,
    machine: Machine,
}

impl Opened {
    fn peer(&self) -> Peer {
        let (address, local) = (self.ends.peer(), self.ends.local());
        Peer::new(address, local, None, self.place.handle.clone())
    }
}

/// What the driver has under a token that nobody else knows yet: closed when dropped, unless it was
/// [taken](Self::take).
struct Place {
    handle: Handle,
    token: Token,
    is_taken: bool,
}

impl Place {
    fn take(mut self) -> Token {
        self.is_taken = true;
        self.token
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_taken
            && let Some(inner) = self.handle.inner()
        {
            inner.driver.borrow_mut().close(self.token);
            let slot = inner.slots.borrow_mut().remove(self.token);
            drop(slot);
        }
    }
}

/// A connection that the loop is yet to come to. If it does not, because it ends, nothing is left of it.
struct Introduction(Option<Transport>);

impl Introduction {
    fn begin(mut self) -> Option<Transport> {
        self.0.take()
    }
}

impl Drop for Introduction {
    fn drop(&mut self) {
        let Some(transport) = self.0.take() else { return };
        if let Some(inner) = transport.reactor().inner() {
            inner.driver.borrow_mut().close(transport.0.token);
            let slot = inner.slots.borrow_mut().remove(transport.0.token);
            drop(slot);
            inner.drop_slot(Slot::Connection(transport));
        }
    }
}

/// What the program was started with, as a stream.
fn inherited(endpoint: &Inherited) -> io::Result<Adopted> {
    let (input, output) = endpoint.numbers();
    let input = inherited::take(input)?;
    if output.is_none() && descriptor::nature(input.as_fd())? == Nature::Socket {
        return Ok(Adopted::Socket(input));
    }
    let (input, output) = match (output, descriptor::directions(input.as_fd())?) {
        (Some(output), _) => (Some(input), Some(inherited::take(output)?)),
        // What is open in one direction must not be opened in the other: a pipe would be held by both its
        // ends.
        (None, (true, false)) => (Some(input), None),
        (None, (false, _)) => (None, Some(input)),
        (None, (true, true)) => (Some(input.try_clone()?), Some(input)),
    };
    let ends = PipeEnds { input, output, is_shared: true };
    Ok(Adopted::Pipe(ends, Address::other(endpoint)))
}

impl Inner {
    /// Makes a connection of a stream from elsewhere. Its hooks are called from the loop, the first one
    /// before the next wait.
    pub(crate) fn adopt(&self, stream: Adopted, protocol: Box<dyn Protocol>) -> io::Result<Transport> {
        let opened = match self.open(stream) {
            Ok(opened) => opened,
            Err(error) => {
                self.discard(protocol);
                return Err(error);
            }
        };
        let transport = self.transport_of(opened, protocol);
        let introduction = Introduction(Some(transport.clone()));
        self.handle.call_soon(move |handle| {
            if let (Some(inner), Some(transport)) = (handle.inner(), introduction.begin()) {
                Counters::bump(&inner.counters.adopted);
                inner.introduce(transport);
            }
        });
        Ok(transport)
    }

    fn transport_of(&self, opened: Opened, protocol: Box<dyn Protocol>) -> Transport {
        let Opened { place, ends, machine } = opened;
        let transport = Transport::with_machine(self, place.take(), ends, machine, protocol);
        transport.0.interest.set(Interest::NONE);
        transport
    }

    /// Has the driver take a stream in.
    fn open(&self, stream: Adopted) -> io::Result<Opened> {
        if self.is_past_connections() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the reactor has stopped its connections",
            ));
        }
        let token = self.reserve()?;
        let opened = self.open_under(token, stream);
        if opened.is_err() {
            self.slots.borrow_mut().remove(token);
        }
        let (ends, machine) = opened?;
        let place = Place { handle: self.handle.clone(), token, is_taken: false };
        Ok(Opened { place, ends, machine })
    }

    fn open_under(&self, token: Token, stream: Adopted) -> io::Result<(Ends, Machine)> {
        let mut driver = self.driver.borrow_mut();
        match stream {
            Adopted::Socket(descriptor) => {
                let (local, peer) = driver.adopt_socket(token, descriptor)?;
                Ok((Ends::new(peer, local), Machine::new()))
            }
            Adopted::Pipe(ends, name) => {
                let (reads, writes) = (ends.input.is_some(), ends.output.is_some());
                if !reads && !writes {
                    let text = "a pipe needs an input or an output";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                driver.adopt_pipe(token, ends)?;
                Ok((Ends::new(name.clone(), name), Machine::of_pipe(reads, writes)))
            }
        }
    }

    /// The loop has come to a stream from elsewhere: its protocol hears of it, and it is watched from now on.
    /// False when the protocol panicked.
    fn introduce(&self, transport: Transport) -> bool {
        let token = transport.0.token;
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Connection(transport);
        }
        self.connections.set(self.connections.get() + 1);
        // Also if it was given up in the meantime: then the loss follows at once.
        let Some((transport, mut protocol)) = self.enter(token) else { return false };
        let outcome = catch_unwind(AssertUnwindSafe(|| protocol.connection_made(&transport)));
        let made = self.leave(&transport, protocol, Hook::ConnectionMade, outcome);
        self.watch(&transport);
        made.is_some()
    }

    pub(crate) fn adopt_listener(
        &self,
        descriptor: OwnedFd,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        self.listen_with(factory, |driver, token| driver.adopt_listener(token, descriptor))
    }

    pub(crate) fn listen_inherited(
        &self,
        endpoint: &Inherited,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        let descriptor = inherited::take(endpoint.numbers().0);
        let port = descriptor.and_then(|descriptor| self.adopt_listener(descriptor, factory));
        port.map_err(|error| cannot_listen(endpoint, &error))
    }

    pub(crate) fn listen_activated(
        &self,
        endpoint: &Activated,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        let descriptor = passed(endpoint).and_then(inherited::take);
        let port = descriptor.and_then(|descriptor| self.adopt_listener(descriptor, factory));
        port.map_err(|error| cannot_listen(endpoint, &error))
    }

    /// A port with the standard streams as its only connection.
    pub(crate) fn listen_stdio(&self, factory: Box<dyn ErasedFactory>) -> io::Result<Port> {
        let opened = self.open(standard_streams()?)?;
        let port = self.listen_with(factory, |_, _| Ok(Address::other("stdio")))?;
        let listening = port.clone();
        self.handle.call_soon(move |handle| {
            let Some(inner) = handle.inner() else { return };
            if let Some(protocol) = inner.build_for(&listening, opened.peer()) {
                let transport = inner.transport_of(opened, protocol);
                Counters::bump(&inner.counters.accepted);
                inner.introduce(transport);
            }
        });
        Ok(port)
    }

    /// Connects to what is there already.
    pub(crate) fn begin_adoption(
        &self,
        endpoint: &ConnectEndpoint,
        mut factory: Box<dyn ErasedFactory>,
        finish: Finish,
    ) -> Option<Box<dyn FnOnce() -> bool>> {
        let target = endpoint.to_string();
        let stream = match endpoint {
            ConnectEndpoint::Inherited(endpoint) => inherited(endpoint),
            ConnectEndpoint::Process(endpoint) => {
                let (program, arguments) = endpoint.words();
                let started = self.handle.command(program).args(arguments).start_with_socket();
                started.map(|(_, socket)| Adopted::Socket(socket))
            }
            _ => standard_streams(),
        };
        let opened = match stream.and_then(|stream| self.open(stream)) {
            Ok(opened) => opened,
            Err(error) => {
                let text = format!("cannot connect to {target}: {error}");
                finish(Err(ConnectError::from_io(&target, io::Error::new(error.kind(), text))));
                return None;
            }
        };
        // Whichever comes first: that it begins, or that it is cancelled.
        let is_decided = Rc::new(Cell::new(false));
        let decided = Rc::clone(&is_decided);
        self.handle.call_soon(move |handle| {
            let Some(inner) = handle.inner() else { return };
            if decided.replace(true) {
                return finish(Err(ConnectError::new(&target, ConnectErrorKind::Cancelled)));
            }
            let outcome = match inner.build(&mut *factory, false, opened.peer()) {
                Some(protocol) => {
                    let transport = inner.transport_of(opened, protocol);
                    let made = inner.introduce(transport.clone());
                    inner.outcome_of(transport, made, &target)
                }
                None => Err(ConnectError::new(&target, ConnectErrorKind::Declined)),
            };
            inner.end_factory(factory, true);
            finish(outcome);
        });
        Some(Box::new(move || !is_decided.replace(true)))
    }
}

fn cannot_listen(endpoint: &impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {endpoint}: {error}"))
}

/// The number of a socket that the service manager passed.
fn passed(endpoint: &Activated) -> io::Result<u32> {
    let sockets = inherited::activated()?;
    let found = match endpoint.which() {
        Which::Index(index) => sockets.get(*index as usize),
        Which::Name(name) => sockets.iter().find(|(_, known)| known == name),
    };
    found.map(|(number, _)| *number).ok_or_else(|| {
        let names: Vec<&str> = sockets.iter().map(|(_, name)| name.as_str()).collect();
        let text = format!("the service manager passed {}: {}", sockets.len(), names.join(", "));
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}
