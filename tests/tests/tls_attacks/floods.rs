//! Much of something that costs the sender little: handshakes that are begun and left, alerts, empty records,
//! new keys, session tickets.

use std::time::{Duration, Instant};

use rustls::ContentType;
use twistor_tests::allocations::{counts, restart_peak};
use twistor_tests::process::{self, allow_all_descriptors};
use twistor_tests::tls::NAME;
use twistor_tests::{Driver, Event, Log, Peer, Script, contract, in_child, kernel_contract};

use super::support::{BOTH, Dial, Other, Site, Version, client_config, echo, handshake, loss, plain_record};

/// Half of a hello.
fn half_a_hello(site: &Site) -> Vec<u8> {
    let config = std::sync::Arc::new(client_config(&site.authority, &BOTH));
    let mut client = rustls::ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record.truncate(record.len() / 2);
    record
}

/// A server that waits for `limit` handshakes at most, for a second each.
fn limited(limit: usize) -> impl FnOnce(&twistor_tests::tls::Authority) -> twistor::tls::TlsServer {
    move |authority| {
        let identity = authority.issue(&[NAME], |_| {});
        twistor::tls::TlsServer::builder()
            .certificate_pem(identity.chain_pem.as_bytes(), identity.key_pem.as_bytes())
            .max_handshakes(limit)
            .handshake_timeout(Duration::from_secs(1))
            .build()
            .unwrap()
    }
}

/// Opens `count` connections that never get through their handshake, and has others served beside them.
fn open_halves(site: &Site, count: usize, limit: usize) {
    let part = half_a_hello(site);
    let mut halves: Vec<Peer<'_>> = Vec::with_capacity(count);
    for number in 0..count {
        let half = site.connect();
        // A third say nothing, a third half of what they have to, a third a byte.
        let said: &[u8] = [&[][..], &part, &part[..1]][number % 3];
        assert_eq!(half.try_send(said), said.len());
        halves.push(half);
        if number % 100 == 99 {
            site.world.turns(2);
        }
        if number % (count / 5) == count / 5 - 1 {
            site.serves_others();
        }
    }
    let waiting = site.world.reactor.stats().connections;
    assert!(waiting <= count.min(limit), "{waiting} connections wait");
    site.saw_only_others();
    // They are not waited for for ever.
    site.world.until("all have been given up", || site.world.reactor.stats().connections == 0);
    assert_eq!(site.failures(), count as u64);
    site.serves_others();
    drop(halves);
    site.is_clean();
}

impl Site {
    fn saw_only_others(&self) {
        assert_eq!(self.log.count(&Event::Made), 5, "a protocol heard of a connection without a handshake");
    }
}

#[test]
// Line 57.
fn ten_thousand_handshakes_that_are_left_keep_nobody_out() {
    let site = Site::with(Driver::Simulated, limited(20_000), echo);
    open_halves(&site, 10_000, 20_000);
}

#[test]
// Line 57.
fn handshakes_beyond_the_limit_make_the_oldest_give_way() {
    let site = Site::with(Driver::Simulated, limited(100), echo);
    open_halves(&site, 2000, 100);
}

kernel_contract! {
    // Line 57.
    fn thousands_of_handshakes_that_are_left_keep_nobody_out_on_a_kernel(driver) {
        in_child(module_path!(), driver, || {
            // Both ends are in this process.
            let count = (allow_all_descriptors().saturating_sub(200) / 2).min(10_000) / 100 * 100;
            let site = Site::with(driver, limited(20_000), echo);
            open_halves(&site, count, 20_000);
        });
    }
}

kernel_contract! {
    fn a_handshake_that_waits_takes_little_memory(driver) {
        in_child(module_path!(), driver, || {
            let site = Site::with(driver, limited(20_000), echo);
            site.serves_others();
            let part = half_a_hello(&site);
            let mut peers = Vec::with_capacity(600);
            for said in [&[][..], &part] {
                let before = counts().bytes;
                for _ in 0..300 {
                    let peer = site.connect();
                    assert_eq!(peer.try_send(said), said.len());
                    peers.push(peer);
                    site.world.turns(2);
                }
                let each = (counts().bytes - before) / 300;
                println!("a connection that has sent {} bytes of its hello takes {each} bytes", said.len());
                let limit = if said.is_empty() { 2 << 10 } else { 8 << 10 };
                assert!(each < limit, "{each} bytes behind {} bytes", said.len());
            }
        });
    }
}

