//! The contract, section 12: watching descriptors of any kind.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use twistor::DescriptorWatch;
use twistor_tests::{World, in_child, kernel_contract, process};

type Slot = Rc<RefCell<Option<DescriptorWatch>>>;

/// A reader that counts its calls and reads one byte at each.
fn count_bytes(world: &World, mut source: PipeReader) -> (DescriptorWatch, Rc<Cell<usize>>) {
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    let watched = source.try_clone().expect("a clone");
    let watch = world.reactor.add_reader(&watched, move |_| {
        count.set(count.get() + 1);
        let _ = source.read(&mut [0]).expect("readable");
    });
    (watch.expect("a watch"), calls)
}

fn a_pipe() -> (PipeReader, PipeWriter) {
    pipe().expect("a pipe")
}

/// An eventfd that stands at 1, so that it is readable and writable.
fn an_eventfd() -> File {
    // SAFETY: creates a descriptor, which nobody else has yet.
    #[allow(unsafe_code)]
    let descriptor = unsafe {
        let fd = libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    File::from(descriptor)
}

kernel_contract! {
    // Line 69.
    fn a_reader_is_called_as_long_as_there_is_something_to_read(driver) {
        let world = World::new(driver);
        let (reader, mut writer) = a_pipe();
        let (_watch, calls) = count_bytes(&world, reader);
        world.assert_sleeps("nothing was written");
        writer.write_all(b"four").expect("written");
        world.until("each byte was reported", || calls.get() == 4);
        world.assert_sleeps("all was read");
    }

    // Line 69.
    #[cfg(target_os = "linux")]
    fn an_inotify_instance_tells_of_files(driver) {
        let world = World::new(driver);
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("twistor-inotify-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        // SAFETY: creates a descriptor, which nobody else has yet, and watches a directory by its path.
        #[allow(unsafe_code)]
        let mut inotify = unsafe {
            let fd = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
            let path = std::ffi::CString::new(directory.to_str().expect("text")).expect("no zero byte");
            assert!(fd >= 0 && libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_CLOSE_WRITE) >= 0);
            File::from(OwnedFd::from_raw_fd(fd))
        };
        let names = Rc::new(RefCell::new(String::new()));
        let told = Rc::clone(&names);
        let watched = inotify.try_clone().expect("a clone");
        let reader = world.reactor.add_reader(&watched, move |_| {
            let mut events = [0; 1024];
            let count = inotify.read(&mut events).expect("readable");
            // Behind the 16 bytes of each event stands the name of its file.
            *told.borrow_mut() += &String::from_utf8_lossy(&events[16..count]);
        });
        reader.expect("a watch");
        world.assert_sleeps("no file was written");
        std::fs::write(directory.join("changed"), "x").expect("written");
        world.until("the file was told", || names.borrow().contains("changed"));
        std::fs::remove_dir_all(directory).expect("removed");
    }

    // Line 69.
    fn the_end_of_the_other_side_is_readable(driver) {
        let world = World::new(driver);
        let (mut reader, writer) = a_pipe();
        let ended = Rc::new(Cell::new(false));
        let flag = Rc::clone(&ended);
        let own: Slot = Rc::default();
        let me = Rc::clone(&own);
        let watched = reader.try_clone().expect("a clone");
        let watch = world.reactor.add_reader(&watched, move |_| {
            if reader.read(&mut [0; 10]).expect("readable") == 0 {
                flag.set(true);
                let watch: Option<DescriptorWatch> = me.take();
                watch.expect("once").remove();
            }
        });
        *own.borrow_mut() = Some(watch.expect("a watch"));
        drop(writer);
        world.until("the end was seen", || ended.get());
        world.assert_sleeps("the watch is over");
    }

    // Line 69.
    fn a_writer_is_called_as_long_as_there_is_room(driver) {
        let world = World::new(driver);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let (written, mut output) = (Rc::new(Cell::new(0)), ours.try_clone().expect("a clone"));
        let count = Rc::clone(&written);
        let watch = world
            .reactor
            .add_writer(&ours, move |_| {
                if let Ok(more) = output.write(&[b'x'; 4096]) {
                    count.set(count.get() + more);
                }
            })
            .expect("a watch");
        let mut before = 0;
        world.until("it is full", || std::mem::replace(&mut before, written.get()) == written.get() && before > 0);
        world.assert_sleeps("there is no room");
        theirs.set_nonblocking(true).expect("non-blocking");
        let mut drained = 0;
        while let Ok(more) = theirs.read(&mut [0; 65_536]) {
            drained += more;
        }
        assert_eq!(drained, written.get());
        world.until("there is room again", || written.get() > drained);
        assert!(watch.remove());
        let stood = written.get();
        world.turns(3);
        assert_eq!(written.get(), stood);
    }

    // Line 69.
    fn one_descriptor_can_have_a_reader_and_a_writer(driver) {
        let world = World::new(driver);
        let eventfd = an_eventfd();
        let log = Rc::new(RefCell::new(Vec::new()));
        let (reads, writes) = (Rc::clone(&log), Rc::clone(&log));
        let reader = world.reactor.add_reader(&eventfd, move |_| reads.borrow_mut().push("r")).expect("one");
        let writer = world.reactor.add_writer(&eventfd, move |_| writes.borrow_mut().push("w")).expect("two");
        world.until("both were called", || log.borrow().contains(&"r") && log.borrow().contains(&"w"));
        assert!(reader.remove());
        log.borrow_mut().clear();
        world.until("the writer goes on", || log.borrow().contains(&"w"));
        assert!(!log.borrow().contains(&"r"));
        assert!(writer.remove());
        world.assert_sleeps("both are removed, and the descriptor is open and ready");
    }

    // Line 69.
    fn removal_takes_effect_at_once_even_with_readiness_pending(driver) {
        let world = World::new(driver);
        let (log, watches): (_, Rc<RefCell<Vec<DescriptorWatch>>>) = (Rc::new(Cell::new(0)), Rc::default());
        let eventfds = [an_eventfd(), an_eventfd(), an_eventfd()];
        for eventfd in &eventfds {
            let (count, all) = (Rc::clone(&log), Rc::clone(&watches));
            let hook = move |_: &twistor::Handle| {
                count.set(count.get() + 1);
                // All are ready in this pass; whoever comes first removes all, itself as well.
                all.borrow().iter().for_each(|watch| assert!(watch.remove()));
            };
            let watch = world.reactor.add_reader(eventfd, hook).expect("a watch");
            watches.borrow_mut().push(watch);
        }
        world.turns(5);
        assert_eq!(log.get(), 1);
        world.assert_sleeps("nothing is watched");
    }

    // Line 69.
    fn closing_the_descriptor_does_not_end_the_watch_but_removing_it_does(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let open = process::open_descriptors();
            let eventfd = an_eventfd();
            let calls = Rc::new(Cell::new(0));
            let count = Rc::clone(&calls);
            let watch = world.reactor.add_reader(&eventfd, move |_| count.set(count.get() + 1)).expect("one");
            drop(eventfd);
            world.until("it is still watched", || calls.get() > 2);
            assert!(watch.is_active());
            assert!(watch.remove());
            assert!(!watch.remove(), "twice is an ordinary false");
            assert!(!watch.is_active());
            assert_eq!(process::open_descriptors(), open);
        });
    }

    // Line 69.
    fn a_descriptor_that_others_have_open_is_not_reported_after_the_removal(driver) {
        let world = World::new(driver);
        let eventfd = an_eventfd();
        for _ in 0..100 {
            let watch = world.reactor.add_reader(&eventfd, |_| {}).expect("a watch");
            world.turns(2);
            watch.remove();
        }
        let before = world.reactor.stats();
        world.assert_sleeps("nothing is watched");
        assert_eq!(world.reactor.stats().stale_events, before.stale_events);
    }

    // Line 69.
    fn a_paused_watch_costs_nothing_and_goes_on_where_it_was(driver) {
        let world = World::new(driver);
        let (reader, mut writer) = a_pipe();
        let (watch, calls) = count_bytes(&world, reader);
        watch.pause();
        writer.write_all(b"xy").expect("written");
        world.assert_sleeps("the watch is paused");
        watch.resume();
        world.until("it goes on", || calls.get() == 2);
        watch.pause();
        drop(writer);
        world.assert_sleeps("a hang-up while paused");
        watch.resume();
        world.until("the end is reported", || calls.get() > 2);
    }

    // Line 69.
    fn a_regular_file_is_always_ready(driver) {
        let world = World::new(driver);
        let mut file = File::open(std::env::current_exe().expect("this program")).expect("readable");
        let (bytes, watched) = (Rc::new(Cell::new(0)), file.try_clone().expect("a clone"));
        let count = Rc::clone(&bytes);
        let own: Slot = Rc::default();
        let me = Rc::clone(&own);
        let watch = world.reactor.add_reader(&watched, move |_| {
            match file.read(&mut [0; 1 << 20]).expect("readable") {
                0 => drop(me.take().map(|watch: DescriptorWatch| watch.remove())),
                more => count.set(count.get() + more),
            }
        });
        *own.borrow_mut() = Some(watch.expect("a watch"));
        let ticks = Rc::new(Cell::new(0));
        let tick = Rc::clone(&ticks);
        world.reactor.call_later(Duration::ZERO, move |_| tick.set(1));
        world.until("all was read", || own.borrow().is_none());
        let length = watched.metadata().expect("metadata").len();
        assert_eq!(bytes.get() as u64, length);
        assert_eq!(ticks.get(), 1, "timers run meanwhile");
        world.assert_sleeps("the watch is over");
    }

    // Line 69.
    fn a_paused_file_does_not_keep_the_loop_awake(driver) {
        let world = World::new(driver);
        let file = File::open("/dev/null").expect("there");
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let watch = world.reactor.add_reader(&file, move |_| count.set(count.get() + 1)).expect("a watch");
        world.turns(3);
        assert!(calls.get() >= 2);
        watch.pause();
        world.assert_sleeps("the watch is paused");
        watch.resume();
        let before = calls.get();
        world.turns(3);
        assert!(calls.get() > before);
    }

    // Lines 5 and 69.
    fn a_hook_that_panics_ends_its_watch_only(driver) {
        let world = World::new(driver);
        let (first, second) = (an_eventfd(), an_eventfd());
        let watch = world.reactor.add_reader(&first, |_| panic!("in a hook")).expect("a watch");
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        world.reactor.add_reader(&second, move |_| count.set(count.get() + 1)).expect("a watch");
        world.until("both were called", || calls.get() > 2);
        assert!(!watch.is_active());
        assert_eq!(world.reactor.stats().panics, 1);
    }

    // Lines 6 and 69.
    fn running_until_idle_waits_for_what_is_watched(driver) {
        let world = World::new(driver);
        let (reader, mut writer) = a_pipe();
        let (watch, calls) = count_bytes(&world, reader);
        world.reactor.call_later(Duration::from_millis(10), move |_| writer.write_all(b"x").expect("written"));
        let seen = Rc::clone(&calls);
        let timer = world.reactor.every(Duration::from_millis(1), move |_, _| {
            if seen.get() >= 1 {
                watch.unref();
                watch.unref();
            }
        });
        timer.unref();
        world.reactor.run_until_idle().expect("a run");
        assert!(calls.get() >= 1);
    }

    // Lines 9 and 69.
    fn watches_end_with_the_reactor(driver) {
        in_child(module_path!(), driver, || {
            let open = process::open_descriptors();
            let eventfd = an_eventfd();
            let kept = Rc::new(());
            let held = Rc::clone(&kept);
            let world = World::new(driver);
            let watch = world
                .reactor
                .add_reader(&eventfd, move |_| {
                    let _ = &held;
                })
                .expect("a watch");
            world.turns(2);
            drop(world);
            assert_eq!(Rc::strong_count(&kept), 1);
            assert!(!watch.is_active() && !watch.remove());
            drop(eventfd);
            assert_eq!(process::open_descriptors(), open);
        });
    }

    // Line 69.
    fn what_cannot_be_polled_is_an_error(driver) {
        in_child(module_path!(), driver, || {
            let world = World::new(driver);
            let eventfd = an_eventfd();
            assert!(eventfd.as_fd().as_raw_fd() >= 0);
            process::limit_descriptors(process::next_descriptor());
            let error = world.reactor.add_reader(&eventfd, |_| {}).expect_err("no descriptor is left");
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            assert_eq!(world.reactor.stats().panics, 0);
        });
    }
}
