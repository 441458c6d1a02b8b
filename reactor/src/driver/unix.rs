//! Opening Unix sockets, and what becomes of their files.
//!
//! A socket file outlives the process that made it. So a listener that finds one asks whether anybody is
//! there: a file that nobody listens on is replaced, a live one is an error, and what is no socket is never
//! touched. Programs that start at once take turns by a lock on the directory, which ends with its holder.
//! When a listener is closed its file goes, if it still is its own. Sockets for datagrams are opened here as
//! well; what is sent and received goes the way of all [datagrams](super::datagram).

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::options::{UnixConnectSpec, UnixDatagramSpec, UnixListenSpec, UnixOptions};
use super::socket::{describe, named};
use crate::core::address::{Address, UnixAddress};
use crate::core::credentials::Credentials;
use crate::sys::descriptor;

/// How long the path of a socket file may be, without the zero byte at its end.
const MAX_PATH: usize =
    size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path) - 1;
/// How often, and how many times, the lock of a directory is asked for.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_TRIES: u32 = 50;

/// No file has it.
const NO_INODE: u64 = 0;

/// The file of a bound socket; removed when dropped, if it still is that file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl SocketFile {
    /// Lets the file be.
    /// Gives it a mode: the file that was bound, not what somebody may have put in its place meanwhile.
    #[cfg(target_os = "linux")]
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        use rustix::fs::{Mode, OFlags};

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (self.device, self.inode) || !metadata.file_type().is_socket()
        {
            return Err(io::Error::other("the socket file is not there any more"));
        }
        // A descriptor of this kind has no other way to its file.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Gives it a mode.
    #[cfg(not(target_os = "linux"))]
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    pub(super) fn keep(mut self) {
        self.inode = NO_INODE;
    }
}

/// The file that a listening Unix socket was bound to, if it has one.
pub(super) fn socket_file(socket: &Socket) -> io::Result<Option<SocketFile>> {
    match socket.local_addr()?.as_pathname() {
        Some(path) => SocketFile::of(path).map(Some),
        None => Ok(None),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode == NO_INODE {
            return;
        }
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the socket file {}: {error}", self.path.display());
        }
    }
}

/// Opens a listening socket; with its file, where it has one.
pub(super) fn listen(spec: &UnixListenSpec) -> io::Result<(Socket, Option<SocketFile>)> {
    try_listen(spec).map_err(|error| describe("listen on", &spec.address.clone().into(), &error))
}

/// Starts a connect, which is over at once where somebody listens.
pub(super) fn connect(spec: &UnixConnectSpec) -> io::Result<Socket> {
    try_connect(spec).map_err(|error| describe("connect to", &spec.address.clone().into(), &error))
}

fn try_listen(spec: &UnixListenSpec) -> io::Result<(Socket, Option<SocketFile>)> {
    let address = sock_addr(&spec.address)?;
    let socket = open(Type::STREAM, &spec.options)?;
    // Held until somebody listens: before that the file looks like a dead one's.
    let _lock = spec.address.path().and_then(lock_directory);
    let file = bind(&socket, &spec.address, &address, spec.mode)?;
    socket.listen(i32::try_from(spec.backlog).unwrap_or(i32::MAX))?;
    Ok((socket, file))
}

fn try_connect(spec: &UnixConnectSpec) -> io::Result<Socket> {
    let address = sock_addr(&spec.address)?;
    let socket = open(Type::STREAM, &spec.options)?;
    if let Some(local) = &spec.local_address {
        let result = sock_addr(local).and_then(|address| socket.bind(&address));
        result.map_err(|error| describe("bind", &local.clone().into(), &error))?;
    }
    match socket.connect(&address).map_err(of_another_kind) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let text = "its backlog is full: too many connections wait to be accepted";
            Err(io::Error::new(ErrorKind::WouldBlock, text))
        }
        Err(error) => Err(error),
    }
}

/// Opens a socket for datagrams; with its file, where it has one, and its address.
pub(super) fn open_datagram(
    spec: &UnixDatagramSpec,
) -> io::Result<(Socket, Option<SocketFile>, UnixAddress)> {
    let (what, address) = match (&spec.remote, &spec.local) {
        (Some(remote), _) => ("connect to", remote),
        (None, Some(local)) => ("bind", local),
        (None, None) => return Err(ErrorKind::InvalidInput.into()),
    };
    try_open_datagram(spec).map_err(|error| describe(what, &address.clone().into(), &error))
}

