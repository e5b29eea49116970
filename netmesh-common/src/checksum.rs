//! The IPv4 header checksum: verified once, then updated incrementally (RFC 1624).

/// The header of 20 bytes, in words of network order, sums to what RFC 1071 asks for.
#[inline(always)]
#[must_use]
pub const fn is_valid(header: &[u32; 5]) -> bool {
    let mut sum: u32 = 0;
    let mut i = 0;
    while i < 5 {
        sum += (header[i] >> 16) + (header[i] & 0xffff);
        i += 1;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
}

/// The checksum after one 16-bit word of the header changed: equation 3 of RFC 1624,
/// `HC' = ~(~HC + ~m + m')`.
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn is_valid(header: &[u8; 20]) -> bool {
        let mut words = [0; 5];
        for (word, bytes) in words.iter_mut().zip(header.chunks(4)) {
            *word = u32::from_be_bytes(bytes.try_into().unwrap());
        }
        super::is_valid(&words)
    }

    fn full(header: &[u8; 20]) -> u16 {
        let mut sum: u64 = 0;
        for pair in header.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Every protocol, every TTL, headers that make every carry happen.
    #[test]
    fn the_update_equals_a_full_sum_for_every_ttl() {
        for seed in 0..=255_u8 {
            for protocol in 0..=255_u8 {
                for ttl in [1, 2, 63, 64, 127, 128, 254, 255_u8] {
                    let mut header = [seed; 20];
                    header[0] = 0x45;
                    header[8] = ttl;
                    header[9] = protocol;
                    header[10] = 0;
                    header[11] = 0;
                    let checksum = full(&header);
                    header[10..12].copy_from_slice(&checksum.to_be_bytes());
                    assert!(is_valid(&header));

                    let old = u16::from_be_bytes([ttl, protocol]);
                    let new = u16::from_be_bytes([ttl - 1, protocol]);
                    header[8] = ttl - 1;
                    let updated = update(checksum, old, new);
                    header[10..12].copy_from_slice(&updated.to_be_bytes());
                    assert!(
                        is_valid(&header),
                        "seed {seed} protocol {protocol} ttl {ttl}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut header = [
            0x45, 0, 0, 84, 1, 2, 0x40, 0, 64, 1, 0, 0, 10, 1, 10, 254, 10, 1, 2, 254,
        ];
        let checksum = full(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert!(is_valid(&header));
        for bit in 0..160 {
            let mut broken = header;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&broken), "bit {bit}");
        }
    }
}
