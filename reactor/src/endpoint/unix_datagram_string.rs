//! Endpoint strings of the kind `unix` for datagrams: each keyword goes to the builder method of its name.

use super::error::EndpointError;
use super::limits;
use super::parse::{EndpointString, Form};
use super::udp_string::datagram_limits;
use super::unix_datagram::{UnixDatagramBind, UnixDatagramConnect};
use super::unix_string::{address, mode, required_address};

const BIND: Form = Form {
    args: &["address"],
    keywords: &["mode", "recv_buffer", "send_buffer", "queue", "queue_bytes", "max_datagram"],
    example: "unix:/run/log.sock",
};

const CONNECT: Form = Form {
    args: &["address"],
    keywords: &[
        "bind_address",
        "autobind",
        "recv_buffer",
        "send_buffer",
        "queue",
        "queue_bytes",
        "max_datagram",
    ],
    example: "unix:/dev/log",
};

/// `unix:PATH` and `unix:@NAME`.
pub(super) fn bind(endpoint: EndpointString<'_>) -> Result<UnixDatagramBind, EndpointError> {
    let mut fields = endpoint.into_fields(&BIND)?;
    let mut unix = UnixDatagramBind::on(required_address(&mut fields)?);
    if let Some(mode) = fields.read("mode", mode)? {
        unix = unix.mode(mode);
    }
    if let Some(bytes) = fields.number("recv_buffer", &limits::BUFFER)? {
        unix = unix.recv_buffer(bytes);
    }
    if let Some(bytes) = fields.number("send_buffer", &limits::BUFFER)? {
        unix = unix.send_buffer(bytes);
    }
    unix = unix.limited(datagram_limits(&mut fields)?);
    unix.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(unix)
}

/// `unix:PATH` and `unix:@NAME`.
pub(super) fn connect(endpoint: EndpointString<'_>) -> Result<UnixDatagramConnect, EndpointError> {
    let mut fields = endpoint.into_fields(&CONNECT)?;
    let mut unix = UnixDatagramConnect::to(required_address(&mut fields)?);
    if let Some(local) = fields.read("bind_address", address)? {
        unix = unix.local_addr(local);
    }
    if let Some(on) = fields.yes_no("autobind")? {
        unix = unix.autobind(on);
    }
    if let Some(bytes) = fields.number("recv_buffer", &limits::BUFFER)? {
        unix = unix.recv_buffer(bytes);
    }
    if let Some(bytes) = fields.number("send_buffer", &limits::BUFFER)? {
        unix = unix.send_buffer(bytes);
    }
    unix = unix.limited(datagram_limits(&mut fields)?);
    unix.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(unix)
}

#[cfg(test)]
mod tests {
    use super::super::{DatagramConnectEndpoint, DatagramEndpoint};
    use super::*;
    use crate::core::address::UnixAddress;

    #[test]
    fn every_keyword_reaches_its_option() {
        let parsed: DatagramEndpoint =
            "unix:/run/log.sock:mode=666:recv_buffer=1000:send_buffer=2000:queue=7:queue_bytes=70000:\
             max_datagram=1500"
                .parse()
                .unwrap();
        let built = UnixDatagramBind::new("/run/log.sock")
            .mode(0o666)
            .recv_buffer(1000)
            .send_buffer(2000)
            .queue_limit(7, 70_000)
            .max_datagram(1500);
        assert_eq!(parsed, built.into());
        let parsed: DatagramConnectEndpoint =
            r"unix:/run/a\:b:bind_address=@me:recv_buffer=1000:send_buffer=2000:queue=7:queue_bytes=70000:max_datagram=9"
                .parse()
                .unwrap();
        let built = UnixDatagramConnect::new("/run/a:b")
            .local_addr(UnixAddress::from_abstract_name("me"))
            .recv_buffer(1000)
            .send_buffer(2000)
            .queue_limit(7, 70_000)
            .max_datagram(9);
        assert_eq!(parsed, built.into());
        let parsed: DatagramConnectEndpoint = "unix:@log:autobind=yes".parse().unwrap();
        assert_eq!(parsed, UnixDatagramConnect::abstract_name("log").autobind(true).into());
    }

    #[test]
    fn no_keyword_is_ignored() {
        let value = "\u{1F980}\0";
        for keyword in BIND.keywords {
            let source = format!("unix:/a:{keyword}={value}");
            assert!(source.parse::<DatagramEndpoint>().is_err(), "the value of {keyword} is not looked at");
        }
        for keyword in CONNECT.keywords.iter().filter(|keyword| **keyword != "bind_address") {
            let source = format!("unix:/a:{keyword}={value}");
            assert!(source.parse::<DatagramConnectEndpoint>().is_err(), "{keyword} is not looked at");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let error = |source: &str| source.parse::<DatagramEndpoint>().unwrap_err().to_string();
        assert_eq!(
            error("unix:/a:mode=999"),
            r#"bad endpoint "unix:/a:mode=999": mode "999" (column 14) is not an octal number from 0 to 777, such as 660"#
        );
        assert_eq!(
            error("unix"),
            r#"bad endpoint "unix": the address is missing; write something like "unix:/run/log.sock""#
        );
        assert!(error("unix:/a:backlog=5").contains("backlog"));
        let error = "unix:@a:autobind=yes:bind_address=/b".parse::<DatagramConnectEndpoint>().unwrap_err();
        assert!(error.to_string().contains("leave one of them out"), "{error}");
    }
}
