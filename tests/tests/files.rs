//! Files on threads of their own.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use twistor::{AsyncFile, Deferred, JobError, Transport};
use twistor_tests::{Log, Script, World, contract, in_child, kernel_contract, pattern, process};

/// A directory of one test, removed when it is over.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("twistor-files-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path
    }

    fn fifo(&self) -> PathBuf {
        let path = self.0.join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Outcome<T> = Rc<RefCell<Option<io::Result<T>>>>;

fn watch<T: 'static>(deferred: Deferred<T, io::Error>) -> Outcome<T> {
    let outcome = Rc::new(RefCell::new(None));
    let place = Rc::clone(&outcome);
    deferred.on_done(move |_, result| *place.borrow_mut() = Some(result));
    outcome
}

fn outcome_of<T: 'static>(world: &World, deferred: Deferred<T, io::Error>) -> io::Result<T> {
    let outcome = watch(deferred);
    assert!(outcome.borrow().is_none(), "no call runs a hook");
    world.until("the file's threads are done", || outcome.borrow().is_some());
    outcome.take().expect("just seen")
}

fn open(world: &World, path: &Path, options: &mut OpenOptions) -> AsyncFile {
    outcome_of(world, world.reactor.open_file(path, options)).expect("a file")
}

fn job_error(error: &io::Error) -> Option<&JobError> {
    error.source()?.downcast_ref()
}

