//! What of a local table directory would survive a power failure.
//!
//! A name survives if its directory was synced after it appeared, a file's bytes if the file was; both are needed, for
//! the file and for every directory above it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The paths that are synced, shared by all clones. The table directory itself is the empty path.
#[derive(Debug, Clone, Default)]
pub struct SyncRecord(Arc<Mutex<Synced>>);

#[derive(Debug, Default)]
struct Synced {
    names: BTreeSet<String>,
    contents: BTreeSet<String>,
}

impl SyncRecord {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a file, with its bytes and every name on the way to it, is synced.
    pub fn has_file(&self, path: &str) -> bool {
        let synced = self.0.lock();
        synced.contents.contains(path) && synced.reaches(path)
    }

    /// Whether a directory, with every name on the way to it, is synced.
    pub fn has_dir(&self, path: &str) -> bool {
        self.0.lock().reaches(path)
    }

    /// Every file that is synced.
    pub fn files(&self) -> Vec<String> {
        let synced = self.0.lock();
        synced.contents.iter().filter(|path| synced.reaches(path)).cloned().collect()
    }

    /// The name of `path` is in its synced directory.
    pub(super) fn name(&self, path: &str) {
        self.0.lock().names.insert(path.to_string());
    }

    /// The bytes of the file are synced.
    pub(super) fn content(&self, path: &str) {
        self.0.lock().contents.insert(path.to_string());
    }

    /// The path is gone or was written anew, and with it all below.
    pub(super) fn forget(&self, path: &str) {
        let mut synced = self.0.lock();
        let below = format!("{path}/");
        let keep = |p: &String| p != path && !p.starts_with(&below);
        synced.names.retain(keep);
        synced.contents.retain(keep);
    }
}

impl Synced {
    fn reaches(&self, path: &str) -> bool {
        path.is_empty()
            || (self.names.contains(path) && path.match_indices('/').all(|(end, _)| self.names.contains(&path[..end])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_only_with_its_bytes_and_all_names_above() {
        let record = SyncRecord::new();
        record.content("a/b/c");
        record.name("a/b/c");
        record.name("a");
        assert!(!record.has_file("a/b/c"));
        record.name("a/b");
        assert!(record.has_file("a/b/c") && record.has_dir("a/b") && !record.has_file("a/b"));
        assert_eq!(record.files(), ["a/b/c"]);
        record.forget("a/b");
        assert!(!record.has_file("a/b/c") && record.has_dir("a"));
    }
}
