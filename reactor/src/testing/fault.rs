//! What can go wrong in a simulated network: one [`Fault`], and random [`Faults`].

use std::fmt;
use std::time::Duration;

use super::simulation::Simulation;
use crate::core::random::Generator;
use crate::driver::simulated::link::Link;
use crate::driver::simulated::network::{HostId, Unwelcome};

/// Something that goes wrong at hosts of a [`Simulation`], for a while or for good.
///
/// ```
/// use std::time::Duration;
/// use twistor::testing::{Fault, Simulation};
///
/// let sim = Simulation::new(1);
/// for name in ["a", "b", "c"] {
///     sim.host(name, |_| {});
/// }
/// sim.inject(Fault::partition(["a"]).lasting(Duration::from_secs(5)));
/// sim.inject_at(Duration::from_secs(10), Fault::crash("b").lasting(Duration::from_secs(1)));
/// sim.run_for(Duration::from_secs(20));
/// assert!(sim.find("b").is_running());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    kind: Kind,
    lasts: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Kind {
    Partition(Vec<String>),
    Cut { from: String, to: String },
    Heal,
    Crash(String),
    Restart(String),
    Freeze(String),
    SlowReader(String, u64),
    Unwelcome(String, Unwelcome),
    DescriptorLimit(String, usize),
    ClockRate(String, f64),
    Link { one: String, other: String, link: Link },
    Reset { host: String, choice: u64 },
    HalfOpen { host: String, choice: u64 },
}

