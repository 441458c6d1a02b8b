//! A port with TLS, the other end of TLS as a test drives it, and records made by hand.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use rustls::crypto::cipher::{AeadKey, InboundOpaqueMessage, Iv, MessageEncrypter, OutboundPlainMessage};
use rustls::crypto::tls13::OkmBlock;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, KeyLog, ProtocolVersion, ServerConfig,
    SupportedCipherSuite, Tls13CipherSuite,
};
use twistor::endpoint::{ConnectEndpoint, ListenEndpoint, TlsConnect, TlsListen};
use twistor::tls::{TlsClient, TlsServer};
use twistor::{Port, Stats, Transport};
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Driver, Event, Listener, Log, Peer, Script, World};

/// A version of the protocol, and with it a cipher suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

pub(crate) const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

impl Version {
    fn supported(self) -> &'static rustls::SupportedProtocolVersion {
        match self {
            Self::Tls12 => &rustls::version::TLS12,
            Self::Tls13 => &rustls::version::TLS13,
        }
    }
}

/// Only ChaCha20, whose records are made in the same way in both versions.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = vec![TLS13_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// The secrets of connections, by their names in key logs.
#[derive(Default, Debug)]
pub(crate) struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    pub(crate) fn get(&self, label: &str) -> Vec<u8> {
        let secrets = self.0.lock().unwrap();
        let found = secrets.iter().find(|(name, _)| name == label);
        found.unwrap_or_else(|| panic!("there is no {label}")).1.clone()
    }
}

pub(crate) fn client_config(authority: &Authority, versions: &[Version]) -> ClientConfig {
    let versions: Vec<_> = versions.iter().map(|version| version.supported()).collect();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config.resumption = rustls::client::Resumption::disabled();
    config
}

pub(crate) fn server_config(authority: &Authority, versions: &[Version]) -> ServerConfig {
    let versions: Vec<_> = versions.iter().map(|version| version.supported()).collect();
    let identity = authority.issue(&[NAME], |_| {});
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.enable_secret_extraction = true;
    config
}

/// A protocol that answers with what it gets, and ends when its peer does.
pub(crate) fn echo(log: &Log) -> Script {
    Script::new(log).on_data(Transport::write)
}

/// A world with a port that speaks TLS.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) authority: Authority,
    pub(crate) port: Port,
    /// What the protocols of the port are told, all of them.
    pub(crate) log: Log,
    /// The last connection of the port.
    pub(crate) transport: Rc<RefCell<Option<Transport>>>,
    before: Stats,
}

impl Site {
    /// The port echoes.
    pub(crate) fn new(driver: Driver) -> Self {
        Self::with(driver, Authority::server, echo)
    }

    pub(crate) fn with(
        driver: Driver,
        server: impl FnOnce(&Authority) -> TlsServer,
        protocol: impl Fn(&Log) -> Script + 'static,
    ) -> Self {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let before = world.reactor.stats();
        let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1", server(&authority)).unwrap();
        let transport = Rc::<RefCell<Option<Transport>>>::default();
        let port = {
            let (log, place) = (log.clone(), Rc::clone(&transport));
            let build = move |_| {
                let place = Rc::clone(&place);
                protocol(&log).on_made(move |transport| *place.borrow_mut() = Some(transport.clone()))
            };
            world.reactor.listen(ListenEndpoint::Tls(endpoint), build).unwrap()
        };
        Self { world, authority, port, log, transport, before }
    }

    pub(crate) fn connect(&self) -> Peer<'_> {
        self.world.connect(&self.port)
    }

    /// A client of the port, before its handshake.
    pub(crate) fn client(&self, config: ClientConfig) -> Other<'_> {
        Other::client(&self.world, self.connect(), config)
    }

    /// A client of the port that speaks this version, after its handshake.
    pub(crate) fn secured(&self, version: Version) -> Other<'_> {
        let mut client = self.client(client_config(&self.authority, &[version]));
        client.shake_hands();
        client
    }

    /// One who means no harm is served.
    pub(crate) fn serves_others(&self) {
        let mut client = self.secured(Version::Tls13);
        client.say(b"still there?");
        assert_eq!(client.hear(12), b"still there?");
        client.leave();
    }

    /// Nothing is left of any connection.
    pub(crate) fn is_clean(&self) {
        is_clean(&self.world, &self.before);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.world.reactor.stats().tls_failures
    }

    /// Nobody was told of a connection.
    pub(crate) fn saw_nobody(&self) {
        assert_eq!(self.log.events(), [], "a protocol heard of a connection without a handshake");
    }
}

