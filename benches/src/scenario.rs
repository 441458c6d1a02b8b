//! What is measured: a load, how much of it (about a second), and what it tells about the server.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bulk::Request;
use crate::load::{self, Bulk, Echo, EchoClients, FanOut, Pace, Probe, Wire};
use crate::peer::Service;
use crate::server::Server;

/// A quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Digits after the point that mean something.
    pub digits: usize,
}

/// One run: what was measured, the most telling first. Only that is compared as a ratio.
pub type Sample = Vec<(Metric, f64)>;

/// A named load.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// In tables and charts.
    pub title: &'static str,
    /// Whether the first metric is shown as a ratio in charts; else as it is.
    pub by_ratio: bool,
    load: Load,
}

#[derive(Debug, Clone, Copy)]
enum Load {
    Echo { connections: usize, load: Echo },
    Churn { connections: u64 },
    Idle { connections: usize, watched: Duration },
    FanOut { members: usize, lines: u64 },
    Flood { pause: Duration, duration: Duration },
    Storm { pause: Duration, connections: usize },
    Datagrams { datagrams: u64, burst: usize },
    TlsEcho { connections: usize, load: Echo },
    Handshakes { connections: u64, is_resumed: bool },
    Bulk { sends: u64, receives: u64 },
    TlsIdle { connections: usize, watched: Duration },
}

const CPU_PER_MESSAGE: Metric = Metric { name: "server CPU per message (ns)", digits: 0 };
const MESSAGES: Metric = Metric { name: "messages per second", digits: 0 };
const CPU_PER_CONNECTION: Metric = Metric { name: "server CPU per connection (ns)", digits: 0 };
const CONNECTIONS: Metric = Metric { name: "connections per second", digits: 0 };
const CPU_PER_DELIVERY: Metric = Metric { name: "server CPU per delivery (ns)", digits: 0 };
const DELIVERIES: Metric = Metric { name: "deliveries per second", digits: 0 };
const CPU_PER_DATAGRAM: Metric = Metric { name: "server CPU per datagram (ns)", digits: 0 };
const DATAGRAMS: Metric = Metric { name: "datagrams per second", digits: 0 };
const CPU_PER_HANDSHAKE: Metric = Metric { name: "server CPU per handshake (ns)", digits: 0 };
const HANDSHAKES: Metric = Metric { name: "handshakes per second", digits: 0 };
const CPU_PER_MEBIBYTE: Metric = Metric { name: "server CPU per MiB (ns)", digits: 0 };
const MEBIBYTES: Metric = Metric { name: "MiB per second", digits: 0 };
const MEMORY: Metric = Metric { name: "resident bytes per connection", digits: 0 };
const WAKE_UPS: Metric = Metric { name: "wake-ups per second", digits: 1 };
const P99: Metric = Metric { name: "p99 (µs)", digits: 0 };
const P50: Metric = Metric { name: "p50 (µs)", digits: 0 };
const MAX: Metric = Metric { name: "max (µs)", digits: 0 };
const FLOODED: Metric = Metric { name: "flood echoed (MiB/s)", digits: 0 };