/// How long a freeze lasts unless something else is said.
const FREEZE: Duration = Duration::from_secs(1);

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, lasts: None }
    }

    /// Nothing gets from these hosts to any other, nor back. Among themselves they talk.
    pub fn partition<N: Into<String>>(hosts: impl IntoIterator<Item = N>) -> Self {
        Self::new(Kind::Partition(hosts.into_iter().map(Into::into).collect()))
    }

    /// Nothing gets from one host to another; the other way goes on.
    pub fn cut(from: &str, to: &str) -> Self {
        Self::new(Kind::Cut { from: from.to_owned(), to: to.to_owned() })
    }

    /// Mends all cuts and partitions.
    pub fn heal() -> Self {
        Self::new(Kind::Heal)
    }

    /// The host stops without a word to anybody, as by a power cut. If the fault lasts, the host starts again
    /// after it, with nothing but its program.
    pub fn crash(host: &str) -> Self {
        Self::new(Kind::Crash(host.to_owned()))
    }

    /// A crashed host starts again.
    pub fn restart(host: &str) -> Self {
        Self::new(Kind::Restart(host.to_owned()))
    }

    /// The host's process does not run, as under SIGSTOP; its kernel goes on. For a second, unless it lasts
    /// otherwise.
    pub fn freeze(host: &str) -> Self {
        Self::new(Kind::Freeze(host.to_owned()))
    }

    /// The host's process reads no more than so many bytes per second.
    pub fn slow_reader(host: &str, bytes_per_second: u64) -> Self {
        Self::new(Kind::SlowReader(host.to_owned(), bytes_per_second.max(1)))
    }

    /// Who connects to the host is refused, although somebody listens.
    pub fn refuse(host: &str) -> Self {
        Self::new(Kind::Unwelcome(host.to_owned(), Unwelcome::Refuse))
    }

    /// Who connects to the host gets no answer, as from a listener whose backlog is full.
    pub fn backlog_full(host: &str) -> Self {
        Self::new(Kind::Unwelcome(host.to_owned(), Unwelcome::Ignore))
    }

    /// The host's process may not have more than so many descriptors: then accepting and connecting fail.
    pub fn descriptor_limit(host: &str, descriptors: usize) -> Self {
        Self::new(Kind::DescriptorLimit(host.to_owned(), descriptors))
    }

    /// The host's clock runs at this rate: 1.1 is a tenth too fast.
    ///
    /// # Panics
    ///
    /// The rate is not positive: time would stand still or go backwards.
    pub fn clock_rate(host: &str, rate: f64) -> Self {
        assert!(rate > 0.0, "a clock rate of {rate} would let time stand still or go backwards");
        Self::new(Kind::ClockRate(host.to_owned(), rate))
    }

    /// The link between two hosts changes.
    pub fn link(one: &str, other: &str, link: Link) -> Self {
        Self::new(Kind::Link { one: one.to_owned(), other: other.to_owned(), link })
    }

    /// Something on the way breaks one of the host's open streams: both ends are reset.
    pub fn reset(host: &str) -> Self {
        Self::new(Kind::Reset { host: host.to_owned(), choice: 0 })
    }

    /// One of the host's open streams becomes half-open: neither end hears anything of the other any more.
    pub fn half_open(host: &str) -> Self {
        Self::new(Kind::HalfOpen { host: host.to_owned(), choice: 0 })
    }

    /// Ends the fault after a while. Partitions and cuts that overlap end one after the other; where
    /// otherwise a later fault has changed the same thing meanwhile, that one's end counts. What happens at
    /// one moment, a reset for instance, has nothing to end.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasts = Some(time);
        self
    }

    fn hosts(&self) -> Vec<&str> {
        match &self.kind {
            Kind::Heal => Vec::new(),
            Kind::Partition(hosts) => hosts.iter().map(String::as_str).collect(),
            Kind::Cut { from, to } => vec![from, to],
            Kind::Link { one, other, .. } => vec![one, other],
            Kind::Crash(host)
            | Kind::Restart(host)
            | Kind::Freeze(host)
            | Kind::SlowReader(host, _)
            | Kind::Unwelcome(host, _)
            | Kind::DescriptorLimit(host, _)
            | Kind::ClockRate(host, _)
            | Kind::Reset { host, .. }
            | Kind::HalfOpen { host, .. } => vec![host],
        }
    }

    /// Panics if it names a host that does not exist.
    pub(super) fn check(&self, sim: &Simulation) {
        for host in self.hosts() {
            sim.id(host);
        }
    }

    /// Lets it happen. Strictly, it has to make sense; else what makes none is left out.
    pub(super) fn apply(&self, sim: &Simulation, strictly: bool) {
        self.check(sim);
        if let Some(why) = self.senseless(sim) {
            assert!(!strictly, "{self} makes no sense at t={:?}: {why}", sim.now());
            return;
        }
        sim.network().borrow_mut().note(None, &format!("fault: {self}"));
        let setting = self.setting();
        let mark = sim.change_setting(&setting);
        let end = self.end(sim);
        self.begin(sim);
        if let Some(end) = end
            && let Some(lasts) = self.lasts
        {
            sim.at(sim.now().saturating_add(lasts), move |sim| {
                // What another fault has changed since is that one's to end.
                if sim.setting_is_as(&setting, mark) {
                    end.apply(sim);
                }
            });
        }
    }

    /// What it changes, if a later fault can take its place. Cuts are counted instead, but a heal ends all of
    /// them.
    fn setting(&self) -> String {
        match &self.kind {
            Kind::Partition(_) | Kind::Cut { .. } => "cuts".to_owned(),
            Kind::Heal => "heal".to_owned(),
            Kind::Crash(host) | Kind::Restart(host) => format!("life of {host}"),
            Kind::Freeze(host) => format!("pace of {host}"),
            Kind::SlowReader(host, _) => format!("reading of {host}"),
            Kind::Unwelcome(host, _) => format!("welcome of {host}"),
            Kind::DescriptorLimit(host, _) => format!("descriptors of {host}"),
            Kind::ClockRate(host, _) => format!("clock of {host}"),
            Kind::Link { one, other, .. } => format!("link of {one} and {other}"),
            Kind::Reset { .. } | Kind::HalfOpen { .. } => "streams".to_owned(),
        }
    }

    fn senseless(&self, sim: &Simulation) -> Option<String> {
        match &self.kind {
            Kind::Crash(host)
            | Kind::Freeze(host)
            | Kind::SlowReader(host, _)
            | Kind::DescriptorLimit(host, _)
                if !sim.is_up(host) =>
            {
                Some(format!("{host} is down"))
            }
            Kind::Restart(host) if sim.is_up(host) => Some(format!("{host} is up")),
            Kind::Cut { from, to } if sim.network().borrow().is_link_cut(sim.id(from), sim.id(to)) => {
                Some("that way is cut already".to_owned())
            }
            Kind::Reset { host, choice } | Kind::HalfOpen { host, choice }
                if self.stream(sim, host, *choice).is_none() =>
            {
                Some(format!("{host} has no open stream"))
            }
            _ => None,
        }
    }

    fn stream(
        &self,
        sim: &Simulation,
        host: &str,
        choice: u64,
    ) -> Option<crate::driver::simulated::network::SocketId> {
        let streams = sim.network().borrow().streams_of(sim.id(host));
        let index = choice.checked_rem(streams.len() as u64)?;
        streams.get(index as usize).copied()
    }

    fn begin(&self, sim: &Simulation) {
        let network = || sim.network().borrow_mut();
        match &self.kind {
            Kind::Partition(hosts) => self.set_partition(sim, hosts, true),
            Kind::Cut { from, to } => network().set_cut(sim.id(from), sim.id(to), true),
            Kind::Heal => network().heal(),
            Kind::Crash(host) => sim.crash(host),
            Kind::Restart(host) => sim.restart(host),
            Kind::Freeze(host) => network().keep_busy(sim.id(host), self.lasts.unwrap_or(FREEZE)),
            Kind::SlowReader(host, rate) => network().set_read_rate(sim.id(host), Some(*rate)),
            Kind::Unwelcome(host, how) => network().set_unwelcome(sim.id(host), Some(*how)),
            Kind::DescriptorLimit(host, limit) => network().set_descriptor_limit(sim.id(host), Some(*limit)),
            Kind::ClockRate(host, rate) => network().set_clock_rate(sim.id(host), *rate),
            Kind::Link { one, other, link } => network().set_link(sim.id(one), sim.id(other), link),
            Kind::Reset { host, choice } => {
                if let Some(stream) = self.stream(sim, host, *choice) {
                    network().break_stream(stream);
                }
            }
            Kind::HalfOpen { host, choice } => {
                if let Some(stream) = self.stream(sim, host, *choice) {
                    network().silence(stream);
                }
            }
        }
    }

    fn set_partition(&self, sim: &Simulation, hosts: &[String], is_cut: bool) {
        for other in sim.host_names().iter().filter(|name| !hosts.contains(name)) {
            for host in hosts {
                let (one, other): (HostId, HostId) = (sim.id(host), sim.id(other));
                let mut network = sim.network().borrow_mut();
                network.set_cut(one, other, is_cut);
                network.set_cut(other, one, is_cut);
            }
        }
    }

    /// Whether it has an end: what happens at one moment has none.
    fn has_end(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Heal | Kind::Restart(_) | Kind::Freeze(_) | Kind::Reset { .. } | Kind::HalfOpen { .. }
        )
    }

    /// What ends it: asked before it begins.
    fn end(&self, sim: &Simulation) -> Option<Ending> {
        match &self.kind {
            Kind::Partition(hosts) => Some(Ending::Partition(hosts.clone())),
            Kind::Cut { from, to } => Some(Ending::Cut(from.clone(), to.clone())),
            Kind::Crash(host) => Some(Ending::Crash(host.clone())),
            Kind::SlowReader(host, _) => Some(Ending::SlowReader(host.clone())),
            Kind::Unwelcome(host, _) => Some(Ending::Unwelcome(host.clone())),
            Kind::DescriptorLimit(host, _) => Some(Ending::DescriptorLimit(host.clone())),
            Kind::ClockRate(host, _) => Some(Ending::ClockRate(host.clone())),
            Kind::Link { one, other, .. } => {
                let before = sim.network().borrow_mut().link(sim.id(one), sim.id(other));
                Some(Ending::Link(one.clone(), other.clone(), before))
            }
            Kind::Heal | Kind::Restart(_) | Kind::Freeze(_) | Kind::Reset { .. } | Kind::HalfOpen { .. } => {
                None
            }
        }
    }

    /// The same fault at another of the host's streams.
    fn choosing(mut self, number: u64) -> Self {
        if let Kind::Reset { choice, .. } | Kind::HalfOpen { choice, .. } = &mut self.kind {
            *choice = number;
        }
        self
    }
}

