//! The terminal: taken, and given back as it was, however this ends.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};

use ratatui::Terminal;
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// What is drawn on.
pub(super) type Canvas = Terminal<CrosstermBackend<BufWriter<File>>>;

/// A terminal in raw mode that shows its other screen; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) canvas: Canvas,
    home: Home,
}

/// The way back, taken once.
#[derive(Clone, Debug)]
struct Home(Arc<Mutex<Option<File>>>);

impl Screen {
    /// Takes the terminal that this file is.
    pub(super) fn take(file: &File) -> io::Result<Self> {
        let canvas = Terminal::new(CrosstermBackend::new(BufWriter::new(file.try_clone()?)))?;
        let home = Home(Arc::new(Mutex::new(Some(file.try_clone()?))));
        let hook = panic::take_hook();
        let early = home.clone();
        panic::set_hook(Box::new(move |what| {
            // What a panic says is to be read on the screen where it stays.
            early.go();
            hook(what);
        }));
        enable_raw_mode()?;
        let mut screen = Self { canvas, home };
        execute!(screen.canvas.backend_mut(), EnterAlternateScreen)?;
        // Not the canvas's own way to clear: it asks the terminal for its cursor, through a stdout
        // that leads nowhere.
        screen.canvas.backend_mut().clear()?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.home.go();
    }
}

impl Home {
    fn go(&self) {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut file) = file {
            // A terminal that is gone needs nothing back.
            let _ = execute!(file, LeaveAlternateScreen, Show).and_then(|()| file.flush());
            let _ = disable_raw_mode();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use ratatui::crossterm::terminal::is_raw_mode_enabled;

    use super::*;

    const VICTIM: &str = "NETMESH_TEST_VICTIM";

    /// Panics while it draws; run by the test below on a terminal of its own.
    #[test]
    #[ignore = "takes the terminal; `a_panic_gives_the_terminal_back` runs it"]
    fn a_picture_that_panics() {
        if std::env::var_os(VICTIM).is_none() {
            return;
        }
        let terminal = File::options().read(true).write(true).open("/dev/tty");
        let mut screen = Screen::take(&terminal.unwrap()).unwrap();
        assert!(is_raw_mode_enabled().unwrap());
        let drawn = screen.canvas.draw(|_| panic!("a picture too many"));
        drawn.unwrap();
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        let shell = format!(
            "stty rows 24 cols 80; echo modes $(stty -g); {} --exact \
             top::screen::tests::a_picture_that_panics --ignored --nocapture --test-threads=1; echo \
             code $?; echo modes $(stty -g)",
            std::env::current_exe().unwrap().display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &shell, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env(VICTIM, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its end would be that of the terminal.
        let keys = script.stdin.take();
        let output = script.wait_with_output().unwrap();
        drop(keys);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let at = |what: &str| {
            text.find(what)
                .unwrap_or_else(|| panic!("{what:?} in {text:?}"))
        };
        // The other screen, back to the first one with its cursor, and only then the words.
        let order = [
            "\x1b[?1049h",
            "\x1b[?1049l",
            "\x1b[?25h",
            "a picture too many",
            "code 101",
        ];
        let order = order.map(at);
        assert!(order.is_sorted(), "{order:?} in {text:?}");
        let modes: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("modes"))
            .collect();
        assert_eq!(modes.len(), 2, "{text:?}");
        assert_eq!(modes[0], modes[1]);
    }
}
