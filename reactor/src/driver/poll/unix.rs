//! Unix sockets on the poll driver: their files, streams whose peers may pass descriptors, peers for
//! datagrams that come back.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::super::datagram::{self, DatagramsSent};
use super::super::options::{UnixConnectSpec, UnixDatagramSpec, UnixListenSpec};
use super::super::rights::{self, Received};
use super::super::unix::{self, SocketFile};
use super::pipe::Pipe;
use super::{Interest, Kind, PollDriver};
use crate::core::address::{Address, UnixAddress};
use crate::core::credentials::Credentials;
use crate::core::datagrams::DatagramQueue;
use crate::core::slots::Token;

/// The same is said again after this time.
const COMPLAINTS: Duration = Duration::from_secs(1);

/// What most programs need none of.
#[derive(Default)]
pub(super) struct UnixTables {
    /// Streams that are no sockets.
    pub(super) pipes: HashMap<Token, Pipe>,
    /// To whom sockets for datagrams are connected.
    peers: HashMap<Token, UnixAddress>,
    /// The files of bound sockets, to be removed with them.
    files: HashMap<Token, SocketFile>,
    /// Listeners and attempts whose streams take descriptors.
    takes_descriptors: HashSet<Token>,
    /// When it was said last that descriptors were lost.
    complained: Option<Instant>,
}

impl UnixTables {
    pub(super) fn takes_descriptors(&self, listener: Token) -> bool {
        self.takes_descriptors.contains(&listener)
    }

    /// A listener, a socket for datagrams or an attempt is over; whether its streams take descriptors.
    pub(super) fn forget(&mut self, token: Token) -> bool {
        self.files.remove(&token);
        self.peers.remove(&token);
        self.takes_descriptors.remove(&token)
    }
}

impl PollDriver {
    pub(in super::super) fn listen_unix(&mut self, token: Token, spec: &UnixListenSpec) -> io::Result<()> {
        let (socket, file) = unix::listen(spec)?;
        self.stats.others += 1;
        self.install_listener(token, socket)?;
        self.unix.files.extend(file.map(|file| (token, file)));
        if spec.options.descriptors {
            self.unix.takes_descriptors.insert(token);
        }
        Ok(())
    }

    /// Duplicates a listening socket for another process; whether it has a file that goes with it.
    pub(in super::super) fn share_listener(&mut self, token: Token) -> io::Result<(OwnedFd, bool)> {
        self.stats.others += 1;
        let duplicate = self.with_socket(token, Socket::try_clone)?;
        Ok((duplicate.into(), self.unix.files.contains_key(&token)))
    }

    /// The socket file of a listener is somebody else's from now on: it stays when the listener is closed.
    pub(in super::super) fn give_socket_file_away(&mut self, token: Token) {
        if let Some(file) = self.unix.files.remove(&token) {
            file.keep();
        }
    }

    /// The socket file of an adopted listener goes with it from now on.
    pub(in super::super) fn own_socket_file(&mut self, token: Token) -> io::Result<()> {
        let file = self.with_socket(token, unix::socket_file)?;
        self.unix.files.extend(file.map(|file| (token, file)));
        Ok(())
    }

    /// What an adopted listener accepts takes descriptors that peers pass.
    pub(in super::super) fn take_descriptors(&mut self, listener: Token) {
        self.unix.takes_descriptors.insert(listener);
    }

    pub(in super::super) fn connect_unix(&mut self, token: Token, spec: &UnixConnectSpec) -> io::Result<()> {
        let socket = unix::connect(spec)?;
        self.stats.others += 1;
        self.install(token, Kind::Connecting, socket, Interest::WRITE)?;
        self.targets.insert(token, spec.address.clone().into());
        if spec.options.descriptors {
            self.unix.takes_descriptors.insert(token);
        }
        Ok(())
    }

    pub(in super::super) fn bind_unix_datagram(
        &mut self,
        token: Token,
        spec: &UnixDatagramSpec,
    ) -> io::Result<(UnixAddress, usize)> {
        let (socket, file, local) = unix::open_datagram(spec)?;
        let longest = unix::longest_datagram(&socket)?;
        self.stats.others += 1;
        self.install(token, Kind::Datagram, socket, Interest::READ)?;
        self.unix.files.extend(file.map(|file| (token, file)));
        self.unix.peers.extend(spec.remote.clone().map(|peer| (token, peer)));
        Ok((local, longest))
    }

    /// Sending has failed. If the peer of a Unix socket is gone, connects to its successor and sends again.
    ///
    /// # Errors
    ///
    /// As sending; of kind `ConnectionRefused` if there is no successor.
    #[cold]
    pub(super) fn send_to_successor(
        &mut self,
        token: Token,
        queue: &mut DatagramQueue<Address>,
        error: io::Error,
    ) -> io::Result<DatagramsSent> {
        let Some(peer) = self.unix.peers.get(&token).filter(|_| unix::has_lost_peer(&error)) else {
            return Err(error);
        };
        let socket = Self::socket(&self.sources, token).ok_or(io::ErrorKind::NotConnected)?;
        self.stats.others += 1;
        unix::reconnect(socket, peer)?;
        let sent = datagram::send(socket, queue, self.budgets.write, self.batches, &mut self.stats);
        sent.map_err(|error| match unix::has_lost_peer(&error) {
            true => io::ErrorKind::ConnectionRefused.into(),
            false => error,
        })
    }

    pub(in super::super) fn peer_credentials(&mut self, stream: Token) -> io::Result<Credentials> {
        self.stats.others += 1;
        self.with_socket(stream, unix::peer_credentials)
    }

    /// Whether the token names a stream that is to be read and may bring descriptors.
    pub(super) fn reads_passing(&mut self, stream: Token) -> bool {
        self.source(stream).is_some_and(|source| source.kind == Kind::Passing && source.wanted.reads())
    }

    /// Reads once. One message of the peer's ends the read, so there is no budget to keep.
    pub(super) fn receive_passed(&mut self, stream: Token, scratch: &mut [u8]) -> io::Result<Received> {
        let result = self.with_socket(stream, |socket| rights::receive(socket, scratch));
        self.stats.receives += 1;
        let received = result?;
        self.stats.bytes_received += received.bytes as u64;
        if received.has_lost_some {
            let now = Instant::now();
            let complained = self.unix.complained.replace(now);
            if complained.is_none_or(|before| now - before > COMPLAINTS) {
                log::warn!("descriptors that a peer passed are lost: no more can be had (ulimit -n)");
            } else {
                self.unix.complained = complained;
            }
        }
        Ok(received)
    }
}
