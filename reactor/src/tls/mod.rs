//! TLS: who we are ([`TlsServer`]), whom we trust ([`TlsClient`]), and what was agreed ([`TlsInfo`]).
//!
//! A configuration is made once, checked when it is made, and shared by reference. What runs the protocol on
//! a connection is a filter below its [`Transport`](crate::Transport), with the same hooks as without TLS.
//!
//! Mostly no configuration is needed in the program: it stands in the endpoint strings,
//! `ssl:443:certificate=FILE` to listen and `tls:example.org:443` to connect (see
//! [`endpoint`](crate::endpoint)). This module is for what strings cannot say: several certificates, checks
//! of one's own, reloading.
//!
//! TLS is version 1.2 or 1.3, by the crate [`rustls`]. Servers are verified as the system does it unless
//! roots are given; there is no way to leave verification out but the methods with `dangerous` in their
//! names. Data before the end of the handshake (0-RTT) is neither sent nor taken, and renegotiation does not
//! exist.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
//! use twistor::endpoint::{TcpListen, TlsConnect, TlsListen};
//! use twistor::tls::{TlsClient, TlsServer};
//!
//! let server = TlsServer::builder().certificate_pem(certificate.as_bytes(), key.as_bytes()).build()?;
//! let listen = TlsListen::new(TcpListen::new(8443), server)?;
//!
//! let client = TlsClient::builder().roots_pem(certificate.as_bytes()).build()?;
//! let connect = TlsConnect::host("localhost", 8443, client)?;
//! # let _ = (listen, connect);
//! # Ok(())
//! # }
//! ```

mod by_name;
mod client;
mod client_builder;
mod common;
mod config_error;
mod error;
#[cfg(test)]
mod handshake_tests;
mod info;
mod material;
pub mod provider;
mod server;
mod server_builder;
mod verify;

pub use client::TlsClient;
pub use client_builder::TlsClientBuilder;
pub(crate) use config_error::Part;
pub use config_error::TlsConfigError;
pub use error::TlsError;
pub use info::{TlsInfo, TlsVersion};
pub use rustls;
pub(crate) use server::ServerNameTap;
pub use server::TlsServer;
pub use server_builder::{ClientCertificates, TlsServerBuilder};
