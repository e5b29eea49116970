//! A distribution's kernel, downloaded and unpacked, never installed; and the few files with which
//! it gets at this machine's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::unpack::unpack;
use super::{Kernel, folder};
use crate::progress;
use crate::run::output;
use crate::setup::packages::update;

/// What a machine starts from.
#[derive(Debug)]
pub(crate) struct Image {
    /// The compressed kernel.
    pub(crate) kernel: PathBuf,
    /// The first files.
    pub(crate) initrd: PathBuf,
    /// The unpacked package: its modules are shared with the machine.
    pub(crate) modules: PathBuf,
    /// Where the machine says how it went.
    pub(crate) result: PathBuf,
}

const DEPMOD: Duration = Duration::from_secs(60);

/// Modules by which the machine gets at its files.
const FIRST: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Mounts this machine's files below a layer in memory, then runs `/job`.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module || echo "module $module does not load"; done
share() { mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 $1 $2; }
mkdir -p /host /layer /new
share host /host && mount -t tmpfs -o size=2g layer /layer && mkdir /layer/upper /layer/work &&
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new || {
    echo "this machine's files cannot be had"; poweroff -f; }
mkdir -p /new/lib/modules/$(uname -r)
mkdir -p /kernel && share kernel /kernel && mount -o bind /kernel/lib/modules/$(uname -r) /new/lib/modules/$(uname -r)
mount -t tmpfs run /new/run
mkdir /new/run/tmp
cp /job /new/run/job
mkdir -p /dev/pts /dev/net && mount -t devpts devpts /dev/pts
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
mount -t bpf bpf /sys/fs/bpf
for folder in proc sys dev; do mount -o move /$folder /new/$folder; done
ip link set lo up
echo "Linux $(uname -r)"
exec switch_root /new /bin/bash /run/job
"#;

/// Gets the kernel if it is not there yet, and packs the first files around the job.
pub(crate) fn prepare(kernel: Kernel, job: &str) -> anyhow::Result<Image> {
    let folder = folder(kernel);
    fs::create_dir_all(&folder)?;
    let root = folder.join("root");
    let version = match unpacked(&root) {
        Some(version) => version,
        None => fetch(kernel, &root)?,
    };
    let initrd = folder.join("initrd");
    pack(&folder.join("first"), &root, &version, job, &initrd)?;
    Ok(Image {
        kernel: root.join("boot").join(format!("vmlinuz-{version}")),
        initrd,
        modules: root,
        result: folder.join("result"),
    })
}

/// The version that is unpacked; its list of dependencies is the last thing made.
fn unpacked(root: &Path) -> Option<String> {
    let modules = fs::read_dir(root.join("lib/modules")).ok()?;
    modules
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .find(|version| {
            let folder = root.join("lib/modules").join(version);
            folder.join("modules.dep").exists() && root.join("bin/busybox").exists()
        })
}

fn fetch(kernel: Kernel, root: &Path) -> anyhow::Result<String> {
    let name = match newest(kernel) {
        Some(name) => name,
        None => {
            update();
            newest(kernel).with_context(|| {
                format!(
                    "apt knows no linux-image-{}.*-amd64; Debian 12 has 6.1, its backports 6.12",
                    kernel.name()
                )
            })?
        }
    };
    let _ = fs::remove_dir_all(root); // Whatever was begun.
    unpack(&[name.clone(), "busybox-static".to_owned()], root)?;
    let version = name
        .strip_prefix("linux-image-")
        .context("an odd name")?
        .to_owned();
    let mut command = Command::new("depmod");
    command.arg("-b").arg(root).arg(&version);
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    progress::step("depmod", &mut command, DEPMOD)?;
    unpacked(root).context("the package holds no modules")
}

/// The newest kernel of a line that is neither for clouds only nor for real time.
fn newest(kernel: Kernel) -> Option<String> {
    let prefix = format!("linux-image-{}.", kernel.name());
    let names = output("apt-cache", &["pkgnames", &prefix])?;
    let mut names: Vec<&str> = names
        .lines()
        .filter(|name| {
            name.ends_with("-amd64") && !name.contains("-cloud-") && !name.contains("-rt-")
        })
        .collect();
    names.sort_by_key(|name| numbers(name));
    names.last().map(|name| (*name).to_owned())
}

/// The numbers in a name, in order: `6.1.0-50` is newer than `6.1.0-47`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn pack(first: &Path, root: &Path, version: &str, job: &str, initrd: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(first);
    for name in ["bin", "modules", "proc", "sys", "dev"] {
        fs::create_dir_all(first.join(name))?;
    }
    fs::copy(root.join("bin/busybox"), first.join("bin/busybox"))?;
    fs::write(first.join("init"), INIT)?;
    fs::set_permissions(first.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::write(first.join("job"), job)?;
    let mut order = String::new();
    for path in needed(root, version)? {
        let name = path.file_name().context("a module without a name")?;
        let name = name.to_string_lossy();
        let plain = name.strip_suffix(".xz").unwrap_or(&name);
        let to = first.join("modules").join(plain);
        if !to.exists() {
            if plain.len() == name.len() {
                fs::copy(&path, &to)?;
            } else {
                let status = Command::new("xz")
                    .args(["-d", "-c"])
                    .arg(&path)
                    .stdout(fs::File::create(&to)?)
                    .status()?;
                ensure!(status.success(), "{} does not unpack", path.display());
            }
            order.push_str(plain);
            order.push('\n');
        }
    }
    fs::write(first.join("order"), order)?;
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --quiet -o -H newc -R 0:0"])
        .current_dir(first)
        .stdin(Stdio::null())
        .stdout(fs::File::create(initrd)?)
        .status()?;
    ensure!(status.success(), "cpio failed");
    Ok(())
}

/// The files of the first modules, each after those it needs; what is built in has none.
fn needed(root: &Path, version: &str) -> anyhow::Result<Vec<PathBuf>> {
    let root = root.to_string_lossy();
    let mut found = Vec::new();
    for module in FIRST {
        let text = output(
            "/sbin/modprobe",
            &["-d", &root, "-S", version, "--show-depends", module],
        )
        .with_context(|| format!("modprobe knows no {module}"))?;
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("insmod ") {
                found.push(PathBuf::from(path.trim()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let older = numbers("linux-image-6.12.99+deb12-amd64");
        assert!(older < numbers("linux-image-6.12.113+deb12-amd64"));
        assert!(numbers("linux-image-6.1.0-9-amd64") < numbers("linux-image-6.1.0-50-amd64"));
    }
}
