//! Datagrams that go out: from the queue to the driver, past receivers that have no room.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{DatagramSocket, Mail, Outcome, Sending, State, is_refusal};
use crate::core::address::Address;
use crate::core::datagrams::DatagramQueue;
use crate::driver::DatagramsSent;
use crate::reactor::inner::Inner;
use crate::reactor::stats::Counters;

/// How long a socket rests when the system has no memory for more datagrams, and will not say when it has.
const REST: Duration = Duration::from_millis(2);

impl Inner {
    /// Offers what is queued to the driver. Calls nobody: what fails is told later.
    pub(super) fn flush_datagrams(&self, socket: &DatagramSocket) {
        let mail = &*socket.mail;
        if mail.sending.get() != Sending::Free || mail.state.get() == State::Closed {
            return;
        }
        let mut outcome = Outcome::default();
        let mut refused = false;
        let mut queue = mail.queue.borrow_mut();
        while !queue.is_empty() {
            let left = queue.len();
            let sent = self.driver.borrow_mut().send_datagrams(mail.token, &mut queue);
            outcome.sent += (left - queue.len()) as u64;
            refused &= queue.len() == left;
            match sent {
                Ok(DatagramsSent::All) => break,
                Ok(DatagramsSent::Blocked) => {
                    mail.sending.set(Sending::Blocked);
                    break;
                }
                Ok(DatagramsSent::NoMemory) => {
                    mail.sending.set(Sending::Resting);
                    break;
                }
                Ok(DatagramsSent::ReceiverFull) => {
                    self.send_singly(mail, &mut queue, &mut outcome);
                    break;
                }
                // Told of this very datagram, and as true of those behind it.
                Err(error) if is_refusal(&error) && mail.peer.is_some() && mail.family.is_unix() => {
                    outcome.refused += std::mem::replace(&mut *queue, DatagramQueue::new()).len() as u64;
                    mail.count(|counts| counts.refused += 1);
                    mail.refusals.set(mail.refusals.get() + 1);
                    break;
                }
                // An earlier datagram came back; the first of the queue was not looked at yet.
                Err(error) if is_refusal(&error) && mail.peer.is_some() && !refused => {
                    refused = true;
                    mail.count(|counts| counts.refused += 1);
                    mail.refusals.set(mail.refusals.get() + 1);
                }
                Err(error) => outcome.failed.push((queue.pop().and_then(|(to, _)| to), error)),
            }
        }
        drop(queue);
        self.book(mail, outcome);
        if mail.sending.get() == Sending::Resting {
            let socket = socket.clone();
            let timer = self.handle.call_later(REST, move |handle| {
                socket.mail.sending.set(Sending::Free);
                if let Some(inner) = handle.inner() {
                    inner.attend_datagrams(&socket.mail);
                }
            });
            timer.unref();
        }
        if !mail.stalled.borrow().is_empty() {
            self.plan_retry(socket);
        }
    }

    /// Sends the queue of a socket without a peer, of whose receivers one has no room. What goes to such a
    /// one is put aside, in order; what goes to others is sent.
    #[cold]
    pub(super) fn send_singly(&self, mail: &Mail, queue: &mut DatagramQueue<Address>, outcome: &mut Outcome) {
        let all = std::mem::replace(queue, DatagramQueue::new());
        let mut one = DatagramQueue::new();
        for (to, data) in all.iter() {
            let Some(to) = to else { continue };
            if mail.stalled.borrow().holds(to) {
                outcome.dropped += u64::from(!self.put_aside(mail, to, data));
                continue;
            }
            if mail.sending.get() != Sending::Free {
                queue.push(Some(to.clone()), data);
                continue;
            }
            one.push(Some(to.clone()), data);
            let sent = self.driver.borrow_mut().send_datagrams(mail.token, &mut one);
            let still_there = one.pop().is_some();
            match sent {
                Ok(_) if !still_there => outcome.sent += 1,
                Ok(DatagramsSent::ReceiverFull) => {
                    outcome.dropped += u64::from(!self.put_aside(mail, to, data));
                }
                Ok(DatagramsSent::NoMemory) => {
                    mail.sending.set(Sending::Resting);
                    queue.push(Some(to.clone()), data);
                }
                Ok(DatagramsSent::All | DatagramsSent::Blocked) => {
                    mail.sending.set(Sending::Blocked);
                    queue.push(Some(to.clone()), data);
                }
                Err(error) => outcome.failed.push((Some(to.clone()), error)),
            }
        }
    }

