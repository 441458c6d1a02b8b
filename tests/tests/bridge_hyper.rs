//! hyper's servers and clients on streams: its I/O, its timer, its executor.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::rt::Timer;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, client, server};
use twistor::{Handle, HyperExecutor, HyperTimer, Port, Stream, task};
use twistor_tests::outcome::complete;
use twistor_tests::{Driver, Ending, World, contract, kernel_contract};

type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

fn whole(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// `POST`: what came goes back as it comes. `GET`: the path.
async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    if request.method() == Method::POST {
        return Ok(Response::new(request.into_body().boxed_unsync()));
    }
    Ok(Response::new(whole(format!("you asked for {}\n", request.uri().path()))))
}

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

async fn serve_http1(stream: Stream) -> Result<(), hyper::Error> {
    let reactor = Handle::current().expect("a task of a reactor");
    server::conn::http1::Builder::new()
        .timer(HyperTimer::new(&reactor))
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(stream, service_fn(answer))
        .await
}

fn http1(world: &World) -> Port {
    world.reactor.serve("tcp:0:interface=127.0.0.1", serve_http1).expect("a port")
}

async fn ask<B: Body + 'static>(stream: Stream) -> client::conn::http1::SendRequest<B>
where
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = client::conn::http1::handshake(stream).await.expect("a handshake");
    drop(task::spawn(connection));
    sender
}

fn endpoint(port: &Port) -> String {
    format!("tcp:{}", port.local_addr())
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// A body of so many pieces of 16 KiB, which counts how many were asked for.
struct Pieces {
    left: usize,
    given: Rc<Cell<usize>>,
}

const PIECE: usize = 16 << 10;

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let number = self.given.get();
        self.given.set(number + 1);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![number as u8; PIECE])))))
    }
}

