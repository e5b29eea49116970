//! Private keys: one file each, readable by root alone, wiped from memory after use.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use wireguard_control::Key;
use zeroize::{Zeroize as _, Zeroizing};

use super::Error;
use crate::plan::state::PublicKey;

/// A private key. It prints as `(hidden)` and is wiped when dropped.
pub struct PrivateKey(Key);

impl PrivateKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.get_public().to_base64())
    }

    /// For the one call that hands it to the device.
    pub(super) fn expose(&self) -> Key {
        self.0.clone()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.0.zeroize();
    }
}

/// The folder of key files: `DIR/NETWORK/RESOURCE.key`.
#[derive(Clone, Debug)]
pub struct KeyStore {
    folder: PathBuf,
}

impl KeyStore {
    /// The store in this folder, which need not exist yet.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Makes a key pair and writes the private half.
    ///
    /// # Errors
    /// When there is a key already or the file cannot be written.
    pub fn generate(&self, network: &str, resource: &str) -> Result<PublicKey, Error> {
        let path = self.path(network, resource);
        let folder = path.parent().unwrap_or(&self.folder).to_owned();
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File {
                action: "cannot write",
                path,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(fail(&folder))?;
        let key = PrivateKey(Key::generate_private());
        let text = Zeroizing::new(key.0.to_base64());

        // Written aside and linked into place: the name appears with its whole content or not
        // at all, and never replaces a key.
        let aside = path.with_extension(format!("new.{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            });
        let linked = written.and_then(|()| fs::hard_link(&aside, &path));
        let _ = fs::remove_file(&aside); // It may never have been made.
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::KeyExists { path });
            }
            Err(error) => return Err(fail(&path)(error)),
        }
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(fail(&folder))?;
        Ok(key.public())
    }

    /// Reads a private key; one that others may read is refused.
    ///
    /// # Errors
    /// When there is none, it is exposed, or it is no key.
    pub fn private(&self, network: &str, resource: &str) -> Result<PrivateKey, Error> {
        let path = self.path(network, resource);
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoKey {
                    path,
                    network: network.to_owned(),
                    resource: resource.to_owned(),
                });
            }
            Err(source) => {
                return Err(Error::File {
                    action: "cannot read",
                    path,
                    source,
                });
            }
        };
        let fail = |source| Error::File {
            action: "cannot read",
            path: path.clone(),
            source,
        };
        let metadata = file.metadata().map_err(fail)?;
        let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
        if mode & 0o077 != 0 || (owner != 0 && owner != nix::unistd::geteuid().as_raw()) {
            return Err(Error::KeyExposed { path, mode, owner });
        }
        let mut text = Zeroizing::new(String::with_capacity(64));
        if file.take(64).read_to_string(&mut text).is_err() {
            return Err(Error::NotAKey { path });
        }
        Key::from_base64(text.trim())
            .map(PrivateKey)
            .map_err(|_| Error::NotAKey { path })
    }

    /// The public half of a key.
    ///
    /// # Errors
    /// As [`Self::private`].
    pub fn public(&self, network: &str, resource: &str) -> Result<PublicKey, Error> {
        Ok(self.private(network, resource)?.public())
    }

    fn path(&self, network: &str, resource: &str) -> PathBuf {
        self.folder.join(network).join(format!("{resource}.key"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, KeyStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::new(folder.path().join("keys"));
        (folder, store)
    }

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let (_folder, store) = store();
        let public = store.generate("alice", "gw").unwrap();
        assert_eq!(store.public("alice", "gw").unwrap(), public);
        let path = store.path("alice", "gw");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o700
        );
        assert!(matches!(
            store.generate("alice", "gw"),
            Err(Error::KeyExists { .. })
        ));
        assert_eq!(
            store.public("alice", "gw").unwrap(),
            public,
            "the old key is still there"
        );
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing but the key is left");
    }

    #[test]
    fn an_exposed_key_is_refused() {
        let (_folder, store) = store();
        store.generate("alice", "gw").unwrap();
        let path = store.path("alice", "gw");
        for mode in [0o640, 0o604, 0o660, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(
                store.private("alice", "gw"),
                Err(Error::KeyExposed { .. })
            ));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let (_folder, store) = store();
        assert!(matches!(
            store.private("alice", "gw"),
            Err(Error::NoKey { .. })
        ));
        store.generate("alice", "gw").unwrap();
        for text in ["", "short", "not base64 not base64 not base64 not base64!!"] {
            fs::write(store.path("alice", "gw"), text).unwrap();
            assert!(
                matches!(store.private("alice", "gw"), Err(Error::NotAKey { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_private_key_does_not_print() {
        let (_folder, store) = store();
        store.generate("alice", "gw").unwrap();
        let text = fs::read_to_string(store.path("alice", "gw")).unwrap();
        let key = store.private("alice", "gw").unwrap();
        assert_eq!(format!("{key:?}"), "(hidden)");
        assert!(!format!("{store:?}").contains(text.trim()));
    }
}
