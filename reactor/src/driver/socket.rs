//! Opening TCP sockets: [`ListenSpec`] and [`ConnectSpec`] become system calls, and their failures become
//! sentences.
//!
//! Every socket that leaves here is non-blocking and close-on-exec, and has had all its options set before it
//! was bound or connected, so that no connection ever exists without them. An error names the address and the
//! cause and keeps the [`io::ErrorKind`] of the system's error.
//!
//! # Portability
//!
//! `defer_accept`, `fast_open` and `bind_device` exist on Linux, `reuse_port` on Unix (where only Linux and
//! FreeBSD spread connections over the sharers). Asking for an option that the system lacks is an error of
//! kind `Unsupported` rather than a silent difference.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::ops;
use super::options::{ConnectSpec, KeepAliveSpec, ListenSpec, TcpOptions};
use crate::core::address::Address;
#[cfg(unix)]
use crate::sys::descriptor;

/// Opens a listening socket and tells the address it got, with the real port where the spec has port 0.
///
/// Options of connections are set on the listener: accepted sockets inherit them on Linux, and
/// [`apply_to_accepted`] sees to it elsewhere.
pub(crate) fn listen(spec: &ListenSpec) -> io::Result<(Socket, SocketAddr)> {
    try_listen(spec).map_err(|error| describe("listen on", &spec.address.into(), &error))
}

/// Takes over a connected stream socket that was opened by somebody else: checked, made non-blocking and
/// close-on-exec; with its own address and the peer's.
#[cfg(unix)]
pub(crate) fn adopt_stream(descriptor: OwnedFd) -> io::Result<(Socket, Address, Address)> {
    let socket = adopt(descriptor)?;
    if is_listening(&socket)? {
        return Err(not("a connection", "it is a listening socket"));
    }
    let local = ops::address(&socket.local_addr()?);
    match socket.peer_addr() {
        Ok(peer) => Ok((socket, local, ops::address(&peer))),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(not("a connection", "it is a socket that is not connected"))
        }
        Err(error) => Err(error),
    }
}

/// Takes over a listening stream socket that was opened by somebody else, in the same way.
#[cfg(unix)]
pub(crate) fn adopt_listener(descriptor: OwnedFd) -> io::Result<(Socket, Address)> {
    let socket = adopt(descriptor)?;
    if !is_listening(&socket)? {
        return Err(not("a listening socket", "it is a socket on which nobody listens"));
    }
    let address = ops::address(&socket.local_addr()?);
    Ok((socket, address))
}

#[cfg(unix)]
fn adopt(descriptor: OwnedFd) -> io::Result<Socket> {
    if descriptor::nature(descriptor.as_fd())? != descriptor::Nature::Socket {
        return Err(not("a socket", "it is a file, a pipe or a device"));
    }
    let socket = Socket::from(descriptor);
    if socket.r#type()? != Type::STREAM {
        return Err(not("a stream socket", "it is a datagram or a raw socket"));
    }
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    Ok(socket)
}

#[cfg(all(unix, not(target_vendor = "apple")))]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// There is no way to ask here: a listening socket has no peer and is no error to accept from.
#[cfg(target_vendor = "apple")]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    Ok(socket.peer_addr().is_err())
}

#[cfg(unix)]
fn not(what: &str, but: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the descriptor is not {what}: {but}"))
}

/// Starts a non-blocking connect. The outcome shows when the socket becomes writable, also when it is there
/// at once: call [`finish_connect`] then.
pub(crate) fn connect(spec: &ConnectSpec) -> io::Result<Socket> {
    try_connect(spec).map_err(|error| describe("connect to", &spec.address.into(), &error))
}

/// The outcome of a connect whose socket has become writable.
pub(crate) fn finish_connect(socket: &Socket, address: &Address) -> io::Result<()> {
    let outcome = match socket.take_error() {
        Ok(None) => refuse_self_connect(socket, address),
        Ok(Some(error)) | Err(error) => Err(error),
    };
    outcome.map_err(|error| describe("connect to", address, &error))
}

