//! Paired rounds: in every round each peer runs the same load once, in a fresh process, one after the other
//! (A B C … A B C …). A peer's ratio is formed within each round, so that what changes slowly (frequency, neighbours
//! on the machine) cancels out; the median over the rounds is reported, and its spread.

use std::fmt::Write;
use std::io;

use crate::neighbours::Watch;
use crate::peer::{self, Peer};
use crate::report::{self, Table, number};
use crate::scenario::{Metric, Sample, Scenario};
use crate::server::Server;
use crate::stats::{Spread, median};
use crate::svg::{Bar, Chart, Group, Role};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often.
    pub rounds: usize,
    /// One after the other.
    pub scenarios: Vec<Scenario>,
    /// In the order of a round. The baseline comes first and the control last, whether named or not.
    pub peers: Vec<Peer>,
    /// What the others are compared with.
    pub baseline: Peer,
}

/// What came out.
#[derive(Debug)]
pub struct Comparison {
    rounds: usize,
    baseline: Peer,
    outcomes: Vec<Outcome>,
    /// Peers that lost a byte or a connection, with the reason. Their scenario has no figures of them.
    pub failures: Vec<String>,
}

#[derive(Debug)]
struct Outcome {
    scenario: Scenario,
    rows: Vec<Row>,
    /// CPUs' worth of time that other processes used meanwhile.
    foreign: f64,
}

#[derive(Debug)]
struct Row {
    peer: Peer,
    /// Medians over the rounds.
    medians: Vec<(Metric, f64)>,
    /// Of the first metric, over the rounds.
    spread: Option<Spread>,
    /// The first metric divided by the baseline's of the same round.
    ratio: Option<Spread>,
}

/// CPUs' worth of time from which on neighbours show in the figures.
const NOISY: f64 = 0.05;

/// Runs the plan; progress goes to standard error.
///
/// # Errors
/// The baseline itself fails, or a server cannot be started. Failures of other peers are in the result.
pub fn compare(plan: &Plan) -> io::Result<Comparison> {
    let mut comparison = Comparison {
        rounds: plan.rounds,
        baseline: plan.baseline,
        outcomes: Vec::new(),
        failures: Vec::new(),
    };
    for scenario in &plan.scenarios {
        let has_baseline = plan.baseline.command(scenario.service())?.is_some();
        let baseline = if has_baseline { plan.baseline } else { peer::TOKIO };
        let mut peers = vec![baseline];
        peers.extend(plan.peers.iter().copied().filter(|peer| *peer != baseline));
        peers.push(baseline.control());
        let outcome = rounds(scenario, &peers, plan.rounds, &mut comparison.failures)?;
        comparison.outcomes.push(outcome);
    }
    Ok(comparison)
}

fn rounds(
    scenario: &Scenario,
    peers: &[Peer],
    rounds: usize,
    failures: &mut Vec<String>,
) -> io::Result<Outcome> {
    let mut series: Vec<(Peer, Vec<std::ffi::OsString>, Vec<Sample>)> = Vec::new();
    for peer in peers {
        if let Some(command) = peer.command(scenario.service())? {
            series.push((*peer, command, Vec::new()));
        }
    }
    let watch = Watch::start()?;
    for round in 1..=rounds {
        eprintln!("{}: round {round} of {rounds}", scenario.name);
        let mut failed = Vec::new();
        for (peer, command, samples) in &mut series {
            let server = Server::start(command)?;
            match scenario.run(&server) {
                Ok(sample) => samples.push(sample),
                Err(error) if peers.first() == Some(peer) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {}: {error}", scenario.name, peer.name),
                    ));
                }
                Err(error) => {
                    let text = format!("{}: {}: {error}", scenario.name, peer.name);
                    eprintln!("{text}");
                    failures.push(text);
                    failed.push(*peer);
                }
            }
        }
        series.retain(|(peer, ..)| !failed.contains(peer));
    }
    let foreign = watch.foreign()?;
    if foreign > NOISY {
        eprintln!(
            "{}: others used {:.0} % of a CPU; repeat this on a quiet machine",
            scenario.name,
            foreign * 100.0
        );
    }
    let firsts: Vec<Vec<f64>> = series.iter().map(|(.., samples)| firsts(samples)).collect();
    let baseline = firsts.first().cloned().unwrap_or_default();
    let rows = series
        .iter()
        .zip(&firsts)
        .map(|((peer, _, samples), firsts)| {
            let ratios: Vec<f64> =
                firsts.iter().zip(&baseline).filter(|(_, base)| **base > 0.0).map(|(a, b)| a / b).collect();
            Row {
                peer: *peer,
                medians: medians(samples),
                spread: Spread::of(firsts),
                ratio: Spread::of(&ratios),
            }
        })
        .collect();
    Ok(Outcome { scenario: *scenario, rows, foreign })
}

fn firsts(samples: &[Sample]) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample.first()).map(|(_, value)| *value).collect()
}

