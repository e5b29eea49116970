//! Data planes that were left behind.

use super::{Finding, Severity, ok, quoted};

/// A data plane that nobody needs, or that this netmesh does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its folder.
    pub path: String,
    /// The namespace it serves; `None` when that is gone.
    pub serves: Option<Serves>,
    /// Its layout, where that is not ours.
    pub layout: Option<u32>,
}

/// A namespace that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// This one.
    Here,
    /// Another, by name or path.
    There(String),
}

pub(super) fn judge(leftovers: &Result<Vec<Leftover>, String>) -> Vec<Finding> {
    let meaning = "every data plane is pinned, and outlives processes and namespaces";
    match leftovers {
        Err(why) => vec![
            ok("pins", format!("not seen: {why}"), meaning)
                .but(Severity::Note, "sudo netmesh doctor"),
        ],
        Ok(all) if all.is_empty() => vec![ok("pins", "nothing left behind", meaning)],
        Ok(all) => all.iter().map(one).collect(),
    }
}

fn one(leftover: &Leftover) -> Finding {
    let path = &leftover.path;
    match (&leftover.serves, leftover.layout) {
        (None, _) => {
            let meaning =
                "no process, name or mount holds that namespace: its maps hold memory for nothing";
            let found = format!("{path}: its namespace is gone");
            ok("pins.dead", found, meaning)
                .but(Severity::Warning, format!("rm -r {}", quoted(path)))
        }
        (Some(Serves::Here), layout) => {
            let meaning = "it forwards, and this netmesh can neither read nor change it";
            ok("pins.layout", older(path, layout), meaning).but(
                Severity::Error,
                "netmesh dataplane detach, then attach or apply again",
            )
        }
        (Some(Serves::There(name)), layout) => {
            let meaning = "another netmesh made it; this one can neither read nor change it";
            ok("pins.layout", older(path, layout), meaning).but(
                Severity::Note,
                format!("netmesh -n {} dataplane detach", quoted(name)),
            )
        }
    }
}

fn older(path: &str, layout: Option<u32>) -> String {
    match layout {
        Some(layout) => format!("{path}: of layout {layout}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_as_bad_as_what_it_serves() {
        let there = Serves::There("blue".into());
        for (serves, layout, check, severity, remedy) in [
            (
                None,
                None,
                "pins.dead",
                Severity::Warning,
                "rm -r /sys/fs/bpf/netmesh/v5/ports@1",
            ),
            (
                None,
                Some(4),
                "pins.dead",
                Severity::Warning,
                "rm -r /sys/fs/bpf/netmesh/v5/ports@1",
            ),
            (
                Some(Serves::Here),
                Some(4),
                "pins.layout",
                Severity::Error,
                "netmesh dataplane detach, then attach or apply again",
            ),
            (
                Some(there),
                Some(4),
                "pins.layout",
                Severity::Note,
                "netmesh -n blue dataplane detach",
            ),
        ] {
            let leftover = Leftover {
                path: "/sys/fs/bpf/netmesh/v5/ports@1".into(),
                serves,
                layout,
            };
            let findings = judge(&Ok(vec![leftover]));
            assert_eq!((findings[0].check, findings[0].severity), (check, severity));
            assert_eq!(findings[0].remedy.as_deref(), Some(remedy));
        }
        assert_eq!(judge(&Ok(Vec::new()))[0].severity, Severity::Ok);
        assert_eq!(judge(&Err("EPERM".into()))[0].severity, Severity::Note);
    }
}
