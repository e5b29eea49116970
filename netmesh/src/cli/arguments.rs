//! The command line: words, flags, examples.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

pub use super::dataplane_arguments::{Dataplane, Hook, SourcesArgument};
use super::output::Color;
pub use super::run_arguments::{LogFormat, Run};

/// Routing in WireGuard meshes with an eBPF data plane.
#[derive(Debug, Parser)]
#[command(
    name = "netmesh",
    version,
    infer_subcommands = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed at run time, 2 usage, 3 input rejected, 4 unhealthy, \
                  5 changes pending, 6 daemon unreachable, 7 not permitted.\n\n\
                  Examples:\n  \
                  netmesh check alice.toml --print     what the objects derive, offline\n  \
                  netmesh plan                         the steps apply would take\n  \
                  netmesh apply                        make the node what its objects say\n  \
                  netmesh counters --watch             packets and bytes per prefix, live"
)]
pub struct Arguments {
    /// Flags every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do; `status` when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Print JSON: one object with a schema_version.
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Indent the JSON.
    #[arg(short, long, global = true)]
    pub pretty: bool,
    /// One short line an item.
    #[arg(short, long, global = true)]
    pub brief: bool,
    /// Folder with node.toml, networks/ and keys/.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/etc/netmesh",
        env = "NETMESH_CONFIG"
    )]
    pub config: PathBuf,
    /// Act as the node that lives in this network namespace (a name below /run/netns, or a path).
    #[arg(short, long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub color: Color,
    /// More diagnostics on stderr; repeat for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Only errors on stderr.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the node: problems first, then networks, tunnels, data plane, neighbours.
    #[command(
        after_help = "Examples:\n  netmesh status\n  netmesh status --check ready && echo up"
    )]
    Status(Status),
    /// Make a key pair, or print a public key. The private key stays in its file.
    #[command(
        after_help = "Examples:\n  netmesh key gen alice/gw     prints the public key for the object file\n  netmesh key pub alice/gw"
    )]
    Key {
        /// What to do with the key.
        #[command(subcommand)]
        command: Key,
    },
    /// Parse, derive and validate objects; needs no privileges and touches nothing.
    #[command(
        after_help = "Examples:\n  netmesh check networks/*.toml\n  netmesh check alice.toml --print"
    )]
    Check(Check),
    /// Show the ordered steps `apply` would take.
    #[command(
        after_help = "Examples:\n  netmesh plan\n  netmesh plan --exit-code || echo drift\n  netmesh plan --digest"
    )]
    Plan(Plan),
    /// Make this node what its objects say; removes what they no longer hold.
    #[command(
        after_help = "Examples:\n  netmesh apply\n  netmesh apply --dry-run\n  netmesh apply --confirm-within 60 && ping -c 3 2a02:1802:5e:1::1 && netmesh confirm\n  netmesh -n node-1 --config ./node-1 apply"
    )]
    Apply(Apply),
    /// Keep the change that waits to be confirmed (apply --confirm-within).
    #[command(
        after_help = "Exit code 3 when no change waits, 1 when it came too late and the change is undone.\n\nExamples:\n  netmesh apply --confirm-within 60\n  netmesh confirm"
    )]
    Confirm(Confirm),
    /// Undo the change that waits to be confirmed, now.
    #[command(
        after_help = "The node and the files are what they were; what the files held is kept aside in rejected-1, rejected-2 …\nExit code 3 when no change waits.\n\nExamples:\n  netmesh rollback --dry-run\n  netmesh rollback"
    )]
    Rollback(Rollback),
    /// Keep this node what its objects say: follows the files and the kernel until SIGTERM.
    #[command(
        after_help = "SIGHUP reads the objects anew; SIGTERM leaves the data plane running.\n\nExamples:\n  netmesh run\n  netmesh run --log-format json --metrics 9586\n  netmesh run --flush-on-exit"
    )]
    Run(Run),
    /// Remove exactly what apply made, all of it or one network.
    #[command(after_help = "Examples:\n  netmesh destroy alice\n  netmesh destroy --yes")]
    Destroy(Destroy),
    /// Load, pin, hook and unhook the data plane; works on any ports, also without objects.
    #[command(
        visible_alias = "dp",
        after_help = "Examples:\n  netmesh dataplane attach --port eth0 --port eth1\n  netmesh route add 2a02:1802:5e::/48 via fe80::1 dev eth1\n  netmesh dataplane detach"
    )]
    Dataplane {
        /// What to do; `status` when left out.
        #[command(subcommand)]
        command: Option<Dataplane>,
    },
    /// Show and change the data plane's routes.
    #[command(
        alias = "ro",
        after_help = "Examples:\n  netmesh route\n  netmesh route get 2a02:1802:5e:1::7\n  netmesh route add 2a02:1802:5e:1::/64 via fe80::1:1 dev seg0"
    )]
    Route {
        /// What to do; `list` when left out.
        #[command(subcommand)]
        command: Option<Route>,
    },
    /// Show packets and bytes per prefix, in both directions.
    #[command(
        after_help = "Examples:\n  netmesh counters\n  netmesh counters 2a02:1802:5e:1::/64 --watch\n  netmesh counters --top 10\n  netmesh counters --drops"
    )]
    Counters(Counters),
    /// Watch prefixes, ports, reasons and tunnels live, on the whole terminal.
    #[command(
        after_help = "Tab changes the table, s sorts, / filters, p pauses, ? shows all keys, q quits.\n\nExamples:\n  netmesh top\n  netmesh top -i 5\n  netmesh -n nm-alice-gw top"
    )]
    Top(Top),
    /// Say what the data plane would do with a packet, and why: the loaded program decides it.
    #[command(
        after_help = "Nothing is sent and no counter moves.\n\nExamples:\n  netmesh explain 2a02:1802:5e:1::7 2606:4700::1111\n  netmesh explain 10.1.10.254 1.1.1.1 --in seg0 --proto tcp --size 1500\n  netmesh explain 2a02:1802:5e:1::7 2606:4700::1111 --hop-limit 1"
    )]
    Explain(Explain),
    /// Watch decisions as they are made, packet by packet; costs nothing while nobody watches.
    #[command(
        after_help = "Examples:\n  netmesh trace --reason drop\n  netmesh trace --prefix 2a02:1802:5e:1::/64 --port seg0 --count 20\n  netmesh --json trace --reason too_big,hop_limit --rate 1000"
    )]
    Trace(Trace),
    /// Look for what on this machine is wrong or slow for netmesh, each with its remedy.
    #[command(
        after_help = "Exit code 4 when something does not work; warnings and notes leave it 0.\n\nExamples:\n  netmesh doctor\n  netmesh doctor --only kernel,tc,bpf\n  netmesh -n nm-alice-gw doctor --only xdp,table\n  netmesh --json doctor | jq '.findings[] | select(.severity != \"ok\")'"
    )]
    Doctor(Doctor),
    /// The whole mesh on this one machine, with real traffic.
    #[command(after_help = "Examples:\n  netmesh demo\n  netmesh demo --keep")]
    Demo(Demo),
    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  netmesh completions bash > /etc/bash_completion.d/netmesh")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    #[command(after_help = "Examples:\n  netmesh man | man -l -\n  netmesh man --dir .")]
    Man {
        /// Write the pages of all commands into this folder instead.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print the JSON Schema of an object, for editors.
    #[command(after_help = "Example:\n  netmesh schema network > network.schema.json")]
    Schema {
        /// Which object.
        #[arg(value_enum, default_value_t)]
        object: SchemaObject,
    },
    /// Undoes one change that is not confirmed in time; started by apply.
    #[command(hide = true)]
    UndoUnconfirmed {
        /// The change.
        id: u64,
    },
    /// Makes or removes one name of a namespace, asked on stdin and answered on stdout; started by
    /// the service manager for a daemon that may mount nothing itself (`run --names`).
    #[command(hide = true)]
    Names,
    /// One userspace WireGuard device; started by apply.
    #[command(hide = true)]
    WireguardUserspace {
        /// Name of the interface.
        name: String,
    },
}

