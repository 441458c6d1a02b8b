//! Endpoints with TLS on another endpoint: [`TlsListen`], [`TlsConnect`].

use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::error::EndpointError;
use super::parse;
use super::tcp::{Target, TcpConnect};
use super::{ConnectEndpoint, IntoConnectEndpoint, IntoListenEndpoint, ListenEndpoint};
use crate::tls::{TlsClient, TlsConfigError, TlsServer};

/// What the errors of these builders are about.
const SUBJECT: &str = "with TLS";

/// To listen with TLS on any other endpoint for streams, but on the standard input and output.
///
/// As a string: `ssl:PORT:certificate=FILE`, for TCP ports; see the [module](super).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
/// # let pem = made.cert.pem() + &made.signing_key.serialize_pem();
/// use twistor::endpoint::{ListenEndpoint, TcpListen, TlsListen, UnixListen};
/// use twistor::tls::TlsServer;
///
/// let server = TlsServer::builder().certificate_pem(pem.as_bytes(), pem.as_bytes()).build()?;
/// let port = TlsListen::new(TcpListen::new(443).reuse_port(true), server.clone())?;
/// let socket = TlsListen::new(UnixListen::new("/run/secure.sock"), server.clone())?;
///
/// // The server of an endpoint can be got back, to read its files again.
/// let endpoint = ListenEndpoint::from(port);
/// if let ListenEndpoint::Tls(tls) = &endpoint {
///     tls.server().reload()?;
///     assert_eq!(*tls.server(), server);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Two of them are equal if their endpoints are and their [`TlsServer`] is the same one; endpoints from equal
/// strings are not, as each string makes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an endpoint does nothing until it is listened on"]
pub struct TlsListen {
    under: Box<ListenEndpoint>,
    server: TlsServer,
}

impl TlsListen {
    /// TLS as `server` on `under`.
    ///
    /// # Errors
    ///
    /// If `under` cannot be used by itself, or has TLS already, or is the standard input and output.
    pub fn new(under: impl IntoListenEndpoint, server: TlsServer) -> Result<Self, EndpointError> {
        let under = under.into_listen_endpoint()?;
        match &under {
            ListenEndpoint::Tls(_) => Err(EndpointError::in_builder(SUBJECT, "it has TLS already")),
            ListenEndpoint::Stdio => Err(EndpointError::in_builder(
                SUBJECT,
                "the standard input and output cannot have TLS; listen on a port or a socket",
            )),
            _ => Ok(Self { under: Box::new(under), server }),
        }
    }

    /// The endpoint that TLS stands on.
    #[must_use]
    pub fn under(&self) -> &ListenEndpoint {
        &self.under
    }

    /// What it shows its clients; a clone of it can [reload](TlsServer::reload) its files later.
    #[must_use]
    pub fn server(&self) -> &TlsServer {
        &self.server
    }
}

impl From<TlsListen> for ListenEndpoint {
    fn from(tls: TlsListen) -> Self {
        Self::Tls(tls)
    }
}

impl IntoListenEndpoint for TlsListen {
    fn into_listen_endpoint(self) -> Result<ListenEndpoint, EndpointError> {
        // What it stands on was checked when it was put there.
        Ok(ListenEndpoint::Tls(self))
    }
}

/// To connect with TLS through any other endpoint for streams.
///
/// As a string: `tls:HOST:PORT`, for TCP; see the [module](super).
///
/// ```
/// use twistor::endpoint::{TcpConnect, TlsConnect, UnixConnect};
/// use twistor::tls::TlsClient;
///
/// let client = TlsClient::new();
/// let https = TlsConnect::host("example.org", 443, client.clone())?;
///
/// // A server that is reached otherwise than by its name still has to prove the name.
/// let tunnel = TlsConnect::new(UnixConnect::new("/run/tunnel.sock"), client, "example.org".try_into()?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Two of them are equal if their endpoints and names are and their [`TlsClient`] is the same one; endpoints
/// from equal strings are not, as each string makes its own. Clones of an endpoint have one client, and so
/// share their sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an endpoint does nothing until it is connected"]
pub struct TlsConnect {
    under: Box<ConnectEndpoint>,
    client: TlsClient,
    name: ServerName<'static>,
}

impl TlsConnect {
    /// TLS as `client` through `under`, to the server that proves to be `name`: a DNS name or an IP address,
    /// which has to stand in its certificate.
    ///
    /// # Errors
    ///
    /// If `under` cannot be used by itself, or has TLS already.
    pub fn new(
        under: impl IntoConnectEndpoint,
        client: TlsClient,
        name: ServerName<'static>,
    ) -> Result<Self, EndpointError> {
        let under = under.into_connect_endpoint()?;
        if matches!(under, ConnectEndpoint::Tls(_)) {
            return Err(EndpointError::in_builder(SUBJECT, "it has TLS already"));
        }
        Ok(Self { under: Box::new(under), client, name })
    }

    /// TLS as `client` over TCP to a host, by its name or by its IP address as text, which is also what it
    /// has to prove to be.
    ///
    /// # Errors
    ///
    /// If that is no name that a certificate can have. International names are written in ASCII (`xn--…`).
    pub fn host(host: &str, port: u16, client: TlsClient) -> Result<Self, EndpointError> {
        let tcp = TcpConnect::host(host, port);
        let name = server_name_of(&tcp).map_err(|complaint| {
            EndpointError::in_builder(tcp.target(), format!("the host {host:?} {complaint}"))
        })?;
        Self::new(tcp, client, name)
    }

