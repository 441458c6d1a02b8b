//! Descriptors from elsewhere as connections and ports: inherited ones, pipes, terminals, the standard streams.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::core::address::Address;
use crate::core::slots::Token;
use crate::driver::Interest;
use crate::driver::options::PipeEnds;
use crate::net::connection::Connection as Machine;
use crate::net::ends::Ends;
use crate::protocol::{Factory, Protocol};
use crate::reactor::handle::Handle;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::listening::Port;
use crate::reactor::transport::Transport;
use crate::reactor::typed::Connection;
use crate::reactor::watchdog::Hook;
use crate::sys::descriptor;

/// A stream that was opened by somebody else.
pub(crate) enum Adopted {
    /// A connected stream socket.
    Socket(OwnedFd),
    /// Descriptors of any kind; what bytes come from and go to.
    Pipe(PipeEnds, Address),
}

impl Handle {
    /// Makes a connection of a connected stream socket that was opened elsewhere: inherited, received from another
    /// process, or one end of a socket pair. It is made non-blocking and close-on-exec, and belongs to the reactor from
    /// now on.
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

    /// Makes a port of a listening stream socket that was opened elsewhere, as by a service manager. It is made
    /// non-blocking and close-on-exec, and belongs to the reactor from now on. The file of a Unix socket stays where it
    /// is when the port is stopped.
    ///
    /// # Errors
    ///
    /// The descriptor is not a stream socket, or nobody listens on it; the reactor is gone or has no slot left.
    pub fn adopt_listener(&self, descriptor: impl Into<OwnedFd>, factory: impl Factory) -> io::Result<Port> {
        let descriptor = descriptor.into();
        self.alive()?.adopt_listener(descriptor, Box::new(factory))
    }

    /// Makes a connection that reads from `input` and writes to `output`: pipes, terminals, other devices, files. One of
    /// them may be missing: then the stream goes one way. Both belong to the reactor from now on, and are made
    /// non-blocking.
    ///
    /// The rules are those of every connection. A stream without an input is lost with
    /// [`Reason::Reset`](crate::Reason::Reset) when its reader goes away, one without an output with
    /// [`Reason::Closed`](crate::Reason::Closed) when its input has ended. After `lose_connection` nobody is waited for:
    /// what is written is flushed, then both are closed. Files are read and written at once, which may take as long as
    /// the disk takes.
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
    /// There is neither input nor output, or one of them cannot be watched; the reactor is gone or has no slot left.
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

    /// Makes a connection of the program's standard input and output, whatever they are: a terminal, pipes, files,
    /// sockets.
    ///
    /// Other programs share them. So their open files are not made non-blocking, but opened once more, where the system
    /// can do that; where it cannot (a terminal or pipe elsewhere than on Linux, the master side of a terminal), their
    /// flags are put back at the end. Closing the connection does not close the descriptors 0 and 1 themselves.
    /// Use no other way to read the standard input meanwhile.
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

impl Inner {
    /// Makes a connection of a stream from elsewhere. Its hooks are called from the loop, the first one before the
    /// next wait.
    pub(crate) fn adopt(&self, stream: Adopted, protocol: Box<dyn Protocol>) -> io::Result<Transport> {
        let token = self.reserve()?;
        let opened = self.adopt_under(token, stream);
        let (ends, machine) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.slots.borrow_mut().remove(token);
                self.discard(protocol);
                return Err(error);
            }
        };
        let transport = Transport::with_machine(self, token, ends, machine, protocol);
        transport.0.interest.set(Interest::NONE);
        let made = transport.clone();
        self.handle.call_soon(move |handle| {
            if let Some(inner) = handle.inner() {
                inner.adopted(made);
            }
        });
        Ok(transport)
    }

    fn adopt_under(&self, token: Token, stream: Adopted) -> io::Result<(Ends, Machine)> {
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
    fn adopted(&self, transport: Transport) {
        let token = transport.0.token;
        if let Some(slot) = self.slots.borrow_mut().get_mut(token) {
            *slot = Slot::Connection(transport);
        }
        self.connections.set(self.connections.get() + 1);
        // Also if it was given up in the meantime: then the loss follows at once.
        if let Some((transport, mut protocol)) = self.enter(token) {
            let outcome = catch_unwind(AssertUnwindSafe(|| protocol.connection_made(&transport)));
            self.leave(&transport, protocol, Hook::ConnectionMade, outcome);
            self.watch(&transport);
        }
    }

    pub(crate) fn adopt_listener(
        &self,
        descriptor: OwnedFd,
        factory: Box<dyn crate::protocol::ErasedFactory>,
    ) -> io::Result<Port> {
        self.listen_with(factory, |driver, token| driver.adopt_listener(token, descriptor))
    }
}
