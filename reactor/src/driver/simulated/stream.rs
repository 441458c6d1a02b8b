//! Streams between simulated hosts: one [`End`] for each socket, and how bytes get from one to the other.
//!
//! What an end sends stands in its `output` until it has arrived: first the bytes that are on their way, as
//! segments with a time of arrival, then those that wait for room at the other end. Segments arrive in order.
//! A cut path or a dead host swallows them silently; they are sent again when it comes back.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::network::{
    GIVE_UP, HostId, Network, Next, Owner, RETRANSMIT, SYN_ANSWERS, SYN_RETRIES, SYN_RETRY, SocketId,
    Unwelcome, nanos,
};
use crate::driver::Interest;
use crate::driver::options::{KeepAliveSpec, TcpOptions};
use crate::driver::socket::describe;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// With the number of SYNs that were sent again.
    Connecting(u32),
    Open,
    /// A kernel would have no connection any more: the socket only tells why.
    Dead,
}

/// Whether the end has said that it sends nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finish {
    No,
    /// Behind all output.
    Wanted,
    Sent,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Data(usize),
    Fin,
    Reset,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    arrives: u64,
    piece: Piece,
}

/// One end of a stream.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: HostId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Where the other end is, or would be.
    remote_host: HostId,
    /// The socket at the other end; stale once that is gone.
    other: SocketId,
    pub(super) stage: Stage,
    pub(super) owner: Owner,
    /// Of one that comes from a backlog: whether its handshake is complete.
    is_acknowledged: bool,
    /// How often the answer to its SYN was sent again.
    answers_again: u32,
    pub(super) watch: Interest,
    // Output.
    output: VecDeque<u8>,
    /// Bytes at the front of `output` that are on their way.
    on_the_way: usize,
    segments: VecDeque<Segment>,
    /// Bytes that have arrived without our having heard of it.
    unacknowledged: usize,
    send_buffer: usize,
    finish: Finish,
    last_arrival: u64,
    arrival_is_scheduled: bool,
    stalled_since: Option<u64>,
    // Input.
    input: VecDeque<u8>,
    receive_buffer: usize,
    /// The other end has finished, behind `input`.
    has_ended: bool,
    /// Why the stream is dead, until that was told.
    error: Option<io::ErrorKind>,
    // Keeping alive.
    keep_alive: Option<KeepAliveSpec>,
    last_heard: u64,
    /// When the kernel's probes have gone unanswered long enough; `None` while they would be answered.
    found_out_at: Option<u64>,
}

impl End {
    pub(super) fn is_readable(&self) -> bool {
        !self.input.is_empty() || self.has_ended || self.error.is_some() || self.stage == Stage::Dead
    }

