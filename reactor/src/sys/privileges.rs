//! Giving up root's rights, for good.

use std::ffi::{CStr, CString};
use std::io::{self, ErrorKind};

/// Who a process is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    uid: libc::uid_t,
    gid: libc::gid_t,
    /// Of the user, if the system knows one: it may be in more groups.
    name: Option<CString>,
}

impl Identity {
    /// Finds users and groups by name or number. Without a group it is the user's own; without a user it
    /// stays who it is.
    pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> io::Result<Self> {
        let mut found = match user {
            Some(user) => find_user(user)?,
            // SAFETY: the calls touch no memory.
            None => Self { uid: unsafe { libc::geteuid() }, gid: unsafe { libc::getegid() }, name: None },
        };
        if let Some(group) = group {
            found.gid = find_group(group)?;
        }
        Ok(found)
    }

    pub(crate) fn uid(&self) -> libc::uid_t {
        self.uid
    }

    pub(crate) fn gid(&self) -> libc::gid_t {
        self.gid
    }

    /// Whether this process has this user already, so that nothing is given up.
    pub(crate) fn is_this_process(&self) -> bool {
        // SAFETY: the call touches no memory.
        self.uid == unsafe { libc::geteuid() }
    }

    /// Becomes this user and group, with all threads, and checks that there is no way back.
    ///
    /// # Errors
    ///
    /// The process is neither root nor has this identity already; or the system refuses. It may be in between
    /// then, and should end.
    pub(crate) fn assume(&self) -> io::Result<()> {
        // SAFETY: the calls touch no memory.
        let (uid, gid, real) = unsafe { (libc::geteuid(), libc::getegid(), libc::getuid()) };
        if uid != 0 {
            if uid == self.uid && gid == self.gid && real == self.uid {
                return Ok(());
            }
            let text = format!(
                "cannot become user {} and group {}: only root can, and this runs as user {uid} and group {gid}; \
                 start it as root, or as that user",
                self.uid, self.gid
            );
            return Err(io::Error::new(ErrorKind::PermissionDenied, text));
        }
        // In this order: after the user is changed the groups cannot be.
        self.assume_groups().map_err(|error| named("set the supplementary groups", &error))?;
        // SAFETY: the calls touch no memory. Those of the C library change all threads.
        unsafe {
            check(libc::setgid(self.gid)).map_err(|error| named("set the group", &error))?;
            check(libc::setuid(self.uid)).map_err(|error| named("set the user", &error))?;
        }
        self.verify()
    }

    fn assume_groups(&self) -> io::Result<()> {
        match &self.name {
            // SAFETY: the name is a C string that lives through the call.
            Some(name) => unsafe { check(libc::initgroups(name.as_ptr(), self.gid as _)) },
            // SAFETY: one group, at a pointer to it.
            None => unsafe { check(libc::setgroups(1, &raw const self.gid)) },
        }
    }

    fn verify(&self) -> io::Result<()> {
        // SAFETY: the calls touch no memory.
        let (ids, can_go_back) = unsafe {
            let ids = (libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid());
            let user = self.uid != 0 && (libc::setuid(0) == 0 || libc::seteuid(0) == 0);
            let group = self.uid != 0 && self.gid != 0 && (libc::setgid(0) == 0 || libc::setegid(0) == 0);
            (ids, user || group)
        };
        if can_go_back || ids != (self.uid, self.uid, self.gid, self.gid) {
            return Err(io::Error::other(
                "root's rights are not given up: the system lets them be taken again",
            ));
        }
        Ok(())
    }
}

/// Gives an open file to somebody.
pub(crate) fn give(file: &std::fs::File, identity: &Identity) -> io::Result<()> {
    std::os::unix::fs::fchown(file, Some(identity.uid), Some(identity.gid))
}

/// The bits that files of this process are born without.
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: the call touches no memory, and cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

fn unknown(kind: &str, name: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("there is no {kind} {name:?} on this system"))
}

fn find_user(user: &str) -> io::Result<Identity> {
    let number = user.parse().ok();
    let name = CString::new(user).map_err(|_| unknown("user", user))?;
    let read = |entry: &libc::passwd| {
        // SAFETY: the name points into the buffer of the lookup, which is alive.
        let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
        Identity { uid: entry.pw_uid, gid: entry.pw_gid, name: Some(name) }
    };
    let found = with_buffer(|buffer, length| {
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to locals and to a buffer of that length; the name is a C string.
        let status = unsafe {
            match number {
                Some(number) => libc::getpwuid_r(number, entry.as_mut_ptr(), buffer, length, &raw mut found),
                None => libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer, length, &raw mut found),
            }
        };
        // SAFETY: the result is null or points to the entry, which is filled in then.
        (status, unsafe { found.as_ref() }.map(read))
    })?;
    match (found, number) {
        (Some(found), _) => Ok(found),
        // A number needs no entry, but then there is no group to go with it.
        (None, Some(uid)) => Ok(Identity { uid, gid: uid, name: None }),
        (None, None) => Err(unknown("user", user)),
    }
}

fn find_group(group: &str) -> io::Result<libc::gid_t> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let name = CString::new(group).map_err(|_| unknown("group", group))?;
    let found = with_buffer(|buffer, length| {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to locals and to a buffer of that length; the name is a C string.
        let status =
            unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer, length, &raw mut found) };
        // SAFETY: the result is null or points to the entry, which is filled in then.
        (status, unsafe { found.as_ref() }.map(|entry| entry.gr_gid))
    })?;
    found.ok_or_else(|| unknown("group", group))
}

/// Calls a lookup with more and more room for its answer.
fn with_buffer<R>(
    lookup: impl Fn(*mut libc::c_char, usize) -> (libc::c_int, Option<R>),
) -> io::Result<Option<R>> {
    const MOST: usize = 1 << 20;
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let (status, found) = lookup(buffer.as_mut_ptr(), buffer.len());
        match status {
            0 => return Ok(found),
            libc::ERANGE if buffer.len() < MOST => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            // What some systems say of a name that there is not.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let root = Identity::find(Some("root"), None).unwrap();
        assert_eq!((root.uid(), root.gid()), (0, 0));
        let number = Identity::find(Some("4000000000"), Some("4000000001")).unwrap();
        assert_eq!((number.uid(), number.gid(), &number.name), (4_000_000_000, 4_000_000_001, &None));
        let error = Identity::find(Some("nobody-of-that-name"), None).unwrap_err().to_string();
        assert_eq!(error, "there is no user \"nobody-of-that-name\" on this system");
        assert!(Identity::find(None, Some("no-such-group")).is_err());
    }

    #[test]
    fn who_it_is_already_needs_no_rights() {
        let own = Identity::find(None, None).unwrap();
        if own.uid() != 0 {
            own.assume().unwrap();
            assert!(Identity::find(Some("root"), None).unwrap().assume().is_err());
        }
    }
}
