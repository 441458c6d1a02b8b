//! Endpoint strings of the kinds `udp` and `udp6`: each keyword goes to the builder method of its name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::EndpointError;
use super::limits;
use super::parse::{self, EndpointString, Fields, Form};
use super::tcp_string::{device, listen_address, local_address};
use super::udp::{DatagramLimits, UdpBind, UdpConnect};

const BIND: Form = Form {
    args: &["port"],
    keywords: &[
        "interface",
        "reuse_address",
        "reuse_port",
        "v6only",
        "broadcast",
        "recv_buffer",
        "send_buffer",
        "bind_device",
        "queue",
        "queue_bytes",
        "max_datagram",
    ],
    example: "udp:8000",
};

const CONNECT: Form = Form {
    args: &["host", "port"],
    keywords: &[
        "bind_address",
        "broadcast",
        "recv_buffer",
        "send_buffer",
        "bind_device",
        "queue",
        "queue_bytes",
        "max_datagram",
    ],
    example: "udp:127.0.0.1:8000",
};

/// `udp:PORT`.
pub(super) fn bind(endpoint: EndpointString<'_>) -> Result<UdpBind, EndpointError> {
    bind_on(endpoint, (Ipv4Addr::UNSPECIFIED, 0).into())
}

/// `udp6:PORT`.
pub(super) fn bind_v6(endpoint: EndpointString<'_>) -> Result<UdpBind, EndpointError> {
    bind_on(endpoint, (Ipv6Addr::UNSPECIFIED, 0).into())
}

/// Sets the options that both builders have.
macro_rules! common_options {
    ($fields:ident, $udp:ident) => {
        if let Some(on) = $fields.yes_no("broadcast")? {
            $udp = $udp.broadcast(on);
        }
        if let Some(bytes) = $fields.number("recv_buffer", &limits::BUFFER)? {
            $udp = $udp.recv_buffer(bytes);
        }
        if let Some(bytes) = $fields.number("send_buffer", &limits::BUFFER)? {
            $udp = $udp.send_buffer(bytes);
        }
        if let Some(device) = device(&mut $fields)? {
            $udp = $udp.bind_device(device);
        }
        $udp = $udp.limited(datagram_limits(&mut $fields)?);
    };
}

/// What a socket for datagrams keeps and takes at most.
pub(super) fn datagram_limits(fields: &mut Fields<'_>) -> Result<DatagramLimits, EndpointError> {
    let usual = DatagramLimits::default();
    let queue = fields.number("queue", &limits::DATAGRAM_QUEUE)?;
    let queue_bytes = fields.number("queue_bytes", &limits::DATAGRAM_QUEUE_BYTES)?;
    let max_datagram = fields.number("max_datagram", &limits::MAX_DATAGRAM)?;
    Ok(DatagramLimits {
        queue: queue.unwrap_or(usual.queue),
        queue_bytes: queue_bytes.unwrap_or(usual.queue_bytes),
        max_datagram: max_datagram.unwrap_or(usual.max_datagram),
    })
}

fn bind_on(endpoint: EndpointString<'_>, any: SocketAddr) -> Result<UdpBind, EndpointError> {
    let (address, mut fields) = listen_address(endpoint, &BIND, any, "udp")?;
    let mut udp = UdpBind::on(address);
    if let Some(on) = fields.yes_no("reuse_address")? {
        udp = udp.reuse_address(on);
    }
    if let Some(on) = fields.yes_no("reuse_port")? {
        udp = udp.reuse_port(on);
    }
    if let Some(on) = fields.yes_no("v6only")? {
        udp = udp.v6only(on);
    }
    common_options!(fields, udp);
    udp.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(udp)
}

/// `udp:ADDRESS:PORT`.
pub(super) fn connect(endpoint: EndpointString<'_>) -> Result<UdpConnect, EndpointError> {
    let mut fields = endpoint.into_fields(&CONNECT)?;
    let host = host(&mut fields)?;
    let mut address = fields.required("host", host)?;
    let port = fields.number("port", &limits::CONNECT_PORT)?;
    address.set_port(fields.required("port", port)?);

    let mut udp = UdpConnect::new(address);
    if let Some(local) = fields.read("bind_address", local_address)? {
        udp = udp.local_addr(local);
    }
    common_options!(fields, udp);
    udp.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(udp)
}

