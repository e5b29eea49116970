//! What somebody who installs the package gets: looked at in a root of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::example;
use crate::run::{is_root, target};

/// What has to be in the package.
const FILES: [&str; 17] = [
    "etc/default/netmesh",
    "usr/bin/netmesh",
    "usr/lib/systemd/system/netmesh-names.socket",
    "usr/lib/systemd/system/netmesh-names@.service",
    "usr/lib/systemd/system/netmesh.service",
    "usr/share/bash-completion/completions/netmesh",
    "usr/share/doc/netmesh/CHANGELOG.md",
    "usr/share/doc/netmesh/README.md",
    "usr/share/doc/netmesh/copyright",
    "usr/share/doc/netmesh/examples/90-netmesh.conf",
    "usr/share/doc/netmesh/examples/grafana/netmesh.json",
    "usr/share/doc/netmesh/examples/networks/example.toml.sample",
    "usr/share/doc/netmesh/examples/node.toml",
    "usr/share/doc/netmesh/examples/prometheus/netmesh.rules.yml",
    "usr/share/fish/vendor_completions.d/netmesh.fish",
    "usr/share/zsh/vendor-completions/_netmesh",
    "usr/share/man/man1/netmesh.1.gz",
];
/// Libraries the binary may need: what every Debian system has.
const LIBRARIES: [&str; 5] = [
    "linux-vdso.so",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux",
];

/// Installs the package below a folder and runs what is in it.
pub(super) fn check(package: &Path) -> anyhow::Result<()> {
    let root = target().join("debian").join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    install(package, &root)?;
    for file in FILES {
        ensure!(root.join(file).is_file(), "{file} is not in the package");
    }
    let conffiles = said(
        Command::new("dpkg-deb")
            .arg("--info")
            .arg(package)
            .arg("conffiles"),
    )?;
    ensure!(
        conffiles.trim() == "/etc/default/netmesh",
        "configuration files are {conffiles}"
    );
    let netmesh = root.join("usr/bin/netmesh");
    libraries(&netmesh)?;
    let version = said(Command::new(&netmesh).arg("--version"))?;
    let fields = said(
        Command::new("dpkg-deb")
            .args(["--field"])
            .arg(package)
            .arg("Version"),
    )?;
    let number = version.trim().trim_start_matches("netmesh ");
    ensure!(
        fields.trim().starts_with(number),
        "the package is version {fields}, the binary {number}"
    );
    example_is_right(&netmesh, &root)?;
    let pages = pages(&root)?;
    println!(
        "package: {} KiB, {pages} manual pages, needs libc only; its example configuration is right",
        fs::metadata(package)?.len() / 1024
    );
    Ok(())
}

/// With dpkg, which needs root; else unpacked only.
fn install(package: &Path, root: &Path) -> anyhow::Result<()> {
    if !is_root() {
        let _ = said(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(package)
                .arg(root),
        )?;
        return Ok(());
    }
    for folder in ["updates", "info", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(folder))?;
    }
    for file in ["status", "available"] {
        fs::write(root.join("var/lib/dpkg").join(file), "")?;
    }
    let dpkg = |words: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg("--root").arg(root).args(words);
        command
    };
    // Nothing else is in that root, libc neither.
    let _ =
        said(dpkg(&["--force-depends", "--force-script-chrootless", "--install"]).arg(package))?;
    let status = said(&mut dpkg(&["--status", "netmesh"]))?;
    ensure!(
        status.contains("Status: install ok installed"),
        "dpkg says {status}"
    );
    Ok(())
}

fn libraries(netmesh: &Path) -> anyhow::Result<()> {
    let needed = said(Command::new("ldd").arg(netmesh))?;
    for line in needed
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let name = line.split_whitespace().next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        ensure!(
            LIBRARIES.iter().any(|library| name.starts_with(library)),
            "the binary needs {line}"
        );
    }
    Ok(())
}

/// The example, as it was installed, is what the work tree has, and netmesh takes it.
fn example_is_right(netmesh: &Path, root: &Path) -> anyhow::Result<()> {
    let examples = root.join("usr/share/doc/netmesh/examples");
    let folder = target().join("debian").join("config");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("networks"))?;
    ensure!(
        fs::read(example())? == fs::read(examples.join("node.toml"))?,
        "the example is another one"
    );
    fs::copy(examples.join("node.toml"), folder.join("node.toml"))?;
    let mut sample = fs::read_to_string(examples.join("networks/example.toml.sample"))?;
    // The sample says where a key belongs, and how to come by one.
    for name in ["example/gw", "example/web"] {
        let mut command = Command::new(netmesh);
        let command = command.arg("--config").arg(&folder);
        let key = said(command.args(["key", "gen", name]))?;
        let place = format!("what `netmesh key gen {name}` printed");
        ensure!(sample.contains(&place), "the sample has no {place}");
        sample = sample.replace(&place, key.trim());
    }
    fs::write(folder.join("networks/example.toml"), sample)?;
    let _ = said(
        Command::new(netmesh)
            .arg("--config")
            .arg(&folder)
            .arg("check"),
    )?;
    Ok(())
}

/// Every page is one that man shows without a complaint, where there is man.
fn pages(root: &Path) -> anyhow::Result<usize> {
    let folder = root.join("usr/share/man/man1");
    let mut pages: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        pages.push(entry?.path());
    }
    ensure!(pages.len() > 20, "there are {} manual pages", pages.len());
    for page in &pages {
        let mut man = Command::new("man");
        man.args(["--warnings", "--local-file"]).arg(page);
        man.env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "200")
            .env("MANROFFSEQ", "");
        let output = match man.stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) => return Err(error.into()),
        };
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && complaints.is_empty() && !output.stdout.is_empty(),
            "{}: {complaints}",
            page.display()
        );
    }
    Ok(pages.len())
}

/// What a command prints; it must succeed.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{:?} could not be started", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{:?} failed ({}): {}{}",
            command.get_program(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
