//! Packages of the distribution, downloaded and unpacked into a folder: nothing is installed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::progress;
use crate::run::output;

const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Downloads packages and unpacks them below `root`.
pub(super) fn unpack(packages: &[String], root: &Path) -> anyhow::Result<()> {
    let archives = root.with_extension("archives");
    let _ = fs::remove_dir_all(&archives); // Of a download that was cut short.
    fs::create_dir_all(&archives)?;
    let mut command = Command::new("apt-get");
    // Root's downloads belong to root; apt's own user may not enter the folder.
    command
        .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
        .args(packages)
        .current_dir(&archives);
    let what = match packages {
        [one] => format!("download {one}"),
        [one, others @ ..] => format!("download {one} and {} packages more", others.len()),
        [] => return Ok(()),
    };
    progress::step(&what, &mut command, PATIENCE)?;
    fs::create_dir_all(root)?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&path).arg(root);
        progress::step(&format!("unpack {name}"), &mut command, PATIENCE)?;
    }
    fs::remove_dir_all(&archives)?;
    Ok(())
}

/// A package and what it needs beyond what is installed, the package first.
pub(super) fn with_dependencies(package: &str) -> Option<Vec<String>> {
    let plan = output(
        "apt-get",
        &["-q", "-s", "--no-install-recommends", "install", package],
    )?;
    let mut names: Vec<String> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| line.split_whitespace().next())
        .map(ToOwned::to_owned)
        .collect();
    names.sort_by_key(|name| name != package);
    Some(names)
}
