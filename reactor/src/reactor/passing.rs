//! Listening sockets on their way from one process to the next.
//!
//! A reactor that is told to [pass](Inner::begin_passing) its ports on gives each a name that says where it
//! listens. The next process is given the sockets with these names, and a port that is opened there under the
//! same name stands on that socket instead of a new one. The file of a Unix socket has one owner at any time:
//! at first the process that made it, and each next one from the moment when the last has left it.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::core::address::UnixAddress;
use crate::endpoint::ListenEndpoint;
use crate::protocol::ErasedFactory;
use crate::reactor::inner::{Inner, Slot};
use crate::reactor::listening::{Hold, Listening, Port};

/// A listening socket of another process.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) name: String,
    pub(crate) descriptor: OwnedFd,
    /// It has a socket file, which is to go with it.
    pub(crate) has_file: bool,
}

/// How a port is passed on.
#[derive(Debug)]
pub(crate) struct PassedPort {
    name: String,
    /// Its socket file belongs to the process that it came from.
    file_is_of_predecessor: bool,
    /// It does not accept yet.
    is_held: bool,
}

/// What a reactor knows that passes its ports on.
#[derive(Default)]
pub(crate) struct Passing {
    /// Not opened yet.
    expected: Vec<Passed>,
    /// New ports do not accept yet.
    holds: bool,
}

/// The name of a port, where it can be passed on. It leaves options out, so that these can change.
fn name_of(endpoint: &ListenEndpoint) -> Option<String> {
    match endpoint {
        ListenEndpoint::Tcp(tcp) => Some(format!("tcp {}", tcp.spec().address)),
        ListenEndpoint::Unix(unix) => Some(unix_name(unix.address())),
        ListenEndpoint::Inherited(inherited) => Some(inherited.to_string()),
        ListenEndpoint::Activated(activated) => Some(activated.to_string()),
        #[cfg(feature = "tls")]
        ListenEndpoint::Tls(tls) => name_of(tls.under()),
        // These are no sockets, or stand on other ports.
        ListenEndpoint::Stdio | ListenEndpoint::Added(_) => None,
    }
}

fn unix_name(address: &UnixAddress) -> String {
    format!("unix {address}")
}

impl Passed {
    /// Its socket file, if that goes with it.
    pub(crate) fn file(&self) -> Option<&str> {
        if self.has_file { self.name.strip_prefix("unix ") } else { None }
    }
}

impl Inner {
    /// From now on ports can be passed on, and those that the last process has passed are expected to be
    /// opened. None accepts before [`release_ports`](Self::release_ports).
    pub(crate) fn begin_passing(&self, expected: Vec<Passed>) {
        *self.passing.borrow_mut() = Some(Passing { expected, holds: true });
    }

    /// Listens; on a socket of the last process if there is one for this endpoint.
    pub(crate) fn listen_as_passed(
        &self,
        endpoint: &ListenEndpoint,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        let (name, passed, holds) = match &mut *self.passing.borrow_mut() {
            Some(passing) => {
                let name = name_of(endpoint);
                let place = passing.expected.iter().position(|one| Some(&one.name) == name.as_ref());
                (name, place.map(|place| passing.expected.remove(place)), passing.holds)
            }
            None => (None, None, false),
        };
        let file_is_of_predecessor = passed.as_ref().is_some_and(|passed| passed.has_file);
        let port = match passed {
            Some(passed) => self.listen_on_passed(endpoint, passed, factory),
            None => self.open_port(endpoint, factory),
        }?;
        if let Some(name) = name {
            if holds {
                port.hold(Hold::Predecessor);
            }
            let passing = PassedPort { name, file_is_of_predecessor, is_held: holds };
            *port.listening().passing().borrow_mut() = Some(passing);
        }
        Ok(port)
    }

    fn listen_on_passed(
        &self,
        endpoint: &ListenEndpoint,
        passed: Passed,
        factory: Box<dyn ErasedFactory>,
    ) -> io::Result<Port> {
        self.listen_with(factory, |driver, token| {
            let address = driver.adopt_listener(token, passed.descriptor)?;
            if let ListenEndpoint::Unix(unix) = endpoint
                && unix.spec().options.descriptors
            {
                driver.take_descriptors(token);
            }
            Ok(address)
        })
    }

    fn passed_ports(&self) -> Vec<Rc<Listening>> {
        let slots = self.slots.borrow();
        let listeners = slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Listener(listening) if listening.passing().borrow().is_some() => Some(Rc::clone(listening)),
            _ => None,
        });
        listeners.collect()
    }

    /// Lets ports accept that were opened since [`begin_passing`](Self::begin_passing), and those to come.
    pub(crate) fn release_ports(&self) {
        if let Some(passing) = &mut *self.passing.borrow_mut() {
            passing.holds = false;
        }
        for listening in self.passed_ports() {
            let was_held =
                listening.passing().borrow_mut().as_mut().is_some_and(|port| mem::take(&mut port.is_held));
            if was_held {
                Port::of(self.handle.clone(), listening).release(Hold::Predecessor);
            }
        }
    }

    /// Duplicates of all ports that can be passed on.
    pub(crate) fn share_ports(&self) -> io::Result<Vec<Passed>> {
        let mut shared = Vec::new();
        for listening in self.passed_ports() {
            let Some(name) = listening.passing().borrow().as_ref().map(|port| port.name.clone()) else {
                continue;
            };
            let (descriptor, has_file) = self.driver.borrow_mut().share_listener(listening.token())?;
            shared.push(Passed { name, descriptor, has_file });
        }
        Ok(shared)
    }

    /// Leaves all ports to the process that they were shared with, and closes them here.
    pub(crate) fn leave_ports(&self) {
        for listening in self.passed_ports() {
            self.driver.borrow_mut().give_socket_file_away(listening.token());
        }
        self.close_listeners();
    }

    /// The last process has left its ports: their socket files go with them from now on. Returns the ports
    /// that it had and this one has not.
    pub(crate) fn own_ports(&self) -> Vec<Passed> {
        for listening in self.passed_ports() {
            let takes_over = listening
                .passing()
                .borrow_mut()
                .as_mut()
                .is_some_and(|port| mem::take(&mut port.file_is_of_predecessor));
            if takes_over && let Err(error) = self.driver.borrow_mut().own_socket_file(listening.token()) {
                log::warn!("{}: cannot find its socket file: {error}", listening.address());
            }
        }
        self.passing.borrow_mut().as_mut().map(|passing| mem::take(&mut passing.expected)).unwrap_or_default()
    }
}
