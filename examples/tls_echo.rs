//! An echo server with TLS: what comes in goes out, and nobody on the way can read it.
//!
//! Run it:      cargo run --release --features tls --example tls_echo
//! Elsewhere:   cargo run --release --features tls --example tls_echo -- ssl:9000:interface=127.0.0.1
//! Your own:    cargo run --release --features tls --example tls_echo -- ssl:8443:certificate=server.pem:key=server.key
//! Talk to it:  openssl s_client -connect localhost:8443 -verify_return_error -CAfile FILE
//!              gnutls-cli --x509cafile FILE -p 8443 localhost
//!
//! What it shows: TLS changes the endpoint, not the protocol, which is that of `echo_server`. A string that names no
//! certificate gets a self-signed one, made anew in each run, in a FILE that the program prints: whoever trusts that is
//! sure to talk to this process. The factory, which is asked after the handshake, is told what was agreed on.

use twistor::endpoint::{IntoListenEndpoint, ListenEndpoint, TlsListen};
use twistor::{Handle, Peer, Port, Protocol, Reactor, Transport};
use twistor_examples::certificate::SelfSigned;
use twistor_examples::{Failure, arguments, init_logging};

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Echoes to everybody who connects to the endpoint and completes the handshake.
fn serve(reactor: &Handle, endpoint: ListenEndpoint) -> std::io::Result<Port> {
    reactor.listen(endpoint, |peer: Peer| {
        if let Some(tls) = peer.tls {
            let resumed = if tls.is_resumed { ", resumed" } else { "" };
            println!("tls_echo: {}: {}, {}{resumed}", peer.address, tls.version, tls.cipher_suite);
        }
        Echo
    })
}

/// TLS with a certificate of our own. What TLS stands on is the same string with another kind: `ssl:8443` is TLS on
/// `tcp:8443`.
fn with(certificate: &SelfSigned, endpoint: &str) -> Result<ListenEndpoint, Failure> {
    let under = match endpoint.strip_prefix("ssl").or_else(|| endpoint.strip_prefix("tls")) {
        Some(rest) => format!("tcp{rest}"),
        None => endpoint.to_owned(),
    };
    Ok(TlsListen::new(under, certificate.server().clone())?.into_listen_endpoint()?)
}

fn main() -> Result<(), Failure> {
    let [endpoint] = arguments("tls_echo", "An echo server with TLS.", [("ENDPOINT", Some("ssl:8443"))]);
    init_logging();

    let reactor = Reactor::new()?;
    let own = if endpoint.contains(":certificate=") { None } else { Some(SelfSigned::new("tls_echo")?) };
    let endpoint = match &own {
        None => endpoint.parse()?,
        Some(certificate) => {
            println!("tls_echo: a self-signed certificate, in {}", certificate.file().display());
            with(certificate, &endpoint)?
        }
    };
    let port = serve(&reactor, endpoint)?;
    println!("tls_echo: listening on {}", port.local_addr());
    reactor.run()?;
    println!("tls_echo: {}", reactor.stats());
    Ok(())
}
