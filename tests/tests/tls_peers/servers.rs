//! Their servers, and our client.

use twistor::tls::{TlsClient, TlsClientBuilder};
use twistor_tests::tls::NAME;
use twistor_tests::{Driver, Event, Log, Script, World};

use super::programs::{TOOLS, Tool, Wish};
use super::support::{BOTH, Dialled, Files, OTHER_NAME, Program, dial, end, free_port, text};

const MIB: usize = 1 << 20;

fn for_each(test: impl Fn(&World, Tool, &Files, Wish<'_>)) {
    for tool in TOOLS {
        if !tool.is_there() {
            continue;
        }
        for version in BOTH {
            println!("{tool:?}, {version}");
            test(&World::new(Driver::Direct), tool, &Files::new(), Wish::new(version));
        }
    }
}

fn start(tool: Tool, files: &Files, wish: Wish<'_>) -> (Program, u16) {
    let port = free_port();
    (Program::start(tool.server(files, port, wish), None), port)
}

/// Has a word go there and another, or the same, come back.
fn talk(world: &World, tool: Tool, program: &mut Program, dialled: &Dialled) {
    if !tool.echoes() {
        program.say(b"hello\n");
    }
    dialled.transport.write(b"hello\n");
    world.until("their word comes", || dialled.log.data() == b"hello\n");
    if !tool.echoes() {
        world.until("our word comes", || program.has_said(b"hello\n"));
    }
}

fn plain(files: &Files) -> TlsClient {
    files.client(|client| client)
}

#[test]
// Lines 54 and 56.
fn a_mebibyte_goes_both_ways_and_they_see_our_end() {
    for_each(|world, tool, files, wish| {
        let (mut program, port) = start(tool, files, wish);
        let dialled = dial(world, &plain(files), port, NAME, Script::new).unwrap();
        assert_eq!((dialled.info.version, dialled.info.server_name.as_deref()), (wish.version, Some(NAME)));
        let data = text(MIB);
        if !tool.echoes() {
            let (mut stdin, theirs) = (program.child.stdin.take().unwrap(), data.clone());
            std::thread::spawn(move || {
                let _ = std::io::Write::write_all(&mut stdin, &theirs);
                // Its input must not end before the connection does.
                std::thread::sleep(twistor_tests::PATIENCE);
            });
        }
        dialled.transport.write(&data);
        let mut heard = 0;
        world.until("all has come", || {
            heard = dialled.log.data().len();
            heard >= MIB
        });
        assert!(dialled.log.data() == data, "something else came");
        if !tool.echoes() {
            world.until("all has gone", || program.output().len() >= MIB);
            assert!(program.output() == data, "something else went");
        }
        dialled.transport.lose_connection();
        world.until("the connection ends", || dialled.log.lost().is_some());
        assert_eq!(dialled.log.lost().unwrap(), "closed");
        if tool != Tool::GnuTls {
            // That one goes on.
            end(world, program).went_well();
        }
    });
}

#[test]
// Line 56.
fn one_that_is_killed_has_not_ended_in_good_order() {
    for_each(|world, tool, files, wish| {
        let (mut program, port) = start(tool, files, wish);
        let dialled = dial(world, &plain(files), port, NAME, Script::new).unwrap();
        talk(world, tool, &mut program, &dialled);
        program.child.kill().unwrap();
        world.until("the connection ends", || dialled.log.lost().is_some());
        let reason = dialled.log.lost().unwrap();
        assert!(reason.contains("cut off") || reason == "connection reset by the peer", "{reason}");
        assert!(!dialled.log.has(&Event::Eof));
    });
}

#[test]
fn sessions_are_resumed() {
    for_each(|world, tool, files, wish| {
        let client = plain(files);
        let port = free_port();
        let mut resumed = Vec::new();
        let mut command = tool.server(files, port, wish);
        if tool == Tool::OpenSsl {
            command = super::programs::openssl_server(files, port, wish);
            command.args(["-quiet", "-naccept", "2"]);
        }
        if tool == Tool::Python {
            // It serves one connection, and forgets its sessions then.
            return;
        }
        let mut program = Program::start(command, None);
        for _ in 0..2 {
            let dialled = dial(world, &client, port, NAME, Script::new).unwrap();
            talk(world, tool, &mut program, &dialled);
            resumed.push(dialled.info.is_resumed);
            assert_eq!(dialled.info.peer_dns_names(), [NAME]);
            dialled.transport.lose_connection();
            world.until("the connection ends", || dialled.log.lost().is_some());
        }
        assert_eq!(resumed, [false, true]);
    });
}

#[test]
fn the_certificate_follows_the_name_that_is_asked_for() {
    for_each(|world, tool, files, wish| {
        let (mut program, port) = start(tool, files, wish);
        let dialled = dial(world, &plain(files), port, OTHER_NAME, Script::new).unwrap();
        assert_eq!(dialled.info.peer_dns_names(), [OTHER_NAME]);
        talk(world, tool, &mut program, &dialled);
        dialled.transport.lose_connection();
        world.until("the connection ends", || dialled.log.lost().is_some());
    });
}

#[test]
fn protocols_of_the_application_are_agreed_on() {
    for_each(|world, tool, files, wish| {
        let (mut program, port) = start(tool, files, Wish { alpn: Some("h2,http/1.1"), ..wish });
        let client = files.client(|client| client.alpn(["http/1.1", "smtp"]));
        let dialled = dial(world, &client, port, NAME, Script::new).unwrap();
        assert_eq!(dialled.info.alpn_text(), Some("http/1.1"));
        talk(world, tool, &mut program, &dialled);
        dialled.transport.lose_connection();
        world.until("the connection ends", || dialled.log.lost().is_some());
    });
}

/// What comes of a client that shows this to somebody who asks.
fn asked(
    world: &World,
    tool: Tool,
    files: &Files,
    wish: Wish<'_>,
    show: impl FnOnce(TlsClientBuilder) -> TlsClientBuilder,
) -> Result<(), String> {
    let (mut program, port) = start(tool, files, Wish { asks: true, ..wish });
    let client = files.client(show);
    let greet = |log: &Log| Script::new(log).on_made(|transport| transport.write(b"hello\n"));
    let dialled = dial(world, &client, port, NAME, greet)?;
    if !tool.echoes() {
        // It may have ended.
        let _ = std::io::Write::write_all(program.child.stdin.as_mut().unwrap(), b"hello\n");
    }
    world.until("it is decided", || dialled.log.lost().is_some() || !dialled.log.data().is_empty());
    match dialled.log.lost() {
        // A client of TLS 1.3 is through before the server has looked at its certificate.
        Some(reason) => Err(reason),
        None => {
            dialled.transport.lose_connection();
            world.until("the connection ends", || dialled.log.lost().is_some());
            Ok(())
        }
    }
}

#[test]
fn we_show_a_certificate_to_those_who_ask() {
    for_each(|world, tool, files, wish| {
        let own = |name: &str| (files.path(&format!("{name}.pem")), files.path(&format!("{name}.key")));
        let (certificate, key) = own("client");
        asked(world, tool, files, wish, |client| client.certificate_files(certificate, key)).unwrap();
        let error = asked(world, tool, files, wish, |client| client).unwrap_err();
        assert!(!error.is_empty());
        let (certificate, key) = own("stranger");
        let error =
            asked(world, tool, files, wish, |client| client.certificate_files(certificate, key)).unwrap_err();
        assert!(!error.is_empty());
    });
}

#[test]
// Line 57.
fn those_who_are_not_whom_they_should_be_are_not_talked_to() {
    for_each(|world, tool, files, wish| {
        let (program, port) = start(tool, files, wish);
        let error = dial(world, &plain(files), port, "example.com", Script::new).err().unwrap();
        assert!(error.contains("not valid for name \"example.com\""), "{error}");
        drop(program);
        let (program, port) = start(tool, files, wish);
        let strange = TlsClient::builder().roots_file(files.path("stranger-ca.pem")).build().unwrap();
        let error = dial(world, &strange, port, NAME, Script::new).err().unwrap();
        assert!(error.contains("UnknownIssuer"), "{error}");
        drop(program);
    });
}