/// Sets on an accepted socket what it did not inherit from its listener: nothing on Linux, without a system
/// call.
#[cfg(target_os = "linux")]
pub(crate) fn apply_to_accepted(_socket: &Socket, _options: &TcpOptions) -> io::Result<()> {
    Ok(())
}

/// Sets on an accepted socket what it may not have inherited from its listener. Buffer sizes are inherited
/// everywhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn apply_to_accepted(socket: &Socket, options: &TcpOptions) -> io::Result<()> {
    set_nodelay(socket, options.nodelay)?;
    if options.keep_alive.is_some() {
        set_keep_alive(socket, options.keep_alive)?;
    }
    Ok(())
}

/// Switches TCP_NODELAY.
pub(crate) fn set_nodelay(socket: &Socket, on: bool) -> io::Result<()> {
    named("nodelay", socket.set_tcp_nodelay(on))
}

/// Makes the kernel probe an idle peer, or stop doing so.
pub(crate) fn set_keep_alive(socket: &Socket, keep_alive: Option<KeepAliveSpec>) -> io::Result<()> {
    let result = match keep_alive {
        Some(spec) => {
            keep_alive_parameters(spec).and_then(|parameters| socket.set_tcp_keepalive(&parameters))
        }
        None => socket.set_keepalive(false),
    };
    named("keep_alive", result)
}

fn try_listen(spec: &ListenSpec) -> io::Result<(Socket, SocketAddr)> {
    let socket = open(spec.address)?;
    if spec.reuse_address {
        named("reuse_address", socket.set_reuse_address(true))?;
    }
    if spec.reuse_port {
        named("reuse_port", set_reuse_port(&socket))?;
    }
    if let Some(v6only) = v6only(spec) {
        named("v6only", socket.set_only_v6(v6only))?;
    }
    set_options(&socket, &spec.tcp)?;
    if let Some(wait) = spec.defer_accept {
        named("defer_accept", set_defer_accept(&socket, wait))?;
    }
    if let Some(queue) = spec.fast_open {
        named("fast_open", set_fast_open(&socket, queue))?;
    }
    socket.bind(&spec.address.into())?;
    socket.listen(i32::try_from(spec.backlog).unwrap_or(i32::MAX))?;
    let address = local_address(&socket)?;
    Ok((socket, address))
}

fn try_connect(spec: &ConnectSpec) -> io::Result<Socket> {
    let socket = open(spec.address)?;
    set_options(&socket, &spec.tcp)?;
    if let Some(local) = spec.local_address {
        bind_local(&socket, local)?;
    }
    match socket.connect(&spec.address.into()) {
        Ok(()) => Ok(socket),
        Err(error) if is_in_progress(&error) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    let socket = {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket
    };
    Ok(socket)
}

fn set_options(socket: &Socket, options: &TcpOptions) -> io::Result<()> {
    if let Some(device) = &options.bind_device {
        named(&format!("bind_device={device}"), set_bind_device(socket, device))?;
    }
    if options.nodelay {
        set_nodelay(socket, true)?;
    }
    if options.keep_alive.is_some() {
        set_keep_alive(socket, options.keep_alive)?;
    }
    if let Some(size) = options.recv_buffer {
        named("recv_buffer", socket.set_recv_buffer_size(size))?;
    }
    if let Some(size) = options.send_buffer {
        named("send_buffer", socket.set_send_buffer_size(size))?;
    }
    Ok(())
}

/// Systems disagree about the default of `[::]`, so that it is always said.
fn v6only(spec: &ListenSpec) -> Option<bool> {
    match spec.address {
        SocketAddr::V4(_) => None,
        // OpenBSD has no sockets for both families and refuses to be asked for one.
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && !cfg!(target_os = "openbsd") => {
            Some(spec.v6only.unwrap_or(false))
        }
        SocketAddr::V6(_) => spec.v6only,
    }
}

fn bind_local(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    // A port of the user's choice may still be held by its last connection in TIME_WAIT. On Windows the
    // option means something else: to take the port from whoever has it.
    if cfg!(unix) && local.port() != 0 {
        named("reuse_address", socket.set_reuse_address(true))?;
    }
    socket.bind(&local.into()).map_err(|error| describe("bind", &local.into(), &error))
}

/// A connect to a free port of this machine's ephemeral range can be given that very port as its own and then
/// talks to itself ("simultaneous open"). Nobody listens there, and that is what the caller is told.
fn refuse_self_connect(socket: &Socket, address: &Address) -> io::Result<()> {
    let is_loopback = address.ip().is_some_and(|ip| ip.is_loopback());
    if is_loopback && ops::address(&socket.local_addr()?) == *address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no internet address"))
}

/// An interrupted connect goes on in the background like one that was told to.
#[cfg(unix)]
fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS) || error.kind() == io::ErrorKind::Interrupted
}

