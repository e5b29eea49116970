//! What a machine's own IP and TCP say: the kernel's counters, its routes' learnt MTUs, and who
//! answers a packet that runs out of hops.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use netmesh::kernel::netns;
use netmesh::plan::state::Namespace;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, setsockopt, socket,
    sockopt,
};
use serde_json::Value;

use crate::slowness;

/// The counters `nstat` shows, under its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack(BTreeMap<String, u64>);

impl Stack {
    /// The counters of a namespace now.
    ///
    /// # Panics
    /// When there is no such namespace.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        let files = netns::run_in(namespace, || {
            ["snmp", "netstat", "snmp6"].map(|file| {
                std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("counters")
            })
        });
        let [snmp, netstat, snmp6] = files.expect("a namespace");
        let mut counters = BTreeMap::new();
        for text in [snmp, netstat] {
            // Two lines a protocol: names, values.
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks(2) {
                let (Some(names), Some(values)) = (pair.first(), pair.get(1)) else {
                    continue;
                };
                let (protocol, names) = names.split_once(':').expect("a protocol");
                let values = values.split_whitespace().skip(1);
                for (name, value) in names.split_whitespace().zip(values) {
                    counters.insert(format!("{protocol}{name}"), value.parse().unwrap_or(0));
                }
            }
        }
        for line in snmp6.lines() {
            if let Some((name, value)) = line.split_once(char::is_whitespace) {
                counters.insert(name.to_owned(), value.trim().parse().unwrap_or(0));
            }
        }
        Self(counters)
    }

    /// One counter.
    ///
    /// # Panics
    /// When the kernel has none of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("the kernel does not count {name}"))
    }

    /// How much each counter grew since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(name, value)| {
            let old = before.0.get(name).copied().unwrap_or(0);
            (name.clone(), value.saturating_sub(old))
        });
        Self(grown.collect())
    }

    /// Asserts that nothing arrived broken.
    ///
    /// # Panics
    /// When something did.
    pub fn assert_whole(&self, who: &str) {
        for name in [
            "TcpInCsumErrors",
            "TcpInErrs",
            "UdpInCsumErrors",
            "Udp6InCsumErrors",
            "IcmpInCsumErrors",
            "Icmp6InCsumErrors",
            "IpInHdrErrors",
            "Ip6InHdrErrors",
            "IpInTruncatedPkts",
            "Ip6InTruncatedPkts",
        ] {
            // Not every protocol has every counter on every kernel.
            let value = self.0.get(name).copied().unwrap_or(0);
            assert_eq!(value, 0, "{name} of {who}");
        }
    }
}

/// The MTU a host has learnt for a destination.
///
/// # Panics
/// When it has no route there.
#[must_use]
pub fn learnt_mtu(namespace: &Namespace, destination: IpAddr) -> Option<u64> {
    let route = netns::run_in(namespace, || {
        Command::new("ip")
            .args(["-j", "route", "get", &destination.to_string()])
            .output()
            .expect("ip starts")
    });
    let route: Value = serde_json::from_slice(&route.expect("a namespace").stdout).expect("JSON");
    route[0]["metrics"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|metric| metric["mtu"].as_u64())
}

/// Who told what about a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose address the ICMP message came from.
    pub by: IpAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The whole ICMP message.
    pub message: Vec<u8>,
}

