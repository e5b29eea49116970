//! Exit codes: a contract with scripts.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

/// How a command ended. The numbers never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed at run time; the message says what state the machine is in.
    Failed = 1,
    /// The command line makes no sense (clap's own code).
    Usage = 2,
    /// The input was rejected; nothing was changed.
    Rejected = 3,
    /// Unhealthy or not ready.
    Unhealthy = 4,
    /// Changes are pending.
    Pending = 5,
    /// The daemon cannot be reached.
    Unreachable = 6,
    /// Not permitted.
    NotPermitted = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, outermost first.
    pub error: anyhow::Error,
    /// The state the machine is in now, and what to do.
    pub state: Option<&'static str>,
}

impl Failure {
    /// Input that is refused before anything was touched.
    pub fn rejected(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Rejected,
            error: error.into(),
            state: Some("nothing was changed"),
        }
    }

    /// A failure whose state is known.
    pub fn failed(error: impl Into<anyhow::Error>, state: &'static str) -> Self {
        let error = error.into();
        Self {
            exit: code_of(&error),
            error,
            state: Some(state),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            exit: code_of(&error),
            error,
            state: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain = self.error.chain();
        if let Some(first) = chain.next() {
            write!(f, "error: {first}")?;
        }
        for cause in chain {
            write!(f, "\n  cause: {cause}")?;
        }
        self.state
            .map_or(Ok(()), |state| write!(f, "\n  state: {state}"))
    }
}

/// The failure as `--json` prints it on stderr.
#[derive(Debug, Serialize)]
pub struct FailureJson {
    error: String,
    causes: Vec<String>,
    state: Option<&'static str>,
    exit_code: u8,
}

impl From<&Failure> for FailureJson {
    fn from(failure: &Failure) -> Self {
        let mut chain = failure.error.chain().map(ToString::to_string);
        Self {
            error: chain.next().unwrap_or_default(),
            causes: chain.collect(),
            state: failure.state,
            exit_code: failure.exit as u8,
        }
    }
}

/// A permission that is missing anywhere in the chain of causes makes the whole a matter of
/// permission.
fn code_of(error: &anyhow::Error) -> Exit {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            || cause
                .downcast_ref::<nix::Error>()
                .is_some_and(|error| matches!(error, nix::Error::EPERM | nix::Error::EACCES))
    };
    if error.chain().any(denied) {
        Exit::NotPermitted
    } else {
        Exit::Failed
    }
}
