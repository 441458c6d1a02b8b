//! Which of several certificates a client gets: by the name that it asks for (SNI, RFC 6066 section 3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::material;

/// What a client gets that names nothing known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    GetsFirst,
    IsRefused,
}

/// Certificates by the names in them. Of several for a name, the first is taken that the client can verify:
/// an ECDSA and an RSA one can stand side by side.
#[derive(Debug)]
pub(super) struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// Places in `all`, by lower-case name; a wildcard stands there as `*.example.org`.
    places: HashMap<String, Vec<usize>>,
    /// The places of the first certificate and of those that share its first name.
    first: Vec<usize>,
    unknown: Unknown,
}

impl ByName {
    pub(super) fn new(certificates: Vec<CertifiedKey>, unknown: Unknown) -> Self {
        let all: Vec<Arc<CertifiedKey>> = certificates.into_iter().map(Arc::new).collect();
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        let mut first_name = None;
        for (place, certificate) in all.iter().enumerate() {
            let names = certificate.cert.first().map(material::dns_names).unwrap_or_default();
            if place == 0 {
                first_name = names.first().cloned();
            }
            for name in names {
                places.entry(name).or_default().push(place);
            }
        }
        let first = first_name.and_then(|name| places.get(&name).cloned()).unwrap_or_else(|| vec![0]);
        Self { all, places, first, unknown }
    }

    fn places_for(&self, name: &str) -> Option<&[usize]> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(places) = self.places.get(&name) {
            return Some(places);
        }
        // A wildcard stands for one label.
        let (_, parent) = name.split_once('.')?;
        self.places.get(&format!("*.{parent}")).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.places_for(name));
        let places = match (named, self.unknown) {
            (Some(places), _) => places,
            (None, Unknown::GetsFirst) => &self.first,
            (None, Unknown::IsRefused) => return None,
        };
        let mut candidates = places.iter().filter_map(|place| self.all.get(*place));
        let first = candidates.clone().next()?;
        let can_verify =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(Arc::clone(candidates.find(can_verify).unwrap_or(first)))
    }
}
