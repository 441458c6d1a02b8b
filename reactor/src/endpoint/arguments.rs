//! Endpoint strings of kinds that a program or a library added.

use std::fmt;

use super::error::EndpointError;
use super::parse::EndpointString;

/// An endpoint string of a kind that was added, cut into its parts.
///
/// See [`Handle::add_listen_kind`](crate::Handle::add_listen_kind).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    source: String,
    kind: String,
    rest: String,
    positional: Vec<String>,
    keywords: Vec<(String, String)>,
}

impl Arguments {
    pub(super) fn of(endpoint: &EndpointString<'_>) -> Self {
        let source = endpoint.source();
        let rest = endpoint.behind_kind();
        Self {
            source: source.to_owned(),
            kind: endpoint.kind().to_owned(),
            rest: rest.to_owned(),
            positional: endpoint.args().iter().map(|word| word.text.clone()).collect(),
            keywords: endpoint.keywords().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Everything behind the kind and its colon, as it was written: for a kind that wraps another endpoint.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// A positional argument, from 0, without escapes.
    #[must_use]
    pub fn argument(&self, index: usize) -> Option<&str> {
        self.positional.get(index).map(String::as_str)
    }

    /// The value of a keyword, without escapes.
    #[must_use]
    pub fn keyword(&self, name: &str) -> Option<&str> {
        self.keywords.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// An error that quotes the endpoint string.
    #[must_use]
    pub fn error(&self, complaint: impl fmt::Display) -> EndpointError {
        EndpointError::in_string(&self.source, complaint)
    }
}

impl fmt::Display for Arguments {
    /// The string.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
