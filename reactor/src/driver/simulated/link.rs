//! What a link between two hosts is like: [`Link`].

use std::time::Duration;

/// In what pieces a stream travels, and is received: boundaries that a correct program does not notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pieces {
    /// As large as buffers and windows allow.
    Whole,
    /// Of a random length up to this many bytes each.
    UpTo(usize),
    /// Of this many bytes each, but for the last.
    Exactly(usize),
}

/// A link between two simulated hosts, the same in both directions: latency, bandwidth, buffers and flaws.
///
/// ```
/// use std::time::Duration;
/// use twistor::testing::{Link, Pieces};
///
/// let satellite = Link::new()
///     .latency(Duration::from_millis(280))
///     .jitter(Duration::from_millis(20))
///     .bandwidth(250_000)
///     .loss(0.01)
///     .pieces(Pieces::UpTo(1400));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a link does nothing until hosts are connected by it"]
pub struct Link {
    pub(crate) latency: Duration,
    pub(crate) jitter: Duration,
    pub(crate) bandwidth: Option<u64>,
    pub(crate) loss: f64,
    pub(crate) reorder: f64,
    pub(crate) duplicate: f64,
    pub(crate) pieces: Pieces,
    pub(crate) send_buffer: usize,
    pub(crate) receive_buffer: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A good local network: half a millisecond, a tenth of that as jitter, no limit of bandwidth, no loss,
    /// buffers of 256 KiB.
    pub const fn new() -> Self {
        Self {
            latency: Duration::from_micros(500),
            jitter: Duration::from_micros(50),
            bandwidth: None,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            pieces: Pieces::Whole,
            send_buffer: 256 * 1024,
            receive_buffer: 256 * 1024,
        }
    }

    /// What is sent arrives at once, as on the loopback device of one machine.
    pub const fn instant() -> Self {
        let mut link = Self::new();
        link.latency = Duration::ZERO;
        link.jitter = Duration::ZERO;
        link
    }

    /// The time that everything takes one way.
    pub const fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// What may come on top of the latency, at random. A stream stays in order all the same.
    pub const fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Bytes per second in each direction, shared by all streams.
    ///
    /// # Panics
    ///
    /// With 0: nothing would ever arrive. Use a partition for that.
    pub const fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a bandwidth of 0 would carry nothing; use a partition for that");
        self.bandwidth = Some(bytes_per_second);
        self
    }

    /// The probability that a segment is lost. Of a stream it is sent again, 200 ms later and then at doubled
    /// intervals, and holds up what comes behind it; a datagram is gone.
    ///
    /// # Panics
    ///
    /// Below 0 or not below 1.
    pub const fn loss(mut self, probability: f64) -> Self {
        assert!(probability >= 0.0 && probability < 1.0, "a loss is a probability from 0 to below 1");
        self.loss = probability;
        self
    }

    /// The probability that a datagram is held up, so that those behind it overtake it. Others arrive in the
    /// order in which they were sent, whatever the jitter.
    ///
    /// # Panics
    ///
    /// Below 0 or above 1.
    pub const fn reorder(mut self, probability: f64) -> Self {
        assert!(probability >= 0.0 && probability <= 1.0, "a probability is from 0 to 1");
        self.reorder = probability;
        self
    }

    /// The probability that a datagram arrives twice.
    ///
    /// # Panics
    ///
    /// Below 0 or above 1.
    pub const fn duplicate(mut self, probability: f64) -> Self {
        assert!(probability >= 0.0 && probability <= 1.0, "a probability is from 0 to 1");
        self.duplicate = probability;
        self
    }

    /// In what pieces streams travel.
    ///
    /// # Panics
    ///
    /// Pieces of 0 bytes.
    pub const fn pieces(mut self, pieces: Pieces) -> Self {
        assert!(
            !matches!(pieces, Pieces::UpTo(0) | Pieces::Exactly(0)),
            "pieces of 0 bytes would carry nothing"
        );
        self.pieces = pieces;
        self
    }

    /// Sizes of the buffers at the sending and at the receiving end of each stream, in bytes. Streams whose
    /// endpoint asks for sizes of its own get those.
    ///
    /// # Panics
    ///
    /// With 0.
    pub const fn buffers(mut self, send: usize, receive: usize) -> Self {
        assert!(send > 0 && receive > 0, "a buffer of 0 bytes would carry nothing");
        self.send_buffer = send;
        self.receive_buffer = receive;
        self
    }
}
