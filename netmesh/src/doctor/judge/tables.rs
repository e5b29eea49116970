//! How full the tables are, ours and the kernel's.

use super::{Finding, Severity, ok};

/// The tables of one data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Its own.
    pub fill: Vec<Fill>,
    /// Next hops that are neighbours, of IPv6 and IPv4.
    pub neighbours: [u64; 2],
    /// `gc_thresh3` of IPv6 and IPv4: what the kernel's own tables hold at most.
    pub most: [Option<u64>; 2],
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What it holds.
    pub what: &'static str,
    /// How many it holds.
    pub used: u64,
    /// How many it can hold.
    pub capacity: u64,
    /// What makes room.
    pub remedy: &'static str,
    /// What does not fit is served all the same, with less.
    pub spills: bool,
}

/// Fuller than this many hundredths is told.
const HIGH: u64 = 80;

/// How full, in hundredths.
const fn percent(used: u64, capacity: u64) -> u64 {
    used.saturating_mul(100) / if capacity == 0 { 1 } else { capacity }
}

pub(super) fn judge(tables: &Tables) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tables.fill.iter().filter_map(full).collect();
    if findings.is_empty() {
        let fullest = tables
            .fill
            .iter()
            .max_by_key(|fill| percent(fill.used, fill.capacity));
        findings.extend(fullest.map(|fill| {
            let found = format!("fullest: {}", words(fill));
            ok(
                "table.fill",
                found,
                "every table of the data plane has room",
            )
        }));
    }
    findings.extend(kernel(tables));
    findings
}

fn words(fill: &Fill) -> String {
    let Fill {
        what,
        used,
        capacity,
        ..
    } = fill;
    format!(
        "{used} {what} of {capacity} ({} %)",
        percent(*used, *capacity)
    )
}

fn full(fill: &Fill) -> Option<Finding> {
    let percent = percent(fill.used, fill.capacity);
    if percent <= HIGH {
        return None;
    }
    let meaning = if fill.spills {
        "prefixes of objects that find none left are refused; others are forwarded uncounted"
    } else {
        "what does not fit is refused: apply and route add fail, mirrored routes stay with the kernel"
    };
    let severity = if percent < 100 || fill.spills {
        Severity::Warning
    } else {
        Severity::Error
    };
    Some(ok("table.fill", words(fill), meaning).but(severity, fill.remedy))
}

/// The kernel keeps every next hop resolved; its limit is one for all namespaces.
fn kernel(tables: &Tables) -> Vec<Finding> {
    let meaning = "the kernel keeps every next hop resolved, with all other neighbours of the \
                   machine in one table: past gc_thresh3 it resolves no new ones";
    let names = [
        ("neighbours.ipv6", "net.ipv6.neigh.default.gc_thresh"),
        ("neighbours.ipv4", "net.ipv4.neigh.default.gc_thresh"),
    ];
    let mut findings = Vec::new();
    for (at, (check, sysctl)) in names.into_iter().enumerate() {
        let (used, most) = (tables.neighbours[at], tables.most[at]);
        let Some(most) = most.filter(|_| used > 0) else {
            continue;
        };
        let found = format!("{used} next hops, gc_thresh3 {most}");
        let finding = ok(check, found, meaning);
        findings.push(if percent(used, most) > HIGH {
            // Above gc_thresh2 the kernel begins to throw out what it can.
            let (soft, hard) = (used.saturating_mul(2), used.saturating_mul(4));
            let remedy = format!(
                "sysctl -w {sysctl}3={hard} {sysctl}2={soft} (in the machine's own namespace)"
            );
            finding.but(Severity::Warning, remedy)
        } else {
            finding
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(used: u64, neighbours: u64) -> Tables {
        let fill = |what, used| Fill {
            what,
            used,
            capacity: 1000,
            remedy: "netmesh route",
            spills: false,
        };
        Tables {
            fill: vec![fill("routes", 10), fill("next hops", used)],
            neighbours: [neighbours, 0],
            most: [Some(1024), None],
        }
    }

    #[test]
    fn fuller_than_four_fifths_is_told_and_full_is_an_error() {
        use Severity::{Error, Ok, Warning};
        for (used, severity, found) in [
            (0, Ok, "fullest: 10 routes of 1000 (1 %)"),
            (800, Ok, "fullest: 800 next hops of 1000 (80 %)"),
            (810, Warning, "810 next hops of 1000 (81 %)"),
            (999, Warning, "999 next hops of 1000 (99 %)"),
            (1000, Error, "1000 next hops of 1000 (100 %)"),
        ] {
            let findings = judge(&tables(used, 0));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(
                (findings[0].severity, findings[0].found.as_str()),
                (severity, found)
            );
        }
        // What goes on with less is no error.
        let mut tables = tables(1000, 0);
        tables.fill[1].spills = true;
        assert_eq!(judge(&tables)[0].severity, Warning);
    }

    #[test]
    fn next_hops_must_fit_into_the_table_of_the_kernel() {
        for (used, remedy) in [
            (800, None),
            (
                900,
                Some(
                    "sysctl -w net.ipv6.neigh.default.gc_thresh3=3600 \
                     net.ipv6.neigh.default.gc_thresh2=1800 (in the machine's own namespace)",
                ),
            ),
        ] {
            let findings = judge(&tables(0, used));
            assert_eq!(findings[1].check, "neighbours.ipv6");
            assert_eq!(findings[1].remedy.as_deref(), remedy);
        }
    }
}