#[cfg(not(unix))]
fn is_in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(any(
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
    target_os = "windows"
))]
fn keep_alive_parameters(spec: KeepAliveSpec) -> io::Result<TcpKeepalive> {
    Ok(TcpKeepalive::new()
        .with_time(round_up(spec.idle))
        .with_interval(round_up(spec.interval))
        .with_retries(spec.count))
}

#[cfg(not(any(
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
    target_os = "windows"
)))]
fn keep_alive_parameters(_spec: KeepAliveSpec) -> io::Result<TcpKeepalive> {
    unsupported()
}

/// Kernels count these in whole seconds, and a fraction that is cut off could leave zero.
fn round_up(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)))
}

#[cfg(target_os = "freebsd")]
pub(super) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    // Here SO_REUSEPORT alone gives every connection to one of the sharers.
    socket.set_reuse_port_lb(true)
}

#[cfg(all(unix, not(any(target_os = "freebsd", target_os = "solaris", target_os = "illumos"))))]
pub(super) fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(any(not(unix), target_os = "solaris", target_os = "illumos"))]
pub(super) fn set_reuse_port(_socket: &Socket) -> io::Result<()> {
    unsupported()
}

#[cfg(target_os = "linux")]
pub(super) fn set_bind_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_bind_device(_socket: &Socket, _device: &str) -> io::Result<()> {
    unsupported()
}

#[cfg(target_os = "linux")]
fn set_defer_accept(socket: &Socket, wait: Duration) -> io::Result<()> {
    let seconds = i32::try_from(round_up(wait).as_secs()).unwrap_or(i32::MAX);
    set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, seconds)
}

#[cfg(not(target_os = "linux"))]
fn set_defer_accept(_socket: &Socket, _wait: Duration) -> io::Result<()> {
    unsupported()
}

#[cfg(target_os = "linux")]
fn set_fast_open(socket: &Socket, queue: u32) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN, i32::try_from(queue).unwrap_or(i32::MAX))
}

#[cfg(not(target_os = "linux"))]
fn set_fast_open(_socket: &Socket, _queue: u32) -> io::Result<()> {
    unsupported()
}

/// The two options above are in no safe interface yet.
#[cfg(target_os = "linux")]
fn set_tcp_option(socket: &Socket, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: the descriptor is open for as long as `socket` is borrowed; pointer and length describe
    // `value`, which the kernel only reads, and only during the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(dead_code, reason = "on Linux nothing is unsupported")]
pub(super) fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no such option"))
}

/// Says which option it was.
pub(super) fn named(option: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot set {option}: {cause}"))
    })
}

/// Says what was tried where, and why it failed.
pub(super) fn describe(what: &str, address: &Address, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {address}: {}", cause(what, address, error)))
}

