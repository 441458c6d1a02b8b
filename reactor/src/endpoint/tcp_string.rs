//! Endpoint strings of the kinds `tcp` and `tcp6`: each keyword goes to the builder method of its name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::error::EndpointError;
use super::keep_alive::KeepAlive;
use super::limits;
use super::parse::{self, EndpointString, Fields, Form};
use super::tcp::{TcpConnect, TcpListen};

/// What a listening socket and the connections of it can be given.
pub(super) const LISTEN_KEYWORDS: [&str; 12] = [
    "interface",
    "backlog",
    "reuse_address",
    "reuse_port",
    "v6only",
    "defer_accept",
    "fast_open",
    "nodelay",
    "keep_alive",
    "recv_buffer",
    "send_buffer",
    "bind_device",
];

/// What an outgoing connection can be given.
pub(super) const CONNECT_KEYWORDS: [&str; 7] =
    ["bind_address", "timeout", "nodelay", "keep_alive", "recv_buffer", "send_buffer", "bind_device"];

const LISTEN: Form = Form { args: &["port"], keywords: &LISTEN_KEYWORDS, example: "tcp:8000" };

const CONNECT: Form =
    Form { args: &["host", "port"], keywords: &CONNECT_KEYWORDS, example: "tcp:127.0.0.1:8000" };

/// `tcp:PORT`.
pub(super) fn listen(endpoint: EndpointString<'_>) -> Result<TcpListen, EndpointError> {
    listen_on(endpoint, (Ipv4Addr::UNSPECIFIED, 0).into())
}

/// `tcp6:PORT`.
pub(super) fn listen_v6(endpoint: EndpointString<'_>) -> Result<TcpListen, EndpointError> {
    listen_on(endpoint, (Ipv6Addr::UNSPECIFIED, 0).into())
}

fn listen_on(endpoint: EndpointString<'_>, any: SocketAddr) -> Result<TcpListen, EndpointError> {
    let (address, mut fields) = listen_address(endpoint, &LISTEN, any, "tcp")?;
    listen_options(TcpListen::on(address), &mut fields)
}

/// Gives a listener all that stands in the string.
pub(super) fn listen_options(
    mut tcp: TcpListen,
    fields: &mut Fields<'_>,
) -> Result<TcpListen, EndpointError> {
    if let Some(connections) = fields.number("backlog", &limits::BACKLOG)? {
        tcp = tcp.backlog(connections);
    }
    if let Some(on) = fields.yes_no("reuse_address")? {
        tcp = tcp.reuse_address(on);
    }
    if let Some(on) = fields.yes_no("reuse_port")? {
        tcp = tcp.reuse_port(on);
    }
    if let Some(on) = fields.yes_no("v6only")? {
        tcp = tcp.v6only(on);
    }
    if let Some(wait) = fields.seconds("defer_accept", &limits::DEFER_ACCEPT)? {
        tcp = tcp.defer_accept(wait);
    }
    if let Some(queue) = fields.number("fast_open", &limits::FAST_OPEN)? {
        tcp = tcp.fast_open(queue);
    }
    if let Some(on) = fields.yes_no("nodelay")? {
        tcp = tcp.nodelay(on);
    }
    if let Some(keep_alive) = keep_alive(fields)? {
        tcp = tcp.keep_alive(keep_alive);
    }
    if let Some(bytes) = fields.number("recv_buffer", &limits::BUFFER)? {
        tcp = tcp.recv_buffer(bytes);
    }
    if let Some(bytes) = fields.number("send_buffer", &limits::BUFFER)? {
        tcp = tcp.send_buffer(bytes);
    }
    if let Some(device) = device(fields)? {
        tcp = tcp.bind_device(device);
    }
    tcp.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(tcp)
}

/// The address of an endpoint with a port and perhaps an `interface`; `v4_kind` is what an IPv4 one is
/// called.
pub(super) fn listen_address<'a>(
    endpoint: EndpointString<'a>,
    form: &'static Form,
    any: SocketAddr,
    v4_kind: &str,
) -> Result<(SocketAddr, Fields<'a>), EndpointError> {
    refuse_address_as_argument(&endpoint)?;
    let mut fields = endpoint.into_fields(form)?;
    let port = fields.number("port", &limits::LISTEN_PORT)?;
    let port = fields.required("port", port)?;
    let interface = if any.is_ipv6() {
        fields.read("interface", |text| match parse::ip_address(text, port) {
            Some(address @ SocketAddr::V6(_)) => Ok(address),
            Some(SocketAddr::V4(_)) => Err(format!("is an IPv4 address; its kind is {v4_kind}")),
            None => Err("is not an IPv6 address".to_owned()),
        })?
    } else {
        fields.address("interface", port)?
    };
    Ok((interface.unwrap_or(SocketAddr::new(any.ip(), port)), fields))
}

