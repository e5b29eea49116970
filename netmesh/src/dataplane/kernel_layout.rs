//! Where the fields of the running kernel's `struct neighbour` are, from its BTF.

use std::io;

use btf_rs::{Btf, Type};
use netmesh_common::table::NeighbourLayout;

use super::Error;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Reads the layout; `netns` is the inode number of the namespace to follow.
pub(super) fn read(netns: u32) -> Result<NeighbourLayout, Error> {
    let btf = Btf::from_file(BTF).map_err(|error| Error::Btf {
        what: "the kernel",
        source: io::Error::other(error.to_string()),
    })?;
    let at = |r#struct: &'static str, path: &'static str| offset(&btf, r#struct, path);
    Ok(NeighbourLayout {
        netns,
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
