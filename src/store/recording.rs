//! What is read of the files of a directory.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::cache::FileName;

/// Blocks of one file that are noted; of a longer one a reader asks for the rest when it comes to that.
const BLOCKS_OF_FILE: usize = 16;
/// Blocks of all files that are noted.
const BLOCKS: usize = 64;

/// The recordings that are under way.
#[derive(Debug, Default)]
pub(super) struct Recordings(RwLock<Vec<Arc<Recorded>>>);

/// What was read of the files whose names begin with `dir`.
#[derive(Debug)]
pub(super) struct Recorded {
    dir: String,
    files: Mutex<Vec<RecordedFile>>,
}

/// What was read of one file.
#[derive(Debug, Clone)]
pub(super) struct RecordedFile {
    pub(super) name: FileName,
    pub(super) size: u64,
    pub(super) blocks: BTreeSet<u64>,
}

impl Recordings {
    /// Notes what is read of the files whose names begin with `dir`, until [`Self::end`].
    pub(super) fn begin(&self, dir: String) -> Arc<Recorded> {
        let recorded = Arc::new(Recorded { dir, files: Mutex::default() });
        self.0.write().push(Arc::clone(&recorded));
        recorded
    }

    pub(super) fn end(&self, recorded: &Arc<Recorded>) {
        self.0.write().retain(|other| !Arc::ptr_eq(other, recorded));
    }

    /// `blocks` of a file of `size` bytes were read; none if only its size was asked for.
    pub(super) fn note(&self, name: &FileName, size: u64, blocks: Range<u64>) {
        for recorded in self.0.read().iter().filter(|recorded| name.starts_with(&recorded.dir)) {
            recorded.note(name, size, blocks.clone());
        }
    }
}

impl Recorded {
    /// The files in the order in which they were first read.
    pub(super) fn files(&self) -> Vec<RecordedFile> {
        self.files.lock().clone()
    }

    /// The part of a file's name within the directory.
    pub(super) fn path_of(&self, name: &FileName) -> String {
        name.strip_prefix(&self.dir).unwrap_or(name).to_string()
    }

    fn note(&self, name: &FileName, size: u64, blocks: Range<u64>) {
        let mut files = self.files.lock();
        let noted: usize = files.iter().map(|file| file.blocks.len()).sum();
        let at = files.iter().position(|file| file.name == *name).unwrap_or_else(|| {
            files.push(RecordedFile { name: Arc::clone(name), size, blocks: BTreeSet::new() });
            files.len() - 1
        });
        let of_file = &mut files[at].blocks;
        let room = (BLOCKS - noted.min(BLOCKS)).min(BLOCKS_OF_FILE - of_file.len().min(BLOCKS_OF_FILE));
        let new: Vec<u64> = blocks.filter(|block| !of_file.contains(block)).take(room).collect();
        of_file.extend(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_below_a_directory_is_noted_up_to_a_bound() {
        let recordings = Recordings::default();
        let recorded = recordings.begin("s/dir/".into());
        let note = |name: &str, blocks: Range<u64>| recordings.note(&name.into(), 1 << 30, blocks);
        note("s/dir/a", 7..9);
        note("s/other/a", 0..1);
        note("s/dir/b", 0..0);
        note("s/dir/a", 8..40);
        let files = recorded.files();
        assert_eq!(files.iter().map(|file| recorded.path_of(&file.name)).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(files[0].blocks, (7..23).collect());
        assert!(files[1].blocks.is_empty());
        for file in 0..10 {
            note(&format!("s/dir/c{file}"), 0..10);
        }
        assert_eq!(recorded.files().iter().map(|file| file.blocks.len()).sum::<usize>(), BLOCKS);
        recordings.end(&recorded);
        note("s/dir/z", 0..1);
        assert_eq!(recorded.files().len(), 12);
    }
}
