//! The calls: every public method, with values that are counted.

use std::io::{IoSlice, Write};
use std::time::Duration;

use bytes::Bytes;
use twistor::endpoint::{KeepAlive, UnixDatagramBind, UnixDatagramConnect};
use twistor::{Deferred, Handle, SharedFactory, ShutdownPhase, Timeouts, Transport};

use crate::Echo;
use crate::stage::{
    BLOCK, Dropper, HOUR, Mailman, Memory, Other, Place, Probe, Stage, Value, Watched, a_unix_address, stage,
};

pub(crate) type OnTransport = (&'static str, fn(&Stage, &Transport, &Transport));

/// Calls on a connection: the hook's own, and another.
pub(crate) const ON_TRANSPORT: &[OnTransport] = &[
    ("write", |_, it, _| it.write(b"written")),
    ("write_bytes, small", |_, it, _| it.write_bytes(&b"written"[..])),
    ("write_bytes, large", |_, it, _| it.write_bytes(&BLOCK[..])),
    ("write_vectored", |_, it, _| {
        it.write_vectored(&[IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"b")]);
    }),
    ("write_fmt", |_, it, _| write!(it, "{} {}", 1, 2)),
    ("io::Write", |_, it, _| {
        let mut it = it;
        let written = Write::write(&mut it, b"written");
        assert_eq!(written.is_err(), it.is_closing());
        it.flush().unwrap();
    }),
    ("try_write", |_, it, _| {
        let fits = it.try_write(b"written");
        assert!(!fits || !it.is_closing());
    }),
    ("send_file", |_, it, _| {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let value = Value::new();
        it.send_file(file, 10..2000).on_done(move |_, _| drop(value));
    }),
    ("send_file beyond the end", |_, it, _| {
        let file = std::fs::File::open("/dev/null").unwrap();
        drop(it.send_file(file, 0..2000));
    }),
    ("send_descriptor", |_, it, _| {
        let null = || std::fs::File::open("/dev/null").unwrap();
        // These are no Unix sockets.
        assert!(it.send_descriptor(null(), b"x").is_err());
        assert!(it.send_descriptor(null(), b"").is_err());
    }),
    ("peer_credentials", |_, it, _| assert!(it.peer_credentials().is_err())),
    ("flushed", |_, it, _| {
        let value = Value::new();
        it.write(b"written");
        it.flushed().on_done(move |_, _| drop(value));
    }),
    ("pause_reading", |_, it, _| {
        it.pause_reading();
        assert!(!it.is_reading());
    }),
    ("resume_reading", |_, it, _| {
        it.pause_reading();
        it.resume_reading();
        assert!(it.is_reading());
    }),
    ("unread", |_, it, _| it.unread(&b"again"[..])),
    ("unread, paused", |_, it, _| {
        it.pause_reading();
        it.unread(Bytes::from_owner(Memory(Dropper::new())));
    }),
    ("unread, too much", |_, it, _| {
        it.unread(&BLOCK[..]);
        it.unread(&b"one more"[..]);
    }),
    ("lose_connection", |_, it, _| {
        it.write(b"last words");
        it.lose_connection();
        assert!(it.is_closing());
    }),
    ("abort_connection", |_, it, _| it.abort_connection()),
    ("abort_connection after lose_connection", |_, it, _| {
        it.lose_connection();
        it.abort_connection();
        it.lose_connection();
    }),
    ("lose_write_connection", |_, it, _| it.lose_write_connection()),
    ("fail", |_, it, _| it.fail("a failure")),
    ("check", |_, it, _| {
        assert_eq!(it.check(Ok::<_, String>(1)), Some(1));
        assert_eq!(it.check(Err::<u32, _>("a failure")), None);
    }),
    ("switch_protocol, another type", |_, it, _| it.switch_protocol(Other(Value::new()))),
    ("switch_protocol, the same type", |_, it, _| it.switch_protocol(Probe::new(false))),
    ("switch_protocol twice", |_, it, _| {
        it.unread(&b"for the next"[..]);
        it.switch_protocol(Other(Value::new()));
        it.switch_boxed(Box::new(Probe::new(false)));
    }),
    ("switch_protocol and abort", |_, it, _| {
        it.switch_protocol(Other(Value::new()));
        it.abort_connection();
    }),
    ("pipe", |_, it, second| {
        let value = Value::new();
        it.pipe(second).on_done(move |_, _| drop(value));
    }),
    ("pipe to itself", |_, it, _| drop(it.pipe(it))),
    ("pipe both ways", |_, it, second| {
        drop(it.pipe(second));
        drop(second.pipe(it));
        drop(it.pipe(second));
    }),
    ("pipe and abort", |_, it, second| {
        drop(it.pipe(second));
        second.abort_connection();
    }),
    ("set_watermarks", |_, it, _| {
        it.set_watermarks(0, 0);
        it.write_bytes(&BLOCK[..]);
        it.set_watermarks(usize::MAX, usize::MAX);
    }),
    ("set_write_limit", |_, it, _| {
        it.set_write_limit(1);
        it.write(b"12");
        it.write(b"34");
    }),
    ("set_timeouts", |_, it, _| {
        it.set_timeouts(Timeouts::new().idle(HOUR).minimum_rate(1, HOUR));
        let _ = it.timeouts();
    }),
    ("set_timeouts, passed", |_, it, _| it.set_timeouts(Timeouts::new().total(Duration::from_nanos(1)))),
    ("socket options", |_, it, _| {
        let _ = it.set_nodelay(false);
        let _ = it.set_keep_alive(Some(KeepAlive::default()));
        let _ = it.set_keep_alive(None);
    }),
    ("questions", |stage, it, _| {
        assert_eq!(it.peer_addr(), it.clone().peer_addr());
        assert_eq!(it.local_addr(), stage.port.local_addr());
        let found = stage.handle.transport(it.id());
        assert!(found.is_none_or(|found| found.id() == it.id()));
        assert!(!format!("{it:?} {} {:?}", it.id(), it.reactor()).is_empty());
        let _ = (it.queued(), it.is_closing(), it.stats(), it.is_reading());
    }),
    ("connection", |_, it, _| {
        assert!(it.connection::<Echo>().is_none());
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            assert_eq!(connection.transport().id(), connection.clone().id());
            assert!(connection.post(move |_, _| drop(value)));
        }
    }),
    ("Connection::post, closing", |_, it, _| {
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            it.lose_connection();
            assert!(!connection.post(move |_, _| drop(value)));
        }
    }),
    ("Connection::post, and switch", |_, it, _| {
        let value = Value::new();
        if let Some(connection) = it.connection::<Probe>() {
            connection.post(move |_, _| drop(value));
        }
        it.switch_protocol(Other(Value::new()));
    }),
    ("call_later", |_, it, _| {
        let (now, later) = (Value::new(), Value::new());
        it.call_later::<Probe>(Duration::ZERO, move |_, _| drop(now));
        it.call_later::<Probe>(HOUR, move |_, _| drop(later));
    }),
    ("call_later for another type", |_, it, _| {
        let value = Value::new();
        it.call_later::<Echo>(Duration::ZERO, move |_, _| drop(value));
    }),
    ("every", |_, it, _| {
        let value = Value::new();
        it.every::<Probe>(Duration::from_micros(1), move |_, it| {
            let _ = &value;
            it.write(b"tick");
        });
    }),
    ("every, stopped", |_, it, _| {
        let value = Value::new();
        let looping = it.every::<Probe>(HOUR, move |_, _| {
            let _ = &value;
        });
        looping.stop();
    }),
    ("Deferred::deliver", |stage, it, _| {
        let value = Value::new();
        let (resolver, deferred) = Deferred::<Value, String>::new(&stage.handle);
        deferred.deliver::<Probe>(it, move |_, _, _| drop(value));
        resolver.resolve(Ok(Value::new()));
    }),
];

