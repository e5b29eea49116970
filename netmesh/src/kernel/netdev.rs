//! What drivers do with frames that XDP sends: the generic netlink family `netdev` (Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use futures_util::StreamExt as _;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlasIterator, ParseableParametrized, parse_u32, parse_u64,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::Error;
use super::netlink::Kernel;
use crate::plan::state::Namespace;

/// `NETDEV_CMD_DEV_GET`.
const GET_DEVICE: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`.
const IFINDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`.
const FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs.
const NATIVE: u64 = 1;
/// `NETDEV_XDP_ACT_REDIRECT`: it hands frames to other devices.
const REDIRECTS: u64 = 1 << 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: it takes frames from other devices. A veth does where its other end
/// runs NAPI.
const TAKES: u64 = 1 << 2;
/// `NETDEV_XDP_ACT_NDO_XMIT_SG`: `ndo_xdp_xmit` takes frames that lie in several buffers.
const SENDS_SEVERAL_BUFFERS: u64 = 1 << 6;

/// What a driver does for XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// It runs programs.
    pub native: bool,
    /// It hands frames to other devices.
    pub redirects: bool,
    /// It takes frames from other devices.
    pub takes: bool,
}

/// A request for a device, and the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Netdev {
    ifindex: u32,
    features: u64,
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        GET_DEVICE
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Netdev {
    fn asked(&self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.ifindex.to_ne_bytes().to_vec())
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.asked().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.asked().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            match attribute.kind() {
                IFINDEX => found.ifindex = parse_u32(attribute.value())?,
                FEATURES => found.features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Whether the kernel has this family. It is looked for in a dump: for one that is asked for by
/// its name and is not there the kernel starts `modprobe`, every time (`ctrl_getfamily` of
/// net/netlink/genetlink.c).
async fn is_known(handle: &mut GenetlinkHandle) -> Option<bool> {
    let all = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: Vec::new(),
    });
    let mut request = NetlinkMessage::from(all);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request).await.ok()?;
    let mut known = false;
    while let Some(answer) = answers.next().await {
        match answer.ok()?.payload {
            NetlinkPayload::InnerMessage(message) => {
                known |= message.payload.nlas.iter().any(|attribute| {
                    matches!(attribute, GenlCtrlAttrs::FamilyName(name) if name == Netdev::family_name())
                });
            }
            NetlinkPayload::Error(_) => return None,
            _ => {}
        }
    }
    Some(known)
}

impl Kernel {
    /// Which of these devices have a driver that sends frames in several buffers for XDP. A kernel
    /// that cannot say so (before 6.3) redirects none (`xdp_do_redirect`).
    ///
    /// # Errors
    /// When the namespace is not there.
    pub(super) async fn sends_several_buffers(
        &mut self,
        namespace: &Namespace,
        devices: impl Iterator<Item = u32>,
    ) -> Result<BTreeSet<u32>, Error> {
        let features = self.xdp_features(namespace, devices).await?.into_iter();
        let several = features.filter(|(_, features)| features & SENDS_SEVERAL_BUFFERS != 0);
        Ok(several.map(|(ifindex, _)| ifindex).collect())
    }

    /// What the drivers of these devices do for XDP. A kernel before 6.3 says nothing of any.
    ///
    /// # Errors
    /// When the namespace is not there.
    pub async fn xdp(
        &mut self,
        namespace: &Namespace,
        devices: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Xdp>, Error> {
        let features = self.xdp_features(namespace, devices).await?.into_iter();
        let read = |features| Xdp {
            native: features & NATIVE != 0,
            redirects: features & REDIRECTS != 0,
            takes: features & TAKES != 0,
        };
        Ok(features
            .map(|(ifindex, features)| (ifindex, read(features)))
            .collect())
    }

    /// The bits of `enum netdev_xdp_act`, by interface index. Each is asked for by itself: the parts of this family's dumps are not marked as parts
    /// (`NLM_F_MULTI`), so that the library takes the first for the whole.
    ///
    /// # Errors
    /// When the namespace is not there.
    async fn xdp_features(
        &mut self,
        namespace: &Namespace,
        devices: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, u64>, Error> {
        let mut handle = self.generic(namespace)?;
        let mut found = BTreeMap::new();
        // Built in or not there at all: the answer is the same for as long as the kernel runs.
        static KNOWN: OnceLock<bool> = OnceLock::new();
        let known = match KNOWN.get() {
            Some(known) => *known,
            None => match is_known(&mut handle).await {
                Some(known) => *KNOWN.get_or_init(|| known),
                None => false,
            },
        };
        if !known {
            return Ok(found);
        }
        for ifindex in devices {
            let device = Netdev {
                ifindex,
                features: 0,
            };
            let mut request = NetlinkMessage::from(GenlMessage::from_payload(device));
            request.header.flags = NLM_F_REQUEST;
            let Ok(mut answers) = handle.request(request).await else {
                return Ok(found);
            };
            while let Some(answer) = answers.next().await {
                if let Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(message),
                    ..
                }) = answer
                {
                    found.insert(message.payload.ifindex, message.payload.features);
                }
            }
        }
        Ok(found)
    }
}
