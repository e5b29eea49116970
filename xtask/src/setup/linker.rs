//! bpf-linker, and the LLVM it is built upon. It must read what the compiler wrote: its LLVM is
//! at least as new as the compiler's.

use std::env;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use super::packages::{self, Package};
use super::toolchain::Candidate;
use crate::progress;
use crate::run::{cargo, output, tools};

/// The linker's version.
pub(crate) const VERSION: &str = "0.13.0";
/// The LLVMs this version can be built upon.
const LLVMS: RangeInclusive<u32> = 21..=23;
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The linker that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Linker {
    /// None, or one that does not run.
    Missing,
    /// One upon this LLVM.
    Llvm(u32),
    /// One that does not tell: LLVM is linked into it.
    Unknown,
}

impl Linker {
    /// The linker in use: ours, else the one in the search path.
    pub(crate) fn find() -> Self {
        if output("bpf-linker", &["--version"]).is_none() {
            return Self::Missing;
        }
        let llvm = if tools().join("bin/bpf-linker").exists() {
            written_llvm()
        } else {
            loaded_llvm()
        };
        llvm.map_or(Self::Unknown, Self::Llvm)
    }

    /// Whether it reads what this compiler writes.
    pub(crate) fn takes(self, compiler: &Candidate) -> bool {
        match self {
            Self::Missing => false,
            Self::Llvm(own) => own >= compiler.llvm,
            Self::Unknown => proves_itself(&compiler.name).unwrap_or(false),
        }
    }
}

/// Whether a linker for this LLVM can be built here.
pub(crate) fn can_be_built(llvm: u32) -> bool {
    usable_llvm(llvm).is_some()
}

/// The packages a linker for this LLVM is built from.
pub(crate) fn packages(llvm: u32) -> Vec<Package> {
    let Some(llvm) = usable_llvm(llvm) else {
        return Vec::new();
    };
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    match llvm_prefix(llvm) {
        // Another distribution's, or built by hand: complete by itself.
        Some(prefix) if prefix != debian => Vec::new(),
        Some(_)
            if debian.join("lib/libPolly.a").exists()
                && Path::new("/usr/include/zstd.h").exists() =>
        {
            Vec::new()
        }
        _ => vec![
            Package::new(
                format!("llvm-{llvm}-dev"),
                "the LLVM bpf-linker is built upon",
            ),
            Package::new(
                format!("libpolly-{llvm}-dev"),
                "a library LLVM links against",
            ),
            Package::new("libzstd-dev", "a library LLVM links against"),
        ],
    }
}

