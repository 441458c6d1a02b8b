//! Datagrams to an echo server, some at a time, each with a number: none may be lost, doubled or changed.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::PATIENCE;
use crate::pattern;
use crate::sys;

/// Bytes of a datagram: its number, then bytes that follow from it.
const SIZE: usize = 64;
/// The most at a time.
const MOST: usize = 64;

/// A client.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    sent: u64,
}

impl Datagrams {
    /// A socket that talks to the server only.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn open(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, sent: 0 })
    }

    /// Sends `count` datagrams, `burst` at a time with one system call, and waits for the answers to one
    /// burst before the next.
    ///
    /// # Errors
    /// A datagram was lost, doubled or changed.
    pub fn run(&mut self, count: u64, burst: usize) -> io::Result<()> {
        let mut buffers = [[0; SIZE]; MOST];
        let burst = burst.min(MOST);
        let goal = self.sent + count;
        while self.sent < goal {
            let size = burst.min((goal - self.sent) as usize);
            let first = self.sent;
            for (number, buffer) in (first..).zip(&mut buffers[..size]) {
                write(number, buffer);
            }
            sys::send_many(self.socket.as_fd(), &buffers[..size])?;
            self.sent += size as u64;
            let mut missing: u64 = if size == 64 { u64::MAX } else { (1 << size) - 1 };
            while missing != 0 {
                let mut answer = [0; SIZE + 1];
                let length = self.socket.recv(&mut answer).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("{} answers are missing: {error}", missing.count_ones()),
                    )
                })?;
                let number = check(&answer[..length])?;
                let bit =
                    number.checked_sub(first).filter(|place| *place < size as u64).map(|place| 1 << place);
                match bit {
                    Some(bit) if missing & bit != 0 => missing &= !bit,
                    _ => return Err(io::Error::other(format!("datagram {number} came twice"))),
                }
            }
        }
        Ok(())
    }
}

fn write(number: u64, buffer: &mut [u8; SIZE]) {
    buffer[..8].copy_from_slice(&number.to_ne_bytes());
    buffer[8..].copy_from_slice(pattern::slice(0, number * SIZE as u64, SIZE - 8));
}

/// The number of an answer whose bytes are right.
fn check(answer: &[u8]) -> io::Result<u64> {
    let Some((number, rest)) = answer.split_first_chunk::<8>().filter(|(_, rest)| rest.len() == SIZE - 8)
    else {
        return Err(io::Error::other(format!("an answer has {} bytes", answer.len())));
    };
    let number = u64::from_ne_bytes(*number);
    pattern::verify(0, number * SIZE as u64, rest)?;
    Ok(number)
}
