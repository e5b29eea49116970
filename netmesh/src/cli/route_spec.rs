//! A route in `ip route`'s words.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use netmesh_common::group::{MAX_MEMBERS, MAX_WEIGHT};

use crate::plan::state::{FibRoute, Path};

/// Why the words are no route.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum RouteSpecError {
    #[error("`{0}` is not a prefix; write it like 2a02:1802:5e:1::/64, or `default`")]
    Prefix(String),
    #[error(
        "`{0}` is neither a prefix nor an action; actions are unreachable, prohibit, blackhole and punt, \
         and come in front of the prefix"
    )]
    Action(String),
    #[error("{0} has host bits set; the prefix is {1}")]
    HostBits(IpNet, IpNet),
    #[error("`{0}` is not an address")]
    Address(String),
    #[error("`{0}` needs a value behind it")]
    MissingValue(&'static str),
    #[error(
        "`{0}` is not part of a route; known are via ADDRESS, dev DEV, and nexthop in front of each \
         of several"
    )]
    Unknown(String),
    #[error("a route needs `dev DEV`: next hops are found on one link only")]
    NoDevice,
    #[error("`dev lo` leads nowhere; to keep {0} from being forwarded: route add blackhole {0}")]
    Loopback(IpNet),
    #[error("{0} is multicast, which the data plane leaves to the kernel")]
    Multicast(IpNet),
    #[error("a {0} route takes neither `via` nor `dev`")]
    Superfluous(&'static str),
    #[error("next hop {0} is of another family than {1}")]
    Family(IpAddr, IpNet),
    #[error("`{0}` is no weight: a number from 1 to {MAX_WEIGHT}")]
    Weight(String),
    #[error(
        "`weight` says nothing of a single next hop; write `nexthop` in front of each of several"
    )]
    LoneWeight,
    #[error("{0} next hops are too many: at most {MAX_MEMBERS}")]
    TooMany(usize),
    #[error("a next hop is named twice: {0}")]
    Twice(String),
    #[error("the prefix is missing")]
    NoPrefix,
}

/// Reads `[unreachable|prohibit|blackhole|punt] PREFIX [via ADDRESS] [dev DEV]`, or `PREFIX` and
/// twice or more `nexthop [via ADDRESS] dev DEV [weight N]`.
pub(super) fn parse(words: &[String]) -> Result<(IpNet, FibRoute), RouteSpecError> {
    read(words.iter().map(String::as_str))
}

/// As [`parse`].
pub(super) fn read<'a>(
    words: impl Iterator<Item = &'a str>,
) -> Result<(IpNet, FibRoute), RouteSpecError> {
    let mut words = words.peekable();
    let action = match words.peek() {
        Some(&"unreachable") => Some(("unreachable", FibRoute::Unreachable)),
        Some(&"prohibit") => Some(("prohibit", FibRoute::Prohibit)),
        Some(&"blackhole") => Some(("blackhole", FibRoute::Blackhole)),
        Some(&"punt") => Some(("punt", FibRoute::Punt)),
        _ => None,
    };
    if action.is_some() {
        words.next();
    }
    let text = words.next().ok_or(RouteSpecError::NoPrefix)?;
    // A word in front of a prefix was meant as an action.
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text != "default";
    if action.is_none()
        && is_word
        && let Err(error @ RouteSpecError::Prefix(_)) = prefix(text, None)
    {
        let behind = words.peek().is_some_and(|next| prefix(next, None).is_ok());
        return Err(if behind {
            RouteSpecError::Action(text.into())
        } else {
            error
        });
    }
    let mut paths: Vec<Words> = Vec::new();
    let mut path = Words::default();
    let mut several = false;
    while let Some(word) = words.next() {
        match word {
            "nexthop" => {
                let before = std::mem::take(&mut path);
                if several {
                    paths.push(before);
                } else if before != Words::default() {
                    return Err(RouteSpecError::Unknown(word.into()));
                }
                several = true;
            }
            "weight" => {
                let value = words.next().ok_or(RouteSpecError::MissingValue("weight"))?;
                let weight = value.parse().ok().filter(|n| (1..=MAX_WEIGHT).contains(n));
                path.weight = Some(weight.ok_or_else(|| RouteSpecError::Weight(value.into()))?);
            }
            "via" => {
                // `via inet6 ADDRESS` is iproute2's way to name a next hop of another family.
                let mut value = words.next().ok_or(RouteSpecError::MissingValue("via"))?;
                if value == "inet6" || value == "inet" {
                    value = words.next().ok_or(RouteSpecError::MissingValue("via"))?;
                }
                let address: IpAddr = value
                    .parse()
                    .map_err(|_| RouteSpecError::Address(value.into()))?;
                path.gateway = Some(address);
            }
            "dev" => {
                let value = words.next().ok_or(RouteSpecError::MissingValue("dev"))?;
                path.link = Some(value.to_owned());
            }
            other => return Err(RouteSpecError::Unknown(other.into())),
        }
    }
    if !several && path.weight.is_some() {
        return Err(RouteSpecError::LoneWeight);
    }
    paths.push(path);
    let prefix = prefix(text, paths.iter().find_map(|path| path.gateway))?;
    if let Some((name, action)) = action {
        if several || paths.iter().any(|path| *path != Words::default()) {
            return Err(RouteSpecError::Superfluous(name));
        }
        return Ok((prefix, action));
    }
    if paths.len() > MAX_MEMBERS {
        return Err(RouteSpecError::TooMany(paths.len()));
    }
    let mut read: Vec<Path> = Vec::with_capacity(paths.len());
    for path in paths {
        let path = path.read(prefix)?;
        let same = |other: &Path| (other.gateway, &other.link) == (path.gateway, &path.link);
        if read.iter().any(same) {
            let via = path
                .gateway
                .map_or_else(String::new, |a| format!("via {a} "));
            return Err(RouteSpecError::Twice(format!("{via}dev {}", path.link)));
        }
        read.push(path);
    }
    Ok((prefix, FibRoute::through(read)))
}

