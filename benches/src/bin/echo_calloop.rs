//! Echo on `calloop`: one event source per connection, level-triggered, one receive buffer for all.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::rc::Rc;

use calloop::generic::Generic;
use calloop::{
    EventLoop, EventSource, Interest, LoopHandle, Mode, Poll, PostAction, Readiness, Token, TokenFactory,
};
use twistor_benches::serve::{self, Options, announce, peer_main};

fn main() -> ExitCode {
    peer_main(serve)
}

fn serve(options: Options) -> io::Result<()> {
    let mut event_loop: EventLoop<'_, ()> = EventLoop::try_new().map_err(io::Error::other)?;
    let handle = event_loop.handle();
    let listener = serve::listen(options.address)?;
    let address = listener.local_addr()?;
    let buffer = Rc::new(RefCell::new(vec![0; options.buffer]));
    let source = Generic::new(listener, Interest::READ, Mode::Level);
    event_loop
        .handle()
        .insert_source(source, move |_, listener, ()| {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => insert(&handle, stream, Rc::clone(&buffer))?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(PostAction::Continue),
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .map_err(|error| error.error)
        .map_err(io::Error::other)?;
    announce(address)?;
    event_loop.run(None, &mut (), |()| {}).map_err(io::Error::other)
}

fn insert(handle: &LoopHandle<'_, ()>, stream: TcpStream, buffer: Rc<RefCell<Vec<u8>>>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let stream = Generic::new(stream, Interest::READ, Mode::Level);
    let connection = Connection { stream, backlog: Vec::new(), buffer };
    handle.insert_source(connection, |(), (), ()| {}).map_err(|error| io::Error::other(error.error))?;
    Ok(())
}

/// A stream that waits for readability, or for writability while it has something left to send.
struct Connection {
    stream: Generic<TcpStream>,
    /// Received and not yet sent.
    backlog: Vec<u8>,
    buffer: Rc<RefCell<Vec<u8>>>,
}

impl EventSource for Connection {
    type Event = ();
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(&mut self, readiness: Readiness, token: Token, _: F) -> io::Result<PostAction>
    where
        F: FnMut((), &mut ()),
    {
        let Self { stream, backlog, buffer } = self;
        let action = stream.process_events(readiness, token, |_, stream| {
            match step(stream, backlog, &mut buffer.borrow_mut()) {
                Ok(true) => Ok(PostAction::Continue),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(PostAction::Continue),
                Ok(false) | Err(_) => Ok(PostAction::Remove),
            }
        })?;
        let reading = self.backlog.is_empty();
        if action == PostAction::Continue && self.stream.interest.readable != reading {
            self.stream.interest = if reading { Interest::READ } else { Interest::WRITE };
            return Ok(PostAction::Reregister);
        }
        Ok(action)
    }

    fn register(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.stream.register(poll, factory)
    }

    fn reregister(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.stream.reregister(poll, factory)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.stream.unregister(poll)
    }
}

/// Sends what was left, or else receives once and sends that. `false` at the end of the stream.
fn step(mut stream: &TcpStream, backlog: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<bool> {
    if !backlog.is_empty() {
        let sent = stream.write(backlog)?;
        backlog.drain(..sent);
        return Ok(true);
    }
    let received = stream.read(buffer)?;
    if received == 0 {
        return Ok(false);
    }
    let sent = match stream.write(&buffer[..received]) {
        Ok(sent) => sent,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    backlog.extend_from_slice(&buffer[sent..received]);
    Ok(true)
}
