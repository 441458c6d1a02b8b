//! Short connections, one after the other: connect, one message there and back, close.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use super::connect::connect;
use crate::pattern;

/// Opens, uses and closes `count` connections. The client closes first.
///
/// # Errors
/// A connection fails or comes back wrong.
pub fn churn(server: SocketAddr, count: u64) -> io::Result<()> {
    let mut answer = [0; 64];
    for number in 0..count as usize {
        let mut socket = connect(server)?;
        socket.write_all(pattern::slice(number, 0, answer.len()))?;
        socket.read_exact(&mut answer)?;
        pattern::verify(number, 0, &answer)?;
    }
    Ok(())
}
