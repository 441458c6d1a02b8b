//! Handshakes that are slow, cut up, tampered with, or no handshakes at all.

use std::time::Duration;

use twistor::tls::{TlsServer, TlsVersion};
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Driver, Event, Log, Script, World, contract};

use super::support::{
    BOTH, Dial, Other, Site, Tls13Keys, Version, alert, client_config, loss, plain_record, records,
    server_config,
};

const PROTOCOL_VERSION: u8 = 70;

/// Passes everything on between a client and the port until nothing moves; `change` is what becomes of what
/// the client sends.
fn pass_on(site: &Site, client: &mut Other<'_>, mut change: impl FnMut(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut heard = Vec::new();
    for _ in 0..60 {
        let data = client.fetch();
        heard.extend(&data);
        client.feed(&data);
        let out = client.take_output();
        if !out.is_empty() && !client.has_ended {
            client.peer.send(&change(out));
        }
        site.world.turn(Duration::from_millis(1));
    }
    heard
}

/// The first message of a client that speaks these versions, as one record.
fn hello(authority: &Authority, versions: &[Version]) -> Vec<u8> {
    let config = std::sync::Arc::new(client_config(authority, versions));
    let mut client = rustls::ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record
}

/// What a port answers to this, before it ends the connection.
fn answer(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let peer = site.connect();
    peer.send(bytes);
    let (answer, _) = peer.receive_to_end();
    answer
}

/// Where the extensions of a hello begin, with their length.
fn extensions_of(hello: &[u8]) -> usize {
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at + 1 + usize::from(hello[at])
}

/// Has a hello grow by an extension that it may have already.
fn with_extension(hello: &[u8], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let at = extensions_of(&hello);
    let mut extension = kind.to_be_bytes().to_vec();
    extension.extend((body.len() as u16).to_be_bytes());
    extension.extend(body);
    let more = extension.len();
    hello.splice(at + 2..at + 2, extension);
    for (place, size) in [(3, 2), (6, 3), (at, 2)] {
        let old = hello[place..place + size].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let new = (old + more).to_be_bytes();
        hello[place..place + size].copy_from_slice(&new[8 - size..]);
    }
    hello
}

