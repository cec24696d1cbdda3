//! The identifiers of the engine as types with a documented order; no bare `u64` crosses a room.

use std::fmt;

use uuid::Uuid;

macro_rules! ordinal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ordinal! {
    /// A writer's fencing token: the higher one owns the shard. 0 means that nobody ever claimed it.
    Epoch
}
ordinal! {
    /// The slot of an entry in a shard's WAL: 1-based and gap-free; 0 means "none".
    WalPosition
}
ordinal! {
    /// The number of a memtable and of the generation it becomes: the higher one is newer within its shard. 0 is the base.
    GenerationId
}
ordinal! {
    /// The version of a shard manifest: 1-based and gap-free.
    ManifestVersion
}

/// The identity of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub Uuid);

impl ShardId {
    /// The namespace of derived shard ids, shared with LanceDB so that both name the same shards.
    const NAMESPACE: Uuid = Uuid::from_u128(0x4c53_4d57_5249_5445_5f53_4841_5244_3031);

    /// The only shard of a table that is not sharded.
    pub fn unsharded() -> Self {
        Self(Uuid::new_v5(&Self::NAMESPACE, b"unsharded"))
    }

    /// The shard of bucket `n` of a table sharded by hash.
    pub fn bucket(n: u32) -> Self {
        Self(Uuid::new_v5(&Self::NAMESPACE, format!("bucket-{n}").as_bytes()))
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}
