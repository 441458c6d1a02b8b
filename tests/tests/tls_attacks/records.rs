//! Records that no library makes: of a wrong kind or size, cut up, or in a place where they do not belong.

use std::sync::Arc;

use rustls::ContentType;
use rustls::pki_types::ServerName;
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Driver, Event, World, contract};

use super::support::{
    BOTH, Dial, Forger, Site, Version, alert, client_config, handshake, loss, plain_record,
};

/// Key update (RFC 8446, section 4.6.3).
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
const WORD: &[u8] = b"something to answer";

/// The echo of a forger's word comes, sealed.
fn is_answered(forger: &Forger<'_>) {
    // The header, the tag, and in TLS 1.3 the kind.
    let _ = forger.peer.receive(5 + WORD.len() + 16);
}

/// The first message of a client.
fn hello() -> Vec<u8> {
    let config = client_config(&Authority::new(), &BOTH);
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record.split_off(5)
}

/// A session ticket that means nothing.
fn ticket() -> Vec<u8> {
    let mut body = 7200_u32.to_be_bytes().to_vec();
    body.extend([0; 4]);
    body.extend([1, 7]);
    body.extend(100_u16.to_be_bytes());
    body.extend([5; 100]);
    body.extend([0, 0]);
    handshake(NEW_SESSION_TICKET, &body)
}

contract! {
    fn output_is_sealed_while_a_message_of_the_peer_is_incomplete(driver) {
        let site = Site::new(driver);
        let mut forger = site.secured(Version::Tls13).forge();
        // What the port has to say beforehand.
        site.world.until("the protocol is there", || site.log.has(&Event::Made));
        site.world.turns(4);
        let transport = site.transport.borrow().clone().unwrap();
        let whole = handshake(KEY_UPDATE, &[0]);
        for length in 1..whole.len() {
            forger.send(ContentType::Handshake, &whole[length - 1..length]);
            site.world.turns(4);
            transport.write(b"meanwhile");
            site.world.turns(4);
        }
        forger.send(ContentType::Handshake, &whole[whole.len() - 1..]);
        forger.update_keys();
        forger.send(ContentType::ApplicationData, WORD);
        site.world.until("the protocol gets it", || site.log.data() == WORD);
        drop((forger, transport));
        site.is_clean();
    }

    fn a_client_writes_while_a_ticket_is_incomplete(driver) {
        let dial = Dial::new(driver);
        let mut forger = dial.secured(Version::Tls13).forge();
        dial.world.until("the protocol is there", || dial.log.has(&Event::Made));
        dial.world.until("the attempt is told", || !dial.outcomes.borrow().is_empty());
        let transport = dial.outcomes.borrow()[0].clone().unwrap();
        let whole = ticket();
        for part in whole.chunks(40) {
            forger.send(ContentType::Handshake, part);
            dial.world.turns(4);
            transport.write(b"meanwhile");
            dial.world.turns(4);
        }
        forger.send(ContentType::ApplicationData, WORD);
        dial.world.until("the protocol gets it", || dial.log.data() == WORD);
        drop((forger, transport));
        dial.is_clean();
    }

    fn a_handshake_fails_in_the_middle_of_a_message(driver) {
        let site = Site::new(driver);
        let peer = site.connect();
        // The beginning of a hello, and then something that is none.
        peer.send(&plain_record(22, &[1, 0, 1, 0, 3]));
        site.world.turns(4);
        peer.send(&plain_record(23, b"no hello"));
        let (answer, _) = peer.receive_to_end();
        assert_eq!(answer.len(), 0, "no alert is defined here");
        site.saw_nobody();
        drop(peer);
        site.is_clean();
    }
}

/// What a client is told that sends this first.
fn told_at_first(bytes: &[u8]) -> Option<u8> {
    let site = Site::new(Driver::Simulated);
    let peer = site.connect();
    peer.send(bytes);
    let (answer, _) = peer.receive_to_end();
    site.saw_nobody();
    assert_eq!(site.failures(), 1);
    site.serves_others();
    drop(peer);
    site.is_clean();
    alert(&answer)
}

#[test]
fn what_is_no_record_is_refused_with_an_alert() {
    const DECODE_ERROR: u8 = 50;
    for kind in (0..=255).filter(|kind| !(20..=24).contains(kind)) {
        assert_eq!(told_at_first(&plain_record(kind, b"?")), Some(DECODE_ERROR), "kind {kind}");
    }
    // Longer than any record is.
    for length in [(1 << 14) + 2049_u16, u16::MAX] {
        let mut record = vec![22, 3, 3];
        record.extend(length.to_be_bytes());
        assert!(told_at_first(&record).is_some(), "{length} bytes");
    }
    // A message that would be longer than all memory that may be spent on it.
    told_at_first(&plain_record(22, &[1, 0xFF, 0xFF, 0xFF]));
    // Something that is only sent later.
    for kind in [0, 2, 4, 8, 11, 14, 15, 16, 20, 24] {
        told_at_first(&plain_record(22, &handshake(kind, &[0; 8])));
    }
}

