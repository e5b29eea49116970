//! One run of a machine: what it says passes through, and it never outlives its time.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cache;
use super::image::Image;
use super::unpack::{unpack, with_dependencies};
use crate::run::output;
use crate::setup::packages::update;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// What `timeout` returns when it had to end the program.
const TIMED_OUT: i32 = 124;

/// Where QEMU is.
#[derive(Debug)]
pub(super) struct Emulator {
    /// The folder it was unpacked into; `None` when the machine has it.
    unpacked: Option<PathBuf>,
}

/// The machine's QEMU, or one that is unpacked for us: its packages do not get along with every
/// other version on a machine.
pub(super) fn find() -> anyhow::Result<Emulator> {
    if output(PROGRAM, &["--version"]).is_some() {
        return Ok(Emulator { unpacked: None });
    }
    let root = cache().join("qemu");
    let done = cache().join("qemu.done");
    if !done.exists() {
        let packages = || with_dependencies(PACKAGE).filter(|packages| !packages.is_empty());
        let packages = match packages() {
            Some(packages) => packages,
            None => {
                update();
                packages().with_context(|| {
                    format!("apt knows no {PACKAGE}; install QEMU for x86-64 and try again")
                })?
            }
        };
        let _ = fs::remove_dir_all(&root);
        unpack(&packages, &root)?;
        fs::write(&done, "")?;
    }
    Ok(Emulator {
        unpacked: Some(root),
    })
}

impl Emulator {
    fn command(&self, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        // In the foreground, so that an interrupt reaches the machine too.
        command.args(["--foreground", "--kill-after=5"]);
        command.arg(limit.as_secs().to_string());
        let Some(root) = &self.unpacked else {
            command.arg(PROGRAM);
            return command;
        };
        command.arg(root.join("usr/bin").join(PROGRAM));
        for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(root.join(folder));
        }
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries: Vec<String> = libraries
            .iter()
            .map(|folder| root.join(folder).display().to_string())
            .collect();
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        command
    }
}

/// Boots, runs the job, and tells whether it went well. An emulated machine now and then dies before
/// it has come to the job, of a breakpoint that the kernel had set while it rewrote its own code
/// ("Oops: int3", `text_poke`) and that another emulated CPU meets too late: it is started once more.
pub(super) fn run(
    emulator: &Emulator,
    image: &Image,
    name: &str,
    limit: Duration,
) -> anyhow::Result<bool> {
    match boot(emulator, image, name, limit)? {
        End::Unborn => {
            println!("{name:<4} | died before its first test: once more");
            Ok(boot(emulator, image, name, limit)? == End::Well)
        }
        end => Ok(end == End::Well),
    }
}

/// How a machine ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Badly,
    /// It never came to the job.
    Unborn,
}

fn boot(emulator: &Emulator, image: &Image, name: &str, limit: Duration) -> anyhow::Result<End> {
    let fast = has_kvm();
    let how = if fast { "KVM" } else { "emulated" };
    eprintln!("==> Linux {name} in a virtual machine ({how})");
    let started = Instant::now();
    if let Err(error) = fs::remove_file(&image.result)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).context("the result of the last run stays");
    }
    let mut child = command(emulator, image, fast, limit)
        .spawn()
        .context("QEMU could not be started")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut begun = false;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        begun |= line.starts_with(b"--- ");
        println!("{name:<4} | {}", String::from_utf8_lossy(&line).trim_end());
    }
    let in_time = child.wait()?.code() != Some(TIMED_OUT);
    let result = fs::read_to_string(&image.result).unwrap_or_default();
    let end = match (in_time, result.trim()) {
        (true, "0") => End::Well,
        (true, "") if !begun => End::Unborn,
        _ => End::Badly,
    };
    if !in_time {
        let minutes = limit.as_secs() / 60;
        println!("{name:<4} | failed: killed after {minutes} minutes (--minutes)");
    } else if result.trim().is_empty() {
        println!("{name:<4} | failed: ended without a result");
    }
    let words = if end == End::Well {
        "all is well"
    } else {
        "not all is well"
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("==> Linux {name}: {words}, {seconds:.1} s");
    Ok(end)
}

/// A machine that ends on its own time, whatever becomes of this program.
fn command(emulator: &Emulator, image: &Image, fast: bool, limit: Duration) -> Command {
    let share = |tag: &str, path: &std::path::Path| {
        format!(
            "local,path={},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
            path.display()
        )
    };
    let mut command = emulator.command(limit);
    let mut line =
        "console=ttyS0 loglevel=3 panic=-1 mitigations=off random.trust_cpu=on".to_owned();
    if fast {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        // Emulated, `rep movsb` and `rep stosb` go byte by byte: without these two flags the
        // kernel copies and clears in words.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"]);
        // Its TSC is the one below; any other clock is an exit for every reading.
        line.push_str(" no_timer_check tsc=reliable clocksource=tsc");
        // What the emulator has translated it finds again by its address: with libraries elsewhere
        // in every process, every process would be translated anew, three times as slow to start.
        line.push_str(" norandmaps");
    }
    command
        .args(["-smp", "2", "-m", "4G", "-nodefaults", "-no-user-config"])
        .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-serial")
        .arg(format!("file:{}", image.result.display()))
        .arg("-virtfs")
        .arg(share("host", std::path::Path::new("/")))
        .arg("-virtfs")
        .arg(share("kernel", &image.modules))
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// The device may be there and the processor not able.
fn has_kvm() -> bool {
    let able = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    });
    able && OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}
