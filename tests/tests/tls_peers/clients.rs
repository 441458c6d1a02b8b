//! Their clients at our port.

use twistor::tls::ClientCertificates;
use twistor_tests::Event;
use twistor_tests::tls::NAME;

use super::programs::{TOOLS, Tool, Wish};
use super::support::{BOTH, Files, Host, OTHER_NAME, echo, echo_of, text};

const MIB: usize = 1 << 20;

/// Runs a test for every program that is there, in both versions.
fn for_each(test: impl Fn(Tool, &Files, Wish<'_>)) {
    for tool in TOOLS {
        if !tool.is_there() {
            continue;
        }
        for version in BOTH {
            println!("{tool:?}, {version}");
            test(tool, &Files::new(), Wish::new(version));
        }
    }
}

#[test]
// Lines 54 and 56.
fn a_mebibyte_goes_both_ways_and_they_see_our_end() {
    for_each(|tool, files, wish| {
        let host = Host::new(files.server(|server| server), echo_of(MIB));
        let data = text(MIB);
        let mut program = super::support::Program::start(tool.client(files, host.port(), wish), None);
        let mut stdin = program.child.stdin.take().unwrap();
        let sent = data.clone();
        // Its input stays open: the end is ours.
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let writer = std::thread::spawn(move || {
            std::io::Write::write_all(&mut stdin, &sent).unwrap();
            let _ = wait.recv();
        });
        let ended = host.end(program);
        drop(done);
        writer.join().unwrap();
        ended.went_well();
        assert_eq!(ended.output.len(), MIB);
        assert!(ended.output == data, "something else came back");
        assert!(host.log.data() == data, "something else arrived");
        let info = host.info();
        assert_eq!((info.version, info.server_name.as_deref()), (wish.version, Some(NAME)));
        assert!(!info.is_resumed);
        host.ended_well();
    });
}

#[test]
// Line 56.
fn we_see_their_end() {
    for_each(|tool, files, wish| {
        if tool == Tool::Python {
            // See `particular`.
            return;
        }
        let host = Host::new(files.server(|server| server), echo);
        let mut command = tool.client(files, host.port(), wish);
        if tool == Tool::OpenSsl {
            command.arg("-no_ign_eof");
        }
        let mut program = super::support::Program::start(command, None);
        program.say(b"hello\n");
        host.world.until("the echo comes", || program.has_said(b"hello\n"));
        drop(program.child.stdin.take());
        host.end(program).went_well();
        host.ended_well();
        assert_eq!(
            host.log.events(),
            [Event::Made, Event::Data(b"hello\n".to_vec()), Event::Eof, Event::Lost("closed".to_owned())]
        );
    });
}

#[test]
fn the_certificate_follows_the_name_that_is_asked_for() {
    for_each(|tool, files, wish| {
        let host = Host::new(files.server(|server| server.strict_sni(true)), echo_of(6));
        for name in [NAME, OTHER_NAME] {
            let ended = host.run_open(tool.client(files, host.port(), Wish { name, ..wish }), b"hello\n");
            ended.went_well();
            assert_eq!(host.info().server_name.as_deref(), Some(name));
        }
        host.ended_well();
        let host = Host::new(files.server(|server| server.strict_sni(true)), echo_of(6));
        host.run(tool.client(files, host.port(), Wish { name: "unknown.example", ..wish }), b"hello\n")
            .went_wrong();
        host.refused_all();
    });
}

#[test]
fn protocols_of_the_application_are_agreed_on() {
    for_each(|tool, files, wish| {
        let host = Host::new(files.server(|server| server.alpn(["h2", "http/1.1"])), echo_of(6));
        for (offer, agreed) in [("http/1.1,h2", "h2"), ("http/1.1", "http/1.1")] {
            let wish = Wish { alpn: Some(offer), ..wish };
            host.run_open(tool.client(files, host.port(), wish), b"hello\n").went_well();
            assert_eq!(host.info().alpn_text(), Some(agreed));
        }
        host.ended_well();
        let host = Host::new(files.server(|server| server.alpn(["h2", "http/1.1"])), echo_of(6));
        host.run(tool.client(files, host.port(), Wish { alpn: Some("smtp"), ..wish }), b"hello\n")
            .went_wrong();
        host.refused_all();
    });
}

#[test]
// Line 57.
fn certificates_of_clients_are_required() {
    for_each(|tool, files, wish| {
        let server = || {
            files.server(|server| {
                server
                    .client_certificates(ClientCertificates::Required)
                    .client_roots_file(files.path("ca.pem"))
            })
        };
        let host = Host::new(server(), echo_of(6));
        let ended = host
            .run_open(tool.client(files, host.port(), Wish { shows: Some("client"), ..wish }), b"hello\n");
        ended.went_well();
        assert_eq!(host.info().peer_dns_names(), ["somebody"]);
        host.ended_well();
        for shows in [None, Some("stranger")] {
            let host = Host::new(server(), echo_of(6));
            let ended = host.run_open(tool.client(files, host.port(), Wish { shows, ..wish }), b"hello\n");
            assert_eq!(ended.output, b"", "somebody who shows {shows:?} was answered");
            host.refused_all();
        }
    });
}

#[test]
// Line 57.
fn certificates_of_clients_are_optional() {
    for_each(|tool, files, wish| {
        let server = || {
            files.server(|server| {
                server
                    .client_certificates(ClientCertificates::Optional)
                    .client_roots_file(files.path("ca.pem"))
            })
        };
        let host = Host::new(server(), echo_of(6));
        for (shows, names) in [(None, &[][..]), (Some("client"), &["somebody"])] {
            host.run_open(tool.client(files, host.port(), Wish { shows, ..wish }), b"hello\n").went_well();
            assert_eq!(host.info().peer_dns_names(), names);
        }
        host.ended_well();
        let host = Host::new(server(), echo_of(6));
        let wish = Wish { shows: Some("stranger"), ..wish };
        let ended = host.run_open(tool.client(files, host.port(), wish), b"hello\n");
        assert_eq!(ended.output, b"");
        host.refused_all();
    });
}

#[test]
// Line 57.
fn one_who_does_not_trust_us_is_not_talked_to() {
    for_each(|tool, files, wish| {
        let host = Host::new(files.server(|server| server), echo);
        let wish = Wish { roots: "stranger-ca.pem", ..wish };
        host.run(tool.client(files, host.port(), wish), b"hello\n").went_wrong();
        host.world.until("the port has heard of it", || host.world.reactor.stats().connections == 0);
        assert_eq!(host.log.data(), b"");
        assert!(host.world.reactor.stats().tls_failures > 0 || host.log.lost().is_some());
    });
}