contract! {
    fn a_handshake_whose_every_byte_is_a_segment_of_its_own_succeeds(driver) {
        for version in BOTH {
            let site = Site::new(driver);
            let mut client = site.client(client_config(&site.authority, &[version]));
            client.until("the handshake succeeds", |client| {
                let data = client.fetch();
                client.feed(&data);
                for byte in client.take_output() {
                    client.peer.send(&[byte]);
                    site.world.turns(1);
                }
                !client.tls.is_handshaking() && !client.tls.wants_write()
            });
            client.say(b"hello");
            assert_eq!(client.hear(5), b"hello");
            client.leave();
            site.is_clean();
        }
    }

    fn a_handshake_in_records_of_a_byte_succeeds(driver) {
        let site = Site::new(driver);
        let mut client = site.client(client_config(&site.authority, &[Version::Tls13]));
        let hello = client.take_output();
        for byte in &hello[5..] {
            client.peer.send(&plain_record(22, &[*byte]));
        }
        site.world.until("the port answers", || {
            let data = client.fetch();
            client.feed(&data);
            !client.tls.is_handshaking()
        });
        // The last message of the client, sealed anew byte by byte.
        let out = client.take_output();
        let suite = client.tls.negotiated_cipher_suite().unwrap().tls13().unwrap();
        let secret = client.secrets.get("CLIENT_HANDSHAKE_TRAFFIC_SECRET");
        let mut own = Tls13Keys::new(suite, secret.clone());
        let mut anew = Tls13Keys::new(suite, secret);
        for record in records(&out) {
            if record[0] != 23 {
                client.peer.send(record);
                continue;
            }
            let (kind, message) = own.open(record);
            for byte in message {
                client.peer.send(&anew.seal(kind, &[byte]));
                site.world.turns(1);
            }
        }
        client.say(b"hello");
        assert_eq!(client.hear(5), b"hello");
        client.leave();
        site.is_clean();
    }

    fn plain_http_at_a_port_with_tls_is_refused(driver) {
        let site = Site::new(driver);
        let heard = answer(&site, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(alert(&heard), Some(50));
        site.saw_nobody();
        site.serves_others();
        site.is_clean();
    }

    fn tls_at_a_port_without_is_data_like_any_other(driver) {
        let (world, authority, log) = (World::new(driver), Authority::new(), Log::new());
        let (_, peer) = world.pair(Script::new(&log).on_data(|transport, _| {
            transport.write(b"220 here is no TLS\r\n");
        }));
        let mut client = Other::client(&world, peer, client_config(&authority, &BOTH));
        assert!(matches!(client.hear_end(), Some(rustls::Error::InvalidMessage(_))));
        assert_eq!(log.data()[0], 22);
    }

    fn a_client_at_a_server_without_tls_is_told_so(driver) {
        let dial = Dial::new(driver);
        let peer = dial.attempt();
        peer.send(b"220 here is no TLS\r\n");
        let error = dial.error();
        assert!(error.ends_with("TLS: received corrupt message of type InvalidContentType"), "{error}");
        dial.saw_nobody();
        drop(peer);
        dial.is_clean();
    }

    // Line 57.
    fn a_server_that_says_nothing_does_not_hold_an_attempt(driver) {
        let dial = Dial::with(driver, |authority| {
            twistor::tls::TlsClient::builder()
                .roots_pem(authority.pem().as_bytes())
                .handshake_timeout(Duration::from_millis(200))
                .build()
                .unwrap()
        });
        let peer = dial.attempt();
        let error = dial.error();
        assert!(error.ends_with("TLS: the handshake took too long"), "{error}");
        drop(peer);
        dial.is_clean();
    }
}

#[test]
fn a_hello_in_thousands_of_segments_takes_no_more_memory_than_one_in_one() {
    // A simulation remembers what was sent.
    let site = Site::new(Driver::Direct);
    let mut hello = hello(&site.authority, &BOTH);
    for kind in 0..12 {
        hello = with_extension(&hello, 0x6a6a + kind, &[7; 1000]);
    }
    assert!(hello.len() > 12_000);
    let peer = site.connect();
    let before = twistor_tests::allocations::restart_peak();
    for byte in &hello {
        peer.send(&[*byte]);
        site.world.turns(1);
    }
    let mut answer = Vec::new();
    site.world.until("the port answers", || {
        answer.extend(peer.try_receive().unwrap());
        !answer.is_empty()
    });
    assert_eq!((answer[0], answer[5]), (22, 2), "no hello of a server");
    let peak = twistor_tests::allocations::counts().peak - before;
    assert!(peak < 12 * hello.len() as i64, "{} bytes took {peak}", hello.len());
    drop(peer);
    site.is_clean();
}

#[test]
// Line 57.
fn a_client_of_an_old_version_is_refused() {
    let site = Site::new(Driver::Simulated);
    let hello = strip_versions(&hello(&site.authority, &[Version::Tls12]));
    for old in [0x0300_u16, 0x0301, 0x0302] {
        let mut older = hello.clone();
        older[9..11].copy_from_slice(&old.to_be_bytes());
        let heard = answer(&site, &older);
        assert_eq!(alert(&heard), Some(PROTOCOL_VERSION), "version {old:#x}: {heard:?}");
    }
    site.saw_nobody();
    // One that wants nothing but the newest.
    let site = Site::with(
        Driver::Simulated,
        |authority| {
            let identity = authority.issue(&[NAME], |_| {});
            let builder = TlsServer::builder().min_version(TlsVersion::Tls13);
            builder
                .certificate_pem(identity.chain_pem.as_bytes(), identity.key_pem.as_bytes())
                .build()
                .unwrap()
        },
        super::support::echo,
    );
    assert_eq!(alert(&answer(&site, &hello)), Some(PROTOCOL_VERSION));
    site.saw_nobody();
    site.serves_others();
    site.is_clean();
}

/// Replaces the list of versions in a hello with an extension that nobody knows.
fn strip_versions(hello: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let mut at = extensions_of(&hello) + 2;
    while hello[at..at + 2] != [0, 43] {
        at += 4 + usize::from(u16::from_be_bytes([hello[at + 2], hello[at + 3]]));
    }
    hello[at..at + 2].copy_from_slice(&[0x7a, 0x7a]);
    hello
}

#[test]
// Line 57.
fn somebody_in_the_middle_cannot_have_both_ends_speak_an_older_version() {
    // The port's answer says, in its random, that it could do better.
    let site = Site::new(Driver::Simulated);
    let mut client = site.client(client_config(&site.authority, &BOTH));
    let mut is_first = true;
    pass_on(&site, &mut client, |out| if std::mem::take(&mut is_first) { strip_versions(&out) } else { out });
    let error = client.error.take();
    assert!(matches!(error, Some(rustls::Error::PeerMisbehaved(_))), "{error:?}");
    site.saw_nobody();
    drop(client);
    site.is_clean();
    // And a client of ours looks for that.
    let dial = Dial::new(Driver::Simulated);
    let peer = dial.attempt();
    let mut server = Other::server(&dial.world, peer, server_config(&dial.authority, &BOTH));
    let mut is_first = true;
    for _ in 0..60 {
        let data = server.fetch();
        let data =
            if !data.is_empty() && std::mem::take(&mut is_first) { strip_versions(&data) } else { data };
        server.feed(&data);
        let out = server.take_output();
        if !server.has_ended {
            server.peer.send(&out);
        }
        dial.world.turn(Duration::from_millis(1));
    }
    let error = dial.error();
    assert!(
        error.ends_with("TLS: peer misbehaved: AttemptedDowngradeToTls12WhenTls13IsSupported"),
        "{error}"
    );
    dial.saw_nobody();
    drop(server);
    dial.is_clean();
}

#[test]
// Line 57.
fn a_server_that_chooses_what_was_not_offered_is_refused() {
    // The version, the cipher suite, the compression and the extensions of a hello.
    for (place, value) in [(9, 2), (10, 1), (44 + 32, 0xC0), (45 + 32, 0x99), (46 + 32, 1), (49 + 32, 0x13)] {
        let dial = Dial::new(Driver::Simulated);
        let peer = dial.attempt();
        let mut server = Other::server(&dial.world, peer, server_config(&dial.authority, &[Version::Tls13]));
        let mut is_first = true;
        for _ in 0..20 {
            let data = server.fetch();
            server.feed(&data);
            let mut out = server.take_output();
            if !out.is_empty() && std::mem::take(&mut is_first) {
                out[place] ^= value;
            }
            if !server.has_ended {
                server.peer.send(&out);
            }
            dial.world.turn(Duration::from_millis(1));
        }
        let error = dial.error();
        assert!(error.contains("TLS: "), "{place}: {error}");
        dial.saw_nobody();
        drop(server);
        dial.is_clean();
    }
}

#[test]
fn extensions_that_nobody_knows_are_ignored_and_those_that_come_twice_refused() {
    let site = Site::new(Driver::Simulated);
    let hello = hello(&site.authority, &BOTH);
    let peer = site.connect();
    peer.send(&with_extension(&hello, 0x7a7a, &[1; 2000]));
    let mut heard = Vec::new();
    site.world.until("the port answers", || {
        heard.extend(peer.try_receive().unwrap());
        !heard.is_empty()
    });
    assert_eq!((heard[0], heard[5]), (22, 2), "no hello of a server");
    drop(peer);
    for (kind, body) in [(43_u16, &[2_u8, 3, 4][..]), (10, &[0, 2, 0, 29]), (0x7a7a, &[])] {
        let once = with_extension(&hello, kind, body);
        let twice = if kind == 0x7a7a { with_extension(&once, kind, body) } else { once };
        assert!(alert(&answer(&site, &twice)).is_some(), "extension {kind}");
    }
    // Compression alone, which there is none of.
    let mut compressed = hello.clone();
    let at = extensions_of(&compressed) - 1;
    compressed[at] = 1;
    assert!(alert(&answer(&site, &compressed)).is_some());
    // An extension that is longer than its message.
    let mut long = hello;
    let at = extensions_of(&long);
    long[at] = 0xFF;
    assert!(alert(&answer(&site, &long)).is_some());
    site.saw_nobody();
    site.is_clean();
}

#[test]
fn the_end_of_a_handshake_and_of_the_stream_may_come_in_one_segment() {
    for version in BOTH {
        let site = Site::with(Driver::Simulated, Authority::server, Script::new);
        let mut client = site.client(client_config(&site.authority, &[version]));
        std::io::Write::write_all(&mut client.tls.writer(), b"in a hurry").unwrap();
        let mut said_all = false;
        client.until("the client has said all", |client| {
            let data = client.fetch();
            client.feed(&data);
            if !client.tls.is_handshaking() {
                client.tls.send_close_notify();
                said_all = true;
            }
            let out = client.take_output();
            client.peer.send(&out);
            said_all
        });
        client.peer.finish();
        assert_eq!(loss(&site.world, &site.log), "closed");
        assert_eq!(site.log.data(), b"in a hurry");
        assert!(site.log.has(&Event::Eof));
        drop(client);
        site.is_clean();
    }
}
