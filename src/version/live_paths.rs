//! Which generations caches may let go of.

use std::collections::{HashMap, HashSet};

use super::control::Version;
use crate::ids::GenerationId;
use crate::store::TablePaths;

/// Where the generations of a version are, and which others may yet come into it.
#[derive(Debug)]
pub(super) struct LivePaths {
    shards: HashMap<String, Shard>,
}

#[derive(Debug)]
struct Shard {
    paths: HashSet<String>,
    /// Generations up to this one that are not in the version never will be: they are named in their order.
    decided: GenerationId,
}

impl LivePaths {
    pub(super) fn of(version: &Version) -> Self {
        let shards = version.shards.iter().map(|shard| {
            let newest = shard.generations.iter().map(|g| g.id()).max().unwrap_or_default();
            let paths = shard.generations.iter().map(|g| TablePaths::generation_dir(shard.shard, &g.record().path));
            let decided = newest.max(version.base.compacted(shard.shard));
            (TablePaths::shard_dir(shard.shard), Shard { paths: paths.collect(), decided })
        });
        Self { shards: shards.collect() }
    }

    /// Whether what is at `path` is needed. What cannot be told is.
    pub(super) fn has(&self, path: &str) -> bool {
        let Some((dir, name)) = path.rsplit_once('/') else { return true };
        let (Some(shard), Some(id)) = (self.shards.get(dir), TablePaths::parse_generation(name)) else { return true };
        shard.paths.contains(path) || id > shard.decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_in_the_version_nor_to_come_is_dead() {
        let shard = Shard { paths: HashSet::from(["_mem_wal/s/00000000_gen_4".into()]), decided: GenerationId(5) };
        let live = LivePaths { shards: HashMap::from([("_mem_wal/s".into(), shard)]) };
        let named = ["_mem_wal/s/00000000_gen_4", "_mem_wal/s/ffffffff_gen_6", "_mem_wal/t/00000000_gen_1", "x", "a/b"];
        assert!(named.iter().all(|path| live.has(path)));
        let dead = ["_mem_wal/s/ffffffff_gen_4", "_mem_wal/s/00000000_gen_3", "_mem_wal/s/00000000_gen_5"];
        assert!(!dead.iter().any(|path| live.has(path)));
    }
}
