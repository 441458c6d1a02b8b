//! The example programs, run as programs and talked to as a user would.

mod all;
mod chat;
mod custom_event;
mod daemon;
mod echo_server;
mod event_handlers;
mod file_and_network;
mod heavy_function;
mod hosts;
mod https_get;
mod lease_simulation;
mod multicast_discovery;
mod port_forward;
mod process_supervisor;
mod protocol_unit_test;
mod reconnect;
mod starttls_chat;
mod stdin_and_timer;
mod subprocess;
mod support;
mod tasks;
mod timers;
mod tls_echo;
mod udp_echo;
mod unix_echo;
