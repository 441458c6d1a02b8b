//! What one echoed message costs in system calls and in user-space instructions: the difference of a long and a short
//! run, divided by the difference of their messages, so that starting, connecting and ending cancel out. Unlike time
//! these figures hardly vary: one run of each length is enough.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs, io, process};

use crate::compare::role;
use crate::load::{Echo, EchoClients, Pace, Wire};
use crate::peer::{Peer, Service};
use crate::report::{Table, number};
use crate::server::Server;
use crate::svg::{Bar, Chart, Group};

/// Numbers of connections that are looked at.
const CONNECTIONS: [usize; 2] = [1, 32];
/// Messages of the short and of the long run; multiples of 32.
const MESSAGES: [u64; 2] = [3_200, 12_800];
/// Bytes of a message.
const SIZE: usize = 64;

/// What was counted.
#[derive(Debug)]
pub struct Counts {
    /// In the order of the peers.
    rows: Vec<Row>,
    /// Peers that failed, with the reason. There are no figures of them.
    pub failures: Vec<String>,
}

#[derive(Debug)]
struct Row {
    peer: Peer,
    /// As in the table.
    name: String,
    /// System calls per message, by name, for each number of connections.
    calls: [BTreeMap<String, f64>; CONNECTIONS.len()],
    /// Instructions per message, for each number of connections.
    instructions: [f64; CONNECTIONS.len()],
}

/// Runs each peer's echo server under `strace` and under `valgrind`; progress goes to standard error.
///
/// # Errors
/// A peer has not been built. What goes wrong with one peer, or a missing tool, is among the failures.
pub fn count(peers: &[Peer]) -> io::Result<Counts> {
    let mut counts = Counts { rows: Vec::new(), failures: Vec::new() };
    for (service, wire, kind) in [(Service::Echo, Wire::Plain, ""), (Service::Tls, Wire::tls()?, ", TLS")] {
        for peer in peers {
            let Some(server) = peer.command(service)? else { continue };
            let name = format!("{}{kind}", peer.name);
            match count_one(*peer, name.clone(), &server, &wire) {
                Ok(row) => counts.rows.push(row),
                Err(error) => {
                    eprintln!("{name}: {error}");
                    counts.failures.push(format!("{name}: {error}"));
                }
            }
        }
    }
    Ok(counts)
}

fn count_one(peer: Peer, name: String, server: &[OsString], wire: &Wire) -> io::Result<Row> {
    let mut row = Row { peer, name, calls: Default::default(), instructions: Default::default() };
    for (place, connections) in CONNECTIONS.into_iter().enumerate() {
        eprintln!("{}: {}", row.name, plural(connections));
        row.calls[place] = system_calls(server, wire, connections)?;
        row.instructions[place] = instructions(server, wire, connections)?;
    }
    Ok(row)
}

impl Counts {
    /// One table.
    pub fn to_markdown(&self) -> String {
        let mut header = vec!["peer".to_owned()];
        for what in ["instructions", "system calls"] {
            header.extend(CONNECTIONS.iter().map(|connections| format!("{what}, {connections} conn.")));
        }
        header.push(format!("which, {} connections", CONNECTIONS[1]));
        let mut table = Table::new(header);
        for row in &self.rows {
            let mut cells = vec![row.name.clone()];
            cells.extend(row.instructions.map(|value| number(value, 0)));
            cells.extend(row.calls.iter().map(|calls| number(calls.values().sum(), 2)));
            cells.push(named(&row.calls[1]));
            table.row(cells);
        }
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "Per echoed message of {SIZE} B, {} B buffers:\n\n{table}", number(65_536.0, 0));
        for failure in &self.failures {
            let _ = writeln!(out, "Failed: {failure}");
        }
        out
    }

    /// A group of bars for each column of the table.
    pub fn to_chart(&self) -> Chart {
        let mut groups = Vec::new();
        for (place, connections) in CONNECTIONS.into_iter().enumerate() {
            let title = format!("user-space instructions, {}", plural(connections));
            groups.push(self.group(title, 0, |row| row.instructions[place]));
        }
        for (place, connections) in CONNECTIONS.into_iter().enumerate() {
            let title = format!("system calls, {}", plural(connections));
            groups.push(self.group(title, 2, |row| row.calls[place].values().sum()));
        }
        Chart {
            title: format!("What one echoed message of {SIZE} B costs"),
            subtitle: "lower is better; difference of two run lengths under callgrind and strace".to_owned(),
            groups,
        }
    }

    fn group(&self, title: String, digits: usize, value: impl Fn(&Row) -> f64) -> Group {
        let bars = self.rows.iter().map(|row| Bar {
            label: row.name.clone(),
            value: value(row),
            text: number(value(row), digits),
            range: None,
            role: role(row.peer),
        });
        Group { title, reference: None, bars: bars.collect() }
    }
}

