//! Loads and stores of whole words wherever they lie in a packet. To the compiler a word at an odd
//! place is so many bytes, each of which it loads, keeps, shifts and joins; the kernel takes it at
//! once on machines that do (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// Words of `$word` at `$name`, each an instruction.
macro_rules! access {
    ($word:ty, $text:literal, $load:ident, $store:ident) => {
        /// # Safety
        /// The word lies inside a packet or a map's value.
        #[inline(always)]
        pub(crate) unsafe fn $load(place: usize) -> $word {
            #[cfg(target_arch = "bpf")]
            {
                let value: u64;
                // SAFETY: the caller's.
                unsafe {
                    asm!(
                        concat!("{value} = *(", $text, " *)({place} + 0)"),
                        place = in(reg) place,
                        value = out(reg) value,
                        options(pure, readonly, nostack),
                    );
                }
                value as $word
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: the caller's.
            unsafe {
                (place as *const $word).read_unaligned()
            }
        }

        /// # Safety
        /// The word lies inside a packet or a map's value.
        #[inline(always)]
        pub(crate) unsafe fn $store(place: usize, value: $word) {
            #[cfg(target_arch = "bpf")]
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    concat!("*(", $text, " *)({place} + 0) = {value}"),
                    place = in(reg) place,
                    value = in(reg) u64::from(value),
                    options(nostack),
                );
            }
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: the caller's.
            unsafe {
                (place as *mut $word).write_unaligned(value);
            }
        }
    };
}

access!(u64, "u64", load_8, store_8);
access!(u32, "u32", load_4, store_4);
access!(u16, "u16", load_2, store_2);

/// Words of 8 bytes from a place on, in network order.
///
/// # Safety
/// As of one.
#[inline(always)]
pub(crate) unsafe fn words<const N: usize>(place: usize) -> [u64; N] {
    let mut words = [0; N];
    let mut n = 0;
    while n < N {
        // SAFETY: the caller's.
        words[n] = u64::from_be(unsafe { load_8(place + 8 * n) });
        n += 1;
    }
    words
}

/// Words of 4 bytes.
///
/// # Safety
/// As of one.
#[inline(always)]
pub(crate) unsafe fn halves<const N: usize>(place: usize) -> [u32; N] {
    let mut words = [0; N];
    let mut n = 0;
    while n < N {
        // SAFETY: the caller's.
        words[n] = u32::from_be(unsafe { load_4(place + 4 * n) });
        n += 1;
    }
    words
}

/// The three words of an Ethernet header.
///
/// # Safety
/// Fourteen bytes lie there, as of one.
#[inline(always)]
pub(crate) unsafe fn store_ethernet(
    place: usize,
    stations: netmesh_common::verdict::Stations,
    ethertype: u16,
) {
    // SAFETY: the caller's.
    unsafe {
        store_8(place, stations.first);
        store_4(place + 8, stations.second);
        store_2(place + 12, ethertype.to_be());
    }
}
