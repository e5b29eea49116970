//! A canonical fingerprint of a state: equal on every node that holds the same.

use sha2::{Digest as _, Sha256};

use super::state::State;

/// SHA-256 over the canonical JSON of the state, in hex.
///
/// The state is ordered throughout and holds no private key, so two nodes that derive the same
/// state from the same objects print the same digest.
///
/// # Errors
/// When the state cannot be serialised, which no state of this crate's making does.
pub fn digest(state: &State) -> Result<String, serde_json::Error> {
    let canonical = serde_json::to_vec(state)?;
    Ok(Sha256::digest(&canonical)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::{Address, Namespace};

    #[test]
    fn every_difference_changes_the_digest() {
        let mut state = State::default();
        let empty = digest(&state).unwrap();
        state.namespace(&Namespace::Node).addresses.insert(Address {
            link: "eth0".into(),
            address: "2a02:1802:5e::1/64".parse().unwrap(),
        });
        let one = digest(&state).unwrap();
        assert_ne!(empty, one);
        assert_eq!(one, digest(&state.clone()).unwrap());
    }
}
