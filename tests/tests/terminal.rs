//! Raw mode of a terminal, and that whatever ends a program ends it.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use twistor::{MouseReports, RawMode, Reactor, Signal, WindowSize};
use twistor_tests::pty::{Pty, Running, Session};
use twistor_tests::{PATIENCE, World, kernel_contract};

const ROLE: &str = "TWISTOR_TERMINAL_ROLE";
const ON: &str = "\x1b[?1049h\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?25l";
const OFF: &str = "\x1b[?25h\x1b[?2004l\x1b[?1006l\x1b[?1000l\x1b[?1049l";

fn everything() -> twistor::RawModeBuilder {
    RawMode::builder().alternate_screen().mouse(MouseReports::Clicks).bracketed_paste().hide_cursor()
}

/// The programs that the tests below run in a terminal.
#[test]
fn plays_its_role_if_it_has_one() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let raw = match &*role {
        "cbreak" => everything().keep_signals().enter(),
        _ => everything().enter(),
    };
    let raw = raw.expect("a terminal");
    print!("ready\r\n");
    let mut key = [0];
    let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a clone"));
    let mut wait = || stdin.read_exact(&mut key).expect("a key");
    match &*role {
        "drop" => wait(),
        "panic" => {
            wait();
            panic!("while it was raw");
        }
        "another thread panics" => {
            wait();
            let thread = std::thread::spawn(|| panic!("while it was raw"));
            assert!(thread.join().is_err());
            print!("still there\r\n");
            wait();
        }
        "panic twice" => {
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("again");
                }
            }
            wait();
            let _bomb = Bomb;
            panic!("while it was raw");
        }
        "exit" => {
            wait();
            std::process::exit(3);
        }
        "abort" => {
            wait();
            std::process::abort();
        }
        "suspend" => {
            wait();
            raw.suspend().expect("a terminal");
            print!("back\r\n");
            wait();
        }
        "pause" => {
            wait();
            raw.pause().expect("a terminal");
            raw.pause().expect("twice is nothing");
            print!("paused\r\n");
            // A line, now.
            wait();
            raw.resume().expect("a terminal");
            print!("resumed\r\n");
            wait();
            wait();
        }
        "resize" => {
            let reactor = Reactor::new().expect("a reactor");
            let raw = Rc::new(raw);
            let watched = Rc::clone(&raw);
            reactor
                .on_signal(Signal::WINCH, move |reactor| {
                    let WindowSize { columns, rows } = watched.size().expect("a size");
                    print!("{columns} by {rows}\r\n");
                    reactor.stop();
                })
                .expect("a hook");
            print!("watching\r\n");
            reactor.run().expect("a run");
        }
        "reactor" => {
            let reactor = Reactor::new().expect("a reactor");
            let _ = reactor.call_soon(|_| print!("running\r\n"));
            reactor.run().expect("a run");
        }
        _ => loop {
            wait();
        },
    }
}