/// The end of a fault that lasts.
enum Ending {
    Partition(Vec<String>),
    Cut(String, String),
    Crash(String),
    SlowReader(String),
    Unwelcome(String),
    DescriptorLimit(String),
    ClockRate(String),
    Link(String, String, Link),
}

impl Ending {
    fn apply(&self, sim: &Simulation) {
        let network = || sim.network().borrow_mut();
        match self {
            Self::Partition(hosts) => {
                network().note(None, &format!("the partition of {} ends", hosts.join(", ")));
                Fault::partition(hosts.clone()).set_partition(sim, hosts, false);
            }
            Self::Cut(from, to) => {
                network().note(None, &format!("the cut from {from} to {to} ends"));
                network().set_cut(sim.id(from), sim.id(to), false);
            }
            Self::Crash(host) if sim.is_up(host) => {}
            Self::Crash(host) => sim.restart(host),
            Self::SlowReader(host) => network().set_read_rate(sim.id(host), None),
            Self::Unwelcome(host) => network().set_unwelcome(sim.id(host), None),
            Self::DescriptorLimit(host) => network().set_descriptor_limit(sim.id(host), None),
            Self::ClockRate(host) => network().set_clock_rate(sim.id(host), 1.0),
            Self::Link(one, other, before) => network().set_link(sim.id(one), sim.id(other), before),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Partition(hosts) => write!(f, "partition of {} from the others", hosts.join(", ")),
            Kind::Cut { from, to } => write!(f, "cut from {from} to {to}"),
            Kind::Heal => f.write_str("heal"),
            Kind::Crash(host) => write!(f, "crash of {host}"),
            Kind::Restart(host) => write!(f, "restart of {host}"),
            Kind::Freeze(host) => write!(f, "freeze of {host}"),
            Kind::SlowReader(host, rate) => write!(f, "{host} reads {rate} B/s"),
            Kind::Unwelcome(host, Unwelcome::Refuse) => write!(f, "{host} refuses connections"),
            Kind::Unwelcome(host, Unwelcome::Ignore) => write!(f, "the backlog of {host} is full"),
            Kind::DescriptorLimit(host, limit) => write!(f, "{host} may have {limit} descriptors"),
            Kind::ClockRate(host, rate) => write!(f, "the clock of {host} runs at {rate}"),
            Kind::Link { one, other, .. } => write!(f, "the link of {one} and {other} changes"),
            Kind::Reset { host, .. } => write!(f, "reset of a stream of {host}"),
            Kind::HalfOpen { host, .. } => write!(f, "a stream of {host} becomes half-open"),
        }?;
        match (&self.kind, self.lasts) {
            (Kind::Freeze(_), lasts) => write!(f, ", for {:?}", lasts.unwrap_or(FREEZE)),
            (_, Some(lasts)) if self.has_end() => write!(f, ", for {lasts:?}"),
            _ => Ok(()),
        }
    }
}

