//! The contract, section 1, line 9: after a reactor is dropped nothing is left.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use twistor::{
    ConnectErrorKind, Deferred, Handle, LoopingCall, Port, Protocol, Reason, SendError, ShutdownPhase,
    Transport,
};
use twistor_tests::{Event, Log, Script, World, contract, in_child, kernel_contract};

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("the system tells of the process").count()
}

/// Does everything it can when it is dropped.
struct Busy {
    handle: Handle,
    transport: Rc<RefCell<Option<Transport>>>,
    value: Rc<()>,
}

impl Protocol for Busy {
    fn connection_made(&mut self, transport: &Transport) {
        *self.transport.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

impl Drop for Busy {
    fn drop(&mut self) {
        let value = Rc::clone(&self.value);
        self.handle.call_soon(move |_| panic!("called with {value:?}"));
        let value = Rc::clone(&self.value);
        self.handle.call_later(Duration::ZERO, move |_| panic!("called with {value:?}"));
        let value = Rc::clone(&self.value);
        let _ = self.handle.listen("tcp:0:interface=127.0.0.1", move |_| {
            let _ = &value;
            None::<Script>
        });
        self.handle.stop();
        let _ = self.handle.remote().call(|_| {});
        if let Some(transport) = &*self.transport.borrow() {
            transport.write(b"too late");
            transport.lose_connection();
            transport.switch_protocol(Script::new(&Log::new()));
            transport.abort_connection();
        }
    }
}

contract! {
    // Line 9.
    fn peers_see_the_end_and_no_hook_is_called(driver) {
        let world = World::new(driver);
        let log = Log::new();
        let port = world.listen({
            let log = log.clone();
            move |_| Script::new(&log)
        });
        let address = port.local_addr().socket_addr().expect("an IP port");
        let machine = world.machine();
        let peer = machine.connect(address).expect("the port takes connections");
        world.until("the connection", || log.has(&Event::Made));
        let simulation = world.end();
        assert_eq!(log.events(), [Event::Made]);
        assert!(peer.becomes_readable());
        match peer.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {}
            other => panic!("the peer sees {other:?}"),
        }
        machine.listen(address).expect("the port number is free");
        drop(simulation);
    }

    // Line 9.
    fn every_value_given_to_the_reactor_is_dropped(driver) {
        let value = Rc::new(());
        let world = World::new(driver);
        let reactor = &world.reactor;
        macro_rules! holding {
            (|$($argument:tt),*|) => {{
                let value = Rc::clone(&value);
                move |$($argument),*| {
                    let _ = &value;
                }
            }};
        }
        let shared = || Rc::clone(&value);
        let held = shared();
        let script = Script::new(&Log::new()).on_data(move |_, _| drop(held.clone()));
        let (transport, _peer) = world.pair(script);
        world.turns(2);
        transport.switch_protocol(Script::new(&Log::new()).on_made(holding!(|_|)));
        transport.connection::<Script>().expect("its type").post(holding!(|_, _|));
        transport.call_later::<Script>(Duration::from_secs(60), holding!(|_, _|));
        transport.every::<Script>(Duration::from_secs(60), holding!(|_, _|));
        transport.write_bytes(vec![0; 64 << 20]);
        transport.flushed().on_done(holding!(|_, _|));
        let held = shared();
        world.listen(move |_| {
            let _ = &held;
            None::<Script>
        });
        reactor.call_soon(holding!(|_|));
        reactor.call_later(Duration::from_secs(60), holding!(|_|));
        reactor.every(Duration::from_secs(60), holding!(|_, _|)).finished().on_done(holding!(|_, _|));
        reactor.before_wait(holding!(|_|));
        reactor.on_shutdown(ShutdownPhase::Before, holding!(|_|));
        let sender = reactor.channel::<()>(4, holding!(|_, _|)).expect("a channel");
        let (resolver, deferred) = Deferred::<(), String>::new(reactor);
        deferred.on_done(holding!(|_, _|));
        resolver.resolve(Ok(()));
        let sent = std::sync::Arc::new(());
        let message = std::sync::Arc::clone(&sent);
        reactor.remote().call(move |_| drop(message)).expect("a call");
        assert!(Rc::strong_count(&value) > 12);
        drop(world);
        assert_eq!(Rc::strong_count(&value), 1);
        assert_eq!(std::sync::Arc::strong_count(&sent), 1);
        drop((sender, transport));
    }

    // Line 9.
    fn values_that_hold_handles_on_themselves_are_dropped(driver) {
        struct Holder(Rc<()>, Option<(Transport, Handle)>);
        impl Protocol for Holder {
            fn connection_made(&mut self, transport: &Transport) {
                self.1 = Some((transport.clone(), transport.reactor().clone()));
                let (me, value) = (transport.clone(), Rc::clone(&self.0));
                transport.every(Duration::from_secs(60), move |_: &mut Self, _| {
                    let _ = (&me, &value);
                });
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        let value = Rc::new(());
        let world = World::new(driver);
        let (_, _peer) = world.pair(Holder(Rc::clone(&value), None));
        world.turns(2);

        let looping: Rc<RefCell<Option<LoopingCall>>> = Rc::default();
        let (me, held) = (Rc::clone(&looping), Rc::clone(&value));
        let call = world.reactor.every(Duration::from_secs(60), move |_, _| {
            let _ = (&me, &held);
        });
        *looping.borrow_mut() = Some(call);

        let port: Rc<RefCell<Option<Port>>> = Rc::default();
        let (me, held) = (Rc::clone(&port), Rc::clone(&value));
        *port.borrow_mut() = Some(world.listen(move |_| {
            let _ = (&me, &held);
            None::<Script>
        }));

        let timer = Rc::new(RefCell::new(None));
        let (me, held) = (Rc::clone(&timer), Rc::clone(&value));
        *timer.borrow_mut() = Some(world.reactor.call_later(Duration::from_secs(60), move |_| drop((me, held))));

        drop((looping, port, timer));
        drop(world);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    // Line 9.
    fn destructors_may_call_anything_while_the_reactor_ends(driver) {
        let value = Rc::new(());
        let world = World::new(driver);
        let transport = Rc::default();
        let busy = |handle: &Handle| Busy {
            handle: handle.clone(),
            transport: Rc::clone(&transport),
            value: Rc::clone(&value),
        };
        let (_, _peer) = world.pair(busy(&world.reactor));
        world.until("the connection", || transport.borrow().is_some());
        let (one, other) = (busy(&world.reactor), busy(&world.reactor));
        world.reactor.call_later(Duration::from_secs(60), move |_| drop(one));
        world.reactor.before_wait(move |_| {
            let _ = &other;
        });
        drop(world);
        transport.borrow_mut().take();
        assert_eq!(Rc::strong_count(&value), 1);
    }

    // Line 9.
    fn surviving_handles_do_nothing_or_return_an_error(driver) {
        let world = World::new(driver);
        let called = Rc::new(Cell::new(false));
        let hook = || {
            let called = Rc::clone(&called);
            move || called.set(true)
        };
        let (transport, _peer) = world.pair(Script::new(&Log::new()));
        world.turns(2);
        let connection = transport.connection::<Script>().expect("its type");
        let port = world.listen(|_| Script::new(&Log::new()));
        let (soon, later, tick) = (hook(), hook(), hook());
        let call = world.reactor.call_soon(move |_| soon());
        let timer = world.reactor.call_later(Duration::ZERO, move |_| later());
        let looping = world.reactor.every(Duration::from_millis(1), move |_, _| tick());
        let remote = world.reactor.remote();
        let sender = world.reactor.channel(4, |_, _: u32| {}).expect("a channel");
        let connector = world.reactor.connector("tcp:127.0.0.1:9").expect("an endpoint");
        let handle = Handle::clone(&world.reactor);
        drop(world);

        assert!(!call.is_active() && !call.cancel());
        assert!(!timer.is_active() && !timer.cancel());
        assert!(!timer.reset(Duration::ZERO) && !timer.delay(Duration::ZERO));
        assert_eq!(timer.deadline(), None);
        timer.unref();
        assert!(!looping.is_running() && !looping.stop() && !looping.reset());
        looping.unref();

        assert!(!remote.is_alive());
        assert!(matches!(remote.call(|_| {}), Err(SendError::Gone(_))));
        remote.stop();
        assert_eq!(sender.send(7), Err(SendError::Gone(7)));

        assert!(!port.is_listening() && !port.is_accepting());
        port.pause_accepting();
        port.resume_accepting();
        port.unref();
        assert!(!port.is_listening() && port.local_addr().port() != 0);
        drop(port.stop_listening());

        assert!(transport.is_closing());
        assert!(!transport.try_write(b"x"));
        transport.write(b"x");
        transport.write_bytes(vec![0; 1 << 20]);
        transport.pause_reading();
        transport.resume_reading();
        transport.unread(&b"x"[..]);
        transport.lose_write_connection();
        transport.lose_connection();
        transport.abort_connection();
        transport.fail("an error");
        transport.switch_protocol(Script::new(&Log::new()));
        transport.set_watermarks(2, 1);
        transport.set_timeouts(twistor::Timeouts::default().idle(Duration::from_millis(1)));
        assert!(transport.set_nodelay(true).is_err());
        assert_eq!(transport.queued(), 0);
        assert_ne!(transport.peer_addr().port(), 0);
        assert!(transport.connection::<Script>().is_none());
        assert!(!connection.post(|_, _| panic!("posted")));
        assert!(!transport.call_later(Duration::ZERO, |_: &mut Script, _| panic!("later")).is_active());
        assert!(!transport.every(Duration::ZERO, |_: &mut Script, _| panic!("tick")).is_running());

        assert!(handle.is_stopping());
        handle.stop();
        assert!(!handle.call_soon(|_| panic!("soon")).is_active());
        assert!(!handle.call_later(Duration::ZERO, |_| panic!("later")).is_active());
        assert!(!handle.every(Duration::from_millis(1), |_, _| {}).is_running());
        let error = handle.listen("tcp:0:interface=127.0.0.1", |_| Script::new(&Log::new())).expect_err("gone");
        assert!(error.to_string().contains("gone"), "{error}");
        handle.channel(1, |_, ()| {}).expect_err("gone");
        drop(connector.connect(|_| Script::new(&Log::new())));
        drop(handle.connect_protocol("tcp:127.0.0.1:9", Script::new(&Log::new())));
        handle.before_wait(|_| panic!("before the wait"));
        handle.on_shutdown(ShutdownPhase::Before, |_| {});
        assert!(!handle.remote().is_alive());
        assert_eq!((handle.next_deadline(), handle.stats().connections), (None, 0));
        assert!(handle.transport(transport.id()).is_none());
        assert!(!called.get());
    }

    // Line 9.
    fn it_can_be_dropped_in_the_middle_of_a_shutdown(driver) {
        let log = Log::new();
        let world = World::with(driver, |builder| builder.drain_timeout(Duration::from_secs(60)));
        let (_transport, _peer) = world.pair(Script::new(&log).on_shutting_down(|_| {}));
        let waiting = Rc::new(());
        let held = Rc::clone(&waiting);
        world.reactor.on_shutdown(ShutdownPhase::During, move |_| drop(held));
        world.reactor.stop();
        world.until("the drain", || log.has(&Event::ShuttingDown));
        drop(world);
        assert_eq!(Rc::strong_count(&waiting), 1);
        assert_eq!(log.lost(), None);
    }

    // Line 9.
    fn the_outcome_of_a_connect_that_was_under_way_stays_open_without_leaking(driver) {
        let world = World::new(driver);
        let elsewhere = world.machine().listen_somewhere();
        let address = format!("tcp:{}", elsewhere.local_addr());
        let value = Rc::new(());
        let held = Rc::clone(&value);
        world.reactor.connect_protocol(address, Script::new(&Log::new())).on_done(move |_, outcome| {
            let kind = outcome.map(|_| ()).map_err(|error| error.kind());
            panic!("{kind:?} {:?} {held:?} {:?}", ConnectErrorKind::Cancelled, Reason::Shutdown);
        });
        drop(world);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}

// Descriptors and threads.
kernel_contract! {
    // Line 9.
    fn no_descriptor_and_no_thread_is_left_whatever_handles_survive(driver) {
        in_child(module_path!(), driver, || {
            let before = (count("/proc/self/fd"), count("/proc/self/task"));
            let world = World::new(driver);
            let port = world.listen(|_| Script::new(&Log::new()));
            let log = Log::new();
            let client = Script::new(&log);
            world.reactor.connect_protocol(format!("tcp:{}", port.local_addr()), client).on_done(|handle, outcome| {
                outcome.expect("connected");
                handle.call_soon(Handle::stop);
            });
            // With signals watched.
            world.reactor.run().expect("a run");
            let (transport, mut peer) = world.pair(Script::new(&Log::new()));
            let port = world.listen(|_| Script::new(&Log::new()));
            let survivors = (
                world.reactor.remote(),
                Handle::clone(&world.reactor),
                world.reactor.channel(1, |_, ()| {}).expect("a channel"),
                world.reactor.call_later(Duration::from_secs(60), |_| {}),
                world.reactor.every(Duration::from_secs(60), |_, _| {}),
                world.reactor.call_soon(|_| {}),
                transport,
                port,
            );
            peer.close();
            drop(peer);
            drop(world);
            assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
            drop(survivors);
        });
    }
}
