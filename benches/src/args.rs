//! The command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::peer::{self, Peer};
use crate::scenario::{self, Scenario};

/// What can be asked for.
pub const USAGE: &str = "\
usage: cargo run --release -- COMMAND [OPTIONS]

  compare   paired rounds of all scenarios: server CPU, latency, memory, as ratios to a baseline
  tasks     paired rounds of spawning, switching and waking tasks: CPU beside tokio and smol
  count     system calls and instructions per message (needs strace and valgrind)
  load      one run of one scenario against one peer: load --scenarios c64 --peers mio
  list      scenarios and peers

  --rounds N          rounds of compare and tasks (8)
  --scenarios A,B,…   only these
  --peers A,B,…       only these (compare adds the baseline and the control)
  --baseline PEER     what compare compares the others with (raw-level)
  --address IP:PORT   load a server that runs already (only load; nothing is measured but the time)
  --markdown FILE     write the tables there
  --svg FILE          write a bar chart there
";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Paired rounds.
    Compare,
    /// System calls and instructions.
    Count,
    /// Paired rounds of what runs no server: tasks.
    Tasks,
    /// One run.
    Load,
    /// Names.
    List,
}

/// A command line that makes sense.
#[derive(Debug)]
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// How often.
    pub rounds: usize,
    /// With which loads.
    pub scenarios: Vec<Scenario>,
    /// Against which servers.
    pub peers: Vec<Peer>,
    /// What the others are compared with.
    pub baseline: Peer,
    /// A server that runs already.
    pub address: Option<SocketAddr>,
    /// Where tables go beside standard output.
    pub markdown: Option<PathBuf>,
    /// Where a chart goes.
    pub svg: Option<PathBuf>,
}

impl Arguments {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    /// Says what is not understood, or which names there are.
    pub fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let command = match words.next().as_deref() {
            Some("compare") => Command::Compare,
            Some("count") => Command::Count,
            Some("tasks") => Command::Tasks,
            Some("load") => Command::Load,
            Some("list") => Command::List,
            _ => return Err(invalid(USAGE)),
        };
        let mut arguments = Self {
            command,
            rounds: 8,
            scenarios: scenario::ALL.to_vec(),
            peers: peer::ALL.to_vec(),
            baseline: peer::BASELINE,
            address: None,
            markdown: None,
            svg: None,
        };
        while let Some(option) = words.next() {
            let value = words.next().ok_or_else(|| invalid(format!("{option} needs a value\n\n{USAGE}")))?;
            match option.as_str() {
                "--rounds" => {
                    arguments.rounds = value
                        .parse()
                        .ok()
                        .filter(|rounds| *rounds > 0)
                        .ok_or_else(|| invalid(format!("--rounds {value}: not a positive number")))?;
                }
                "--scenarios" => {
                    arguments.scenarios = value.split(',').map(Scenario::named).collect::<io::Result<_>>()?;
                }
                "--peers" => {
                    arguments.peers = value.split(',').map(Peer::named).collect::<io::Result<_>>()?;
                }
                "--baseline" => arguments.baseline = Peer::named(&value)?,
                "--address" => {
                    let address = value.parse();
                    let address =
                        address.map_err(|_| invalid(format!("--address {value}: not an IP and port")))?;
                    arguments.address = Some(address);
                }
                "--markdown" => arguments.markdown = Some(value.into()),
                "--svg" => arguments.svg = Some(value.into()),
                _ => return Err(invalid(format!("unknown option {option}\n\n{USAGE}"))),
            }
        }
        Ok(arguments)
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> io::Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_are_looked_up() {
        let arguments = parse("compare --rounds 3 --scenarios c1,fan-out --peers mio").unwrap();
        assert_eq!(arguments.rounds, 3);
        let names: Vec<&str> = arguments.scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names, ["c1", "fan-out"]);
        assert_eq!(arguments.peers[0].name, "mio");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("compare --peers nobody").unwrap_err().to_string().contains("raw-edge"));
        assert!(parse("compare --rounds 0").unwrap_err().to_string().contains("--rounds 0"));
        assert!(parse("compare --rounds").unwrap_err().to_string().contains("needs a value"));
        assert!(parse("").is_err());
    }
}
