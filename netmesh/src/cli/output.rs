//! Where output goes: data to the caller's stdout, everything else to stderr.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use nix::unistd::dup2_stdout;
use serde::Serialize;
use serde_json::{Map, Value};

/// Version of the JSON that every command prints. Fields are added, never renamed within one.
pub const SCHEMA_VERSION: u32 = 1;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The one writer of data.
///
/// The process's own file descriptor 1 is pointed at `/dev/null`: a library that prints to stdout
/// (wireguard-control does) cannot get between a command and its reader.
#[derive(Debug)]
pub struct Output {
    file: File,
    json: bool,
    pretty: bool,
    brief: bool,
    quiet: bool,
    terminal: bool,
    color: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// JSON instead of text.
    pub json: bool,
    /// Indented JSON.
    pub pretty: bool,
    /// One line an item.
    pub brief: bool,
    /// No diagnostics but errors.
    pub quiet: bool,
    /// Colours.
    pub color: Color,
}

impl Style {
    /// Whether to colour what goes to a terminal, or elsewhere.
    #[must_use]
    pub fn colors(&self, terminal: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                terminal
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
            }
        }
    }
}

impl Output {
    /// Takes stdout for data and points descriptor 1 at `/dev/null`.
    ///
    /// # Errors
    /// When the descriptors cannot be duplicated.
    pub fn take_stdout(style: Style) -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        // Closed on exec: a process that is left running must not hold the reader.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        let color = style.colors(terminal) && !style.json;
        Ok(Self {
            file,
            json: style.json,
            pretty: style.pretty,
            brief: style.brief,
            quiet: style.quiet,
            terminal,
            color,
        })
    }

    /// JSON was asked for.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Short output was asked for.
    #[must_use]
    pub const fn is_brief(&self) -> bool {
        self.brief
    }

    /// Only errors were asked for on stderr.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Data goes to a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Colour is wanted.
    #[must_use]
    pub const fn color(&self) -> bool {
        self.color
    }

    /// Where data goes, for what draws on a terminal.
    #[must_use]
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Prints text.
    ///
    /// # Errors
    /// When the reader is gone or the disk is full.
    pub fn text(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        write!(self.file, "{text}")
    }

    /// Prints one JSON document: the fields of `value`, an object, after `schema_version`.
    ///
    /// # Errors
    /// When the reader is gone, the disk is full, or `value` cannot be serialised.
    pub fn json(&mut self, value: impl Serialize) -> io::Result<()> {
        let mut document = Map::new();
        document.insert("schema_version".into(), SCHEMA_VERSION.into());
        match serde_json::to_value(value)? {
            Value::Object(fields) => document.extend(fields),
            other => {
                document.insert("value".into(), other);
            }
        }
        if self.pretty {
            serde_json::to_writer_pretty(&mut self.file, &document)?;
        } else {
            serde_json::to_writer(&mut self.file, &document)?;
        }
        writeln!(self.file)
    }

    /// Moves the cursor home and clears what a former frame left, on a terminal.
    ///
    /// # Errors
    /// When the reader is gone.
    pub fn repaint(&mut self) -> io::Result<()> {
        if self.terminal && !self.json {
            self.file.write_all(b"\x1b[H\x1b[J")?;
        }
        self.file.flush()
    }
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