contract! {
    fn a_file_is_read_written_and_replaced(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.file("a", b"old content");
        assert_eq!(outcome_of(&world, world.reactor.read_file(&path)).expect("read"), b"old content");
        outcome_of(&world, world.reactor.write_file(&path, "new")).expect("written");
        assert_eq!(fs::read(&path).expect("a file"), b"new");
        outcome_of(&world, world.reactor.replace_file(&path, vec![7; 100_000])).expect("replaced");
        assert_eq!(outcome_of(&world, world.reactor.read_file(&path)).expect("read"), vec![7; 100_000]);
        let other = directory.0.join("b");
        outcome_of(&world, world.reactor.replace_file(&other, "made")).expect("made");
        assert_eq!(fs::read(&other).expect("a file"), b"made");
        let empty = directory.file("c", b"");
        assert_eq!(outcome_of(&world, world.reactor.read_file(empty)).expect("read"), b"");
        assert_eq!(directory.names(), ["a", "b", "c"], "no temporary file is left");
        assert_eq!(outcome_of(&world, world.reactor.defer_to_file_thread(|| Ok(6 * 7))).expect("done"), 42);
    }

    fn an_error_names_the_path_and_what_was_to_be_done(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let missing = directory.0.join("no/such");
        let check = |error: io::Error, verb: &str| {
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot {verb} {missing:?}: ")), "{text}");
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            assert!(system.is_some_and(|error| error.raw_os_error().is_some()), "the system's error is its source");
        };
        let reactor = &world.reactor;
        check(outcome_of(&world, reactor.read_file(&missing)).expect_err("missing"), "read");
        check(outcome_of(&world, reactor.write_file(&missing, "x")).expect_err("missing"), "write");
        check(outcome_of(&world, reactor.replace_file(&missing, "x")).expect_err("missing"), "replace");
        check(outcome_of(&world, reactor.open_file(&missing, OpenOptions::new().read(true))).expect_err("missing"), "open");
        let job = reactor.defer_to_file_thread(move || fs::remove_file("/no/such").map_err(|_| io::Error::other("mine")));
        assert_eq!(outcome_of(&world, job).expect_err("missing").to_string(), "mine");
        let file = open(&world, &directory.file("a", b"text"), OpenOptions::new().read(true));
        let error = outcome_of(&world, file.write_at(0, "x")).expect_err("read only").to_string();
        assert!(error.starts_with(&format!("cannot write {:?}: ", file.name())), "{error}");
        let error = outcome_of(&world, file.with(|_| -> io::Result<()> { panic!("in a job") })).expect_err("a panic");
        assert!(error.to_string().ends_with("the job panicked: in a job"), "{error}");
    }

    fn a_file_that_is_too_large_is_not_read(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.file("a", &[0; 1001]);
        let read = |limit| outcome_of(&world, world.reactor.read_file_up_to(&path, limit));
        assert_eq!(read(1001).expect("just fits").len(), 1001);
        let error = read(1000).expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("more than the 1000 bytes"), "{error}");
        if Path::new("/dev/zero").exists() {
            let endless = outcome_of(&world, world.reactor.read_file_up_to("/dev/zero", 1 << 20));
            assert_eq!(endless.expect_err("too large").kind(), ErrorKind::FileTooLarge);
        }
    }

    fn a_replaced_file_keeps_its_permissions_and_links_and_only_regular_files_are_replaced(driver) {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.file("a", b"old");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("permissions");
        let link = directory.0.join("link");
        symlink("a", &link).expect("a link");
        outcome_of(&world, world.reactor.replace_file(&link, "new")).expect("replaced");
        assert_eq!(fs::read(&path).expect("a file"), b"new");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o640);
        for kept in [Path::new("/dev/null"), &directory.0] {
            let error = outcome_of(&world, world.reactor.replace_file(kept, "x")).expect_err("no file");
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        assert_eq!(directory.names(), ["a", "link"]);
        fs::remove_file(&path).expect("removed");
        outcome_of(&world, world.reactor.replace_file(&link, "made")).expect("made");
        assert_eq!(fs::read(&path).expect("a file"), b"made");
        assert!(link.is_symlink(), "also a link that pointed to nothing");
        fs::remove_file(&path).expect("removed");
        symlink("link", &path).expect("a link");
        assert!(outcome_of(&world, world.reactor.replace_file(&link, "x")).is_err(), "links in a circle");
    }

    fn what_nobody_else_may_read_is_replaced_by_what_nobody_else_may_read(driver) {
        use std::os::unix::fs::PermissionsExt;
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.file("secret", b"old");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        let is_over = Arc::new(AtomicBool::new(false));
        let (place, until) = (directory.0.clone(), Arc::clone(&is_over));
        // Whether a file could be opened by others, at any moment.
        let watching = std::thread::spawn(move || {
            let mut exposed = false;
            while !until.load(Ordering::SeqCst) {
                let entries = fs::read_dir(&place).expect("a directory").flatten();
                let modes = entries.filter_map(|entry| Some(entry.metadata().ok()?.permissions().mode()));
                exposed |= modes.fold(0, |all, mode| all | mode) & 0o077 != 0;
            }
            exposed
        });
        outcome_of(&world, world.reactor.replace_file(&path, vec![7; 32 << 20])).expect("replaced");
        is_over.store(true, Ordering::SeqCst);
        assert!(!watching.join().expect("no panic"));
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    fn positioned_calls_read_and_write_what_they_say(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let content = pattern(300_000);
        let path = directory.file("a", &content);
        let file = open(&world, &path, OpenOptions::new().read(true).write(true));
        let pieces: Vec<_> = (0..10).map(|n| watch(file.read_at(n * 30_000, 30_000))).collect();
        world.until("all pieces", || pieces.iter().all(|piece| piece.borrow().is_some()));
        let read: Vec<u8> = pieces.iter().flat_map(|piece| piece.take().expect("there").expect("read")).collect();
        assert!(read == content);
        assert_eq!(outcome_of(&world, file.read_at(299_990, 100)).expect("read"), content[299_990..]);
        assert_eq!(outcome_of(&world, file.read_at(0, usize::MAX)).expect("read"), content);
        assert_eq!(outcome_of(&world, file.read_at(1 << 40, 10)).expect("read"), b"");
        assert_eq!(outcome_of(&world, file.read_at(0, 0)).expect("read"), b"");
        outcome_of(&world, file.write_at(299_999, "abc")).expect("written");
        assert_eq!(outcome_of(&world, file.len()).expect("a length"), 300_002);
        assert_eq!(outcome_of(&world, file.read(5)).expect("read"), content[..5], "they do not move its place");
    }

    fn calls_at_the_files_place_are_done_in_their_order(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.0.join("a");
        let mut options = OpenOptions::new();
        let file = open(&world, &path, options.read(true).write(true).create_new(true));
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut expected = String::new();
        for n in 0..200 {
            let order = Rc::clone(&order);
            expected += &format!("{n},");
            file.write(format!("{n},")).on_done(move |_, outcome| {
                outcome.expect("written");
                order.borrow_mut().push(n);
            });
        }
        file.sync().on_done(|_, outcome| outcome.expect("synced"));
        let length = watch(file.len());
        let closed = watch(file.close());
        let late = watch(file.write("late"));
        world.until("it is closed", || closed.borrow().is_some());
        assert_eq!(length.take().expect("before").expect("a length"), expected.len() as u64);
        assert!(order.borrow().is_sorted() && order.borrow().len() == 200);
        assert_eq!(fs::read_to_string(&path).expect("a file"), expected);
        let error = late.take().expect("at once").expect_err("closed");
        assert_eq!(error.to_string(), format!("cannot write {path:?}: it is closed"));

        let file = open(&world, &path, OpenOptions::new().read(true));
        let parts: Vec<_> = (0..5).map(|_| watch(file.read(4))).collect();
        let end = watch(file.read(1 << 20));
        let nothing = watch(file.read(10));
        world.until("all are read", || nothing.borrow().is_some());
        let mut read: Vec<u8> = parts.iter().flat_map(|part| part.take().expect("there").expect("read")).collect();
        read.extend(end.take().expect("there").expect("read"));
        assert_eq!(String::from_utf8_lossy(&read), expected);
        assert_eq!(nothing.take().expect("there").expect("read"), b"");
    }

    fn a_file_comes_in_pieces(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let content = pattern(100_000);
        let file = open(&world, &directory.file("a", &content), OpenOptions::new().read(true));
        let read = |range: (std::ops::Bound<u64>, std::ops::Bound<u64>), size: usize| {
            let (all, lengths) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
            let (to, sizes) = (Rc::clone(&all), Rc::clone(&lengths));
            let count = outcome_of(&world, file.read_chunks(range, size, move |_, piece| {
                sizes.borrow_mut().push(piece.len());
                to.borrow_mut().extend_from_slice(&piece);
            }));
            assert_eq!(count.expect("read"), all.borrow().len() as u64);
            (all.take(), lengths.take())
        };
        use std::ops::Bound::{Excluded, Included, Unbounded};
        assert!(read((Unbounded, Unbounded), 30_000) == (content.clone(), vec![30_000, 30_000, 30_000, 10_000]));
        assert!(read((Unbounded, Unbounded), 50_000) == (content.clone(), vec![50_000, 50_000]));
        assert!(read((Included(10), Excluded(25)), 10) == (content[10..25].to_vec(), vec![10, 5]));
        assert!(read((Included(10), Included(19)), 10) == (content[10..20].to_vec(), vec![10]));
        assert!(read((Included(99_999), Unbounded), 10) == (content[99_999..].to_vec(), vec![1]));
        assert!(read((Included(200_000), Unbounded), 10) == (vec![], vec![]));
        assert!(read((Included(10), Excluded(5)), 10) == (vec![], vec![]));
        assert!(read((Unbounded, Excluded(3)), 0) == (content[..3].to_vec(), vec![1, 1, 1]));
    }

    fn a_hook_that_takes_its_time_holds_the_next_piece_back(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let file = open(&world, &directory.file("a", &pattern(4000)), OpenOptions::new().read(true));
        let (calls, held) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
        let (count, place) = (Rc::clone(&calls), Rc::clone(&held));
        let outcome = watch(file.read_chunks(.., 1000, move |handle, _| {
            count.set(count.get() + 1);
            let (resolver, deferred) = Deferred::<(), String>::new(handle);
            *place.borrow_mut() = Some(resolver);
            deferred
        }));
        for piece in 1..=3 {
            world.until("a piece", || calls.get() == piece);
            world.run_for(Duration::from_millis(5));
            assert_eq!(calls.get(), piece, "the next one waits");
            held.take().expect("held").resolve(Ok(()));
        }
        world.until("the last piece", || calls.get() == 4);
        held.take().expect("held").resolve(Err("disk of the peer full".into()));
        world.until("the end", || outcome.borrow().is_some());
        let error = outcome.take().expect("an end").expect_err("it failed").to_string();
        assert!(error.starts_with("cannot hand on ") && error.ends_with(": disk of the peer full"), "{error}");
    }

    fn a_download_goes_no_faster_than_its_peer_reads(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let content = pattern(8 << 20);
        let file = open(&world, &directory.file("a", &content), OpenOptions::new().read(true));
        let (transport, peer) = world.pair(Script::new(&Log::new()));
        let (to, most) = (transport.clone(), Rc::new(Cell::new(0)));
        let queued = Rc::clone(&most);
        file.read_chunks(.., 64 * 1024, move |_, piece| {
            to.write_bytes(piece);
            queued.set(queued.get().max(to.queued()));
            to.flushed()
        })
        .on_done(move |_, outcome| {
            assert_eq!(outcome.expect("sent"), 8 << 20);
            transport.lose_connection();
        });
        world.run_for(Duration::from_millis(20));
        let (received, _) = peer.receive_to_end();
        assert!(received == content);
        assert!(most.get() <= 64 * 1024, "{} bytes were queued", most.get());
    }

    fn a_download_to_a_peer_that_goes_away_fails_with_the_reason(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let file = open(&world, &directory.file("a", &pattern(8 << 20)), OpenOptions::new().read(true));
        let (transport, mut peer) = world.pair(Script::new(&Log::new()));
        let outcome = watch(file.read_chunks(.., 64 * 1024, move |_, piece| {
            transport.write_bytes(piece);
            transport.flushed()
        }));
        let _ = peer.receive(100_000);
        peer.reset();
        world.until("the end", || outcome.borrow().is_some());
        let error = outcome.take().expect("an end").expect_err("the peer is gone").to_string();
        assert!(error.starts_with("cannot hand on "), "{error}");
    }

    fn pieces_end_with_a_cancel_or_a_panic_and_their_hook_is_dropped(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let file = open(&world, &directory.file("a", &pattern(4000)), OpenOptions::new().read(true));
        let kept = Rc::new(());
        let (held, canceller, calls) = (Rc::clone(&kept), Rc::new(RefCell::new(None)), Rc::new(Cell::new(0)));
        let (own, count) = (Rc::clone(&canceller), Rc::clone(&calls));
        let reading = file.read_chunks(.., 1000, move |_, _| {
            let _ = &held;
            count.set(count.get() + 1);
            // From inside its own hook.
            let _ = own.take().is_some_and(|own: twistor::Canceller| own.cancel());
        });
        *canceller.borrow_mut() = Some(reading.canceller());
        let outcome = watch(reading);
        world.until("the end", || outcome.borrow().is_some());
        assert_eq!(job_error(&outcome.take().expect("an end").expect_err("cancelled")), Some(&JobError::Cancelled));
        assert_eq!((calls.get(), Rc::strong_count(&kept)), (1, 1));

        let held = Rc::clone(&kept);
        let outcome = outcome_of(&world, file.read_chunks(.., 1000, move |_, _| -> () {
            let _ = &held;
            panic!("in a hook of a file");
        }));
        assert!(outcome.expect_err("a panic").to_string().ends_with("a hook panicked"));
        assert_eq!((world.reactor.stats().panics, Rc::strong_count(&kept)), (1, 1));

        let held = Rc::clone(&kept);
        let reading = file.read_chunks(.., 1000, move |_, _| { let _ = &held; });
        assert!(reading.cancel() && !reading.cancel());
        assert_eq!(Rc::strong_count(&kept), 1, "at once");
        world.run_for(Duration::from_millis(5));
        assert_eq!(outcome_of(&world, file.len()).expect("it goes on"), 4000);
    }

    fn what_was_cancelled_before_it_began_is_not_done(driver) {
        let (world, directory) = (World::with(driver, |builder| builder.file_threads(1)), Directory::new());
        let path = directory.0.join("a");
        let busy = watch(world.reactor.defer_to_file_thread(|| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        }));
        let writing = world.reactor.write_file(&path, "x");
        let canceller = writing.canceller();
        let outcome = watch(writing);
        assert!(canceller.cancel() && !canceller.cancel());
        assert!(outcome.borrow().is_none(), "no call runs a hook");
        world.until("the outcome", || outcome.borrow().is_some());
        let error = outcome.take().expect("an outcome").expect_err("cancelled");
        assert_eq!(error.to_string(), format!("cannot write {path:?}: the job was cancelled"));
        assert_eq!(job_error(&error), Some(&JobError::Cancelled));
        world.until("the thread is free", || busy.borrow().is_some());
        assert_eq!(outcome_of(&world, world.reactor.defer_to_file_thread(|| Ok(1))).expect("done"), 1);
        assert!(!path.exists());
    }

    fn a_call_in_the_middle_of_the_order_can_be_cancelled(driver) {
        let (world, directory) = (World::with(driver, |builder| builder.file_threads(1)), Directory::new());
        let path = directory.0.join("a");
        let file = open(&world, &path, OpenOptions::new().write(true).create(true));
        let busy = world.reactor.defer_to_file_thread(|| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        });
        busy.on_done(|_, _| {});
        let all: Vec<_> = ["a", "b", "c"].map(|text| file.write(text)).into();
        assert!(all[1].cancel());
        outcome_of(&world, file.close()).expect("closed");
        assert_eq!(fs::read(&path).expect("a file"), b"ac");
    }

    fn calls_above_the_limit_fail_at_once(driver) {
        let world = World::with(driver, |builder| builder.file_threads(1).file_queue(2));
        let job = || watch(world.reactor.defer_to_file_thread(|| {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        }));
        // Two may wait; whether the first has begun by now, nobody knows.
        let jobs: Vec<_> = (0..7).map(|_| job()).collect();
        world.turns(2);
        let full: Vec<_> = jobs[2..].iter().filter_map(|outcome| outcome.borrow_mut().take()).collect();
        assert!(matches!(full.len(), 4 | 5), "{full:?}");
        for outcome in &full {
            let error = outcome.as_ref().expect_err("full");
            assert_eq!((error.kind(), job_error(error)), (ErrorKind::ResourceBusy, Some(&JobError::Full)));
        }
        let done = || jobs.iter().filter(|outcome| outcome.borrow().is_some()).count();
        world.until("the others are done", || done() == jobs.len() - full.len());
        assert!(jobs.iter().filter_map(|outcome| outcome.take()).all(|outcome| outcome.is_ok()));
    }

    fn limits_of_nothing_are_refused(driver) {
        for error in [
            World::try_with(driver, |builder| builder.file_threads(0)).map(drop),
            World::try_with(driver, |builder| builder.file_queue(0)).map(drop),
        ] {
            assert!(error.expect_err("no sense").to_string().contains("file_"));
        }
    }

    fn a_connection_is_served_while_a_large_file_is_read(driver) {
        const SIZE: usize = 64 << 20;
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.0.join("large");
        // A hole reads like anything else, and need not be written first.
        fs::File::create(&path).and_then(|file| file.set_len(SIZE as u64)).expect("a file");
        let file = open(&world, &path, OpenOptions::new().read(true));
        let (_, peer) = world.pair(Script::new(&Log::new()).on_data(Transport::write));
        let pieces = Rc::new(Cell::new(0));
        let count = Rc::clone(&pieces);
        let reading = watch(file.read_chunks(.., 256 * 1024, move |_, _| count.set(count.get() + 1)));
        let (mut rounds, mut most) = (0, 0);
        while reading.borrow().is_none() {
            let before = world.reactor.stats().passes;
            peer.send(b"x");
            assert_eq!(peer.receive(1), b"x");
            most = most.max(world.reactor.stats().passes - before);
            rounds += 1;
        }
        assert_eq!(reading.take().expect("an end").expect("read"), SIZE as u64);
        assert_eq!(pieces.get(), 256);
        assert!(rounds >= 20, "only {rounds} echoes while {} pieces were read", pieces.get());
        // A pass that hears of the byte echoes it; some more may go by until the kernel or the link tells of
        // it.
        assert!(most <= 30, "an echo took {most} passes");
    }

    fn what_waits_for_a_file_goes_with_the_reactor(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let path = directory.file("a", &pattern(10_000));
        let file = open(&world, &path, OpenOptions::new().read(true));
        let kept = Rc::new(());
        let (held, own) = (Rc::clone(&kept), file.clone());
        file.read(10).on_done(move |_, _| drop((held, own)));
        let (held, own) = (Rc::clone(&kept), file.clone());
        file.len().on_done(move |_, _| drop((held, own)));
        let (held, own) = (Rc::clone(&kept), file.clone());
        file.read_chunks(.., 100, move |_, _| { let _ = (&held, &own); }).on_done(|_, _| {});
        let (handle, held) = (twistor::Handle::clone(&world.reactor), Rc::clone(&kept));
        handle.read_file(&path).on_done(move |_, _| drop(held));
        world.turns(1);
        drop(world);
        assert_eq!(Rc::strong_count(&kept), 1);
        // Nobody is there to hear of these.
        file.read(10).on_done(|_, _| unreachable!("there is no loop"));
        file.close().on_done(|_, _| unreachable!("there is no loop"));
        handle.read_file(&path).on_done(|_, _| unreachable!("there is no loop"));
    }
}

