//! Crates that are written for the traits of `futures-io` work over a [`Stream`], against peers that know
//! nothing of it: a WebSocket server whose client is a blocking one in a thread, and the adapters of
//! `futures-util`.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;
use std::thread;

use futures_util::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use futures_util::{StreamExt, TryStreamExt};
use tungstenite::Message;
use twistor::Stream;
use twistor_tests::{Ending, World, contract, kernel_contract, pattern};

kernel_contract! {
    fn a_web_socket_server_runs_over_streams(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |stream: Stream| {
            let mut socket = async_tungstenite::accept_async(stream).await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
            Ok::<_, tungstenite::Error>(())
        }).unwrap();
        let address = port.local_addr().socket_addr().unwrap();
        let client = thread::spawn(move || {
            let stream = TcpStream::connect(address).unwrap();
            let (mut socket, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
            let messages = [
                Message::text("hello"),
                Message::binary(vec![7; 1 << 20]),
                Message::binary(Vec::new()),
                Message::text("é".repeat(50_000)),
            ];
            for message in messages {
                socket.send(message.clone()).unwrap();
                assert!(socket.read().unwrap() == message);
            }
            socket.close(None).unwrap();
            while socket.read().is_ok() {}
        });
        world.until("the client is done", || client.is_finished());
        client.join().unwrap();
        world.until("the connection is gone", || world.reactor.stats().connections == 0);
        assert!(world.reactor.tasks().is_empty());
    }
}

contract! {
    fn adapters_of_futures_util_copy_and_cut_lines(driver) {
        let world = World::new(driver);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async |mut stream: Stream| {
            let mut kind = String::new();
            AsyncBufReadExt::read_line(&mut stream, &mut kind).await?;
            if kind == "copy\n" {
                // Through both sides at the same time, by reference.
                futures_util::io::copy(&stream, &mut &stream).await.map(drop)
            } else {
                let (reader, mut writer) = AsyncReadExt::split(stream);
                let mut lines = futures_util::io::BufReader::new(reader).lines();
                while let Some(line) = lines.try_next().await? {
                    writer.write_all(format!("<{line}>").as_bytes()).await?;
                }
                writer.close().await
            }
        }).unwrap();
        let data = pattern(3 << 20);
        let peer = world.connect(&port);
        peer.send(b"copy\n");
        let (mut sent, mut back) = (0, Vec::new());
        world.until("all comes back", || {
            sent += peer.try_send(&data[sent..]);
            back.extend(peer.try_receive().unwrap());
            back.len() == data.len()
        });
        assert!(back == data);
        peer.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));

        let peer = world.connect(&port);
        for byte in b"lines\none\r\ntwo\n\nthree" {
            peer.send(&[*byte]);
            world.turns(1);
        }
        peer.finish();
        assert_eq!(peer.receive_to_end(), (b"<one><two><><three>".to_vec(), Ending::Fin));
    }

    fn the_traits_read_through_what_the_methods_left(driver) {
        let world = World::new(driver);
        let heard = Rc::new(RefCell::new(Vec::new()));
        let place = Rc::clone(&heard);
        let port = world.reactor.serve("tcp:0:interface=127.0.0.1", async move |mut stream: Stream| {
            let mut parts = Vec::new();
            parts.push(stream.read_line(10).await.unwrap().unwrap().into_bytes());
            // Lends all that is there and consumes a part.
            let mut until = Vec::new();
            AsyncBufReadExt::read_until(&mut stream, b';', &mut until).await.unwrap();
            parts.push(until);
            assert!(stream.buffered() > 0);
            parts.push(stream.read_until(b';', 10).await.unwrap().unwrap().to_vec());
            let mut rest = Vec::new();
            AsyncReadExt::read_to_end(&mut stream, &mut rest).await.unwrap();
            parts.push(rest);
            *place.borrow_mut() = parts;
        }).unwrap();
        let peer = world.connect(&port);
        peer.send(b"first\nsecond;third;fourth");
        peer.finish();
        assert_eq!(peer.receive_to_end(), (Vec::new(), Ending::Fin));
        assert_eq!(*heard.borrow(), [&b"first"[..], b"second;", b"third;", b"fourth"]);
    }
}