/// Sends a datagram that may take so many hops, and waits for an ICMP message about it: one hop
/// of a traceroute.
///
/// # Panics
/// When no socket can be had.
#[must_use]
pub fn probe(namespace: &Namespace, source: IpAddr, to: SocketAddr, hops: u8) -> Option<Told> {
    netns::run_in(namespace, || {
        let v6 = source.is_ipv6();
        let (family, protocol) = if v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let icmp = socket(family, SockType::Raw, flags, protocol).expect("root");
        let udp = UdpSocket::bind((source, 0)).expect("a socket");
        let hops = i32::from(hops);
        if v6 {
            setsockopt(&udp, sockopt::Ipv6Ttl, &hops).expect("a hop limit");
        } else {
            setsockopt(&udp, sockopt::Ipv4Ttl, &hops).expect("a TTL");
        }
        udp.send_to(b"who is there", to).expect("sent");
        let port = udp.local_addr().expect("an address").port().to_be_bytes();
        // The quoted packet: behind 8 bytes of ICMP, and its source port behind its IP header.
        let (start, quoted) = if v6 { (0, 8 + 40) } else { (20, 20 + 8 + 20) };
        let deadline = Instant::now() + Duration::from_secs(2) * slowness();
        let mut buffer = vec![0; 4096];
        while Instant::now() < deadline {
            match recvfrom::<SockaddrStorage>(icmp.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from))) if length >= quoted + 2 => {
                    if buffer[quoted..quoted + 2] == port {
                        return Some(Told {
                            by: address(&from)?,
                            kind: buffer[start],
                            code: buffer[start + 1],
                            message: buffer[start..length].to_vec(),
                        });
                    }
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    })
    .expect("a namespace")
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(six) = from.as_sockaddr_in6() {
        return Some(IpAddr::V6(six.ip()));
    }
    Some(IpAddr::V4(from.as_sockaddr_in()?.ip()))
}

/// Packets that the data plane of a namespace has forwarded to and from a prefix.
///
/// # Panics
/// When none serves it, or it does not count the prefix.
#[must_use]
pub fn counted(namespace: &Namespace, prefix: &str) -> [u64; 2] {
    let document = counters(namespace, prefix);
    let rows = document["prefixes"].as_array().expect("prefixes");
    let row = rows.iter().find(|row| row["prefix"] == *prefix);
    let row = row.unwrap_or_else(|| panic!("{namespace} does not count {prefix}: {document}"));
    ["to", "from"].map(|way| row[way]["packets"].as_u64().expect("a number"))
}

fn counters(namespace: &Namespace, what: &str) -> Value {
    let name = namespace.to_string();
    let output = Command::new(crate::binary())
        .args(["--netns", &name, "--json", "counters", what])
        .output()
        .expect("netmesh starts");
    assert!(output.status.success(), "no data plane in {name}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The counters of a data plane's ports.
#[derive(Clone, Debug)]
pub struct Ports(Vec<Value>);

impl Ports {
    /// What `netmesh counters --drops` says of the data plane of a namespace.
    ///
    /// # Panics
    /// When none serves it.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        let document = counters(namespace, "--drops");
        Self(document["ports"].as_array().expect("ports").clone())
    }

    /// Packets all ports handed over.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        let packets = |port: &Value| port["forwarded"]["packets"].as_u64().expect("a number");
        self.0.iter().map(packets).sum()
    }

    /// Packets left to the kernel for a reason.
    #[must_use]
    pub fn punted(&self, reason: &str) -> u64 {
        self.sum("punted", |name| name == reason)
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.sum("dropped", |name| name == reason)
    }

    /// Asserts that every packet received has one outcome.
    ///
    /// # Panics
    /// When one has none, or two.
    pub fn assert_balanced(&self) {
        for port in &self.0 {
            let one = Self(vec![port.clone()]);
            let number = |name: &str| port[name].as_u64().expect("a number");
            let out = one.forwarded()
                + number("redirect_failed")
                + one.sum("punted", |_| true)
                + one.sum("dropped", |_| true);
            assert_eq!(number("received"), out, "{port}");
        }
    }

    fn sum(&self, outcome: &str, wanted: impl Fn(&str) -> bool) -> u64 {
        let rows = self.0.iter().filter_map(|port| port[outcome].as_array());
        rows.flatten()
            .filter(|row| wanted(row["reason"].as_str().expect("a reason")))
            .map(|row| row["packets"].as_u64().expect("a number"))
            .sum()
    }
}