    /// Has a datagram wait until its receiver has room; whether there was a place for it.
    pub(super) fn put_aside(&self, mail: &Mail, to: &Address, data: &[u8]) -> bool {
        let mut stalled = mail.stalled.borrow_mut();
        // Counted apart from the queue: receivers without room take no place away from the others.
        let has_place =
            stalled.len() < mail.limits.queue && stalled.byte_count() + data.len() <= mail.limits.queue_bytes;
        if has_place {
            stalled.push(self.handle.now(), to, data);
        }
        has_place
    }

    /// Queues a datagram behind others that wait for the same receiver.
    #[cold]
    pub(super) fn wait_for_receiver(&self, mail: &Mail, to: &Address, data: &[u8]) -> io::Result<()> {
        if self.put_aside(mail, to, data) {
            return Ok(());
        }
        mail.count(|counts| counts.dropped += 1);
        Counters::bump(&self.counters.datagrams_dropped);
        let text = format!("{to} takes no more, and the queue of datagrams is full: dropped");
        Err(io::Error::new(io::ErrorKind::WouldBlock, text))
    }

    /// Has the receivers that had no room tried again when the first of them is due.
    pub(super) fn plan_retry(&self, socket: &DatagramSocket) {
        let mail = &*socket.mail;
        let Some(due) = mail.stalled.borrow().next_due() else { return };
        let mut retry = mail.retry.borrow_mut();
        match &*retry {
            Some(timer) if timer.deadline().is_some_and(|deadline| deadline <= due) => return,
            Some(timer) => {
                timer.cancel();
            }
            None => {}
        }
        let socket = socket.clone();
        let timer = self.handle.call_at(due, move |handle| {
            if let Some(inner) = handle.inner() {
                inner.retry_stalled(&socket);
            }
        });
        timer.unref();
        *retry = Some(timer);
    }

    pub(super) fn retry_stalled(&self, socket: &DatagramSocket) {
        let mail = &*socket.mail;
        if !socket.is_open() {
            return;
        }
        let mut outcome = Outcome::default();
        mail.stalled.borrow_mut().retry(self.handle.now(), |queue| {
            while !queue.is_empty() {
                let left = queue.len();
                let sent = self.driver.borrow_mut().send_datagrams(mail.token, queue);
                outcome.sent += (left - queue.len()) as u64;
                match sent {
                    Ok(_) => break,
                    Err(error) => outcome.failed.push((queue.pop().and_then(|(to, _)| to), error)),
                }
            }
        });
        self.book(mail, outcome);
        self.plan_retry(socket);
        if self.has_untold_failures(mail) {
            self.attend_datagrams(mail);
        }
    }

    /// Counts what became of datagrams, and keeps failures for the hooks.
    pub(super) fn book(&self, mail: &Mail, outcome: Outcome) {
        for (to, error) in outcome.failed {
            self.note_failure(mail, to.map(|to| plain(&to)), error);
        }
        mail.count(|counts| {
            counts.sent += outcome.sent;
            counts.dropped += outcome.dropped;
            counts.failed += outcome.refused;
        });
        Counters::add(&self.counters.datagrams_sent, outcome.sent);
        Counters::add(&self.counters.datagrams_dropped, outcome.dropped);
    }

    /// Sends what is queued, and has the driver watch for what comes next.
    pub(super) fn look_after_datagrams(&self, socket: &DatagramSocket) {
        self.flush_datagrams(socket);
        self.watch_datagrams(&socket.mail);
    }
}

/// The address as the user knows it.
fn plain(address: &Address) -> Address {
    match address.socket_addr() {
        Some(SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())).into(),
            None => address.clone(),
        },
        _ => address.clone(),
    }
}
