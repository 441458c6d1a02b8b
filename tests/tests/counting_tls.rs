//! What TLS costs beside the cryptography, counted: system calls, allocations, memory. No clock decides here.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig, StreamOwned};
use twistor::endpoint::{ListenEndpoint, TlsListen};
use twistor::tls::TlsServer;
use twistor::{Port, Protocol, Stats, Transport};
use twistor_tests::allocations::{Counting, counts};
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{World, kernel_contract};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 200;

/// Has no size of its own.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Both ends' configurations, without sessions: what a server remembers of them belongs to no connection.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let authority = Authority::new();
    let mut server = authority.server_config();
    server.send_tls13_tickets = 0;
    (Arc::new(server), Arc::new(authority.client_config()))
}

fn listen(world: &World, config: &Arc<ServerConfig>) -> Port {
    let server = TlsServer::from_config(Arc::clone(config));
    let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1:backlog=1000", server).unwrap();
    world.reactor.listen(ListenEndpoint::Tls(endpoint), |_| Echo).unwrap()
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME).unwrap()).unwrap()
}

/// A client that never blocks: the reactor is on the same thread.
struct Client {
    socket: TcpStream,
    session: ClientConnection,
}

impl Client {
    fn connect(world: &World, port: &Port, config: &Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect(port.local_addr().socket_addr().unwrap()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut client = Self { socket, session: session(config) };
        world.until("the handshake is complete", || {
            client.take_in();
            client.put_out();
            !client.session.is_handshaking()
        });
        client
    }

    fn take_in(&mut self) {
        match self.session.read_tls(&mut self.socket) {
            Ok(0) => panic!("the server has closed"),
            Ok(_) => drop(self.session.process_new_packets().unwrap()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// With one call: all of it arrives together.
    fn put_out(&mut self) {
        let mut sealed = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut sealed).unwrap();
        }
        if !sealed.is_empty() {
            assert_eq!(self.socket.write(&sealed).unwrap(), sealed.len(), "the kernel has no room");
        }
    }

    /// A record for each message.
    fn send(&mut self, messages: &[&[u8]]) {
        for message in messages {
            self.session.writer().write_all(message).unwrap();
        }
        self.put_out();
    }

    /// What one pass has brought.
    fn receive(&mut self, count: usize) {
        let mut plain = vec![0; count + 1];
        self.take_in();
        assert_eq!(self.session.reader().read(&mut plain).unwrap(), count, "one pass did not bring the echo");
    }
}

/// Connections that have been used a little, so that all that is made once is made.
fn warm(world: &World, count: usize) -> (Port, Vec<Client>) {
    let (server, client) = configs();
    let port = listen(world, &server);
    let mut clients: Vec<_> = (0..count).map(|_| Client::connect(world, &port, &client)).collect();
    world.until("all are accepted", || world.reactor.stats().connections == count);
    for _ in 0..5 {
        round(world, &mut clients, &[&[b'x'; 1000]]);
    }
    world.turns(2);
    (port, clients)
}

/// Messages there and back, in one pass.
fn round(world: &World, clients: &mut [Client], messages: &[&[u8]]) {
    clients.iter_mut().for_each(|client| client.send(messages));
    world.turns(1);
    let count = messages.iter().map(|message| message.len()).sum();
    clients.iter_mut().for_each(|client| client.receive(count));
}

/// `[waits, receives, sends, controls, others]` of the reactor for what `work` did.
fn calls_of(world: &World, work: impl FnOnce()) -> [u64; 5] {
    let list = |stats: &Stats| {
        let calls = stats.system_calls;
        [calls.waits, calls.receives, calls.sends, calls.controls, calls.others]
    };
    let before = list(&world.reactor.stats());
    work();
    let after = list(&world.reactor.stats());
    std::array::from_fn(|place| after[place] - before[place])
}

/// What a server's side of rustls holds when the handshake is over and something was echoed.
fn bytes_of_rustls(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> i64 {
    let mut client = session(client);
    let before = counts().bytes;
    let mut server = Box::new(UnbufferedServerConnection::new(Arc::clone(server)).unwrap());
    let own = counts().bytes - before;
    assert!(own > 0);
    let mut to_server = Vec::new();
    client.writer().write_all(b"hello").unwrap();
    let mut is_echoed = false;
    while !is_echoed {
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut to_client = Vec::new();
        loop {
            let UnbufferedStatus { mut discard, state } = server.process_tls_records(&mut to_server);
            let mut is_through = false;
            match state.unwrap() {
                ConnectionState::ReadTraffic(mut traffic) => {
                    let record = traffic.next_record().unwrap().unwrap();
                    assert_eq!(record.payload, b"hello");
                    discard += record.discard;
                    is_echoed = true;
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    let mut room = [0; 8192];
                    let length = message.encode(&mut room).map_err(|error| match error {
                        EncodeError::InsufficientSize(size) => panic!("{size:?}"),
                        error => error,
                    });
                    to_client.extend_from_slice(&room[..length.unwrap()]);
                }
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    if is_echoed {
                        let mut room = [0; 100];
                        traffic.encrypt(b"hello", &mut room).unwrap();
                    }
                    is_through = true;
                }
                _ => is_through = true,
            }
            to_server.drain(..discard);
            if is_through {
                break;
            }
        }
        let mut sealed = &to_client[..];
        while !sealed.is_empty() {
            client.read_tls(&mut sealed).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let before = counts().bytes;
    drop(server);
    before - counts().bytes
}

/// Starts clients on a thread of their own, whose allocations are not counted with those of the reactor. Each
/// does `first`; then all wait until the sender is dropped.
fn clients_elsewhere<T: Send + 'static>(
    count: usize,
    first: impl Fn() -> T + Send + 'static,
) -> (mpsc::Receiver<()>, mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (ready, is_ready) = mpsc::channel();
    let (go_on, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let clients: Vec<T> = (0..count).map(|_| first()).collect();
        ready.send(()).unwrap();
        let _ = end.recv();
        drop(clients);
    });
    (is_ready, go_on, thread)
}

/// What each of so many connections costs the reactor's thread, whose clients do `first` and then nothing.
fn bytes_each<T: Send + 'static>(
    world: &World,
    port: &Port,
    count: usize,
    first: impl Fn(TcpStream) -> T + Send + Clone + 'static,
) -> i64 {
    let address = port.local_addr().socket_addr().unwrap();
    let connect = move || {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        first(socket)
    };
    let with = |count: usize| {
        let (is_ready, go_on, thread) = clients_elsewhere(count, connect.clone());
        world.until("all are there", || is_ready.try_recv().is_ok() || thread.is_finished());
        assert!(!thread.is_finished(), "a client has failed");
        world.until("all are accepted", || world.reactor.stats().connections == count);
        world.turns(2);
        let held = counts().bytes;
        drop(go_on);
        thread.join().unwrap();
        world.until("all are gone", || world.reactor.stats().connections == 0);
        world.turns(2);
        // What all share stays: how much that is depends on how many of them had something to send at once.
        held - counts().bytes
    };
    // The tables of all have grown before.
    with(count);
    with(count) / count as i64
}

kernel_contract! {
    fn a_small_message_costs_the_system_calls_of_a_plain_one(driver) {
        let world = World::new(driver);
        let (_port, mut clients) = warm(&world, 1);
        let calls = calls_of(&world, || {
            (0..ROUNDS).for_each(|_| round(&world, &mut clients, &[b"hello"]));
        });
        assert_eq!(calls, [ROUNDS, ROUNDS, ROUNDS, 0, 0]);
    }

    fn n_busy_connections_cost_two_and_an_nth_system_call_a_message(driver) {
        const N: u64 = 16;
        let world = World::new(driver);
        let (_port, mut clients) = warm(&world, N as usize);
        let rounds = ROUNDS / 10;
        let calls = calls_of(&world, || {
            (0..rounds).for_each(|_| round(&world, &mut clients, &[b"hello"]));
        });
        assert_eq!(calls, [rounds, N * rounds, N * rounds, 0, 0]);
    }

    fn records_that_come_together_are_answered_with_one_send(driver) {
        let world = World::new(driver);
        let (_port, mut clients) = warm(&world, 1);
        let messages = [&b"hello"[..]; 30];
        let calls = calls_of(&world, || {
            (0..ROUNDS).for_each(|_| round(&world, &mut clients, &messages));
        });
        assert_eq!(calls, [ROUNDS, ROUNDS, ROUNDS, 0, 0]);
    }

    /// A request that comes with the end of the handshake is answered together with what the handshake has
    /// left to say.
    fn a_handshake_with_a_request_costs_two_sends(driver) {
        let world = World::new(driver);
        let authority = Authority::new();
        let (server, client) = (Arc::new(authority.server_config()), Arc::new(authority.client_config()));
        let port = listen(&world, &server);
        let calls = calls_of(&world, || {
            let mut client = Client::connect(&world, &port, &client);
            // The last of the handshake has left already: it cannot be held back here.
            client.send(&[b"hello"]);
            world.turns(2);
            drop(client);
        });
        // The server's part of the handshake, its tickets, the answer.
        assert!(calls[2] <= 3, "{calls:?}");
        let calls = calls_of(&world, || {
            let mut socket = TcpStream::connect(port.local_addr().socket_addr().unwrap()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut session = session(&client);
            session.writer().write_all(b"hello").unwrap();
            let mut sealed = Vec::new();
            world.until("the answer comes", || {
                match session.read_tls(&mut socket) {
                    Ok(_) => drop(session.process_new_packets().unwrap()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                }
                while session.wants_write() {
                    session.write_tls(&mut sealed).unwrap();
                }
                socket.write_all(&sealed).unwrap();
                sealed.clear();
                session.reader().read(&mut [0; 10]).is_ok()
            });
        });
        assert_eq!(calls[2], 2, "{calls:?}");
    }

    fn a_small_message_costs_the_two_allocations_of_rustls(driver) {
        let world = World::new(driver);
        let (_port, mut clients) = warm(&world, 1);
        let mut made = 0;
        for _ in 0..ROUNDS {
            clients[0].send(&[&[b'x'; 64]]);
            let before = counts();
            world.turns(1);
            made += counts().calls - before.calls;
            assert_eq!(counts().bytes, before.bytes, "something is kept");
            clients[0].receive(64);
        }
        // The opened record, and the sealed one.
        assert_eq!(made, 2 * ROUNDS as i64);
    }

    fn an_idle_connection_costs_what_rustls_needs_and_at_most_a_kibibyte(driver) {
        let world = World::new(driver);
        let (server, client) = configs();
        let rustls = bytes_of_rustls(&server, &client);
        let port = listen(&world, &server);
        let used = |config: &Arc<ClientConfig>, length: usize| {
            let config = Arc::clone(config);
            move |socket: TcpStream| {
                let mut stream = StreamOwned::new(session(&config), socket);
                let (data, mut answer) = (vec![b'x'; 8192], vec![0; 8192]);
                let mut left = length;
                while left > 0 {
                    let part = left.min(data.len());
                    stream.write_all(&data[..part]).unwrap();
                    stream.read_exact(&mut answer[..part]).unwrap();
                    left -= part;
                }
                stream
            }
        };
        let idle = bytes_each(&world, &port, 200, used(&client, 5));
        let after_much = bytes_each(&world, &port, 10, used(&client, 1 << 20));
        let half_open = bytes_each(&world, &port, 500, |socket| socket);
        println!("idle {idle}, after 1 MiB each way {after_much}, half-open {half_open}; rustls alone {rustls}");
        assert!(idle <= rustls + 1024, "{idle} bytes, rustls alone {rustls}");
        assert!(after_much <= rustls + 1024, "{after_much} bytes after 1 MiB each way, rustls alone {rustls}");
        assert!(half_open <= 1024, "{half_open} bytes for a connection that has sent nothing");
    }
}
