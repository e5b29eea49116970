//! What the programs say themselves: few words, where no packet's verdict could tell.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use super::pin::{Folder, NamespaceId};
use super::{Error, sys};

/// The program all of whose instance's words are read by: every instance that follows its losses
/// has it.
const SPEAKER: &str = "xdp_sent";

/// The words of instances, read on where they were left.
#[derive(Default)]
pub struct Words {
    /// By the namespace's cookie: the program, which an upgrade replaces, and its words.
    heard: BTreeMap<u64, (u32, EbpfLogger<Teller>)>,
}

/// Passes an instance's words on.
struct Teller(String);

impl Log for Teller {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let instance = self.0.as_str();
        match record.level() {
            Level::Error | Level::Warn => tracing::warn!(instance, "{}", record.args()),
            _ => tracing::info!(instance, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}

impl Words {
    /// Passes on to the log what the programs of these namespaces have said since they were asked
    /// last; what they say while nobody asks is kept as far as there is room.
    ///
    /// # Errors
    /// When an instance's pins cannot be read; the others have been heard.
    pub fn pass_on(&mut self, of: impl Iterator<Item = NamespaceId>) -> Result<(), Error> {
        let mut result = Ok(());
        let here: BTreeSet<u64> = of.map(|namespace| namespace.cookie).collect();
        self.heard.retain(|cookie, _| here.contains(cookie));
        for folder in Folder::list()? {
            if here.contains(&folder.cookie)
                && let Err(error) = self.hear(&folder)
            {
                result = Err(error);
            }
        }
        result
    }

    fn hear(&mut self, folder: &Folder) -> Result<(), Error> {
        let path = folder.links().join(SPEAKER);
        // Without the follower nobody speaks.
        let Ok(link) = sys::open(&path) else {
            return Ok(());
        };
        let program = sys::link_program(link.as_fd()).map_err(|source| Error::Pin {
            action: "cannot look at",
            path,
            source,
        })?;
        let known = self.heard.get(&folder.cookie);
        if known.is_none_or(|(before, _)| *before != program) {
            if let Some((_, words)) = self.heard.get_mut(&folder.cookie) {
                // The last words of the programs that an upgrade has replaced.
                words.flush();
            }
            let teller = Teller(folder.name.clone());
            let Ok(words) = EbpfLogger::init_from_id_with_logger(program, teller) else {
                // Its programs are of a version that says nothing.
                self.heard.remove(&folder.cookie);
                return Ok(());
            };
            self.heard.insert(folder.cookie, (program, words));
        }
        if let Some((_, words)) = self.heard.get_mut(&folder.cookie) {
            words.flush();
        }
        Ok(())
    }
}
