//! What the service manager is told (sd_notify(3)); nothing when there is none.
//!
//! A datagram to a manager that does not read its socket blocks the sender: it is sent by a thread
//! of its own, and what that cannot keep up with is left out.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// What may wait to be sent.
const WAITING: usize = 16;
/// How long the last word may take.
const LAST: Duration = Duration::from_secs(1);

enum Word {
    Alive,
    Reloading,
    Status { status: String, ready: bool },
    Stopping(SyncSender<()>),
}

/// The service manager.
#[derive(Debug)]
pub(super) struct Service {
    sender: Option<SyncSender<Word>>,
    /// It was told that we are up.
    up: bool,
    /// It waits for the end of a reload.
    reloading: bool,
    status: String,
}

impl Service {
    /// Looks whether there is one.
    pub(super) fn new() -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("service".into());
        let started = std::env::var_os("NOTIFY_SOCKET")
            .and_then(|_| thread.spawn(move || tell(&receiver)).ok());
        Self {
            sender: started.map(|_| sender),
            up: false,
            reloading: false,
            status: String::new(),
        }
    }

    /// How often it wants to hear that we live.
    pub(super) fn watchdog() -> Option<Duration> {
        // In time even when one word comes late.
        sd_notify::watchdog_enabled().map(|limit| limit / 3)
    }

    /// The main loop goes round.
    pub(super) fn alive(&self) {
        self.say(Word::Alive);
    }

    /// A pass has ended: we are up, and a reload is done.
    pub(super) fn passed(&mut self, status: &str) {
        // The words are ours and the objects', the protocol is by lines.
        let status: String = status
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let ready = !self.up || self.reloading;
        if ready || status != self.status {
            self.status.clone_from(&status);
            if self.say(Word::Status { status, ready }) {
                self.up = true;
                self.reloading = false;
            } else {
                // Again after the next pass.
                self.status.clear();
            }
        }
    }

    /// A reload begins.
    pub(super) fn reloading(&mut self) {
        self.reloading = self.say(Word::Reloading);
    }

    /// We go. The word is waited for, within bounds: the process may end with its thread.
    pub(super) fn stopping(&self) {
        let (sent, told) = sync_channel(1);
        if self.say(Word::Stopping(sent)) {
            let _ = told.recv_timeout(LAST);
        }
    }

    fn say(&self, word: Word) -> bool {
        let Some(sender) = &self.sender else {
            return true;
        };
        sender.try_send(word).is_ok()
    }
}

fn tell(words: &Receiver<Word>) {
    while let Ok(word) = words.recv() {
        let told = match &word {
            Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
            Word::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
            Word::Status {
                status,
                ready: true,
            } => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]),
            Word::Status { status, .. } => sd_notify::notify(&[NotifyState::Status(status)]),
            Word::Stopping(_) => sd_notify::notify(&[NotifyState::Stopping]),
        };
        if let Err(error) = told {
            tracing::debug!("the service manager does not listen: {error}");
        }
        if let Word::Stopping(sent) = word {
            let _ = sent.try_send(());
        }
    }
}
