//! Endpoint strings with TLS, at both ends of a connection: what stands in them counts.

#![allow(clippy::unwrap_used, reason = "in a test that is what is asserted")]

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use twistor::endpoint::{TlsConnect, TlsListen, UnixConnect, UnixListen};
use twistor::tls::rustls::pki_types::ServerName;
use twistor::tls::{TlsInfo, TlsVersion};
use twistor::{Port, Transport};
use twistor_tests::outcome::outcome;
use twistor_tests::tls::{Authority, Identity, NAME};
use twistor_tests::{Log, Script, World, contract, kernel_contract};

/// A folder with certificates, which goes with the test.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("twistor-tls-endpoints-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A path as it stands in a string.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A certificate and its key in one file. The authority's is the last in it.
    fn identity(&self, name: &str, identity: &Identity) -> String {
        self.write(name, &(identity.chain_pem.clone() + &identity.key_pem))
    }

    fn roots(&self, name: &str, authority: &Authority) -> String {
        let Identity { chain_pem, .. } = authority.issue(&[], |_| {});
        let at = chain_pem.rfind("-----BEGIN CERTIFICATE-----").unwrap();
        self.write(name, &chain_pem[at..])
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn port_of(port: &Port) -> u16 {
    port.local_addr().socket_addr().unwrap().port()
}

/// Connects, and says what was agreed on or what the error is.
fn connect(world: &World, endpoint: &str) -> Result<TlsInfo, String> {
    let connecting = world.reactor.connect(endpoint, |_| Script::default());
    let made: Transport = outcome(world, connecting).map_err(|error| error.to_string())?.transport().clone();
    let info = made.tls().unwrap();
    made.abort_connection();
    Ok(info)
}

contract! {
    // Line 54.
    fn strings_make_secure_connections_of_both_sides(driver) {
        let world = World::new(driver);
        let (files, authority) = (Files::new(), Authority::new());
        let server = files.identity("server.pem", &authority.issue(&[NAME, "127.0.0.1"], |_| {}));
        let client = files.identity("client.pem", &authority.issue(&["client.example"], |_| {}));
        let roots = files.roots("roots.pem", &authority);
        let seen = Rc::new(Cell::new(None));
        let port = world.reactor.listen(
            format!("ssl:0:interface=127.0.0.1:certificate={server}:client_ca={roots}:alpn=h2,echo:min_version=1.3"),
            {
                let seen = Rc::clone(&seen);
                move |_| {
                    let seen = Rc::clone(&seen);
                    Script::default().on_made(move |transport| seen.set(transport.tls()))
                }
            },
        );
        let port = port_of(&port.unwrap());
        let both = format!("roots={roots}:certificate={client}");
        let endpoint = format!("tls:127.0.0.1:{port}:name={NAME}:alpn=echo:{both}");
        let ours = connect(&world, &endpoint).unwrap();
        assert_eq!((ours.version, ours.alpn_text()), (TlsVersion::Tls13, Some("echo")));
        assert_eq!(ours.peer_dns_names(), [NAME]);
        world.until("the server has it", || {
            let info = seen.take();
            seen.set(info.clone());
            info.is_some()
        });
        let theirs = seen.take().unwrap();
        assert_eq!(theirs.peer_dns_names(), ["client.example"]);
        assert_eq!(theirs.server_name.as_deref(), Some(NAME));
        assert_eq!(theirs.alpn_text(), Some("echo"));
        // An address is verified as well as a name.
        assert!(connect(&world, &format!("ssl:127.0.0.1:{port}:{both}")).is_ok());
    }

    // Line 57.
    fn a_server_that_does_not_prove_to_be_the_host_is_refused(driver) {
        let world = World::new(driver);
        let (files, authority) = (Files::new(), Authority::new());
        let server = files.identity("server.pem", &authority.issue(&[NAME], |_| {}));
        let (roots, others) = (files.roots("roots.pem", &authority), files.roots("other.pem", &Authority::new()));
        let made = Rc::new(Cell::new(0));
        let port = world.reactor.listen(format!("tls:0:interface=127.0.0.1:certificate={server}"), {
            let made = Rc::clone(&made);
            move |_| {
                let made = Rc::clone(&made);
                Script::default().on_made(move |_| made.set(made.get() + 1))
            }
        });
        let port = port_of(&port.unwrap());
        for (rest, complaint) in [
            (format!("name=example.org:roots={roots}"), "not valid for name \"example.org\""),
            (format!("roots={roots}"), "not valid for name \"127.0.0.1\""),
            (format!("name={NAME}:roots={others}"), "invalid peer certificate"),
            // The system's roots: whether there are none or some, they have not issued it.
            (format!("name={NAME}"), ""),
        ] {
            let error = connect(&world, &format!("tls:127.0.0.1:{port}:{rest}")).unwrap_err();
            assert!(error.contains(complaint) && error.contains(&format!("127.0.0.1:{port}")), "{error}");
        }
        assert!(connect(&world, &format!("tls:127.0.0.1:{port}:name={NAME}:roots={roots}")).is_ok());
        world.until("the good one is made", || made.get() > 0);
        assert_eq!(made.get(), 1);
    }

    // Line 57.
    fn a_client_without_the_certificate_that_is_wanted_reaches_no_protocol(driver) {
        let world = World::new(driver);
        let (files, authority) = (Files::new(), Authority::new());
        let server = files.identity("server.pem", &authority.issue(&[NAME], |_| {}));
        let stranger = files.identity("stranger.pem", &Authority::new().issue(&["client.example"], |_| {}));
        let client = files.identity("client.pem", &authority.issue(&["client.example"], |_| {}));
        let roots = files.roots("roots.pem", &authority);
        let theirs = Log::new();
        let endpoint = format!("ssl:0:interface=127.0.0.1:certificate={server}:client_ca={roots}");
        let port = world.reactor.listen(endpoint, {
            let theirs = theirs.clone();
            move |_| Script::new(&theirs)
        });
        let port = port_of(&port.unwrap());
        for shown in [String::new(), format!(":certificate={stranger}")] {
            let ours = Log::new();
            let endpoint = format!("tls:127.0.0.1:{port}:name={NAME}:roots={roots}{shown}");
            let connecting = world.reactor.connect(endpoint, {
                let ours = ours.clone();
                move |_| Script::new(&ours).on_made(|transport| transport.write(b"let me in"))
            });
            // In TLS 1.3 a client learns only after its handshake that it is refused.
            if outcome(&world, connecting).is_ok() {
                world.until("the loss", || ours.lost().is_some());
                assert!(ours.lost().unwrap().starts_with("TLS: "), "{:?}", ours.lost());
            }
            assert!(theirs.events().is_empty(), "{:?}", theirs.events());
        }
        let endpoint = format!("tls:127.0.0.1:{port}:name={NAME}:roots={roots}:certificate={client}");
        assert!(connect(&world, &endpoint).is_ok());
    }
}

kernel_contract! {
    // Line 54.
    fn tls_stands_on_sockets_of_the_file_system(driver) {
        let world = World::new(driver);
        let (files, authority) = (Files::new(), Authority::new());
        let path = files.0.join("socket");
        let theirs = Log::new();
        let endpoint = TlsListen::new(UnixListen::new(&path), authority.server()).unwrap();
        let port = world.reactor.listen(endpoint, {
            let theirs = theirs.clone();
            move |_| Script::new(&theirs).on_data(Transport::write)
        });
        let ours = Log::new();
        let name = ServerName::try_from(NAME).unwrap();
        let endpoint = TlsConnect::new(UnixConnect::new(&path), authority.client(), name).unwrap();
        let connecting = world.reactor.connect(endpoint, {
            let ours = ours.clone();
            move |_| Script::new(&ours).on_made(|transport| transport.write(b"hello"))
        });
        world.until("the answer comes", || ours.data() == b"hello");
        drop((port, connecting));
    }
}
