//! Devices: observed and changed by difference, one peer at a time, sessions of others untouched.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use wireguard_control::{
    AllowedIp, Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder, PeerInfo,
};

use super::key::PrivateKey;
use super::{Error, userspace};
use crate::plan::state::{PublicKey, WireguardDevice, WireguardPeer};

/// A handshake younger than this means that the tunnel lives: WireGuard renews it every two
/// minutes under traffic (`REJECT_AFTER_TIME`, whitepaper section 6.1).
pub const ALIVE: Duration = Duration::from_secs(180);

/// How one peer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Age of the latest handshake; `None` when there was none.
    pub handshake_age: Option<Duration>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Where it was last heard.
    pub endpoint: Option<SocketAddr>,
}

/// The configuration of a device; `None` when there is no such device. A kernel device is looked
/// for in the calling thread's namespace.
///
/// # Errors
/// When the name is none.
pub fn observe(name: &str) -> Result<Option<WireguardDevice>, Error> {
    let Some((device, backend)) = read(name)? else {
        return Ok(None);
    };
    let public_key = match device.public_key.as_ref().map(Key::to_base64) {
        Some(key) => Some(PublicKey(key)),
        None if backend == Backend::Userspace => userspace::own_public_key(name)
            .and_then(|hex| Key::from_hex(&hex).ok())
            .map(|key| PublicKey(key.to_base64())),
        None => None,
    };
    let peers = device
        .peers
        .iter()
        .map(|peer| {
            let config = WireguardPeer {
                endpoint: peer.config.endpoint,
                allowed_ips: peer
                    .config
                    .allowed_ips
                    .iter()
                    .filter_map(|ip| IpNet::new(ip.address, ip.cidr).ok())
                    .collect(),
                keepalive: peer
                    .config
                    .persistent_keepalive_interval
                    .filter(|seconds| *seconds > 0),
                alive: age(peer).is_some_and(|age| age < ALIVE),
            };
            (PublicKey(peer.config.public_key.to_base64()), config)
        })
        .collect();
    Ok(Some(WireguardDevice {
        public_key,
        key_of: None,
        listen_port: device.listen_port,
        peers,
    }))
}

/// How the peers of a device do.
///
/// # Errors
/// When there is no such device.
pub fn status(name: &str) -> Result<BTreeMap<PublicKey, PeerStatus>, Error> {
    let (device, _) = read(name)?.ok_or_else(|| Error::NoDevice { name: name.into() })?;
    Ok(device
        .peers
        .iter()
        .map(|peer| {
            let status = PeerStatus {
                handshake_age: age(peer),
                received: peer.stats.rx_bytes,
                sent: peer.stats.tx_bytes,
                endpoint: peer.config.endpoint,
            };
            (PublicKey(peer.config.public_key.to_base64()), status)
        })
        .collect())
}

/// Sets key and port.
///
/// # Errors
/// When the device is not there or refuses.
pub fn set_device(name: &str, key: &PrivateKey, listen_port: Option<u16>) -> Result<(), Error> {
    let mut update = DeviceUpdate::new().set_private_key(key.expose());
    if let Some(port) = listen_port {
        update = update.set_listen_port(port);
    }
    apply(
        name,
        update,
        "its key and port",
        ": is the port in use? `ss -ulnp` shows it",
    )?;
    if backend(name) == Backend::Userspace
        && let Err(error) = userspace::widen(name)
    {
        tracing::debug!(name, %error, "the receive buffers stay as they are");
    }
    Ok(())
}

/// Adds a peer, or brings it to this form. Without an endpoint the one in use stays.
///
/// # Errors
/// When the device is not there or refuses.
pub fn put_peer(
    name: &str,
    peer: &PublicKey,
    endpoint: Option<SocketAddr>,
    config: &WireguardPeer,
) -> Result<(), Error> {
    let (device, backend) = read(name)?.ok_or_else(|| Error::NoDevice { name: name.into() })?;
    let key = public_key(peer)?;
    let known = device
        .peers
        .iter()
        .find(|known| known.config.public_key == key);
    let mut endpoint = endpoint;
    if let Some(known) = known
        && backend == Backend::Userspace
    {
        // boringtun cannot change a peer: it is taken out and put back, and handshakes anew.
        // Every other peer keeps its session.
        endpoint = endpoint.or(known.config.endpoint);
        delete_peer(name, peer)?;
    }
    let ips: Vec<AllowedIp> = config
        .allowed_ips
        .iter()
        .map(|net| AllowedIp {
            address: net.addr(),
            cidr: net.prefix_len(),
        })
        .collect();
    let mut builder = PeerConfigBuilder::new(&key)
        .replace_allowed_ips()
        .add_allowed_ips(&ips);
    if let Some(endpoint) = endpoint {
        builder = builder.set_endpoint(endpoint);
    }
    builder = match config.keepalive {
        Some(seconds) => builder.set_persistent_keepalive_interval(seconds),
        None if backend == Backend::Userspace => builder,
        None => builder.unset_persistent_keepalive(),
    };
    apply(name, DeviceUpdate::new().add_peer(builder), "a peer", "")
}

/// Removes a peer; one that is not there is fine.
///
/// # Errors
/// When the device is not there or refuses.
pub fn delete_peer(name: &str, peer: &PublicKey) -> Result<(), Error> {
    let update = DeviceUpdate::new().remove_peer_by_key(&public_key(peer)?);
    apply(name, update, "to remove a peer", "")
}

fn apply(
    name: &str,
    update: DeviceUpdate,
    what: &'static str,
    hint: &'static str,
) -> Result<(), Error> {
    let interface = interface(name)?;
    let backend = backend(name);
    update
        .apply(&interface, backend)
        .map_err(|source| Error::Refused {
            name: name.to_owned(),
            what,
            hint,
            source,
        })
}

/// A device whose control socket answers is a userspace one.
fn backend(name: &str) -> Backend {
    if userspace::find(name).is_some() {
        Backend::Userspace
    } else {
        Backend::Kernel
    }
}

fn read(name: &str) -> Result<Option<(Device, Backend)>, Error> {
    let interface = interface(name)?;
    let backend = backend(name);
    match Device::get(&interface, backend) {
        Ok(device) => Ok(Some((device, backend))),
        // No module, no such device, or a link of another kind: all mean that there is none.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Ok(None),
        Err(source) => Err(Error::Refused {
            name: name.to_owned(),
            what: "to be read",
            hint: "",
            source,
        }),
    }
}

/// Age of the latest handshake. The kernel and wireguard-go tell its time; boringtun tells its
/// age in the same field, which reads as a moment early in 1970.
fn age(peer: &PeerInfo) -> Option<Duration> {
    let told = peer.stats.last_handshake_time?;
    let since_epoch = told.duration_since(UNIX_EPOCH).ok()?;
    if since_epoch < Duration::from_secs(10 * 365 * 86400) {
        return Some(since_epoch);
    }
    Some(SystemTime::now().duration_since(told).unwrap_or_default())
}

fn interface(name: &str) -> Result<InterfaceName, Error> {
    name.parse().map_err(|_| Error::Name {
        name: name.to_owned(),
    })
}

fn public_key(key: &PublicKey) -> Result<Key, Error> {
    Key::from_base64(&key.0).map_err(|_| Error::PublicKey {
        text: key.0.clone(),
    })
}
