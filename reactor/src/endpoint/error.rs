//! What is wrong with an endpoint, as one sentence made where it is found.

use std::error::Error;
use std::fmt;
use std::io;

/// An endpoint that cannot be used: a string that cannot be read, or a value that is out of its range.
///
/// The text names the endpoint, the value and, for strings, the column (counted in characters, from 1), and
/// says what would be right. It converts into an [`io::Error`] of kind
/// [`InvalidInput`](io::ErrorKind::InvalidInput).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointError {
    text: String,
}

impl EndpointError {
    /// The complaint about an endpoint string, which is quoted whole.
    pub(super) fn in_string(source: &str, complaint: impl fmt::Display) -> Self {
        Self { text: format!("bad endpoint {}: {complaint}", Quoted(source)) }
    }

    /// The complaint about a builder, which is named by its address.
    pub(super) fn in_builder(endpoint: impl fmt::Display, complaint: impl fmt::Display) -> Self {
        Self { text: format!("bad endpoint {endpoint}: {complaint}") }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for EndpointError {}

impl From<EndpointError> for io::Error {
    fn from(error: EndpointError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Text in quotation marks, with nothing escaped but control characters: what the user sees has the columns
/// that the complaint counts.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        f.write_str("\"")
    }
}