/// Nothing is left of any connection.
pub(crate) fn is_clean(world: &World, before: &Stats) {
    world.until("all connections end", || world.reactor.stats().connections == before.connections);
    let after = world.reactor.stats();
    assert_eq!(after.queued_bytes, before.queued_bytes, "output is still counted");
    assert_eq!(after.timers, before.timers, "a timer is left");
    assert_eq!(after.attempts, before.attempts, "an attempt to connect is left");
    assert_eq!(after.panics, before.panics, "something panicked");
}

/// A world with an attempt to connect with TLS, and the raw end that it has come to.
pub(crate) struct Dial {
    pub(crate) world: World,
    pub(crate) authority: Authority,
    pub(crate) log: Log,
    listener: Listener,
    client: TlsClient,
    /// How the attempts have ended.
    pub(crate) outcomes: Rc<RefCell<Vec<Result<Transport, String>>>>,
    before: Stats,
}

impl Dial {
    pub(crate) fn new(driver: Driver) -> Self {
        Self::with(driver, Authority::client)
    }

    pub(crate) fn with(driver: Driver, client: impl FnOnce(&Authority) -> TlsClient) -> Self {
        let (world, authority) = (World::new(driver), Authority::new());
        let listener = world.machine().listen_somewhere();
        let client = client(&authority);
        let before = world.reactor.stats();
        Self { world, authority, log: Log::new(), listener, client, outcomes: Rc::default(), before }
    }

    /// The other end of a new attempt, whose protocol echoes.
    pub(crate) fn attempt(&self) -> Peer<'_> {
        let name = ServerName::try_from(NAME).unwrap();
        let endpoint = TlsConnect::new(self.listener.local_addr(), self.client.clone(), name).unwrap();
        let log = self.log.clone();
        let outcomes = Rc::clone(&self.outcomes);
        self.world.reactor.connect(ConnectEndpoint::Tls(endpoint), move |_| echo(&log)).on_done(
            move |_, outcome| {
                let outcome = outcome.map(|connection| connection.transport().clone());
                outcomes.borrow_mut().push(outcome.map_err(|error| error.to_string()));
            },
        );
        let mut socket = None;
        self.world.until("the attempt gets through", || {
            socket = self.listener.accept();
            socket.is_some()
        });
        Peer::of(&self.world, socket.unwrap())
    }

    pub(crate) fn server(&self, config: ServerConfig) -> Other<'_> {
        let peer = self.attempt();
        Other::server(&self.world, peer, config)
    }

    /// A server that speaks this version, after its handshake.
    pub(crate) fn secured(&self, version: Version) -> Other<'_> {
        let mut server = self.server(server_config(&self.authority, &[version]));
        server.shake_hands();
        server
    }

    /// What became of the one attempt that there was.
    pub(crate) fn error(&self) -> String {
        self.world.until("the attempt ends", || !self.outcomes.borrow().is_empty());
        match self.outcomes.borrow_mut().remove(0) {
            Ok(_) => panic!("the attempt was successful"),
            Err(error) => error,
        }
    }

    pub(crate) fn is_clean(&self) {
        self.outcomes.borrow_mut().clear();
        is_clean(&self.world, &self.before);
    }

    pub(crate) fn saw_nobody(&self) {
        assert_eq!(self.log.events(), [], "a protocol heard of a connection without a handshake");
    }
}

/// The other end of a connection with TLS, which keeps to the rules as long as the test does not make it
/// break them.
pub(crate) struct Other<'w> {
    world: &'w World,
    pub(crate) peer: Peer<'w>,
    pub(crate) tls: rustls::Connection,
    pub(crate) secrets: Arc<Secrets>,
    out: Vec<u8>,
    /// Whether the stream has ended below.
    pub(crate) has_ended: bool,
    pub(crate) error: Option<rustls::Error>,
}