/// Random faults: how many of which kind may be expected, within what time.
///
/// ```
/// use std::time::Duration;
/// use twistor::testing::{Faults, Simulation};
///
/// # let sim = Simulation::new(1);
/// # for name in ["a", "b", "c"] { sim.host(name, |_| {}); }
/// let weather = Faults::within(Duration::from_secs(60)).partitions(2.0).crashes(1.0).resets(5.0);
/// sim.random_faults(&weather);
/// ```
#[derive(Clone, Debug)]
#[must_use = "faults do nothing until a simulation draws them"]
pub struct Faults {
    within: Duration,
    longest: Duration,
    hosts: Option<Vec<String>>,
    partitions: f64,
    cuts: f64,
    crashes: f64,
    freezes: f64,
    slow_readers: f64,
    refusals: f64,
    full_backlogs: f64,
    descriptor_limits: f64,
    clock_rates: f64,
    clock_range: (f64, f64),
    resets: f64,
    half_opens: f64,
}

/// One builder method per kind of fault.
macro_rules! expectations {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, expected: f64) -> Self {
                self.$name = expected;
                self
            }
        )*
    };
}

impl Faults {
    /// None yet. They will begin within this time from when they are drawn, and last no longer than a quarter
    /// of it.
    pub fn within(time: Duration) -> Self {
        Self {
            within: time,
            longest: time / 4,
            hosts: None,
            partitions: 0.0,
            cuts: 0.0,
            crashes: 0.0,
            freezes: 0.0,
            slow_readers: 0.0,
            refusals: 0.0,
            full_backlogs: 0.0,
            descriptor_limits: 0.0,
            clock_rates: 0.0,
            clock_range: (0.5, 2.0),
            resets: 0.0,
            half_opens: 0.0,
        }
    }

    /// A bit of everything.
    pub fn all(within: Duration) -> Self {
        Self::within(within)
            .partitions(1.0)
            .cuts(1.0)
            .crashes(1.0)
            .freezes(1.0)
            .slow_readers(0.5)
            .refusals(0.5)
            .full_backlogs(0.5)
            .descriptor_limits(0.5)
            .clock_rates(0.5)
            .resets(2.0)
            .half_opens(0.5)
    }

