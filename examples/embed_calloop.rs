//! A reactor inside calloop, the loop of several Wayland compositors and of programs around them.
//!
//! Run it:      cargo run --example embed_calloop --features hosts
//! Elsewhere:   cargo run --example embed_calloop --features hosts -- tcp:9000:interface=127.0.0.1
//! Talk to it:  nc 127.0.0.1 8000; and type timer, stats or quit
//!
//! What it shows: the reactor is a source of calloop like any other, level-triggered, so that what a turn leaves over is
//! reported again. Its timers are a matter of how long calloop may wait. What is typed is calloop's own business; it
//! comes through one of its channels.

#[cfg(unix)]
mod host {
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use calloop::channel::{self, Event};
    use calloop::generic::Generic;
    use calloop::{EventLoop, Interest, Mode, PostAction};
    use twistor::Reactor;
    use twistor_examples::{Failure, arguments, guest, init_logging};

    /// What calloop's sources share.
    struct Host {
        reactor: Rc<Reactor>,
        goes_on: bool,
    }

    pub(crate) fn main() -> Result<(), Failure> {
        let [endpoint] = arguments("embed_calloop", guest::COMMANDS, [("ENDPOINT", Some("tcp:8000"))]);
        init_logging();

        let reactor = Rc::new(Reactor::new()?);
        guest::serve(&reactor, "embed_calloop", &endpoint)?;
        let mut event_loop = EventLoop::<Host>::try_new()?;

        let source = Generic::new(Rc::clone(&reactor), Interest::READ, Mode::Level);
        event_loop.handle().insert_source(source, |_, reactor, host| {
            host.goes_on = reactor.turn(Some(Duration::ZERO))?;
            Ok(PostAction::Continue)
        })?;
        let (sender, typed) = channel::channel();
        guest::each_typed_line(move |line| sender.send(line).is_ok());
        event_loop.handle().insert_source(typed, |event, (), host| {
            if let Event::Msg(line) = event {
                guest::command(&host.reactor, &line);
            }
        })?;

        let mut host = Host { reactor, goes_on: true };
        while host.goes_on {
            let until = host.reactor.next_deadline();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            event_loop.dispatch(left, &mut host)?;
            // A timer, or what was scheduled meanwhile: its descriptor does not tell of those.
            if host.goes_on && host.reactor.next_deadline().is_some_and(|at| at <= Instant::now()) {
                host.goes_on = host.reactor.turn(Some(Duration::ZERO))?;
            }
        }
        println!("embed_calloop: {}", host.reactor.stats());
        Ok(())
    }
}

#[cfg(unix)]
use host::main;

#[cfg(not(unix))]
fn main() {
    eprintln!("embed_calloop: a reactor has no descriptor on this system");
}
