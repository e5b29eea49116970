//! `netmesh run` on a machine of the lab, with a service manager that listens.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Lab, eventually};

/// What a daemon does by itself, it does within this.
pub const SOON: Duration = Duration::from_secs(20);

/// A daemon on one machine, ended with the test.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(lab: &Lab, machine: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let manager = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let told = Arc::default();
        let stop = Arc::default();
        listen(manager, Arc::clone(&told), Arc::clone(&stop));
        let mut arguments = vec!["run", "--log-format", "json"];
        arguments.extend(more);
        let child = lab
            .command(machine, &arguments)
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .env("WATCHDOG_USEC", "1500000")
            .env_remove("NETMESH_LOG")
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("netmesh starts");
        Self {
            child,
            folder,
            told,
            stop,
        }
    }

    /// What the service manager was told since it was asked last.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().expect("no panic"))
    }

    /// Waits until the service manager is told a word.
    pub fn until_told(&self, word: &str) {
        eventually(word, SOON, || {
            self.told()
                .iter()
                .any(|message| message.lines().any(|line| line == word))
        });
    }

    /// The log as it is.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the log")
    }

    /// The log, each line of which is one JSON object.
    ///
    /// # Panics
    /// When one is not.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    /// The log has this message.
    #[must_use]
    pub fn says(&self, message: &str) -> bool {
        self.log().iter().any(|line| line["message"] == *message)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal and waits for its end; tells its exit code.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn ends(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("it ends").code()
    }
}

/// A service manager that reads what it is sent: one that does not would lose words.
fn listen(manager: UnixDatagram, told: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    let often = Some(Duration::from_millis(100));
    manager.set_read_timeout(often).expect("a socket");
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(length) = manager.recv(&mut buffer) {
                let word = String::from_utf8_lossy(&buffer[..length]).into_owned();
                told.lock().expect("no panic").push(word);
            }
        }
    });
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that is killed leaves its lock's file behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.text());
        }
    }
}

impl Lab {
    /// Waits until a node has nothing left to do.
    ///
    /// # Panics
    /// When it goes on.
    pub fn settles(&self, node: &str) {
        eventually("nothing is left to do", SOON, || {
            let plan = self.try_netmesh(node, &["plan", "--exit-code"]);
            plan.status.code() == Some(0)
        });
    }
}
