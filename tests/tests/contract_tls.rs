//! The contract, section 8: TLS as a layer of the same transport.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use twistor::Port;
use twistor::endpoint::{ConnectEndpoint, ListenEndpoint, TlsConnect, TlsListen};
use twistor::tls::rustls::pki_types::ServerName;
use twistor_tests::tls::{Authority, NAME};
use twistor_tests::{Log, Script, World, contract};

fn listen(world: &World, authority: &Authority, factory: impl twistor::Factory) -> Port {
    let endpoint = TlsListen::new("tcp:0:interface=127.0.0.1", authority.server()).unwrap();
    world.reactor.listen(ListenEndpoint::Tls(endpoint), factory).unwrap()
}

fn endpoint_of(port: &Port, authority: &Authority) -> ConnectEndpoint {
    let name = ServerName::try_from(NAME).unwrap();
    ConnectEndpoint::Tls(
        TlsConnect::new(port.local_addr().socket_addr().unwrap(), authority.client(), name).unwrap(),
    )
}

contract! {
    // Line 54.
    fn bytes_go_both_ways(driver) {
        let world = World::new(driver);
        let authority = Authority::new();
        let (theirs, ours) = (Log::new(), Log::new());
        let port = listen(&world, &authority, {
            let theirs = theirs.clone();
            move |_| Script::new(&theirs).on_data(|transport, data| transport.write(data))
        });
        let connecting = world.reactor.connect(endpoint_of(&port, &authority), {
            let ours = ours.clone();
            move |_| Script::new(&ours).on_made(|transport| transport.write(b"hello"))
        });
        world.until("the answer comes", || ours.data() == b"hello");
        assert_eq!(theirs.data(), b"hello");
        drop(connecting);
    }
}