impl<'w> Other<'w> {
    pub(crate) fn client(world: &'w World, peer: Peer<'w>, mut config: ClientConfig) -> Self {
        let secrets = Arc::new(Secrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let name = ServerName::try_from(NAME).unwrap();
        let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        Self::new(world, peer, tls.into(), secrets)
    }

    pub(crate) fn server(world: &'w World, peer: Peer<'w>, mut config: ServerConfig) -> Self {
        let secrets = Arc::new(Secrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        Self::new(world, peer, tls.into(), secrets)
    }

    fn new(world: &'w World, peer: Peer<'w>, mut tls: rustls::Connection, secrets: Arc<Secrets>) -> Self {
        tls.set_buffer_limit(None);
        Self { world, peer, tls, secrets, out: Vec::new(), has_ended: false, error: None }
    }

    /// What it has to send.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.out);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() && self.error.is_none() {
            if self.tls.read_tls(&mut data).is_err() {
                return;
            }
            if let Err(error) = self.tls.process_new_packets() {
                self.error = Some(error);
            }
        }
    }

    /// What has come from below.
    pub(crate) fn fetch(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.has_ended {
            match self.peer.try_receive() {
                Some(data) if data.is_empty() => break,
                Some(data) => all.extend(data),
                None => self.has_ended = true,
            }
        }
        all
    }

    /// Takes what has come and sends what there is to send.
    pub(crate) fn step(&mut self) {
        let data = self.fetch();
        self.feed(&data);
        self.out = self.take_output();
        if !self.has_ended && !self.out.is_empty() {
            match self.peer.socket().write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.has_ended = true,
            }
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        self.world.until(what, || {
            self.step();
            is_so(self)
        });
    }

    pub(crate) fn shake_hands(&mut self) {
        self.until("the handshake succeeds", |other| {
            assert_eq!(other.error, None);
            assert!(!other.has_ended, "the stream ended in the handshake");
            !other.tls.is_handshaking() && other.out.is_empty() && !other.tls.wants_write()
        });
    }

    pub(crate) fn say(&mut self, data: &[u8]) {
        self.tls.writer().write_all(data).unwrap();
        self.until("all is sent", |other| other.out.is_empty() && !other.tls.wants_write());
    }

    pub(crate) fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        let mut filled = 0;
        self.until("the answer comes", |other| {
            assert_eq!(other.error, None);
            if let Ok(more) = other.tls.reader().read(&mut data[filled..]) {
                filled += more;
            }
            filled == count
        });
        data
    }

    /// Receives to the end of the stream below; what was wrong with it.
    pub(crate) fn hear_end(&mut self) -> Option<rustls::Error> {
        self.until("the stream ends", |other| other.has_ended || other.error.is_some());
        self.error.clone()
    }

    /// Ends in good order.
    pub(crate) fn leave(mut self) {
        self.tls.send_close_notify();
        self.step();
        self.peer.finish();
        self.hear_end();
    }

    /// From now on its records are made by hand.
    pub(crate) fn forge(self) -> Forger<'w> {
        let side = match &self.tls {
            rustls::Connection::Client(_) => "CLIENT",
            rustls::Connection::Server(_) => "SERVER",
        };
        let suite = self.tls.negotiated_cipher_suite().unwrap();
        let secrets = self.tls.dangerous_extract_secrets().unwrap();
        let (sequence, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets.tx else {
            panic!("another cipher")
        };
        let keys = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                let secret = self.secrets.get(&format!("{side}_TRAFFIC_SECRET_0"));
                Keys::Tls13(Tls13Keys { sequence, ..Tls13Keys::new(suite, secret) })
            }
            SupportedCipherSuite::Tls12(suite) => {
                Keys::Tls12(suite.aead_alg.encrypter(key, iv.as_ref(), &[]), sequence)
            }
        };
        Forger { peer: self.peer, keys }
    }
}

/// Seals whatever the test wants.
pub(crate) struct Forger<'w> {
    pub(crate) peer: Peer<'w>,
    keys: Keys,
}

enum Keys {
    Tls12(Box<dyn MessageEncrypter>, u64),
    Tls13(Tls13Keys),
}

/// Keys that follow from a secret (RFC 8446, section 7.3).
pub(crate) struct Tls13Keys {
    suite: &'static Tls13CipherSuite,
    secret: Vec<u8>,
    sequence: u64,
}

impl Tls13Keys {
    pub(crate) fn new(suite: &'static Tls13CipherSuite, secret: Vec<u8>) -> Self {
        Self { suite, secret, sequence: 0 }
    }