/// `netmesh status`.
#[derive(Clone, Debug, Default, Args)]
pub struct Status {
    /// Only answer by the exit code: 0, or 4 when it is not so.
    #[arg(long, value_enum)]
    pub check: Option<Health>,
}

/// What `status --check` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Health {
    /// The node's state can be read.
    Live,
    /// The node is what its objects say and every data plane port is attached as asked.
    Ready,
}

/// `netmesh key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make the key pair of a resource; prints the public key, refuses to overwrite.
    Gen {
        /// NETWORK/RESOURCE
        resource: ResourceName,
    },
    /// Print the public key of a resource.
    Pub {
        /// NETWORK/RESOURCE
        resource: ResourceName,
    },
}

/// `NETWORK/RESOURCE`.
#[derive(Clone, Debug)]
pub struct ResourceName {
    /// The network.
    pub network: String,
    /// The resource.
    pub resource: String,
}

impl std::str::FromStr for ResourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = |name: &str| {
            !name.is_empty()
                && name.len() <= 15
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match text.split_once('/') {
            Some((network, resource)) if valid(network) && valid(resource) => Ok(Self {
                network: network.into(),
                resource: resource.into(),
            }),
            _ => Err("expected NETWORK/RESOURCE, each of a-z, 0-9 and -, at most 15 long".into()),
        }
    }
}

