//! What tasks cost: spawning, switching, waking from another thread. The same program on each executor ([`Spawn`]), each
//! executor in a program of its own, in paired and interleaved rounds.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use crate::neighbours::Watch;
use crate::report::{self, Table, number};
use crate::server::{CLIENT_CPU, SERVER_CPU};
use crate::stats::{Spread, median};
use crate::sys::{self, CpuClock};

/// An executor of one thread that is running.
pub trait Spawn: Clone + 'static {
    /// What a spawned task is held by. Its output says nothing here.
    type Task: Future + 'static;
    /// Starts a task that is waited for.
    fn spawn(&self, future: impl Future<Output = u64> + 'static) -> Self::Task;
    /// Starts a task that goes on by itself.
    fn detach(&self, future: impl Future<Output = u64> + 'static);
}

/// The executors, in the order of a round: the first is the baseline, and runs once more as the control.
const EXECUTORS: [&str; 3] = ["tasks_tokio", "tasks_twistor", "tasks_smol"];

/// What is done, and how often in one run.
const WORKLOADS: [(&str, &str, u64); 7] = [
    ("spawn-await", "spawn a task that is ready at once, and await it", 300_000),
    ("spawn-detached", "batches of 1000 detached tasks that are ready at once", 500_000),
    ("spawn-batch", "batches of 1000 tasks that yield once; all are awaited, in order", 300_000),
    ("spawn-many", "100 000 detached tasks at once, each yields once", 300_000),
    ("yield", "1000 tasks that yield 500 times: per yield", 500_000),
    ("wake", "a task that sleeps and another thread that wakes it and waits for its answer", 20_000),
    ("wake-burst", "another thread wakes 64 sleeping tasks at once: per wake-up", 128_000),
];

/// Nanoseconds per operation of one run.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// CPU time of the whole process.
    cpu: f64,
    /// Time on the wall.
    wall: f64,
}

/// `main` of an executor's program: the workload that the command line names, run as a task of `S`. Prints CPU and
/// wall-clock nanoseconds per operation. Ends the process if the command line names none.
pub async fn main<S: Spawn>(executor: S) {
    let name = env::args().nth(1).unwrap_or_default();
    let found = WORKLOADS.iter().find(|(workload, ..)| *workload == name);
    let Some(&(name, _, operations)) = found else {
        eprintln!("there is no workload {name:?}");
        std::process::exit(1);
    };
    let Ok(clock) = CpuClock::of(std::process::id()) else { return };
    // Memory, caches, and what is made on first use.
    work(&executor, name, operations / 10).await;
    let (before, began) = (clock.now(), Instant::now());
    work(&executor, name, operations).await;
    let (after, wall) = (clock.now(), began.elapsed());
    let each = |time: Duration| time.as_nanos() as f64 / operations as f64;
    if let (Ok(before), Ok(after)) = (before, after) {
        println!("{} {}", each(after.saturating_sub(before)), each(wall));
    }
}

