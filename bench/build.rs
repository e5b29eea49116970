//! Builds the measuring programs, with the tools that `cargo xtask setup` has left.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("no folder")?).join("..");
    println!(
        "cargo:rerun-if-changed={}",
        root.join("netmesh-common/src").display()
    );
    let target = out
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").exists());
    let tools = target.unwrap_or(&out).join("tools");
    let toolchain = fs::read_to_string(tools.join("toolchain")).unwrap_or_default();
    let toolchain = match toolchain.trim() {
        "" => "nightly",
        name => name,
    };
    let mut path = vec![tools.join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    // SAFETY: the build script has one thread.
    unsafe {
        env::set_var("PATH", env::join_paths(path)?);
        env::set_var("CARGO_TERM_QUIET", "true");
        if toolchain != "nightly" {
            // A release compiler refuses `-Z build-std` without it.
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let programs: &Path = &root.join("netmesh-ebpf");
    let package = Package {
        name: "netmesh-ebpf",
        root_dir: programs.to_str().context("the path is not UTF-8")?,
        features: &["bench"],
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
        .context("the measuring programs did not build; `cargo xtask setup` checks the toolchain")
}