/// Builds the linker into our tools.
///
/// # Errors
/// When it does not build, or does not run.
pub(crate) fn build(compiler: &Candidate) -> anyhow::Result<()> {
    let built_upon = usable_llvm(compiler.llvm).and_then(|llvm| Some((llvm, llvm_prefix(llvm)?)));
    let Some((llvm, prefix)) = built_upon else {
        bail!("no LLVM for bpf-linker: {}", by_hand(compiler.llvm));
    };
    let mut command = cargo(&["install", "bpf-linker", "--version", VERSION, "--locked"]);
    command
        .args(["--force", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(tools())
        // Built where cargo builds tools, not among this work tree's artifacts.
        .env_remove("CARGO_TARGET_DIR")
        .env("LLVM_PREFIX", &prefix);
    progress::step(
        &format!("build bpf-linker {VERSION} upon LLVM {llvm} (about a minute, once)"),
        &mut command,
        PATIENCE,
    )?;
    fs::write(tools().join("llvm"), llvm.to_string())?;
    if !Linker::find().takes(compiler) {
        bail!(
            "bpf-linker was built into {} and does not run",
            tools().display()
        );
    }
    Ok(())
}

/// What to do where it cannot be built.
pub(crate) fn by_hand(llvm: u32) -> String {
    format!(
        "install LLVM {llvm}'s development files, then run\n  LLVM_PREFIX=… cargo install \
         bpf-linker --version {VERSION} --no-default-features --features llvm-{llvm}\n  cargo \
         xtask setup\nor put a bpf-linker from https://github.com/aya-rs/bpf-linker/releases \
         into PATH and run\n  cargo xtask setup"
    )
}

/// The LLVM to build upon for a compiler's: the oldest that is new enough and to be had.
fn usable_llvm(compilers: u32) -> Option<u32> {
    (compilers.max(*LLVMS.start())..=*LLVMS.end()).find(|llvm| {
        llvm_prefix(*llvm).is_some() || packages::candidate(&format!("llvm-{llvm}-dev")).is_some()
    })
}

/// Where an LLVM with its development files is installed.
fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let named = env::var("LLVM_PREFIX").map(|prefix| format!("{prefix}/bin/llvm-config"));
    let places = [
        format!("/usr/lib/llvm-{llvm}/bin/llvm-config"),
        format!("/usr/lib64/llvm{llvm}/bin/llvm-config"),
        format!("/usr/lib/llvm/{llvm}/bin/llvm-config"),
        format!("llvm-config-{llvm}"),
        "llvm-config".to_owned(),
    ];
    named.into_iter().chain(places).find_map(|config| {
        let version = output(&config, &["--version"])?;
        let major: u32 = version.trim().split('.').next()?.parse().ok()?;
        let prefix = PathBuf::from(output(&config, &["--prefix"])?.trim());
        let include = output(&config, &["--includedir"])?;
        let complete = Path::new(include.trim()).join("llvm-c/Core.h").exists();
        (major == llvm && complete).then_some(prefix)
    })
}

/// The LLVM we wrote down when we built the linker.
fn written_llvm() -> Option<u32> {
    fs::read_to_string(tools().join("llvm"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The LLVM whose library the linker in the search path loads.
fn loaded_llvm() -> Option<u32> {
    let path = output("sh", &["-c", "command -v bpf-linker"])?;
    library_llvm(&output("ldd", &[path.trim()])?)
}

/// `libLLVM.so.22.1` and `libLLVM-22.so.1` are LLVM 22.
fn library_llvm(libraries: &str) -> Option<u32> {
    libraries
        .split("libLLVM")
        .nth(1)?
        .split(|c: char| !c.is_ascii_digit())
        .find(|digits| !digits.is_empty())?
        .parse()
        .ok()
}

/// Has the compiler write an empty crate for the BPF target, and the linker read it.
fn proves_itself(toolchain: &str) -> anyhow::Result<bool> {
    let folder = tools().join("probe");
    fs::create_dir_all(&folder)?;
    let (source, bitcode) = (folder.join("empty.rs"), folder.join("empty.bc"));
    fs::write(
        &source,
        "#![feature(no_core)]\n#![no_core]\n#![crate_type = \"lib\"]\n",
    )?;
    let compiled = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--target=bpfel-unknown-none"])
        .args(["--emit=llvm-bc", "-o"])
        .args([&bitcode, &source])
        .env("RUSTC_BOOTSTRAP", "1")
        .output()?;
    let bitcode = bitcode.display().to_string();
    let object = folder.join("empty.o").display().to_string();
    let linked = output("bpf-linker", &[&bitcode, "-o", &object]).is_some();
    Ok(compiled.status.success() && linked)
}

#[cfg(test)]
mod tests {
    use super::super::toolchain::Source;
    use super::*;

    fn compiler(llvm: u32) -> Candidate {
        Candidate {
            name: "nightly".into(),
            llvm,
            source: Source::Present,
        }
    }

    #[test]
    fn a_linker_reads_what_is_not_newer_than_itself() {
        assert!(Linker::Llvm(22).takes(&compiler(22)));
        assert!(Linker::Llvm(23).takes(&compiler(22)));
        assert!(!Linker::Llvm(22).takes(&compiler(23)));
        assert!(!Linker::Missing.takes(&compiler(21)));
    }

    #[test]
    fn the_library_tells_its_version() {
        let new = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)";
        let old = "\tlibLLVM-19.so.1 => /lib/x86_64-linux-gnu/libLLVM-19.so.1 (0x7f)";
        assert_eq!(library_llvm(new), Some(22));
        assert_eq!(library_llvm(old), Some(19));
        assert_eq!(library_llvm("\tlibc.so.6 => /lib/libc.so.6"), None);
    }
}
