//! Endpoints that are there already: [`Inherited`] descriptors, those that a service manager
//! [passes](Activated), the standard streams.

use std::ffi::{OsStr, OsString};
use std::fmt;

use super::error::EndpointError;
use super::limits::Limit;
use super::parse::{EndpointString, Form};

/// The system's limit of open files is far below this.
const DESCRIPTOR: Limit<u32> = Limit { min: 0, max: i32::MAX as u32, advice: "" };
const INDEX: Limit<u32> = Limit { min: 0, max: 65_535, advice: "" };

const DESCRIPTOR_FORM: Form = Form { args: &["number"], keywords: &[], example: "fd:3" };
const PIPE_FORM: Form = Form { args: &["number", "output"], keywords: &[], example: "fd:3" };
const ACTIVATED_FORM: Form = Form { args: &[], keywords: &["name", "index"], example: "systemd:name=http" };
const STDIO_FORM: Form = Form { args: &[], keywords: &[], example: "stdio:" };

/// A descriptor that the program was started with, by its number: a listening socket to listen on; a
/// connected socket, a terminal, a pipe or a file to connect to. What is open for reading only, or for
/// writing only, goes that way only.
///
/// It belongs to the reactor from then on, under another number. Descriptors that the program opened itself
/// are refused: theirs is another owner. (They are told by being close-on-exec, as all are that the standard
/// library opens.)
///
/// ```
/// use twistor::endpoint::{Inherited, ListenEndpoint};
///
/// let endpoint: ListenEndpoint = "fd:3".parse()?;
/// assert_eq!(endpoint, ListenEndpoint::Inherited(Inherited::new(3)));
/// # Ok::<(), twistor::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an endpoint does nothing by itself"]
pub struct Inherited {
    number: u32,
    output: Option<u32>,
}

impl Inherited {
    /// The descriptor of this number.
    pub fn new(number: u32) -> Self {
        Self { number, output: None }
    }

    /// Reads from the descriptor but writes to another one. Only to connect.
    pub fn output(mut self, number: u32) -> Self {
        self.output = Some(number);
        self
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no descriptors"))]
    pub(crate) fn numbers(&self) -> (u32, Option<u32>) {
        (self.number, self.output)
    }
}

impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {}", self.number)?;
        self.output.map_or(Ok(()), |output| write!(f, ", fd {output}"))
    }
}

/// A listening socket that the service manager opened for the program (systemd's socket activation;
/// `LISTEN_FDS` in sd_listen_fds(3)).
///
/// ```
/// use twistor::endpoint::{Activated, ListenEndpoint};
///
/// let endpoint: ListenEndpoint = "systemd:name=http".parse()?;
/// assert_eq!(endpoint, ListenEndpoint::Activated(Activated::named("http")));
/// # Ok::<(), twistor::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an endpoint does nothing by itself"]
pub struct Activated {
    which: Which,
}

/// Which of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    Index(u32),
    Name(String),
}

impl Activated {
    /// The one at this place among those that were passed, from 0.
    pub fn index(index: u32) -> Self {
        Self { which: Which::Index(index) }
    }

    /// The one of this name: `FileDescriptorName=` of the socket unit, by default the unit's own name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { which: Which::Name(name.into()) }
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "there is no systemd"))]
    pub(crate) fn which(&self) -> &Which {
        &self.which
    }
}

impl fmt::Display for Activated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Index(index) => write!(f, "systemd's socket {index}"),
            Which::Name(name) => write!(f, "systemd's socket {name:?}"),
        }
    }
}

/// A program to start and talk to through its standard input and output: the connection is a pair of sockets.
/// What it says on its standard error goes where ours goes. It is not killed when the connection ends; it
/// finds its input ended.
///
/// ```
/// use twistor::endpoint::{ConnectEndpoint, ProcessConnect};
///
/// let endpoint: ConnectEndpoint = "process:grep:--line-buffered:error".parse()?;
/// let same = ProcessConnect::new("grep").arg("--line-buffered").arg("error");
/// assert_eq!(endpoint, ConnectEndpoint::Process(same));
/// # Ok::<(), twistor::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an endpoint does nothing by itself"]
pub struct ProcessConnect {
    program: OsString,
    arguments: Vec<OsString>,
}

impl ProcessConnect {
    /// A program: a path, or a name that is looked for in the directories of `PATH`.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), arguments: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "there are no pairs of sockets"))]
    pub(crate) fn words(&self) -> (&OsStr, &[OsString]) {
        (&self.program, &self.arguments)
    }
}

impl fmt::Display for ProcessConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.program.display())
    }
}

/// `process:PROGRAM:ARGUMENT:…`.
pub(super) fn connect_process(endpoint: &EndpointString<'_>) -> Result<ProcessConnect, EndpointError> {
    if let Some((name, _)) = endpoint.keywords().next() {
        return Err(endpoint.error(format!(
            "{name:?} is taken for a keyword, and a process has none; write \\= for an equals sign in an argument"
        )));
    }
    match endpoint.args() {
        [program, arguments @ ..] if !program.text.is_empty() => {
            let process = ProcessConnect::new(&program.text);
            Ok(arguments.iter().fold(process, |process, word| process.arg(&word.text)))
        }
        _ => Err(endpoint.error("the program is missing; write something like \"process:cat\"")),
    }
}

/// `fd:NUMBER`.
pub(super) fn listen_descriptor(endpoint: EndpointString<'_>) -> Result<Inherited, EndpointError> {
    let mut fields = endpoint.into_fields(&DESCRIPTOR_FORM)?;
    let number = fields.number("number", &DESCRIPTOR)?;
    Ok(Inherited::new(fields.required("number", number)?))
}

/// `fd:NUMBER` or `fd:INPUT:OUTPUT`.
pub(super) fn connect_descriptor(endpoint: EndpointString<'_>) -> Result<Inherited, EndpointError> {
    let mut fields = endpoint.into_fields(&PIPE_FORM)?;
    let number = fields.number("number", &DESCRIPTOR)?;
    let inherited = Inherited::new(fields.required("number", number)?);
    Ok(match fields.number("output", &DESCRIPTOR)? {
        Some(output) => inherited.output(output),
        None => inherited,
    })
}

/// `systemd:`, `systemd:index=N` or `systemd:name=NAME`.
pub(super) fn listen_activated(endpoint: EndpointString<'_>) -> Result<Activated, EndpointError> {
    let mut fields = endpoint.into_fields(&ACTIVATED_FORM)?;
    let index = fields.number("index", &INDEX)?;
    match (fields.word("name"), index) {
        (Some(_), Some(_)) => Err(fields.error("name and index are given; one of them says which socket")),
        (Some(name), None) => Ok(Activated::named(name.text)),
        (None, index) => Ok(Activated::index(index.unwrap_or(0))),
    }
}

/// `stdio:`.
pub(super) fn stdio(endpoint: EndpointString<'_>) -> Result<(), EndpointError> {
    endpoint.into_fields(&STDIO_FORM).map(drop)
}
