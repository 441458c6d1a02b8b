//! The servers that are compared. Each is a program of its own beside this one, so that nothing of another loop is
//! linked into it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Sends back what it receives.
    Echo,
    /// Sends every line to everyone.
    Chat,
    /// Sends every datagram back.
    Datagrams,
    /// An echo with TLS.
    Tls,
    /// [Requests](crate::bulk) with TLS.
    TlsBulk,
}

impl Service {
    /// Whether it is with TLS.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::TlsBulk)
    }
}

/// One of the loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// On the command line and in tables.
    pub name: &'static str,
    echo: &'static [&'static str],
    chat: Option<&'static str>,
    datagrams: Option<&'static str>,
    tls: Option<&'static str>,
}

/// What the others are compared with, unless told otherwise.
pub const BASELINE: Peer = Peer {
    name: "raw-level",
    echo: &["echo_raw_level"],
    chat: Some("chat_raw_level"),
    datagrams: Some("udp_raw_level"),
    tls: None,
};

/// What the others are compared with where the baseline has no such service: with TLS.
pub const TOKIO: Peer = Peer {
    name: "tokio",
    echo: &["echo_tokio"],
    chat: Some("chat_tokio"),
    datagrams: Some("udp_tokio"),
    tls: Some("tls_tokio"),
};

/// In C, and left out where libuv is not installed.
pub const LIBUV: Peer =
    Peer { name: "libuv", echo: &["echo_libuv"], chat: Some("chat_libuv"), datagrams: None, tls: None };

/// All but the control.
pub const ALL: &[Peer] = &[
    BASELINE,
    Peer { name: "raw-edge", echo: &["echo_raw_edge"], chat: None, datagrams: None, tls: None },
    Peer { name: "mio", echo: &["echo_mio"], chat: None, datagrams: Some("udp_mio"), tls: None },
    #[cfg(feature = "twistor")]
    Peer {
        name: "twistor",
        echo: &["echo_twistor"],
        chat: Some("chat_twistor"),
        datagrams: Some("udp_twistor"),
        tls: Some("tls_twistor"),
    },
    #[cfg(feature = "twistor")]
    Peer { name: "twistor-task", echo: &["echo_twistor_task"], chat: None, datagrams: None, tls: None },
    Peer { name: "calloop", echo: &["echo_calloop"], chat: None, datagrams: None, tls: None },
    LIBUV,
    TOKIO,
    Peer {
        name: "tokio-8k",
        echo: &["echo_tokio", "--buffer", "8192"],
        chat: None,
        datagrams: None,
        tls: None,
    },
];

const CONTROL: &str = "control";

impl Peer {
    /// The same once more, as a process of its own: how far its ratio strays from 1 is what a ratio is worth.
    #[must_use]
    pub fn control(self) -> Self {
        Self { name: CONTROL, ..self }
    }

    /// Whether this is the control of some baseline.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.name == CONTROL
    }

    /// The peer of that name.
    ///
    /// # Errors
    /// There is none; the error lists those that are.
    pub fn named(name: &str) -> io::Result<Self> {
        ALL.iter().copied().find(|peer| peer.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|peer| peer.name).collect();
            let text = format!("no peer is called {name:?}; there are {}", names.join(", "));
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }

    /// The command that starts it on a port of the kernel's choice, or `None` if it has no such service.
    ///
    /// # Errors
    /// It has not been built.
    pub fn command(&self, service: Service) -> io::Result<Option<Vec<OsString>>> {
        let program = match service {
            Service::Echo => None,
            Service::Chat if self.chat.is_none() => return Ok(None),
            Service::Chat => self.chat.as_ref(),
            Service::Datagrams if self.datagrams.is_none() => return Ok(None),
            Service::Datagrams => self.datagrams.as_ref(),
            Service::Tls | Service::TlsBulk if self.tls.is_none() => return Ok(None),
            Service::Tls | Service::TlsBulk => self.tls.as_ref(),
        };
        let words = program.map_or(self.echo, std::slice::from_ref);
        let [program, options @ ..] = words else { return Ok(None) };
        let mut command = vec![program_path(program)?.into_os_string(), OsString::from("127.0.0.1:0")];
        command.extend(options.iter().map(OsString::from));
        if service == Service::TlsBulk {
            command.push("--bulk".into());
        }
        Ok(Some(command))
    }
}

/// Peers are built into the directory that this program runs from.
fn program_path(program: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    if path.exists() {
        return Ok(path);
    }
    let text = format!("{} is not built: cargo build --release --bins", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}
