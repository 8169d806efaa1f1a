//! Parses the command line, runs one command, and turns its result into an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use spine_proxy::commands::check::SchemaOf;
use spine_proxy::commands::{
    audit, call, check, explain, lookup, manual, output, reload, serve, token,
};
#[cfg(feature = "lab")]
use spine_proxy::commands::{certs, conform, demo, lab, simulate};
use spine_proxy::failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open Spine Secure Proxy for GP Connect Appointment Management.
#[derive(Debug, Parser)]
#[command(version = spine_proxy::VERSION, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves consumers until SIGTERM or SIGINT; SIGHUP reloads the configuration and all files.
    Serve {
        /// Path of the configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks a configuration and every file it names, and prints what would be served.
    Check {
        /// Path of the configuration file.
        #[arg(long, required_unless_present = "schema")]
        config: Option<PathBuf>,
        /// Ends with exit code 78 if there is any warning.
        #[arg(long)]
        strict: bool,
        /// Prints the result as JSON, also if there is a fault.
        #[arg(long)]
        json: bool,
        /// Prints the JSON Schema of a file format instead.
        #[arg(long, num_args = 0..=1, default_missing_value = "configuration", value_name = "OF")]
        schema: Option<SchemaOf>,
    },
    /// Makes a running process reload its configuration and files, and waits for the result.
    Reload(reload::ReloadOptions),
    #[cfg(feature = "lab")]
    /// Runs example booking sessions through a proxy on loopback, then leaves it running to try out.
    Demo(demo::DemoOptions),
    #[cfg(feature = "lab")]
    /// Runs a complete environment for tests until it is stopped, and describes it in one line of JSON.
    Lab(lab::LabOptions),
    #[cfg(feature = "lab")]
    /// Plays sessions and wrong requests against another proxy or a provider, and judges the answers.
    Conform(Box<conform::ConformOptions>),
    /// Looks up a practice in the directory as a request would, and prints each step and the result.
    Lookup(lookup::LookupOptions),
    /// Judges a request as the proxy would, without sending it, and prints each step and what to do.
    Explain(Box<explain::ExplainOptions>),
    /// Sends a request through a proxy as a consumer does, with token and headers made for it.
    Call(Box<call::CallOptions>),
    /// Verifies, searches or exports the audit journal.
    #[command(subcommand)]
    Audit(Box<audit::AuditTask>),
    #[cfg(feature = "lab")]
    /// Simulates the system of another party, for tests and for trying out.
    #[command(subcommand)]
    Simulate(simulate::SimulateOptions),
    /// Prints a bearer token for an invented user, valid for five minutes.
    Token(token::TokenOptions),
    #[cfg(feature = "lab")]
    /// Writes a throwaway PKI for trying out, or issues from one and revokes: authority, certificates, keys and
    /// revocation lists.
    Certs(certs::CertsOptions),
    /// Writes a man page for each command.
    Man {
        /// Folder to write into; it is created if it does not exist.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints completions for a shell.
    Completions {
        /// Shell that reads them.
        shell: clap_complete::Shell,
    },
}

/// Spec: `EX_CONFIG` of sysexits(3), the exit code of a configuration error.
const EXIT_CONFIGURATION: u8 = 78;
/// Exit code of arguments that cannot be used, which `clap` has too.
const EXIT_USAGE: u8 = 2;
/// Exit code if nothing is wrong, but not everything is proven.
const EXIT_NOT_PROVEN: u8 = 3;

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let is_service = matches!(command, Command::Serve { .. });
    let ended = match command {
        Command::Serve { config } => serve::run(&config),
        Command::Check { schema: Some(of), .. } => {
            check::schema(of);
            Ok(())
        }
        Command::Check { config, strict, json, .. } => {
            let config = config.unwrap_or_default();
            if json { check::run_json(&config, strict) } else { check::run(&config, strict) }
        }
        Command::Reload(wanted) => reload::run(&wanted),
        #[cfg(feature = "lab")]
        Command::Demo(wanted) => demo::run(&wanted),
        #[cfg(feature = "lab")]
        Command::Lab(wanted) => lab::run(&wanted),
        #[cfg(feature = "lab")]
        Command::Conform(wanted) => conform::run(&wanted),
        Command::Lookup(wanted) => lookup::run(&wanted),
        Command::Explain(wanted) => explain::run(&wanted),
        Command::Call(wanted) => call::run(&wanted),
        Command::Audit(wanted) => audit::run(*wanted),
        #[cfg(feature = "lab")]
        Command::Simulate(wanted) => simulate::run(wanted),
        Command::Token(wanted) => token::run(&wanted),
        #[cfg(feature = "lab")]
        Command::Certs(wanted) => certs::run(&wanted),
        Command::Man { out } => manual::man(Arguments::command(), &out),
        Command::Completions { shell } => {
            manual::completions(Arguments::command(), shell);
            Ok(())
        }
    };
    let printed = output::result();
    if let (Err(_), Err(unprinted)) = (&ended, &printed) {
        output::print_error(format_args!("spine-proxy: {unprinted}"));
    }
    match ended.and(printed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !is_service || !serve::log_failure(&failure) {
                output::print_error(format_args!("spine-proxy: {failure}"));
            }
            match failure {
                Failure::Usage(_) => ExitCode::from(EXIT_USAGE),
                Failure::Configuration(_) => ExitCode::from(EXIT_CONFIGURATION),
                Failure::NotProven(_) => ExitCode::from(EXIT_NOT_PROVEN),
                Failure::Environment(_) => ExitCode::FAILURE,
            }
        }
    }
}
