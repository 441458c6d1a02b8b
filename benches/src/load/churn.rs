//! Short connections, one after the other: connect, one message there and back, close.

use std::io;
use std::net::SocketAddr;

use super::channel::{Channel, Wire};

/// Opens, uses and closes `count` connections. The client closes first.
///
/// # Errors
/// A connection fails or comes back wrong.
pub fn churn(server: SocketAddr, wire: &Wire, count: u64) -> io::Result<()> {
    for number in 0..count as usize {
        let channel = Channel::greet(server, wire, number, 64)?;
        // The first has no session to go on with.
        if number > 0 && channel.is_resumed() != matches!(wire, Wire::ResumedTls(_)) {
            let text = format!("connection {number}: a session was resumed: {}", channel.is_resumed());
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}
