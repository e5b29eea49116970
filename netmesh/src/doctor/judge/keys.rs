//! Who may read keys, and who may write objects.

use super::{Finding, Severity, ok, quoted};

/// What a file or folder of the configuration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A private key.
    Key,
    /// A folder of keys.
    KeyFolder,
    /// An object, or a folder of objects.
    Object,
}

/// A file or folder of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub path: String,
    /// What.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// It is root's, or that of who runs this.
    pub owned: bool,
    /// It is a symbolic link.
    pub link: bool,
}

/// The three kinds: check, what it is about, what all is well is called.
const KINDS: [(Kind, &str, &str, &str); 3] = [
    (
        Kind::Object,
        "config.files",
        "what they say is done as root: who may write them may do anything",
        "written by nobody else",
    ),
    (
        Kind::KeyFolder,
        "keys.folders",
        "who may write there may put keys of his own in the place of the node's",
        "nobody else's",
    ),
    (
        Kind::Key,
        "keys.files",
        "who reads a private key can be that resource; apply refuses keys that others may read",
        "read by nobody else",
    ),
];

pub(super) fn judge(objects: Option<&Result<(), String>>, files: &[Held]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(objects) = objects {
        let meaning = "what plan and apply go by";
        findings.push(match objects {
            Ok(()) => ok("objects", "accepted", meaning),
            Err(why) => ok("objects", why.clone(), meaning).but(Severity::Warning, "netmesh plan"),
        });
    }
    for (kind, check, meaning, well) in KINDS {
        let all = || files.iter().filter(|file| file.kind == kind);
        let before = findings.len();
        for file in all() {
            if let Some((severity, found, remedy)) = fault(file) {
                let found = format!("{}: {found}", file.path);
                findings.push(ok(check, found, meaning).but(severity, remedy));
            }
        }
        let number = all().count();
        if findings.len() == before && number > 0 {
            findings.push(ok(check, format!("{number}, {well}"), meaning));
        }
    }
    findings
}

/// What is wrong with a file, and what mends it.
fn fault(file: &Held) -> Option<(Severity, String, String)> {
    let path = quoted(&file.path);
    let mode = format!("mode {:04o}", file.mode);
    if !file.owned {
        let severity = match file.kind {
            Kind::Key => Severity::Error,
            Kind::KeyFolder | Kind::Object => Severity::Warning,
        };
        return Some((severity, "not root's".into(), format!("chown root {path}")));
    }
    match file.kind {
        Kind::Key if file.link => Some((
            Severity::Error,
            "a symbolic link, which apply does not follow".into(),
            format!("install -m 600 \"$(readlink -f {path})\" {path}.new && mv {path}.new {path}"),
        )),
        Kind::Key if file.mode & 0o077 != 0 => {
            Some((Severity::Error, mode, format!("chmod 600 {path}")))
        }
        Kind::KeyFolder if file.mode & 0o022 != 0 => {
            Some((Severity::Warning, mode, format!("chmod 700 {path}")))
        }
        Kind::KeyFolder if file.mode & 0o077 != 0 => {
            Some((Severity::Note, mode, format!("chmod 700 {path}")))
        }
        // The mode of a link says nothing.
        Kind::Object if file.mode & 0o022 != 0 && !file.link => {
            Some((Severity::Warning, mode, format!("chmod go-w {path}")))
        }
        Kind::Key | Kind::KeyFolder | Kind::Object => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_or_write_is_told_with_its_remedy() {
        use Severity::{Error, Note, Warning};
        let none = None::<(Severity, &str)>;
        for (kind, mode, owned, link, expected) in [
            (Kind::Key, 0o600, true, false, none),
            (Kind::Key, 0o400, true, false, none),
            (Kind::Key, 0o640, true, false, Some((Error, "chmod 600 /k"))),
            (
                Kind::Key,
                0o600,
                false,
                false,
                Some((Error, "chown root /k")),
            ),
            (
                Kind::Key,
                0o777,
                true,
                true,
                Some((
                    Error,
                    "install -m 600 \"$(readlink -f /k)\" /k.new && mv /k.new /k",
                )),
            ),
            (Kind::KeyFolder, 0o700, true, false, none),
            (
                Kind::KeyFolder,
                0o755,
                true,
                false,
                Some((Note, "chmod 700 /k")),
            ),
            (
                Kind::KeyFolder,
                0o770,
                true,
                false,
                Some((Warning, "chmod 700 /k")),
            ),
            (Kind::Object, 0o644, true, false, none),
            (Kind::Object, 0o777, true, true, none),
            (
                Kind::Object,
                0o664,
                true,
                false,
                Some((Warning, "chmod go-w /k")),
            ),
            (
                Kind::Object,
                0o644,
                false,
                false,
                Some((Warning, "chown root /k")),
            ),
        ] {
            let file = Held {
                path: "/k".into(),
                kind,
                mode,
                owned,
                link,
            };
            let findings = judge(None, &[file]);
            let [finding] = findings.as_slice() else {
                panic!("{findings:?}");
            };
            let found = finding.remedy.as_deref().map(|it| (finding.severity, it));
            assert_eq!(found, expected, "{kind:?} {mode:o}");
        }
    }

    #[test]
    fn a_path_with_a_space_is_one_word_of_the_remedy() {
        assert_eq!(quoted("/etc/my keys/it's"), "'/etc/my keys/it'\\''s'");
    }
}
