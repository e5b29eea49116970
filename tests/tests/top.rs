//! `netmesh top` as somebody at a terminal sees it: a pseudo terminal, a screen that is read as a
//! terminal would, keys, and the terminal afterwards.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::netns::run_in;
use netmesh_tests::pair::RIGHT;
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually, slowness};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(30);
const ROWS: u16 = 30;
const COLUMNS: u16 = 120;
/// Where no route leads.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1812, 9, 0, 0, 0, 0, 1);

/// A shell on a pseudo terminal: it prints the terminal's modes, runs netmesh, prints its exit code
/// and the modes again.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<vt100::Parser>>,
    /// The shell's number and the terminal's name: the screen may be taken before anybody looks.
    told: mpsc::Receiver<(String, String)>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn open(lab: &Lab, machine: &str) -> Self {
        let netmesh = lab.command(machine, &["top", "--interval", "1"]);
        let words = std::iter::once(netmesh.get_program()).chain(netmesh.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let shell = format!(
            "stty rows {ROWS} cols {COLUMNS}; echo shell $$ $(tty); echo modes $(stty -g); {}; \
             echo code $?; echo modes $(stty -g)",
            words.join(" ")
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &shell, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script starts");
        let output = script.stdout.take().expect("a pipe");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let shared = Arc::clone(&screen);
        let (tell, told) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            if output.read_until(b'\n', &mut line).is_ok() {
                let words = String::from_utf8_lossy(&line);
                let mut words = words.split_whitespace().skip(1).map(ToOwned::to_owned);
                if let (Some(shell), Some(tty)) = (words.next(), words.next()) {
                    // Only one test asks.
                    let _ = tell.send((shell, tty));
                }
                shared.lock().expect("a screen").process(&line);
            }
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                shared.lock().expect("a screen").process(&buffer[..length]);
            }
        });
        Self {
            told,
            keys: script.stdin.take().expect("a pipe"),
            script,
            screen,
            reader: Some(reader),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
        self.keys.flush().expect("a terminal");
    }

    fn text(&self) -> String {
        self.screen.lock().expect("a screen").screen().contents()
    }

    /// Makes the terminal another size, as somebody who drags a window.
    fn resize(&self, rows: u16, columns: u16, tty: &str) {
        let mut screen = self.screen.lock().expect("a screen");
        screen.screen_mut().set_size(rows, columns);
        drop(screen);
        let size = [rows.to_string(), columns.to_string()];
        let words = ["-F", tty, "rows", &size[0], "cols", &size[1]];
        let stty = Command::new("stty").args(words).status();
        assert!(stty.expect("stty starts").success());
    }

    /// netmesh's screen is the one that is seen.
    fn is_taken(&self) -> bool {
        let screen = self.screen.lock().expect("a screen");
        screen.screen().alternate_screen()
    }

    /// The words of every line that begins with this one.
    fn lines(&self, first: &str) -> Vec<Vec<String>> {
        let text = self.text();
        let lines = text.lines().map(|line| {
            let words = line.split_whitespace();
            words.map(ToOwned::to_owned).collect::<Vec<_>>()
        });
        lines
            .filter(|words| words.first().is_some_and(|word| word == first))
            .collect()
    }

    fn shows(&self, what: &str, wanted: impl Fn() -> bool) {
        let mut last = String::new();
        for _ in 0..SOON.as_millis() / 50 * u128::from(slowness()) {
            if wanted() {
                return;
            }
            last = self.text();
            thread::sleep(Duration::from_millis(50));
        }
        panic!("{what} is not on the screen:\n{last}");
    }

    /// Waits until netmesh ended; it must have left well, and the terminal as it was.
    fn ended(mut self) {
        self.shows("the end", || self.lines("modes").len() == 2);
        assert!(self.script.wait().expect("script ends").success());
        if let Some(reader) = self.reader.take() {
            reader.join().expect("all is read");
        }
        assert!(!self.is_taken());
        assert_eq!(self.lines("code"), [["code", "0"]], "{}", self.text());
        let modes = self.lines("modes");
        assert_eq!(modes[0], modes[1]);
        let screen = self.screen.lock().expect("a screen");
        assert!(!screen.screen().hide_cursor(), "the cursor is back");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A host that sends a packet to each of two places every 5 ms, until it is dropped.
struct Stream(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Stream {
    fn start(lab: &Lab) -> Self {
        let (stop, left) = (Arc::new(AtomicBool::new(false)), lab.at("left"));
        let stopped = Arc::clone(&stop);
        let send = move || {
            let socket = UdpSocket::bind("[::]:0").expect("a socket");
            while !stopped.load(Ordering::Relaxed) {
                for to in [RIGHT, NOWHERE] {
                    // The ICMP errors of others come back as errors here.
                    let _ = socket.send_to(&[0; 1000], (to, 9));
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        let thread = thread::spawn(move || run_in(&left, send).expect("the namespace"));
        Self(stop, Some(thread))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

/// A rate as it is shown.
fn rate(words: &[String], at: usize) -> Option<f64> {
    words.get(at)?.parse().ok()
}

#[test]
fn somebody_looks_at_a_router_and_gets_the_terminal_back() {
    let lab = Lab::pair();
    lab.attach_pair("xdp", "any");
    let stream = Stream::start(&lab);
    let mut terminal = Terminal::open(&lab, "router");
    let right = format!("{RIGHT}/128");
    terminal.shows("the prefix with its rates", || {
        let lines = terminal.lines(&right);
        let packets = lines.first().and_then(|words| rate(words, 1));
        // At most 200 a second are sent; a busy machine sends fewer.
        packets.is_some_and(|packets| packets > 10.0 && packets <= 210.0)
    });
    assert!(terminal.is_taken());
    // 1000 bytes of payload are 1048 of IP.
    terminal.shows("as many bits as the packets have", || {
        let Some(words) = terminal.lines(&right).into_iter().next() else {
            return false;
        };
        let unit = match words[3].as_str() {
            "k" => 1e3,
            "M" => 1e6,
            _ => return false,
        };
        let (packets, bits) = (rate(&words, 1), rate(&words, 2));
        let share = |packets, bits: f64| bits * unit / (packets * 1048.0 * 8.0);
        packets
            .zip(bits)
            .is_some_and(|(packets, bits)| (0.98..1.02).contains(&share(packets, bits)))
    });
    terminal.press("/10.0.0.0/8");
    terminal.shows("nothing", || terminal.lines(&right).is_empty());
    terminal.press("\x1b");
    terminal.shows("the prefix again", || !terminal.lines(&right).is_empty());
    terminal.press("2");
    terminal.shows("the port with its rates", || {
        let lines = terminal.lines("port0");
        let received = lines.first().and_then(|words| rate(words, 1));
        let forwarded = lines.first().and_then(|words| rate(words, 2));
        received.is_some_and(|rate| rate > 20.0 && rate <= 420.0)
            && forwarded.is_some_and(|rate| rate > 10.0 && rate <= 210.0)
    });
    terminal.press("3");
    terminal.shows("why packets went to the kernel", || {
        let lines = terminal.lines("port0");
        lines.iter().any(|words| {
            words[1..4] == ["to", "kernel", "no_route"] && rate(words, 4).is_some_and(|r| r > 10.0)
        })
    });
    drop(stream);
    terminal.shows("no rate", || {
        let lines = terminal.lines("port0");
        lines.iter().all(|words| rate(words, 4) == Some(0.0))
    });
    terminal.press("q");
    terminal.ended();
}

#[test]
fn a_terminal_is_given_back_when_netmesh_is_told_to_end() {
    let lab = Lab::pair();
    lab.attach_pair("xdp", "any");
    let terminal = Terminal::open(&lab, "router");
    let told = terminal.told.recv_timeout(SOON);
    let (pid, tty) = told.expect("a number and a terminal");
    let has_foot = |row: usize| {
        let text = terminal.text();
        let foot = text.lines().nth(row - 1);
        foot.is_some_and(|line| line.contains("q quit"))
    };
    terminal.shows("netmesh", || terminal.is_taken() && has_foot(30));
    terminal.resize(17, 110, &tty);
    terminal.shows("a smaller picture", || has_foot(17));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("the shell");
    let netmesh = children.trim().parse().expect("one child");
    kill(Pid::from_raw(netmesh), Signal::SIGTERM).expect("it is there");
    terminal.ended();
}

#[test]
fn what_is_no_terminal_is_refused_and_told_what_to_use() {
    let lab = Lab::pair();
    for arguments in [&["top"][..], &["top", "--once"], &["--json", "top"]] {
        let output = lab.try_netmesh("router", arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("netmesh counters"), "{told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_a_data_plane_the_screen_is_left_alone() {
    let lab = Lab::pair();
    let terminal = Terminal::open(&lab, "router");
    terminal.shows("the end", || terminal.lines("modes").len() == 2);
    assert_eq!(terminal.lines("code"), [["code", "1"]]);
    assert!(
        terminal
            .text()
            .contains("no data plane and no tunnel is here")
    );
}

#[test]
fn a_node_shows_the_tunnels_and_networks_of_its_objects() {
    let lab = Lab::mesh();
    lab.apply_all();
    let (web, gw) = (&RESOURCES[1], &RESOURCES[0]);
    let (at, from) = (lab.resource(web.name), lab.address(web).into());
    eventually("the mesh carries packets", SOON, || {
        ping(&at, from, INTERNET.into(), 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    let mut terminal = Terminal::open(&lab, gw.node);
    terminal.shows("several namespaces", || terminal.is_taken());
    // The exit's data plane is in a namespace of its own, which the objects name.
    let exit = format!("nm-{}-{}", lab.network(), gw.name);
    let prefix = lab.prefix(web);
    terminal.shows("the prefix with its network", || {
        let lines = terminal.lines(&exit);
        lines
            .iter()
            .any(|words| words[1] == prefix && words[2] == lab.network())
    });
    terminal.press("4");
    let peer = format!("{}/{}", lab.network(), web.name);
    terminal.shows("the tunnel with a young handshake", || {
        let lines = terminal.lines(&exit);
        let mut ages = lines.iter().filter(|words| words[2] == peer);
        // An age of less than a second the embedded WireGuard does not tell from none.
        ages.any(|words| words[4] == "s" && rate(words, 3).is_some_and(|age| age < 120.0))
    });
    terminal.press("q");
    terminal.ended();
}
