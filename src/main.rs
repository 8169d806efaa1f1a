//! Arguments become a command; the only exit codes are here.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spine_proxy::commands::{
    CommandFailure, audit, certs, check, demo, lookup, serve, simulate, token,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An open Spine Secure Proxy for GP Connect Appointment Management.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve consumers until SIGTERM; SIGHUP reloads.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration and everything it names, and print what would be served.
    Check {
        /// The configuration file.
        #[arg(long, required_unless_present = "schema")]
        config: Option<PathBuf>,
        /// End with exit code 78 if there is any warning.
        #[arg(long)]
        strict: bool,
        /// Print the JSON Schema of the configuration instead.
        #[arg(long)]
        schema: bool,
    },
    /// Play a booking session through a proxy on loopback, then stay up to be tried.
    Demo(demo::DemoOptions),
    /// Ask the directory for a practice as a request would, and print how the answer came about.
    Lookup(lookup::LookupOptions),
    /// Verify the audit journal, or look something up in it.
    #[command(subcommand)]
    Audit(Box<audit::AuditTask>),
    /// Stand in for somebody else: for tests and for trying out.
    #[command(subcommand)]
    Simulate(simulate::SimulateOptions),
    /// Print a bearer token for an invented user, good for five minutes.
    Token(token::TokenOptions),
    /// Write a throwaway PKI for trying out.
    Certs {
        /// The folder to write into.
        folder: PathBuf,
    },
}

/// Spec: sysexits, a configuration error.
const EXIT_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Serve { config } => serve::run(&config),
        Command::Check { schema: true, .. } | Command::Check { config: None, .. } => {
            check::schema();
            Ok(())
        }
        Command::Check { config: Some(config), strict, .. } => check::run(&config, strict),
        Command::Demo(wanted) => demo::run(&wanted),
        Command::Lookup(wanted) => lookup::run(&wanted),
        Command::Audit(wanted) => audit::run(*wanted),
        Command::Simulate(wanted) => simulate::run(wanted),
        Command::Token(wanted) => token::run(&wanted),
        Command::Certs { folder } => certs::run(&folder),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            writeln!(std::io::stderr(), "spine-proxy: {failure}").unwrap_or_default();
            match failure {
                CommandFailure::Configuration(_) => ExitCode::from(EXIT_CONFIGURATION),
                CommandFailure::World(_) => ExitCode::FAILURE,
            }
        }
    }
}
