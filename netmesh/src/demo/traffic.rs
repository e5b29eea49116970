//! Real packets, from sockets that threads open inside a namespace.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recvfrom,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use sha2::{Digest as _, Sha256};

use crate::kernel::netns;
use crate::plan::state::Namespace;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Echo requests and how many came back whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// Sent.
    pub sent: u32,
    /// Answered with the same payload.
    pub received: u32,
}

/// Sends `count` echo requests of `size` IP bytes from `source` to `destination`, one after the
/// other, each answer checked byte for byte. `lost` says how many in a row may stay unanswered.
///
/// # Errors
/// When no socket can be had or a packet cannot be sent.
pub fn ping(
    namespace: &Namespace,
    source: IpAddr,
    destination: IpAddr,
    size: usize,
    count: u32,
) -> anyhow::Result<Pings> {
    netns::run_in(namespace, || {
        let socket = Echo::open(source)?;
        let mut pings = Pings::default();
        for sequence in 0..count {
            pings.sent += 1;
            if socket.exchange(destination, size, sequence as u16)? {
                pings.received += 1;
            }
        }
        anyhow::Ok(pings)
    })?
}

struct Echo {
    socket: OwnedFd,
    identifier: u16,
    v6: bool,
}

impl Echo {
    fn open(source: IpAddr) -> anyhow::Result<Self> {
        let v6 = source.is_ipv6();
        let (family, protocol) = if v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(source, 0)),
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        let identifier = socket.as_raw_fd() as u16 ^ std::process::id() as u16;
        Ok(Self {
            socket,
            identifier,
            v6,
        })
    }

    fn exchange(&self, to: IpAddr, size: usize, sequence: u16) -> anyhow::Result<bool> {
        let header = if self.v6 { 40 } else { 20 };
        ensure!(
            size >= header + 8,
            "an echo request has at least {} bytes",
            header + 8
        );
        let request = self.message(if self.v6 { 128 } else { 8 }, size - header, sequence);
        let reply = self.message(if self.v6 { 129 } else { 0 }, size - header, sequence);
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        match sendto(
            self.socket.as_raw_fd(),
            &request,
            &address,
            MsgFlags::empty(),
        ) {
            Ok(_) => {}
            // An earlier ICMP error told on this socket; the packet counts as lost.
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EMSGSIZE) => {
                return Ok(false);
            }
            Err(error) => return Err(error).context("an echo request could not be sent"),
        }
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 65536];
        while Instant::now() < deadline {
            match recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, _)) => {
                    let got = &buffer[..length];
                    // IPv4 raw sockets deliver the IP header too.
                    let got = if self.v6 {
                        got
                    } else {
                        got.get(20..).unwrap_or_default()
                    };
                    // All but the checksum, which the kernel has verified.
                    if got.len() == reply.len() && got[..2] == reply[..2] && got[4..] == reply[4..]
                    {
                        return Ok(true);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("no answer could be received"),
            }
        }
        Ok(false)
    }

    /// An ICMP echo message with a pattern for a payload; for IPv6 the kernel adds the checksum.
    fn message(&self, kind: u8, length: usize, sequence: u16) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend((8..length).map(|i| (i as u8) ^ (sequence as u8)));
        if !self.v6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends `bytes` over TCP from `client` to `server` and the hash of what arrived back.
///
/// # Errors
/// When the connection fails, stalls, or what arrives is not what was sent.
pub fn tcp(
    client: (&Namespace, IpAddr),
    server: (&Namespace, IpAddr),
    bytes: usize,
) -> anyhow::Result<Duration> {
    let listener = netns::run_in(server.0, || TcpListener::bind((server.1, 0)))??;
    let address = listener.local_addr()?;
    let answer = std::thread::spawn(move || serve(&listener));
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
    let started = Instant::now();
    let told = netns::run_in(client.0, || -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        let from = stream.local_addr()?.ip();
        ensure!(
            from == client.1,
            "the connection came from {from}, not {}",
            client.1
        );
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&data)?;
        stream.shutdown(Shutdown::Write)?;
        let mut told = Vec::new();
        stream.read_to_end(&mut told)?;
        Ok(told)
    })?
    .with_context(|| format!("TCP from {} to {address}", client.1))?;
    let took = started.elapsed();
    match answer.join() {
        Ok(served) => served?,
        Err(_) => bail!("the server thread died"),
    }
    ensure!(
        told == Sha256::digest(&data).to_vec(),
        "what arrived is not what was sent"
    );
    Ok(took)
}

fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "nobody connected");
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    stream.write_all(&hash.finalize())?;
    Ok(())
}

/// Sends one IPv6 packet with a source of the sender's choosing.
///
/// # Errors
/// When it cannot be sent.
pub fn spoof(namespace: &Namespace, source: Ipv6Addr, destination: Ipv6Addr) -> anyhow::Result<()> {
    netns::run_in(namespace, || {
        // A raw socket of protocol IPPROTO_RAW takes the whole IPv6 header.
        let socket = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )?;
        // Version 6, no payload, no next header, hop limit 64.
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        packet.extend(source.octets());
        packet.extend(destination.octets());
        let to = SockaddrStorage::from(SocketAddr::new(destination.into(), 0));
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
        anyhow::Ok(())
    })?
}

/// Listens for packets from `source` on every device of a namespace.
pub struct Watch {
    socket: OwnedFd,
    source: Ipv6Addr,
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// When no packet socket can be had.
    pub fn open(namespace: &Namespace, source: Ipv6Addr) -> anyhow::Result<Self> {
        let socket = netns::run_in(namespace, || {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
        })??;
        Ok(Self { socket, source })
    }

    /// How many came within `patience`; ends early once one did.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn count(&self, patience: Duration) -> anyhow::Result<u32> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 256];
        let mut seen = 0;
        while Instant::now() < deadline && seen == 0 {
            match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if length >= 40 && buffer[0] >> 4 == 6 => {
                    if buffer[8..24] == self.source.octets() {
                        seen += 1;
                    }
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(seen)
    }
}
