//! One netlink socket a namespace, opened inside it and kept.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use rtnetlink::sys::AsyncSocket as _;

use super::{Error, netns};
use crate::plan::state::Namespace;

/// The kernel dump was interrupted by a change (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;

/// A dump that is interrupted this often is given up.
const ATTEMPTS: u32 = 30;

/// Netlink access to the node's namespace and all of its resources'.
///
/// A socket stays bound to the namespace in which it was opened. Requests on one handle are
/// serialised by its connection task; dumps on one socket never overlap because every caller
/// awaits the end of its own.
#[derive(Debug, Default)]
pub struct Kernel {
    /// With the number of the namespace they were opened in.
    handles: BTreeMap<Namespace, (Handle, u64)>,
    generic: BTreeMap<Namespace, (GenetlinkHandle, u64)>,
}

impl Kernel {
    /// The handle for a namespace, opened on first use.
    ///
    /// # Errors
    /// When the namespace is not there or the socket cannot be opened.
    pub(super) fn handle(&mut self, namespace: &Namespace) -> Result<Handle, Error> {
        if let Some((handle, _)) = self.handles.get(namespace) {
            return Ok(handle.clone());
        }
        let inode = netns::inode(namespace)?;
        let runtime = tokio::runtime::Handle::current();
        let opened = netns::run_in(namespace, || {
            let _guard = runtime.enter();
            let (mut connection, handle, _) = rtnetlink::new_connection()?;
            // A dump is whole when its end was seen, and may be marked as overtaken only there.
            connection.set_forward_done(true);
            let socket = connection.socket_mut().socket_mut();
            // The kernel says why it refuses; our request need not come back with it.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok::<_, std::io::Error>((connection, handle))
        })?;
        let (connection, handle) = opened.map_err(|source| closed(namespace, source))?;
        tokio::spawn(connection);
        self.handles
            .insert(namespace.clone(), (handle.clone(), inode));
        Ok(handle)
    }

    /// The handle for generic netlink families in a namespace, opened on first use.
    ///
    /// # Errors
    /// As those of `handle`.
    pub(super) fn generic(&mut self, namespace: &Namespace) -> Result<GenetlinkHandle, Error> {
        if let Some((handle, _)) = self.generic.get(namespace) {
            return Ok(handle.clone());
        }
        let inode = netns::inode(namespace)?;
        let runtime = tokio::runtime::Handle::current();
        let opened = netns::run_in(namespace, || {
            let _guard = runtime.enter();
            genetlink::new_connection()
        })?;
        let (connection, handle, _) = opened.map_err(|source| closed(namespace, source))?;
        tokio::spawn(connection);
        self.generic
            .insert(namespace.clone(), (handle.clone(), inode));
        Ok(handle)
    }

    /// Forgets the socket of a namespace that goes away.
    pub(super) fn forget(&mut self, namespace: &Namespace) {
        self.handles.remove(namespace);
        self.generic.remove(namespace);
    }

    /// Forgets the sockets of namespaces whose name is gone, or is another's now: they would keep
    /// what was removed alive, and change it in the place of what is there.
    pub fn forget_gone(&mut self) {
        let is_there = |namespace: &Namespace, inode: u64| {
            netns::inode(namespace).is_ok_and(|number| number == inode)
        };
        self.handles
            .retain(|namespace, (_, inode)| is_there(namespace, *inode));
        self.generic
            .retain(|namespace, (_, inode)| is_there(namespace, *inode));
    }

    /// A whole, consistent dump: one that was interrupted is taken again, never used.
    pub(super) async fn dump(
        &mut self,
        namespace: &Namespace,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut handle = self.handle(namespace)?;
        for attempt in 0..ATTEMPTS {
            let mut message = NetlinkMessage::from(request.clone());
            message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let refused = |source| Error::Refused {
                what: format!("dump of {what} in {namespace}"),
                source,
            };
            let mut answers = handle.request(message).map_err(refused)?;
            let mut found = Vec::new();
            let mut interrupted = false;
            let mut whole = false;
            while let Some(answer) = answers.next().await {
                interrupted |= answer.header.flags & DUMP_INTERRUPTED != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(done) if done.code == 0 => whole = true,
                    NetlinkPayload::Done(done) => {
                        return Err(Error::Dump {
                            what,
                            namespace: namespace.clone(),
                            source: nix::Error::from_raw(done.code.saturating_abs()),
                        });
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(refused(rtnetlink::Error::NetlinkError(error)));
                    }
                    // Messages were lost: the socket's buffer ran over.
                    NetlinkPayload::Overrun(_) => interrupted = true,
                    _ => {}
                }
            }
            if whole && !interrupted {
                return Ok(found);
            }
            if !whole && !interrupted {
                return Err(Error::Cut {
                    what,
                    namespace: namespace.clone(),
                });
            }
            tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(10)))).await;
        }
        Err(Error::Unstable {
            what,
            namespace: namespace.clone(),
        })
    }
}

fn closed(namespace: &Namespace, source: std::io::Error) -> Error {
    Error::File {
        action: "cannot open a netlink socket in",
        path: netns::path(namespace),
        source,
    }
}
