//! The code of the guide and of the README, compiled and run by `cargo test --doc`.
//!
//! One module per page, so that a failure names its page. Invariant: every page of the book with Rust code in
//! it stands here.

/// Makes the code blocks of pages into doctests.
#[cfg(doctest)]
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        $(
            #[doc = include_str!(concat!("../../", $path))]
            mod $name {}
        )*
    };
}

#[cfg(doctest)]
pages! {
    readme: "README.md",
    introduction: "docs/src/introduction.md",
    servers: "docs/src/guide/servers.md",
    clients: "docs/src/guide/clients.md",
    streams: "docs/src/guide/streams.md",
    tls: "docs/src/guide/tls.md",
    datagrams: "docs/src/guide/datagrams.md",
    local: "docs/src/guide/local.md",
    names: "docs/src/guide/names.md",
    timers: "docs/src/guide/timers.md",
    deferred: "docs/src/guide/deferred.md",
    tasks: "docs/src/guide/tasks.md",
    shared_state: "docs/src/guide/shared-state.md",
    primitives: "docs/src/guide/primitives.md",
    threads: "docs/src/guide/threads.md",
    files: "docs/src/guide/files.md",
    other_events: "docs/src/guide/other-events.md",
    processes: "docs/src/guide/processes.md",
    limits: "docs/src/guide/limits.md",
    stopping: "docs/src/guide/stopping.md",
    daemons: "docs/src/guide/daemons.md",
    bridges: "docs/src/guide/bridges.md",
    embedding: "docs/src/guide/embedding.md",
    testing: "docs/src/guide/testing.md",
    architecture: "docs/src/architecture.md",
    contract: "docs/src/contract.md",
    extending: "docs/src/extending.md",
}
