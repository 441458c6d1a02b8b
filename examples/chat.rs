//! A chat: lines, members who are told things by others, and nobody who can slow the others down.
//!
//! Run it:      cargo run --release --example chat
//! Elsewhere:   cargo run --release --example chat -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000        (from two terminals)
//!
//! The first line is your nickname. Then everything you type goes to all, but for
//! `/who`, `/msg NAME TEXT`, `/kick NAME` and `/quit`.
//!
//! What it shows: a `LineReceiver` is the state of one connection. The room holds each member as a typed
//! `Connection` and tells it something by posting a closure into it, which the loop calls with the member.
//!
//! Who does not read costs the others nothing. When more than 64 KiB wait for a member, `pause_writing` is called:
//! from then on messages for it are skipped, and the room hears of it. Once it has read, it is told how many it
//! missed. A member who takes nothing for a minute is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use twistor::{Connection, Handle, Port, Reactor, Reason, Timeouts};
use twistor_examples::{Failure, arguments, init_logging};
use twistor_protocols::{LineProtocol, LineReceiver, Lines};

/// Who is here, by nickname.
#[derive(Clone, Default)]
struct Room(Rc<RefCell<BTreeMap<String, Connection<LineProtocol<Member>>>>>);

impl Room {
    fn tell(&self, name: &str, text: &str) -> bool {
        let Some(member) = self.0.borrow().get(name).cloned() else { return false };
        let text = text.to_owned();
        member.post(move |member, transport| match &mut member.skipped {
            Some(skipped) => *skipped += 1,
            None => member.io(transport).send_line(text),
        })
    }

    fn tell_all(&self, text: &str) {
        println!("chat: {text}");
        for name in self.0.borrow().keys() {
            self.tell(name, text);
        }
    }

    /// Shows somebody out, who first hears what it was told before: posts are called in their order.
    fn close(&self, name: &str) {
        if let Some(member) = self.0.borrow().get(name) {
            member.post(|_, transport| transport.lose_connection());
        }
    }

    fn who(&self) -> String {
        let names: Vec<String> = self.0.borrow().keys().cloned().collect();
        format!("* here: {}", names.join(", "))
    }
}

/// One connection. It has no name until it has given one.
struct Member {
    room: Room,
    name: Option<String>,
    /// Messages skipped since it stopped reading; `None` while it reads.
    skipped: Option<u64>,
}

impl Member {
    fn join(&mut self, io: &Lines, name: &str) {
        if name.is_empty() || name.len() > 20 || !name.chars().all(char::is_alphanumeric) {
            return io.send_line("* up to 20 letters and digits, please. Your nickname?");
        }
        if self.room.0.borrow().contains_key(name) {
            return io.send_line(format!("* {name} is taken. Your nickname?"));
        }
        let Some(connection) = io.connection() else { return };
        io.send_line(self.room.who());
        self.room.tell_all(&format!("* {name} joined"));
        self.room.0.borrow_mut().insert(name.to_owned(), connection);
        self.name = Some(name.to_owned());
    }

    /// Answers are posted like all the rest: a member hears everything in the order in which it happened.
    fn say(&self, name: &str, line: &str) {
        let mut words = line.splitn(3, ' ');
        let answer = match (words.next(), words.next(), words.next()) {
            (Some("/who"), None, None) => self.room.who(),
            (Some("/msg"), Some(to), Some(text)) => {
                let told = self.room.tell(to, &format!("[{name}] {text}"));
                format!("* {to} {}", if told { "was told" } else { "is not here" })
            }
            (Some("/kick"), Some(whom), None) if self.room.0.borrow().contains_key(whom) => {
                self.room.tell_all(&format!("* {name} kicked {whom}"));
                return self.room.close(whom);
            }
            (Some("/kick"), Some(whom), None) => format!("* {whom} is not here"),
            (Some("/quit"), None, None) => return self.room.close(name),
            (Some(command), ..) if command.starts_with('/') => {
                "* there are /who, /msg NAME TEXT, /kick NAME and /quit".to_owned()
            }
            _ => return self.room.tell_all(&format!("<{name}> {line}")),
        };
        self.room.tell(name, &answer);
    }
}

impl LineReceiver for Member {
    fn connection_made(&mut self, io: &Lines) {
        io.set_timeouts(Timeouts::new().write_stall(Duration::from_secs(60)));
        io.send_line("* your nickname?");
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        match self.name.clone() {
            None => self.join(io, line.trim()),
            Some(name) => self.say(&name, line.trim()),
        }
    }

    fn pause_writing(&mut self, _: &Lines) {
        self.skipped = Some(0);
        if let Some(name) = &self.name {
            self.room.tell_all(&format!("* {name} does not read and will miss messages"));
        }
    }

    fn resume_writing(&mut self, io: &Lines) {
        if let Some(skipped) = self.skipped.take() {
            io.send_line(format!("* you did not read: {skipped} messages skipped"));
        }
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        if let Some(name) = self.name.take() {
            self.room.0.borrow_mut().remove(&name);
            self.room.tell_all(&format!("* {name} left ({reason})"));
        }
    }
}

/// Opens a room for everybody who connects to the endpoint.
pub(crate) fn serve(reactor: &Handle, endpoint: &str) -> std::io::Result<Port> {
    let room = Room::default();
    let member = move |_| LineProtocol::new(Member { room: room.clone(), name: None, skipped: None });
    reactor.listen(endpoint, member)
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("chat", "A chat of lines.", [("ENDPOINT", Some("tcp:8000"))]);
    init_logging();
    let reactor = Reactor::new()?;
    let port = serve(&reactor, &endpoint)?;
    println!("chat: listening on {}", port.local_addr());
    Ok(reactor.run()?)
}
