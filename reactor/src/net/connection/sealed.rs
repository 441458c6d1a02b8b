//! What a connection does differently with [TLS](crate::net::tls) below it.

use std::io::{self, IoSlice};
use std::time::Instant;

use super::{Connection, Modes, PeerEnd, Phase, WriteSide};
use crate::core::outbox::{FileRange, Front, MAX_SLICES};
use crate::core::pool::Pool;
use crate::net::reason::Reason;
use crate::net::tls::{BATCH, SpareWire, Tls};

impl Connection {
    /// Puts the filter `tls` below: what was written so far leaves as it is.
    pub(crate) fn secure(&mut self, mut tls: Tls) {
        tls.begin_behind(std::mem::take(&mut self.outbox));
        self.rare().tls = Some(Box::new(tls));
    }

    /// Seals what comes next of the outbox, a bounded part of it. `read` reads from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has become too short, or TLS is at its end.
    pub(crate) fn seal_next(
        &mut self,
        spare: &mut SpareWire,
        pool: &Pool,
        read: impl FnOnce(&FileRange, usize) -> io::Result<Vec<u8>>,
    ) -> io::Result<usize> {
        if self.outbox.is_empty() {
            return Ok(0);
        }
        let Some(tls) = self.rare.as_mut().and_then(|rare| rare.tls.as_deref_mut()) else { return Ok(0) };
        let mut seal = |plain: &[u8]| {
            let sealed = tls.seal(plain, spare, pool);
            sealed.map_err(|error| io::Error::other(error.to_string()))
        };
        // The usual case, without the long list below.
        if let Some(data) = self.outbox.only() {
            let length = data.len();
            seal(data)?;
            self.outbox.drained(pool);
            return Ok(length);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut room = BATCH;
        match self.outbox.front(&mut slices) {
            Front::Nothing => {}
            Front::One(data) => {
                let part = &data[..data.len().min(room)];
                seal(part)?;
                room -= part.len();
            }
            Front::Many(list) => {
                for slice in list {
                    let part = &slice[..slice.len().min(room)];
                    seal(part)?;
                    room -= part.len();
                }
            }
            Front::File(range) => {
                let piece = read(range, room)?;
                seal(&piece)?;
                tls.sealed_of_file(piece.len());
                self.outbox.consume_file(piece.len() as u64, pool);
                return Ok(piece.len());
            }
            #[cfg(unix)]
            Front::Passed(..) => return Err(io::ErrorKind::Unsupported.into()),
        }
        let sealed = BATCH - room;
        self.outbox.consume(sealed, pool);
        Ok(sealed)
    }

    /// Whether the connection just flows behind its filter: as one [at peace](Self::is_at_peace) does
    /// without.
    pub(crate) fn flows_sealed(&self) -> bool {
        let Some(rare) = self.rare.as_deref().filter(|_| self.modes == Modes::PEACE) else { return false };
        rare.watch.is_none()
            && rare.unread.is_empty()
            && rare.tls.as_ref().is_some_and(|tls| tls.takes_output())
    }

    /// Whether the loss by an end that was not announced is due. A stream whose sending failed did not end,
    /// it broke.
    pub(crate) fn is_truncated(&self) -> bool {
        self.modes.peer_end == PeerEnd::Seen
            && self.modes.write_side != WriteSide::Broken
            && self.delivers_at_once()
            && self.tls().is_some_and(Tls::is_cut_off)
    }

    /// What came in was not plain: the protocol's bytes are counted when they are.
    pub(crate) fn discount_received(&mut self, count: usize) {
        self.received -= count as u64;
    }

    /// Counts plain bytes that came out of records.
    pub(crate) fn count_opened(&mut self, count: usize) {
        self.received += count as u64;
    }

    /// The peer has broken the rules of TLS: nothing but its alert is sent, and then our side ended.
    pub(crate) fn tls_failed(&mut self, reason: Reason, now: Instant, pool: &Pool) {
        self.outbox.clear(pool);
        match self.modes.phase {
            Phase::Open => self.lose_connection(Some(reason), || now),
            Phase::Closing => {
                let rare = self.rare();
                rare.superseded = rare.reason.replace(reason);
            }
            Phase::Lost => return,
        }
        self.rare().short_linger = true;
    }

    /// Whether the peer has finished, whoever knows.
    pub(crate) fn peer_has_ended(&self) -> bool {
        self.modes.peer_end != PeerEnd::Open
    }

    /// Whether a handshake has taken too long.
    pub(crate) fn handshake_passed(&self, now: Instant) -> bool {
        self.tls().and_then(Tls::deadline).is_some_and(|deadline| deadline <= now)
    }

    /// Why a closing connection is closing, if there is a reason of its own.
    pub(crate) fn closing_reason(&self) -> Option<Reason> {
        self.rare.as_ref().and_then(|rare| rare.reason.clone())
    }

    /// The peer is not wanted: it is not waited for as long as others.
    pub(crate) fn shorten_linger(&mut self) {
        self.rare().short_linger = true;
    }
}
