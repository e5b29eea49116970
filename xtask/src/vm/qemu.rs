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

/// Times a machine is started anew.
const RESTARTS: usize = 3;

/// Boots, runs the jobs, and tells whether all went well.
///
/// An emulated machine now and then dies of a breakpoint that its kernel has set while it rewrites its
/// own code (`text_poke`: "Oops: int3") and that another emulated CPU meets too late. It is started once
/// more, with the job it died in, and so is one that died before the first.
pub(super) fn run(
    emulator: &Emulator,
    image: &Image,
    name: &str,
    limit: Duration,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limit;
    let mut from = None;
    let mut failed = false;
    for _ in 0..=RESTARTS {
        let left = deadline.saturating_duration_since(Instant::now());
        // No time at all would be no limit to `timeout`.
        if left < Duration::from_secs(1) {
            println!("{name:<4} | failed: no time is left (--minutes)");
            return Ok(false);
        }
        let (end, said) = boot(emulator, image, name, left, from.as_deref())?;
        failed |= said.failed;
        if end != End::Dead || (!said.breakpoint && said.job.is_some()) {
            return Ok(end == End::Well && !failed);
        }
        from = said.job.or(from);
        let place = from.as_deref().unwrap_or("its first test");
        println!("{name:<4} | the machine died; once more, from {place}");
    }
    Ok(false)
}

/// How a machine ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Badly,
    /// Without a result.
    Dead,
}

/// What is learnt of a machine's words.
#[derive(Debug, Default)]
struct Said {
    /// The job it is at.
    job: Option<String>,
    /// One has failed.
    failed: bool,
    /// It met one of the kernel's breakpoints.
    breakpoint: bool,
}

impl Said {
    fn hear(&mut self, line: &str) {
        if let Some(job) = line.strip_prefix("--- ") {
            self.job = Some(job.to_owned());
        }
        self.failed |= line.starts_with("failed: ") || line.starts_with("failed twice: ");
        self.breakpoint |= line.contains("Oops: int3");
    }
}

fn boot(
    emulator: &Emulator,
    image: &Image,
    name: &str,
    limit: Duration,
    from: Option<&str>,
) -> anyhow::Result<(End, Said)> {
    let fast = has_kvm();
    let how = if fast { "KVM" } else { "emulated" };
    eprintln!("==> Linux {name} in a virtual machine ({how})");
    let started = Instant::now();
    if let Err(error) = fs::remove_file(&image.result)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).context("the result of the last run stays");
    }
    let mut child = command(emulator, image, fast, limit, from)
        .spawn()
        .context("QEMU could not be started")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut said = Said::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        said.hear(line.trim_end());
        println!("{name:<4} | {}", line.trim_end());
    }
    let in_time = child.wait()?.code() != Some(TIMED_OUT);
    let result = fs::read_to_string(&image.result).unwrap_or_default();
    let end = match (in_time, result.trim()) {
        (true, "0") => End::Well,
        (true, "") => End::Dead,
        _ => End::Badly,
    };
    if !in_time {
        println!("{name:<4} | failed: killed after its time (--minutes)");
    } else if end == End::Dead {
        println!("{name:<4} | failed: ended without a result");
    }
    let words = if end == End::Well {
        "all is well"
    } else {
        "not all is well"
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("==> Linux {name}: {words}, {seconds:.1} s");
    Ok((end, said))
}

/// A machine that ends on its own time, whatever becomes of this program.
fn command(
    emulator: &Emulator,
    image: &Image,
    fast: bool,
    limit: Duration,
    from: Option<&str>,
) -> Command {
    let share = |tag: &str, path: &std::path::Path| {
        format!(
            "local,path={},mount_tag={tag},security_model=none,readonly=on,multidevs=remap",
            path.display()
        )
    };
    let mut command = emulator.command(limit);
    let mut line =
        "console=ttyS0 loglevel=3 panic=-1 mitigations=off random.trust_cpu=on".to_owned();
    if let Some(from) = from {
        line.push_str(" netmesh.from=");
        line.push_str(from);
    }
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

#[cfg(test)]
mod tests {
    use super::Said;

    #[test]
    fn what_a_machine_says_is_understood() {
        let mut said = Said::default();
        for line in [
            "booted",
            "--- mesh",
            "test a ... FAILED",
            "once more, alone: a",
        ] {
            said.hear(line);
        }
        assert_eq!(said.job.as_deref(), Some("mesh"));
        assert!(!said.failed && !said.breakpoint);
        said.hear("--- traps");
        said.hear("[   52.3] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI");
        assert_eq!(said.job.as_deref(), Some("traps"));
        assert!(!said.failed && said.breakpoint);
        said.hear("failed twice: traps::b");
        assert!(said.failed);
    }
}
