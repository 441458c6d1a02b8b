//! A connection as a state machine: what may be read, written, flushed, ended, and what to do next.
//!
//! The reactor reports what happened ([`received`](Connection::count_received),
//! [`flushed`](Connection::sent), [`peer_ended`](Connection::peer_ended), …), the user's calls say what is
//! wanted ([`write`](Connection::write), [`lose`](Connection::lose_connection), …), and after either the
//! reactor does what [`step`](Connection::step) says until it says [`Step::Rest`]. There is one way out,
//! [`Phase::Lost`], and it is final.

#[cfg(feature = "tls")]
mod sealed;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::reason::Reason;
use super::timeouts::{Timeout, Timeouts, Watch};
use super::tls::Tls;
use crate::core::outbox::{FileRange, Outbox};
use crate::core::pool::Pool;
use crate::core::wheel::TimerId;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// In use.
    Open,
    /// We are leaving: the outbox is flushed, then our side ended, then the peer's input discarded until it
    /// ends.
    Closing,
    /// Over. What is left to do is to close the descriptor and say so.
    Lost,
}

/// Whether the user wants input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Running,
    Paused,
}

/// Whether the peer has finished sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PeerEnd {
    Open,
    /// It has, and the protocol has not heard of it yet.
    Seen,
    Told,
}

/// Our direction of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteSide {
    Open,
    /// To be ended once the outbox is empty.
    Finishing,
    /// Ended.
    Finished,
    /// Sending failed. What was received before may still be read; then the connection is lost.
    Broken,
}

/// Whether output may be offered to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Output {
    Free,
    /// Waiting until the stream is writable.
    Blocked,
}

/// How the descriptor of a lost connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Orderly,
    /// So that the peer sees a reset.
    Abrupt,
}

/// What the reactor has to do next.
#[derive(Debug)]
pub(crate) enum Step {
    Rest,
    /// Offer the outbox to the kernel.
    Flush,
    /// Say within TLS that our direction ends.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there is no TLS"))]
    Announce,
    /// End our direction, then report it with [`Connection::write_side_ended`].
    Shutdown,
    /// The loss was decided: report it with [`Connection::lose`].
    Lose(Reason, End),
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    Queued,
    /// The connection takes no more output.
    Dropped,
    /// A limit was passed and the connection lost.
    Overflow,
}

/// A crossing of a watermark that the protocol has to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crossing {
    Pause,
    Resume,
}

/// How much output a connection takes from a writer that keeps to the marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// So many bytes reach the high mark; none when it is reached just so.
    Bytes(usize),
    /// The queue stands above the high mark, and it is not decided yet whether the protocol will hear of
    /// that.
    Full,
    /// The protocol was told of the high mark, and will be told of the low one.
    Paused,
    /// Output is not taken any more.
    Ended,
}

/// How long and how much a closing connection waits for its peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linger {
    pub(crate) timeout: Duration,
    pub(crate) bytes: usize,
}

impl Default for Linger {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), bytes: 1 << 20 }
    }
}

/// What most connections never need.
#[derive(Default)]
pub(crate) struct Rare {
    marks: Option<(usize, usize)>,
    write_limit: Option<usize>,
    unread: VecDeque<Bytes>,
    unread_bytes: usize,
    /// Of the ending that is under way, or of the loss.
    reason: Option<Reason>,
    /// The reason that another took the place of: its error is a user's value, to be dropped with nothing
    /// borrowed.
    superseded: Option<Reason>,
    watch: Option<Watch>,
    /// Since when a closing connection waits for its peer.
    lingering_since: Option<Instant>,
    /// Input thrown away after our end.
    discarded: usize,
    /// There is no peer whose end could be waited for: the stream is a pipe, a terminal or a file.
    ends_alone: bool,
    /// What opens the input and seals the output.
    tls: Option<Box<Tls>>,
    /// How long a connection waits for its peer after it broke the rules, if not as long as others.
    short_linger: bool,
    /// The timer of the earliest time-out.
    pub(crate) timer: Option<TimerId>,
}

