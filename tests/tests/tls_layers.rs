//! TLS that begins under a layer: what the layer kept from before must not be taken for what came protected.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use twistor::endpoint::TlsConnect;
use twistor::tls::rustls::pki_types::ServerName;
use twistor::tls::{TlsInfo, TlsServer};
use twistor::{Port, Reason, Transport};
use twistor_protocols::{FramedProtocol, LineReceiver, Lines};
use twistor_tests::outcome::outcome;
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Ending, Script, World, contract};

/// What a server of lines has heard.
#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    is_secure: bool,
    transport: Option<Transport>,
    lost: Option<String>,
}

/// Begins TLS when it is asked to, and answers nothing.
struct Server {
    tls: TlsServer,
    heard: Rc<RefCell<Heard>>,
}

impl LineReceiver for Server {
    fn connection_made(&mut self, io: &Lines) {
        self.heard.borrow_mut().transport = Some(io.transport().clone());
    }

    fn line_received(&mut self, io: &Lines, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        if line == "STARTTLS" {
            io.send_line("go ahead");
            drop(io.start_tls_server(&self.tls));
        }
        self.heard.borrow_mut().lines.push(line);
    }

    fn tls_started(&mut self, _: &Lines, _: &TlsInfo) {
        self.heard.borrow_mut().is_secure = true;
    }

    fn connection_lost(&mut self, _: &Lines, reason: &Reason) {
        self.heard.borrow_mut().lost = Some(reason.to_string());
    }
}

fn serve(world: &World, authority: &Authority) -> (Port, Rc<RefCell<Heard>>) {
    let heard = Rc::<RefCell<Heard>>::default();
    let port = world.listen({
        let (tls, heard) = (authority.server(), Rc::clone(&heard));
        move |_| FramedProtocol::new(Server { tls: tls.clone(), heard: Rc::clone(&heard) })
    });
    (port, heard)
}

contract! {
    // Line 55.
    fn a_line_behind_the_request_is_an_injection(driver) {
        for behind in ["RSET\r\n", "half a line"] {
            let world = World::new(driver);
            let (port, heard) = serve(&world, &Authority::new());
            let peer = world.connect(&port);
            peer.send(format!("EHLO\r\nSTARTTLS\r\n{behind}").as_bytes());
            let (_, ending) = peer.receive_to_end();
            assert_eq!(ending, Ending::Reset);
            world.until("the loss", || heard.borrow().lost.is_some());
            let heard = heard.borrow();
            assert_eq!(heard.lines, ["EHLO", "STARTTLS"]);
            assert_eq!(heard.lost.as_deref(), Some("TLS: plain text came behind the request to begin with TLS"));
        }
    }

    // Line 55.
    fn the_beginning_of_a_line_is_not_completed_by_what_comes_protected(driver) {
        let world = World::new(driver);
        let authority = Authority::new();
        let (port, heard) = serve(&world, &authority);
        let client = Rc::new(RefCell::new(None));
        let _connecting = world.reactor.connect(port.local_addr().socket_addr().unwrap(), {
            let client = Rc::clone(&client);
            move |_| {
                let client = Rc::clone(&client);
                Script::default().on_made(move |transport| {
                    transport.write(b"DELE");
                    *client.borrow_mut() = Some(transport.clone());
                })
            }
        });
        world.until("the server has the beginning", || {
            let heard = heard.borrow();
            heard.transport.as_ref().is_some_and(|it| it.stats().bytes_received == 4)
        });
        // Not by a line, but by a decision of its own: the layer is not asked.
        let server = heard.borrow().transport.clone().unwrap();
        let client = client.take().unwrap();
        let ours = server.start_tls_server(&authority.server());
        let theirs = client.start_tls_client(&authority.client(), NAME);
        world.until("TLS begins", || heard.borrow().is_secure && client.is_secure());
        client.write(b"TE everything\r\nNOOP\r\n");
        world.until("the loss", || heard.borrow().lost.is_some());
        let heard = heard.borrow();
        assert!(heard.lines.is_empty(), "{:?}", heard.lines);
        assert_eq!(heard.lost.as_deref(), Some("failed: TLS began in the middle of a frame"));
        drop((ours, theirs));
    }

    // Line 55.
    fn lines_go_on_behind_tls(driver) {
        let world = World::new(driver);
        let authority = Authority::new();
        let (port, heard) = serve(&world, &authority);
        let tls = authority.client();
        let _connecting = world.reactor.connect(port.local_addr().socket_addr().unwrap(), move |_| {
            let tls = tls.clone();
            Script::default()
                .on_made(|transport| transport.write(b"EHLO\r\nSTARTTLS\r\n"))
                .on_data(move |transport, data| {
                    assert_eq!(data, b"go ahead\r\n");
                    drop(transport.start_tls_client(&tls, NAME));
                    // Waits for the handshake.
                    transport.write(b"SECRET\r\n");
                })
        });
        world.until("the line comes", || heard.borrow().lines.len() == 3);
        let heard = heard.borrow();
        assert_eq!(heard.lines, ["EHLO", "STARTTLS", "SECRET"]);
        assert!(heard.is_secure);
    }

    // Line 57.
    fn certificates_are_read_again_and_bad_ones_are_not_taken(driver) {
        let world = World::new(driver);
        let directory = std::env::temp_dir().join(format!("twistor-reload-{}-{}", std::process::id(), driver.name()));
        fs::create_dir_all(&directory).unwrap();
        let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        let write = |authority: &Authority| {
            let identity = authority.issue(&[NAME], |_| {});
            fs::write(&certificate, identity.chain_pem).unwrap();
            fs::write(&key, identity.key_pem).unwrap();
        };
        let (first, second) = (Authority::new(), Authority::new());
        write(&first);
        let endpoint = format!(
            "ssl:0:interface=127.0.0.1:certificate={}:key={}",
            certificate.display(),
            key.display()
        );
        let port = world.reactor.listen(endpoint, |_| Script::default()).unwrap();
        assert!(port.tls().is_some());
        let trusted_by = |authority: &Authority| {
            let address = port.local_addr().socket_addr().unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let endpoint = TlsConnect::new(address, authority.client(), name);
            let connecting = world.reactor.connect(endpoint.unwrap(), |_| Script::default());
            outcome(&world, connecting).map(|made| made.abort_connection()).is_ok()
        };
        assert!(trusted_by(&first) && !trusted_by(&second));
        write(&second);
        assert!(trusted_by(&first), "nobody has said so yet");
        assert!(world.reactor.reload_tls());
        assert!(trusted_by(&second) && !trusted_by(&first));
        fs::write(&key, "no key at all").unwrap();
        assert!(!world.reactor.reload_tls());
        assert!(trusted_by(&second));
        fs::remove_dir_all(&directory).unwrap();
    }
}
