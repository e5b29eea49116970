//! A machine whose mounts and processes are its own: what is mounted and unmounted there nobody else
//! sees, and its process 1 sees the same mounts as everybody on it.

use std::fs::create_dir_all;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

/// Where the pins are.
pub const BPFFS: &str = "/sys/fs/bpf";

const INSIDE: &str = "NETMESH_TEST_INSIDE";

/// Runs a test of the calling program, which is named here, on a machine of its own with a `/run`
/// of 16 MiB and a bpffs with nothing below it.
///
/// # Panics
/// When the test does.
pub fn machine(test: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).as_deref() == Ok(test) {
        mounted("tmpfs", "/run", "size=16m");
        create_dir_all(std::env::temp_dir()).expect("a folder");
        mounted("tmpfs", "/sys/fs", "size=1m");
        create_dir_all(BPFFS).expect("a folder");
        mounted("bpf", BPFFS, "mode=0700");
        body();
        return;
    }
    // A shell as process 1 waits for those whom nobody else waits for.
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([
            "--propagation",
            "private",
            "sh",
            "-c",
            "\"$@\"; exit $?",
            "sh",
        ])
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .output()
        .expect("unshare starts");
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test}: {}", output.status);
    assert!(told.contains("1 passed"), "there is no test {test}");
}

/// Mounts a file system.
///
/// # Panics
/// When it cannot.
pub fn mounted(kind: &str, at: impl AsRef<Path>, options: &str) {
    let flags = MsFlags::empty();
    mount(Some(kind), at.as_ref(), Some(kind), flags, Some(options)).expect("a mount");
}

/// Takes all the room that a file system has left.
///
/// # Panics
/// When it cannot be written to at all.
pub fn fill(folder: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("fill")).expect("a file");
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
