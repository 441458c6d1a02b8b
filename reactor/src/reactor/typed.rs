//! [`Connection`]: a connection together with the type of its protocol.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::protocol::Protocol;
use crate::reactor::transport::Transport;

/// A connection whose protocol is a `P`: from anywhere on the loop, a closure can be sent into that protocol.
///
/// It derefs to its [`Transport`].
///
/// ```
/// use twistor::{Connection, Protocol, Transport};
///
/// struct Member {
///     nickname: String,
/// }
///
/// impl Protocol for Member {
///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
/// }
///
/// fn rename(member: &Connection<Member>, nickname: String) {
///     member.post(move |member, transport| {
///         write!(transport, "you are {nickname} now\r\n");
///         member.nickname = nickname;
///     });
/// }
/// ```
pub struct Connection<P> {
    transport: Transport,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Connection<P> {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, protocol: PhantomData }
    }

    /// Queues `f` to be called with the protocol. False, with `f` dropped, when the connection is closing or
    /// lost. A closure that is queued and finds the connection ended, or its protocol replaced by one of
    /// another type, is dropped and counted.
    pub fn post(&self, f: impl FnOnce(&mut P, &Transport) + 'static) -> bool {
        self.transport.post_typed(f)
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

impl<P> Clone for Connection<P> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), protocol: PhantomData }
    }
}

impl<P> Deref for Connection<P> {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl<P> fmt::Debug for Connection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.transport).finish()
    }
}
