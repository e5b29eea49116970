//! Long steps, visibly: one line a step, what its program says below it, and the time it took.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _, stderr};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Lines of a failed program that are shown.
const TAIL: usize = 25;
/// How often a line is printed where lines cannot be overwritten.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Columns a line may take without being wrapped.
const WIDTH: usize = 70;

/// Runs a step; what its program says passes by in one line and is kept back unless it fails.
pub(crate) fn step(what: &str, command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    eprintln!("==> {what}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: {:?} could not be started", command.get_program()))?;
    let (sender, lines) = channel();
    forward(child.stdout.take().context("no stdout")?, sender.clone());
    forward(child.stderr.take().context("no stderr")?, sender);

    let mut tail = VecDeque::new();
    let mut screen = Screen::new(started);
    let mut in_time = true;
    loop {
        match lines.recv_timeout(Duration::from_millis(250)) {
            Ok(line) => {
                screen.show(&line);
                tail.push_back(line);
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
            Err(RecvTimeoutError::Timeout) => screen.tick(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if started.elapsed() > limit {
            in_time = false;
            child.kill()?;
            break;
        }
    }
    let status = child.wait()?;
    screen.clear();
    if status.success() && in_time {
        eprintln!("    {:.1} s", started.elapsed().as_secs_f64());
        return Ok(());
    }
    for line in tail {
        eprintln!("    {line}");
    }
    if in_time {
        bail!("{what} failed ({status})");
    }
    bail!("{what} took longer than {} s", limit.as_secs());
}

fn forward(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line);
            // Progress bars overwrite themselves: what stands there last counts.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
            if !line.is_empty() && to.send(line.to_owned()).is_err() {
                return;
            }
        }
    });
}

/// One line that is overwritten on a terminal; one line now and then elsewhere.
struct Screen {
    terminal: bool,
    started: Instant,
    printed: Instant,
    last: String,
}

impl Screen {
    fn new(started: Instant) -> Self {
        Self {
            terminal: stderr().is_terminal() && env::var_os("TERM").is_some_and(|t| t != "dumb"),
            started,
            printed: started,
            last: String::new(),
        }
    }

    fn show(&mut self, line: &str) {
        self.last = line
            .chars()
            .filter(|c| !c.is_control())
            .take(WIDTH)
            .collect();
        self.tick();
    }

    fn tick(&mut self) {
        let seconds = self.started.elapsed().as_secs();
        if self.terminal {
            let (dim, plain) = match env::var_os("NO_COLOR") {
                Some(_) => ("", ""),
                None => ("\x1b[2m", "\x1b[0m"),
            };
            eprint!("\r\x1b[2K{dim}    {seconds} s  {}{plain}", self.last);
            let _ = stderr().flush();
        } else if self.printed.elapsed() >= HEARTBEAT {
            self.printed = Instant::now();
            eprintln!("    {seconds} s  {}", self.last);
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
            let _ = stderr().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_step_that_fails_says_so() {
        let limit = Duration::from_secs(20);
        assert!(step("good", &mut shell("echo a; echo b >&2"), limit).is_ok());
        let error = step("bad", &mut shell("echo a; exit 3"), limit).unwrap_err();
        assert!(error.to_string().starts_with("bad failed"), "{error}");
    }

    #[test]
    fn a_step_that_hangs_is_ended() {
        let started = Instant::now();
        let mut hang = shell("exec sleep 60");
        let error = step("hang", &mut hang, Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
