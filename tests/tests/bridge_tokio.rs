//! Futures that need a tokio runtime, as tasks of the loop: `Handle::with_tokio`.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use twistor::{Handle, Interruption, Reactor, Stream};
use twistor_tests::outcome::complete;
use twistor_tests::{Driver, Log, Script, World, in_child, kernel_contract, process};

fn is_inside() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}

/// Tells whether it was dropped inside a runtime.
struct Witness(Rc<Cell<Option<bool>>>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.set(Some(is_inside()));
    }
}

fn witness() -> (Rc<Cell<Option<bool>>>, Witness) {
    let seen = Rc::new(Cell::new(None));
    (Rc::clone(&seen), Witness(seen))
}

kernel_contract! {
    // Line 75.
    fn a_future_of_tokio_runs_on_the_thread_of_the_loop_and_is_woken_from_another(driver) {
        let world = World::new(driver);
        let port = world.listen(|_| Script::new(&Log::new()).on_data(twistor::Transport::write));
        let address = port.local_addr().socket_addr().expect("an IP port");
        let future = world.reactor.with_tokio(async move {
            // Not `Send`: it never leaves this thread.
            let here = Rc::new(thread::current().id());
            let began = Instant::now();
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(began.elapsed() >= Duration::from_millis(5));
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            stream.write_all(b"hello").await.expect("written");
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(*here, thread::current().id());
            answer
        });
        assert_eq!(&complete(&world, future.expect("a runtime")), b"hello");
        assert!(!is_inside(), "the loop itself is in no runtime");
    }

    // Line 75.
    fn a_client_that_needs_tokio_asks_a_server_on_the_same_loop(driver) {
        async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            Ok(Response::new(Full::new([path.as_bytes(), b": ", &body].concat().into())))
        }

        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            hyper::server::conn::http1::Builder::new().serve_connection(stream, service_fn(answer)).await
        });
        let port = port.expect("a port").local_addr().socket_addr().expect("an IP port").port();
        let asking = world.reactor.with_tokio(async move {
            // With a name, which it looks up on a thread of the runtime.
            let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
            let mut answers = Vec::new();
            for number in 0..3 {
                let request = Request::post(format!("http://localhost:{port}/{number}"));
                let request = request.body(Full::new(vec![b'x'; 100_000].into())).expect("a request");
                let response = client.request(request).await.expect("an answer");
                answers.push(response.into_body().collect().await.expect("a body").to_bytes());
            }
            answers
        });
        let answers = complete(&world, asking.expect("a runtime"));
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.len(), 100_004);
            assert!(answer.starts_with(format!("/{number}: xxx").as_bytes()));
        }
    }

    // Line 75.
    fn what_a_future_spawns_on_the_runtime_can_be_waited_for(driver) {
        let world = World::new(driver);
        let future = world.reactor.with_tokio(async {
            let here = thread::current().id();
            let elsewhere = tokio::spawn(async { (thread::current().id(), 40) }).await.expect("a result");
            assert_ne!(here, elsewhere.0);
            let blocking = tokio::task::spawn_blocking(|| 2).await.expect("a result");
            elsewhere.1 + blocking
        });
        assert_eq!(complete(&world, future.expect("a runtime")), 42);
    }

    // Line 75.
    fn a_future_is_dropped_inside_the_runtime_however_it_ends(driver) {
        let world = World::new(driver);
        // It has ended.
        let (seen, guard) = witness();
        let future = async move {
            let _guard = guard;
            tokio::task::yield_now().await;
        };
        complete(&world, world.reactor.with_tokio(future).expect("a runtime"));
        assert_eq!(seen.get(), Some(true));
        // Its task is cancelled.
        let (seen, guard) = witness();
        let future = async move {
            let _guard = guard;
            tokio::time::sleep(Duration::from_secs(3600)).await;
        };
        let task = world.reactor.spawn(world.reactor.with_tokio(future).expect("a runtime"));
        world.turns(2);
        assert!(task.cancel());
        world.until("it is dropped", || seen.get().is_some());
        assert_eq!(seen.get(), Some(true));
        // Nobody has polled it.
        let (seen, guard) = witness();
        drop(world.reactor.with_tokio(async move { drop(guard) }));
        assert_eq!(seen.get(), Some(true));
        // It panics.
        let (seen, guard) = witness();
        let future = async move {
            let _guard = guard;
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        let task = world.reactor.spawn(world.reactor.with_tokio::<_>(future).expect("a runtime"));
        let outcome = Rc::new(RefCell::new(None));
        let noted = Rc::clone(&outcome);
        task.on_done(move |_, outcome: Result<(), _>| *noted.borrow_mut() = Some(outcome));
        world.until("it has panicked", || outcome.borrow().is_some());
        assert_eq!(outcome.take(), Some(Err(Interruption::Panicked("on purpose".to_owned()))));
        assert_eq!(seen.get(), Some(true));
        // The reactor ends.
        let (seen, guard) = witness();
        let future = async move {
            let _guard = guard;
            pending::<()>().await;
        };
        drop(world.reactor.spawn(world.reactor.with_tokio(future).expect("a runtime")));
        world.turns(2);
        drop(world);
        assert_eq!(seen.get(), Some(true));
        assert!(!is_inside(), "no panic and no drop has left this thread inside");
    }

    // Line 5.
    fn a_panic_ends_its_task_and_leaves_the_runtime_to_the_others(driver) {
        let world = World::new(driver);
        let other = world.reactor.with_tokio(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            7
        });
        let panicking = world.reactor.with_tokio(async { panic!("on purpose") });
        drop(world.reactor.spawn::<_>(async move { panicking.expect("a runtime").await }));
        let spawned = world.reactor.with_tokio(async { tokio::spawn(async { panic!("on purpose") }).await.is_err() });
        assert_eq!(complete(&world, other.expect("a runtime")), 7);
        assert!(complete(&world, spawned.expect("a runtime")));
    }

    // Line 11.
    fn a_future_that_waits_for_tokio_lets_the_loop_sleep(driver) {
        let world = World::new(driver);
        complete(&world, world.reactor.with_tokio(async {}).expect("a runtime"));
        let before = world.reactor.stats().passes;
        let future = world.reactor.with_tokio(tokio_sleep(50)).expect("a runtime");
        drop(world.reactor.spawn(future));
        let ended = Instant::now() + Duration::from_millis(60);
        while Instant::now() < ended {
            world.turn(ended.saturating_duration_since(Instant::now()));
        }
        let passes = world.reactor.stats().passes - before;
        assert!((2..=6).contains(&passes), "{passes} passes");
    }

    // Line 75.
    fn a_thousand_futures_of_tokio_wait_at_once(driver) {
        let world = World::new(driver);
        let left = Rc::new(Cell::new(1000));
        for number in 0..1000 {
            let left = Rc::clone(&left);
            let future = world.reactor.with_tokio(async move {
                tokio::time::sleep(Duration::from_millis(number % 10)).await;
                left.set(left.get() - 1);
            });
            drop(world.reactor.spawn(future.expect("a runtime")));
        }
        world.until("all have ended", || left.get() == 0);
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 9.
    fn there_is_one_thread_and_it_is_gone_with_the_reactor(driver) {
        in_child(module_path!(), driver, || {
            let before = (process::threads(), process::open_descriptors());
            let world = World::new(driver);
            let idle = process::threads();
            for number in 1..10 {
                complete(&world, world.reactor.with_tokio(tokio_sleep(number % 2)).expect("a runtime"));
            }
            assert_eq!(process::threads(), idle + 1);
            // Spawned there, and waiting there.
            let spawning = async {
                tokio::spawn(pending::<()>());
                tokio::spawn(tokio_sleep(3_600_000));
                tokio::task::spawn_blocking(|| {}).await.expect("a result");
            };
            complete(&world, world.reactor.with_tokio(spawning).expect("a runtime"));
            // Waiting here.
            let future = world.reactor.with_tokio(tokio_sleep(3_600_000)).expect("a runtime");
            drop(world.reactor.spawn(future));
            world.turns(2);
            let began = Instant::now();
            drop(world);
            assert!(began.elapsed() < Duration::from_millis(400), "nothing is waited for");
            assert_eq!((process::threads(), process::open_descriptors()), before);
        });
    }

    // Line 9.
    fn a_runtime_that_a_destructor_makes_at_the_end_is_gone_too(driver) {
        struct Late(Handle, mpsc::Sender<bool>);
        impl Drop for Late {
            fn drop(&mut self) {
                let made = self.0.with_tokio(async {});
                self.1.send(made.is_ok()).expect("the test waits");
            }
        }

        in_child(module_path!(), driver, || {
            let before = (process::threads(), process::open_descriptors());
            let world = World::new(driver);
            let (sender, made) = mpsc::channel();
            let late = Late(world.reactor.clone(), sender);
            world.reactor.call_later(Duration::from_secs(3600), move |_| drop(late));
            drop(world);
            assert_eq!(made.recv(), Ok(true));
            assert_eq!((process::threads(), process::open_descriptors()), before);
        });
    }

    // Line 9.
    fn a_task_that_holds_the_runtime_does_not_hold_the_end_of_the_reactor(driver) {
        let world = World::new(driver);
        let (release, held) = mpsc::channel::<()>();
        let (started, starting) = mpsc::channel();
        let blocking = async move {
            tokio::spawn(async move {
                started.send(()).expect("the test waits");
                let _ = held.recv();
            });
        };
        complete(&world, world.reactor.with_tokio(blocking).expect("a runtime"));
        starting.recv().expect("it blocks the thread of the runtime");
        let began = Instant::now();
        drop(world);
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(release);
    }

    // Line 9.
    fn a_reactor_may_end_inside_another_runtime(driver) {
        let host = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        host.block_on(async {
            let world = World::new(driver);
            complete(&world, world.reactor.with_tokio(tokio_sleep(1)).expect("a runtime"));
            // A runtime must not be dropped here: it is not, its thread does.
            drop(world);
            // And ours was not left to this thread.
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
    }

    // Line 9.
    fn there_is_no_runtime_without_a_reactor(driver) {
        let world = World::new(driver);
        let handle = world.reactor.clone();
        let unused = handle.with_tokio(tokio_sleep(1)).expect("a runtime");
        drop(world);
        assert_eq!(handle.with_tokio(async {}).expect_err("no reactor").kind(), ErrorKind::NotConnected);
        drop(unused);
    }

    // Line 7.
    fn the_runtime_survives_a_stop(driver) {
        let reactor = Reactor::builder().portable_polling(driver == Driver::Portable).build().expect("a reactor");
        for _ in 0..2 {
            let handle = reactor.clone();
            let future = reactor.with_tokio(tokio_sleep(1)).expect("a runtime");
            drop(reactor.spawn(async move {
                future.await;
                handle.stop();
            }));
            reactor.run().expect("a run");
        }
    }
}

async fn tokio_sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[test]
fn a_simulated_reactor_refuses_a_runtime_whose_clock_would_be_real() {
    let world = World::new(Driver::Simulated);
    let error = world.reactor.with_tokio(async {}).expect_err("no runtime");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("simulated"), "{error}");
}
