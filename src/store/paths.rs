//! Every path of a table directory, relative to it and separated by '/'.
//!
//! The names are Lance's: slots and versions are written as 64 binary digits, lowest first, so that neighbours land in
//! different partitions of an object store. Lance takes `<64 digits>.anything` for an entry: no temporary name may
//! begin with the name it becomes.

use uuid::Uuid;

use crate::ids::{GenerationId, ManifestVersion, ShardId, WalPosition};

/// The paths of a table directory.
#[derive(Debug, Clone, Copy)]
pub struct TablePaths;

impl TablePaths {
    /// What a table directory holds: Lance's files and those of the shards.
    pub const ROOT: &'static [&'static str] =
        &[Self::SHARDS, Self::VERSIONS, "_transactions", "_deletions", "_indices", "_refs", "data", "tree"];

    /// The directory of all shards.
    pub const SHARDS: &'static str = "_mem_wal";

    /// The directory of the versions of the base: where it is, there is a table.
    pub const VERSIONS: &'static str = "_versions";

    /// The directory of a shard.
    pub fn shard_dir(shard: ShardId) -> String {
        format!("{}/{shard}", Self::SHARDS)
    }

    /// The directory of a shard's WAL.
    pub fn wal_dir(shard: ShardId) -> String {
        format!("{}/{shard}/wal", Self::SHARDS)
    }

    /// An entry of a shard's WAL.
    pub fn wal_entry(shard: ShardId, position: WalPosition) -> String {
        format!("{}/{shard}/wal/{}", Self::SHARDS, Self::wal_entry_name(position))
    }

    /// The file name of a WAL entry.
    pub fn wal_entry_name(position: WalPosition) -> String {
        format!("{:064b}.arrow", position.0.reverse_bits())
    }

    /// The slot of a WAL entry by its file name; `None` for any other file.
    pub fn parse_wal_entry(name: &str) -> Option<WalPosition> {
        parse(name, ".arrow").map(WalPosition)
    }

    /// The directory of a shard's manifests.
    pub fn manifest_dir(shard: ShardId) -> String {
        format!("{}/{shard}/manifest", Self::SHARDS)
    }

    /// A manifest of a shard.
    pub fn manifest(shard: ShardId, version: ManifestVersion) -> String {
        format!("{}/{shard}/manifest/{:064b}.binpb", Self::SHARDS, version.0.reverse_bits())
    }

    /// The version of a manifest by its file name; `None` for any other file.
    pub fn parse_manifest(name: &str) -> Option<ManifestVersion> {
        parse(name, ".binpb").map(ManifestVersion)
    }

    /// The object that names a recent manifest version.
    pub fn version_hint(shard: ShardId) -> String {
        format!("{}/{shard}/manifest/version_hint.json", Self::SHARDS)
    }

    /// The directory of a generation; `name` is what the manifest calls its path.
    pub fn generation_dir(shard: ShardId, name: &str) -> String {
        format!("{}/{shard}/{name}", Self::SHARDS)
    }

    /// A fresh directory name for a generation. Every attempt takes a new one, so a failed one is never in the way.
    pub fn new_generation_name(generation: GenerationId) -> String {
        format!("{}_gen_{generation}", random_hex())
    }

    /// The number of a generation by the name of its directory; `None` for any other.
    pub fn parse_generation(name: &str) -> Option<GenerationId> {
        name.rsplit_once("_gen_")?.1.parse().ok().map(GenerationId)
    }

    /// The directory of everything that was ever quarantined in a shard.
    pub fn quarantines(shard: ShardId) -> String {
        format!("{}/{shard}/quarantine", Self::SHARDS)
    }

    /// A fresh directory for entries to be moved aside.
    pub fn new_quarantine_dir(shard: ShardId) -> String {
        format!("{}/{shard}/quarantine/{}", Self::SHARDS, random_hex())
    }
}

/// Eight random hexadecimal digits.
fn random_hex() -> String {
    let mut hex = Uuid::new_v4().simple().to_string();
    hex.truncate(8);
    hex
}

fn parse(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 64 || !digits.bytes().all(|b| b == b'0' || b == b'1') {
        return None;
    }
    u64::from_str_radix(digits, 2).ok().map(u64::reverse_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_the_number_in_binary_lowest_digit_first() {
        let name = TablePaths::wal_entry_name(WalPosition(5));
        assert!(name.starts_with("10100000") && name.ends_with("0000.arrow") && name.len() == 70);
        for n in [1, 2, 5, 1 << 40, u64::MAX] {
            assert_eq!(TablePaths::parse_wal_entry(&TablePaths::wal_entry_name(WalPosition(n))), Some(WalPosition(n)));
            let path = TablePaths::manifest(ShardId::unsharded(), ManifestVersion(n));
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(TablePaths::parse_manifest(name), Some(ManifestVersion(n)));
        }
    }

    #[test]
    fn other_files_are_not_entries() {
        let name = TablePaths::wal_entry_name(WalPosition(5));
        for other in [&format!("{name}.tmp"), &name[1..], "version_hint.json", "", &name.replace(".arrow", ".binpb")] {
            assert_eq!(TablePaths::parse_wal_entry(other), None);
        }
    }

    #[test]
    fn generation_names_follow_lance() {
        let name = TablePaths::new_generation_name(GenerationId(3));
        let (hash, generation) = name.split_once("_gen_").unwrap();
        assert!(hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(generation, "3");
        assert_eq!(TablePaths::parse_generation(&name), Some(GenerationId(3)));
        assert_eq!(TablePaths::parse_generation("manifest"), None);
    }
}
