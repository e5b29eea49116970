//! Builds the eBPF programs from source; `src/dataplane/load.rs` embeds the object.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

/// The rustup name under which `cargo xtask setup` links the distribution's compiler.
const LINKED_TOOLCHAIN: &str = "netmesh-bpf";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=NETMESH_BPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=../netmesh-common/src");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../netmesh-ebpf");
    let root = fs::canonicalize(&root).with_context(|| format!("no {}", root.display()))?;
    let root = root
        .to_str()
        .context("the path of netmesh-ebpf is not UTF-8")?;

    // What `cargo xtask setup` built, and what it chose, is found without anybody setting a path.
    let tools = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(root).join("../target"), PathBuf::from)
        .join("tools");
    let chosen = tools.join("toolchain");
    println!("cargo:rerun-if-changed={}", chosen.display());

    let named = env::var("NETMESH_BPF_TOOLCHAIN").ok().or_else(|| {
        let name = fs::read_to_string(&chosen).ok()?.trim().to_owned();
        has_core_source(&name).then_some(name)
    });
    let toolchain = match named.as_deref() {
        Some(name) => name,
        None if has_core_source("nightly") => "nightly",
        None if has_core_source(LINKED_TOOLCHAIN) => LINKED_TOOLCHAIN,
        None => bail!(
            "no Rust toolchain here can build for the BPF target: it needs the source of `core`.\n\
             Run `cargo xtask setup`, or `rustup toolchain install nightly --component rust-src`."
        ),
    };
    let mut path = tools.join("bin").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    // SAFETY: the build script has one thread.
    unsafe {
        env::set_var("PATH", path);
        // Every line of the inner build would be shown as a warning of this one.
        env::set_var("CARGO_TERM_QUIET", "true");
        if toolchain != "nightly" {
            // A release compiler refuses `-Z build-std` without it.
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    aya_build::build_ebpf(
        [Package {
            name: "netmesh-ebpf",
            root_dir: root,
            ..Package::default()
        }],
        Toolchain::Custom(toolchain),
    )
    .context("the eBPF programs did not build; `cargo xtask setup` checks the toolchain")
}

/// The toolchain exists and carries the standard library's source, without which
/// `-Z build-std=core` cannot work.
fn has_core_source(toolchain: &str) -> bool {
    Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|root| {
            PathBuf::from(root.trim())
                .join("lib/rustlib/src/rust/library/core/src/lib.rs")
                .exists()
        })
}