contract! {
    // Line 75.
    fn a_client_and_a_server_of_hyper_share_the_loop_and_a_connection(driver) {
        let world = World::new(driver);
        let port = http1(&world);
        let handle = world.reactor.clone();
        complete(&world, async move {
            let mut sender = ask(handle.connect_stream(endpoint(&port)).await.expect("a connection")).await;
            for number in 0..50 {
                sender.ready().await.expect("the connection is kept alive");
                let request = if number % 2 == 0 {
                    Request::get(format!("/{number}")).body(whole(""))
                } else {
                    Request::post("/").body(whole(format!("number {number}")))
                };
                let response = sender.send_request(request.expect("a request")).await.expect("an answer");
                assert_eq!(response.status(), StatusCode::OK);
                let expected = if number % 2 == 0 {
                    format!("you asked for /{number}\n")
                } else {
                    format!("number {number}")
                };
                assert_eq!(text(response).await, expected);
            }
        });
        world.until("both ends are gone", || world.reactor.stats().connections == 0);
        assert_eq!(world.reactor.stats().accepted, 1);
        assert_eq!(world.reactor.tasks(), []);
    }

    // Lines 29 and 75.
    fn a_large_body_goes_both_ways_and_fills_no_memory(driver) {
        const COUNT: usize = 1024;
        let world = World::new(driver);
        let port = http1(&world);
        let most = Rc::new(Cell::new(0));
        let seen = Rc::clone(&most);
        world.reactor.before_wait(move |reactor| seen.set(seen.get().max(reactor.stats().queued_bytes)));
        let handle = world.reactor.clone();
        complete(&world, async move {
            let mut sender = ask(handle.connect_stream(endpoint(&port)).await.expect("a connection")).await;
            let body = Pieces { left: COUNT, given: Rc::default() };
            let request = Request::post("/").body(body).expect("a request");
            let mut body = sender.send_request(request).await.expect("an answer").into_body();
            let mut received = 0;
            while let Some(frame) = body.frame().await {
                let data = frame.expect("a piece").into_data().expect("data");
                let is_right = data.iter().enumerate().all(|(place, &byte)| {
                    byte == ((received + place) / PIECE) as u8
                });
                assert!(is_right, "wrong at {received}");
                received += data.len();
            }
            assert_eq!(received, COUNT * PIECE);
        });
        assert!(most.get() < 2 << 20, "{} bytes were queued at once", most.get());
    }

    // Line 29.
    fn a_client_that_does_not_read_stops_the_body_of_its_answer(driver) {
        let world = World::new(driver);
        let given = Rc::new(Cell::new(0));
        let counted = Rc::clone(&given);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async move |stream: Stream| {
            let given = Rc::clone(&counted);
            let endless = service_fn(move |_: Request<Incoming>| {
                let body = Pieces { left: usize::MAX, given: Rc::clone(&given) };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            server::conn::http1::Builder::new().serve_connection(stream, endless).await
        });
        let mut peer = world.connect(&port.expect("a port"));
        peer.send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
        let last = Cell::new((0, world.now()));
        world.until("it stops", || {
            let (count, since) = last.get();
            if given.get() != count {
                last.set((given.get(), world.now()));
            }
            count > 0 && world.since(since) > Duration::from_millis(50)
        });
        let stopped = given.get();
        assert!(stopped * PIECE < 16 << 20, "{stopped} pieces although nobody reads");
        world.assert_sleeps("nobody reads");
        let _ = peer.receive(8 << 20);
        world.until("it goes on", || given.get() > stopped);
        peer.reset();
        world.until("its task has ended", || world.reactor.tasks().is_empty());
    }

    // Line 36.
    fn a_peer_that_breaks_off_ends_the_task_that_serves_it(driver) {
        let world = World::new(driver);
        let port = http1(&world);
        for (number, request) in ["", "GET / HT", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhal"]
            .iter()
            .enumerate()
        {
            let mut peer = world.connect(&port);
            peer.send(request.as_bytes());
            world.until("it is served", || world.reactor.stats().accepted == number as u64 + 1);
            world.turns(5);
            if number % 2 == 0 { peer.finish() } else { peer.reset() }
            world.until("nobody serves it", || world.reactor.tasks().is_empty());
        }
        assert_eq!(world.reactor.stats().timers, 0, "no time-out is left");
        assert_eq!(world.reactor.stats().panics, 0);
    }

    // Line 75.
    fn requests_over_http2_share_a_connection(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            let reactor = Handle::current().expect("a task of a reactor");
            server::conn::http2::Builder::new(HyperExecutor::new(&reactor))
                .timer(HyperTimer::new(&reactor))
                .keep_alive_interval(Duration::from_secs(10))
                .serve_connection(stream, service_fn(answer))
                .await
        });
        let port = port.expect("a port");
        let handle = world.reactor.clone();
        complete(&world, async move {
            let stream = handle.connect_stream(endpoint(&port)).await.expect("a connection");
            let executor = HyperExecutor::new(&handle);
            let (sender, connection) = client::conn::http2::handshake(executor, stream).await.expect("a handshake");
            drop(handle.spawn(connection));
            let asking: Vec<_> = (0..20)
                .map(|number| {
                    let mut sender = sender.clone();
                    handle.spawn(async move {
                        let body = whole(vec![b'a' + number; 100_000]);
                        let request = Request::post("http://here/").body(body).expect("a request");
                        let response = sender.send_request(request).await.expect("an answer");
                        assert_eq!(text(response).await, char::from(b'a' + number).to_string().repeat(100_000));
                    })
                })
                .collect();
            drop(sender);
            for asked in asking {
                asked.await.expect("no panic");
            }
        });
        world.until("both ends are gone", || world.reactor.stats().connections == 0);
        assert_eq!(world.reactor.stats().accepted, 1);
        world.until("no task is left", || world.reactor.tasks().is_empty());
    }

    // Line 14.
    fn a_sleep_of_hyper_is_never_early_and_takes_its_timer_back(driver) {
        let world = World::new(driver);
        let timer = HyperTimer::new(&world.reactor);
        let handle = world.reactor.clone();
        complete(&world, async move {
            let began = handle.now();
            assert!(timer.now() - began < Duration::from_secs(1), "the reactor's clock");
            let mut sleep = timer.sleep(Duration::from_millis(20));
            // Polled by somebody else before, and moved.
            let _ = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(handle.stats().timers, 1);
            timer.reset(&mut sleep, began + Duration::from_millis(30));
            sleep.as_mut().await;
            assert!(handle.now() - began >= Duration::from_millis(30));
            // Twice is once.
            sleep.await;
            timer.sleep_until(began).await;
            timer.sleep(Duration::ZERO).await;
            let mut dropped = timer.sleep(Duration::from_secs(3600));
            let _ = dropped.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(handle.stats().timers, 1);
            drop(dropped);
            assert_eq!(handle.stats().timers, 0);
            // And one that never ends does not overflow.
            let mut never = timer.sleep(Duration::MAX);
            assert!(never.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        });
    }

    // Line 7.
    fn an_idle_connection_does_not_hold_a_stop(driver) {
        let world = World::new(driver);
        let port = http1(&world);
        let mut peer = world.connect(&port);
        peer.send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
        let mut heard = Vec::new();
        while !heard.ends_with(b"you asked for /\n") {
            heard.extend(peer.receive(1));
        }
        let began = world.now();
        world.reactor.stop();
        let (rest, ending) = peer.receive_to_end();
        assert_eq!((rest.len(), ending), (0, Ending::Fin));
        while world.turn(Duration::from_millis(1)) {
            peer.close();
        }
        assert!(world.since(began) < Duration::from_millis(900), "before the drain time-out");
    }
}

#[test]
fn a_client_whose_header_takes_too_long_is_dropped_after_thirty_simulated_seconds() {
    let real = Instant::now();
    let world = World::new(Driver::Simulated);
    let port = http1(&world);
    let peer = world.connect(&port);
    let began = world.now();
    // A byte now and then, which is not enough.
    for byte in b"GET / HTTP/1.1\r\nHost: a" {
        peer.send(&[*byte]);
        world.run_for(Duration::from_secs(1));
    }
    assert!(world.since(began) < HEADER_TIMEOUT);
    assert_eq!(world.reactor.stats().connections, 1);
    let (_, ending) = peer.receive_to_end();
    let took = world.since(began);
    assert_eq!(ending, Ending::Fin);
    assert!((HEADER_TIMEOUT..HEADER_TIMEOUT + Duration::from_secs(1)).contains(&took), "{took:?}");
    assert!(real.elapsed() < Duration::from_secs(10), "that took {:?}", real.elapsed());
}

kernel_contract! {
    // Line 75.
    fn curl_is_served_keeps_its_connection_and_posts_a_large_body(driver) {
        if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("curl is not installed: left out");
            return;
        }
        let world = World::new(driver);
        let port = http1(&world);
        let url = format!("http://{}", port.local_addr());
        let curl = |arguments: Vec<String>| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
            let running = thread::spawn(move || command.output());
            world.until("curl has ended", || running.is_finished());
            let output = running.join().expect("no panic").expect("curl runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let first = format!("{url}/one");
        let second = format!("{url}/two");
        let answers = curl(vec!["--write-out".into(), "%{num_connects};".into(), first, second]);
        assert_eq!(String::from_utf8_lossy(&answers), "you asked for /one\n1;you asked for /two\n0;");
        // Chunked, with `Expect: 100-continue`.
        let large = std::env::current_exe().expect("a large file");
        let expected = std::fs::read(&large).expect("it can be read");
        let chunked = "Transfer-Encoding: chunked".to_owned();
        let source = format!("@{}", large.display());
        let answer = curl(vec!["--data-binary".into(), source, "--header".into(), chunked, url]);
        assert!(answer == expected, "{} bytes came back of {}", answer.len(), expected.len());
    }

    // Line 66.
    fn a_sleep_of_hyper_may_be_taken_to_another_thread(driver) {
        struct Unpark(thread::Thread, AtomicUsize);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.1.fetch_add(1, Ordering::SeqCst);
                self.0.unpark();
            }
        }

        let world = World::new(driver);
        let timer = HyperTimer::new(&world.reactor);
        let elsewhere = thread::spawn(move || {
            let began = Instant::now();
            let mut sleep = pin!(timer.sleep(Duration::from_millis(20)));
            let unpark = Arc::new(Unpark(thread::current(), AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&unpark));
            while sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                thread::park();
            }
            (began.elapsed(), unpark.1.load(Ordering::SeqCst))
        });
        world.until("it has slept", || elsewhere.is_finished());
        let (took, wakes) = elsewhere.join().expect("no panic");
        assert!(took >= Duration::from_millis(20), "{took:?}");
        assert!(wakes >= 1);
    }
}
