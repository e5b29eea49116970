//! UDP ports that are in use.

use std::collections::BTreeSet;
use std::fs;
use std::io;

/// The local ports of every UDP socket of the calling thread's namespace, the kernel's own among
/// them.
///
/// # Errors
/// When the list cannot be read. A kernel without IPv6 has none of its sockets.
pub fn udp_ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = read(&fs::read_to_string("/proc/thread-self/net/udp")?);
    match fs::read_to_string("/proc/thread-self/net/udp6") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => ports.append(&mut read(&other?)),
    }
    Ok(ports)
}

/// Columns: number, local address and port in hexadecimal digits, …
fn read(text: &str) -> BTreeSet<u16> {
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    text.lines().skip(1).filter_map(local).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_both_families_are_read() {
        let text = "   sl  local_address rem_address   st tx_queue\n\
                    461: 00000000:CA6C 00000000:0000 07 00000000:00000000\n\
                    462: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07\n";
        assert_eq!(read(text), BTreeSet::from([53, 51820]));
    }
}