fn start(pty: &mut Pty, role: &str, session: Session) -> Running {
    let mut command = Command::new(std::env::current_exe().expect("the test program"));
    command.args(["plays_its_role_if_it_has_one", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env("RUST_BACKTRACE", "0");
    let running = pty.start(command, session, |_| {});
    pty.until(ON);
    pty.until("ready");
    assert!(pty.modes().are_raw());
    running
}

#[test]
fn the_terminal_is_as_before_when_raw_mode_is_dropped() {
    let mut pty = Pty::new();
    let before = pty.modes();
    assert!(!before.are_raw());
    let mut running = start(&mut pty, "drop", Session::Own);
    // A key like any other; one that would be typed into the shell is thrown away.
    pty.press("\x03leftover");
    assert!(running.wait().success());
    assert_eq!(pty.modes(), before);
    pty.until(OFF);
    assert!(!pty.rest().contains('\x1b'));
}

#[test]
fn a_panic_can_be_read_and_leaves_the_terminal_as_before() {
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut running = start(&mut pty, "panic", Session::Own);
    pty.press("x");
    assert!(!running.wait().success());
    assert_eq!(pty.modes(), before);
    // The first screen, the message, raw mode until it is unwound.
    pty.until(OFF);
    assert!(!pty.until("while it was raw").contains('\x1b'), "it is shown on the first screen");
    pty.until(ON);
    pty.until(OFF);
    assert!(!pty.rest().contains('\x1b'));
}

#[test]
fn a_panic_of_another_thread_does_not_end_raw_mode() {
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut running = start(&mut pty, "another thread panics", Session::Own);
    pty.press("x");
    pty.until(OFF);
    pty.until("while it was raw");
    pty.until(ON);
    pty.until("still there");
    assert!(pty.modes().are_raw());
    pty.press("x");
    assert!(running.wait().success());
    assert_eq!(pty.modes(), before);
}

#[test]
fn exit_and_abort_and_a_panic_that_aborts_leave_the_terminal_as_before() {
    for role in ["exit", "abort", "panic twice"] {
        let mut pty = Pty::new();
        let before = pty.modes();
        let mut running = start(&mut pty, role, Session::Own);
        pty.press("x");
        let status = running.wait();
        assert_eq!(status.code(), (role == "exit").then_some(3), "{role}: {status}");
        assert_eq!(pty.modes(), before, "{role}");
        pty.until(OFF);
        let rest = pty.rest();
        assert!(rest.rfind("\x1b[?1049h") <= rest.rfind("\x1b[?1049l"), "{role}: {rest:?}");
    }
}

#[test]
fn a_signal_that_ends_the_program_does_so_and_leaves_the_terminal_as_before() {
    use std::os::unix::process::ExitStatusExt;
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
        let mut pty = Pty::new();
        let before = pty.modes();
        let mut running = start(&mut pty, "signal", Session::Own);
        running.signal(signal.as_raw());
        assert_eq!(running.wait().signal(), Some(signal.as_raw()));
        assert_eq!(pty.modes(), before);
        pty.until(OFF);
    }
}

#[test]
fn a_reactor_that_a_signal_stops_leaves_the_terminal_as_before() {
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut running = start(&mut pty, "reactor", Session::Own);
    pty.until("running");
    running.signal(Signal::TERM.as_raw());
    assert!(running.wait().success());
    assert_eq!(pty.modes(), before);
    pty.until(OFF);
}

#[test]
fn ctrl_c_keeps_its_effect_where_signals_are_kept() {
    use std::os::unix::process::ExitStatusExt;
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut running = start(&mut pty, "cbreak", Session::Own);
    assert!(pty.modes().have_signals());
    pty.press("x\x03");
    assert_eq!(running.wait().signal(), Some(Signal::INT.as_raw()));
    assert_eq!(pty.modes(), before);
    pty.until(OFF);
}

#[test]
fn a_stopped_program_leaves_the_terminal_until_it_goes_on() {
    for role in ["suspend", "signal"] {
        let mut pty = Pty::new();
        let before = pty.modes();
        let mut running = start(&mut pty, role, Session::OfTheTest);
        for _ in 0..2 {
            if role == "suspend" {
                pty.press("x");
            } else {
                running.signal(Signal::TSTP.as_raw());
            }
            running.until_state('T');
            assert_eq!(pty.modes(), before, "{role}");
            pty.until(OFF);
            running.signal(Signal::CONT.as_raw());
            pty.until(ON);
            pty.until_modes("raw again", twistor_tests::pty::Modes::are_raw);
            if role == "suspend" {
                break;
            }
        }
        if role == "suspend" {
            pty.until("back");
            pty.press("x");
            assert!(running.wait().success());
        } else {
            running.signal(Signal::TERM.as_raw());
            assert!(!running.wait().success());
        }
        assert_eq!(pty.modes(), before);
    }
}

#[test]
fn raw_mode_can_be_paused() {
    let mut pty = Pty::new();
    let before = pty.modes();
    let mut running = start(&mut pty, "pause", Session::Own);
    pty.press("x");
    pty.until(OFF);
    pty.until("paused");
    assert_eq!(pty.modes(), before);
    pty.press("x\n");
    pty.until(ON);
    pty.until("resumed");
    assert!(pty.modes().are_raw());
    pty.press("xy");
    assert!(running.wait().success());
    assert_eq!(pty.modes(), before);
    assert_eq!(pty.rest().matches(OFF).count(), 1);
}

#[test]
fn a_resize_is_heard_of() {
    let mut pty = Pty::new();
    let mut running = start(&mut pty, "resize", Session::Own);
    pty.until("watching");
    pty.resize(132, 43);
    pty.until("132 by 43");
    assert!(running.wait().success());
}

#[test]
fn what_is_no_terminal_is_refused_and_a_redirected_output_is_no_obstacle() {
    let null = File::options().read(true).write(true).open("/dev/null").expect("a file");
    let error = RawMode::builder().enter_on(&null, &null).expect_err("no terminal");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("no terminal"), "{error}");

    let mut pty = Pty::new();
    let before = pty.modes();
    let raw = everything().enter_on(pty.program(), &null).expect("raw mode");
    assert!(pty.modes().are_raw());
    assert_eq!(raw.size().expect("a size"), WindowSize { columns: 80, rows: 24 });
    assert!(format!("{raw:?}").contains("true"));
    pty.until(ON);
    // One inside the other, as by two parts of a program.
    let inner = RawMode::builder().enter_on(pty.program(), &null).expect("raw mode");
    drop(inner);
    assert!(pty.modes().are_raw());
    drop(raw);
    pty.until(OFF);
    assert_eq!(pty.modes(), before);
}

#[test]
fn a_terminal_that_is_gone_is_an_error_and_nothing_worse() {
    let pty = Pty::new();
    let program = pty.program().try_clone().expect("a clone");
    let raw = everything().enter_on(&program, &program).expect("raw mode");
    drop(pty);
    // A program that another test is starting may have the user's side for a moment longer.
    let deadline = Instant::now() + PATIENCE;
    while raw.pause().is_ok() {
        assert!(Instant::now() < deadline);
        let _ = raw.resume();
    }
    assert!(raw.resume().is_err());
    drop(raw);
}

kernel_contract! {
    fn keys_are_read_through_the_loop_one_by_one(driver) {
        let world = World::new(driver);
        let mut pty = Pty::new();
        let raw = RawMode::builder().enter_on(pty.program(), pty.program()).expect("raw mode");
        let mut keys = File::from(pty.program().try_clone().expect("a clone"));
        let (seen, count) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (last, calls) = (Rc::clone(&seen), Rc::clone(&count));
        let watch = world.reactor.add_reader(pty.program(), move |_| {
            let mut key = [0];
            keys.read_exact(&mut key).expect("a key");
            last.set(key[0]);
            calls.set(calls.get() + 1);
        });
        pty.press("a");
        world.until("a key without a newline", || seen.get() == b'a');
        pty.press("\x03\x1b[A");
        world.until("all keys", || count.get() == 5);
        assert_eq!(seen.get(), b'A');
        assert!(watch.expect("a watch").remove());
        drop(raw);
        assert!(!pty.modes().are_raw());
        assert_eq!(pty.rest(), "", "keys are not shown");
    }
}
