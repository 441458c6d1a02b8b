//! Endpoints with TLS on another endpoint: [`TlsListen`], [`TlsConnect`].

use rustls::pki_types::ServerName;

use super::{ConnectEndpoint, EndpointError, IntoConnectEndpoint, IntoListenEndpoint, ListenEndpoint};
use crate::tls::{TlsClient, TlsServer};

/// To listen with TLS on any other endpoint for streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsListen {
    under: Box<ListenEndpoint>,
    server: TlsServer,
}

impl TlsListen {
    /// TLS as `server` on `under`.
    ///
    /// # Errors
    ///
    /// `under` makes no sense.
    pub fn new(under: impl IntoListenEndpoint, server: TlsServer) -> Result<Self, EndpointError> {
        Ok(Self { under: Box::new(under.into_listen_endpoint()?), server })
    }

    pub(crate) fn under(&self) -> &ListenEndpoint {
        &self.under
    }

    pub(crate) fn server(&self) -> &TlsServer {
        &self.server
    }
}

/// To connect with TLS through any other endpoint for streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConnect {
    under: Box<ConnectEndpoint>,
    client: TlsClient,
    name: ServerName<'static>,
}

impl TlsConnect {
    /// TLS as `client` through `under`, to the server that proves to be `name`.
    ///
    /// # Errors
    ///
    /// `under` makes no sense.
    pub fn new(
        under: impl IntoConnectEndpoint,
        client: TlsClient,
        name: ServerName<'static>,
    ) -> Result<Self, EndpointError> {
        Ok(Self { under: Box::new(under.into_connect_endpoint()?), client, name })
    }

    pub(crate) fn under(&self) -> &ConnectEndpoint {
        &self.under
    }

    pub(crate) fn client(&self) -> &TlsClient {
        &self.client
    }

    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}
