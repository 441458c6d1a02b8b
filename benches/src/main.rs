//! The command of this directory: see `README.md`, or run it without arguments.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Instant;
use std::{env, fs, io};

use twistor_benches::args::{Arguments, Command};
use twistor_benches::compare::{Plan, compare};
use twistor_benches::count::count;
use twistor_benches::peer::{self, Peer};
use twistor_benches::report::number;
use twistor_benches::server::{CLIENT_CPU, Server};
use twistor_benches::{libuv, scenario, sys, tasks};

/// Descriptors that the scenario with the most connections needs on each side, with room.
const DESCRIPTORS: u64 = 12_000;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let mut arguments = Arguments::parse(env::args().skip(1))?;
    if arguments.command == Command::List {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) {
        return Err(io::Error::other("figures of a debug build mean nothing: cargo run --release"));
    }
    if let Some(address) = arguments.address {
        prepare()?;
        for scenario in &arguments.scenarios {
            let began = Instant::now();
            scenario.put_on(address)?;
            println!("{:<20} every byte came back, in {:.2} s", scenario.name, began.elapsed().as_secs_f64());
        }
        return Ok(ExitCode::SUCCESS);
    }
    build_peers(&mut arguments.peers)?;
    prepare()?;
    let (markdown, chart, failures) = match arguments.command {
        Command::Compare => {
            let Arguments { rounds, scenarios, peers, baseline, .. } = &arguments;
            let (rounds, baseline) = (*rounds, *baseline);
            let plan = Plan { rounds, scenarios: scenarios.clone(), peers: peers.clone(), baseline };
            let comparison = compare(&plan)?;
            (comparison.to_markdown(), comparison.to_chart(), comparison.failures)
        }
        Command::Count => {
            let counts = count(&arguments.peers)?;
            (counts.to_markdown(), counts.to_chart(), counts.failures)
        }
        Command::Tasks => {
            let markdown = tasks::compare(arguments.rounds)?;
            print!("{markdown}");
            write(arguments.markdown.as_deref(), &markdown)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Load | Command::List => {
            load(&arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    print!("{markdown}");
    write(arguments.markdown.as_deref(), &markdown)?;
    write(arguments.svg.as_deref(), &chart.to_svg())?;
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list() {
    println!("scenarios:");
    for scenario in scenario::ALL {
        println!("  {:<20} {}", scenario.name, scenario.title);
    }
    println!("peers:");
    for peer in peer::ALL {
        println!("  {}", peer.name);
    }
}

/// One run each, without comparing.
fn load(arguments: &Arguments) -> io::Result<()> {
    for scenario in &arguments.scenarios {
        for peer in &arguments.peers {
            let Some(command) = peer.command(scenario.service())? else { continue };
            let server = Server::start(&command)?;
            let sample = scenario.run(&server)?;
            let figures: Vec<String> = sample
                .iter()
                .map(|(metric, value)| format!("{}: {}", metric.name, number(*value, metric.digits)))
                .collect();
            println!("{:<20} {:<10} {}", scenario.name, peer.name, figures.join("; "));
        }
    }
    Ok(())
}

/// `cargo run` builds only this program; the peers are programs of their own. Started without cargo, whoever did so
/// has built them. Takes those from `peers` that cannot be built here.
fn build_peers(peers: &mut Vec<Peer>) -> io::Result<()> {
    let directory = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    if peers.contains(&peer::LIBUV) && !libuv::build(directory.as_deref())? {
        peers.retain(|peer| *peer != peer::LIBUV);
    }
    let (Some(cargo), Some(directory)) = (env::var_os("CARGO"), directory) else {
        return Ok(());
    };
    let program = env::current_exe()?;
    let mut build = process::Command::new(cargo);
    build.args(["build", "--release", "--bins"]).current_dir(directory);
    if !cfg!(feature = "twistor") {
        build.arg("--no-default-features");
    }
    if let Some(target) = program.parent().and_then(Path::parent) {
        build.args([OsStr::new("--target-dir"), target.as_os_str()]);
    }
    if build.status()?.success() { Ok(()) } else { Err(io::Error::other("the peers do not compile")) }
}

fn prepare() -> io::Result<()> {
    let descriptors = sys::raise_open_file_limit(DESCRIPTORS)?;
    if descriptors < DESCRIPTORS {
        eprintln!("only {descriptors} descriptors allowed: the scenario with 10 000 connections will fail");
    }
    sys::pin_to_cpu(CLIENT_CPU).map_err(|error| {
        let text =
            format!("cannot pin the load generator to CPU {CLIENT_CPU} (two CPUs are needed): {error}");
        io::Error::new(error.kind(), text)
    })
}

fn write(path: Option<&Path>, text: &str) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}
