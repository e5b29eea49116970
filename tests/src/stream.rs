//! A stream of numbered packets: which of them came, how often, and when.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netmesh::kernel::netns;
use netmesh::plan::state::Namespace;
use nix::sys::socket::{setsockopt, sockopt};

/// What is on its way when the stream ends has arrived after this.
const DRAIN: Duration = Duration::from_millis(500);

/// A stream that runs.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receivers: Vec<JoinHandle<Vec<(u64, Instant)>>>,
}

/// What came of a stream.
#[derive(Debug)]
pub struct Account {
    /// Packets sent.
    pub sent: u64,
    /// Numbers of those that never came.
    pub lost: Vec<u64>,
    /// Numbers of those that came more than once.
    pub twice: Vec<u64>,
    /// The longest time between two arrivals.
    pub silence: Duration,
    /// Number and time of arrival, in order of arrival.
    pub arrivals: Vec<(u64, Instant)>,
    /// Which of the hosts each number came to.
    pub ways: BTreeMap<u64, usize>,
}

impl Stream {
    /// Sends a packet every `period` from one host's address to another's.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    #[must_use]
    pub fn start(from: (&Namespace, IpAddr), to: (&Namespace, IpAddr), period: Duration) -> Self {
        Self::fan(from, (std::slice::from_ref(to.0), to.1), period)
    }

    /// Sends a packet every `period` to an address that several hosts have.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    #[must_use]
    pub fn fan(from: (&Namespace, IpAddr), to: (&[Namespace], IpAddr), period: Duration) -> Self {
        let bind = |namespace: &Namespace, address: SocketAddr| {
            let socket = netns::run_in(namespace, || UdpSocket::bind(address));
            let socket = socket.expect("the namespace").expect("a socket");
            // What comes while its reader waits for a CPU is not lost.
            setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).expect("a large buffer");
            socket
        };
        let sender = bind(from.0, SocketAddr::new(from.1, 0));
        let mut goal = SocketAddr::new(to.1, 0);
        let mut receivers = Vec::new();
        for namespace in to.0 {
            let receiver = bind(namespace, goal);
            goal = receiver.local_addr().expect("an address");
            receivers.push(receiver);
        }
        let [stop, done] = [(), ()].map(|()| Arc::new(AtomicBool::new(false)));
        let sent = Arc::new(AtomicU64::new(0));
        Self {
            sender: {
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                thread::spawn(move || send(&sender, goal, period, &stop, &sent))
            },
            receivers: receivers
                .into_iter()
                .map(|receiver| {
                    let done = Arc::clone(&done);
                    thread::spawn(move || receive(&receiver, &done))
                })
                .collect(),
            stop,
            done,
            sent,
        }
    }

    /// Packets sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it and tells what came of it.
    ///
    /// # Panics
    /// When one of its threads did.
    #[must_use]
    pub fn end(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender");
        thread::sleep(DRAIN);
        self.done.store(true, Ordering::Relaxed);
        let mut arrivals = Vec::new();
        let mut ways = BTreeMap::new();
        for (host, receiver) in self.receivers.into_iter().enumerate() {
            let came = receiver.join().expect("the receiver");
            ways.extend(came.iter().map(|(number, _)| (*number, host)));
            arrivals.extend(came);
        }
        arrivals.sort_by_key(|(_, at)| *at);
        let mut times = BTreeMap::<u64, u32>::new();
        for (number, _) in &arrivals {
            *times.entry(*number).or_default() += 1;
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let pairs = arrivals.windows(2);
        Account {
            sent,
            lost: (0..sent).filter(|n| !times.contains_key(n)).collect(),
            twice: times
                .iter()
                .filter(|(_, n)| **n > 1)
                .map(|(n, _)| *n)
                .collect(),
            silence: pairs
                .map(|pair| pair[1].1 - pair[0].1)
                .max()
                .unwrap_or_default(),
            arrivals,
            ways,
        }
    }
}

impl Account {
    /// Asserts that every packet came, and once.
    ///
    /// # Panics
    /// When not.
    pub fn assert_whole(&self, least: u64) {
        assert!(self.sent >= least, "{} packets are no stream", self.sent);
        let (none, sent) = (Vec::<u64>::new(), self.sent);
        assert_eq!(self.lost, none, "lost, of {sent}");
        assert_eq!(self.twice, none, "twice, of {sent}");
    }
}

fn send(
    socket: &UdpSocket,
    goal: SocketAddr,
    period: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let mut number = 0_u64;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut packet = [0x5a; 64];
        packet[..8].copy_from_slice(&number.to_be_bytes());
        // Unreachable, as an answer to an earlier packet: this one may go all the same.
        if socket.send_to(&packet, goal).is_ok() || socket.send_to(&packet, goal).is_ok() {
            number += 1;
            sent.store(number, Ordering::Relaxed);
        }
        next += period;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(socket: &UdpSocket, done: &AtomicBool) -> Vec<(u64, Instant)> {
    let often = Some(Duration::from_millis(50));
    socket.set_read_timeout(often).expect("a timeout");
    let mut arrivals = Vec::new();
    let mut packet = [0; 128];
    while !done.load(Ordering::Relaxed) {
        match socket.recv(&mut packet) {
            Ok(length) if length >= 8 => {
                let mut number = [0; 8];
                number.copy_from_slice(&packet[..8]);
                arrivals.push((u64::from_be_bytes(number), Instant::now()));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            _ => {}
        }
    }
    arrivals
}