/// `netmesh check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Object files; the node's own configuration when left out.
    pub files: Vec<PathBuf>,
    /// Show every derived value.
    #[arg(long)]
    pub print: bool,
}

/// `netmesh plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// Object files instead of those in the configuration folder.
    pub files: Vec<PathBuf>,
    /// Exit 5 when there are steps to take.
    #[arg(long)]
    pub exit_code: bool,
    /// Print only the digest of the desired state.
    #[arg(long)]
    pub digest: bool,
}

/// `netmesh apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// Object files instead of those in the configuration folder.
    pub files: Vec<PathBuf>,
    /// Show the steps and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Also where the objects have nothing for this node: remove all its resources.
    #[arg(long)]
    pub empty: bool,
    /// Undo it all after so many seconds, files too, unless `netmesh confirm` comes before; also
    /// when this process is killed.
    #[arg(long, value_name = "TIME", conflicts_with = "files", value_parser = seconds)]
    pub confirm_within: Option<u64>,
}

/// Seconds of `90`, `90s`, `5m`, `1h`: a day at most.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => Some(1),
        Some("m" | "min") => Some(60),
        Some("h") => Some(3600),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let seconds = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    let known = seconds.filter(|seconds| (1..=86_400).contains(seconds));
    known
        .ok_or_else(|| "seconds, or a number with s, m or h; a day at most: 90, 90s, 5m, 1h".into())
}

/// `netmesh confirm`.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Show whether a change waits, and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `netmesh rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Show the steps and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `netmesh destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Only this network; everything when left out.
    pub network: Option<String>,
    /// Show the steps and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// `netmesh route`.
