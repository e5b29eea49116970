//! Routes in files: lines as `route add` takes them, or what `ip -json route` prints.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::route_spec::{self, RouteSpecError};
use crate::dataplane::Routes;
use crate::plan::state::FibRoute;

/// Why a file was refused.
#[derive(Debug, Error)]
pub(super) enum RouteFileError {
    #[error("line {line}: {text}")]
    Line {
        line: usize,
        text: String,
        source: RouteSpecError,
    },
    #[error("route {number} of the list, to {destination}")]
    Item {
        number: usize,
        destination: String,
        source: RouteSpecError,
    },
    #[error("this begins like JSON, but is not a list of routes as `ip -json route` prints them")]
    Json(#[from] serde_json::Error),
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RouteFile {
    /// The routes, in order.
    pub(super) routes: Routes,
    /// Routes of the kernel's own (local, broadcast, multicast, anycast), which are not taken.
    pub(super) skipped: usize,
}

/// One route of `ip -json route`; fields of no meaning here are ignored.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Item {
    /// `unicast` when it is not said.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(default, skip_serializing)]
    via: Option<Via>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nexthops: Vec<NextHop>,
}

/// A next hop of another family.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Via {
    host: String,
}

/// One of several next hops.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct NextHop {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(default, skip_serializing)]
    via: Option<Via>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
}

impl NextHop {
    fn words(self) -> impl Iterator<Item = String> {
        let gateway = self.gateway.or(self.via.map(|via| via.host));
        let named = [
            ("via", gateway),
            ("dev", self.dev),
            ("weight", self.weight.map(|weight| weight.to_string())),
        ];
        let named = named.into_iter();
        named.flat_map(|(name, value)| {
            value
                .map(|value| [name.to_owned(), value])
                .into_iter()
                .flatten()
        })
    }
}

/// What `export --json` prints, which is an object.
#[derive(Debug, Deserialize)]
struct Exported {
    routes: Vec<Item>,
}

/// Reads a file of either kind.
pub(super) fn parse(text: &str) -> Result<RouteFile, RouteFileError> {
    match text.trim_start().as_bytes().first() {
        Some(b'[') => items(serde_json::from_str(text)?),
        Some(b'{') => items(serde_json::from_str::<Exported>(text)?.routes),
        _ => lines(text),
    }
}

fn lines(text: &str) -> Result<RouteFile, RouteFileError> {
    let mut file = RouteFile::default();
    // Most lines end as one before them does: what is said of IPv6 or IPv4 behind the prefix.
    let mut known: HashMap<(bool, &str), u32> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(route, _)| route).trim();
        if line.is_empty() {
            continue;
        }
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        // What the default route is, the gateway says; what is no prefix says what is done.
        let prefix = Some(first).filter(|first| *first != "default");
        let prefix = prefix.and_then(|first| route_spec::prefix(first, None).ok());
        let end = prefix.map(|prefix| (matches!(prefix, IpNet::V6(_)), rest));
        if let Some(prefix) = prefix
            && let Some(fate) = end.and_then(|end| known.get(&end))
        {
            file.routes.push(prefix, *fate);
            continue;
        }
        let read = route_spec::read(line.split_whitespace());
        let (prefix, route) = read.map_err(|source| RouteFileError::Line {
            line: number + 1,
            text: line.to_owned(),
            source,
        })?;
        let fate = file.routes.fate(&route);
        file.routes.push(prefix, fate);
        if let Some(end) = end {
            known.insert(end, fate);
        }
    }
    Ok(file)
}

fn items(items: Vec<Item>) -> Result<RouteFile, RouteFileError> {
    let mut file = RouteFile::default();
    for (number, item) in items.into_iter().enumerate() {
        let mut words = Vec::new();
        match item.kind.as_deref() {
            None | Some("unicast") => {}
            Some("local" | "broadcast" | "multicast" | "anycast") => {
                file.skipped += 1;
                continue;
            }
            Some(kind) => words.push(kind.to_owned()),
        }
        let stops = !words.is_empty();
        words.push(item.dst.clone());
        let only = NextHop {
            gateway: item.gateway,
            via: item.via,
            // The kernel puts such routes of IPv6 on `lo`.
            dev: item.dev.filter(|_| !stops),
            weight: None,
        };
        words.extend(only.words());
        for hop in item.nexthops {
            words.push("nexthop".to_owned());
            words.extend(hop.words());
        }
        let read = route_spec::parse(&words);
        let (prefix, route) = read.map_err(|source| RouteFileError::Item {
            number: number + 1,
            destination: item.dst,
            source,
        })?;
        let fate = file.routes.fate(&route);
        file.routes.push(prefix, fate);
    }
    Ok(file)
}

