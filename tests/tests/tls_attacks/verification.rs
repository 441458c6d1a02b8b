//! Certificates that are not right: whoever shows one is told, and no protocol hears of the connection.

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use twistor::tls::{ClientCertificates, TlsClient, TlsServer};
use twistor_tests::tls::{Authority, Identity, NAME};
use twistor_tests::{Driver, contract};

use super::support::{BOTH, Dial, Site, Version, client_config, echo, provider, server_config};

/// A configuration of somebody who shows this.
fn showing(
    version: Version,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> ServerConfig {
    let mut config = server_config(&Authority::new(), &[version]);
    let provider = provider();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    config.cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

fn is_refused(
    client: impl Fn(&Authority) -> TlsClient,
    identity: impl Fn(&Authority) -> Identity,
    complaint: &str,
) {
    for version in BOTH {
        let dial = Dial::with(Driver::Simulated, &client);
        let Identity { chain, key, .. } = identity(&dial.authority);
        let mut server = dial.server(showing(version, chain, key));
        let error = loop {
            server.step();
            dial.world.turn(std::time::Duration::from_millis(1));
            if !dial.outcomes.borrow().is_empty() {
                break dial.error();
            }
        };
        assert!(error.contains(complaint), "{version:?}: {error}");
        dial.saw_nobody();
        // The server hears why.
        let told = server.hear_end();
        assert!(matches!(told, Some(rustls::Error::AlertReceived(_))), "{version:?}: {told:?}");
        drop(server);
        dial.is_clean();
    }
}

fn trusting(authority: &Authority) -> TlsClient {
    authority.client()
}

#[test]
// Line 57.
fn a_certificate_whose_time_is_over_is_refused() {
    is_refused(
        trusting,
        |authority| {
            authority.issue(&[NAME], |params| {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            })
        },
        "expired",
    );
}

#[test]
// Line 57.
fn a_certificate_whose_time_has_not_come_is_refused() {
    is_refused(
        trusting,
        |authority| authority.issue(&[NAME], |params| params.not_before = date_time_ymd(4000, 1, 1)),
        "not valid yet",
    );
}

#[test]
// Line 57.
fn a_certificate_for_another_host_is_refused() {
    for names in [&["example.org"][..], &["*.localhost"], &["localhost.example.org"], &["127.0.0.1"], &[]] {
        is_refused(trusting, |authority| authority.issue(names, |_| {}), "not valid for name");
    }
}

#[test]
// Line 57.
fn a_certificate_that_vouches_for_itself_is_refused() {
    let own = |_: &Authority| {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            chain_pem: String::new(),
            key_pem: String::new(),
        }
    };
    is_refused(trusting, own, "UnknownIssuer");
}

#[test]
// Line 57.
fn a_certificate_of_an_unknown_authority_is_refused() {
    // Even if that sends its own certificate along.
    is_refused(trusting, |_| Authority::named("somebody else").issue(&[NAME], |_| {}), "UnknownIssuer");
    // One who trusts nobody.
    let nobody = |_: &Authority| {
        TlsClient::builder()
            .system_roots(false)
            .roots_pem(Authority::named("somebody else").pem().as_bytes())
            .build()
            .unwrap()
    };
    is_refused(nobody, |authority| authority.issue(&[NAME], |_| {}), "UnknownIssuer");
}

#[test]
// Line 57.
fn a_certificate_that_vouches_for_others_without_being_allowed_to_is_refused() {
    let forged = |authority: &Authority| {
        let honest = authority.issue(&["example.org"], |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, "example.org");
        });
        let mut issuer = CertificateParams::new(Vec::new()).unwrap();
        issuer.distinguished_name = rcgen::DistinguishedName::new();
        issuer.distinguished_name.push(rcgen::DnType::CommonName, "example.org");
        let issuer = rcgen::Issuer::new(issuer, KeyPair::from_pem(&honest.key_pem).unwrap());
        let own = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        Identity {
            chain: [vec![certificate.der().clone()], honest.chain].concat(),
            key: PrivateKeyDer::try_from(own.serialize_der()).unwrap(),
            chain_pem: String::new(),
            key_pem: String::new(),
        }
    };
    is_refused(trusting, forged, "invalid peer certificate: EndEntityUsedAsCa");
}

fn serial() -> SerialNumber {
    SerialNumber::from(4711_u64)
}

fn with_serial(authority: &Authority) -> Identity {
    authority.issue(&[NAME], |params| params.serial_number = Some(serial()))
}

#[test]
// Line 57.
fn a_certificate_that_was_revoked_is_refused() {
    let careful = |authority: &Authority| {
        let list = authority.revoke(&[serial()]);
        TlsClient::builder().roots_pem(authority.pem().as_bytes()).crl_pem(list.as_bytes()).build().unwrap()
    };
    is_refused(careful, with_serial, "Revoked");
    // Others are not.
    let dial = Dial::with(Driver::Simulated, careful);
    let Identity { chain, key, .. } = dial.authority.issue(&[NAME], |_| {});
    let mut server = dial.server(showing(Version::Tls13, chain, key));
    server.shake_hands();
    server.leave();
}