/// `tcp:HOST:PORT`.
pub(super) fn connect(endpoint: EndpointString<'_>) -> Result<TcpConnect, EndpointError> {
    connect_fields(&mut endpoint.into_fields(&CONNECT)?)
}

/// A host, a port, and all that an outgoing connection can be given.
pub(super) fn connect_fields(fields: &mut Fields<'_>) -> Result<TcpConnect, EndpointError> {
    // In the order of the string, so that the first thing wrong in it is the one told.
    let host = fields.read("host", |text| match parse::ip_address(text, 0) {
        Some(_) => Ok(text.to_owned()),
        None => parse::check_host_name(text).map(|()| text.to_owned()),
    })?;
    let host = fields.required("host", host)?;
    let port = fields.number("port", &limits::CONNECT_PORT)?;

    let mut tcp = TcpConnect::host(&host, fields.required("port", port)?);
    if let Some(local) = fields.read("bind_address", local_address)? {
        tcp = tcp.local_addr(local);
    }
    if let Some(timeout) = fields.seconds("timeout", &limits::CONNECT_TIMEOUT)? {
        tcp = tcp.timeout(timeout);
    }
    if let Some(on) = fields.yes_no("nodelay")? {
        tcp = tcp.nodelay(on);
    }
    if let Some(keep_alive) = keep_alive(fields)? {
        tcp = tcp.keep_alive(keep_alive);
    }
    if let Some(bytes) = fields.number("recv_buffer", &limits::BUFFER)? {
        tcp = tcp.recv_buffer(bytes);
    }
    if let Some(bytes) = fields.number("send_buffer", &limits::BUFFER)? {
        tcp = tcp.send_buffer(bytes);
    }
    if let Some(device) = device(fields)? {
        tcp = tcp.bind_device(device);
    }
    tcp.check_values().map_err(|complaint| fields.error(complaint))?;
    Ok(tcp)
}

/// `tcp:127.0.0.1:8000` is how clients are written, and the first thing one tries for a server too.
fn refuse_address_as_argument(endpoint: &EndpointString<'_>) -> Result<(), EndpointError> {
    let [first, second] = endpoint.args() else {
        return Ok(());
    };
    if parse::ip_address(&first.text, 0).is_none() {
        return Ok(());
    }
    Err(endpoint.error(format!(
        "{first} is an address where the port is expected; write \"{}:{}:interface={}\"",
        endpoint.kind(),
        second.text,
        first.text
    )))
}

/// `yes`, `no`, or three numbers. Outer `None` and "no" are the same: keep-alive is off unless asked for.
fn keep_alive(fields: &mut Fields<'_>) -> Result<Option<KeepAlive>, EndpointError> {
    let value = fields.read("keep_alive", |text| {
        if let Some(on) = parse::yes_no(text).filter(|_| text.parse::<u32>().is_err()) {
            return Ok(on.then(KeepAlive::new));
        }
        let mut parts = text.split('/');
        let (Some(idle), Some(interval), Some(count), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("is neither yes, no, nor IDLE/INTERVAL/COUNT as in 60/10/5".to_owned());
        };
        let time = |text, what| {
            let limit = &limits::KEEP_ALIVE_TIME;
            parse::seconds(text)
                .filter(|time: &Duration| limit.contains(time))
                .ok_or_else(|| format!("has an {what} that is not {}", limit.seconds()))
        };
        let limit = &limits::KEEP_ALIVE_COUNT;
        let keep_alive =
            KeepAlive::new().idle(time(idle, "idle time")?).interval(time(interval, "interval")?);
        let count = parse::whole_number(count)
            .filter(|count| limit.contains(count))
            .ok_or_else(|| format!("has a count that is not a number from {} to {}", limit.min, limit.max))?;
        Ok(Some(keep_alive.count(count)))
    })?;
    Ok(value.flatten())
}

pub(super) fn device(fields: &mut Fields<'_>) -> Result<Option<String>, EndpointError> {
    fields.read("bind_device", |text| {
        limits::check_device(text)?;
        Ok(text.to_owned())
    })
}

