//! Where the fields of the running kernel's `struct neighbour` are, from its BTF.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use btf_rs::{Backend, Btf, Type};
use netmesh_common::table::NeighbourLayout;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Error;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Reads the layout; `netns` is the inode number of the namespace to follow.
pub(super) fn read(netns: u32) -> Result<NeighbourLayout, Error> {
    static READ: OnceLock<NeighbourLayout> = OnceLock::new();
    let layout = match READ.get() {
        Some(layout) => *layout,
        None => {
            let layout = look()?;
            *READ.get_or_init(|| layout)
        }
    };
    Ok(NeighbourLayout { netns, ..layout })
}

/// The kernel's type information. Its file can be mapped since Linux 6.16 only, a copy of it
/// always; everything else the library offers unpacks all of it first, which takes 15 times as
/// long as all we ask.
fn open() -> io::Result<Btf> {
    let mut copy = File::from(memfd_create("btf", MFdFlags::MFD_CLOEXEC)?);
    copy.write_all(&fs::read(BTF)?)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Btf::from_file_with_backend(path, Backend::Mmap)
        .map_err(|error| io::Error::other(error.to_string()))
}

fn look() -> Result<NeighbourLayout, Error> {
    let btf = open().map_err(|source| Error::Btf {
        what: "the kernel",
        source,
    })?;
    let at = |r#struct: &'static str, path: &'static str| offset(&btf, r#struct, path);
    Ok(NeighbourLayout {
        netns: 0,
        dev: at("neighbour", "dev")?,
        dev_ifindex: at("net_device", "ifindex")?,
        // `possible_net_t` holds the pointer as its only member, at its start.
        dev_net: at("net_device", "nd_net")?,
        net_inum: at("net", "ns")? + at("ns_common", "inum")?,
        nud_state: at("neighbour", "nud_state")?,
        ha: at("neighbour", "ha")?,
        tbl: at("neighbour", "tbl")?,
        tbl_family: at("neigh_table", "family")?,
        primary_key: at("neighbour", "primary_key")?,
        dead: at("neighbour", "dead")?,
        reserved: 0,
    })
}

/// Byte offset of a member, also inside anonymous structs and unions.
fn offset(btf: &Btf, r#struct: &'static str, member: &'static str) -> Result<u32, Error> {
    let missing = || Error::Btf {
        what: member,
        source: io::ErrorKind::NotFound.into(),
    };
    let types = btf.resolve_types_by_name(r#struct).map_err(|_| missing())?;
    types
        .iter()
        .find_map(|r#type| match r#type {
            Type::Struct(found) => find(btf, found, member),
            _ => None,
        })
        .ok_or_else(missing)
}

fn find(btf: &Btf, r#struct: &btf_rs::Struct, name: &str) -> Option<u32> {
    for member in &r#struct.members {
        let here = member.bit_offset() / 8;
        let member_name = btf.resolve_name(member).unwrap_or_default();
        if member_name == name {
            return Some(here);
        }
        if member_name.is_empty() {
            let inner = match btf.resolve_chained_type(member) {
                Ok(Type::Struct(inner) | Type::Union(inner)) => inner,
                _ => continue,
            };
            if let Some(deeper) = find(btf, &inner, name) {
                return Some(here + deeper);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_described() {
        let layout = read(7).unwrap();
        assert_eq!(layout.netns, 7);
        assert!(layout.primary_key > layout.ha, "the key is the last member");
        assert!(layout.dev_ifindex != layout.dev_net);
    }
}