fn cause(what: &str, address: &Address, error: &io::Error) -> String {
    use io::ErrorKind;

    // Without a number of the system's it is a sentence from here already, or a bare kind.
    if error.raw_os_error().is_none() && error.get_ref().is_some() {
        return error.to_string();
    }
    if no_such_family(error) {
        let family = match address {
            Address::Ip(SocketAddr::V4(_)) => "IPv4",
            Address::Ip(SocketAddr::V6(_)) => "IPv6",
            _ => "Unix sockets",
        };
        return format!("this system has no {family}");
    }
    let connecting = what == "connect to";
    let text = match error.kind() {
        ErrorKind::PermissionDenied if address.unix().is_some() => {
            "permission denied (by the mode of the socket file or of a directory above it)"
        }
        ErrorKind::NotFound if connecting => "there is no such socket file",
        ErrorKind::NotFound => "the directory does not exist",
        ErrorKind::PermissionDenied if connecting => {
            "permission denied (a firewall rule or a broadcast address)"
        }
        ErrorKind::PermissionDenied if address.port() < 1024 && cfg!(target_os = "linux") => {
            "permission denied (ports below 1024 need root or the capability CAP_NET_BIND_SERVICE)"
        }
        ErrorKind::PermissionDenied if address.port() < 1024 => {
            "permission denied (ports below 1024 need an administrator's rights)"
        }
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::AddrInUse if connecting => "the local port is in use",
        ErrorKind::AddrInUse => "address in use (another socket listens there or holds the port)",
        ErrorKind::AddrNotAvailable if connecting => "no local address or port left to connect from",
        ErrorKind::AddrNotAvailable => "address not local (no interface of this machine has it)",
        ErrorKind::ConnectionRefused => "connection refused (nobody listens there)",
        ErrorKind::ConnectionReset => "connection reset",
        ErrorKind::HostUnreachable => "no route to that host",
        ErrorKind::NetworkUnreachable => "no route to that network",
        ErrorKind::TimedOut => "timed out (no answer)",
        _ => return error.to_string(),
    };
    text.to_owned()
}

