//! What may be done to a connection with TLS by somebody who means harm: each time nothing crashes, nothing
//! leaks, nothing that was not vouched for reaches a protocol, and others are served meanwhile. ‡

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

mod closing;
mod floods;
mod handshakes;
mod mutations;
mod starting;
mod verification;

mod records;

mod support;

use twistor_tests::allocations::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
