//! What all examples have in common.

use crate::support::Program;

const ALL: [&str; 34] = [
    "echo_server",
    "echo_async",
    "chat",
    "port_forward",
    "timers",
    "coroutines",
    "two_fetches",
    "cancel_task",
    "gather_race_timeout",
    "deferred_chain",
    "custom_event",
    "event_driven",
    "stdin_and_timer",
    "heavy_function",
    "file_and_network",
    "event_handlers",
    "unix_echo",
    "subprocess",
    "process_supervisor",
    "reconnect",
    "daemon",
    "udp_echo",
    "tls_echo",
    "starttls_chat",
    "https_get",
    "multicast_discovery",
    "embed_poll",
    "embed_calloop",
    "embed_tokio",
    "embed_wake_hook",
    "game_tick",
    "background_thread",
    "protocol_unit_test",
    "lease_simulation",
];

#[test]
fn explain_themselves() {
    for name in ALL {
        let mut program = Program::start(name, &["--help"]);
        let help = program.output.rest().join("\n");
        assert!(help.contains(&format!("Usage: {name}")), "{help}");
        assert!(program.wait().success());
    }
}

#[test]
fn explain_endpoints_only_where_they_take_one() {
    for (name, takes_one) in [("udp_echo", true), ("multicast_discovery", false), ("subprocess", false)] {
        let help = Program::start(name, &["--help"]).output.rest().join("\n");
        assert_eq!(help.contains("An ENDPOINT is"), takes_one, "{help}");
    }
}

#[test]
fn refuse_arguments_they_do_not_know() {
    for name in ALL {
        let mut program = Program::start(name, &["--nonsense"]);
        program.errors.until("--nonsense");
        assert!(!program.wait().success());
    }
}
