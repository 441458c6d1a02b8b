//! A chat that begins in the clear and goes on with TLS when a member asks for it, as mail servers do (RFC 3207).
//!
//! Run it:      cargo run --release --features tls --example starttls_chat
//! Elsewhere:   cargo run --release --features tls --example starttls_chat -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000         (in the clear)
//!              openssl s_client -quiet -verify_return_error -CAfile FILE -starttls pop3 -connect localhost:8000
//!              gnutls-cli --starttls --x509cafile FILE -p 8000 localhost     (type STARTTLS, then press Ctrl-D)
//!
//! The first line is your nickname. Then everything you type goes to all, but for `/who`, `/quit` and, at any time,
//! `STARTTLS`; `STLS`, which mail clients say to a POP3 server, is the same. The program prints the FILE of its
//! certificate. A client in Rust is in the guide, in the chapter on TLS.
//!
//! What it shows: what was said before TLS can come from anybody on the way, so it must not count afterwards.
//! Whatever stands behind the request in the same chunk is refused by the reactor, which ends the connection: it would
//! be taken for what the member says under protection. And the member forgets its name, and is asked again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use twistor::tls::{TlsInfo, TlsServer};
use twistor::{Connection, Handle, Port, Reactor, Reason};
use twistor_examples::certificate::SelfSigned;
use twistor_examples::{Failure, arguments, init_logging};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

/// Who is here, by nickname.
type Members = BTreeMap<String, Connection<LineProtocol<Member>>>;

#[derive(Clone)]
struct Room {
    members: Rc<RefCell<Members>>,
    tls: TlsServer,
}

impl Room {
    fn tell_all(&self, text: &str) {
        println!("starttls_chat: {text}");
        for member in self.members.borrow().values() {
            let text = text.to_owned();
            member.post(move |member, transport| member.io(transport).send_line(text));
        }
    }

    fn who(&self) -> String {
        let members = self.members.borrow();
        let names = members.iter().map(|(name, member)| {
            let how = if member.transport().is_secure() { "with TLS" } else { "in the clear" };
            format!("{name} ({how})")
        });
        format!("* here: {}", names.collect::<Vec<_>>().join(", "))
    }
}

/// One connection. It has no name until it has given one.
struct Member {
    room: Room,
    name: Option<String>,
}

impl Member {
    fn join(&mut self, io: &Lines, name: &str) {
        if name.is_empty() || name.len() > 20 || !name.chars().all(char::is_alphanumeric) {
            return io.send_line("* up to 20 letters and digits, please. Your nickname?");
        }
        if self.room.members.borrow().contains_key(name) {
            return io.send_line(format!("* {name} is taken. Your nickname?"));
        }
        let Some(connection) = io.connection() else { return };
        self.room.members.borrow_mut().insert(name.to_owned(), connection);
        self.name = Some(name.to_owned());
        self.room.tell_all(&format!("* {name} joined"));
    }

    fn leave(&mut self, why: &str) {
        if let Some(name) = self.name.take() {
            self.room.members.borrow_mut().remove(&name);
            self.room.tell_all(&format!("* {name} left ({why})"));
        }
    }

    /// The answer is the last thing that is said in the clear, and this line was the last one heard.
    fn start_tls(&mut self, io: &Lines) {
        if io.is_secure() {
            return io.send_line("* this connection has TLS already");
        }
        self.leave("to come back with TLS");
        io.send_line("+OK begin with TLS now");
        // The outcome comes to `tls_started`, or to `connection_lost` with the reason.
        drop(io.start_tls_server(&self.room.tls));
    }
}

impl LineReceiver for Member {
    fn connection_made(&mut self, io: &Lines) {
        io.send_line("+OK your nickname, or STARTTLS?");
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        match (line.trim(), self.name.clone()) {
            ("STARTTLS" | "STLS", _) => self.start_tls(io),
            ("/who", _) => io.send_line(self.room.who()),
            ("/quit", _) => io.lose_connection(),
            (name, None) => self.join(io, name),
            (text, Some(name)) => self.room.tell_all(&format!("<{name}> {text}")),
        }
    }

    fn tls_started(&mut self, io: &Lines, tls: &TlsInfo) {
        io.send_line(format!("* {}, {}. Your nickname?", tls.version, tls.cipher_suite));
    }

    fn connection_lost(&mut self, io: &Lines, reason: &Reason) {
        if self.name.is_none() && !reason.is_clean() {
            println!("starttls_chat: {}: {reason}", io.peer_addr());
        }
        self.leave(&reason.to_string());
    }
}

/// Opens a room for everybody who connects to the endpoint.
fn serve(reactor: &Handle, endpoint: &str, tls: TlsServer) -> std::io::Result<Port> {
    let room = Room { members: Rc::default(), tls };
    reactor.listen(endpoint, move |_| LineProtocol::new(Member { room: room.clone(), name: None }))
}

fn main() -> Result<(), Failure> {
    let about = "A chat of lines that goes on with TLS on request.";
    let [endpoint] = arguments("starttls_chat", about, [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();

    let reactor = Reactor::new()?;
    let certificate = SelfSigned::new("starttls_chat")?;
    println!("starttls_chat: a self-signed certificate, in {}", certificate.file().display());
    let port = serve(&reactor, &endpoint, certificate.server().clone())?;
    println!("starttls_chat: listening on {}", port.local_addr());
    Ok(reactor.run()?)
}
