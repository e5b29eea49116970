//! Numbers as people read them, in few characters.

/// Decimal prefixes, for rates; binary ones for bytes, as `netmesh counters` has them.
const DECIMAL: [&str; 6] = ["", " k", " M", " G", " T", " P"];
const BINARY: [&str; 6] = [" B", " KiB", " MiB", " GiB", " TiB", " PiB"];

/// Something a second: three digits at least, and a decimal prefix.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        // A rate below one is not nothing.
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => scaled(rate, 1000.0, &DECIMAL),
    }
}

/// A number of packets.
pub(super) fn count(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    scaled(count as f64, 1000.0, &DECIMAL)
}

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    scaled(count as f64, 1024.0, &BINARY)
}

/// How long ago something was, in seconds.
pub(super) fn age(seconds: Option<u64>) -> String {
    match seconds {
        None => "never".to_owned(),
        Some(seconds @ 0..120) => format!("{seconds} s"),
        Some(seconds @ 120..7200) => format!("{} min", seconds / 60),
        Some(seconds @ 7200..172_800) => format!("{} h", seconds / 3600),
        Some(seconds) => format!("{} d", seconds / 86_400),
    }
}

fn scaled(value: f64, base: f64, units: &[&str; 6]) -> String {
    let mut value = value;
    let mut unit = 0;
    // What would be printed as 1000 is the next unit's.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0}{}", units[0]),
        _ if value < 9.995 => format!("{value:.2}{}", units[unit]),
        _ if value < 99.95 => format!("{value:.1}{}", units[unit]),
        _ => format!("{value:.0}{}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_magnitude() {
        let rates = [0.0, 0.25, 3.0, 999.4, 999.6, 1234.0, 99_960.0, 4.56e9, 1e18];
        let shown: Vec<String> = rates.iter().map(|value| rate(Some(*value))).collect();
        let expected = [
            "0", "0.2", "3.0", "999", "1.00 k", "1.23 k", "100 k", "4.56 G", "1000 P",
        ];
        assert_eq!(shown, expected);
        assert_eq!(rate(None), "-");
        assert_eq!(count(99_999), "99999");
        assert_eq!(count(1_500_000), "1.50 M");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        let ages = [
            Some(0),
            Some(119),
            Some(120),
            Some(7200),
            Some(172_800),
            None,
        ];
        let shown: Vec<String> = ages.into_iter().map(age).collect();
        assert_eq!(shown, ["0 s", "119 s", "2 min", "2 h", "2 d", "never"]);
    }
}
