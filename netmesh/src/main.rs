//! The `netmesh` command.

fn main() {}
