//! Builds the eBPF programs from source; `src/dataplane/load.rs` embeds the object.
//!
//! `cargo xtask setup` leaves `tools/toolchain` (which compiler) and `tools/bin/bpf-linker` in
//! cargo's target folder; both are found from here, so a plain `cargo build` is enough.
//! `AYA_BUILD_SKIP=1` (and docs.rs) leave the programs out: such a netmesh compiles and cannot
//! load them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

/// The rustup name under which `cargo xtask setup` links the distribution's compiler.
const LINKED_TOOLCHAIN: &str = "netmesh-bpf";
/// The crate of the programs, and the object's name in `OUT_DIR`.
const PROGRAMS: &str = "netmesh-ebpf";
/// Sources beside the programs' own folder, which aya-build watches. The lock file pins what
/// they are made of.
const WATCHED: [&str; 3] = [
    "netmesh-common/src",
    "netmesh-common/Cargo.toml",
    "Cargo.lock",
];

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    let root = fs::canonicalize(&root).with_context(|| format!("no {}", root.display()))?;
    for watched in WATCHED {
        watch(&root.join(watched));
    }
    for variable in ["NETMESH_BPF_TOOLCHAIN", "AYA_BUILD_SKIP", "DOCS_RS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if is_skipped() {
        return leave_out(&out);
    }

    let tools = tools(&out);
    let chosen = tools.join("toolchain");
    watch(&chosen);
    let toolchain = toolchain(&chosen)?;
    let path = search_path(&tools);
    if !env::split_paths(&path).any(|folder| folder.join("bpf-linker").is_file()) {
        bail!(
            "bpf-linker is neither in {} nor in PATH. Run `cargo xtask setup`.",
            tools.join("bin").display()
        );
    }
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
    let programs = root.join(PROGRAMS);
    let programs = programs
        .to_str()
        .context("the path of netmesh-ebpf is not UTF-8")?;
    aya_build::build_ebpf(
        [Package {
            name: PROGRAMS,
            root_dir: programs,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("the eBPF programs did not build; `cargo xtask setup` checks the toolchain")
}

/// Has cargo run this again when a file changes. One that is not there would make it run
/// every time.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

fn is_skipped() -> bool {
    let skip = env::var_os("AYA_BUILD_SKIP");
    skip.is_some_and(|skip| skip == "1" || skip.eq_ignore_ascii_case("true"))
        || env::var_os("DOCS_RS").is_some()
}

/// An object of no programs, where a whole one was not built before.
fn leave_out(out: &Path) -> anyhow::Result<()> {
    let object = out.join(PROGRAMS);
    if !object.exists() {
        println!("cargo:warning=the eBPF programs are left out: this netmesh cannot forward");
        fs::write(&object, "")?;
    }
    Ok(())
}

/// Where `cargo xtask setup` leaves its tools: in cargo's target folder, wherever that is.
fn tools(out: &Path) -> PathBuf {
    out.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .unwrap_or(out)
        .join("tools")
}

/// The search path with our tools in front.
fn search_path(tools: &Path) -> OsString {
    let mut path = tools.join("bin").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    path
}

/// The compiler asked for, the one `setup` chose, or one that will do.
fn toolchain(chosen: &Path) -> anyhow::Result<String> {
    if let Ok(named) = env::var("NETMESH_BPF_TOOLCHAIN") {
        return Ok(named);
    }
    let chosen = fs::read_to_string(chosen).unwrap_or_default();
    [chosen.trim(), "nightly", LINKED_TOOLCHAIN]
        .into_iter()
        .find(|name| has_core_source(name))
        .map(ToOwned::to_owned)
        .context(
            "no Rust toolchain here can build for the BPF target: it needs the source of `core`.\n\
             Run `cargo xtask setup`, or `rustup toolchain install nightly --component rust-src`.",
        )
}

/// The toolchain exists and carries the standard library's source, without which
/// `-Z build-std=core` cannot work.
fn has_core_source(toolchain: &str) -> bool {
    if toolchain.is_empty() {
        return false;
    }
    Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        // Asking for a toolchain that is not there must not fetch it.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|root| {
            Path::new(root.trim())
                .join("lib/rustlib/src/rust/library/core/src/lib.rs")
                .exists()
        })
}