/// Whether the connection outlives `count` records, and what it took.
fn flood(
    version: Version,
    count: usize,
    mut record: impl FnMut(usize) -> (ContentType, Vec<u8>),
) -> Option<String> {
    let site = Site::new(Driver::Simulated);
    let mut forger = site.secured(version).forge();
    site.world.until("the protocol is there", || site.log.has(&Event::Made));
    for number in 0..count {
        let (kind, payload) = record(number);
        let sealed = forger.seal(kind, &payload);
        if kind == ContentType::Handshake {
            forger.update_keys();
        }
        let _ = forger.peer.socket().write(&sealed);
        if number % 16 == 15 {
            site.world.turn(Duration::from_millis(1));
        }
    }
    // A connection that breaks the rules waits a second for its peer.
    site.world.run_for(Duration::from_secs(2));
    assert_eq!(site.world.reactor.stats().queued_bytes, 0);
    let lost = site.log.lost();
    if lost.is_none() {
        let sealed = forger.seal(ContentType::ApplicationData, b"still there?");
        forger.peer.send(&sealed);
        site.world.until(&format!("it gets through in {version:?} behind {count} records"), || {
            site.log.data().ends_with(b"still there?")
        });
    }
    site.serves_others_still();
    drop(forger);
    site.is_clean();
    lost
}

impl Site {
    fn serves_others_still(&self) {
        let mut client = self.secured(Version::Tls13);
        client.say(b"!");
        assert_eq!(client.hear(1), b"!");
        client.leave();
    }
}

#[test]
fn floods_of_what_means_nothing_end_the_connection() {
    // Warnings that are none.
    for version in BOTH {
        let lost = flood(version, 5000, |_| (ContentType::Alert, vec![1, 90]));
        assert!(lost.is_some(), "{version:?}: alerts");
        // Records without anything in them.
        let lost = flood(version, 5000, |_| (ContentType::ApplicationData, Vec::new()));
        assert!(lost.is_some(), "{version:?}: empty records");
        assert_eq!(flood(version, 5, |_| (ContentType::ApplicationData, Vec::new())), None);
    }
    // New keys, without and with the wish for some of ours.
    for wish in [0, 1] {
        let lost = flood(Version::Tls13, 5000, |_| (ContentType::Handshake, handshake(24, &[wish])));
        assert!(lost.is_some(), "new keys, {wish}");
        assert_eq!(flood(Version::Tls13, 5, |_| (ContentType::Handshake, handshake(24, &[wish]))), None);
    }
}

#[test]
fn new_keys_between_bytes_take_no_memory_from_one_who_does_not_write() {
    let site = Site::with(Driver::Simulated, twistor_tests::tls::Authority::server, Script::new);
    let mut forger = site.secured(Version::Tls13).forge();
    site.world.until("the protocol is there", || site.log.has(&Event::Made));
    for number in 1..=3000 {
        let sealed = forger.seal(ContentType::Handshake, &handshake(24, &[1]));
        forger.peer.send(&sealed);
        forger.update_keys();
        let sealed = forger.seal(ContentType::ApplicationData, b"x");
        forger.peer.send(&sealed);
        site.world.until("it is there", || site.log.data().len() == number);
    }
    assert_eq!(site.world.reactor.stats().queued_bytes, 0);
    // What it has to say about that is said once.
    let mut heard = 0;
    while let Some(data) = forger.peer.try_receive().filter(|data| !data.is_empty()) {
        heard += data.len();
    }
    assert!(heard < 4096, "{heard} bytes were said to a peer that nobody talks to");
}

#[test]
fn alerts_in_the_clear_before_a_handshake_end_it() {
    let site = Site::new(Driver::Simulated);
    let peer = site.connect();
    for _ in 0..2000 {
        if peer.socket().write(&plain_record(21, &[1, 90])).is_err() {
            break;
        }
        site.world.turns(1);
    }
    let (_, _) = peer.receive_to_end();
    site.saw_nobody();
    drop(peer);
    site.is_clean();
    // The permission to change keys, again and again.
    let site = Site::new(Driver::Simulated);
    let peer = site.connect();
    for _ in 0..2000 {
        if peer.socket().write(&plain_record(20, &[1])).is_err() {
            break;
        }
        site.world.turns(1);
    }
    let (_, _) = peer.receive_to_end();
    site.saw_nobody();
    drop(peer);
    site.is_clean();
}

