//! The command line: one file a command, text and JSON, exit codes that scripts can trust.

mod apply;
pub mod arguments;
mod check;
mod config;
mod confirm;
mod counters;
mod dataplane;
mod dataplane_arguments;
mod doctor;
pub mod exit;
mod explain;
mod key;
mod neighbours;
pub mod output;
mod put_back;
mod route;
mod route_file;
mod route_import;
mod route_spec;
mod run;
mod run_arguments;
mod status;
mod table;
mod top;
mod trace;
mod upgrade;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::kernel::{names, netns};
use crate::model::derive::NAMESPACE_PREFIX;
use crate::model::{Faults, schema};
use crate::wireguard::userspace;
use arguments::{Arguments, Command, LogFormat, SchemaObject};
use exit::{Exit, Failure, FailureJson};
use output::{Output, Style};

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    if let Some(Command::WireguardUserspace { name }) = &arguments.command {
        return serve(name);
    }
    let style = Style {
        json: arguments.global.json,
        pretty: arguments.global.pretty,
        brief: arguments.global.brief,
        quiet: arguments.global.quiet,
        color: arguments.global.color,
    };
    // What goes to stderr is coloured for where stderr goes.
    let color = style.colors(std::io::stderr().is_terminal());
    let mut out = match Output::take_stdout(style) {
        Ok(out) => out,
        Err(error) => return report(&Failure::from(error), style, color),
    };
    log(&arguments, color);
    match run(&arguments, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    }) {
        Ok(exit) => exit.into(),
        Err(failure) => report(&failure, style, color),
    }
}

fn run(arguments: &Arguments, out: &mut Output) -> Result<Exit, Failure> {
    let global = &arguments.global;
    if let Some(name) = &global.netns {
        // Before any thread is started: the whole process becomes that node.
        netns::enter(name)?;
    }
    match &arguments.command {
        Some(Command::Check(check)) => return check::run(&global.config, check, out),
        Some(Command::Key { command }) => return key::run(&global.config, command, out),
        Some(Command::Completions { shell }) => {
            let mut command = Arguments::command();
            // It panics where it cannot write.
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, "netmesh", &mut text);
            out.write_all(&text)?;
            return Ok(Exit::Done);
        }
        Some(Command::Man { dir: Some(dir) }) => {
            clap_mangen::generate_to(Arguments::command(), dir)?;
            return Ok(Exit::Done);
        }
        Some(Command::Man { dir: None }) => {
            clap_mangen::Man::new(Arguments::command()).render(out)?;
            return Ok(Exit::Done);
        }
        Some(Command::Schema { object }) => {
            let schema = match object {
                SchemaObject::Network => schema::network(),
                SchemaObject::Node => schema::node(),
            };
            let text = serde_json::to_string_pretty(&schema)?;
            writeln!(out, "{text}")?;
            return Ok(Exit::Done);
        }
        Some(Command::Names) => {
            names::answer(std::io::stdin(), &mut *out, NAMESPACE_PREFIX)?;
            return Ok(Exit::Done);
        }
        Some(Command::Demo(demo)) => {
            let options = crate::demo::Options {
                keep: demo.keep,
                clean: demo.clean,
                json: out.is_json(),
            };
            let ok = crate::demo::run(options, out)?;
            return Ok(if ok { Exit::Done } else { Exit::Failed });
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match &arguments.command {
            Some(Command::Plan(plan)) => apply::plan(global, plan, out).await,
            Some(Command::Apply(apply)) => apply::apply(global, apply, out).await,
            Some(Command::Confirm(command)) => confirm::confirm(global, command, out).await,
            Some(Command::Rollback(command)) => confirm::rollback(global, command, out).await,
            Some(Command::UndoUnconfirmed { id }) => confirm::watch(global, *id, out).await,
            Some(Command::Run(run)) => run::run(global, run).await,
            Some(Command::Destroy(destroy)) => apply::destroy(global, destroy, out).await,
            Some(Command::Dataplane { command }) => dataplane::run(command.as_ref(), out).await,
            Some(Command::Route { command }) => route::run(command.as_ref(), out).await,
            Some(Command::Doctor(doctor)) => doctor::run(global, doctor, out).await,
            Some(Command::Explain(explain)) => explain::run(explain, out).await,
            Some(Command::Trace(trace)) => trace::run(trace, out).await,
            Some(Command::Counters(counters)) => counters::run(counters, out).await,
            Some(Command::Top(top)) => top::run(global, top, out).await,
            Some(Command::Status(status)) => status::run(global, status, out).await,
            _ => status::run(global, &arguments::Status::default(), out).await,
        }
    })
}

/// The hidden subcommand that serves one userspace WireGuard device.
#[expect(clippy::print_stderr, reason = "its stderr is what the starter reads")]
fn serve(name: &str) -> ExitCode {
    match userspace::serve(name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            Exit::Failed.into()
        }
    }
}

/// Tells what is wrong with the command line: as text and, with `--json`, as one object. Help and
/// version are no faults.
#[expect(clippy::print_stderr, reason = "errors are told here, too")]
fn misused(error: &clap::Error) -> ExitCode {
    // What could not be parsed cannot say itself whether JSON was asked for.
    let words = std::env::args_os().skip(1).take_while(|word| word != "--");
    let json = words.into_iter().any(|word| {
        let word = word.to_string_lossy();
        let short = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        word == "--json"
            || short.is_some_and(|rest| rest.chars().all(char::is_alphabetic) && rest.contains('j'))
    });
    if !json || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let document = serde_json::json!({
        "schema_version": output::SCHEMA_VERSION,
        "error": first.strip_prefix("error: ").unwrap_or(first),
        "causes": lines.collect::<Vec<_>>(),
        "state": "nothing was changed",
        "exit_code": Exit::Usage as u8,
    });
    eprintln!("{document}");
    Exit::Usage.into()
}

/// Tells a failure on stderr, as text and, with `--json`, as one object.
#[expect(
    clippy::print_stderr,
    reason = "this is the one place where errors are told"
)]
fn report(failure: &Failure, style: Style, color: bool) -> ExitCode {
    let broken_pipe = failure.error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS; // The reader has seen enough.
    }
    let faults = failure.error.downcast_ref::<Faults>();
    if style.json {
        let mut json = serde_json::to_value(FailureJson::from(failure)).unwrap_or_default();
        if let Some(faults) = faults {
            json["faults"] = serde_json::to_value(faults.sorted()).unwrap_or_default();
        }
        json["schema_version"] = output::SCHEMA_VERSION.into();
        eprintln!("{json}");
    } else if let Some(faults) = faults {
        eprint!("{}", faults.render(color));
        eprintln!("error: the objects are rejected; nothing was changed");
    } else {
        eprintln!("{failure}");
    }
    failure.exit.into()
}

fn log(arguments: &Arguments, color: bool) {
    let format = match &arguments.command {
        Some(Command::Run(run)) => Some(run.log_format),
        _ => None,
    };
    // What a daemon does is worth a line; what a command does is what was asked for.
    let verbose = arguments.global.verbose + u8::from(format.is_some());
    let level = match (arguments.global.quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("NETMESH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("netmesh={level}")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_target(false);
    // The journal notes the time itself.
    let timed = format.is_some() && std::env::var_os("JOURNAL_STREAM").is_none();
    // A second subscriber in one process is no harm.
    let _ = match format {
        Some(LogFormat::Json) => log.json().flatten_event(true).try_init(),
        Some(LogFormat::Text) if timed => log.try_init(),
        Some(LogFormat::Text) | None => log.without_time().try_init(),
    };
}
