//! Opening a log file that root opens and somebody else goes on with.
//!
//! Whoever the file is given to may own its directory, and could have laid a link there to a file of root's:
//! following it, root would write to that file and give it away. So while a process is root to become
//! another, links are followed only where nobody but root can have laid them, and only a regular file that
//! has no other name is given away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::privileges::{self, Identity};

/// Opens a file to append to, which is made if there is none, and gives it to `owner`, who has to be able to
/// open it again.
///
/// # Errors
///
/// It cannot be opened, is a link that is not followed, or a pipe that nobody reads.
pub(crate) fn open(path: &Path, owner: Option<&Identity>) -> io::Result<File> {
    let heir = owner.filter(|owner| !owner.is_this_process());
    // A pipe must not stop the program until somebody reads it.
    let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let follows = heir.is_none() || is_link_of_root(path);
    if !follows {
        flags |= libc::O_NOFOLLOW;
    }
    let file = OpenOptions::new().create(true).append(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) if !follows => io::Error::new(
            ErrorKind::InvalidInput,
            "it is a symbolic link, and not only root can have made it: give the path that it leads to",
        ),
        Some(libc::ENXIO) => io::Error::new(error.kind(), "it is a pipe that nobody reads"),
        _ => error,
    })?;
    if let Some(heir) = heir
        && file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
        && let Err(error) = privileges::give(&file, heir)
    {
        log::debug!("cannot give the log file {} away: {error}", path.display());
    }
    Ok(file)
}

/// Whether this is a link that only root can have put there, such as `/dev/stdout`.
fn is_link_of_root(path: &Path) -> bool {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (link, directory) = (fs::symlink_metadata(path), fs::metadata(parent));
    link.is_ok_and(|link| link.is_symlink() && link.uid() == 0)
        && directory.is_ok_and(|directory| directory.uid() == 0 && directory.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("twistor-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn somebody() -> Identity {
        Identity::find(Some("4000000000"), None).unwrap()
    }

    #[test]
    fn a_link_that_others_can_have_laid_is_not_followed_for_somebody_else() {
        let place = place("link");
        let (victim, link) = (place.join("victim"), place.join("log"));
        fs::write(&victim, "precious").unwrap();
        fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        symlink(&victim, &link).unwrap();
        let before = fs::metadata(&victim).unwrap().uid();
        let error = open(&link, Some(&somebody())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(fs::metadata(&victim).unwrap().uid(), before);
        open(&link, None).unwrap();
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_file_with_another_name_keeps_its_owner() {
        let place = place("names");
        let (victim, other) = (place.join("victim"), place.join("log"));
        fs::write(&victim, "precious").unwrap();
        fs::hard_link(&victim, &other).unwrap();
        let before = fs::metadata(&victim).unwrap().uid();
        open(&other, Some(&somebody())).unwrap();
        assert_eq!(fs::metadata(&victim).unwrap().uid(), before);
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_new_file_belongs_to_whom_it_is_given() {
        let place = place("new");
        open(&place.join("log"), Some(&somebody())).unwrap();
        let own = Identity::find(None, None).unwrap().uid();
        let owner = fs::metadata(place.join("log")).unwrap().uid();
        // Only root can give.
        assert_eq!(owner, if own == 0 { 4_000_000_000 } else { own });
        fs::remove_dir_all(&place).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_at_once() {
        let place = place("pipe");
        let path = place.join("log");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(open(&path, None).unwrap_err().to_string(), "it is a pipe that nobody reads");
        fs::remove_dir_all(&place).unwrap();
    }
}
