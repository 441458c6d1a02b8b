//! Streams that are cut off, and what comes behind their end.

use rustls::ContentType;
use twistor_tests::{Driver, Event, Script};

use super::support::{BOTH, CLOSE_NOTIFY, Site, Version, client_config, has_eof, loss};

const WORDS: [&[u8]; 3] = [b"first", b"second", b"third"];
const CUT_OFF: &str = "TLS: the stream was cut off: its end was not announced (close_notify)";

/// Cuts a stream of three records off after `length` bytes; with `end` behind them there is a close_notify.
fn cut_off(version: Version, length: usize, pauses: bool) {
    let site = Site::with(Driver::Simulated, twistor_tests::tls::Authority::server, Script::new);
    let mut forger = site.secured(version).forge();
    site.world.until("the protocol is there", || site.log.has(&Event::Made));
    let records = WORDS.map(|word| forger.seal(ContentType::ApplicationData, word));
    let stream = records.concat();
    let length = length.min(stream.len());
    let mut whole = Vec::new();
    let mut end = 0;
    for (record, word) in records.iter().zip(WORDS) {
        end += record.len();
        if end <= length {
            whole.extend(word);
        }
    }
    if pauses {
        // Everything is there before the server looks.
        assert_eq!(forger.peer.try_send(&stream[..length]), length);
    } else {
        forger.peer.send(&stream[..length]);
    }
    forger.peer.finish();
    assert_eq!(loss(&site.world, &site.log), CUT_OFF, "{version:?}, {length} bytes");
    assert_eq!(site.log.data(), whole, "{version:?}, {length} bytes");
    assert!(!has_eof(&site.log), "{version:?}, {length} bytes: a cut looks like an end");
    drop(forger);
    site.is_clean();
}

#[test]
// Line 56.
fn a_stream_that_is_cut_off_delivers_its_data_and_is_lost_wherever_the_cut_is() {
    for version in BOTH {
        for length in 0..=3 * (5 + 1 + 16) + 16 {
            cut_off(version, length, length % 2 == 0);
        }
    }
}

#[test]
// Line 56.
fn a_stream_that_ends_with_its_announcement_is_no_cut() {
    for version in BOTH {
        let site = Site::with(Driver::Simulated, twistor_tests::tls::Authority::server, Script::new);
        let mut forger = site.secured(version).forge();
        forger.send(ContentType::ApplicationData, b"all");
        forger.send(ContentType::Alert, &CLOSE_NOTIFY);
        forger.peer.finish();
        assert_eq!(loss(&site.world, &site.log), "closed");
        assert_eq!(
            site.log.events(),
            [Event::Made, Event::Data(b"all".to_vec()), Event::Eof, Event::Lost("closed".to_owned())]
        );
        site.is_clean();
    }
}

#[test]
fn an_announcement_that_is_cut_off_is_none() {
    for version in BOTH {
        let length =
            { Site::new(Driver::Simulated).secured(version).forge().seal(ContentType::Alert, &CLOSE_NOTIFY) }
                .len();
        for cut in 0..length {
            let site = Site::new(Driver::Simulated);
            let mut forger = site.secured(version).forge();
            let record = forger.seal(ContentType::Alert, &CLOSE_NOTIFY);
            forger.peer.send(&record[..cut]);
            forger.peer.finish();
            assert_eq!(loss(&site.world, &site.log), CUT_OFF);
            assert!(!has_eof(&site.log));
        }
    }
}

#[test]
fn what_comes_behind_the_end_is_not_delivered() {
    for version in BOTH {
        for in_one_piece in [true, false] {
            let site = Site::with(Driver::Simulated, twistor_tests::tls::Authority::server, |log| {
                Script::new(log).on_eof(|_| twistor::Eof::KeepOpen)
            });
            let mut forger = site.secured(version).forge();
            let records = [
                forger.seal(ContentType::ApplicationData, b"before"),
                forger.seal(ContentType::Alert, &CLOSE_NOTIFY),
                forger.seal(ContentType::ApplicationData, b"behind"),
                forger.seal(ContentType::Alert, &CLOSE_NOTIFY),
                b"garbage in the clear".to_vec(),
            ];
            if in_one_piece {
                forger.peer.send(&records.concat());
            } else {
                for record in &records {
                    forger.peer.send(record);
                    site.world.turns(2);
                }
            }
            site.world.until("the end is told", || has_eof(&site.log));
            site.world.turns(20);
            assert_eq!(site.log.data(), b"before");
            assert_eq!(site.log.count(&Event::Eof), 1);
            drop(forger);
        }
    }
}

#[test]
fn a_cut_in_every_place_of_a_handshake_ends_it_and_nobody_hears_of_it() {
    for version in BOTH {
        let mut cut = 0;
        loop {
            let site = Site::new(Driver::Simulated);
            let mut client = site.client(client_config(&site.authority, &[version]));
            let mut left = cut;
            while client.tls.is_handshaking() && left > 0 {
                let data = client.fetch();
                client.feed(&data);
                let out = client.take_output();
                let part = &out[..left.min(out.len())];
                client.peer.send(part);
                left -= part.len();
                site.world.turns(2);
                site.world.turn(std::time::Duration::from_millis(1));
            }
            if left > 0 {
                break;
            }
            client.peer.finish();
            site.world.until("the port has seen it", || site.world.reactor.stats().lost == 1);
            site.is_clean();
            if site.log.has(&Event::Made) {
                // The last byte was sent.
                assert_eq!(loss(&site.world, &site.log), CUT_OFF);
                assert_eq!(site.world.reactor.stats().handshakes, 1);
            } else {
                site.saw_nobody();
                assert_eq!(site.failures(), 1);
            }
            cut += 1;
        }
        assert!(cut > 200, "{version:?}: {cut} bytes make no handshake");
    }
}
