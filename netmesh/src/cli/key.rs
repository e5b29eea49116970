//! `netmesh key`: key pairs; the private half never leaves its file.

use std::path::Path;

use serde::Serialize;

use super::arguments::{Key, ResourceName};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::wireguard::key::KeyStore;

#[derive(Debug, Serialize)]
struct Report<'a> {
    network: &'a str,
    resource: &'a str,
    public_key: String,
}

/// Runs the command.
pub(super) fn run(folder: &Path, command: &Key, out: &mut Output) -> Result<Exit, Failure> {
    let store = KeyStore::new(folder.join("keys"));
    let (ResourceName { network, resource }, public_key) = match command {
        Key::Gen { resource: name } => {
            let public = store
                .generate(&name.network, &name.resource)
                .map_err(|error| Failure::failed(error, "no key was written"))?;
            (name, public.0)
        }
        Key::Pub { resource: name } => (name, store.public(&name.network, &name.resource)?.0),
    };
    if out.is_json() {
        out.json(Report {
            network,
            resource,
            public_key,
        })?;
    } else {
        out.text(format_args!("{public_key}\n"))?;
    }
    Ok(Exit::Done)
}
