//! Bytes that flow one way.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use super::channel::{Channel, Wire};
use crate::bulk::{DONE, PIECE, Request};
use crate::pattern;

/// A connection to a server for bulk.
#[derive(Debug)]
pub struct Bulk(Channel);

impl Bulk {
    /// Connects, and has a little sent both ways.
    ///
    /// # Errors
    /// The connection fails, or bytes are wrong.
    pub fn connect(server: SocketAddr, wire: &Wire) -> io::Result<Self> {
        let mut bulk = Self(Channel::connect(server, wire)?);
        bulk.run(&Request::new(1 << 20, 1 << 20))?;
        Ok(bulk)
    }

    /// Has a server do what is asked.
    ///
    /// # Errors
    /// The connection fails, or bytes are wrong.
    pub fn run(&mut self, request: &Request) -> io::Result<()> {
        let channel = &mut self.0;
        channel.write_all(&request.to_bytes())?;
        let mut position = 0;
        while position < request.to_receive {
            let length = (request.to_receive - position).min(PIECE as u64);
            channel.write_all(pattern::slice(0, position, length as usize))?;
            position += length;
        }
        channel.flush()?;
        let mut buffer = vec![0; PIECE];
        let mut position = 0;
        while position < request.to_send {
            let room = (request.to_send - position).min(PIECE as u64);
            let count = channel.read(&mut buffer[..room as usize])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            pattern::verify(0, position, &buffer[..count])?;
            position += count as u64;
        }
        let mut done = DONE;
        channel.read_exact(&mut done)?;
        if done == DONE { Ok(()) } else { Err(io::Error::other(format!("{done:?} instead of the end"))) }
    }
}