/// Whether the reactor was dropped before the call.
fn stage_is_gone() -> bool {
    stage().is_some_and(|stage| stage.place == Place::Afterwards)
}

pub(crate) type OnAnything = (&'static str, fn(&Stage));

/// Calls on everything else.
pub(crate) const ON_ANYTHING: &[OnAnything] = &[
    ("Reactor::run", |stage| {
        if let Some(world) = stage.world.borrow().as_ref().filter(|_| stage.in_loop()) {
            let reactor = &world.reactor;
            assert!(reactor.run().is_err());
            assert!(reactor.run_until_idle().is_err());
            assert!(reactor.turn(None).is_err());
            assert!(reactor.turn(Some(Duration::ZERO)).is_err());
            assert!(!format!("{reactor:?}").is_empty());
        }
    }),
    ("Handle::current", |stage| assert_eq!(Handle::current().is_some(), stage.in_loop())),
    ("Handle::listen", |stage| {
        let port = stage.handle.listen("tcp:0:interface=127.0.0.1", Watched::new());
        assert_eq!(port.is_err(), stage_is_gone());
    }),
    ("Handle::listen, refused", |stage| {
        assert!(stage.handle.listen(stage.address(), Watched::new()).is_err() || !stage.port.is_listening());
        assert!(stage.handle.listen("nonsense", Watched::new()).is_err());
    }),
    ("Handle::listen, shared factory", |stage| {
        let factory = SharedFactory::new(Watched::new());
        for _ in 0..2 {
            let _ = stage.handle.listen("tcp:0:interface=127.0.0.1", factory.clone());
        }
    }),
    ("Handle::connect", |stage| {
        let value = Value::new();
        stage.handle.connect(stage.address(), Watched::new()).on_done(move |_, _| drop(value));
    }),
    ("Handle::connect, cancelled", |stage| {
        let value = Value::new();
        let deferred = stage.handle.connect(stage.address(), Watched::new());
        deferred.cancel();
        assert!(!deferred.cancel());
        deferred.on_done(move |_, _| drop(value));
    }),
    ("Canceller::cancel", |stage| {
        let value = Value::new();
        let connecting = stage.handle.connect(stage.address(), Watched::new());
        let canceller = connecting.canceller();
        connecting.on_done(move |_, _| drop(value));
        // Late in a shutdown there is nothing to cancel any more.
        canceller.cancel();
        assert!(!canceller.cancel());
    }),
    // Allocations are counted by thread: what a thread gives back that it did not take would be missed here.
    // A simulated reactor has no threads.
    ("Handle::connect, by name", |stage| {
        if !stage.is_simulated() {
            return;
        }
        let value = Value::new();
        let endpoint = format!("tcp:localhost:{}", stage.address().port());
        stage.handle.connect(endpoint, Watched::new()).on_done(move |_, _| drop(value));
    }),
    ("Handle::resolve", |stage| {
        if !stage.is_simulated() {
            return;
        }
        for name in ["localhost", "LOCALHOST", "127.0.0.1", "nobody"] {
            let value = Value::new();
            stage.handle.resolve(name).on_done(move |_, _| drop(value));
        }
        let cancelled = stage.handle.resolve("localhost");
        assert!(!cancelled.cancel() || !cancelled.cancel());
    }),
    ("Handle::defer_to_thread", |stage| {
        if !stage.is_simulated() {
            return;
        }
        let (value, given) = (Value::new(), std::sync::Arc::new(()));
        let deferred = stage.handle.defer_to_thread(move || given);
        deferred.on_done(move |_, _| drop(value));
        let cancelled = stage.handle.defer_to_thread(|| ());
        assert_eq!(cancelled.cancel(), !stage_is_gone());
        drop(cancelled);
    }),
    ("Handle::read_file", |stage| {
        if !stage.is_simulated() {
            return;
        }
        let value = Value::new();
        stage.handle.read_file("/dev/null").on_done(move |_, _| drop(value));
        let cancelled = stage.handle.write_file("/dev/null", "never");
        assert_eq!(cancelled.cancel(), !stage_is_gone());
        drop(cancelled);
    }),
    ("AsyncFile", |stage| {
        if !stage.is_simulated() {
            return;
        }
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let file = twistor::AsyncFile::new(&stage.handle, file, "itself");
        let (value, own) = (Value::new(), file.clone());
        file.read_chunks(10..2000, 1000, move |_, _| {
            let _ = (&value, &own);
        })
        .on_done(|_, _| {});
        let (value, own) = (Value::new(), file.clone());
        file.read(10).on_done(move |_, _| drop((value, own)));
        drop(file.close());
    }),
    ("Handle::random", |stage| {
        assert!(stage.handle.random().below(3) < 3);
        assert!(stage.handle.random().unit() < 1.0);
    }),
    ("Events::on_async", |stage| {
        let events = twistor::Events::new(&stage.handle);
        let (value, own) = (Value::new(), events.clone());
        events.set_backlog_limit(1);
        events
            .on_async(async move |_, number: u32| {
                let _ = (&value, own.subscribers(), number);
            })
            .detach();
        events.emit(1);
        events.emit(2);
    }),
    ("Events::emit", |stage| {
        let events = twistor::Events::new(&stage.handle);
        let (value, own) = (Value::new(), events.clone());
        let subscription = events.on(move |_, number: &u32| {
            let _ = (&value, own.subscribers(), number);
        });
        events.emit(1);
        assert!(subscription.is_active() && subscription.cancel() && !subscription.cancel());
        let value = Value::new();
        events.on(move |_, _| {
            let _ = &value;
        });
        events.emit(2);
    }),
    ("Handle::on_signal", |stage| {
        let value = Value::new();
        let hook = stage.handle.on_signal(twistor::Signal::WINCH, move |_| {
            let _ = &value;
        });
        // A simulated host gets no signals.
        if let Ok(hook) = hook {
            assert!(hook.remove() && !hook.remove());
        }
        assert!(stage.handle.on_signal(twistor::Signal::KILL, |_| {}).is_err());
    }),
    ("Handle::add_reader", |stage| {
        let (ours, _theirs) = std::io::pipe().expect("a pipe");
        let (value, other) = (Value::new(), Value::new());
        let reader = stage.handle.add_reader(&ours, move |_| {
            let _ = &value;
        });
        if let Ok(reader) = reader {
            reader.pause();
            reader.resume();
            assert!(reader.is_active() && reader.remove() && !reader.remove());
        }
        // Left to the reactor's end: the other end of the pipe is gone, so that it is ready.
        let left = stage.handle.add_reader(&ours, move |_| {
            let _ = &other;
        });
        if let Ok(left) = left {
            left.pause();
        }
    }),
    ("Handle::adopt_connection", |stage| {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        if let Ok(connection) = stage.handle.adopt_connection(ours, Probe::new(false)) {
            let null = std::fs::File::open("/dev/null").unwrap();
            connection.write(b"early");
            connection.send_descriptor(null, b"x").unwrap();
            connection.lose_connection();
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(stage.handle.adopt_connection(null, Probe::new(false)).is_err());
    }),
    ("Handle::adopt_connection, aborted", |stage| {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        if let Ok(connection) = stage.handle.adopt_connection(ours, Probe::new(false)) {
            connection.abort_connection();
        }
    }),
    ("Handle::adopt_listener", |stage| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(port) = stage.handle.adopt_listener(listener, Watched::new()) {
            drop(port.stop_listening());
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(stage.handle.adopt_listener(null, Watched::new()).is_err());
    }),
    ("Handle::adopt_pipe", |stage| {
        let (reader, writer) = std::io::pipe().unwrap();
        let input = stage.handle.adopt_pipe(Some(reader.into()), None, Probe::new(false));
        let output = stage.handle.adopt_pipe(None, Some(writer.into()), Probe::new(false));
        if let (Ok(input), Ok(output)) = (input, output) {
            output.write(b"through it");
            input.pause_reading();
            output.lose_connection();
        }
        assert!(stage.handle.adopt_pipe(None, None, Probe::new(false)).is_err());
    }),
    ("Handle::listen and connect, a Unix socket", |stage| {
        let name = format!("matrix-{}-{:?}", std::process::id(), std::thread::current().id());
        let endpoint = format!("unix:@{name}");
        // The second one may find the first one's port, left by an earlier call.
        let _ = stage.handle.listen(&endpoint, Watched::new());
        let value = Value::new();
        stage.handle.connect(&endpoint, Watched::new()).on_done(move |_, _| drop(value));
        drop(stage.handle.connect("unix:/no/such/socket", Watched::new()));
    }),
    ("Handle::add_listen_kind", |stage| {
        let value = Value::new();
        let added = stage.handle.add_listen_kind("matrix", move |reactor, _, factory| {
            let _ = &value;
            reactor.listen_any("tcp:0:interface=127.0.0.1", factory)
        });
        // Another hook may have added it before.
        assert!(!(added.is_ok() && stage_is_gone()));
        let port = stage.handle.listen("matrix:", Watched::new());
        assert_eq!(port.is_err(), stage_is_gone());
    }),
    ("Handle::add_connect_kind", |stage| {
        let value = Value::new();
        let _ = stage.handle.add_connect_kind("matrix", move |reactor, arguments, factory| {
            let _ = &value;
            reactor.connect_any(arguments.rest(), factory)
        });
        let connecting = stage.handle.connect("matrix:nonsense", Watched::new());
        let value = Value::new();
        connecting.on_done(move |_, _| drop(value));
    }),
    ("Remote::blocking_call", |stage| {
        let value = std::sync::Arc::new(());
        if stage.in_loop() {
            let answer = stage.handle.remote().blocking_call(move |_| drop(value));
            assert!(answer.is_err(), "the loop cannot wait for itself");
        }
    }),
    ("Handle::connect, nonsense", |stage| drop(stage.handle.connect("nonsense", Watched::new()))),
    ("Handle::connect_protocol", |stage| {
        drop(stage.handle.connect_protocol(stage.address(), Probe::new(false)));
    }),
    ("Handle::connector", |stage| {
        let connector = stage.handle.connector(stage.address()).unwrap();
        assert!(!format!("{:?}", connector.endpoint()).is_empty());
        drop(connector.connect(Watched::new()));
        drop(connector.connect(Watched::new()));
    }),
    ("Handle::call_soon", |stage| {
        let value = Value::new();
        let call = stage.handle.call_soon(move |_| drop(value));
        assert_eq!(call.is_active(), !stage_is_gone());
    }),
    ("CallHandle::cancel", |stage| {
        stage.call.borrow().cancel();
        assert!(!stage.call.borrow().is_active());
        let value = Value::new();
        let call = stage.handle.call_soon(move |_| drop(value));
        assert_eq!(call.cancel(), !stage_is_gone());
        assert!(!call.cancel() && !call.is_active());
    }),
    ("Handle::call_later", |stage| {
        let value = Value::new();
        stage.handle.call_later(Duration::ZERO, move |_| drop(value));
    }),
    ("Handle::call_at", |stage| {
        let value = Value::new();
        stage.handle.call_at(stage.handle.now(), move |_| drop(value));
    }),
    ("DelayedCall::cancel", |stage| {
        stage.delayed.borrow().cancel();
        assert!(!stage.delayed.borrow().cancel() && !stage.delayed.borrow().is_active());
    }),
    ("DelayedCall::reset", |stage| {
        let _ = stage.delayed.borrow().reset(Duration::ZERO);
    }),
    ("DelayedCall::delay", |stage| {
        let _ = (stage.delayed.borrow().delay(HOUR), stage.delayed.borrow().deadline());
    }),
    ("DelayedCall::unref", |stage| stage.delayed.borrow().unref()),
    ("DelayedCall::cancel_on_drop", |stage| {
        let call = stage.delayed.borrow().clone();
        drop(call.cancel_on_drop());
        assert!(!stage.delayed.borrow().is_active());
    }),
    ("typed DelayedCall", |stage| {
        if let Some(call) = &*stage.typed_delayed.borrow() {
            let _ = (call.delay(HOUR), call.reset(HOUR), call.deadline(), call.is_active());
            call.unref();
            call.cancel();
            assert!(!call.is_active());
        }
    }),
    ("Handle::every", |stage| {
        let value = Value::new();
        let mut rounds = 0;
        stage.handle.every(Duration::from_micros(1), move |_, _| {
            let _ = &value;
            rounds += 1;
            assert!(rounds < 1_000_000);
        });
    }),
    ("Handle::every, with a Deferred", |stage| {
        let value = Value::new();
        stage.handle.every(Duration::from_micros(1), move |handle, _| {
            let _ = &value;
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            handle.call_soon(move |_| {
                resolver.resolve(Ok(()));
            });
            deferred
        });
    }),
    ("LoopingCall::stop", |stage| {
        stage.looping.borrow().stop();
        assert!(!stage.looping.borrow().stop() && !stage.looping.borrow().is_running());
    }),
    ("LoopingCall::reset", |stage| {
        let reset = stage.looping.borrow().reset();
        assert!(reset || !stage.looping.borrow().is_running() || stage.place != Place::Loop);
        let _ = stage.looping.borrow().skipped();
    }),
    ("LoopingCall::unref", |stage| stage.looping.borrow().unref()),
    ("LoopingCall::finished", |stage| {
        let value = Value::new();
        stage.looping.borrow().finished().on_done(move |_, _| drop(value));
        stage.looping.borrow().stop();
    }),
    ("typed LoopingCall", |stage| {
        if let Some(looping) = &*stage.typed_looping.borrow() {
            let value = Value::new();
            looping.finished().on_done(move |_, _| drop(value));
            let _ = (looping.reset(), looping.skipped(), looping.is_running());
            looping.unref();
            looping.stop();
            assert!(!looping.is_running());
        }
    }),
    ("Handle::before_wait", |stage| {
        let value = Value::new();
        stage.handle.before_wait(move |_| {
            let _ = &value;
        });
    }),
    ("Handle::stop", |stage| {
        stage.handle.stop();
        stage.handle.stop();
        assert!(stage.handle.is_stopping());
    }),
    ("Handle::on_shutdown", |stage| {
        for phase in [ShutdownPhase::Before, ShutdownPhase::During, ShutdownPhase::After] {
            let value = Value::new();
            stage.handle.on_shutdown(phase, move |handle| {
                drop(value);
                let (resolver, deferred) = Deferred::<(), String>::new(handle);
                handle.call_soon(move |_| {
                    resolver.resolve(Err("a failure".to_owned()));
                });
                deferred
            });
        }
        stage.handle.stop();
    }),
    ("Handle::remote", |stage| {
        let remote = stage.handle.remote();
        let value = Value::new();
        let sent = remote.call(move |_| {
            let _value = value;
        });
        assert_eq!(sent.is_err(), !remote.is_alive());
    }),
    ("Remote::call", |stage| {
        for _ in 0..3 {
            let value = Value::new();
            drop(stage.remote.call(move |_| {
                let _value = value;
            }));
        }
    }),
    ("Remote::stop", |stage| stage.remote.stop()),
    ("Handle::channel", |stage| {
        let value = Value::new();
        let sender = stage.handle.channel(1, move |_, _: Value| {
            let _ = &value;
        });
        assert_eq!(sender.is_err(), stage_is_gone());
        if let Ok(sender) = sender {
            let sent = sender.clone().send(Value::new());
            assert!(sent.is_ok() || !stage.remote.is_alive());
            assert!(sender.send(Value::new()).is_err());
        }
    }),
    ("Sender::send", |stage| {
        let _ = stage.sender.send(Value::new());
        let _ = stage.sender.send(Value::new());
        assert!(stage.sender.send(Value::new()).is_err());
    }),
    ("Deferred::on_done", |stage| {
        let value = Value::new();
        if let Some((_, deferred)) = stage.pending.take() {
            deferred.on_done(move |_, _| drop(value));
        }
    }),
    ("Deferred::on_done, by a hook that owns the resolver", |stage| {
        let (value, other) = (Value::new(), Value::new());
        if let Some((resolver, deferred)) = stage.pending.take() {
            deferred.on_done(move |_, _| drop((resolver, value)));
        }
        let (resolver, deferred) = Deferred::<u32, String>::new(&stage.handle);
        drop(deferred.map(move |number| (number, resolver, other).0));
    }),
    ("Resolver::resolve", |stage| {
        let value = Value::new();
        if let Some((resolver, deferred)) = stage.pending.take() {
            assert!(resolver.resolve(Ok(1)));
            deferred.cancel();
            deferred.on_done(move |_, _| drop(value));
        }
    }),
    ("Resolver::resolve, nobody cares", |stage| {
        if let Some((resolver, deferred)) = stage.pending.take() {
            assert!(resolver.is_wanted());
            drop(deferred);
            assert!(!resolver.is_wanted());
            resolver.resolve(Err("a failure".to_owned()));
        }
    }),
    ("Deferred::cancel", |stage| {
        let value = Value::new();
        if let Some((resolver, deferred)) = stage.pending.take() {
            let chained = deferred.map(|number| number + 1);
            // Without a loop to run it, a link has ended.
            assert_eq!(chained.cancel(), !stage_is_gone());
            assert!(!chained.cancel());
            assert_eq!(resolver.callback(1), stage_is_gone());
            chained.on_done(move |_, _| drop(value));
        }
    }),
    ("Deferred::and_then, a canceller of its own", |stage| {
        let (value, other) = (Value::new(), Value::new());
        let (resolver, deferred) =
            Deferred::<Value, String>::with_canceller(&stage.handle, move |_, _| drop(other));
        let chained = deferred.and_then(|handle, value| Deferred::ready(handle, Ok::<_, String>(value)));
        chained.cancel();
        drop(chained);
        resolver.callback(value);
    }),
    ("Handle, questions", |stage| {
        let handle = stage.handle.clone();
        let _ = (handle.now(), handle.next_deadline(), handle.stats(), handle.lag(), handle.ports());
        assert!(!format!("{handle:?} {:?} {}", stage.remote, handle.stats()).is_empty());
        assert!(!format!("{:?} {:?}", stage.port, stage.looping).is_empty());
        assert!(!format!("{:?} {:?} {:?}", stage.delayed, stage.call, stage.sender).is_empty());
    }),
    ("Handle::listen_datagram", |stage| {
        let socket = stage.handle.listen_datagram("udp:0:interface=127.0.0.1", Mailman::new());
        assert_eq!(socket.is_err(), stage_is_gone());
        assert!(stage.handle.listen_datagram("nonsense", Mailman::new()).is_err());
        if let Ok(socket) = socket {
            let again =
                stage.handle.listen_datagram(socket.local_addr().socket_addr().unwrap(), Mailman::new());
            assert!(again.is_err());
        }
    }),
    ("Handle::connect_datagram", |stage| {
        let socket = stage.handle.connect_datagram(stage.address(), Mailman::new());
        assert_eq!(socket.is_err(), stage_is_gone());
        if let Ok(socket) = socket {
            socket.send(b"to nobody").unwrap();
        }
    }),
    ("Handle::listen_datagram, a Unix socket", |stage| {
        let address = a_unix_address();
        let socket = stage.handle.listen_datagram(UnixDatagramBind::on(address.clone()), Mailman::new());
        assert_eq!(socket.is_err(), stage_is_gone());
        let Ok(socket) = socket else { return };
        assert!(stage.handle.listen_datagram(UnixDatagramBind::on(address.clone()), Mailman::new()).is_err());
        // More than there is room for.
        for _ in 0..30 {
            socket.send_to(b"to itself", socket.local_addr()).unwrap();
        }
        socket.send_to(b"to nobody", a_unix_address()).unwrap();
        assert!(socket.set_ttl(1).is_err() && !format!("{socket:?}").is_empty());
        let endpoint = UnixDatagramConnect::to(address).autobind(true);
        stage.handle.connect_datagram(endpoint, Mailman::new()).unwrap().send(b"hello").unwrap();
    }),
    ("DatagramSocket::send_to", |stage| {
        let it = &stage.mailbox;
        let sent = it.send_to(b"to itself", it.local_addr());
        assert_eq!(sent.is_err(), !it.is_open() || stage_is_gone());
        assert!(it.send(b"to whom?").is_err());
        assert!(it.send_to(&BLOCK[..], it.local_addr()).is_err());
    }),
    ("DatagramSocket::pause_reading", |stage| {
        stage.mailbox.pause_reading();
        assert!(!stage.mailbox.is_reading());
    }),
    ("DatagramSocket::resume_reading", |stage| {
        stage.mailbox.pause_reading();
        stage.mailbox.resume_reading();
        assert_eq!(stage.mailbox.is_reading(), stage.mailbox.is_open() && !stage_is_gone());
    }),
    ("DatagramSocket::close", |stage| {
        let value = Value::new();
        let _ = stage.mailbox.send_to(b"last words", stage.mailbox.local_addr());
        stage.mailbox.close().on_done(move |_, _| drop(value));
        drop(stage.mailbox.close());
        assert!(!stage.mailbox.is_open());
        assert!(stage.mailbox.send_to(b"too late", stage.mailbox.local_addr()).is_err());
    }),
    ("DatagramSocket, options", |stage| {
        let it = &stage.mailbox;
        let group = std::net::Ipv4Addr::new(239, 255, 0, 7);
        let _ = (it.join_multicast(group, std::net::Ipv4Addr::LOCALHOST), it.set_multicast_ttl(1));
        let _ = (it.leave_multicast(group, std::net::Ipv4Addr::LOCALHOST), it.set_multicast_loop(true));
        let _ = (it.set_multicast_interface(std::net::Ipv4Addr::LOCALHOST), it.set_ttl(64));
        let _ = (it.set_broadcast(true), it.set_broadcast(false));
    }),
    ("DatagramSocket, questions", |stage| {
        let it = stage.mailbox.clone();
        assert!(it.peer_addr().is_none() && !format!("{it:?} {:?}", it.reactor()).is_empty());
        let _ = (it.queued(), it.stats(), it.is_open());
    }),
    ("DatagramSocket::unref", |stage| {
        stage.mailbox.unref();
        stage.mailbox.unref();
    }),
    ("Port::stop_listening", |stage| {
        let value = Value::new();
        stage.port.stop_listening().on_done(move |_, _| drop(value));
        drop(stage.port.stop_listening());
        assert!((!stage.port.is_listening() && !stage.port.is_accepting()) || stage_is_gone());
    }),
    ("Port::pause_accepting", |stage| {
        stage.port.pause_accepting();
        assert!(!stage.port.is_accepting());
    }),
    ("Port::resume_accepting", |stage| {
        stage.port.pause_accepting();
        stage.port.resume_accepting();
        assert_eq!(stage.port.is_accepting(), stage.port.is_listening());
    }),
    ("Port::unref", |stage| {
        stage.port.unref();
        stage.port.unref();
        assert!(!format!("{:?}", stage.port.reactor()).is_empty());
    }),
];