async fn work<S: Spawn>(executor: &S, name: &str, operations: u64) {
    match name {
        "spawn-await" => {
            for number in 0..operations {
                executor.spawn(async move { number }).await;
            }
        }
        "spawn-detached" => {
            for _ in 0..operations / 1000 {
                detached(executor, 1000, 0).await;
            }
        }
        "spawn-batch" => {
            for _ in 0..operations / 1000 {
                let tasks: Vec<S::Task> = (0..1000)
                    .map(|number| {
                        executor.spawn(async move {
                            yield_now().await;
                            number
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await;
                }
            }
        }
        "spawn-many" => {
            for _ in 0..operations.div_ceil(100_000) {
                detached(executor, operations.min(100_000), 1).await;
            }
        }
        "yield" => detached(executor, 1000, operations / 1000).await,
        "wake" => ping_pong(executor, 1, operations).await,
        _ => ping_pong(executor, 64, operations / 64).await,
    }
}

/// Starts `count` tasks that yield `yields` times, and waits until the last has ended.
async fn detached<S: Spawn>(executor: &S, count: u64, yields: u64) {
    let left = Rc::new(Cell::new(count));
    let waiting: Rc<RefCell<Option<Waker>>> = Rc::default();
    for number in 0..count {
        let (left, waiting) = (Rc::clone(&left), Rc::clone(&waiting));
        executor.detach(async move {
            for _ in 0..yields {
                yield_now().await;
            }
            left.set(left.get() - 1);
            if left.get() == 0
                && let Some(waker) = waiting.take()
            {
                waker.wake();
            }
            number
        });
    }
    poll_fn(|cx| {
        if left.get() == 0 {
            return Poll::Ready(());
        }
        *waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// What a task sleeps on, and what a thread wakes it with.
#[derive(Default)]
struct Bell {
    rung: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait_for(&self, times: u64) {
        poll_fn(|cx| {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            if self.rung.load(Ordering::SeqCst) < times { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

/// A thread wakes `tasks` tasks and sleeps until all have answered, `rounds` times.
async fn ping_pong<S: Spawn>(executor: &S, tasks: u64, rounds: u64) {
    let bells: Arc<[Bell]> = (0..tasks).map(|_| Bell::default()).collect();
    let answers = Arc::new(AtomicU64::new(0));
    let (ringing, heard) = (Arc::clone(&bells), Arc::clone(&answers));
    let thread = thread::spawn(move || {
        // Not fatal: a machine of one CPU measures something else.
        let _ = sys::pin_to_cpu(CLIENT_CPU);
        for round in 1..=rounds {
            for bell in &*ringing {
                bell.ring();
            }
            while heard.load(Ordering::SeqCst) < round * tasks {
                thread::park();
            }
        }
    });
    let awake = thread.thread().clone();
    let mut answering = Vec::new();
    for task in 0..tasks as usize {
        let (bells, answers, awake) = (Arc::clone(&bells), Arc::clone(&answers), awake.clone());
        answering.push(executor.spawn(async move {
            for round in 1..=rounds {
                bells[task].wait_for(round).await;
                if answers.fetch_add(1, Ordering::SeqCst) + 1 == round * tasks {
                    awake.unpark();
                }
            }
            rounds
        }));
    }
    for task in answering {
        task.await;
    }
    // It has had its last answer.
    let _ = thread.join();
}

/// Lets the others go first, once: the same on every executor.
fn yield_now() -> impl Future<Output = ()> {
    YieldNow { yielded: false }
}

struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs all workloads on all executors; progress goes to standard error. Returns the tables.
///
/// # Errors
/// A program cannot be started, or fails.
pub fn compare(rounds: usize) -> io::Result<String> {
    let mut table = Table::new([
        "workload",
        "tokio (ns CPU)",
        "twistor / tokio",
        "quartiles",
        "smol / tokio",
        "twistor / smol",
        "tokio (control)",
        "quartiles",
        "wall: tokio, twistor, smol (ns)",
    ]);
    let mut titles = String::new();
    let watch = Watch::start()?;
    for (name, title, _) in WORKLOADS {
        // A row per program of a round, the control last.
        let mut runs: Vec<Vec<Figures>> = vec![Vec::new(); EXECUTORS.len() + 1];
        for round in 0..rounds {
            eprintln!("{name}: round {} of {rounds}", round + 1);
            for place in 0..runs.len() {
                // Who follows whom changes from round to round.
                let place = (place + round) % runs.len();
                runs[place].push(run(EXECUTORS[place % EXECUTORS.len()], name)?);
            }
        }
        table.row(row(name, &runs));
        // Writing to a string cannot fail.
        let _ = writeln!(titles, "- `{name}`: {title}");
    }
    let foreign = number(watch.foreign()? * 100.0, 0);
    Ok(format!(
        "{}; {rounds} paired rounds; other processes used {foreign} % of a CPU meanwhile.\n\n{titles}\n{table}",
        report::machine()
    ))
}

fn row(name: &str, runs: &[Vec<Figures>]) -> Vec<String> {
    let cpu = |place: usize| runs[place].iter().map(|run| run.cpu);
    let wall = |place: usize| number(median(&runs[place].iter().map(|run| run.wall).collect::<Vec<_>>()), 0);
    let ratio = |a: usize, b: usize| Spread::of(&cpu(a).zip(cpu(b)).map(|(a, b)| a / b).collect::<Vec<_>>());
    let middle =
        |spread: Option<Spread>| spread.map_or_else(String::new, |spread| report::ratio(spread.median));
    let quartiles = |spread: Option<Spread>| {
        spread.map_or_else(String::new, |spread| {
            format!("{} – {}", report::ratio(spread.low), report::ratio(spread.high))
        })
    };
    let (ours, control) = (ratio(1, 0), ratio(EXECUTORS.len(), 0));
    vec![
        format!("`{name}`"),
        number(median(&cpu(0).collect::<Vec<_>>()), 0),
        middle(ours),
        quartiles(ours),
        middle(ratio(2, 0)),
        middle(ratio(1, 2)),
        middle(control),
        quartiles(control),
        format!("{}, {}, {}", wall(0), wall(1), wall(2)),
    ]
}

fn run(program: &str, workload: &str) -> io::Result<Figures> {
    let path = env::current_exe()?.with_file_name(program);
    let mut command = Command::new(&path);
    sys::prepare_child(&mut command, SERVER_CPU);
    let output = command
        .arg(workload)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {}: {error}", path.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(cpu), Some(wall)) if output.status.success() => Ok(Figures { cpu, wall }),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{program} {workload} failed: {}", errors.trim())))
        }
    }
}
