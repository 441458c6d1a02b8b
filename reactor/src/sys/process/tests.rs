//! What a child finds in its place: descriptors, signals, terminal; and how it ends.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Command;

use super::{End, Plan, Rights, Running, Session, spawn};
use crate::sys::pty;

/// A plan for a shell script, with these descriptors and none of ours.
fn script(text: &str, descriptors: Vec<(RawFd, OwnedFd)>) -> Plan {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]);
    let map = descriptors.iter().map(|(number, source)| (*number, source.as_raw_fd())).collect();
    let owned = descriptors.into_iter().map(|(_, source)| source).collect();
    Plan { command, descriptors: map, owned, session: Session::Ours, rights: Rights::default() }
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

/// Waits for the end without asking again and again.
fn wait(mut running: Running) -> End {
    loop {
        if let Some(end) = running.reap() {
            return end;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn text(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// Runs a script to its end and returns what it wrote.
fn output(script_text: &str) -> String {
    let (reader, writer) = pipe().unwrap();
    let plan = script(script_text, vec![(0, null()), (1, writer.into()), (2, null())]);
    let running = spawn(plan, true).unwrap();
    let text = text(reader);
    assert_eq!(wait(running), End::Exited(0));
    text
}

#[test]
fn ends_are_told_exactly() {
    let end = |text| wait(spawn(script(text, vec![(0, null()), (1, null()), (2, null())]), true).unwrap());
    assert_eq!(end("exit 0"), End::Exited(0));
    assert_eq!(end("exit 255"), End::Exited(255));
    assert_eq!(end("kill -TERM $$"), End::Killed { signal: libc::SIGTERM, core: false });
    assert_eq!(end("kill -KILL $$"), End::Killed { signal: libc::SIGKILL, core: false });
}

#[test]
fn what_cannot_be_executed_is_an_error_and_leaves_no_child() {
    let plan = |program: &str| Plan { command: Command::new(program), ..script("", vec![(0, null())]) };
    let error = spawn(plan("/nowhere/at/all"), true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = spawn(plan("/dev/null"), true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn descriptors_can_change_places() {
    // In the child 3 is where 4 was here, and 4 where 3 was, or whatever numbers the two have.
    let (first_reader, first) = pipe().unwrap();
    let (second_reader, second) = pipe().unwrap();
    let (one, other) = (first.as_raw_fd(), second.as_raw_fd());
    let mut plan = script("", vec![(0, null()), (2, null())]);
    // Other shells know descriptors of one digit only.
    plan.command = Command::new("bash");
    plan.command.args(["-c", &format!("echo first >&{other}; echo second >&{one}")]);
    plan.descriptors.extend([(one, other), (other, one)]);
    plan.owned.extend([OwnedFd::from(first), OwnedFd::from(second)]);
    let running = spawn(plan, true).unwrap();
    assert_eq!((text(first_reader), text(second_reader)), ("first\n".to_owned(), "second\n".to_owned()));
    assert_eq!(wait(running), End::Exited(0));
}

#[test]
fn one_descriptor_can_be_several() {
    let (reader, writer) = pipe().unwrap();
    let mut plan = script("echo out; echo err >&2; echo seven >&7", vec![(0, null()), (1, writer.into())]);
    let source = plan.descriptors[1].1;
    plan.descriptors.extend([(2, source), (7, source)]);
    let running = spawn(plan, true).unwrap();
    assert_eq!(text(reader), "out\nerr\nseven\n");
    assert_eq!(wait(running), End::Exited(0));
}

#[test]
fn the_childs_last_words_do_not_stand_in_the_way_of_its_descriptors() {
    // The pipe that tells of a failed exec gets the lowest numbers that are free: all of them are asked for.
    for highest in [5, 12, 40] {
        let plan = |program: &str| {
            let mut plan = script("", Vec::new());
            plan.command = Command::new(program);
            plan.descriptors = (0..=highest).map(|number| (number, 2)).collect();
            plan
        };
        assert_eq!(spawn(plan("/nowhere"), true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(wait(spawn(plan("/bin/true"), true).unwrap()), End::Exited(0));
    }
}

#[test]
fn a_child_has_no_descriptors_but_those_it_was_given() {
    // One that anybody could inherit.
    let open = File::open("/dev/null").unwrap();
    // SAFETY: touches no memory.
    assert_eq!(unsafe { libc::fcntl(open.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    // The directory itself gets 3.
    assert_eq!(output("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ");
    let (reader, writer) = pipe().unwrap();
    let plan = script("ls /proc/self/fd", vec![(0, null()), (1, writer.into()), (2, null()), (9, null())]);
    wait(spawn(plan, true).unwrap());
    assert_eq!(text(reader), "0\n1\n2\n3\n9\n");
}

#[test]
fn where_no_range_can_be_closed_each_descriptor_is() {
    let flags = |file: &File| {
        // SAFETY: touches no memory.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) }
    };
    let open = File::open("/dev/null").unwrap();
    // SAFETY: touches no memory.
    assert_eq!(unsafe { libc::fcntl(open.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    super::close_each_on_exec(open.as_raw_fd(), open.as_raw_fd());
    assert_eq!(flags(&open), libc::FD_CLOEXEC);
    super::close_each_on_exec(5, 4);
}

#[test]
fn a_child_begins_with_the_usual_signals() {
    // SAFETY: ignores a signal that nobody here uses, and blocks another one for this thread only.
    unsafe {
        libc::signal(libc::SIGWINCH, libc::SIG_IGN);
        let mut set = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR2);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    let status = output("cat /proc/self/status");
    // 32 and 33 are the C library's own, which nobody else can change.
    let line = |name: &str| {
        let set = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(set, 16).unwrap() & !(0b11 << 31)
    };
    assert_eq!(line("SigIgn:"), 0);
    assert_eq!(line("SigBlk:"), 0);
    assert_eq!(line("SigCgt:"), 0);
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGWINCH, libc::SIG_DFL) };
}

#[test]
fn a_terminal_has_a_size_and_is_the_childs_own() {
    let (master, slave) = pty::open(33, 99).unwrap();
    let number = slave.as_raw_fd();
    let mut plan = script("stty size; tty >/dev/null && echo yes >/dev/tty", vec![(0, slave)]);
    plan.descriptors.extend([(1, number), (2, number)]);
    plan.session = Session::Terminal(0);
    let running = spawn(plan, true).unwrap();
    assert_eq!(wait(running), End::Exited(0));
    let mut text = Vec::new();
    // Its last reader is gone, which is an error on Linux.
    let _ = File::from(master).read_to_end(&mut text);
    assert_eq!(String::from_utf8(text).unwrap(), "33 99\r\nyes\r\n");
}

#[test]
fn a_signal_reaches_the_child_by_its_descriptor_and_by_its_number() {
    for with_descriptor in [true, false] {
        let (reader, mut writer) = pipe().unwrap();
        let plan = script("cat", vec![(0, reader.into()), (1, null()), (2, null())]);
        let running = spawn(plan, with_descriptor).unwrap();
        assert_eq!(running.descriptor().is_some(), with_descriptor && cfg!(target_os = "linux"));
        writer.write_all(b"x").unwrap();
        running.signal(libc::SIGTERM).unwrap();
        assert_eq!(running.signal(200).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(wait(running), End::Killed { signal: libc::SIGTERM, core: false });
    }
}
