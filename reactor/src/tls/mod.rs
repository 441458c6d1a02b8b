//! TLS: who we are ([`TlsServer`]), whom we trust ([`TlsClient`]), and what was agreed ([`TlsInfo`]).
//!
//! A configuration is made once, checked when it is made, and shared by reference. What runs the protocol on a
//! connection is a filter below its [`Transport`](crate::Transport), with the same hooks as without TLS.

mod client;
mod info;
mod server;

pub use client::TlsClient;
pub use info::{TlsInfo, TlsVersion};
pub use rustls;
pub(crate) use server::ServerNameTap;
pub use server::TlsServer;

pub use crate::net::tls_error::TlsError;