    pub(super) fn is_writable(&self) -> bool {
        match self.stage {
            Stage::Connecting(_) => false,
            Stage::Dead => true,
            Stage::Open => self.finish != Finish::No || self.room() > 0,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Whether a reset is on its way: nothing of what got lost is sent again then.
    fn has_reset(&self) -> bool {
        matches!(self.segments.back(), Some(Segment { piece: Piece::Reset, .. }))
    }

    fn room(&self) -> usize {
        self.send_buffer.saturating_sub(self.output.len() + self.unacknowledged)
    }

    /// Whether it is a matter of the driver's, as it watches now.
    pub(super) fn is_of_interest(&self, may_read: bool) -> bool {
        (self.watch.reads() && self.is_readable() && (may_read || self.input.is_empty()))
            || (self.watch.writes() && self.is_writable())
            || (self.watch == Interest::NONE && self.has_failed())
    }

    pub(super) fn describe(&self) -> String {
        let (waiting, unread) = (self.output.len(), self.input.len());
        let what = match self.stage {
            Stage::Connecting(_) => "is connecting".to_owned(),
            Stage::Dead => "is dead".to_owned(),
            Stage::Open if self.owner == Owner::Nobody => format!("was closed, {waiting} B have not arrived"),
            Stage::Open => {
                let watched = match (self.watch.reads(), self.watch.writes()) {
                    (true, true) => "watched for input and output",
                    (true, false) => "waits for input",
                    (false, true) => "waits until it can send",
                    (false, false) => "watched for nothing",
                };
                let ended = if self.has_ended { ", the peer has finished" } else { "" };
                format!("{watched}; {waiting} B sent and not arrived, {unread} B unread{ended}")
            }
        };
        format!("{} - {}: {what}", self.local, self.remote)
    }
}

/// Moves as many bytes as there are, or as fit, out of a queue.
fn take_front(queue: &mut VecDeque<u8>, buffer: &mut [u8]) -> usize {
    let count = queue.len().min(buffer.len());
    let (front, back) = queue.as_slices();
    let of_front = count.min(front.len());
    buffer[..of_front].copy_from_slice(&front[..of_front]);
    buffer[of_front..count].copy_from_slice(&back[..count - of_front]);
    queue.drain(..count);
    count
}

/// Sizes of a socket's own buffers, if its endpoint asked for some.
fn buffer_sizes(options: &TcpOptions, link: &super::link::Link) -> (usize, usize) {
    (options.send_buffer.unwrap_or(link.send_buffer), options.recv_buffer.unwrap_or(link.receive_buffer))
}

impl Network {
    // Connecting.

    pub(super) fn connect(
        &mut self,
        host: HostId,
        remote: SocketAddr,
        bind: Option<SocketAddr>,
        options: &TcpOptions,
        owner: Owner,
    ) -> io::Result<SocketId> {
        let ip = match bind {
            Some(bind) if !self.is_local(host, bind.ip()) => {
                return Err(describe("bind", &bind.into(), &io::ErrorKind::AddrNotAvailable.into()));
            }
            Some(bind) if !bind.ip().is_unspecified() => bind.ip(),
            _ => self.local_address(host, remote.ip()),
        };
        let port = match bind.map_or(0, |bind| bind.port()) {
            0 => self.free_port(host).ok_or(io::ErrorKind::AddrNotAvailable)?,
            port if self.is_taken(host, port) => {
                return Err(describe(
                    "bind",
                    &SocketAddr::new(ip, port).into(),
                    &io::ErrorKind::AddrInUse.into(),
                ));
            }
            port => port,
        };
        let remote_host = self.host_at(host, remote.ip());
        let local = SocketAddr::new(ip, port);
        let mut end = self.new_end(host, local, remote, remote_host.unwrap_or(host), options);
        end.stage = Stage::Connecting(0);
        end.owner = owner;
        end.watch = Interest::WRITE;
        let id = self.add_end(end).ok_or_else(super::network::out_of_descriptors)?;
        self.add_to_trace(host, "connects", local, Some(remote), 0);
        let now = self.local_now(host);
        match remote_host {
            Some(remote_host) => {
                let delay = self.delay(host, remote_host);
                self.schedule(now + delay, Next::Syn(id));
            }
            None => self.schedule(now, Next::NoRoute(id)),
        }
        Ok(id)
    }

    fn new_end(
        &mut self,
        host: HostId,
        local: SocketAddr,
        remote: SocketAddr,
        remote_host: HostId,
        options: &TcpOptions,
    ) -> End {
        let (send_buffer, receive_buffer) = buffer_sizes(options, &self.path(host, remote_host).link);
        End {
            host,
            local,
            remote,
            remote_host,
            other: SocketId::NOBODY,
            stage: Stage::Open,
            owner: Owner::Nobody,
            is_acknowledged: false,
            answers_again: 0,
            watch: Interest::NONE,
            output: VecDeque::new(),
            on_the_way: 0,
            segments: VecDeque::new(),
            unacknowledged: 0,
            send_buffer: send_buffer.max(1),
            finish: Finish::No,
            last_arrival: 0,
            arrival_is_scheduled: false,
            stalled_since: None,
            input: VecDeque::new(),
            receive_buffer: receive_buffer.max(1),
            has_ended: false,
            error: None,
            keep_alive: options.keep_alive,
            last_heard: self.now,
            found_out_at: None,
        }
    }

    pub(super) fn syn(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let Stage::Connecting(tries) = end.stage else { return };
        let (host, remote_host, local, remote) = (end.host, end.remote_host, end.local, end.remote);
        let is_answered = self.ends.get(end.other).is_some();
        if self.is_cut(host, remote_host) || self.is_cut(remote_host, host) {
            return self.syn_was_lost(id, tries);
        }
        let unwelcome = self.hosts[remote_host.0].unwelcome;
        if unwelcome == Some(Unwelcome::Ignore) {
            return self.syn_was_lost(id, tries);
        }
        let back = self.delay(remote_host, host);
        if is_answered {
            // The answer got lost.
            return self.schedule(self.now + back, Next::Established(id));
        }
        let listener = self.listener_for(remote_host, remote).filter(|_| unwelcome.is_none());
        let Some(listener) = listener else {
            return self.schedule(self.now + back, Next::Refused(id));
        };
        if !self.has_room(listener) {
            self.add_to_trace(remote_host, "has a full backlog for", remote, Some(local), 0);
            return self.syn_was_lost(id, tries);
        }
        let Some(options) = self.listeners.get(listener).map(|one| one.options.clone()) else { return };
        let mut accepted = self.new_end(remote_host, remote, local, host, &options);
        accepted.other = id;
        accepted.owner = Owner::Backlog(listener);
        let Some(accepted) = self.add_end(accepted) else { return };
        if let Some(end) = self.ends.get_mut(id) {
            end.other = accepted;
        }
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.handshakes += 1;
        }
        self.schedule(self.now + back, Next::Established(id));
    }

    /// How many connections of a listener are not complete yet, and may still become so.
    pub(super) fn handshakes_of(&self, listener: SocketId) -> usize {
        let is_one = |end: &End| {
            end.owner == Owner::Backlog(listener)
                && !end.is_acknowledged
                && self.ends.get(end.other).is_some()
        };
        self.ends.iter().filter(|(_, end)| is_one(end)).count()
    }

    fn syn_was_lost(&mut self, id: SocketId, tries: u32) {
        let again = self.now + (nanos(SYN_RETRY) << tries);
        if tries >= SYN_RETRIES {
            return self.schedule(again, Next::Unanswered(id));
        }
        let Some(end) = self.ends.get_mut(id) else { return };
        end.stage = Stage::Connecting(tries + 1);
        self.schedule(again, Next::Syn(id));
    }

    /// An answer to a SYN arrives: the connection, or a refusal. A cut path swallows it.
    pub(super) fn syn_is_answered(&mut self, id: SocketId, is_accepted: bool) {
        let Some(end) = self.ends.get(id) else { return };
        let Stage::Connecting(tries) = end.stage else { return };
        if self.is_cut(end.remote_host, end.host) {
            self.syn_was_lost(id, tries);
        } else if is_accepted {
            self.established(id);
        } else {
            self.fail(id, io::ErrorKind::ConnectionRefused);
        }
    }

    pub(super) fn established(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if !matches!(end.stage, Stage::Connecting(_)) {
            return;
        }
        end.stage = Stage::Open;
        let (host, local, remote) = (end.host, end.local, end.remote);
        let (remote_host, other) = (end.remote_host, end.other);
        self.add_to_trace(host, "is connected", local, Some(remote), 0);
        self.touch(id);
        let forth = self.delay(host, remote_host);
        self.schedule(self.now + forth, Next::Acknowledged(other));
    }

    /// The listener's side has heard nothing after its answer to the SYN: it answers again, as often as Linux
    /// does.
    fn answer_again(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.answers_again >= SYN_ANSWERS {
            return self.remove_end(id);
        }
        let again = self.now + (nanos(SYN_RETRY) << end.answers_again);
        end.answers_again += 1;
        self.schedule(again, Next::Acknowledged(id));
    }

    /// The last step of a handshake arrives at the listener's side: the connection can be accepted.
    pub(super) fn acknowledged(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let Owner::Backlog(listener) = end.owner else { return };
        if end.is_acknowledged {
            return;
        }
        if self.is_cut(end.remote_host, end.host) {
            return self.answer_again(id);
        }
        if let Some(end) = self.ends.get_mut(id) {
            end.is_acknowledged = true;
        }
        match self.listeners.get_mut(listener) {
            Some(listening) => {
                listening.handshakes = listening.handshakes.saturating_sub(1);
                listening.waiting.push_back(id);
                self.touch_listener(listener);
            }
            // It was closed meanwhile.
            None => self.reset(id),
        }
    }

    pub(super) fn attempt_fails(&mut self, id: SocketId, kind: io::ErrorKind) {
        let Some(end) = self.ends.get(id) else { return };
        if matches!(end.stage, Stage::Connecting(_)) {
            self.fail(id, kind);
        }
    }

    // Sending.

    /// Takes bytes to send, as many as there is room for.
    pub(super) fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize> {
        let Some(end) = self.ends.get_mut(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        match end.stage {
            Stage::Connecting(_) => return Err(io::ErrorKind::WouldBlock.into()),
            Stage::Dead => {
                let kind = end.error.take().unwrap_or(io::ErrorKind::BrokenPipe);
                return Err(kind.into());
            }
            Stage::Open if end.finish != Finish::No => return Err(io::ErrorKind::BrokenPipe.into()),
            Stage::Open => {}
        }
        let count = data.len().min(end.room());
        if count == 0 && !data.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        end.output.extend(&data[..count]);
        let (host, local, remote) = (end.host, end.local, end.remote);
        self.add_to_trace(host, "sends", local, Some(remote), count);
        self.transmit(id);
        Ok(count)
    }

    /// How much [`send`](Self::send) would take.
    pub(super) fn room(&self, id: SocketId) -> usize {
        self.ends.get(id).map_or(0, End::room)
    }

    /// Puts on the way what there is room for.
    pub(super) fn transmit(&mut self, id: SocketId) {
        loop {
            let Some(end) = self.ends.get(id) else { return };
            if end.stage != Stage::Open {
                return;
            }
            let (host, remote_host) = (end.host, end.remote_host);
            let waiting = end.output.len() - end.on_the_way;
            let wants_fin = end.finish == Finish::Wanted && waiting == 0;
            if waiting == 0 && !wants_fin {
                break;
            }
            if self.is_cut(host, remote_host) {
                return self.stall(id);
            }
            let Some(end) = self.ends.get(id) else { return };
            let window = match self.ends.get(end.other) {
                Some(other) => other.receive_buffer.saturating_sub(other.input.len() + end.on_the_way),
                // Whoever has finished and closed still takes our end.
                None if wants_fin && end.has_ended => usize::MAX,
                None => return self.reset_comes_back(id),
            };
            if wants_fin {
                self.put_on_the_way(id, Piece::Fin);
                if let Some(end) = self.ends.get_mut(id) {
                    end.finish = Finish::Sent;
                }
                break;
            }
            if window == 0 {
                break;
            }
            let length = self.piece(host, remote_host, waiting.min(window));
            self.put_on_the_way(id, Piece::Data(length));
        }
        self.schedule_arrival(id);
    }

    fn put_on_the_way(&mut self, id: SocketId, piece: Piece) {
        let Some(end) = self.ends.get(id) else { return };
        let (host, remote_host, last) = (end.host, end.remote_host, end.last_arrival);
        let now = self.local_now(host);
        let delay = self.delay_with_loss(host, remote_host);
        let path = self.path(host, remote_host);
        let length = if let Piece::Data(length) = piece { length } else { 0 };
        let mut leaves = now;
        if let Some(bandwidth) = path.link.bandwidth {
            let takes = u128::from(length as u64) * 1_000_000_000 / u128::from(bandwidth);
            leaves = now.max(path.busy_until) + u64::try_from(takes).unwrap_or(u64::MAX);
            path.busy_until = leaves;
        }
        let arrives = leaves.saturating_add(delay).max(last);
        if let Some(end) = self.ends.get_mut(id) {
            end.on_the_way += length;
            end.last_arrival = arrives;
            end.segments.push_back(Segment { arrives, piece });
        }
    }

    fn schedule_arrival(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        let Some(first) = end.segments.front() else { return };
        if !end.arrival_is_scheduled {
            end.arrival_is_scheduled = true;
            let at = first.arrives;
            self.schedule(at, Next::Arrival(id));
        }
    }

    /// What this end has on its way arrives, as far as it is due.
    pub(super) fn arrival(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        end.arrival_is_scheduled = false;
        let (host, remote_host, other) = (end.host, end.remote_host, end.other);
        if !self.is_cut(host, remote_host) {
            // Whatever arrives shows that the other side has heard the answer to its SYN.
            self.acknowledged(other);
        }
        loop {
            let Some(end) = self.ends.get_mut(id) else { return };
            let Some(first) = end.segments.front().filter(|first| first.arrives <= self.now).copied() else {
                break;
            };
            if self.is_cut(host, remote_host) {
                let gives_up = self.ends.get(id).is_some_and(End::has_reset);
                return if gives_up { self.remove_end(id) } else { self.stall(id) };
            }
            let Some(end) = self.ends.get_mut(id) else { return };
            end.segments.pop_front();
            match first.piece {
                Piece::Data(length) => self.data_arrives(id, other, length),
                Piece::Fin => self.fin_arrives(other),
                Piece::Reset => self.fail(other, io::ErrorKind::ConnectionReset),
            }
        }
        self.schedule_arrival(id);
        self.forget_if_done(id);
    }

    fn data_arrives(&mut self, id: SocketId, other: SocketId, length: usize) {
        let Some(end) = self.ends.get_mut(id) else { return };
        let mut data = vec![0; length];
        let taken = take_front(&mut end.output, &mut data);
        debug_assert_eq!(taken, length, "what is on its way stands in the output");
        end.on_the_way -= length;
        let (host, remote_host) = (end.host, end.remote_host);
        let now = self.now;
        match self.ends.get_mut(other) {
            // Whoever closed does not take anything any more.
            None => return self.reset_comes_back(id),
            Some(receiver) if receiver.owner == Owner::Nobody => return self.send_reset(other),
            Some(receiver) => {
                receiver.last_heard = now;
                receiver.input.extend(&data);
                let (local, remote) = (receiver.local, receiver.remote);
                self.add_to_trace(remote_host, "gets", local, Some(remote), length);
                self.touch(other);
            }
        }
        // The acknowledgement goes the other way.
        if self.is_cut(remote_host, host) {
            if let Some(end) = self.ends.get_mut(id) {
                end.unacknowledged += length;
            }
            self.stall(id);
        } else if let Some(end) = self.ends.get_mut(id) {
            end.last_heard = now;
            self.touch(id);
        }
    }

    fn fin_arrives(&mut self, other: SocketId) {
        let now = self.now;
        let Some(receiver) = self.ends.get_mut(other) else { return };
        receiver.has_ended = true;
        receiver.last_heard = now;
        let (host, local, remote) = (receiver.host, receiver.local, receiver.remote);
        self.add_to_trace(host, "gets the end", local, Some(remote), 0);
        self.touch(other);
    }

    /// There is nobody any more who would take what this end has sent.
    fn reset_comes_back(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let (host, remote_host) = (end.host, end.remote_host);
        let delay = self.delay(remote_host, host);
        self.schedule(self.now + delay, Next::ResetBack(id));
    }

    /// A reset comes back, unless it gets lost: then what was sent is sent again, and answered again.
    pub(super) fn reset_arrives(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        if self.is_cut(end.remote_host, end.host) {
            self.stall(id);
        } else {
            self.fail(id, io::ErrorKind::ConnectionReset);
        }
    }

    /// The stream of this end is dead.
    pub(super) fn fail(&mut self, id: SocketId, kind: io::ErrorKind) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.stage == Stage::Dead {
            return;
        }
        end.stage = Stage::Dead;
        end.error = Some(kind);
        end.output = VecDeque::new();
        end.segments.clear();
        (end.on_the_way, end.unacknowledged) = (0, 0);
        let (host, local, remote, owner) = (end.host, end.local, end.remote, end.owner);
        if matches!(owner, Owner::Backlog(_)) && !end.is_acknowledged {
            // Nobody has seen it.
            return self.remove_end(id);
        }
        let verb = match kind {
            io::ErrorKind::ConnectionRefused => "is refused",
            io::ErrorKind::ConnectionReset => "is reset",
            io::ErrorKind::HostUnreachable => "finds no route",
            io::ErrorKind::TimedOut => "gets no answer",
            _ => "fails",
        };
        self.add_to_trace(host, verb, local, Some(remote), 0);
        if owner == Owner::Nobody {
            self.remove_end(id);
        } else {
            self.touch(id);
        }
    }

    // Receiving.

    /// Gives received bytes out; 0 at the end of the stream.
    pub(super) fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(end) = self.ends.get(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        let (host, remote_host) = (end.host, end.remote_host);
        let mut most = end.input.len().min(buffer.len());
        if most == 0 {
            let Some(end) = self.ends.get_mut(id) else { return Ok(0) };
            return match end.error.take() {
                Some(kind) => Err(kind.into()),
                None if end.has_ended || end.stage == Stage::Dead => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        if let Some(rate) = self.hosts[host.0].read_rate {
            let again = self.hosts[host.0].reads_again;
            if again > self.now {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // What it reads in a hundredth of a second.
            most = most.min(usize::try_from(rate / 100).unwrap_or(usize::MAX).max(1));
            let again = self.now + most as u64 * 1_000_000_000 / rate.max(1);
            self.hosts[host.0].reads_again = again;
            self.schedule(again, Next::ReadsAgain(host));
        }
        let count = self.piece(remote_host, host, most);
        let Some(end) = self.ends.get_mut(id) else { return Ok(0) };
        let was_full = end.input.len() >= end.receive_buffer;
        let count = take_front(&mut end.input, &mut buffer[..count]);
        let (other, local, remote) = (end.other, end.local, end.remote);
        self.add_to_trace(host, "reads", local, Some(remote), count);
        if was_full || self.ends.get(other).is_some_and(|other| other.output.len() > other.on_the_way) {
            let delay = self.delay(remote_host, host);
            self.schedule(self.now + delay, Next::Transmit(other));
        }
        Ok(count)
    }

    /// What may lie unread at this end from now on.
    pub(super) fn set_receive_buffer(&mut self, id: SocketId, size: usize) {
        let Some(end) = self.ends.get_mut(id) else { return };
        end.receive_buffer = size;
        // There may be more room.
        let other = end.other;
        self.transmit(other);
    }

    /// Why the stream is dead; asked once.
    pub(super) fn receive_error(&mut self, id: SocketId) -> io::Error {
        let kind = self.ends.get_mut(id).and_then(|end| end.error.take());
        kind.unwrap_or(io::ErrorKind::ConnectionReset).into()
    }

    /// Bytes that can be received now.
    pub(super) fn readable_bytes(&self, id: SocketId) -> usize {
        self.ends.get(id).map_or(0, |end| end.input.len())
    }

    // Ending.

    /// Ends our direction behind all that was sent.
    pub(super) fn shut_down(&mut self, id: SocketId) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(id) else { return Err(io::ErrorKind::NotConnected.into()) };
        if end.stage != Stage::Open {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if end.finish == Finish::No {
            end.finish = Finish::Wanted;
            let (host, local, remote) = (end.host, end.local, end.remote);
            self.add_to_trace(host, "finishes", local, Some(remote), 0);
            self.transmit(id);
        }
        Ok(())
    }

    /// The owner gives the socket up. With unread input the other end gets a reset, as from any kernel.
    pub(super) fn close(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let (host, local, remote) = (end.host, end.local, end.remote);
        if end.stage != Stage::Open || !end.input.is_empty() {
            return self.reset(id);
        }
        self.leave(id);
        self.add_to_trace(host, "is closed", local, Some(remote), 0);
        let _ = self.shut_down(id);
        self.forget_if_done(id);
    }

    /// The owner gives the socket up, and the other end gets a reset.
    pub(super) fn reset(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let (host, local, remote, stage, other) = (end.host, end.local, end.remote, end.stage, end.other);
        self.leave(id);
        if stage != Stage::Open || other == SocketId::NOBODY {
            // Nobody has to hear of it, but one who has accepted an attempt that was given up meanwhile.
            self.remove_end(id);
            if matches!(stage, Stage::Connecting(_)) {
                self.fail(other, io::ErrorKind::ConnectionReset);
            }
            return;
        }
        self.add_to_trace(host, "resets", local, Some(remote), 0);
        self.send_reset(id);
    }

    /// Sends a reset behind what is on its way, and nothing more.
    fn send_reset(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.has_reset() {
            return;
        }
        end.output.truncate(end.on_the_way);
        end.finish = Finish::Sent;
        self.put_on_the_way(id, Piece::Reset);
        self.schedule_arrival(id);
    }

    fn leave(&mut self, id: SocketId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        let (host, owner) = (end.host, std::mem::replace(&mut end.owner, Owner::Nobody));
        end.watch = Interest::NONE;
        if matches!(owner, Owner::Driver(_)) {
            self.give_descriptor_back(host);
        }
    }

    /// Forgets a socket that was closed, once everything it sent has arrived.
    fn forget_if_done(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        if end.owner == Owner::Nobody && end.finish == Finish::Sent && end.segments.is_empty() {
            self.remove_end(id);
        }
    }

    /// A middlebox breaks the stream: both ends are reset.
    pub(crate) fn break_stream(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        let other = end.other;
        self.fail(id, io::ErrorKind::ConnectionReset);
        self.fail(other, io::ErrorKind::ConnectionReset);
    }

    /// The stream becomes a half-open one: from now on neither end hears anything of the other.
    pub(crate) fn silence(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        for id in [id, end.other] {
            let Some(end) = self.ends.get_mut(id) else { continue };
            end.other = SocketId::NOBODY;
            end.remote_host = NOWHERE;
            let (host, local, remote, owner) = (end.host, end.local, end.remote, end.owner);
            self.add_to_trace(host, "is cut off", local, Some(remote), 0);
            if owner == Owner::Nobody {
                self.remove_end(id);
            } else {
                self.watch_over(id);
            }
        }
    }

    /// The host's open streams.
    pub(crate) fn streams_of(&self, host: HostId) -> Vec<SocketId> {
        let is_open = |end: &End| end.host == host && end.stage == Stage::Open && end.owner != Owner::Nobody;
        self.ends.iter().filter(|(_, end)| is_open(end)).map(|(id, _)| id).collect()
    }

    // When nobody answers.

    /// What this end sends gets lost.
    fn stall(&mut self, id: SocketId) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.stalled_since.is_none() {
            end.stalled_since = Some(now);
            self.schedule(now + nanos(GIVE_UP), Next::GiveUp(id));
        }
    }

    pub(super) fn give_up(&mut self, id: SocketId) {
        let now = self.now;
        let Some(end) = self.ends.get(id) else { return };
        let waited = end.stalled_since.is_some_and(|since| now - since >= nanos(GIVE_UP));
        let (host, remote_host) = (end.host, end.remote_host);
        if waited && (self.is_cut(host, remote_host) || self.is_cut(remote_host, host)) {
            self.fail(id, io::ErrorKind::TimedOut);
        }
    }

    /// Paths were cut or mended, or hosts went or came.
    pub(super) fn reachability_changed(&mut self) {
        let ids: Vec<SocketId> = self.ends.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(end) = self.ends.get(id) else { continue };
            let (stalled, is_silent) = (end.stalled_since, self.is_silent(end));
            let goes_through = !self.is_cut(end.host, end.remote_host);
            if is_silent {
                self.watch_over(id);
            } else if let Some(end) = self.ends.get_mut(id) {
                end.found_out_at = None;
            }
            if goes_through && let Some(since) = stalled {
                self.go_on_after_stall(id, since);
            }
        }
    }

    /// The way is free again: what got lost is sent when its turn to be sent again comes.
    fn go_on_after_stall(&mut self, id: SocketId, since: u64) {
        let Some(end) = self.ends.get(id) else { return };
        let is_heard = !self.is_cut(end.remote_host, end.host);
        let silent = (self.now - since).clamp(nanos(RETRANSMIT), nanos(Duration::from_secs(120)));
        let (host, remote_host) = (end.host, end.remote_host);
        let again = self.now + self.path(host, remote_host).random.below(silent);
        let Some(end) = self.ends.get_mut(id) else { return };
        if is_heard {
            end.stalled_since = None;
            end.unacknowledged = 0;
        }
        end.last_arrival = end.last_arrival.max(again);
        for segment in &mut end.segments {
            segment.arrives = segment.arrives.max(again);
        }
        self.schedule_arrival(id);
        self.schedule(again, Next::Transmit(id));
        self.touch(id);
    }

    pub(super) fn set_keep_alive(&mut self, id: SocketId, spec: Option<KeepAliveSpec>) {
        if let Some(end) = self.ends.get_mut(id) {
            end.keep_alive = spec;
            end.found_out_at = None;
            self.watch_over(id);
        }
    }

    /// Whether nobody would answer a keep-alive probe, or not with an acknowledgement.
    fn is_silent(&self, end: &End) -> bool {
        self.is_cut(end.host, end.remote_host)
            || self.is_cut(end.remote_host, end.host)
            || self.ends.get(end.other).is_none()
    }

    /// A silent stream whose kernel probes it finds out by and by.
    fn watch_over(&mut self, id: SocketId) {
        let now = self.now;
        let Some(end) = self.ends.get(id) else { return };
        let Some(spec) = end.keep_alive.filter(|_| end.found_out_at.is_none() && self.is_silent(end)) else {
            return;
        };
        let Some(end) = self.ends.get_mut(id) else { return };
        let probes_from = (end.last_heard + nanos(spec.idle)).max(now);
        let at = probes_from + nanos(spec.interval).saturating_mul(u64::from(spec.count));
        end.found_out_at = Some(at);
        self.schedule(at, Next::Probed(id));
    }

    pub(super) fn probed(&mut self, id: SocketId) {
        let Some(end) = self.ends.get(id) else { return };
        if end.stage != Stage::Open || end.found_out_at.is_none_or(|at| at > self.now) {
            return;
        }
        if self.is_cut(end.host, end.remote_host) || self.is_cut(end.remote_host, end.host) {
            self.fail(id, io::ErrorKind::TimedOut);
        } else if self.ends.get(end.other).is_none() {
            self.fail(id, io::ErrorKind::ConnectionReset);
        }
    }

    /// Has the socket's driver look at it, if it is a matter of its.
    pub(super) fn touch(&mut self, id: SocketId) {
        if let Some(end) = self.ends.get(id)
            && let Owner::Driver(token) = end.owner
            && self.is_of_interest(id)
        {
            self.hosts[end.host.0].touched.push(token);
        }
    }

    /// Whether there is something to report about the socket now.
    pub(super) fn is_of_interest(&self, id: SocketId) -> bool {
        self.ends
            .get(id)
            .is_some_and(|end| end.is_of_interest(self.hosts[end.host.0].reads_again <= self.now))
    }
}

/// Where nothing arrives and nothing comes from.
pub(super) const NOWHERE: HostId = HostId(usize::MAX);