#[derive(Debug, Subcommand)]
pub enum Route {
    /// Every route, with its origin.
    #[command(visible_alias = "show")]
    List {
        /// Only routes inside this prefix.
        #[arg(value_parser = prefix_or_address)]
        prefix: Option<IpNet>,
    },
    /// The longest match for an address.
    Get {
        /// The destination.
        address: IpAddr,
    },
    /// Add a route; an equal one is fine, a different one is an error.
    Add(RouteSpec),
    /// Add a route or change it in place.
    Replace(RouteSpec),
    /// Add or change many routes: lines as `add` takes them, or what `ip -json route` prints.
    Import {
        /// Where they are; standard input when it is `-` or not named.
        file: Option<PathBuf>,
        /// Show what would be done and touch nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the routes of `add` and `import`, as `import` takes them.
    Export {
        /// Only routes inside this prefix.
        #[arg(value_parser = prefix_or_address)]
        prefix: Option<IpNet>,
    },
    /// Remove a route.
    #[command(visible_alias = "delete")]
    Del {
        /// The prefix.
        #[arg(value_parser = prefix_or_address)]
        prefix: IpNet,
        /// Show what would be done and touch nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// A route in `ip route`'s words: `[unreachable|prohibit|blackhole|punt] PREFIX [via ADDRESS] [dev DEV]`,
/// or `PREFIX nexthop [via ADDRESS] dev DEV [weight N] nexthop …`.
#[derive(Clone, Debug, Args)]
pub struct RouteSpec {
    /// [unreachable|prohibit|blackhole|punt] PREFIX [via ADDRESS] [dev DEV], or PREFIX nexthop [via ADDRESS] dev DEV [weight N] nexthop …
    #[arg(required = true, num_args = 1.., value_name = "ROUTE")]
    pub words: Vec<String>,
    /// Show what would be done and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `netmesh counters`.
#[derive(Debug, Args)]
pub struct Counters {
    /// Only these prefixes, and those inside them.
    #[arg(value_name = "PREFIX", value_parser = prefix_or_address)]
    pub prefixes: Vec<IpNet>,
    /// Repeat every so many seconds.
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
    /// Only the busiest N, by bytes.
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Per port: why packets were dropped or left to the kernel. Ports do not tell prefixes apart.
    #[arg(long, conflicts_with_all = ["prefixes", "top"])]
    pub drops: bool,
}

/// `netmesh top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Read the counters every so many seconds.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// Asked for out of habit; `netmesh counters` is what prints once.
    #[arg(long, hide = true)]
    pub once: bool,
}

/// `netmesh explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The port it comes in through; the one behind which the source lives when left out.
    #[arg(long = "in", value_name = "DEV")]
    pub ingress: Option<String>,
    /// What is in it.
    #[arg(long, value_enum, default_value_t)]
    pub proto: ProtocolArgument,
    /// Length of the IP packet in bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(28..))]
    pub size: Option<u16>,
    /// Hop limit or TTL.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub hop_limit: u8,
    /// Source port.
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    pub sport: u16,
    /// Destination port.
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub dport: u16,
}

/// A prefix, or an address as the prefix that holds nothing else. Bits behind the length are a slip
/// of the pen: whoever wrote them may mean either.
fn prefix_or_address(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let prefix: IpNet = text
        .parse()
        .or_else(|_| address())
        .map_err(|_| "neither a prefix nor an address".to_owned())?;
    if prefix != prefix.trunc() {
        return Err(format!(
            "host bits are set; the prefix is {}",
            prefix.trunc()
        ));
    }
    Ok(prefix)
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArgument {
    /// A datagram.
    #[default]
    Udp,
    /// A segment.
    Tcp,
    /// An echo request, of either ICMP.
    Icmp,
}

impl ProtocolArgument {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        }
    }
}

/// `netmesh trace`.
#[derive(Clone, Debug, Args)]
pub struct Trace {
    /// Only packets from or to this prefix or address.
    #[arg(long, value_name = "PREFIX", value_parser = prefix_or_address)]
    pub prefix: Option<IpNet>,
    /// Only packets that come in through this port.
    #[arg(long, value_name = "DEV")]
    pub port: Option<String>,
    /// Only these: forward, punt, drop, or reasons as `netmesh counters --drops` names them.
    #[arg(long = "reason", value_name = "REASON", value_delimiter = ',')]
    pub reasons: Vec<String>,
    /// At most so many a second; what is beyond is counted.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub rate: u64,
    /// Stop after so many.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
}

/// `netmesh doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Only these checks, or groups of them: kernel, privileges, bpf, tc, limits, link, clock,
    /// objects, config, keys, wireguard, mtu, pins, ports, port, xdp, forwarding, firewall, sysctl,
    /// table, neighbours.
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    pub only: Vec<String>,
}

/// `netmesh demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Leave everything standing, with hints on what to try.
    #[arg(long)]
    pub keep: bool,
    /// Remove what a former `--keep` left standing.
    #[arg(long, conflicts_with = "keep")]
    pub clean: bool,
}

/// Which schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaObject {
    /// A user network.
    #[default]
    Network,
    /// A node's own file, `node.toml`.
    Node,
}