/// All of them, in the order of the tables.
pub const ALL: &[Scenario] = &[
    Scenario::echo("c1", "1 connection, 64 B ping-pong", 1, ping_pong(30_000)),
    Scenario::echo("c8", "8 connections, 64 B ping-pong", 8, ping_pong(120_000)),
    Scenario::echo("c64", "64 connections, 64 B ping-pong", 64, ping_pong(160_000)),
    Scenario::echo("c1000", "1000 connections, 64 B ping-pong", 1000, ping_pong(150_000)),
    Scenario::echo(
        "c64-pipelined",
        "64 connections, 16 messages of 64 B at a time",
        64,
        Echo { messages: 1_600_000, size: 64, in_flight: 16, pace: Pace::Batch },
    ),
    Scenario::echo(
        "c64-4k",
        "64 connections, 4 KiB ping-pong",
        64,
        Echo { messages: 120_000, size: 4096, in_flight: 1, pace: Pace::Batch },
    ),
    Scenario::echo(
        "bulk",
        "16 connections streaming 64 KiB messages",
        16,
        Echo { messages: 32_000, size: 64 * 1024, in_flight: 4, pace: Pace::Stream },
    ),
    Scenario {
        name: "churn",
        title: "connect, one 64 B echo, close",
        by_ratio: true,
        load: Load::Churn { connections: 8_000 },
    },
    Scenario {
        name: "idle",
        title: "10 000 idle connections, resident bytes each",
        by_ratio: false,
        load: Load::Idle { connections: 10_000, watched: Duration::from_secs(1) },
    },
    Scenario {
        name: "fan-out",
        title: "one member's lines to 1000",
        by_ratio: true,
        load: Load::FanOut { members: 1000, lines: 300 },
    },
    Scenario {
        name: "bystander-flood",
        title: "round trip of a bystander while two connections flood, p99 in µs",
        by_ratio: false,
        load: Load::Flood { pause: Duration::from_millis(5), duration: Duration::from_millis(1500) },
    },
    Scenario {
        name: "bystander-connects",
        title: "round trip of a bystander while 5000 connect, p99 in µs",
        by_ratio: false,
        load: Load::Storm { pause: Duration::from_millis(1), connections: 5000 },
    },
    Scenario {
        name: "udp",
        title: "64 B datagrams, one at a time",
        by_ratio: true,
        load: Load::Datagrams { datagrams: 50_000, burst: 1 },
    },
    Scenario {
        name: "udp-32",
        title: "64 B datagrams, 32 at a time",
        by_ratio: true,
        load: Load::Datagrams { datagrams: 400_000, burst: 32 },
    },
    Scenario {
        name: "tls-c1",
        title: "TLS, 1 connection, 64 B ping-pong",
        by_ratio: true,
        load: Load::TlsEcho { connections: 1, load: ping_pong(20_000) },
    },
    Scenario {
        name: "tls-c64",
        title: "TLS, 64 connections, 64 B ping-pong",
        by_ratio: true,
        load: Load::TlsEcho { connections: 64, load: ping_pong(80_000) },
    },
    Scenario {
        name: "tls-handshakes",
        title: "TLS, connect, handshake, one 64 B echo, close",
        by_ratio: true,
        load: Load::Handshakes { connections: 1500, is_resumed: false },
    },
    Scenario {
        name: "tls-resumed",
        title: "TLS, the same with sessions resumed",
        by_ratio: true,
        load: Load::Handshakes { connections: 2500, is_resumed: true },
    },
    Scenario {
        name: "tls-sends",
        title: "TLS, the server sends on 1 connection",
        by_ratio: true,
        load: Load::Bulk { sends: 512 << 20, receives: 0 },
    },
    Scenario {
        name: "tls-receives",
        title: "TLS, the server receives on 1 connection",
        by_ratio: true,
        load: Load::Bulk { sends: 0, receives: 512 << 20 },
    },
    Scenario {
        name: "tls-idle",
        title: "TLS, 2000 idle connections, resident bytes each",
        by_ratio: false,
        load: Load::TlsIdle { connections: 2000, watched: Duration::from_secs(1) },
    },
];