fn try_open_datagram(spec: &UnixDatagramSpec) -> io::Result<(Socket, Option<SocketFile>, UnixAddress)> {
    let remote = spec.remote.as_ref().map(sock_addr).transpose()?;
    let socket = open(Type::DGRAM, &spec.options)?;
    let mut file = None;
    if let Some(local) = &spec.local {
        let _lock = local.path().and_then(lock_directory);
        let bound = sock_addr(local).and_then(|address| bind(&socket, local, &address, spec.mode));
        file = match bound {
            Err(error) if remote.is_some() => return Err(describe("bind", &local.clone().into(), &error)),
            bound => bound?,
        };
    } else if spec.autobind {
        named("autobind", autobind(&socket))?;
    }
    if let Some(remote) = remote {
        socket.connect(&remote).map_err(of_another_kind)?;
    }
    let Address::Unix(local) = super::ops::address(&socket.local_addr()?) else {
        return Err(io::Error::other("the socket has no Unix address"));
    };
    // Where the system tells nothing else, it is what was asked for.
    let local = spec.local.clone().filter(|_| local.is_unnamed()).unwrap_or(local);
    Ok((socket, file, local))
}

/// Has the kernel choose an abstract name.
fn autobind(socket: &Socket) -> io::Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(io::Error::new(ErrorKind::Unsupported, "this system has no abstract names"));
    }
    // An address that ends behind its family.
    socket.bind(&SockAddr::unix("")?)
}

fn of_another_kind(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::EPROTOTYPE) {
        return error;
    }
    let text = "the socket there is of another kind: one takes datagrams, the other connections";
    io::Error::new(ErrorKind::InvalidInput, text)
}

/// Connects a socket for datagrams once more: its peer is gone, and another one may have taken its place.
///
/// # Errors
///
/// Of kind `ConnectionRefused` if there is nobody.
pub(super) fn reconnect(socket: &Socket, peer: &UnixAddress) -> io::Result<()> {
    socket.connect(&sock_addr(peer)?).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ErrorKind::ConnectionRefused.into(),
        _ => of_another_kind(error),
    })
}

/// Whether sending failed because the peer is gone; the kernel may have forgotten it by then.
pub(super) fn has_lost_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::NotConnected
            | ErrorKind::BrokenPipe
    ) || error.raw_os_error() == Some(libc::EDESTADDRREQ)
}

/// How long a datagram may be that is sent from the socket.
pub(super) fn longest_datagram(socket: &Socket) -> io::Result<usize> {
    // Linux keeps some of the buffer for itself.
    let own = if cfg!(target_os = "linux") { 32 } else { 0 };
    Ok(socket.send_buffer_size()?.saturating_sub(own))
}

fn open(kind: Type, options: &UnixOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    if let Some(size) = options.recv_buffer {
        named("recv_buffer", socket.set_recv_buffer_size(size))?;
    }
    if let Some(size) = options.send_buffer {
        named("send_buffer", socket.set_send_buffer_size(size))?;
    }
    Ok(socket)
}

/// Binds a socket to its address, in place of a dead one's, with its directory [locked](lock_directory).
fn bind(
    socket: &Socket,
    address: &UnixAddress,
    as_system: &SockAddr,
    mode: Option<u32>,
) -> io::Result<Option<SocketFile>> {
    let Some(path) = address.path() else {
        if mode.is_some() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "an abstract name has no mode"));
        }
        socket.bind(as_system)?;
        return Ok(None);
    };
    if let Some(mode) = mode {
        // The file is born with this mode, less what the umask takes, on systems that look at it.
        let _ = rustix::fs::fchmod(socket, rustix::fs::Mode::from_raw_mode(mode as _));
    }
    match socket.bind(as_system) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_dead(path, socket.r#type()?)?;
            socket.bind(as_system)?;
        }
        result => result?,
    }
    let file = SocketFile::of(path)?;
    if let Some(mode) = mode {
        named("mode", file.set_mode(mode))?;
    }
    Ok(Some(file))
}

