//! What kinds of links this kernel can make: tried out in a network namespace that lives as long
//! as the thread that asks.

use std::collections::BTreeMap;
use std::thread;

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{LinkMessage, NetkitMode};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkBridge, LinkNetkit, LinkVeth, LinkVlan, LinkVrf, LinkWireguard};

use super::Error;
use crate::plan::state::Namespace;

/// A kind of link, by the kernel's word, and why it cannot be made; `None` when it can.
pub type Kinds = BTreeMap<&'static str, Option<String>>;

/// Makes one link of every kind that matters to us, in a namespace of its own. The kernel loads
/// the modules it needs for that, as it would for `apply`.
///
/// # Errors
/// When the namespace or its netlink socket cannot be had: only root can.
pub fn link_kinds() -> Result<Kinds, Error> {
    apart(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_socket)?;
        runtime.block_on(try_out())
    })?
}

async fn try_out() -> Result<Kinds, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(no_socket)?;
    tokio::spawn(connection);
    let first = [
        ("veth", LinkVeth::new("a", "b").build()),
        ("wireguard", LinkWireguard::new("w").build()),
        ("bridge", LinkBridge::new("r").build()),
        ("vrf", LinkVrf::new("f", 7).build()),
        ("netkit", LinkNetkit::new("n", "m", NetkitMode::L3).build()),
    ];
    let mut kinds = Kinds::new();
    for (kind, message) in first {
        kinds.insert(kind, make(&handle, message).await);
    }
    let mut below = handle.link().get().match_name("a").execute();
    let below = below.try_next().await;
    let vlan = match below {
        Ok(Some(link)) => make(&handle, LinkVlan::new("v", link.header.index, 7).build()).await,
        _ => Some("there is no Ethernet device to put it on".to_owned()),
    };
    kinds.insert("vlan", vlan);
    Ok(kinds)
}

/// Why a link cannot be made.
async fn make(handle: &Handle, message: LinkMessage) -> Option<String> {
    match handle.link().add(message).execute().await {
        Ok(()) => None,
        Err(rtnetlink::Error::NetlinkError(error)) => Some(error.to_io().to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// Runs `work` on a thread in a network namespace that nobody else sees, gone with the work.
///
/// # Errors
/// When there is no permission to make one.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Namespace {
                action: "make",
                namespace: Namespace::Named("to try things in".into()),
                source,
            })?;
            Ok(work())
        });
        thread
            .join()
            .map_err(|_| Error::Thread(Namespace::Named("to try things in".into())))?
    })
}

fn no_socket(source: std::io::Error) -> Error {
    Error::File {
        action: "cannot open a netlink socket in",
        path: "a new network namespace".into(),
        source,
    }
}
