//! What the example programs share: their arguments, their logging, the guest of those that embed a reactor, and a
//! certificate for those with TLS.

use std::process::exit;

#[cfg(feature = "tls")]
pub mod certificate;
pub mod guest;

/// Reads the program's positional arguments; each has a name and perhaps a default. `--help` explains them and
/// ends the program, as does a wrong number of arguments.
#[must_use]
pub fn arguments<const N: usize>(
    program: &str,
    about: &str,
    expected: [(&str, Option<&str>); N],
) -> [String; N] {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let usage = usage(program, about, &expected);
    if given.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{usage}");
        exit(0);
    }
    if let Some(unknown) = given.iter().find(|argument| argument.starts_with('-')) {
        fail(program, &format!("unknown option {unknown}"), &usage);
    }
    if let Some(extra) = given.get(N) {
        fail(program, &format!("unexpected argument {extra}"), &usage);
    }
    let mut given = given.into_iter();
    expected.map(|(name, default)| match given.next().or_else(|| default.map(str::to_owned)) {
        Some(value) => value,
        None => fail(program, &format!("{name} is missing"), &usage),
    })
}

/// Reads what the program is to run: all arguments, of which only the first one can be `--help`; the default if there
/// are none.
#[must_use]
pub fn words(program: &str, about: &str, name: &str, default: &[&str]) -> Vec<String> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let default_text = default.join(" ");
    let usage = usage(program, about, &[(&format!("{name}..."), Some(&default_text))]);
    match given.first().map(String::as_str) {
        None => default.iter().copied().map(str::to_owned).collect(),
        Some("--help" | "-h") => {
            println!("{usage}");
            exit(0);
        }
        Some(unknown) if unknown.starts_with('-') => {
            fail(program, &format!("unknown option {unknown}"), &usage)
        }
        Some(_) => given,
    }
}

fn usage(program: &str, about: &str, expected: &[(&str, Option<&str>)]) -> String {
    let mut text = format!("{about}\n\nUsage: {program}");
    for (name, default) in expected {
        text += &if default.is_some() { format!(" [{name}]") } else { format!(" {name}") };
    }
    text += "\n";
    for (name, default) in expected {
        if let Some(default) = default {
            text += &format!("\n  {name}  default: {default}");
        }
    }
    text += if expected.is_empty() { "\n" } else { "\n\n" };
    if expected.iter().any(|(name, _)| name.contains("ENDPOINT")) {
        text += "An ENDPOINT is a string such as tcp:8000, udp:8000 or tcp:8000:interface=127.0.0.1.\n";
    }
    text += "RUST_LOG=debug shows what happens.";
    text
}

fn fail(program: &str, problem: &str, usage: &str) -> ! {
    eprintln!("{program}: {problem}\n\n{usage}");
    exit(2);
}

/// Logs to standard error what the environment variable `RUST_LOG` asks for; warnings if it is not set.
pub fn init_logging() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
}

/// Why a program ended early. As the error of `main` it is shown as its text, not as its insides.
pub struct Failure(Box<dyn std::error::Error>);

impl<E: Into<Box<dyn std::error::Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