fn medians(samples: &[Sample]) -> Vec<(Metric, f64)> {
    let Some(first) = samples.first() else { return Vec::new() };
    let column = |place: usize| -> Vec<f64> {
        samples.iter().filter_map(|sample| sample.get(place)).map(|(_, value)| *value).collect()
    };
    first.iter().enumerate().map(|(place, (metric, _))| (*metric, median(&column(place)))).collect()
}

impl Comparison {
    /// A table of all ratios, then one table per scenario.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}; {} paired rounds.\n", report::machine(), self.rounds);
        let _ = writeln!(
            out,
            "Median of the per-round ratios to {} (with TLS to {}, if that has none):\n\n{}",
            self.baseline.name,
            peer::TOKIO.name,
            self.overview()
        );
        for outcome in &self.outcomes {
            let Scenario { name, title, .. } = outcome.scenario;
            let _ = writeln!(out, "### {name}: {title}\n\n{}", outcome.table());
            if outcome.foreign > NOISY {
                let percent = number(outcome.foreign * 100.0, 0);
                let _ = writeln!(out, "Noisy: other processes used {percent} % of a CPU meanwhile.\n");
            }
        }
        for failure in &self.failures {
            let _ = writeln!(out, "Failed: {failure}");
        }
        out
    }

    /// Ratios where they mean something, else the figures themselves.
    pub fn to_chart(&self) -> Chart {
        Chart {
            title: format!("Server CPU time and latency, beside {}", self.baseline.name),
            subtitle: format!(
                "lower is better; line: quartiles of {} rounds; {}",
                self.rounds,
                report::machine()
            ),
            groups: self.outcomes.iter().map(Outcome::group).collect(),
        }
    }

    fn overview(&self) -> Table {
        let mut peers: Vec<Peer> = Vec::new();
        for row in self.outcomes.iter().flat_map(|outcome| &outcome.rows) {
            // The control stays last, also when the first scenario knows fewer peers than a later one.
            if !peers.contains(&row.peer) && row.peer != self.baseline && !row.peer.is_control() {
                peers.push(row.peer);
            }
        }
        peers.push(self.baseline.control());
        let names = peers.iter().map(|peer| peer.name);
        let mut table = Table::new(["scenario", "first metric"].into_iter().chain(names));
        for outcome in &self.outcomes {
            let metric = outcome.rows.first().and_then(|row| row.medians.first());
            let mut cells = vec![
                outcome.scenario.name.to_owned(),
                metric.map_or("", |(metric, _)| metric.name).to_owned(),
            ];
            cells.extend(peers.iter().map(|peer| {
                let row = outcome.rows.iter().find(|row| row.peer == *peer);
                row.and_then(|row| row.ratio).map_or_else(String::new, |ratio| report::ratio(ratio.median))
            }));
            table.row(cells);
        }
        table
    }
}

impl Outcome {
    fn table(&self) -> Table {
        let metrics = self.rows.first().map_or(&[][..], |row| &row.medians);
        let names = metrics.iter().map(|(metric, _)| metric.name);
        let mut header = vec!["peer"];
        header.extend(names.clone().take(1));
        header.extend(["ratio", "quartiles", "min … max"]);
        header.extend(names.skip(1));
        let mut table = Table::new(header);
        for row in &self.rows {
            let figure = |(metric, value): &(Metric, f64)| number(*value, metric.digits);
            let mut cells = vec![row.peer.name.to_owned()];
            cells.extend(row.medians.iter().take(1).map(figure));
            cells.extend(row.ratio.map_or([const { String::new() }; 3], |ratio| {
                [
                    report::ratio(ratio.median),
                    format!("{} – {}", report::ratio(ratio.low), report::ratio(ratio.high)),
                    format!("{} … {}", report::ratio(ratio.min), report::ratio(ratio.max)),
                ]
            }));
            cells.extend(row.medians.iter().skip(1).map(figure));
            table.row(cells);
        }
        table
    }

    fn group(&self) -> Group {
        let by_ratio = self.scenario.by_ratio;
        let metric = self.rows.first().and_then(|row| row.medians.first());
        let title = match metric {
            Some((metric, _)) if by_ratio => format!("{}: {}, ratio", self.scenario.title, metric.name),
            _ => self.scenario.title.to_owned(),
        };
        let bars = self.rows.iter().filter_map(|row| {
            let (spread, digits) = if by_ratio {
                (row.ratio?, 2)
            } else {
                (row.spread?, metric.map_or(0, |(metric, _)| metric.digits))
            };
            Some(Bar {
                label: row.peer.name.to_owned(),
                value: spread.median,
                text: number(spread.median, digits),
                range: Some((spread.low, spread.high)),
                role: role(row.peer),
            })
        });
        Group { title, reference: by_ratio.then_some(1.0), bars: bars.collect() }
    }
}

/// How a peer's bars are coloured.
pub(crate) fn role(peer: Peer) -> Role {
    if peer == peer::BASELINE || peer.is_control() {
        Role::Baseline
    } else if peer.name == "twistor" {
        Role::Subject
    } else {
        Role::Other
    }
}
