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