    /// HKDF-Expand-Label (RFC 8446, section 7.1).
    fn expand(&self, label: &str, length: usize) -> Vec<u8> {
        let expander = self.suite.hkdf_provider.expander_for_okm(&OkmBlock::new(&self.secret));
        let mut output = vec![0; length];
        let (size, label) = ((length as u16).to_be_bytes(), format!("tls13 {label}"));
        let info: [&[u8]; 4] = [&size, &[label.len() as u8], label.as_bytes(), &[0]];
        expander.expand_slice(&info, &mut output).unwrap();
        output
    }

    fn material(&self) -> (AeadKey, Iv) {
        let key: [u8; 32] = self.expand("key", 32).try_into().unwrap();
        (AeadKey::from(key), Iv::copy(&self.expand("iv", 12)))
    }

    pub(crate) fn seal(&mut self, kind: ContentType, payload: &[u8]) -> Vec<u8> {
        let (key, iv) = self.material();
        let mut encrypter = self.suite.aead_alg.encrypter(key, iv);
        let record = seal(&mut *encrypter, self.sequence, kind, payload);
        self.sequence += 1;
        record
    }

    /// Opens a record that was sealed with this secret.
    pub(crate) fn open(&mut self, record: &[u8]) -> (ContentType, Vec<u8>) {
        let (key, iv) = self.material();
        let mut payload = record[5..].to_vec();
        let message =
            InboundOpaqueMessage::new(ContentType::from(record[0]), ProtocolVersion::TLSv1_2, &mut payload);
        let opened = self.suite.aead_alg.decrypter(key, iv).decrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        (opened.typ, opened.payload.to_vec())
    }

    /// After a KeyUpdate.
    pub(crate) fn update(&mut self) {
        self.secret = self.expand("traffic upd", self.secret.len());
        self.sequence = 0;
    }
}

fn seal(encrypter: &mut dyn MessageEncrypter, sequence: u64, kind: ContentType, payload: &[u8]) -> Vec<u8> {
    let message = OutboundPlainMessage {
        typ: kind,
        version: ProtocolVersion::TLSv1_2,
        payload: rustls::crypto::cipher::OutboundChunks::Single(payload),
    };
    encrypter.encrypt(message, sequence).unwrap().encode()
}

pub(crate) const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// The header of a message of the handshake.
pub(crate) fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

impl Forger<'_> {
    pub(crate) fn seal(&mut self, kind: ContentType, payload: &[u8]) -> Vec<u8> {
        match &mut self.keys {
            Keys::Tls12(encrypter, sequence) => {
                let record = seal(&mut **encrypter, *sequence, kind, payload);
                *sequence += 1;
                record
            }
            Keys::Tls13(keys) => keys.seal(kind, payload),
        }
    }

    pub(crate) fn send(&mut self, kind: ContentType, payload: &[u8]) {
        let record = self.seal(kind, payload);
        self.peer.send(&record);
    }

    /// After a KeyUpdate of its own.
    pub(crate) fn update_keys(&mut self) {
        match &mut self.keys {
            Keys::Tls12(..) => panic!("there is no such thing in TLS 1.2"),
            Keys::Tls13(keys) => keys.update(),
        }
    }
}

/// A record that is not sealed.
pub(crate) fn plain_record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((payload.len() as u16).to_be_bytes());
    record.extend(payload);
    record
}

/// The records in what was sent.
pub(crate) fn records(mut data: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while data.len() >= 5 {
        let length = 5 + usize::from(u16::from_be_bytes([data[3], data[4]]));
        let (record, rest) = data.split_at(length.min(data.len()));
        records.push(record);
        data = rest;
    }
    records
}

/// The description in the last alert, if it was sent in the clear.
pub(crate) fn alert(data: &[u8]) -> Option<u8> {
    let record = records(data).into_iter().rfind(|record| record.len() == 7 && record[0] == 21)?;
    Some(record[6])
}

/// How the only connection was lost.
pub(crate) fn loss(world: &World, log: &Log) -> String {
    world.until("the connection is lost", || log.lost().is_some());
    log.lost().unwrap()
}

pub(crate) fn has_eof(log: &Log) -> bool {
    log.has(&Event::Eof)
}
