//! Who a process is, as the kernel vouches for it.

/// Who is at the other end of a Unix stream: whoever made the connection, as the kernel saw it then.
///
/// See [`Transport::peer_credentials`](crate::Transport::peer_credentials).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Credentials {
    /// The process; `None` where the system does not tell.
    pub pid: Option<u32>,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
}

impl Credentials {
    pub(crate) fn new(pid: Option<u32>, uid: u32, gid: u32) -> Self {
        Self { pid, uid, gid }
    }
}