#[cfg(unix)]
fn no_such_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(not(unix))]
fn no_such_family(_error: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    fn listen_spec(address: impl Into<SocketAddr>) -> ListenSpec {
        ListenSpec {
            address: address.into(),
            backlog: 128,
            reuse_address: cfg!(unix),
            reuse_port: false,
            v6only: None,
            defer_accept: None,
            fast_open: None,
            tcp: TcpOptions::default(),
        }
    }

    fn connect_spec(address: SocketAddr) -> ConnectSpec {
        ConnectSpec { address, local_address: None, tcp: TcpOptions::default() }
    }

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    /// Connects a client and accepts it; a connection on loopback is in the queue once `connect` has
    /// returned.
    fn accepted_by(listener: &Socket, address: SocketAddr) -> (Socket, TcpStream) {
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (accepted, client)
    }

    /// Waits, for at most ten seconds, until the socket is writable or has failed.
    fn wait_writable(socket: &Socket) {
        let poller = polling::Poller::new().unwrap();
        let mut events = polling::Events::new();
        // SAFETY: the source is deleted before this function returns.
        unsafe {
            poller.add(socket, polling::Event::writable(1)).unwrap();
        }
        poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap();
        poller.delete(socket).unwrap();
        assert!(!events.is_empty(), "the connect came to no end");
    }

    #[test]
    fn port_zero_is_reflected_in_the_address() {
        let (listener, address) = listen(&listen_spec(loopback())).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(listener.local_addr().unwrap().as_socket(), Some(address));
    }

    #[test]
    fn a_listener_does_not_block() {
        let (listener, _) = listen(&listen_spec(loopback())).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[cfg(unix)]
    #[test]
    fn sockets_do_not_survive_an_exec() {
        fn is_close_on_exec(socket: &Socket) -> bool {
            use std::os::fd::AsRawFd;
            // SAFETY: F_GETFD takes no argument and the descriptor is open.
            let flags = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFD) };
            flags & libc::FD_CLOEXEC != 0
        }
        let (listener, address) = listen(&listen_spec(loopback())).unwrap();
        let client = connect(&connect_spec(address)).unwrap();
        assert!(is_close_on_exec(&listener));
        assert!(is_close_on_exec(&client));
    }

    #[test]
    fn an_accepted_socket_has_nodelay() {
        let spec = listen_spec(loopback());
        let (listener, address) = listen(&spec).unwrap();
        let (accepted, _client) = accepted_by(&listener, address);
        apply_to_accepted(&accepted, &spec.tcp).unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
    }

    #[test]
    fn nodelay_can_be_left_off() {
        let mut spec = listen_spec(loopback());
        spec.tcp.nodelay = false;
        let (listener, address) = listen(&spec).unwrap();
        let (accepted, _client) = accepted_by(&listener, address);
        apply_to_accepted(&accepted, &spec.tcp).unwrap();
        assert!(!accepted.tcp_nodelay().unwrap());
        set_nodelay(&accepted, true).unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
    }

    #[test]
    fn an_accepted_socket_has_the_keep_alive_of_the_listener() {
        let mut spec = listen_spec(loopback());
        let keep_alive =
            KeepAliveSpec { idle: Duration::from_millis(41_500), interval: Duration::from_secs(7), count: 3 };
        spec.tcp.keep_alive = Some(keep_alive);
        let (listener, address) = listen(&spec).unwrap();
        let (accepted, _client) = accepted_by(&listener, address);
        apply_to_accepted(&accepted, &spec.tcp).unwrap();
        assert!(accepted.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(42));
            assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
            assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
        }
        set_keep_alive(&accepted, None).unwrap();
        assert!(!accepted.keepalive().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_accepted_socket_has_the_buffer_sizes_of_the_listener() {
        let mut spec = listen_spec(loopback());
        spec.tcp.recv_buffer = Some(32 * 1024);
        spec.tcp.send_buffer = Some(16 * 1024);
        let (listener, address) = listen(&spec).unwrap();
        let (accepted, _client) = accepted_by(&listener, address);
        // Linux doubles what it is asked for, to account for its own bookkeeping.
        assert_eq!(accepted.recv_buffer_size().unwrap(), 64 * 1024);
        assert_eq!(accepted.send_buffer_size().unwrap(), 32 * 1024);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_options_reach_the_kernel() {
        fn tcp_option(socket: &Socket, name: libc::c_int) -> libc::c_int {
            use std::os::fd::AsRawFd;
            let mut value: libc::c_int = 0;
            let mut length = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: both pointers are to locals, and `length` is the size of `value`.
            let status = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    name,
                    std::ptr::from_mut(&mut value).cast(),
                    std::ptr::from_mut(&mut length),
                )
            };
            assert_eq!(status, 0);
            value
        }
        let mut spec = listen_spec(loopback());
        spec.defer_accept = Some(Duration::from_millis(500));
        spec.fast_open = Some(17);
        spec.tcp.bind_device = Some("lo".to_owned());
        let (listener, _) = listen(&spec).unwrap();
        // The kernel keeps it as a number of retransmissions and answers with their time.
        assert!(tcp_option(&listener, libc::TCP_DEFER_ACCEPT) >= 1);
        assert_eq!(tcp_option(&listener, libc::TCP_FASTOPEN), 17);
        assert_eq!(listener.device().unwrap().as_deref(), Some(&b"lo"[..]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_option_that_fails_is_named() {
        let mut spec = listen_spec(loopback());
        spec.tcp.bind_device = Some("nosuchdevice".to_owned());
        let error = listen(&spec).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot listen on 127.0.0.1:0: cannot set bind_device=nosuchdevice: "),
            "{text}"
        );
    }

    #[test]
    fn an_option_the_system_lacks_is_unsupported_and_named() {
        let error =
            describe("listen on", &loopback().into(), &named("fast_open", unsupported()).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "cannot listen on 127.0.0.1:0: cannot set fast_open: this system has no such option"
        );
    }

    #[cfg(not(target_os = "linux"))]
    #[test]
    fn linux_options_are_unsupported_elsewhere() {
        let mut spec = listen_spec(loopback());
        spec.fast_open = Some(17);
        assert_eq!(listen(&spec).unwrap_err().kind(), io::ErrorKind::Unsupported);
        spec.fast_open = None;
        spec.defer_accept = Some(Duration::from_secs(1));
        assert_eq!(listen(&spec).unwrap_err().kind(), io::ErrorKind::Unsupported);
        spec.defer_accept = None;
        spec.tcp.bind_device = Some("lo".to_owned());
        assert_eq!(listen(&spec).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn an_address_in_use_is_told_with_the_address() {
        let (_listener, address) = listen(&listen_spec(loopback())).unwrap();
        let error = listen(&listen_spec(address)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let start = format!("cannot listen on {address}: address in use");
        assert!(error.to_string().starts_with(&start), "{error}");
    }

    #[test]
    fn an_address_that_is_not_local_is_told() {
        // TEST-NET-1 of RFC 5737, which belongs to nobody.
        let address: SocketAddr = (Ipv4Addr::new(192, 0, 2, 1), 0).into();
        let error = listen(&listen_spec(address)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().starts_with("cannot listen on 192.0.2.1:0: address not local"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_denied_port_tells_what_it_needs() {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, 80).into();
        let error = describe("listen on", &address.into(), &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "cannot listen on 127.0.0.1:80: permission denied \
             (ports below 1024 need root or the capability CAP_NET_BIND_SERVICE)"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_port_is_shared_by_those_who_all_ask_for_it() {
        let mut spec = listen_spec(loopback());
        spec.reuse_port = true;
        let (_first, address) = listen(&spec).unwrap();
        spec.address = address;
        let (_second, shared) = listen(&spec).unwrap();
        assert_eq!(address, shared);
    }

    #[test]
    fn any_v6_accepts_v4_peers_unless_asked_not_to() {
        let spec = listen_spec((Ipv6Addr::UNSPECIFIED, 0));
        let Ok((listener, address)) = listen(&spec) else {
            return; // a machine without IPv6
        };
        assert!(!listener.only_v6().unwrap());
        let (_accepted, _client) = accepted_by(&listener, (Ipv4Addr::LOCALHOST, address.port()).into());

        let (listener, _) = listen(&ListenSpec { v6only: Some(true), ..spec }).unwrap();
        assert!(listener.only_v6().unwrap());
    }

    #[test]
    fn a_connect_reaches_its_listener() {
        let listener = TcpListener::bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let client = connect(&connect_spec(address)).unwrap();
        wait_writable(&client);
        finish_connect(&client, &address.into()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(client.local_addr().unwrap().as_socket(), Some(peer));
        assert!(client.tcp_nodelay().unwrap());
    }

    #[test]
    fn a_refused_connect_names_the_address() {
        // Held but never listening, so that the port stays unused while it is tried.
        let holder = open(loopback()).unwrap();
        holder.bind(&loopback().into()).unwrap();
        let address = local_address(&holder).unwrap();
        let error = match connect(&connect_spec(address)) {
            Ok(client) => {
                wait_writable(&client);
                finish_connect(&client, &address.into()).unwrap_err()
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let start = format!("cannot connect to {address}: connection refused");
        assert!(error.to_string().starts_with(&start), "{error}");
    }

    #[test]
    fn a_connect_comes_from_the_address_it_is_bound_to() {
        let listener = TcpListener::bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut spec = connect_spec(address);
        let local = if cfg!(target_os = "linux") { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST };
        spec.local_address = Some((local, 0).into());
        let _client = connect(&spec).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), local);
    }

    #[test]
    fn a_local_address_that_is_not_ours_is_named_beside_the_target() {
        let mut spec = connect_spec((Ipv4Addr::LOCALHOST, 9).into());
        spec.local_address = Some((Ipv4Addr::new(192, 0, 2, 1), 0).into());
        let error = connect(&spec).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let start = "cannot connect to 127.0.0.1:9: cannot bind 192.0.2.1:0: address not local";
        assert!(error.to_string().starts_with(start), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_to_itself_counts_as_refused() {
        // Connecting a socket to the very port it is bound to is a simultaneous open, which succeeds on
        // Linux.
        let socket = open(loopback()).unwrap();
        socket.bind(&loopback().into()).unwrap();
        let address = local_address(&socket).unwrap();
        if let Err(error) = socket.connect(&address.into()) {
            assert!(is_in_progress(&error), "{error}");
        }
        wait_writable(&socket);
        let error = finish_connect(&socket, &address.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