fn host(fields: &mut Fields<'_>) -> Result<Option<SocketAddr>, EndpointError> {
    fields.read("host", |text| {
        parse::ip_address(text, 0).ok_or_else(|| match parse::check_host_name(text) {
            Ok(()) => {
                "is a name; datagrams need an IP address, because no connection tells which of a name's \
                           addresses answers: look it up first"
                    .to_owned()
            }
            Err(complaint) => complaint,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{DatagramConnectEndpoint, DatagramEndpoint};
    use super::*;

    fn bound(source: &str) -> UdpBind {
        let DatagramEndpoint::Udp(udp) = source.parse().unwrap() else { panic!("{source} is not UDP") };
        udp
    }

    fn connected(source: &str) -> UdpConnect {
        let DatagramConnectEndpoint::Udp(udp) = source.parse().unwrap() else {
            panic!("{source} is not UDP")
        };
        udp
    }

    #[test]
    fn a_port_alone_receives_everywhere() {
        assert_eq!(bound("udp:8000"), UdpBind::new(8000));
        assert_eq!(bound("udp6:8000"), UdpBind::v6(8000));
        assert_eq!(bound("udp:port=0"), UdpBind::new(0));
    }

    #[test]
    fn every_keyword_reaches_its_option() {
        let from_string = bound(
            "udp6:80:interface=[::1]:reuse_address=yes:reuse_port=yes:v6only=on:broadcast=1:recv_buffer=1000:\
             send_buffer=2000:bind_device=lo:queue=7:queue_bytes=70000:max_datagram=1500",
        );
        let built = UdpBind::v6(80)
            .interface(Ipv6Addr::LOCALHOST)
            .reuse_address(true)
            .reuse_port(true)
            .v6only(true)
            .broadcast(true)
            .recv_buffer(1000)
            .send_buffer(2000)
            .bind_device("lo")
            .queue_limit(7, 70_000)
            .max_datagram(1500);
        assert_eq!(from_string, built);
        let from_string = connected(
            "udp:127.0.0.1:80:bind_address=127.0.0.2\\:5000:broadcast=yes:recv_buffer=1000:send_buffer=2000:\
             bind_device=lo:queue=7:queue_bytes=70000:max_datagram=1500",
        );
        let built = UdpConnect::new((Ipv4Addr::LOCALHOST, 80).into())
            .local_addr((Ipv4Addr::new(127, 0, 0, 2), 5000).into())
            .broadcast(true)
            .recv_buffer(1000)
            .send_buffer(2000)
            .bind_device("lo")
            .queue_limit(7, 70_000)
            .max_datagram(1500);
        assert_eq!(from_string, built);
    }

    #[test]
    fn no_keyword_is_ignored() {
        let value = "\u{1F980}\0";
        for keyword in BIND.keywords {
            let source = format!("udp:1:{keyword}={value}");
            assert!(source.parse::<DatagramEndpoint>().is_err(), "the value of {keyword} is not looked at");
        }
        for keyword in CONNECT.keywords {
            let source = format!("udp:[::1]:1:{keyword}={value}");
            assert!(source.parse::<DatagramConnectEndpoint>().is_err(), "{keyword} is not looked at");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let error = |source: &str| source.parse::<DatagramEndpoint>().unwrap_err().to_string();
        assert_eq!(
            error("udp:80x"),
            r#"bad endpoint "udp:80x": port "80x" (column 5) is not a number from 0 to 65535"#
        );
        assert_eq!(
            error("udp:127.0.0.1:80"),
            "bad endpoint \"udp:127.0.0.1:80\": \"127.0.0.1\" (column 5) is an address where the port is expected; \
             write \"udp:80:interface=127.0.0.1\""
        );
        assert_eq!(
            error("udp6:80:interface=127.0.0.1"),
            "bad endpoint \"udp6:80:interface=127.0.0.1\": interface \"127.0.0.1\" (column 19) is an IPv4 address; \
             its kind is udp"
        );
        assert_eq!(
            error("tcp:80"),
            "bad endpoint \"tcp:80\": unknown kind \"tcp\" (column 1); the kinds for datagrams are udp, udp6 and unix"
        );
        let error = "udp:example.org:53".parse::<DatagramConnectEndpoint>().unwrap_err().to_string();
        assert!(
            error.contains("host \"example.org\" (column 5) is a name; datagrams need an IP address"),
            "{error}"
        );
    }
}