/// How long a peer that broke the rules is waited for, so that it gets to hear that it did.
const SHORT_LINGER: Duration = Duration::from_secs(1);

/// The states of a connection's parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Modes {
    phase: Phase,
    flow: Flow,
    peer_end: PeerEnd,
    write_side: WriteSide,
    output: Output,
    /// `pause_writing` was called and `resume_writing` not yet.
    writing_paused: bool,
    /// A relay has taken the input over and is waiting for its target.
    held: bool,
    end: End,
}

impl Modes {
    /// Of a connection that nothing has happened to.
    const PEACE: Self = Self {
        phase: Phase::Open,
        flow: Flow::Running,
        peer_end: PeerEnd::Open,
        write_side: WriteSide::Open,
        output: Output::Free,
        writing_paused: false,
        held: false,
        end: End::Orderly,
    };
}

/// The state machine; see the module.
pub(crate) struct Connection {
    outbox: Outbox,
    received: u64,
    sent: u64,
    rare: Option<Box<Rare>>,
    /// Changed only through [`Connection::change`].
    modes: Modes,
    /// Whether the connection just flows; see [`Connection::is_at_peace`].
    peace: bool,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self { outbox: Outbox::default(), received: 0, sent: 0, rare: None, modes: Modes::PEACE, peace: true }
    }

    /// A pipe, a terminal or a file, which may go one way only.
    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no descriptors"))]
    pub(crate) fn of_pipe(reads: bool, writes: bool) -> Self {
        let mut connection = Self::new();
        connection.change(|modes| {
            if !reads {
                modes.peer_end = PeerEnd::Told;
            }
            if !writes {
                modes.write_side = WriteSide::Finished;
            }
        });
        connection.rare().ends_alone = true;
        connection
    }

    fn change(&mut self, change: impl FnOnce(&mut Modes)) {
        change(&mut self.modes);
        self.peace = self.modes == Modes::PEACE && self.rare.is_none();
    }

    /// Whether the connection just flows: input goes straight to the protocol, output straight to the kernel,
    /// and nothing else is to be thought of. The usual case, and the one that has to be fast.
    #[inline]
    pub(crate) fn is_at_peace(&self) -> bool {
        self.peace
    }

    /// Counts input and says whether the connection [is at peace](Self::is_at_peace).
    #[inline]
    pub(crate) fn received_in_peace(&mut self, count: usize) -> bool {
        self.received += count as u64;
        self.is_at_peace()
    }

    /// The one small buffer that is queued, if that is all.
    #[inline]
    pub(crate) fn small_output(&self) -> Option<&[u8]> {
        self.outbox.only()
    }

    /// The kernel took the one small buffer, of `count` bytes, whole.
    #[inline]
    pub(crate) fn sent_small(&mut self, count: usize, pool: &Pool) {
        self.sent += count as u64;
        self.outbox.drained(pool);
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.peace = false;
        self.rare.get_or_insert_default()
    }

    /// The filter below, if there is one.
    #[inline]
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.rare.as_ref()?.tls.as_deref()
    }

    pub(crate) fn tls_mut(&mut self) -> Option<&mut Tls> {
        self.rare.as_mut()?.tls.as_deref_mut()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.modes.phase
    }

    pub(crate) fn is_open(&self) -> bool {
        self.modes.phase == Phase::Open
    }

    /// Bytes received and bytes that the kernel took.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// Why the connection was lost, once it is.
    pub(crate) fn reason(&self) -> Option<&Reason> {
        let own = self.rare.as_ref().and_then(|rare| rare.reason.as_ref());
        (self.modes.phase == Phase::Lost).then_some(own.unwrap_or(&Reason::Closed))
    }

    pub(crate) fn end(&self) -> End {
        self.modes.end
    }

    // What is to be done.

    /// What the reactor has to do next. With an idle open connection this is a handful of comparisons.
    #[inline]
    pub(crate) fn step(&self) -> Step {
        if self.modes.phase == Phase::Lost {
            return Step::Rest;
        }
        let closing = self.modes.phase == Phase::Closing;
        match self.modes.write_side {
            WriteSide::Open | WriteSide::Finishing if self.tls().is_some_and(Tls::is_opening) => Step::Rest,
            WriteSide::Open | WriteSide::Finishing if self.has_ready_output() => match self.modes.output {
                Output::Free => Step::Flush,
                Output::Blocked => Step::Rest,
            },
            WriteSide::Open => Step::Rest,
            WriteSide::Finishing if self.is_secured_later() => Step::Rest,
            WriteSide::Finishing if self.has_to_announce() => Step::Announce,
            // The close itself tells the peer when it has nothing more to say.
            WriteSide::Finishing if closing && self.modes.peer_end != PeerEnd::Open => self.lose_orderly(),
            WriteSide::Finishing => Step::Shutdown,
            WriteSide::Finished => match self.modes.peer_end {
                PeerEnd::Told => self.lose_orderly(),
                PeerEnd::Seen if closing => self.lose_orderly(),
                _ => Step::Rest,
            },
            WriteSide::Broken if closing || !self.is_reading() || self.modes.peer_end != PeerEnd::Open => {
                Step::Lose(Reason::Reset, End::Orderly)
            }
            WriteSide::Broken => Step::Rest,
        }
    }

    /// Whether something can be offered to the kernel now.
    #[inline]
    fn has_ready_output(&self) -> bool {
        match self.tls() {
            None => !self.outbox.is_empty(),
            Some(tls) => tls.has_output() || (tls.takes_output() && !self.outbox.is_empty()),
        }
    }

    /// Whether our end has to wait for a handshake: for what is to be sent before, or because the peer may go
    /// on.
    pub(crate) fn is_secured_later(&self) -> bool {
        let closing = self.modes.phase == Phase::Closing;
        self.tls().is_some_and(|tls| tls.is_in_handshake() && !(closing && self.outbox.is_empty()))
    }

    fn has_to_announce(&self) -> bool {
        self.tls().is_some_and(Tls::has_to_announce)
    }

    fn lose_orderly(&self) -> Step {
        let reason = self.rare.as_ref().and_then(|rare| rare.reason.clone());
        Step::Lose(reason.unwrap_or(Reason::Closed), End::Orderly)
    }

    /// The connection is over. The first call counts, and so does the reason of an ending under way: a peer
    /// that breaks off a connection which we were giving up for a reason of our own does not change that
    /// reason.
    pub(crate) fn lose(&mut self, reason: Reason, end: End, pool: &Pool) {
        if self.modes.phase == Phase::Lost {
            return;
        }
        self.change(|modes| {
            modes.phase = Phase::Lost;
            modes.end = end;
        });
        self.clear_output(pool);
        if self.rare.is_none() && matches!(reason, Reason::Closed) {
            // The usual end, which needs no memory.
            return;
        }
        let rare = self.rare();
        let came_from_outside = matches!(reason, Reason::Reset | Reason::LingerTimeout);
        if rare.reason.is_none() || !came_from_outside {
            rare.superseded = rare.reason.replace(reason);
        }
        rare.unread_bytes = 0;
    }

    fn clear_output(&mut self, pool: &Pool) {
        self.outbox.clear(pool);
        if let Some(tls) = self.tls_mut() {
            tls.clear_output(pool);
        }
    }

    /// Whether the stream is watched for input and for output.
    #[inline]
    pub(crate) fn interest(&self) -> (bool, bool) {
        let read = match self.modes.phase {
            Phase::Open => match self.tls() {
                Some(tls) if tls.is_in_handshake() => !tls.awaits_turn(),
                _ => self.is_reading() && !self.modes.held,
            },
            Phase::Closing => !self.tls().is_some_and(Tls::awaits_turn),
            Phase::Lost => false,
        };
        let blocked = self.modes.output == Output::Blocked;
        (read && self.modes.peer_end == PeerEnd::Open, blocked && self.modes.phase != Phase::Lost)
    }

    // Input.

    pub(crate) fn is_reading(&self) -> bool {
        self.modes.flow == Flow::Running
    }

    pub(crate) fn pause_reading(&mut self) {
        self.change(|modes| modes.flow = Flow::Paused);
    }

    pub(crate) fn resume_reading(&mut self) {
        self.change(|modes| modes.flow = Flow::Running);
    }

    /// A relay stops or starts taking input.
    pub(crate) fn hold(&mut self, held: bool) {
        self.change(|modes| modes.held = held);
    }

    /// Input has come: refreshes the time-outs that wait for it.
    pub(crate) fn stamp_received(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(watch) = self.rare.as_mut().and_then(|rare| rare.watch.as_mut()) {
            watch.received(now());
        }
    }

    /// Counts input that a relay moved past the protocol.
    pub(crate) fn count_relayed(&mut self, count: u64, now: Instant) {
        self.received += count;
        if count > 0 {
            self.stamp_received(|| now);
        }
    }

    /// Throws away input of a closing connection; true when it was more than enough.
    pub(crate) fn discard(&mut self, count: usize, linger: &Linger) -> bool {
        if self.modes.write_side != WriteSide::Finished {
            return false;
        }
        let rare = self.rare();
        rare.discarded = rare.discarded.saturating_add(count);
        rare.discarded > linger.bytes
    }

    /// Whether input can go straight to the protocol.
    #[inline]
    pub(crate) fn delivers_at_once(&self) -> bool {
        self.modes.phase == Phase::Open && self.modes.flow == Flow::Running && !self.has_unread()
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.unread.is_empty())
    }

    /// How many bytes wait to be delivered again.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.unread_bytes)
    }

    /// Whether something waits to be delivered that no event will announce.
    pub(crate) fn wants_redelivery(&self) -> bool {
        self.modes.phase == Phase::Open
            && self.modes.flow == Flow::Running
            && (self.has_unread() || self.modes.peer_end == PeerEnd::Seen)
    }

    /// Puts bytes back in front of everything that was not delivered yet. Returns how many are waiting.
    pub(crate) fn unread(&mut self, bytes: Bytes) -> usize {
        let rare = self.rare();
        rare.unread_bytes += bytes.len();
        rare.unread.push_front(bytes);
        rare.unread_bytes
    }

    /// Puts newly received bytes behind what waits to be delivered.
    pub(crate) fn keep(&mut self, data: &[u8]) {
        let rare = self.rare();
        rare.unread_bytes += data.len();
        rare.unread.push_back(Bytes::copy_from_slice(data));
    }

    /// The next bytes to deliver again.
    pub(crate) fn take_unread(&mut self) -> Option<Bytes> {
        let rare = self.rare.as_mut()?;
        let bytes = rare.unread.pop_front()?;
        rare.unread_bytes = rare.unread_bytes.saturating_sub(bytes.len());
        Some(bytes)
    }

    /// Everything not delivered, for the caller to drop while nothing is borrowed.
    pub(crate) fn take_all_unread(&mut self) -> VecDeque<Bytes> {
        self.rare.as_mut().map(|rare| std::mem::take(&mut rare.unread)).unwrap_or_default()
    }

    /// The stream has ended.
    pub(crate) fn peer_ended(&mut self) {
        if self.modes.peer_end == PeerEnd::Open {
            if let Some(tls) = self.tls_mut() {
                tls.cut_off();
            }
            self.peer_announced_end();
        }
    }

    /// The peer has finished sending.
    pub(crate) fn peer_announced_end(&mut self) {
        if self.modes.peer_end == PeerEnd::Open {
            self.change(|modes| modes.peer_end = PeerEnd::Seen);
        }
    }

    /// Whether the peer has finished and the protocol knows.
    pub(crate) fn has_ended(&self) -> bool {
        self.modes.peer_end == PeerEnd::Told
    }

    /// Whether the protocol is to be told now that the peer has finished; true once. A stream whose sending
    /// failed did not end, it broke.
    pub(crate) fn take_peer_end(&mut self) -> bool {
        let now = self.modes.peer_end == PeerEnd::Seen
            && self.delivers_at_once()
            && self.modes.write_side != WriteSide::Broken;
        if now {
            self.change(|modes| modes.peer_end = PeerEnd::Told);
        }
        now
    }

    /// The protocol that comes next has to hear anew that the peer has finished.
    pub(crate) fn tell_end_again(&mut self) {
        if self.modes.peer_end == PeerEnd::Told {
            self.change(|modes| modes.peer_end = PeerEnd::Seen);
        }
    }

    // Output.

    /// Whether our direction was ended by the user, or is about to be.
    pub(crate) fn is_finishing(&self) -> bool {
        self.modes.phase != Phase::Lost
            && matches!(self.modes.write_side, WriteSide::Finishing | WriteSide::Finished)
    }

    fn takes_output(&self) -> bool {
        self.modes.phase == Phase::Open && self.modes.write_side == WriteSide::Open
    }

    /// How much output fits below the high mark.
    #[inline]
    pub(crate) fn room(&self, pool: &Pool) -> Room {
        if self.peace && self.outbox.is_empty() {
            return Room::Bytes(pool.limits().high);
        }
        if !self.takes_output() {
            return Room::Ended;
        }
        if self.modes.writing_paused {
            return Room::Paused;
        }
        let (high, _) = self.marks(pool);
        high.checked_sub(self.queued()).map_or(Room::Full, Room::Bytes)
    }

    /// Bytes that wait to be sent, without those in files.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.queued() + self.tls().map_or(0, Tls::queued)
    }

    /// Bytes that wait to be sent.
    pub(crate) fn pending(&self) -> u64 {
        self.outbox.pending().saturating_add(self.tls().map_or(0, Tls::pending))
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.tls().is_some_and(|tls| tls.pending() > 0)
    }

    /// Whether something waits for the kernel to take it: in the outbox, or in the pipe of a relay.
    pub(crate) fn is_waiting_to_send(&self) -> bool {
        self.has_output() || self.modes.output == Output::Blocked || self.tls().is_some_and(Tls::has_output)
    }

    /// Position in the stream of written bytes behind everything queued so far.
    pub(crate) fn position(&self) -> u64 {
        self.sent.saturating_add(self.pending())
    }

    fn write_limit(&self, pool: &Pool) -> usize {
        self.rare.as_ref().and_then(|rare| rare.write_limit).unwrap_or(pool.limits().write)
    }

    fn admit(&mut self, length: usize, pool: &Pool) -> Written {
        if !self.takes_output() {
            return Written::Dropped;
        }
        if !self.has_room(length, pool) {
            self.lose(Reason::WriteLimit, End::Abrupt, pool);
            return Written::Overflow;
        }
        Written::Queued
    }

    fn has_room(&self, length: usize, pool: &Pool) -> bool {
        self.queued() <= self.write_limit(pool) && pool.total().saturating_add(length) <= pool.limits().total
    }

    /// Copies `data` behind what is queued; the short way for little output of a connection at peace.
    #[inline]
    pub(crate) fn write_small(&mut self, data: &[u8], pool: &Pool) -> bool {
        self.peace && self.outbox.append(data, pool)
    }

    /// Copies `data` behind what is queued.
    pub(crate) fn write(&mut self, data: &[u8], pool: &Pool) -> Written {
        let written = self.admit(data.len(), pool);
        if written == Written::Queued {
            self.outbox.write(data, pool);
        }
        written
    }

    /// Queues `bytes`, by reference when large; gives back what is to be dropped with nothing borrowed.
    pub(crate) fn write_bytes(&mut self, bytes: Bytes, pool: &Pool) -> (Written, Option<Bytes>) {
        match self.admit(bytes.len(), pool) {
            Written::Queued => (Written::Queued, self.outbox.write_bytes(bytes, pool)),
            other => (other, Some(bytes)),
        }
    }

    /// Whether `length` bytes could go to the kernel as they are: nothing stands before them, and they are
    /// within the limits.
    pub(crate) fn may_send_at_once(&self, length: usize, pool: &Pool) -> bool {
        self.takes_output()
            && self.outbox.is_empty()
            && self.modes.output == Output::Free
            && self.tls().is_none()
            && self.has_room(length, pool)
    }

    /// Queues `data` only if it stays below the limits; true if it did.
    pub(crate) fn try_write(&mut self, data: &[u8], pool: &Pool) -> bool {
        let limit = self.write_limit(pool);
        let fits = self.takes_output()
            && self.has_room(data.len(), pool)
            && self.queued().saturating_add(data.len()) <= limit;
        if fits {
            self.outbox.write(data, pool);
        }
        fits
    }

    #[cfg(unix)]
    pub(crate) fn write_passed(
        &mut self,
        descriptor: std::os::fd::OwnedFd,
        bytes: Bytes,
        pool: &Pool,
    ) -> Written {
        let written = self.admit(bytes.len(), pool);
        if written == Written::Queued {
            self.outbox.write_passed(descriptor, bytes, pool);
        }
        written
    }

    pub(crate) fn write_file(&mut self, range: FileRange, pool: &Pool) -> Written {
        let written = self.admit(0, pool);
        if written == Written::Queued {
            self.outbox.write_file(range, pool);
        }
        written
    }

    /// The outbox, for the driver to send from.
    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The kernel took `count` bytes, of the outbox or of a relay; `blocked`: it takes no more for now.
    #[inline]
    pub(crate) fn sent(&mut self, count: u64, blocked: bool, now: impl FnOnce() -> Instant) {
        self.sent += count;
        let was_blocked = self.modes.output == Output::Blocked;
        self.change(|modes| modes.output = if blocked { Output::Blocked } else { Output::Free });
        if let Some(rare) = &mut self.rare
            && (count > 0 || !was_blocked)
        {
            if rare.watch.is_none() && rare.lingering_since.is_none() {
                return;
            }
            let now = now();
            if let Some(watch) = &mut rare.watch {
                watch.sent(now);
            }
            if let Some(since) = &mut rare.lingering_since {
                *since = now;
            }
        }
    }

    /// The stream is writable again.
    pub(crate) fn writable(&mut self) {
        self.change(|modes| modes.output = Output::Free);
    }

    /// Sending failed: what is queued will never leave.
    pub(crate) fn sending_failed(&mut self, pool: &Pool) {
        self.clear_output(pool);
        self.change(|modes| modes.output = Output::Free);
        self.change(|modes| modes.write_side = WriteSide::Broken);
    }

    /// Whether [`sending_failed`](Self::sending_failed) was called: the connection is as good as lost.
    pub(crate) fn sending_has_failed(&self) -> bool {
        self.modes.write_side == WriteSide::Broken
    }

    /// Our direction has ended.
    pub(crate) fn write_side_ended(&mut self, now: Instant) {
        self.change(|modes| modes.write_side = WriteSide::Finished);
        if self.modes.phase == Phase::Closing {
            self.rare().lingering_since = Some(now);
        }
    }

    /// The crossing of a watermark that the protocol does not know of yet.
    #[inline]
    pub(crate) fn crossing(&self, pool: &Pool) -> Option<Crossing> {
        if self.outbox.is_empty() && !self.modes.writing_paused && self.tls().is_none() {
            return None;
        }
        let (high, low) = self.marks(pool);
        match self.modes.phase {
            Phase::Open if !self.modes.writing_paused && self.queued() > high => Some(Crossing::Pause),
            Phase::Open if self.modes.writing_paused && self.queued() <= low => Some(Crossing::Resume),
            _ => None,
        }
    }

    /// The protocol is told of a crossing.
    pub(crate) fn cross(&mut self, crossing: Crossing) {
        self.change(|modes| modes.writing_paused = crossing == Crossing::Pause);
    }

    /// High and low mark.
    pub(crate) fn marks(&self, pool: &Pool) -> (usize, usize) {
        let own = self.rare.as_ref().and_then(|rare| rare.marks);
        own.unwrap_or((pool.limits().high, pool.limits().low))
    }

    pub(crate) fn set_marks(&mut self, high: usize, low: usize) {
        self.rare().marks = Some((high, low.min(high)));
    }

    pub(crate) fn set_write_limit(&mut self, limit: usize) {
        self.rare().write_limit = Some(limit);
    }

    // Ends.

    /// Flush, end our side, wait for the peer's end. `reason` is what the loss will say.
    pub(crate) fn lose_connection(&mut self, reason: Option<Reason>, now: impl FnOnce() -> Instant) {
        if self.modes.phase != Phase::Open {
            return;
        }
        if self.rare.as_ref().is_some_and(|rare| rare.ends_alone) {
            self.peer_ended();
        }
        self.change(|modes| {
            modes.phase = Phase::Closing;
            if modes.write_side == WriteSide::Open {
                modes.write_side = WriteSide::Finishing;
            }
        });
        let waits =
            self.modes.peer_end == PeerEnd::Open || self.is_waiting_to_send() || self.has_to_announce();
        if waits || reason.is_some() {
            let rare = self.rare();
            rare.reason = reason;
            rare.lingering_since = Some(now());
        }
    }

    /// Flush, then end our side; reading goes on.
    pub(crate) fn lose_write_side(&mut self) {
        if self.takes_output() {
            self.change(|modes| modes.write_side = WriteSide::Finishing);
        }
    }

    // Time.

    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts, now: Instant) {
        let received = self.received;
        self.rare().watch = (!timeouts.is_empty()).then(|| Watch::new(timeouts, now, received));
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        let watch = self.rare.as_ref().and_then(|rare| rare.watch.as_ref());
        watch.map_or(Timeouts::new(), Watch::timeouts)
    }

    pub(crate) fn restart_timeout(&mut self, which: Timeout, now: Instant) {
        let received = self.received;
        if let Some(watch) = self.rare.as_mut().and_then(|rare| rare.watch.as_mut()) {
            watch.restart(which, now, received);
        }
    }

    /// When the connection has to be looked at, whatever happens.
    pub(crate) fn next_deadline(&self, linger: &Linger) -> Option<Instant> {
        let rare = self.rare.as_ref()?;
        let deadline = match self.modes.phase {
            Phase::Open => {
                rare.watch.as_ref().and_then(|watch| watch.next_deadline(self.is_waiting_to_send()))
            }
            Phase::Closing => {
                let timeout =
                    if rare.short_linger { linger.timeout.min(SHORT_LINGER) } else { linger.timeout };
                rare.lingering_since.and_then(|since| since.checked_add(timeout))
            }
            Phase::Lost => return None,
        };
        let handshake = rare.tls.as_ref().and_then(|tls| tls.deadline());
        deadline.into_iter().chain(handshake).min()
    }

    pub(crate) fn has_deadlines(&self) -> bool {
        match &self.rare {
            Some(rare) => {
                rare.watch.is_some()
                    || rare.lingering_since.is_some()
                    || rare.tls.as_ref().is_some_and(|tls| tls.deadline().is_some())
            }
            None => false,
        }
    }

    pub(crate) fn timer(&self) -> Option<TimerId> {
        self.rare.as_ref()?.timer
    }

    /// The time-out that has passed, for the protocol to decide about.
    pub(crate) fn passed_timeout(&mut self, now: Instant) -> Option<Timeout> {
        if self.modes.phase != Phase::Open {
            return None;
        }
        let (received, queued) = (self.received, self.is_waiting_to_send());
        self.rare.as_mut()?.watch.as_mut()?.passed(now, received, queued)
    }

    /// How a closing connection ends whose peer let the linger time-out pass.
    pub(crate) fn linger_passed(&self, now: Instant, linger: &Linger) -> Option<(Reason, End)> {
        if self.modes.phase != Phase::Closing
            || self.next_deadline(linger).is_none_or(|deadline| deadline > now)
        {
            return None;
        }
        if self.modes.write_side == WriteSide::Finished {
            let reason = self.rare.as_ref().and_then(|rare| rare.reason.clone());
            return Some((reason.unwrap_or(Reason::Closed), End::Orderly));
        }
        Some((Reason::LingerTimeout, End::Abrupt))
    }

    /// How a closing connection ends whose peer sent more than anybody wants to discard.
    pub(crate) fn discarded_enough(&self) -> (Reason, End) {
        let reason = self.rare.as_ref().and_then(|rare| rare.reason.clone());
        (reason.unwrap_or(Reason::Closed), End::Orderly)
    }
}
