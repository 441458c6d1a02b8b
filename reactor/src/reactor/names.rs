//! From names of hosts to addresses.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use crate::reactor::deferred::Deferred;
use crate::reactor::handle::Handle;
use crate::reactor::inner::Inner;
use crate::reactor::threads::JobError;
use crate::sys::thread_pool::ThreadPool;

/// What finds the addresses of a host.
pub(crate) type Resolver = Arc<dyn Fn(&Handle, &str) -> Deferred<Vec<IpAddr>, io::Error> + Send + Sync>;

/// Threads for the system's resolver, which blocks: a name server that does not answer must not hold up anything but
/// names.
const RESOLVER_THREADS: usize = 4;

impl Inner {
    /// Looks a name up: with the resolver that was given to the builder, else with the system's.
    pub(crate) fn resolve(&self, name: &str) -> Deferred<Vec<IpAddr>, io::Error> {
        match &self.config.resolver {
            Some(resolver) => resolver(&self.handle, name),
            None => self.resolve_with_system(name),
        }
    }

    fn resolve_with_system(&self, name: &str) -> Deferred<Vec<IpAddr>, io::Error> {
        let (resolver, deferred) = Deferred::new(&self.handle);
        if let Some(answer) = self.driver.borrow().resolve(name) {
            resolver.resolve(answer);
            return deferred;
        }
        let pool = self.resolver_pool.get_or_init(|| ThreadPool::new(RESOLVER_THREADS));
        let name = name.to_owned();
        let lookup = pool.defer(&self.handle, move || {
            // The order is that of RFC 6724, as far as the system keeps to it.
            (name.as_str(), 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect())
        });
        let canceller = lookup.canceller();
        resolver.on_cancel(move || {
            canceller.cancel();
        });
        lookup.on_done(move |_, outcome: Result<io::Result<Vec<IpAddr>>, JobError>| {
            resolver.resolve(outcome.unwrap_or_else(|error| Err(io::Error::other(error))));
        });
        deferred
    }
}
