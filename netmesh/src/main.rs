//! The `netmesh` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    netmesh::cli::main()
}
