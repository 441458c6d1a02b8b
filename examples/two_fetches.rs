//! Two fetches at a time: one takes two seconds, one three, and both are there after three.
//!
//! Run it:      cargo run --release --example two_fetches
//! Elsewhere:   cargo run --release --example two_fetches -- 0.5 1
//! Talk to it:  there is nothing to say; watch it. It ends by itself.
//!
//! What it shows: tasks. The program serves itself: every connection to its slow server is a task, and so is every
//! fetch. While one of them waits, for the clock or for the network, the others go on; all of it is one thread.

use std::io;
use std::time::Duration;

use twistor::{Handle, Stream, task};
use twistor_examples::{Failure, arguments, init_logging};

/// Answers a line with a number of seconds after that time.
async fn answer_slowly(stream: Stream) -> io::Result<()> {
    while let Some(line) = stream.read_line(100).await? {
        let line = line.trim();
        let seconds = line.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let Some(delay) = seconds else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no time")));
        };
        task::sleep(delay).await;
        stream.write_all(format!("an answer that took {line} s\n").as_bytes()).await?;
    }
    Ok(())
}

/// Asks the server at `address` for an answer that takes so many seconds.
async fn fetch(reactor: Handle, address: String, seconds: String) -> Result<String, Failure> {
    println!("fetch {seconds}: begins");
    let stream = reactor.connect_stream(&*address).await?;
    stream.write_all(format!("{seconds}\n").as_bytes()).await?;
    let answer = stream.read_line(100).await?.ok_or("the server has closed the connection")?;
    println!("fetch {seconds}: done");
    Ok(answer.trim().to_owned())
}

fn main() -> Result<(), Failure> {
    let about = "Fetches two answers at a time from a server that takes its time.";
    let times = arguments("two_fetches", about, [("SECONDS", Some("2")), ("SECONDS", Some("3"))]);
    init_logging();

    twistor::run(async |reactor| {
        let port = reactor.serve("tcp:0:interface=127.0.0.1", answer_slowly)?;
        let address = format!("tcp:{}", port.local_addr());

        let begin = reactor.now();
        let fetches = times.map(|seconds| reactor.spawn(fetch(reactor.clone(), address.clone(), seconds)));
        for fetch in fetches {
            println!("{}", fetch.await??);
        }
        println!("both after {:.1} s", (reactor.now() - begin).as_secs_f64());
        Ok(())
    })?
}