#[test]
fn session_tickets_without_end_take_bounded_memory() {
    let dial = Dial::new(Driver::Direct);
    let mut forger = dial.secured(Version::Tls13).forge();
    dial.world.until("the protocol is there", || dial.log.has(&Event::Made));
    let mut body = 7200_u32.to_be_bytes().to_vec();
    body.extend([0; 4]);
    body.extend([1, 7]);
    body.extend(2000_u16.to_be_bytes());
    body.extend([5; 2000]);
    body.extend([0, 0]);
    let ticket = handshake(4, &body);
    let mut send = |count: usize| {
        for _ in 0..count {
            let sealed = forger.seal(ContentType::Handshake, &ticket);
            forger.peer.send(&sealed);
            dial.world.turns(1);
        }
    };
    send(100);
    let before = restart_peak();
    send(2000);
    let more = counts().bytes - before;
    assert!(more < 64 << 10, "2000 tickets of 2 KiB left {more} bytes");
    drop(forger);
    dial.is_clean();
}

contract! {
    // Line 57.
    fn a_storm_of_handshakes_leaves_a_connection_responsive(driver) {
        const STORM: usize = 400;
        const PER_PASS: u64 = 16;
        let site = Site::new(driver);
        let mut one = site.secured(Version::Tls13);
        let config = client_config(&site.authority, &[Version::Tls13]);
        let mut storm: Vec<Other<'_>> = Vec::new();
        for _ in 0..STORM {
            let mut client = site.client(config.clone());
            let hello = client.take_output();
            client.peer.send(&hello);
            storm.push(client);
        }
        let stats = || site.world.reactor.stats();
        let mut slowest = 0;
        let mut rounds = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while stats().handshakes < STORM as u64 + 1 {
            assert!(Instant::now() < deadline, "{} handshakes are complete", stats().handshakes);
            for client in &mut storm {
                client.step();
                assert_eq!(client.error, None);
            }
            // While they are at it, somebody asks something.
            std::io::Write::write_all(&mut one.tls.writer(), b"?").unwrap();
            one.step();
            let asked = stats().passes;
            let mut answer = [0];
            while std::io::Read::read(&mut one.tls.reader(), &mut answer).is_err() {
                let before = stats();
                site.world.turns(1);
                let after = stats();
                let done = after.handshakes - before.handshakes;
                assert!(done <= PER_PASS * (after.passes - before.passes), "{done} in a pass");
                one.step();
                assert!(stats().passes - asked < 100, "no answer");
            }
            slowest = slowest.max(stats().passes - asked);
            rounds += 1;
        }
        assert!(slowest <= 3, "an answer took {slowest} passes");
        assert!(rounds > 1);
        drop(storm);
        one.leave();
        site.is_clean();
    }
}

kernel_contract! {
    fn what_a_flood_of_garbage_costs_is_told(driver) {
        in_child(module_path!(), driver, || {
            let site = Site::new(driver);
            let log = Log::new();
            let start = process::processor_time();
            for number in 0..2000_u32 {
                let peer = site.connect();
                peer.send(&number.to_be_bytes().repeat(50));
                let _ = peer.receive_to_end();
            }
            let each = (process::processor_time() - start) / 2000;
            println!("a connection that sends garbage costs both ends {each:?}");
            site.saw_nobody();
            assert_eq!(site.failures(), 2000);
            assert_eq!(log.events(), []);
            site.serves_others();
            site.is_clean();
        });
    }
}

#[test]
fn a_stream_of_floods_does_not_hold_a_connection_that_is_being_given_up() {
    let site = Site::new(Driver::Simulated);
    let mut forger = site.secured(Version::Tls13).forge();
    site.world.until("the protocol is there", || site.log.has(&Event::Made));
    let mut record = forger.seal(ContentType::ApplicationData, b"tampered with");
    record[10] ^= 1;
    forger.peer.send(&record);
    // It goes on sending, and does not read.
    site.world.until("it is given up", || {
        let _ = forger.peer.socket().write(&[0; 4096]);
        site.log.lost().is_some()
    });
    assert!(loss(&site.world, &site.log).starts_with("TLS: "));
    drop(forger);
    site.is_clean();
}