/// How a connection is lost after this was sent in its name.
fn lost_after(version: Version, send: impl FnOnce(&World, &mut Forger<'_>)) -> String {
    let site = Site::new(Driver::Simulated);
    let mut forger = site.secured(version).forge();
    site.world.until("the protocol is there", || site.log.has(&Event::Made));
    send(&site.world, &mut forger);
    let reason = loss(&site.world, &site.log);
    assert_eq!(site.log.data(), b"", "something was delivered");
    assert_eq!(site.failures(), 1);
    drop(forger);
    site.is_clean();
    reason
}

#[test]
fn records_that_break_the_rules_end_the_connection_and_deliver_nothing() {
    for version in BOTH {
        // More plain bytes than a record may have.
        let reason = lost_after(version, |_, forger| {
            let record = forger.seal(ContentType::ApplicationData, &[7; (1 << 14) + 1]);
            forger.peer.send(&record);
        });
        assert_eq!(reason, "TLS: peer sent excess record size", "{version:?}");
        // A bit of it is another.
        for place in [5, 8, 20] {
            let reason = lost_after(version, |_, forger| {
                let mut record = forger.seal(ContentType::ApplicationData, WORD);
                record[place] ^= 1;
                forger.peer.send(&record);
            });
            assert_eq!(reason, "TLS: cannot decrypt peer's message", "{version:?}");
        }
        // In the clear.
        lost_after(version, |_, forger| forger.peer.send(&plain_record(23, b"in the clear")));
        // Twice, without the first: a record is left out.
        let reason = lost_after(version, |_, forger| {
            let _ = forger.seal(ContentType::ApplicationData, b"left out");
            forger.send(ContentType::ApplicationData, WORD);
        });
        assert_eq!(reason, "TLS: cannot decrypt peer's message", "{version:?}");
        // Of no kind that there is.
        lost_after(version, |_, forger| forger.send(ContentType::from(99), WORD));
        // A message for a handshake that is over.
        lost_after(version, |_, forger| forger.send(ContentType::Handshake, &handshake(20, &[1; 32])));
        // A fatal alert.
        let reason = lost_after(version, |_, forger| forger.send(ContentType::Alert, &[2, 80]));
        assert_eq!(reason, "TLS: received fatal alert: InternalError", "{version:?}");
        // Half an alert, and one that is too long.
        lost_after(version, |_, forger| forger.send(ContentType::Alert, &[2]));
        lost_after(version, |_, forger| forger.send(ContentType::Alert, &[1, 0, 0]));
        // A message that does not end, with something else between.
        lost_after(version, |_, forger| {
            forger.send(ContentType::Handshake, &[KEY_UPDATE, 0]);
            forger.send(ContentType::ApplicationData, WORD);
        });
    }
}

#[test]
fn a_record_that_is_sent_twice_is_taken_once() {
    for version in BOTH {
        let site = Site::new(Driver::Simulated);
        let mut forger = site.secured(version).forge();
        let record = forger.seal(ContentType::ApplicationData, WORD);
        forger.peer.send(&record.repeat(2));
        assert_eq!(loss(&site.world, &site.log), "TLS: cannot decrypt peer's message");
        assert_eq!(site.log.data(), WORD);
    }
}

#[test]
fn records_that_come_byte_by_byte_are_delivered_once_they_are_whole() {
    for version in BOTH {
        let site = Site::new(Driver::Simulated);
        let mut forger = site.secured(version).forge();
        site.world.until("the protocol is there", || site.log.has(&Event::Made));
        for round in 0..3 {
            for byte in forger.seal(ContentType::ApplicationData, WORD) {
                assert_eq!(site.log.data(), WORD.repeat(round));
                forger.peer.send(&[byte]);
            }
            site.world.until("it is there", || site.log.data() == WORD.repeat(round + 1));
        }
        is_answered(&forger);
        drop(forger);
        site.is_clean();
    }
}

#[test]
fn a_client_cannot_renegotiate() {
    // It is refused with a warning, once.
    let hello = hello();
    let reason = lost_after(Version::Tls12, |world, forger| {
        forger.send(ContentType::Handshake, &hello);
        world.turns(10);
        forger.send(ContentType::Handshake, &hello);
    });
    assert!(!reason.is_empty());
    let site = Site::new(Driver::Simulated);
    let mut forger = site.secured(Version::Tls12).forge();
    forger.send(ContentType::Handshake, &hello);
    forger.send(ContentType::ApplicationData, WORD);
    site.world.until("the connection goes on", || site.log.data() == WORD);
    lost_after(Version::Tls13, |_, forger| forger.send(ContentType::Handshake, &hello));
}

#[test]
fn a_server_cannot_renegotiate() {
    for version in BOTH {
        let dial = Dial::new(Driver::Simulated);
        let mut forger = dial.secured(version).forge();
        dial.world.until("the protocol is there", || dial.log.has(&Event::Made));
        for _ in 0..3 {
            let hello_request = forger.seal(ContentType::Handshake, &handshake(0, b""));
            let _ = forger.peer.try_send(&hello_request);
            dial.world.turns(10);
        }
        loss(&dial.world, &dial.log);
        assert_eq!(dial.log.data(), b"");
        drop(forger);
        dial.is_clean();
    }
}
