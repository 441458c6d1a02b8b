//! The hooks, and how each is made to run.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use twistor::endpoint::{UnixDatagramBind, UnixDatagramConnect};
use twistor::{DatagramSocket, Deferred, Handle, Port, Protocol, ShutdownPhase, Timeouts, Transport};
use twistor_tests::Socket;

use crate::stage::{
    BLOCK, Dropper, HOUR, Hook, Kind, Mailman, Memory, Other, Place, Probe, Stage, Value, Watched,
    a_unix_address, panic_as_planned, reach,
};

fn reset(socket: &RefCell<Option<Socket>>) {
    socket.take().into_iter().for_each(Socket::reset);
}

fn listen_with(stage: &Stage, factory: Watched) -> Port {
    stage.handle.listen("tcp:0:interface=127.0.0.1", factory).expect("a port")
}

fn mailman(stage: &Stage, protocol: Mailman) -> DatagramSocket {
    stage.handle.listen_datagram("udp:0:interface=127.0.0.1", protocol).expect("a socket")
}

/// A closure of any shape: the hook, with a value of its own.
fn closure() -> impl FnMut() {
    let value = Value::new();
    move || {
        let _ = &value;
        reach(Kind::Closure);
    }
}

const fn hook(name: &'static str, kind: Kind, trigger: fn(&Stage)) -> Hook {
    Hook { name, kind, place: Place::Loop, panics: 0, trigger }
}

const fn at(place: Place, name: &'static str, kind: Kind, trigger: fn(&Stage)) -> Hook {
    Hook { name, kind, place, panics: 0, trigger }
}

