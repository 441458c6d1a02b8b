//! Endpoint strings of the kind `unix`: each keyword goes to the builder method of its name.

use super::error::EndpointError;
use super::limits;
use super::parse::{EndpointString, Fields, Form};
use super::unix::{UnixConnect, UnixListen};
use crate::core::address::UnixAddress;
use crate::driver::options::UnixOptions;

const LISTEN: Form = Form {
    args: &["address"],
    keywords: &["mode", "backlog", "descriptors", "recv_buffer", "send_buffer"],
    example: "unix:/run/echo.sock",
};

const CONNECT: Form = Form {
    args: &["address"],
    keywords: &["bind_address", "timeout", "descriptors", "recv_buffer", "send_buffer"],
    example: "unix:/run/echo.sock",
};

/// `unix:PATH` and `unix:@NAME`.
pub(super) fn listen(endpoint: EndpointString<'_>) -> Result<UnixListen, EndpointError> {
    let mut fields = endpoint.into_fields(&LISTEN)?;
    let mut unix = UnixListen::on(required_address(&mut fields)?);
    if let Some(mode) = fields.read("mode", mode)? {
        unix = unix.mode(mode);
    }
    if let Some(connections) = fields.number("backlog", &limits::BACKLOG)? {
        unix = unix.backlog(connections);
    }
    unix = unix.options(options(&mut fields)?);
    unix.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(unix)
}

/// `unix:PATH` and `unix:@NAME`.
pub(super) fn connect(endpoint: EndpointString<'_>) -> Result<UnixConnect, EndpointError> {
    let mut fields = endpoint.into_fields(&CONNECT)?;
    let mut unix = UnixConnect::to(required_address(&mut fields)?);
    if let Some(local) = fields.read("bind_address", address)? {
        unix = unix.local_addr(local);
    }
    if let Some(timeout) = fields.seconds("timeout", &limits::CONNECT_TIMEOUT)? {
        unix = unix.timeout(timeout);
    }
    unix = unix.options(options(&mut fields)?);
    unix.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(unix)
}

/// What both ends of a stream can be given.
fn options(fields: &mut Fields<'_>) -> Result<UnixOptions, EndpointError> {
    Ok(UnixOptions {
        descriptors: fields.yes_no("descriptors")?.unwrap_or(false),
        recv_buffer: fields.number("recv_buffer", &limits::BUFFER)?,
        send_buffer: fields.number("send_buffer", &limits::BUFFER)?,
    })
}

pub(super) fn required_address(fields: &mut Fields<'_>) -> Result<UnixAddress, EndpointError> {
    let found = fields.read("address", address)?;
    fields.required("address", found)
}

/// A path, or `@` and a name of the abstract namespace.
pub(super) fn address(text: &str) -> Result<UnixAddress, String> {
    match text.strip_prefix('@') {
        Some("") => Err("has no name behind the @".to_owned()),
        Some(name) => Ok(UnixAddress::from_abstract_name(name)),
        None if text.is_empty() => Err("is no path".to_owned()),
        None => Ok(UnixAddress::from_path(text)),
    }
}

/// Permission bits, octal as everywhere.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let is_octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "is not an octal number from 0 to 777, such as 660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{ConnectEndpoint, ListenEndpoint};
    use super::*;

    fn listen_error(source: &str) -> String {
        source.parse::<ListenEndpoint>().unwrap_err().to_string()
    }

    #[test]
    fn a_string_is_what_the_builder_says() {
        let parsed: ListenEndpoint = "unix:/run/a.sock:mode=660:backlog=5:descriptors=yes".parse().unwrap();
        let built = UnixListen::new("/run/a.sock").mode(0o660).backlog(5).descriptors(true);
        assert_eq!(parsed, ListenEndpoint::Unix(built));
        let parsed: ConnectEndpoint = r"unix:address=/run/a\:b:timeout=2".parse().unwrap();
        let built = UnixConnect::new("/run/a:b").timeout(std::time::Duration::from_secs(2));
        assert_eq!(parsed, ConnectEndpoint::Unix(built));
        let parsed: ListenEndpoint = "unix:@echo".parse().unwrap();
        assert_eq!(parsed, ListenEndpoint::Unix(UnixListen::abstract_name("echo")));
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        assert_eq!(
            listen_error("unix:/a:mode=888"),
            r#"bad endpoint "unix:/a:mode=888": mode "888" (column 14) is not an octal number from 0 to 777, such as 660"#
        );
        assert_eq!(
            listen_error("unix:@a:mode=600"),
            r#"bad endpoint "unix:@a:mode=600": mode is given for an abstract name, which has none"#
        );
        assert_eq!(
            listen_error("unix:@"),
            r#"bad endpoint "unix:@": address "@" (column 6) has no name behind the @"#
        );
        assert_eq!(
            listen_error("unix"),
            r#"bad endpoint "unix": the address is missing; write something like "unix:/run/echo.sock""#
        );
    }
}
