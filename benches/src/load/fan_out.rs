//! A chat room: one member speaks, all must hear every line, in order and whole.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use super::PATIENCE;
use super::connect::connect;
use crate::sys::{self, Epoll, Event};

/// Bytes of a line, line feed included.
const LINE: usize = 64;

/// A room with its members; the last to have joined is the speaker.
#[derive(Debug)]
pub struct FanOut {
    epoll: Epoll,
    members: Vec<TcpStream>,
    /// Bytes that each has heard since the beginning.
    heard: Vec<usize>,
    /// All that was ever said.
    said: Vec<u8>,
}

impl FanOut {
    /// Connects `count` members and says one line that all must hear. Listeners accept in order of arrival, so the
    /// speaker, who joined last, speaks when all are there.
    ///
    /// # Errors
    /// A connection fails, or not all hear the line.
    pub fn join(server: SocketAddr, count: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut members = Vec::with_capacity(count);
        for number in 0..count {
            let member = connect(server)?;
            member.set_nonblocking(true)?;
            epoll.add(member.as_raw_fd(), sys::IN, number as u64)?;
            members.push(member);
        }
        let mut room = Self { epoll, heard: vec![0; count], members, said: Vec::new() };
        room.say(1)?;
        Ok(room)
    }

    /// Says `count` lines, each when all have heard the one before.
    ///
    /// # Errors
    /// A member hears something else, is dropped, or hears nothing for too long.
    pub fn say(&mut self, count: u64) -> io::Result<()> {
        for _ in 0..count {
            let number = self.said.len() / LINE;
            writeln!(
                self.said,
                "{:063x}",
                (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            )?;
            let line = &self.said[number * LINE..];
            if let Some(mut speaker) = self.members.last() {
                // A line always fits into an idle socket's buffer.
                speaker.write_all(line)?;
            }
            self.listen()?;
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        let mut events = [Event::EMPTY; 1024];
        let mut buffer = [0; 4 * LINE];
        let mut missing = self.members.len();
        while missing > 0 {
            let count = self.epoll.wait(&mut events, PATIENCE.as_millis() as i32)?;
            if count == 0 {
                let text = format!("{missing} of {} members did not hear a line", self.members.len());
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            for event in &events[..count] {
                let member = event.token() as usize;
                let received = match sys::recv(self.members[member].as_fd(), &mut buffer) {
                    Ok(0) => {
                        let text = format!("member {member}: closed by the server");
                        return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                    }
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                let heard = &mut self.heard[member];
                if self.said.get(*heard..*heard + received) != Some(&buffer[..received]) {
                    let text = format!("member {member}: heard something else at byte {heard}");
                    return Err(io::Error::new(ErrorKind::InvalidData, text));
                }
                *heard += received;
                if *heard == self.said.len() {
                    missing -= 1;
                }
            }
        }
        Ok(())
    }
}
