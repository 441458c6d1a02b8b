//! Descriptors in the messages of Unix sockets (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use socket2::Socket;

use crate::sys::sigpipe::without_sigpipe;

/// Descriptors that one message can carry: what Linux allows.
const MAX_PASSED: usize = 253;

/// What came with one message.
pub(super) struct Received {
    pub(super) bytes: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Further descriptors came, but this process can have no more.
    pub(super) has_lost_some: bool,
}

/// Receives bytes, and the descriptors that came with them.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PASSED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    #[cfg(not(target_vendor = "apple"))]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = RecvFlags::empty();
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let has_lost_some = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received { bytes: received.bytes, descriptors, has_lost_some })
}

/// Sends bytes with a descriptor on the first of them.
pub(super) fn send(socket: &Socket, data: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&passed));
    let data = [IoSlice::new(data)];
    Ok(without_sigpipe(|| rustix::net::sendmsg(socket, &data, &mut control, SendFlags::empty()))?)
}
