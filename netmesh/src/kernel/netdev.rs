//! What drivers do with frames that XDP sends: the generic netlink family `netdev` (Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml).

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized, parse_u32, parse_u64,
};
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
/// `NETDEV_XDP_ACT_NDO_XMIT_SG`: `ndo_xdp_xmit` takes frames that lie in several buffers.
const SENDS_SEVERAL_BUFFERS: u64 = 1 << 6;

/// A request for every device, and the answer about one.
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

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
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

impl Kernel {
    /// Devices whose driver sends frames in several buffers for XDP. A kernel that cannot say so
    /// (before 6.3) redirects none (`xdp_do_redirect`).
    ///
    /// # Errors
    /// When the namespace is not there.
    pub(super) async fn sends_several_buffers(
        &mut self,
        namespace: &Namespace,
    ) -> Result<BTreeSet<u32>, Error> {
        let mut handle = self.generic(namespace)?;
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(Netdev::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let Ok(mut answers) = handle.request(request).await else {
            return Ok(BTreeSet::new());
        };
        let mut found = BTreeSet::new();
        while let Some(answer) = answers.next().await {
            if let Ok(NetlinkMessage {
                payload: NetlinkPayload::InnerMessage(message),
                ..
            }) = answer
                && message.payload.features & SENDS_SEVERAL_BUFFERS != 0
            {
                found.insert(message.payload.ifindex);
            }
        }
        Ok(found)
    }
}