/// What was said of one next hop.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    gateway: Option<IpAddr>,
    link: Option<String>,
    weight: Option<u16>,
}

impl Words {
    fn read(self, prefix: IpNet) -> Result<Path, RouteSpecError> {
        if let (Some(gateway @ IpAddr::V4(_)), IpNet::V6(_)) = (self.gateway, prefix) {
            return Err(RouteSpecError::Family(gateway, prefix));
        }
        if self.link.as_deref() == Some("lo") {
            return Err(RouteSpecError::Loopback(prefix));
        }
        Ok(Path {
            gateway: self.gateway,
            link: self.link.ok_or(RouteSpecError::NoDevice)?,
            weight: self.weight.unwrap_or(1),
        })
    }
}

/// A prefix; the family of the default one is that of the gateway.
pub(super) fn prefix(text: &str, gateway: Option<IpAddr>) -> Result<IpNet, RouteSpecError> {
    if text == "default" {
        return Ok(match gateway {
            Some(IpAddr::V4(_)) => IpNet::V4(ipnet::Ipv4Net::default()),
            Some(IpAddr::V6(_)) | None => IpNet::V6(ipnet::Ipv6Net::default()),
        });
    }
    let net: IpNet = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| RouteSpecError::Prefix(text.into()))?;
    if net.trunc() != net {
        return Err(RouteSpecError::HostBits(net, net.trunc()));
    }
    if net.network().is_multicast() {
        return Err(RouteSpecError::Multicast(net));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn reads_what_ip_route_prints() {
        let (prefix, route) = parse(&words("2a02:1802:5e:1::/64 via fe80::1:1 dev seg0")).unwrap();
        assert_eq!(prefix.to_string(), "2a02:1802:5e:1::/64");
        assert_eq!(
            route,
            FibRoute::Via {
                gateway: Some("fe80::1:1".parse().unwrap()),
                link: "seg0".into()
            }
        );
        assert_eq!(
            parse(&words("unreachable 2a02:1802:5e::/48")).unwrap().1,
            FibRoute::Unreachable
        );
        assert_eq!(
            parse(&words("default via fe80::1 dev eth0"))
                .unwrap()
                .0
                .to_string(),
            "::/0"
        );
        assert_eq!(
            parse(&words("10.0.0.1 dev eth0")).unwrap().0.to_string(),
            "10.0.0.1/32"
        );
    }

    #[test]
    fn reads_several_next_hops() {
        let several = parse(&words(
            "2a02:1802:5e:1::/64 nexthop via fe80::2:1 dev seg0 weight 3 nexthop dev wg0 \
             nexthop via fe80::1:1 dev seg0",
        ));
        let (prefix, route) = several.unwrap();
        assert_eq!(prefix.to_string(), "2a02:1802:5e:1::/64");
        assert_eq!(
            route.to_string(),
            "nexthop dev wg0 weight 1 nexthop via fe80::1:1 dev seg0 weight 1 \
             nexthop via fe80::2:1 dev seg0 weight 3"
        );
        // What is printed can be read, in whatever order.
        let again = parse(&words(&format!("{prefix} {route}"))).unwrap();
        assert_eq!(again, (prefix, route));
        let single = parse(&words("10.0.0.0/8 nexthop via 10.9.9.9 dev a weight 7")).unwrap();
        assert_eq!(single.1.to_string(), "via 10.9.9.9 dev a");
        let (default, _) = parse(&words(
            "default nexthop via 10.0.0.1 dev a nexthop via 10.0.0.2 dev a",
        ))
        .unwrap();
        assert_eq!(default.to_string(), "0.0.0.0/0");
    }

    #[test]
    fn refuses_what_are_no_next_hops() {
        let error = |text: &str| parse(&words(&format!("2a02::/64 {text}"))).unwrap_err();
        let one = "nexthop via fe80::1 dev a";
        assert_eq!(
            error(&format!("{one} weight 0")),
            RouteSpecError::Weight("0".into())
        );
        assert_eq!(
            error(&format!("{one} weight 257")),
            RouteSpecError::Weight("257".into())
        );
        assert_eq!(
            error("via fe80::1 dev a weight 2"),
            RouteSpecError::LoneWeight
        );
        assert_eq!(
            error(&format!("dev b {one}")),
            RouteSpecError::Unknown("nexthop".into())
        );
        assert_eq!(
            error(&format!("{one} nexthop via fe80::2")),
            RouteSpecError::NoDevice
        );
        assert_eq!(error(&format!("{one} nexthop")), RouteSpecError::NoDevice);
        assert_eq!(
            error(&format!("{one} {one} weight 4")),
            RouteSpecError::Twice("via fe80::1 dev a".into())
        );
        let many = (0..17).map(|n| format!("nexthop via fe80::{n} dev a "));
        assert_eq!(
            error(&many.collect::<String>()),
            RouteSpecError::TooMany(17)
        );
        assert!(matches!(
            error(&format!("{one} nexthop via 10.0.0.1 dev a")),
            RouteSpecError::Family(..)
        ));
        assert_eq!(
            parse(&words("blackhole 2a02::/64 nexthop dev a")).unwrap_err(),
            RouteSpecError::Superfluous("blackhole")
        );
    }

    #[test]
    fn refuses_what_is_no_route() {
        let error = |text: &str| parse(&words(text)).unwrap_err();
        assert_eq!(
            error("2a02::/200 dev a"),
            RouteSpecError::Prefix("2a02::/200".into())
        );
        assert_eq!(
            error("blackhol 2a02::/64"),
            RouteSpecError::Action("blackhol".into())
        );
        assert_eq!(error("blackhol"), RouteSpecError::Prefix("blackhol".into()));
        assert!(matches!(
            error("2a02:1802:5e:1::5/64 dev a"),
            RouteSpecError::HostBits(..)
        ));
        assert_eq!(error("2a02::/64 via fe80::1"), RouteSpecError::NoDevice);
        assert_eq!(error("2a02::/64 via"), RouteSpecError::MissingValue("via"));
        assert_eq!(
            error("2a02::/64 via x dev a"),
            RouteSpecError::Address("x".into())
        );
        for multicast in ["ff00::/8", "ff02::1", "224.0.0.0/4", "239.1.2.0/24"] {
            let refused = error(&format!("{multicast} dev a"));
            assert!(matches!(refused, RouteSpecError::Multicast(..)));
        }
        assert!(matches!(
            error("2a02::/64 nexthop dev lo nexthop dev a"),
            RouteSpecError::Loopback(..)
        ));
        assert!(!error("2a02::/64 metric 5").to_string().contains('\n'));
        assert_eq!(
            error("2a02::/64 metric 5"),
            RouteSpecError::Unknown("metric".into())
        );
        assert_eq!(
            error("blackhole 2a02::/64 dev a"),
            RouteSpecError::Superfluous("blackhole")
        );
        assert!(matches!(
            error("2a02::/64 via 10.0.0.1 dev a"),
            RouteSpecError::Family(..)
        ));
    }
}