kernel_contract! {
    // Real threads: a simulated reactor makes the calls itself.
    fn a_file_that_is_stuck_delays_neither_jobs_nor_names_nor_other_files(driver) {
        let (world, directory) = (World::new(driver), Directory::new());
        let fifo = directory.fifo();
        // Nobody writes: opening it does not return.
        let stuck = watch(world.reactor.open_file(&fifo, OpenOptions::new().read(true)));
        let job = watch_job(world.reactor.defer_to_thread(|| 1));
        world.until("a job", || job.get());
        let (port, met) = (world.listen(|_| Script::new(&Log::new())), Rc::new(Cell::new(false)));
        let met_now = Rc::clone(&met);
        let endpoint = format!("tcp:localhost:{}", port.local_addr().socket_addr().expect("an IP port").port());
        world.reactor.connect(endpoint, |_| Script::new(&Log::new())).on_done(move |_, _| met_now.set(true));
        world.until("a name", || met.get());
        let path = directory.file("a", b"other");
        assert_eq!(outcome_of(&world, world.reactor.read_file(path)).expect("read"), b"other");
        assert!(stuck.borrow().is_none());
        let mut writer = OpenOptions::new().write(true).open(&fifo).expect("a writer");
        world.until("it is open", || stuck.borrow().is_some());
        let file = stuck.take().expect("just seen").expect("open");

        // Reads of the same FIFO wait for each other and hold one thread, however many there are.
        let reads: Vec<_> = (0..20).map(|_| watch(file.read(3))).collect();
        let path = directory.file("b", b"still");
        assert_eq!(outcome_of(&world, world.reactor.read_file(path)).expect("read"), b"still");
        writer.write_all(b"onetwo").expect("room");
        world.until("two are read", || reads[1].borrow().is_some());
        assert_eq!(reads[0].take().expect("read").expect("data"), b"one");
        assert_eq!(reads[1].take().expect("read").expect("data"), b"two");
        drop(writer);
        world.until("the end", || reads[19].borrow().is_some());
    }

    fn more_calls_on_one_file_than_may_wait_fail_at_once(driver) {
        let world = World::with(driver, |builder| builder.file_queue(3));
        let directory = Directory::new();
        let file = open(&world, &directory.file("a", b"text"), OpenOptions::new().read(true));
        let (release, released) = mpsc::channel::<()>();
        let stuck = watch(file.with(move |_| released.recv().map_err(io::Error::other)));
        let calls: Vec<_> = (0..6).map(|_| watch(file.len())).collect();
        world.turns(2);
        // Three may wait, the one that holds the others up among them if it has not begun.
        let full = calls.iter().filter(|call| call.borrow().is_some()).count();
        assert!((3..=4).contains(&full), "{full}");
        release.send(()).expect("it waits");
        world.until("the rest", || calls.iter().all(|call| call.borrow().is_some()));
        assert_eq!(calls.iter().filter(|call| call.take().is_some_and(|call| call.is_ok())).count(), 6 - full);
        assert!(stuck.take().is_some_and(|stuck| stuck.is_ok()));
    }

    fn threads_and_descriptors_are_gone_with_the_reactor(driver) {
        in_child(module_path!(), driver, || {
            let directory = Directory::new();
            let (threads, descriptors) = (process::threads(), process::open_descriptors());
            let world = World::with(driver, |builder| builder.file_threads(2));
            assert_eq!(process::threads(), threads, "none before the first call");
            let finished = Arc::new(AtomicUsize::new(0));
            let path = directory.file("a", b"text");
            let file = open(&world, &path, OpenOptions::new().read(true));
            for _ in 0..500 {
                let count = Arc::clone(&finished);
                let job = world.reactor.defer_to_file_thread(move || {
                    std::thread::sleep(Duration::from_millis(5));
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                });
                job.on_done(|_, _| {});
                file.read(1).on_done(|_, _| {});
            }
            while finished.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            assert_eq!(process::threads(), threads + 2);
            drop(world);
            assert_eq!(process::threads(), threads);
            assert!(finished.load(Ordering::SeqCst) < 500, "what has not begun is dropped");
            drop(file);
            assert_eq!(process::open_descriptors(), descriptors);
        });
    }

    fn a_program_without_descriptors_left_is_told_so_and_goes_on(driver) {
        in_child(module_path!(), driver, || {
            let (world, directory) = (World::new(driver), Directory::new());
            let path = directory.file("a", b"text");
            outcome_of(&world, world.reactor.read_file(&path)).expect("read");
            let limit = world.leave_descriptors(0);
            for _ in 0..50 {
                let error = outcome_of(&world, world.reactor.read_file(&path)).expect_err("no descriptor");
                assert!(error.to_string().contains("cannot read"), "{error}");
            }
            world.limit_descriptors(limit);
            assert_eq!(outcome_of(&world, world.reactor.read_file(&path)).expect("read"), b"text");
        });
    }
}