/// Removes a socket file that nobody listens on; an error says what else it is.
fn remove_dead(path: &Path, kind: Type) -> io::Result<()> {
    let in_use = |text: &str| Err(io::Error::new(ErrorKind::AddrInUse, text.to_owned()));
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // It has just gone.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return in_use("there is a file of that name, and it is not a socket");
    }
    let probe = Socket::new(Domain::UNIX, kind, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            log::info!("{}: replacing a socket file that nobody listens on", path.display());
            fs::remove_file(path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            in_use("there is a socket of that name, which may not be asked whether it is in use")
        }
        // Connected, its backlog full, or of another kind: somebody is there.
        _ => in_use("another socket listens there"),
    }
}

/// Keeps other programs from looking for a dead socket in the same directory meanwhile. One that holds the
/// lock for long is not waited for: then the lock is done without.
fn lock_directory(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    log::warn!("{}: somebody holds a lock on its directory", path.display());
    None
}

/// The address as the system takes it.
pub(super) fn sock_addr(address: &UnixAddress) -> io::Result<SockAddr> {
    check(address)?;
    match (address.path(), address.abstract_name()) {
        (Some(path), _) => SockAddr::unix(path),
        (None, name) => {
            let name = name.unwrap_or_default();
            let mut path = [0; 1 + MAX_PATH];
            path[1..][..name.len()].copy_from_slice(name);
            SockAddr::unix(OsStr::from_bytes(&path[..1 + name.len()]))
        }
    }
}

/// Whether the system can take the address at all.
pub(crate) fn check(address: &UnixAddress) -> io::Result<()> {
    let invalid = |text: String| io::Error::new(ErrorKind::InvalidInput, text);
    if let Some(path) = address.path() {
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            return Err(invalid(format!(
                "the path has {length} bytes; that of a Unix socket may have {MAX_PATH}"
            )));
        }
        if length == 0 {
            return Err(invalid("the path is empty".to_owned()));
        }
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(invalid("the path has a zero byte in it".to_owned()));
        }
        return Ok(());
    }
    let Some(name) = address.abstract_name() else {
        return Err(invalid("the address is unnamed".to_owned()));
    };
    if !cfg!(target_os = "linux") {
        return Err(io::Error::new(ErrorKind::Unsupported, "this system has no abstract names"));
    }
    if name.len() > MAX_PATH {
        return Err(invalid(format!("the name has {} bytes; it may have {MAX_PATH}", name.len())));
    }
    Ok(())
}

/// Whether it is this address that the system tells.
pub(super) fn is_address_of(name: &SockAddr, address: &UnixAddress) -> bool {
    // As bytes: paths that lead to the same file may still be written in different ways.
    let (path, known) = (name.as_pathname().map(Path::as_os_str), address.path().map(Path::as_os_str));
    #[cfg(target_os = "linux")]
    let abstract_name = name.as_abstract_namespace();
    #[cfg(not(target_os = "linux"))]
    let abstract_name = None;
    path == known && abstract_name == address.abstract_name()
}

/// The address that the system wrote as these bytes, behind the family.
#[cfg(target_os = "linux")]
pub(super) fn read_name(bytes: &[u8]) -> UnixAddress {
    match bytes {
        [] => UnixAddress::unnamed(),
        [0, name @ ..] => UnixAddress::from_abstract_name(name),
        path => UnixAddress::from_path(OsStr::from_bytes(until_zero(path))),
    }
}

/// Whether [`read_name`] would read this address.
#[cfg(target_os = "linux")]
pub(super) fn is_name_of(bytes: &[u8], address: &UnixAddress) -> bool {
    match bytes {
        [] => address.is_unnamed(),
        [0, name @ ..] => address.abstract_name() == Some(name),
        path => address.path().is_some_and(|known| known.as_os_str().as_bytes() == until_zero(path)),
    }
}

#[cfg(target_os = "linux")]
fn until_zero(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == 0).next().unwrap_or(path)
}

/// Who is at the other end of a Unix stream.
pub(super) fn peer_credentials(socket: &Socket) -> io::Result<Credentials> {
    let is_unix = matches!(super::ops::address(&socket.local_addr()?), Address::Unix(_));
    if !is_unix {
        return Err(io::Error::new(ErrorKind::Unsupported, "only Unix sockets know who is at the other end"));
    }
    descriptor::peer_credentials(socket.as_fd())
}
