//! A route in `ip route`'s words.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use crate::plan::state::FibRoute;

/// Why the words are no route.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum RouteSpecError {
    #[error("`{0}` is not a prefix; write it like 2a02:1802:5e:1::/64, or `default`")]
    Prefix(String),
    #[error("{0} has host bits set; the prefix is {1}")]
    HostBits(IpNet, IpNet),
    #[error("`{0}` is not an address")]
    Address(String),
    #[error("`{0}` needs a value behind it")]
    MissingValue(&'static str),
    #[error("`{0}` is not part of a route; known are via ADDRESS and dev DEV")]
    Unknown(String),
    #[error("a route needs `dev DEV`: next hops are found on one link only")]
    NoDevice,
    #[error("a {0} route takes neither `via` nor `dev`")]
    Superfluous(&'static str),
    #[error("next hop {0} is of another family than {1}")]
    Family(IpAddr, IpNet),
    #[error("the prefix is missing")]
    NoPrefix,
}

/// Reads `[unreachable|prohibit|blackhole|punt] PREFIX [via ADDRESS] [dev DEV]`.
pub(super) fn parse(words: &[String]) -> Result<(IpNet, FibRoute), RouteSpecError> {
    let mut words = words.iter().map(String::as_str).peekable();
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
    let mut gateway = None;
    let mut link = None;
    while let Some(word) = words.next() {
        match word {
            "via" => {
                // `via inet6 ADDRESS` is iproute2's way to name a next hop of another family.
                let mut value = words.next().ok_or(RouteSpecError::MissingValue("via"))?;
                if value == "inet6" || value == "inet" {
                    value = words.next().ok_or(RouteSpecError::MissingValue("via"))?;
                }
                let address: IpAddr = value
                    .parse()
                    .map_err(|_| RouteSpecError::Address(value.into()))?;
                gateway = Some(address);
            }
            "dev" => {
                let value = words.next().ok_or(RouteSpecError::MissingValue("dev"))?;
                link = Some(value.to_owned());
            }
            other => return Err(RouteSpecError::Unknown(other.into())),
        }
    }
    let prefix = prefix(text, gateway)?;
    if let Some((name, action)) = action {
        if gateway.is_some() || link.is_some() {
            return Err(RouteSpecError::Superfluous(name));
        }
        return Ok((prefix, action));
    }
    if let (Some(gateway @ IpAddr::V4(_)), IpNet::V6(_)) = (gateway, prefix) {
        return Err(RouteSpecError::Family(gateway, prefix));
    }
    Ok((
        prefix,
        FibRoute::Via {
            gateway,
            link: link.ok_or(RouteSpecError::NoDevice)?,
        },
    ))
}

fn prefix(text: &str, gateway: Option<IpAddr>) -> Result<IpNet, RouteSpecError> {
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
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(RouteSpecError::HostBits(net, net.trunc()))
    }
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
    fn refuses_what_is_no_route() {
        let error = |text: &str| parse(&words(text)).unwrap_err();
        assert_eq!(
            error("2a02::/200 dev a"),
            RouteSpecError::Prefix("2a02::/200".into())
        );
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