const ROLE: &str = "TWISTOR_REPLACER";
const LENGTH: usize = 300_000;

/// The program that the test below kills: replaces a file for ever, and says each time that it has.
#[test]
fn replaces_a_file_if_it_is_told_which() {
    let Ok(path) = std::env::var(ROLE) else { return };
    fn again(reactor: &twistor::Handle, path: PathBuf, letter: u8) {
        reactor.replace_file(&path, vec![letter; LENGTH]).on_done(move |reactor, outcome| {
            outcome.expect("replaced");
            println!("done");
            again(reactor, path, if letter == b'a' { b'b' } else { b'a' });
        });
    }
    let reactor = twistor::Reactor::new().expect("a reactor");
    again(&reactor, path.into(), b'b');
    reactor.run().expect("a run");
}

#[test]
fn whoever_looks_finds_a_replaced_file_whole_also_after_a_kill() {
    use std::io::{BufRead, BufReader};
    let directory = Directory::new();
    let path = directory.file("a", &[b'a'; LENGTH]);
    let check = || {
        let content = fs::read(&path).expect("it is always there");
        let first = content[0];
        assert!(content.len() == LENGTH && content.iter().all(|byte| *byte == first), "half of it");
    };
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().expect("the test program"))
            .args(["replaces_a_file_if_it_is_told_which", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, &path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        for _ in 0..=round {
            assert!(lines.any(|line| line == "done"));
            check();
        }
        // In the middle of the next.
        child.kill().expect("a child");
        child.wait().expect("a child");
        check();
        let left = directory.names().len() - 1;
        assert!(left <= round + 1, "a kill leaves one temporary file at most");
    }
}

fn watch_job(deferred: Deferred<i32, JobError>) -> Rc<Cell<bool>> {
    let done = Rc::new(Cell::new(false));
    let set = Rc::clone(&done);
    deferred.on_done(move |_, outcome| set.set(outcome == Ok(1)));
    done
}
