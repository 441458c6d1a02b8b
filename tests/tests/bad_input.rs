//! What a user can get wrong in a call: the error names what was wrong, the value, and what would be right.
//!
//! The parser's own tests see to every keyword; here it is seen from outside, through the calls that users
//! make.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use twistor::endpoint::{IntoConnectEndpoint, IntoListenEndpoint, KeepAlive, TcpConnect, TcpListen};
use twistor::{ConnectErrorKind, Protocol, Reactor, ReactorBuilder, Transport};
use twistor_tests::{Log, Script, World, contract, kernel_contract};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

const MANY: usize = 3_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const AGE: Duration = Duration::from_secs(u64::MAX);

/// The error is about the input and its text has all of these.
fn says(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

fn listening_fails(world: &World, endpoint: impl IntoListenEndpoint, parts: &[&str]) {
    let error = world.reactor.listen(endpoint, |_| Echo).expect_err("it should not be listened on");
    says(&error, parts);
    assert!(world.reactor.ports().is_empty());
}

fn connecting_fails(world: &World, endpoint: impl IntoConnectEndpoint, parts: &[&str]) {
    let error = world.reactor.connector(endpoint).expect_err("it should not be connected to");
    says(&error, parts);
}

fn building_fails(set: impl FnOnce(ReactorBuilder) -> ReactorBuilder, parts: &[&str]) {
    let error = set(Reactor::builder()).build().expect_err("it should not be built");
    says(&error, parts);
}

fn listener() -> TcpListen {
    TcpListen::new(0)
}

fn client() -> TcpConnect {
    TcpConnect::new((Ipv4Addr::LOCALHOST, 80).into())
}

contract! {
    fn a_string_for_listening_that_makes_no_sense_is_quoted_with_what_would_be_right(driver) {
        let world = World::new(driver);
        for (endpoint, parts) in [
            ("", &["\"\""][..]),
            ("8000", &["8000", "kind", "tcp"]),
            (":8000", &[":8000", "kind"]),
            ("http:8000", &["http", "kind", "tcp, tcp6, ssl, ssl6, tls, tls6, unix, fd, systemd and stdio"]),
            ("TCP:8000", &["TCP", "kind", "tcp, tcp6, ssl, ssl6, tls, tls6, unix, fd, systemd and stdio"]),
            ("tcp", &["port", "missing", "tcp:8000"]),
            ("tcp:", &["port", "0 to 65535"]),
            ("tcp:-1", &["-1", "column 5", "0 to 65535"]),
            ("tcp:65536", &["65536", "column 5", "0 to 65535"]),
            ("tcp:8000 ", &["8000 ", "port"]),
            ("tcp:99999999999999999999", &["99999999999999999999", "0 to 65535"]),
            ("tcp:127.0.0.1:8000", &["127.0.0.1", "tcp:8000:interface=127.0.0.1"]),
            ("tcp:8000:9000", &["9000"]),
            ("tcp:8000:interface=::1", &["interface"]),
            ("tcp:8000:interface=localhost", &["localhost", "IP address"]),
            ("tcp:8000:interface=300.0.0.1", &["300.0.0.1", "IP address"]),
            ("tcp6:8000:interface=127.0.0.1", &["127.0.0.1", "tcp"]),
            ("tcp:8000:backlog=0", &["backlog", "0", "1 to 65535", "1024"]),
            ("tcp:8000:backlog=many", &["many", "1 to 65535"]),
            ("tcp:8000:backlog=5:backlog=6", &["backlog"]),
            ("tcp:8000:blacklog=5", &["blacklog", "backlog"]),
            ("tcp:8000:reuse_port=si", &["si", "yes nor no"]),
            ("tcp:8000:v6only=yes", &["v6only", "IPv4", "leave it out"]),
            ("tcp:8000:timeout=5", &["timeout", "keyword"]),
            ("tcp:8000:defer_accept=-5", &["-5", "1 to 3600 seconds"]),
            ("tcp:8000:defer_accept=1e99", &["1e99", "1 to 3600 seconds"]),
            ("tcp:8000:defer_accept=NaN", &["NaN", "1 to 3600 seconds"]),
            ("tcp:8000:fast_open=0", &["fast_open", "leave it out"]),
            ("tcp:8000:recv_buffer=0", &["recv_buffer", "leave it out"]),
            ("tcp:8000:send_buffer=1MB", &["1MB", "number"]),
            ("tcp:8000:keep_alive=60/10", &["60/10", "IDLE/INTERVAL/COUNT", "60/10/5"]),
            ("tcp:8000:bind_device=a device", &["a device", "device name"]),
            ("tcp:8000\\", &["\\"]),
            ("tcp:[::1", &["[::1"]),
            ("tcp:8000\0", &["port"]),
            ("tcp:٨٠٠٠", &["٨٠٠٠", "0 to 65535"]),
        ] {
            listening_fails(&world, endpoint, parts);
            listening_fails(&world, endpoint.to_owned(), &["bad endpoint"]);
        }
    }

    fn a_string_for_connecting_that_makes_no_sense_is_quoted_with_what_would_be_right(driver) {
        let world = World::new(driver);
        for (endpoint, parts) in [
            ("", &["\"\""][..]),
            ("127.0.0.1:80", &["127.0.0.1", "kind", "tcp"]),
            ("tcp6:[::1]:80", &["tcp6", "kind", "tcp"]),
            ("tcp:80", &["80", "IP address"]),
            ("tcp:127.0.0.1", &["port", "missing", "tcp:127.0.0.1:8000"]),
            ("tcp:127.0.0.1:0", &["0", "1 to 65535"]),
            ("tcp:127.0.0.1:http", &["http", "1 to 65535"]),
            ("tcp:local host:80", &["local host", "no host name"]),
            ("tcp:a..b:80", &["a..b", "two dots"]),
            ("tcp:300.0.0.1:80", &["300.0.0.1", "not an IP address"]),
            ("tcp:::1:80", &["tcp:::1:80"]),
            ("tcp:127.0.0.1:80:timeout=0", &["timeout", "above 0", "30"]),
            ("tcp:127.0.0.1:80:timeout=soon", &["soon", "seconds"]),
            ("tcp:127.0.0.1:80:timeout=1e12", &["timeout", "86400"]),
            ("tcp:127.0.0.1:80:backlog=5", &["backlog", "keyword"]),
            ("tcp:127.0.0.1:80:bind_address=::1", &["bind_address"]),
            ("tcp:127.0.0.1:80:bind_address=[::1]", &["::1", "IPv6", "one family"]),
            ("tcp:127.0.0.1:80:nodelay=", &["nodelay", "yes nor no"]),
        ] {
            connecting_fails(&world, endpoint, parts);
            connecting_fails(&world, endpoint.to_owned(), &["bad endpoint"]);
        }
    }

    fn a_value_out_of_range_in_a_builder_is_named_with_its_range(driver) {
        let world = World::new(driver);
        let keep_alive = KeepAlive::new();
        for (endpoint, parts) in [
            (listener().backlog(0), &["backlog 0", "1 to 65535", "1024 suits"][..]),
            (listener().backlog(u32::MAX), &["backlog 4294967295", "1 to 65535"]),
            (listener().recv_buffer(0), &["recv_buffer 0", "leave it out"]),
            (listener().recv_buffer(MANY), &["recv_buffer 3000000000", "2147483647"]),
            (listener().send_buffer(0), &["send_buffer 0", "leave it out"]),
            (listener().send_buffer(MANY), &["send_buffer 3000000000", "2147483647"]),
            (listener().defer_accept(Duration::ZERO), &["defer_accept of 0", "1 to 3600 seconds", "leave it out"]),
            (listener().defer_accept(DAY), &["defer_accept of 86400s", "1 to 3600 seconds"]),
            (listener().fast_open(0), &["fast_open 0", "leave it out"]),
            (listener().fast_open(100_000), &["fast_open 100000", "1 to 65535"]),
            (listener().v6only(true), &["v6only", "0.0.0.0", "IPv6 address or leave it out"]),
            (listener().bind_device(""), &["bind_device \"\"", "eth0"]),
            (listener().bind_device("a-name-that-is-too-long"), &["a-name-that-is-too-long", "15 bytes"]),
            (listener().bind_device("e\0"), &["bind_device", "character"]),
            (listener().keep_alive(keep_alive.idle(Duration::ZERO)), &["idle", "0ns", "1 to 32767 seconds", "60"]),
            (listener().keep_alive(keep_alive.idle(AGE)), &["idle", "1 to 32767 seconds"]),
            (listener().keep_alive(keep_alive.interval(Duration::ZERO)), &["interval", "0ns", "1 to 32767 seconds"]),
            (listener().keep_alive(keep_alive.count(0)), &["count 0", "1 to 127", "5 suits"]),
            (listener().keep_alive(keep_alive.count(u32::MAX)), &["count 4294967295", "1 to 127"]),
        ] {
            listening_fails(&world, endpoint, &[parts, &["0.0.0.0:0"]].concat());
        }
        for (endpoint, parts) in [
            (client().timeout(Duration::ZERO), &["timeout of 0", "above 0", "30 suits"][..]),
            (client().timeout(2 * DAY), &["timeout of 172800s", "86400 seconds"]),
            (client().timeout(AGE), &["timeout", "86400 seconds"]),
            (client().recv_buffer(0), &["recv_buffer 0"]),
            (client().send_buffer(MANY), &["send_buffer 3000000000"]),
            (client().local_addr((Ipv6Addr::LOCALHOST, 0).into()), &["::1", "IPv6", "one family"]),
            (client().keep_alive(keep_alive.count(0)), &["count 0", "1 to 127"]),
            (client().bind_device("de vice"), &["de vice", "character"]),
        ] {
            connecting_fails(&world, endpoint, &[parts, &["127.0.0.1:80"]].concat());
        }
        connecting_fails(&world, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &["port 0", "1 to 65535"]);
    }

    fn an_endpoint_that_makes_no_sense_never_panics_in_connect(driver) {
        let world = World::new(driver);
        let errors = std::rc::Rc::new(std::cell::Cell::new(0));
        for endpoint in ["", "tcp", "tcp:local host:80", "tcp:127.0.0.1:0", "tcp:127.0.0.1:80:timeout=never"] {
            let errors = std::rc::Rc::clone(&errors);
            world.reactor.connect(endpoint, |_| Echo).on_done(move |_, outcome| {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ConnectErrorKind::Endpoint);
                assert!(error.to_string().contains(&format!("\"{endpoint}\"")), "{error}");
                errors.set(errors.get() + 1);
            });
        }
        world.until("all have failed", || errors.get() == 5);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    fn a_port_in_use_is_named_however_it_is_asked_for(driver) {
        let world = World::new(driver);
        let taken = world.listen(|_| Echo).local_addr();
        let address = taken.socket_addr().unwrap();
        let strings = [
            format!("tcp:{}:interface=127.0.0.1", address.port()),
            format!("tcp:{}", address.port()),
            format!("tcp6:{}", address.port()),
        ];
        for (endpoint, named) in strings.iter().zip(["127.0.0.1", "0.0.0.0", "[::]"]) {
            let error = world.reactor.listen(endpoint, |_| Echo).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            let text = error.to_string();
            assert!(text.contains(&format!("{named}:{}", address.port())) && text.contains("in use"), "{text}");
        }
        // Asking to share is not enough when the other does not share.
        let error = world.reactor.listen(TcpListen::on(address).reuse_port(true), |_| Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    fn keep_alive_of_a_connection_is_checked_as_in_an_endpoint(driver) {
        let world = World::new(driver);
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        let error = transport.set_keep_alive(Some(KeepAlive::new().count(0))).unwrap_err();
        says(&error, &["count 0", "1 to 127", "5 suits"]);
        let error = transport.set_keep_alive(Some(KeepAlive::new().idle(AGE))).unwrap_err();
        says(&error, &["idle", "1 to 32767 seconds"]);
        transport.set_keep_alive(Some(KeepAlive::new())).unwrap();
        transport.set_keep_alive(None).unwrap();
    }

    fn ends_of_ranges_are_taken(driver) {
        let world = World::new(driver);
        let keep_alive =
            KeepAlive::new().idle(Duration::from_secs(32_767)).interval(Duration::from_secs(1)).count(127);
        let endpoint = listener()
            .interface(Ipv4Addr::LOCALHOST)
            .backlog(65_535)
            .recv_buffer(1)
            .send_buffer(i32::MAX as usize)
            .defer_accept(Duration::from_secs(3600))
            .keep_alive(keep_alive);
        world.reactor.listen(endpoint, |_| Echo).unwrap();
    }
}

// What the kernel refuses.
kernel_contract! {
    fn an_option_that_the_system_refuses_is_named(driver) {
        let world = World::new(driver);
        let error = world.reactor.listen(listener().bind_device("nosuchdevice"), |_| Echo).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("0.0.0.0:0") && text.contains("bind_device=nosuchdevice"), "{text}");
    }
}

#[test]
fn a_limit_of_nothing_is_named_with_the_remedy() {
    building_fails(|builder| builder.write_limit(0), &["write_limit is 0", "at least 1"]);
    building_fails(|builder| builder.total_write_limit(0), &["total_write_limit is 0", "at least 1"]);
    building_fails(|builder| builder.read_budget(0), &["read_budget is 0", "at least 1"]);
    building_fails(|builder| builder.write_budget(0), &["write_budget is 0", "at least 1"]);
    building_fails(|builder| builder.accept_budget(0), &["accept_budget is 0", "at least 1"]);
    building_fails(|builder| builder.inbox_limit(0), &["inbox_limit is 0", "at least 1"]);
    building_fails(|builder| builder.pending_connects(0), &["pending_connects is 0", "at least 1"]);
}

#[test]
fn marks_that_make_no_sense_are_named_with_the_remedy() {
    building_fails(|builder| builder.watermarks(0, 0), &["high", "0", "at least 1"]);
    building_fails(|builder| builder.watermarks(1000, 2000), &["2000", "1000", "swap"]);
}

#[test]
fn a_threshold_of_nothing_is_named_with_the_remedy() {
    building_fails(
        |builder| builder.slow_hook_threshold(Some(Duration::ZERO)),
        &["slow_hook_threshold is 0", "None"],
    );
}

contract! {
    fn the_smallest_limits_that_make_sense_build_a_reactor_that_works(driver) {
        let log = Log::new();
        let smallest = |builder: ReactorBuilder| {
            builder
                .write_limit(1)
                .total_write_limit(1 << 20)
                .read_budget(1)
                .write_budget(1)
                .accept_budget(1)
                .inbox_limit(1)
                .unread_limit(0)
                .pending_connects(1)
                .watermarks(1, 0)
                .linger_bytes(0)
                .linger_timeout(Duration::ZERO)
                .drain_timeout(Duration::ZERO)
        };
        let world = World::with(driver, smallest);
        let (_, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        peer.send(b"byte by byte");
        assert_eq!(peer.receive(12), b"byte by byte");
    }

    fn the_largest_limits_build_a_reactor_that_works(driver) {
        let log = Log::new();
        let largest = |builder: ReactorBuilder| {
            builder
                .write_limit(usize::MAX)
                .total_write_limit(usize::MAX)
                .read_budget(usize::MAX)
                .write_budget(usize::MAX)
                .accept_budget(u32::MAX)
                .inbox_limit(usize::MAX)
                .unread_limit(usize::MAX)
                .pending_connects(usize::MAX)
                .watermarks(usize::MAX, usize::MAX)
                .linger_bytes(usize::MAX)
                .linger_timeout(Duration::MAX)
                .drain_timeout(Duration::MAX)
                .slow_hook_threshold(Some(Duration::MAX))
        };
        let world = World::with(driver, largest);
        let (transport, peer) = world.pair(Script::new(&log).on_data(Transport::write));
        peer.send(b"all at once");
        assert_eq!(peer.receive(11), b"all at once");
        transport.lose_connection();
        assert_eq!(peer.receive_to_end().0, b"");
        peer.finish();
        world.until("the loss", || log.lost().is_some());
        world.reactor.stop();
        while world.reactor.turn(Some(Duration::ZERO)).unwrap() {}
    }
}
