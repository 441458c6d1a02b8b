//! Others who speak TLS: OpenSSL, GnuTLS, curl and Python, each as a client of our port and, where it can, as
//! the server of our client, in both versions of the protocol. ‡
//!
//! A test of a program that is not on the machine says so and passes.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

mod clients;
mod particular;
mod programs;
mod servers;
mod starting;
mod support;