fn plural(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// The calls that are made at least once in a hundred messages, the most frequent first.
fn named(calls: &BTreeMap<String, f64>) -> String {
    let mut calls: Vec<_> = calls.iter().filter(|(_, count)| **count >= 0.01).collect();
    calls.sort_by(|a, b| b.1.total_cmp(a.1));
    let texts: Vec<String> =
        calls.into_iter().map(|(name, count)| format!("{name} {}", number(*count, 2))).collect();
    texts.join(", ")
}

fn system_calls(server: &[OsString], wire: &Wire, connections: usize) -> io::Result<BTreeMap<String, f64>> {
    let [short, long] = under(server, wire, connections, |file| {
        // -I 2: a SIGTERM ends strace and the server, and the table is still written.
        let mut tool: Vec<OsString> =
            ["strace", "-I", "2", "-f", "-c", "-U", "calls,name", "-o"].map(OsString::from).to_vec();
        tool.push(file.into());
        tool
    })?;
    let (short, long) = (parse_strace(&short)?, parse_strace(&long)?);
    let calls = long.into_iter().map(|(name, long)| {
        let difference = long as f64 - short.get(&name).copied().unwrap_or(0) as f64;
        (name, per_message(difference))
    });
    Ok(calls.collect())
}

fn instructions(server: &[OsString], wire: &Wire, connections: usize) -> io::Result<f64> {
    let [short, long] = under(server, wire, connections, |file| {
        let mut option = OsString::from("--callgrind-out-file=");
        option.push(file);
        vec!["valgrind".into(), "--quiet".into(), "--tool=callgrind".into(), option]
    })?;
    Ok(per_message(parse_callgrind(&long)? as f64 - parse_callgrind(&short)? as f64))
}

fn per_message(difference: f64) -> f64 {
    difference / (MESSAGES[1] - MESSAGES[0]) as f64
}

/// Runs the server under a tool that writes a file when the server has ended, for both run lengths; returns the files.
fn under(
    server: &[OsString],
    wire: &Wire,
    connections: usize,
    tool: impl Fn(PathBuf) -> Vec<OsString>,
) -> io::Result<[String; 2]> {
    let mut texts = [const { String::new() }; 2];
    for (text, messages) in texts.iter_mut().zip(MESSAGES) {
        let file = env::temp_dir().join(format!("twistor-benches-{}", process::id()));
        let mut command = tool(file.clone());
        command.extend(server.iter().cloned());
        let running = Server::start(&command)?;
        let mut clients = EchoClients::connect(running.address(), wire, connections)?;
        clients.run(&Echo { messages, size: SIZE, in_flight: 1, pace: Pace::Batch })?;
        drop(clients);
        running.stop()?;
        *text = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
    }
    Ok(texts)
}

fn parse_strace(text: &str) -> io::Result<BTreeMap<String, u64>> {
    let calls: BTreeMap<String, u64> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let count = words.next()?.parse().ok()?;
            Some((words.next()?.to_owned(), count))
        })
        .filter(|(name, _)| name != "total")
        .collect();
    if calls.is_empty() {
        return Err(io::Error::other(format!("strace counted nothing: {text:?}")));
    }
    Ok(calls)
}

fn parse_callgrind(text: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("callgrind wrote no totals"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_are_understood() {
        let calls = parse_strace(
            "    calls syscall\n--------- -------\n       20 epoll_wait\n        3 write\n       23 total\n",
        );
        let calls = calls.unwrap();
        assert_eq!((calls.len(), calls["epoll_wait"]), (2, 20));
        assert!(parse_strace("").is_err());
        assert_eq!(parse_callgrind("events: Ir\n\ntotals: 12345\n").unwrap(), 12_345);
    }
}
