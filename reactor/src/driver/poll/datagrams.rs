//! Sockets for datagrams on the poll driver.

use std::io;

use super::super::datagram::{self, DatagramBatch, DatagramsSent};
use super::super::options::{DatagramOption, DatagramSpec};
use super::{Interest, Kind, PollDriver};
use crate::core::address::Address;
use crate::core::datagrams::DatagramQueue;
use crate::core::slots::Token;

impl PollDriver {
    pub(in super::super) fn bind_datagram(
        &mut self,
        token: Token,
        spec: &DatagramSpec,
    ) -> io::Result<Address> {
        let (socket, address) = datagram::open(spec)?;
        self.stats.others += 1;
        self.install(token, Kind::Datagram, socket, Interest::READ)?;
        Ok(address)
    }

    pub(in super::super) fn receive_datagrams(
        &mut self,
        token: Token,
        batch: &mut DatagramBatch,
        count: usize,
        max: usize,
    ) -> io::Result<()> {
        let socket = Self::socket(&self.sources, token).ok_or(io::ErrorKind::NotConnected)?;
        datagram::receive(socket, batch, count, max, self.batches, &mut self.stats)
    }

    pub(in super::super) fn send_datagrams(
        &mut self,
        token: Token,
        queue: &mut DatagramQueue<Address>,
    ) -> io::Result<DatagramsSent> {
        let socket = Self::socket(&self.sources, token).ok_or(io::ErrorKind::NotConnected)?;
        let sent = datagram::send(socket, queue, self.budgets.write, self.batches, &mut self.stats);
        #[cfg(unix)]
        if let Err(error) = sent {
            return self.send_to_successor(token, queue, error);
        }
        sent
    }

    pub(in super::super) fn set_datagram_option(
        &mut self,
        token: Token,
        option: DatagramOption,
    ) -> io::Result<()> {
        self.stats.others += 1;
        self.with_socket(token, |socket| datagram::set_option(socket, option))
    }
}