    /// No fault lasts longer than this.
    pub fn lasting_up_to(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// Only these hosts are affected; otherwise any may be.
    pub fn only<N: Into<String>>(mut self, hosts: impl IntoIterator<Item = N>) -> Self {
        self.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Clocks that run wrong do so at a rate between these; otherwise between 0.5 and 2. For programs that
    /// are right only while clocks are good to a few percent.
    ///
    /// # Panics
    ///
    /// The lowest is not positive, or above the highest.
    pub fn clock_range(mut self, lowest: f64, highest: f64) -> Self {
        assert!(0.0 < lowest && lowest <= highest, "there is no clock rate between {lowest} and {highest}");
        self.clock_range = (lowest, highest);
        self
    }

    expectations! {
        /// So many [partitions](Fault::partition) of one or several hosts from the others.
        partitions
        /// So many [cuts](Fault::cut) of one direction.
        cuts
        /// So many [crashes](Fault::crash), each with a restart.
        crashes
        /// So many [freezes](Fault::freeze).
        freezes
        /// So many [slow readers](Fault::slow_reader).
        slow_readers
        /// So many times that [connections are refused](Fault::refuse).
        refusals
        /// So many [full backlogs](Fault::backlog_full).
        full_backlogs
        /// So many [shortages of descriptors](Fault::descriptor_limit).
        descriptor_limits
        /// So many [clocks that run wrong](Fault::clock_rate).
        clock_rates
        /// So many [resets](Fault::reset).
        resets
        /// So many [half-open streams](Fault::half_open).
        half_opens
    }

    /// Draws them, in the order of their times.
    pub(super) fn draw(
        &self,
        all: &[String],
        from: Duration,
        random: &mut Generator,
    ) -> Vec<(Duration, Fault)> {
        let hosts = self.hosts.as_deref().unwrap_or(all);
        let mut list = Vec::new();
        let kinds: [(f64, &dyn Fn(&mut Generator, &[String], &[String]) -> Option<Fault>); 11] = [
            (self.partitions, &|random, hosts, all| {
                let mut hosts = hosts.to_vec();
                random.shuffle(&mut hosts);
                let most = hosts.len().min(all.len().checked_sub(1)?) as u64;
                hosts.truncate(1 + random.below(most) as usize);
                Some(Fault::partition(hosts))
            }),
            (self.cuts, &|random, hosts, all| {
                let from = pick(random, hosts)?;
                let others: Vec<String> = all.iter().filter(|name| *name != from).cloned().collect();
                Some(Fault::cut(from, pick(random, &others)?))
            }),
            (self.crashes, &|random, hosts, _| Some(Fault::crash(pick(random, hosts)?))),
            (self.freezes, &|random, hosts, _| Some(Fault::freeze(pick(random, hosts)?))),
            (self.slow_readers, &|random, hosts, _| {
                Some(Fault::slow_reader(pick(random, hosts)?, 100 << random.below(10)))
            }),
            (self.refusals, &|random, hosts, _| Some(Fault::refuse(pick(random, hosts)?))),
            (self.full_backlogs, &|random, hosts, _| Some(Fault::backlog_full(pick(random, hosts)?))),
            (self.descriptor_limits, &|random, hosts, _| {
                Some(Fault::descriptor_limit(pick(random, hosts)?, random.below(8) as usize))
            }),
            (self.clock_rates, &|random, hosts, _| {
                let (lowest, highest) = self.clock_range;
                // To the thousandth, so that it can be read.
                let rate = lowest + (highest - lowest) * random.unit();
                let rate = ((rate * 1000.0).round() / 1000.0).clamp(lowest, highest);
                Some(Fault::clock_rate(pick(random, hosts)?, rate))
            }),
            (self.resets, &|random, hosts, _| {
                Some(Fault::reset(pick(random, hosts)?).choosing(random.next()))
            }),
            (self.half_opens, &|random, hosts, _| {
                Some(Fault::half_open(pick(random, hosts)?).choosing(random.next()))
            }),
        ];
        for (expected, make) in kinds {
            // Any number up to twice as many, so that there may be none.
            let most = (expected.max(0.0) * 2.0 + 1.0) as u64;
            let count = if expected > 0.0 { random.below(most.max(2)) } else { 0 };
            for _ in 0..count {
                let at = from + part_of(self.within, random);
                let lasts = part_of(self.longest, random).max(Duration::from_millis(1));
                if let Some(fault) = make(random, hosts, all) {
                    list.push((at, fault.lasting(lasts)));
                }
            }
        }
        list.sort_by_key(|(at, _)| *at);
        list
    }
}

fn pick<'n>(random: &mut Generator, names: &'n [String]) -> Option<&'n str> {
    names.get(random.below(names.len() as u64) as usize).map(String::as_str)
}

/// A part of a time; of longer ones in whole milliseconds, so that people can read and repeat it.
fn part_of(time: Duration, random: &mut Generator) -> Duration {
    let unit = if time < Duration::from_secs(1) { Duration::from_nanos(1) } else { Duration::from_millis(1) };
    let units = u64::try_from(time.as_nanos() / unit.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.below(units).saturating_mul(unit.as_nanos() as u64))
}
