//! Ids: UUIDs in newtypes, so that one kind is never taken for another.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Timestamp;

/// Makes a UUID of version 7 from an instant and the names of what it stands for.
///
/// The same arguments give the same id, so a decision that is taken twice (after a lost commit, say)
/// makes no second row. The first 48 bits are the milliseconds of `at`, as RFC 9562 section 5.7
/// asks, so that new rows lie together in an index; the rest is taken from SHA-256 of the names.
pub fn derived(at: Timestamp, names: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for name in names {
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
    }
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    let milliseconds = u64::try_from(at.as_micros() / 1000).unwrap_or(0);
    bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Uuid::from_bytes(bytes)
}

/// The same for one of many that are made at one instant: the ids are in the order of `place`.
///
/// `place` stands (its lower 24 bits) in the bits after version and variant, as RFC 9562 section 6.2 allows for a
/// counter. Rows that are worked on one after the other then lie together in an index.
pub fn derived_in_order(at: Timestamp, place: u32, names: &[&[u8]]) -> Uuid {
    let mut bytes = derived(at, names).into_bytes();
    let place = place.to_be_bytes();
    bytes[6] = 0x70 | (place[1] >> 6);
    bytes[7] = (place[1] << 2) | (place[2] >> 6);
    bytes[8] = 0x80 | (place[2] & 0x3f);
    bytes[9] = place[3];
    Uuid::from_bytes(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Derives the id; see [`derived`].
            pub fn derive(at: Timestamp, names: &[&[u8]]) -> Self {
                Self(derived(at, names))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// Names an application.
    ApplicationId
}
id! {
    /// Names a group: one application's instances that serve together.
    GroupId
}
id! {
    /// Names a server: one instance of a group on one host.
    ServerId
}
id! {
    /// Names a package: one version of an application.
    PackageId
}
id! {
    /// Names a deployment.
    DeploymentId
}
id! {
    /// Names a target: one server in one deployment.
    TargetId
}
id! {
    /// Names one outside act on one server; a host runs a key once at most (S7).
    OrderKey
}
id! {
    /// Names an access token.
    TokenId
}
id! {
    /// Names a webhook.
    WebhookId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_version_7_ordered_by_time_and_repeatable() {
        let early = Timestamp::from_micros(1_700_000_000_000_000);
        let late = Timestamp::from_micros(1_700_000_000_002_000);
        let a = derived(early, &[b"x", b"1"]);
        assert_eq!(a.get_version_num(), 7);
        assert_eq!(a, derived(early, &[b"x", b"1"]));
        assert_ne!(a, derived(early, &[b"x1", b""]));
        assert!(a < derived(late, &[b"x", b"1"]));
    }

    #[test]
    fn ids_of_one_instant_can_be_in_order() {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let places = [0, 1, 255, 256, 16_383, 16_384, 65_535, 65_536, 1_000_000, 16_000_000];
        let ids = places.map(|place| derived_in_order(at, place, &[b"x", &place.to_be_bytes()]));
        assert!(ids.is_sorted(), "{ids:?}");
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }
}
