//! The peer that is not built by cargo: where libuv and its headers are installed, its two servers in `c/`
//! are compiled by `cc` into the directory that this program runs from, beside the others.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Its programs, and their sources in `c/`.
const PROGRAMS: [&str; 2] = ["echo_libuv", "chat_libuv"];

/// Compiles the servers from the package in `directory`. Without one (started without cargo), they must be
/// there already. `false`, and a message, if there is no libuv: the peer is to be left out.
///
/// # Errors
/// There is libuv, but the servers do not compile.
pub fn build(directory: Option<&Path>) -> io::Result<bool> {
    let target = std::env::current_exe()?;
    let Some(directory) = directory else {
        let built = PROGRAMS.iter().all(|program| target.with_file_name(program).exists());
        if !built {
            eprintln!("libuv is left out: its servers are compiled by `cargo run`");
        }
        return Ok(built);
    };
    if !installed() {
        eprintln!("libuv is left out: `cc` does not find uv.h (on Debian: apt-get install gcc libuv1-dev)");
        return Ok(false);
    }
    for program in PROGRAMS {
        let mut compile = Command::new("cc");
        compile
            .args(["-std=gnu11", "-O2", "-g1", "-Wall", "-Wextra", "-o"])
            .arg(target.with_file_name(program));
        compile.arg(directory.join("c").join(program).with_extension("c")).arg("-luv");
        if !compile.status()?.success() {
            return Err(io::Error::other(format!("c/{program}.c does not compile")));
        }
    }
    Ok(true)
}

/// Whether there is a compiler, and the header that comes with the library.
fn installed() -> bool {
    let mut probe = Command::new("cc");
    probe.args(["-E", "-include", "uv.h", "-x", "c", "/dev/null"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