#[test]
// Line 57.
fn a_certificate_with_the_key_of_another_is_refused() {
    let stolen = |authority: &Authority| {
        let victim = authority.issue(&[NAME], |_| {});
        let thief = authority.issue(&["example.org"], |_| {});
        Identity { chain: victim.chain, ..thief }
    };
    is_refused(trusting, stolen, "BadSignature");
}

/// A server that wants to see certificates.
fn demanding(authority: &Authority, which: ClientCertificates, revoked: &[SerialNumber]) -> TlsServer {
    let identity = authority.issue(&[NAME], |_| {});
    let builder = TlsServer::builder()
        .certificate_pem(identity.chain_pem.as_bytes(), identity.key_pem.as_bytes())
        .client_certificates(which)
        .client_roots_pem(authority.pem().as_bytes());
    let builder =
        if revoked.is_empty() { builder } else { builder.crl_pem(authority.revoke(revoked).as_bytes()) };
    builder.build().unwrap()
}

fn with_identity(version: Version, authority: &Authority, identity: Identity) -> rustls::ClientConfig {
    let mut config = client_config(authority, &[version]);
    let key = provider().key_provider.load_private_key(identity.key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(identity.chain, key);
    config.client_auth_cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

#[test]
// Line 57.
fn a_client_without_the_right_certificate_is_refused() {
    type Show = fn(&Authority) -> Option<Identity>;
    let wrong: [(&str, Show); 6] = [
        ("none", |_| None),
        ("of another authority", |_| Some(Authority::new().issue(&["somebody"], |_| {}))),
        ("expired", |authority| {
            Some(authority.issue(&["somebody"], |params| {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }))
        }),
        ("not yet valid", |authority| {
            Some(authority.issue(&["somebody"], |params| params.not_before = date_time_ymd(4000, 1, 1)))
        }),
        ("revoked", |authority| {
            Some(authority.issue(&["somebody"], |params| params.serial_number = Some(serial())))
        }),
        ("with another's key", |authority| {
            let victim = authority.issue(&["somebody"], |_| {});
            Some(Identity { chain: victim.chain, ..authority.issue(&["thief"], |_| {}) })
        }),
    ];
    for version in BOTH {
        for which in [ClientCertificates::Required, ClientCertificates::Optional] {
            for (name, show) in &wrong {
                let site =
                    Site::with(Driver::Simulated, |authority| demanding(authority, which, &[serial()]), echo);
                let config = match show(&site.authority) {
                    Some(identity) => with_identity(version, &site.authority, identity),
                    None if which == ClientCertificates::Optional => continue,
                    None => client_config(&site.authority, &[version]),
                };
                let mut client = site.client(config);
                let told = client.hear_end();
                assert!(
                    matches!(told, Some(rustls::Error::AlertReceived(_))),
                    "{version:?}, {name}: {told:?}"
                );
                site.saw_nobody();
                assert_eq!(site.failures(), 1);
                drop(client);
                site.is_clean();
            }
        }
    }
}

#[test]
fn a_client_with_a_huge_chain_is_served_or_refused() {
    for version in BOTH {
        for (copies, comes_in) in [(1, true), (60, true), (300, false), (2000, false)] {
            let site = Site::with(
                Driver::Simulated,
                |authority| demanding(authority, ClientCertificates::Required, &[]),
                echo,
            );
            let mut identity = site.authority.issue(&["somebody"], |_| {});
            let authority = identity.chain[1].clone();
            identity.chain.extend(vec![authority; copies]);
            let mut client = site.client(with_identity(version, &site.authority, identity));
            if comes_in {
                client.shake_hands();
                client.say(b"hello");
                assert_eq!(client.hear(5), b"hello");
            } else {
                let before = twistor_tests::allocations::restart_peak();
                client.hear_end();
                site.saw_nobody();
                let peak = twistor_tests::allocations::counts().peak - before;
                assert!(peak < 8 << 20, "{copies} certificates took {peak} bytes");
            }
            drop(client);
            site.is_clean();
        }
    }
}

contract! {
    // Line 57.
    fn the_right_certificate_comes_in_by_the_way_that_the_wrong_one_does_not(driver) {
        for version in BOTH {
            let site =
                Site::with(driver, |authority| demanding(authority, ClientCertificates::Required, &[serial()]), echo);
            let identity = site.authority.issue(&["somebody"], |_| {});
            let mut client = site.client(with_identity(version, &site.authority, identity));
            client.shake_hands();
            client.say(b"hello");
            assert_eq!(client.hear(5), b"hello");
            client.leave();
            let refused = site.client(client_config(&site.authority, &[version])).hear_end();
            assert!(refused.is_some());
            site.is_clean();
        }
    }
}