pub(super) fn local_address(text: &str) -> Result<SocketAddr, String> {
    parse::ip_address(text, 0)
        .or_else(|| text.parse().ok())
        .ok_or_else(|| r"is not an IP address, nor an address and a port as in 127.0.0.1\:5000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{ConnectEndpoint, ListenEndpoint};
    use super::*;

    fn listen(source: &str) -> TcpListen {
        let ListenEndpoint::Tcp(tcp) = source.parse().unwrap() else { panic!("not TCP") };
        tcp
    }

    fn connect(source: &str) -> TcpConnect {
        let ConnectEndpoint::Tcp(tcp) = source.parse().unwrap() else { panic!("not TCP") };
        tcp
    }

    fn listen_error(source: &str) -> String {
        strip(source, source.parse::<ListenEndpoint>().unwrap_err())
    }

    fn connect_error(source: &str) -> String {
        strip(source, source.parse::<ConnectEndpoint>().unwrap_err())
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is used up by being shown")]
    fn strip(source: &str, error: EndpointError) -> String {
        let error = error.to_string();
        let start = format!("bad endpoint \"{source}\": ");
        error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    #[test]
    fn a_port_alone_listens_everywhere() {
        assert_eq!(listen("tcp:8000"), TcpListen::new(8000));
        assert_eq!(listen("tcp6:8000"), TcpListen::v6(8000));
        assert_eq!(listen("tcp:port=0"), TcpListen::new(0));
    }

    #[test]
    fn every_keyword_of_a_listener_reaches_its_option() {
        let from_string = listen(
            "tcp6:80:interface=[::1]:backlog=9:reuse_address=no:reuse_port=yes:v6only=on:defer_accept=1.5:\
             fast_open=7:nodelay=0:keep_alive=60/10.5/5:recv_buffer=1000:send_buffer=2000:bind_device=lo",
        );
        let keep_alive = KeepAlive::new().interval(Duration::from_millis(10_500));
        let built = TcpListen::v6(80)
            .interface(Ipv6Addr::LOCALHOST)
            .backlog(9)
            .reuse_address(false)
            .reuse_port(true)
            .v6only(true)
            .defer_accept(Duration::from_millis(1500))
            .fast_open(7)
            .nodelay(false)
            .keep_alive(keep_alive)
            .recv_buffer(1000)
            .send_buffer(2000)
            .bind_device("lo");
        assert_eq!(from_string, built);
    }

    #[test]
    fn every_keyword_of_a_client_reaches_its_option() {
        let from_string = connect(
            "tcp:host=127.0.0.1:port=80:bind_address=127.0.0.2\\:5000:timeout=0.5:nodelay=no:keep_alive=yes:\
             recv_buffer=1000:send_buffer=2000:bind_device=lo",
        );
        let built = TcpConnect::new((Ipv4Addr::LOCALHOST, 80).into())
            .local_addr((Ipv4Addr::new(127, 0, 0, 2), 5000).into())
            .timeout(Duration::from_millis(500))
            .nodelay(false)
            .keep_alive(KeepAlive::new())
            .recv_buffer(1000)
            .send_buffer(2000)
            .bind_device("lo");
        assert_eq!(from_string, built);
    }

    #[test]
    fn no_keyword_is_ignored() {
        // A value that none of them can have.
        let value = "\u{1F980}\0";
        for keyword in LISTEN.keywords {
            let source = format!("tcp:1:{keyword}={value}");
            assert!(source.parse::<ListenEndpoint>().is_err(), "the value of {keyword} is not looked at");
        }
        for keyword in CONNECT.keywords {
            let source = format!("tcp:[::1]:1:{keyword}={value}");
            assert!(source.parse::<ConnectEndpoint>().is_err(), "the value of {keyword} is not looked at");
        }
    }

    #[test]
    fn an_ipv6_address_can_be_escaped_or_bracketed() {
        let built = TcpListen::v6(80).interface(Ipv6Addr::LOCALHOST);
        assert_eq!(listen(r"tcp6:80:interface=\:\:1"), built);
        assert_eq!(listen("tcp6:80:interface=[::1]"), built);
        assert_eq!(listen("tcp:80:interface=[::1]"), built);
        assert_eq!(connect(r"tcp:\:\:1:80"), connect("tcp:[::1]:80"));
        assert_eq!(connect("tcp:[fe80::1%3]:80").target().to_string(), "[fe80::1%3]:80");
        assert_eq!(
            connect(r"tcp:[::1]:80:bind_address=[::1]\:5000").spec().local_address,
            Some((Ipv6Addr::LOCALHOST, 5000).into())
        );
    }

    #[test]
    fn keep_alive_can_be_switched_off() {
        assert_eq!(listen("tcp:80:keep_alive=no"), TcpListen::new(80));
    }

    #[test]
    fn what_is_wrong_with_a_listener_is_pointed_at() {
        assert_eq!(listen_error("tcp:80x"), r#"port "80x" (column 5) is not a number from 0 to 65535"#);
        assert_eq!(listen_error("tcp:65536"), r#"port "65536" (column 5) is not a number from 0 to 65535"#);
        assert_eq!(listen_error("tcp"), r#"the port is missing; write something like "tcp:8000""#);
        assert_eq!(listen_error("tcp:"), r#"port "" (column 5) is not a number from 0 to 65535"#);
        assert_eq!(
            listen_error("tcp:127.0.0.1:80"),
            "\"127.0.0.1\" (column 5) is an address where the port is expected; \
             write \"tcp:80:interface=127.0.0.1\""
        );
        assert_eq!(
            listen_error("tcp:80:interface=lo"),
            r#"interface "lo" (column 18) needs an IP address, not a name"#
        );
        assert_eq!(
            listen_error("tcp6:80:interface=127.0.0.1"),
            r#"interface "127.0.0.1" (column 19) is an IPv4 address; its kind is tcp"#
        );
        assert_eq!(
            listen_error("tcp:80:backlog=0"),
            r#"backlog "0" (column 16) is not a number from 1 to 65535; 1024 suits most servers"#
        );
        assert_eq!(
            listen_error("tcp:80:reuse_port=maybe"),
            r#"reuse_port "maybe" (column 19) is neither yes nor no"#
        );
        assert_eq!(
            listen_error("tcp:80:defer_accept=0"),
            "defer_accept \"0\" (column 21) is not from 1 to 3600 seconds; \
             leave it out to accept connections at once"
        );
        assert_eq!(
            listen_error("tcp:80:keep_alive=60"),
            r#"keep_alive "60" (column 19) is neither yes, no, nor IDLE/INTERVAL/COUNT as in 60/10/5"#
        );
        assert_eq!(
            listen_error("tcp:80:keep_alive=60/0/5"),
            r#"keep_alive "60/0/5" (column 19) has an interval that is not from 1 to 32767 seconds"#
        );
        assert_eq!(
            listen_error("tcp:80:keep_alive=60/10/500"),
            r#"keep_alive "60/10/500" (column 19) has a count that is not a number from 1 to 127"#
        );
        assert_eq!(
            listen_error("tcp:80:bind_device=sixteen-letters-"),
            r#"bind_device "sixteen-letters-" (column 20) is longer than the 15 bytes of a device name"#
        );
        assert_eq!(
            listen_error("tcp:80:v6only=yes"),
            "v6only is asked for with the IPv4 address 0.0.0.0; listen on an IPv6 address or leave it out"
        );
        assert_eq!(
            listen_error("tcp:80:timeout=5"),
            "unknown keyword \"timeout\" (column 8); the keywords here are backlog, bind_device, \
             defer_accept, fast_open, interface, keep_alive, nodelay, port, recv_buffer, reuse_address, \
             reuse_port, send_buffer and v6only"
        );
    }

    #[test]
    fn a_client_may_name_a_host() {
        for (source, target) in [
            ("tcp:example.org:80", "example.org:80"),
            ("tcp:localhost:80", "localhost:80"),
            ("tcp:host=xn--bcher-kva.example.:port=80", "xn--bcher-kva.example.:80"),
            ("tcp:bücher.example:80", "bücher.example:80"),
            ("tcp:1.example:80", "1.example:80"),
        ] {
            assert_eq!(connect(source).target().to_string(), target);
            assert_eq!(connect(source).address(), None);
        }
        assert_eq!(connect("tcp:example.org:80"), TcpConnect::host("example.org", 80));
        assert_eq!(connect("tcp:[::1]:80"), TcpConnect::host("::1", 80));
    }

    #[test]
    fn what_is_wrong_with_a_client_is_pointed_at() {
        assert_eq!(
            connect_error("tcp:127.0.0.256:80"),
            r#"host "127.0.0.256" (column 5) is not an IP address"#
        );
        assert_eq!(
            connect_error("tcp:a b:80"),
            r#"host "a b" (column 5) has a ' ' in it, which no host name has"#
        );
        assert_eq!(
            connect_error("tcp:example..org:80"),
            r#"host "example..org" (column 5) has two dots with nothing between them"#
        );
        assert_eq!(
            connect_error("tcp::80"),
            r#"host "" (column 5) is empty; it needs a name or an IP address"#
        );
        assert_eq!(
            connect_error("tcp:127.0.0.1"),
            r#"the port is missing; write something like "tcp:127.0.0.1:8000""#
        );
        assert_eq!(
            connect_error("tcp:127.0.0.1:0"),
            r#"port "0" (column 15) is not a number from 1 to 65535"#
        );
        assert_eq!(
            connect_error("tcp:127.0.0.1:80:timeout=0"),
            r#"timeout "0" (column 26) is not above 0 and at most 86400 seconds; 30 suits most clients"#
        );
        assert_eq!(
            connect_error("tcp:127.0.0.1:80:bind_address=[::1]"),
            "the local address ::1 is IPv6 and the peer's IPv4; both have to be of one family"
        );
        assert_eq!(
            connect_error("tcp:::1:80"),
            "\"1\" (column 7) is one argument too many for tcp (host, port); \
             in a value write \\: for a colon, an IPv6 address may stand in brackets"
        );
    }
}