impl Scenario {
    /// The scenario of that name.
    ///
    /// # Errors
    /// There is none; the error lists those that are.
    pub fn named(name: &str) -> io::Result<Self> {
        ALL.iter().copied().find(|scenario| scenario.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            let text = format!("no scenario is called {name:?}; there are {}", names.join(", "));
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }

    /// Which server it needs.
    pub fn service(&self) -> Service {
        match self.load {
            Load::FanOut { .. } => Service::Chat,
            Load::Datagrams { .. } => Service::Datagrams,
            Load::TlsEcho { .. } | Load::Handshakes { .. } | Load::TlsIdle { .. } => Service::Tls,
            Load::Bulk { .. } => Service::TlsBulk,
            _ => Service::Echo,
        }
    }

    /// Puts the load on a fresh server. Connecting and the first message of each connection are not measured,
    /// except where they are the point.
    ///
    /// # Errors
    /// The server lost, changed or doubled a byte, closed a connection, or stopped answering.
    pub fn run(&self, server: &Server) -> io::Result<Sample> {
        match self.load {
            Load::Echo { connections, load } => {
                let mut clients = EchoClients::connect(server.address(), &Wire::Plain, connections)?;
                let messages = clients.messages(&load);
                measured(server, messages, [CPU_PER_MESSAGE, MESSAGES], || clients.run(&load))
            }
            Load::TlsEcho { connections, load } => {
                let mut clients = EchoClients::connect(server.address(), &Wire::tls()?, connections)?;
                let messages = clients.messages(&load);
                measured(server, messages, [CPU_PER_MESSAGE, MESSAGES], || clients.run(&load))
            }
            Load::Handshakes { connections, is_resumed } => {
                let wire = if is_resumed { Wire::resumed_tls()? } else { Wire::tls()? };
                load::churn(server.address(), &wire, 10)?;
                measured(server, connections, [CPU_PER_HANDSHAKE, HANDSHAKES], || {
                    load::churn(server.address(), &wire, connections)
                })
            }
            Load::Bulk { sends, receives } => {
                let mut bulk = Bulk::connect(server.address(), &Wire::tls()?)?;
                let units = (sends + receives) >> 20;
                measured(server, units, [CPU_PER_MEBIBYTE, MEBIBYTES], || {
                    bulk.run(&Request::new(receives, sends))
                })
            }
            Load::Datagrams { datagrams, burst } => {
                let mut client = load::Datagrams::open(server.address())?;
                client.run(20 * burst as u64, burst)?;
                measured(server, datagrams, [CPU_PER_DATAGRAM, DATAGRAMS], || client.run(datagrams, burst))
            }
            Load::Churn { connections } => {
                load::churn(server.address(), &Wire::Plain, 10)?;
                measured(server, connections, [CPU_PER_CONNECTION, CONNECTIONS], || {
                    load::churn(server.address(), &Wire::Plain, connections)
                })
            }
            Load::FanOut { members, lines } => {
                let mut room = FanOut::join(server.address(), members)?;
                let deliveries = lines * members as u64;
                measured(server, deliveries, [CPU_PER_DELIVERY, DELIVERIES], || room.say(lines))
            }
            Load::Idle { connections, watched } => idle(server, &Wire::Plain, connections, watched),
            Load::TlsIdle { connections, watched } => idle(server, &Wire::tls()?, connections, watched),
            Load::Flood { pause, duration } => {
                let probe = Probe::connect(server.address(), pause)?;
                let (latencies, bytes) = load::flood(server.address(), probe, duration)?;
                let speed = bytes as f64 / f64::from(1 << 20) / duration.as_secs_f64();
                let mut sample = latency_sample(&latencies);
                sample.push((FLOODED, speed));
                Ok(sample)
            }
            Load::Storm { pause, connections } => {
                let probe = Probe::connect(server.address(), pause)?;
                Ok(latency_sample(&load::connect_storm(server.address(), probe, connections)?))
            }
        }
    }

    /// Puts the load on a server that was started by somebody else.
    ///
    /// # Errors
    /// As [`run`](Self::run), or the load makes no sense without watching the server.
    pub fn put_on(&self, address: SocketAddr) -> io::Result<()> {
        match self.load {
            Load::Echo { connections, load } => {
                EchoClients::connect(address, &Wire::Plain, connections)?.run(&load)
            }
            Load::TlsEcho { connections, load } => {
                EchoClients::connect(address, &Wire::tls()?, connections)?.run(&load)
            }
            Load::Handshakes { connections, is_resumed } => {
                let wire = if is_resumed { Wire::resumed_tls()? } else { Wire::tls()? };
                load::churn(address, &wire, connections)
            }
            Load::Bulk { sends, receives } => {
                Bulk::connect(address, &Wire::tls()?)?.run(&Request::new(receives, sends))
            }
            Load::Datagrams { datagrams, burst } => load::Datagrams::open(address)?.run(datagrams, burst),
            Load::Churn { connections } => load::churn(address, &Wire::Plain, connections),
            Load::FanOut { members, lines } => FanOut::join(address, members)?.say(lines),
            Load::Flood { .. } | Load::Storm { .. } | Load::Idle { .. } | Load::TlsIdle { .. } => {
                let text = format!("{} needs a server of its own", self.name);
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    const fn echo(name: &'static str, title: &'static str, connections: usize, load: Echo) -> Self {
        Self { name, title, by_ratio: true, load: Load::Echo { connections, load } }
    }
}

const fn ping_pong(messages: u64) -> Echo {
    Echo { messages, size: 64, in_flight: 1, pace: Pace::Batch }
}

/// The server's CPU time per unit, and units per second of the clock on the wall.
fn measured(
    server: &Server,
    units: u64,
    [cpu_per_unit, units_per_second]: [Metric; 2],
    run: impl FnOnce() -> io::Result<()>,
) -> io::Result<Sample> {
    let (cpu, started) = (server.cpu()?, Instant::now());
    run()?;
    let (cpu, wall) = (server.cpu()? - cpu, started.elapsed());
    let units = units as f64;
    Ok(vec![(cpu_per_unit, cpu.as_nanos() as f64 / units), (units_per_second, units / wall.as_secs_f64())])
}

fn idle(server: &Server, wire: &Wire, connections: usize, watched: Duration) -> io::Result<Sample> {
    // What the first connection allocates once is not counted for each.
    let _first = EchoClients::connect(server.address(), wire, 1)?;
    let before = server.resident()?;
    let _clients = EchoClients::connect(server.address(), wire, connections)?;
    // The last answer is out before the server is back in its wait.
    std::thread::sleep(Duration::from_millis(50));
    let grown = server.resident()?.saturating_sub(before);
    let (sleeps, started) = (server.sleeps()?, Instant::now());
    std::thread::sleep(watched);
    let wake_ups = (server.sleeps()? - sleeps) as f64 / started.elapsed().as_secs_f64();
    Ok(vec![(MEMORY, grown as f64 / connections as f64), (WAKE_UPS, wake_ups)])
}

fn latency_sample(latencies: &load::Latencies) -> Sample {
    [(P99, 0.99), (P50, 0.5), (MAX, 1.0)]
        .map(|(metric, share)| (metric, latencies.percentile(share)))
        .to_vec()
}
