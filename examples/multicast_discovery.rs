//! Programs that find each other: every instance announces itself to a multicast group and listens there for
//! the others.
//!
//! Run it:      cargo run --release --example multicast_discovery -- alice
//! Beside it:   cargo run --release --example multicast_discovery -- bob
//! On a network, with the address of the interface to use:
//!              cargo run --release --example multicast_discovery -- alice 4299 192.168.1.17
//!
//! What it shows: joining a group, a port shared by several programs of one machine, timers beside datagrams,
//! state in a protocol, and a last word when the reactor stops. An announcement is a line of text: "here
//! NAME" or "left NAME".

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use twistor::endpoint::UdpBind;
use twistor::{Address, DatagramProtocol, DatagramSocket, Handle, Reactor, ShutdownPhase};
use twistor_examples::{Failure, arguments, init_logging};

/// Of those that organisations can use as they like (RFC 2365).
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 42, 99);
const ANNOUNCE_EVERY: Duration = Duration::from_millis(300);
/// Somebody who was not heard of for so long is gone.
const SILENCE: Duration = Duration::from_secs(1);
/// Anybody can send anything: only so many names are remembered.
const MOST_PEERS: usize = 1000;

/// Who was heard of last when.
type Peers = Rc<RefCell<BTreeMap<String, Instant>>>;

struct Discovery {
    name: String,
    peers: Peers,
}

impl DatagramProtocol for Discovery {
    fn datagram_received(&mut self, socket: &DatagramSocket, data: &[u8], from: &Address) {
        let Some((what, name)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once(' ')) else {
            return log::debug!("{from} sent something else");
        };
        if name.is_empty() || name == self.name || name.chars().any(char::is_control) {
            return;
        }
        let mut peers = self.peers.borrow_mut();
        match what {
            "here" if peers.len() < MOST_PEERS || peers.contains_key(name) => {
                let before = peers.insert(name.to_owned(), socket.reactor().now());
                if before.is_none() {
                    println!("{}: found {name} at {from}", self.name);
                }
            }
            "left" if peers.remove(name).is_some() => println!("{}: {name} left", self.name),
            _ => {}
        }
    }
}

fn forget_the_silent(me: &str, peers: &Peers, reactor: &Handle) {
    let now = reactor.now();
    peers.borrow_mut().retain(|name, heard| {
        let is_silent = now.duration_since(*heard) > SILENCE;
        if is_silent {
            println!("{me}: {name} is silent");
        }
        !is_silent
    });
}

fn main() -> Result<(), Failure> {
    let usual_name = format!("peer-{}", std::process::id());
    let [name, port, interface] = arguments(
        "multicast_discovery",
        "Finds other instances of itself.",
        [("NAME", Some(&usual_name)), ("PORT", Some("4299")), ("INTERFACE", Some("127.0.0.1"))],
    );
    init_logging();
    let port: u16 = port.parse().map_err(|error| format!("PORT {port:?} is no port: {error}"))?;
    let interface: Ipv4Addr =
        interface.parse().map_err(|error| format!("INTERFACE {interface:?} is no address: {error}"))?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(format!("NAME {name:?} would be heard by nobody").into());
    }
    let group = SocketAddr::from((GROUP, port));

    let reactor = Reactor::new()?;
    let peers = Peers::default();

    // What is heard: several programs share the port.
    let endpoint = UdpBind::new(port).reuse_address(true).max_datagram(200);
    let hears =
        reactor.listen_datagram(endpoint, Discovery { name: name.clone(), peers: Rc::clone(&peers) })?;
    hears.join_multicast(GROUP, interface)?;
    println!("{name}: listening on {}", hears.local_addr());

    // What is said comes from a port of our own, which the others see.
    let says = reactor.listen_datagram(
        UdpBind::new(0).interface(interface),
        |_: &DatagramSocket, _: &[u8], _: &Address| {},
    )?;
    says.set_multicast_interface(interface)?;
    let say = move |word: &str, name: &str| {
        if let Err(error) = says.send_to(format!("{word} {name}").as_bytes(), group) {
            log::warn!("cannot announce: {error}");
        }
    };
    say("here", &name);
    let (saying, me) = (say.clone(), name.clone());
    reactor.every(ANNOUNCE_EVERY, move |reactor, _| {
        saying("here", &me);
        forget_the_silent(&me, &peers, reactor);
    });
    reactor.on_shutdown(ShutdownPhase::Before, move |_| say("left", &name));
    reactor.run()?;
    Ok(())
}