/// A route as an item; `None` for one that nobody can add.
pub(super) fn item(prefix: IpNet, route: &FibRoute) -> Option<Item> {
    let mut nexthops = Vec::new();
    let (kind, gateway, dev) = match route {
        FibRoute::Via { gateway, link } => (None, *gateway, Some(link.clone())),
        FibRoute::Paths(paths) => {
            nexthops.extend(paths.iter().map(|path| NextHop {
                gateway: path.gateway.map(|gateway| gateway.to_string()),
                via: None,
                dev: Some(path.link.clone()),
                weight: Some(path.weight),
            }));
            (None, None, None)
        }
        FibRoute::Unreachable => (Some("unreachable"), None, None),
        FibRoute::Prohibit => (Some("prohibit"), None, None),
        FibRoute::Blackhole => (Some("blackhole"), None, None),
        FibRoute::Punt => (Some("punt"), None, None),
        FibRoute::Connected { .. } | FibRoute::Local => return None,
    };
    Some(Item {
        kind: kind.map(ToOwned::to_owned),
        dst: prefix.to_string(),
        gateway: gateway.map(|gateway| gateway.to_string()),
        via: None,
        dev,
        nexthops,
    })
}

/// An item as a line.
pub(super) fn line(item: &Item) -> String {
    let mut words: Vec<String> = item.kind.iter().cloned().collect();
    words.push(item.dst.clone());
    let only = NextHop {
        gateway: item.gateway.clone(),
        dev: item.dev.clone(),
        ..NextHop::default()
    };
    words.extend(only.words());
    for hop in &item.nexthops {
        words.push("nexthop".to_owned());
        words.extend(hop.clone().words());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "# the mesh\n2a02:1802:5e:1::/64 via fe80::1 dev seg0\n\n\
         unreachable 2a02:1802:5e::/48 # the rest\n10.1.0.0/24 dev wg0\n\
         10.2.0.0/24 nexthop via 10.0.0.1 dev seg0 weight 2 nexthop dev wg0\n";

    #[test]
    fn lines_and_lists_are_one() {
        let from_lines = parse(LINES).unwrap();
        assert_eq!(from_lines.routes.len(), 4);
        let list = r#" [{"dst":"2a02:1802:5e:1::/64","gateway":"fe80::1","dev":"seg0","protocol":"bird",
            "metric":32,"flags":[],"pref":"medium"},{"type":"unreachable","dst":"2a02:1802:5e::/48","dev":"lo"},
            {"type":"local","dst":"::1","dev":"lo"},{"dst":"10.1.0.0/24","dev":"wg0"},
            {"dst":"10.2.0.0/24","flags":[],"nexthops":[{"gateway":"10.0.0.1","dev":"seg0","weight":2,"flags":[]},
            {"dev":"wg0","weight":1,"flags":[]}]}]"#;
        let from_list = parse(list).unwrap();
        assert_eq!(from_list.routes, from_lines.routes);
        assert_eq!(from_list.skipped, 1);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let routes = parse(LINES).unwrap().routes;
        let items: Vec<Item> = routes.iter().filter_map(|(p, r)| item(p, r)).collect();
        let text: Vec<String> = items.iter().map(line).collect();
        assert_eq!(parse(&text.join("\n")).unwrap().routes, routes);
        let json = serde_json::json!({ "schema_version": 1, "routes": items });
        assert_eq!(parse(&json.to_string()).unwrap().routes, routes);
        assert!(item("10.0.0.0/8".parse().unwrap(), &FibRoute::Local).is_none());
    }

    #[test]
    fn the_line_that_is_no_route_is_named() {
        let error = parse("10.0.0.0/8 dev a\n10.0.0.0/33 dev a").unwrap_err();
        assert!(error.to_string().starts_with("line 2: 10.0.0.0/33"));
        let error = parse(r#"[{"dst":"10.0.0.0/8"}]"#).unwrap_err();
        assert!(error.to_string().contains("route 1 of the list"));
        assert!(matches!(parse("[1]"), Err(RouteFileError::Json(_))));
    }
}