pub(crate) const HOOKS: &[Hook] = &[
    hook("connection_made", Kind::Made, |stage| {
        *stage.peer.borrow_mut() = Some(stage.connect(stage.address()));
    }),
    hook("data_received", Kind::Data, |stage| {
        stage.peer.borrow().as_ref().unwrap().write(b"data").unwrap();
    }),
    hook("data_received, again", Kind::Data, |stage| stage.own().unread(&b"data"[..])),
    hook("eof_received", Kind::Eof, |stage| {
        stage.peer.borrow().as_ref().unwrap().finish().unwrap();
    }),
    hook("pause_writing", Kind::Pause, |stage| stage.own().write_bytes(&BLOCK[..])),
    hook("resume_writing", Kind::Resume, |stage| {
        stage.own().write_bytes(&BLOCK[..]);
        stage.turns(2);
        stage.own().set_watermarks(usize::MAX, usize::MAX);
    }),
    hook("timed_out", Kind::TimedOut, |stage| {
        stage.own().set_timeouts(Timeouts::new().read(Duration::from_micros(1)));
    }),
    hook("shutting_down", Kind::ShuttingDown, |stage| stage.handle.stop()),
    hook("connection_lost", Kind::Lost, |stage| reset(&stage.peer)),
    hook("connection_lost after an abort", Kind::Lost, |stage| stage.own().abort_connection()),
    hook("posted closure", Kind::Closure, |stage| {
        let mut call = closure();
        stage.own().connection::<Probe>().unwrap().post(move |_, _| call());
    }),
    hook("typed timer", Kind::Closure, |stage| {
        let mut call = closure();
        let timer = stage.own().call_later::<Probe>(Duration::ZERO, move |_, _| call());
        *stage.typed_delayed.borrow_mut() = Some(timer);
    }),
    hook("typed looping call", Kind::Closure, |stage| {
        let mut call = closure();
        let looping = stage.own().every::<Probe>(Duration::from_micros(1), move |_, _| call());
        *stage.typed_looping.borrow_mut() = Some(looping);
    }),
    hook("timer", Kind::Closure, |stage| {
        let mut call = closure();
        *stage.delayed.borrow_mut() = stage.handle.call_later(Duration::ZERO, move |_| call());
    }),
    hook("callback", Kind::Closure, |stage| {
        let mut call = closure();
        *stage.call.borrow_mut() = stage.handle.call_soon(move |_| call());
    }),
    hook("looping call", Kind::Closure, |stage| {
        let mut call = closure();
        let looping = stage.handle.every(Duration::from_micros(1), move |_, _| call());
        *stage.looping.borrow_mut() = looping;
    }),
    hook("build_protocol", Kind::Closure, |stage| {
        let port = listen_with(stage, Watched { build: true, ..Watched::new() });
        *stage.other_peer.borrow_mut() = Some(stage.connect(port.local_addr().socket_addr().unwrap()));
    }),
    hook("build_protocol of a connector", Kind::Closure, |stage| {
        let factory = Watched { build: true, ..Watched::new() };
        drop(stage.handle.connect(stage.address(), factory));
    }),
    hook("Factory::started", Kind::Closure, |stage| {
        listen_with(stage, Watched { start: true, ..Watched::new() });
    }),
    hook("Factory::started of a connector", Kind::Closure, |stage| {
        let factory = Watched { start: true, ..Watched::new() };
        drop(stage.handle.connect(stage.address(), factory));
    }),
    hook("Factory::stopped", Kind::Closure, |stage| {
        let port = listen_with(stage, Watched { stop: true, ..Watched::new() });
        stage.turns(1);
        drop(port.stop_listening());
    }),
    hook("datagram_received", Kind::Closure, |stage| {
        let socket = mailman(stage, Mailman { receive: true, ..Mailman::new() });
        for _ in 0..3 {
            stage.mailbox.send_to(b"data", socket.local_addr()).unwrap();
        }
    }),
    hook("DatagramProtocol::started", Kind::Closure, |stage| {
        mailman(stage, Mailman { start: true, ..Mailman::new() });
    }),
    hook("DatagramProtocol::stopped", Kind::Closure, |stage| {
        let socket = mailman(stage, Mailman { stop: true, ..Mailman::new() });
        stage.turns(1);
        drop(socket.close());
    }),
    hook("connection_refused", Kind::Closure, |stage| {
        let nobody = stage.machine.vacant_for_datagrams();
        let protocol = Mailman { hear: true, ..Mailman::new() };
        stage.handle.connect_datagram(nobody, protocol).unwrap().send(b"data").unwrap();
    }),
    hook("connection_refused of a Unix socket", Kind::Closure, |stage| {
        let address = a_unix_address();
        let peer =
            stage.handle.listen_datagram(UnixDatagramBind::on(address.clone()), Mailman::new()).unwrap();
        let protocol = Mailman { hear: true, ..Mailman::new() };
        let socket = stage.handle.connect_datagram(UnixDatagramConnect::to(address), protocol).unwrap();
        drop(peer.close());
        socket.send(b"data").unwrap();
    }),
    hook("send_failed of a Unix socket", Kind::Closure, |stage| {
        let protocol = Mailman { hear: true, ..Mailman::new() };
        let socket = stage.handle.listen_datagram(UnixDatagramBind::on(a_unix_address()), protocol).unwrap();
        socket.send_to(b"data", a_unix_address()).unwrap();
    }),
    hook("send_failed", Kind::Closure, |stage| {
        let socket = mailman(stage, Mailman { hear: true, ..Mailman::new() });
        // The broadcast addresses of the loopback device and of a simulated network.
        let last = if stage.is_simulated() { 255 } else { 127 };
        socket.send_to(b"data", std::net::SocketAddr::from(([last, 255, 255, 255], 9))).unwrap();
    }),
    hook("drop of a protocol of datagrams", Kind::Dropped, |stage| {
        let socket = mailman(stage, Mailman { _dropper: Some(Dropper::new()), ..Mailman::new() });
        drop(socket.close());
    }),
    at(Place::TearDown, "drop of a protocol of datagrams at the end", Kind::Dropped, |stage| {
        mailman(stage, Mailman { _dropper: Some(Dropper::new()), ..Mailman::new() });
    }),
    hook("before_wait", Kind::Closure, |stage| {
        let mut call = closure();
        stage.handle.before_wait(move |_| call());
    }),
    hook("shutdown trigger before", Kind::Closure, |stage| trigger(stage, ShutdownPhase::Before)),
    hook("shutdown trigger during", Kind::Closure, |stage| trigger(stage, ShutdownPhase::During)),
    hook("shutdown trigger after", Kind::Closure, |stage| trigger(stage, ShutdownPhase::After)),
    hook("channel receiver", Kind::Closure, |stage| {
        let mut call = closure();
        let sender = stage.handle.channel(2, move |_, _: Value| call()).unwrap();
        sender.send(Value::new()).unwrap();
    }),
    hook("Remote::call", Kind::Closure, |stage| {
        let value = Value::new();
        let sent = stage.remote.call(move |_| {
            let _value = value;
            reach(Kind::Closure);
        });
        assert!(sent.is_ok());
    }),
    hook("Deferred::on_done", Kind::Closure, |stage| {
        let mut call = closure();
        let (resolver, deferred) = Deferred::<u32, String>::new(&stage.handle);
        deferred.on_done(move |_, _| call());
        resolver.resolve(Ok(1));
    }),
    hook("Deferred::deliver", Kind::Closure, |stage| {
        let mut call = closure();
        let (resolver, deferred) = Deferred::<u32, String>::new(&stage.handle);
        deferred.deliver::<Probe>(&stage.own(), move |_, _, _| call());
        resolver.resolve(Ok(1));
    }),
    hook("outcome of connect", Kind::Closure, |stage| {
        let mut call = closure();
        stage.handle.connect(stage.address(), |_| Probe::new(false)).on_done(move |_, _| call());
    }),
    hook("outcome of finished", Kind::Closure, |stage| {
        let mut call = closure();
        stage.looping.borrow().finished().on_done(move |_, _| call());
        stage.looping.borrow().stop();
    }),
    hook("drop of a lost protocol", Kind::Dropped, |stage| reset(&stage.peer)),
    hook("drop of a replaced protocol", Kind::Dropped, |stage| {
        stage.own().switch_protocol(Other(Value::new()));
    }),
    hook("drop of a protocol that nobody needs", Kind::Dropped, |stage| {
        struct Unused(#[allow(dead_code, reason = "dropped")] Dropper);
        impl Protocol for Unused {
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        stage.own().switch_protocol(Unused(Dropper::new()));
        stage.own().abort_connection();
    }),
    hook("drop of a post", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().connection::<Probe>().unwrap().post(move |_, _| drop(dropper));
        stage.own().abort_connection();
    }),
    hook("drop of a typed timer", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().call_later::<Probe>(HOUR, move |_, _| drop(dropper));
        reset(&stage.peer);
    }),
    hook("drop of a typed looping call", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().every::<Probe>(HOUR, move |_, _| {
            let _ = &dropper;
        });
        reset(&stage.peer);
    }),
    hook("drop of a typed looping call of another protocol", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.own().every::<Other>(Duration::from_micros(1), move |_, _| {
            let _ = &dropper;
        });
    }),
    Hook {
        panics: 1,
        ..hook("drop of a looping call that panicked", Kind::Dropped, |stage| {
            let dropper = Dropper::new();
            stage.handle.every(Duration::from_micros(1), move |_, _| {
                let _ = &dropper;
                panic_as_planned();
            });
        })
    },
    hook("drop of the error of a looping call", Kind::Dropped, |stage| {
        #[derive(Debug)]
        struct Failure(#[allow(dead_code, reason = "dropped")] Dropper);
        impl std::fmt::Display for Failure {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("failure")
            }
        }
        impl std::error::Error for Failure {}
        stage.handle.every(Duration::from_micros(1), |handle, _| {
            let (resolver, deferred) = Deferred::<(), Box<dyn std::error::Error>>::new(handle);
            resolver.resolve(Err(Failure(Dropper::new()).into()));
            deferred
        });
    }),
    hook("drop of written bytes", Kind::Dropped, |stage| {
        stage.own().write_bytes(Bytes::from_owner(Memory(Dropper::new())));
        reset(&stage.peer);
    }),
    hook("drop of unread bytes", Kind::Dropped, |stage| {
        stage.own().pause_reading();
        stage.own().unread(Bytes::from_owner(Memory(Dropper::new())));
        reset(&stage.peer);
    }),
    hook("drop of delivered bytes", Kind::Dropped, |stage| {
        stage.own().unread(Bytes::from_owner(Memory(Dropper::new())));
    }),
    hook("drop of a factory", Kind::Dropped, |stage| {
        let port = listen_with(stage, Watched { _dropper: Some(Dropper::new()), ..Watched::new() });
        drop(port.stop_listening());
    }),
    hook("drop of a callback when the reactor stops", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_later(HOUR, move |_| drop(dropper));
        stage.handle.stop();
    }),
    at(Place::TearDown, "drop of a callback at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_soon(move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a timer at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.call_later(HOUR, move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a looping call at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.every(HOUR, move |_, _| {
            let _ = &dropper;
        });
    }),
    at(Place::TearDown, "drop of a protocol at the end", Kind::Dropped, |_| {}),
    at(Place::TearDown, "drop of a factory at the end", Kind::Dropped, |stage| {
        listen_with(stage, Watched { _dropper: Some(Dropper::new()), ..Watched::new() });
    }),
    at(Place::TearDown, "drop of a receiver at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        let receive = move |_: &Handle, _: u32| {
            let _ = &dropper;
        };
        drop(stage.handle.channel(1, receive));
    }),
    at(Place::TearDown, "drop of a message at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        assert!(stage.remote.call(move |_| drop(dropper)).is_ok());
    }),
    at(Place::TearDown, "drop of a trigger at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.on_shutdown(ShutdownPhase::After, move |_| drop(dropper));
    }),
    at(Place::TearDown, "drop of a before_wait hook at the end", Kind::Dropped, |stage| {
        let dropper = Dropper::new();
        stage.handle.before_wait(move |_| {
            let _ = &dropper;
        });
    }),
    at(Place::TearDown, "drop of written bytes at the end", Kind::Dropped, |stage| {
        stage.own().write_bytes(&BLOCK[..]);
        stage.own().write_bytes(Bytes::from_owner(Memory(Dropper::new())));
    }),
    at(Place::Outside, "no hook", Kind::Closure, |_| {}),
    at(Place::Afterwards, "no reactor", Kind::Closure, |_| {}),
];

fn trigger(stage: &Stage, phase: ShutdownPhase) {
    let mut call = closure();
    stage.handle.on_shutdown(phase, move |_| call());
    stage.handle.stop();
}