    /// The endpoint that TLS goes through.
    #[must_use]
    pub fn under(&self) -> &ConnectEndpoint {
        &self.under
    }

    /// Whom it trusts and what it shows.
    #[must_use]
    pub fn client(&self) -> &TlsClient {
        &self.client
    }

    /// Who the server has to prove to be.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}

impl From<TlsConnect> for ConnectEndpoint {
    fn from(tls: TlsConnect) -> Self {
        Self::Tls(tls)
    }
}

impl IntoConnectEndpoint for TlsConnect {
    fn into_connect_endpoint(self) -> Result<ConnectEndpoint, EndpointError> {
        // What it goes through was checked when it was made.
        Ok(ConnectEndpoint::Tls(self))
    }
}

impl From<TlsConfigError> for EndpointError {
    fn from(error: TlsConfigError) -> Self {
        Self::in_builder(SUBJECT, error)
    }
}

/// Who a server has to prove to be that is reached so. The complaint continues the host.
pub(super) fn server_name_of(tcp: &TcpConnect) -> Result<ServerName<'static>, String> {
    match tcp.target() {
        Target::Address(address) => Ok(of_ip(address.ip())),
        Target::Name(name, _) => server_name(name),
    }
}

/// A DNS name or an IP address, which may stand in brackets and have a scope. The complaint continues the
/// text.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    if let Some(address) = parse::ip_address(text, 0) {
        return Ok(of_ip(address.ip()));
    }
    // The dot at the end is for resolvers: no certificate has it.
    let name = text.strip_suffix('.').unwrap_or(text).to_owned();
    let is_ascii = name.is_ascii();
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        Err(_) if !is_ascii => {
            Err("is not in ASCII; write the name as certificates have it (xn--…)".to_owned())
        }
        _ => Err("is not a name that a certificate can have".to_owned()),
    }
}

fn of_ip(address: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.into())
}

#[cfg(test)]
mod tests {
    use super::super::UnixListen;
    use super::*;

    fn server() -> TlsServer {
        let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        TlsServer::builder().certificate_pem(certificate.as_bytes(), key.as_bytes()).build().unwrap()
    }

    #[test]
    fn tls_stands_on_ports_and_sockets_but_not_on_itself_or_the_standard_streams() {
        let server = server();
        let unix = TlsListen::new(UnixListen::new("/run/a"), server.clone()).unwrap();
        assert!(matches!(unix.under(), ListenEndpoint::Unix(_)));
        assert!(TlsListen::new("systemd:name=https", server.clone()).is_ok());
        assert!(TlsListen::new("fd:3", server.clone()).is_ok());
        let error = |under: ListenEndpoint| TlsListen::new(under, server.clone()).unwrap_err().to_string();
        assert_eq!(error(unix.into()), "bad endpoint with TLS: it has TLS already");
        assert_eq!(
            error(ListenEndpoint::Stdio),
            "bad endpoint with TLS: the standard input and output cannot have TLS; listen on a port or a socket"
        );
        // What is wrong below is still told.
        assert!(TlsListen::new("tcp:x", server).unwrap_err().to_string().contains("(column 5)"));
    }

    #[test]
    fn tls_goes_through_everything_but_itself() {
        let client = TlsClient::new();
        let name: ServerName<'static> = "example.org".try_into().unwrap();
        for under in ["tcp:127.0.0.1:1", "unix:/run/a", "fd:3", "stdio:", "process:cat"] {
            assert!(TlsConnect::new(under, client.clone(), name.clone()).is_ok(), "{under}");
        }
        let once = TlsConnect::host("example.org", 443, client.clone()).unwrap();
        let error = TlsConnect::new(once, client, name).unwrap_err();
        assert_eq!(error.to_string(), "bad endpoint with TLS: it has TLS already");
    }

    #[test]
    fn the_name_to_prove_is_the_host() {
        let name = |host: &str| {
            TlsConnect::host(host, 443, TlsClient::new()).map(|tls| tls.name().to_str().into_owned())
        };
        assert_eq!(name("example.org").unwrap(), "example.org");
        assert_eq!(name("example.org.").unwrap(), "example.org");
        assert_eq!(name("127.0.0.1").unwrap(), "127.0.0.1");
        assert_eq!(name("::1").unwrap(), "::1");
        assert_eq!(name("fe80::1%3").unwrap(), "fe80::1");
        assert_eq!(
            name("bücher.example").unwrap_err().to_string(),
            "bad endpoint bücher.example:443: the host \"bücher.example\" is not in ASCII; \
             write the name as certificates have it (xn--…)"
        );
        assert!(name("a b").unwrap_err().to_string().ends_with("is not a name that a certificate can have"));
    }

    #[test]
    fn an_error_of_a_configuration_is_one_of_an_endpoint() {
        let error = TlsServer::from_pem_files("no such file", "nor this").unwrap_err();
        let error = EndpointError::from(error).to_string();
        assert!(
            error.starts_with("bad endpoint with TLS: certificate file \"no such file\" cannot be read: "),
            "{error}"
        );
    }
}
