//! What a reader that has nothing of a directory in memory needs of its files, in one object beside them.
//!
//! It repeats bytes of files and decides nothing: without it, or with one that is damaged, the files are read.

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, Result};

/// The name of the object.
pub(super) const NAME: &str = "summary.binpb";
/// How every summary begins.
const MAGIC: [u8; 8] = *b"LSMSUM1\n";
/// The most bytes that a file is believed to have: a generation was in memory once.
const LARGEST: u64 = 1 << 40;

/// Parts of files of a directory.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) files: Vec<FileSummary>,
    /// What else who wrote it knows of the files, in a form of its own; empty if nothing.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) extra: Bytes,
    /// The name of the directory: the files of another may have the same names.
    #[prost(string, tag = "3")]
    pub(super) directory: String,
}

/// Parts of a file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FileSummary {
    /// Within the directory.
    #[prost(string, tag = "1")]
    pub(super) path: String,
    /// Bytes of the whole file.
    #[prost(uint64, tag = "2")]
    pub(super) size: u64,
    #[prost(message, repeated, tag = "3")]
    pub(super) parts: Vec<Part>,
}

/// Bytes of a file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Part {
    /// The first of them.
    #[prost(uint64, tag = "1")]
    pub(super) start: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) bytes: Bytes,
}

impl Summary {
    /// The object: magic, message, CRC-32 (IEEE) of all before.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = MAGIC.to_vec();
        // A vector takes whatever is written to it.
        let _ = self.encode(&mut bytes);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.into()
    }

    /// The summary in `bytes`.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged.
    pub(super) fn of_bytes(bytes: &Bytes) -> Result<Self> {
        let damaged = || Error::corrupt("the summary of a generation is damaged: its files are read instead");
        let sealed = bytes.len().checked_sub(4).ok_or_else(damaged)?;
        if !bytes.starts_with(&MAGIC) || crc32fast::hash(&bytes[..sealed]).to_le_bytes() != bytes[sealed..] {
            return Err(damaged());
        }
        let summary = Self::decode(bytes.slice(MAGIC.len()..sealed)).map_err(|e| damaged().with_source(e))?;
        let fits = |file: &FileSummary| {
            let is_within =
                |part: &Part| part.start.checked_add(part.bytes.len() as u64).is_some_and(|end| end <= file.size);
            file.size <= LARGEST && file.parts.iter().all(is_within)
        };
        if summary.files.iter().all(fits) { Ok(summary) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_comes_back_and_damage_is_found() {
        let part = Part { start: 64, bytes: Bytes::from_static(b"footer") };
        let file = FileSummary { path: "data/x.lance".into(), size: 70, parts: vec![part] };
        let files = vec![file, FileSummary { path: "y".into(), size: 7, parts: Vec::new() }];
        let summary = Summary { files, extra: Bytes::from_static(b"keys"), directory: "a_gen_1".into() };
        let bytes = summary.to_bytes();
        assert_eq!(Summary::of_bytes(&bytes).unwrap(), summary);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Summary::of_bytes(&damaged.into()).is_err(), "byte {at}");
            assert!(Summary::of_bytes(&bytes.slice(..at)).is_err(), "{at} bytes");
        }
        let plain = Summary { extra: Bytes::new(), ..summary.clone() };
        assert_eq!(Summary::of_bytes(&plain.to_bytes()).unwrap(), plain);
        let mut outside = summary.clone();
        outside.files[0].size = 69;
        assert!(Summary::of_bytes(&outside.to_bytes()).is_err());
        for size in [LARGEST + 1, 1 << 60, u64::MAX] {
            let mut huge = summary.clone();
            huge.files[1].size = size;
            assert!(Summary::of_bytes(&huge.to_bytes()).is_err(), "{size}");
        }
    }
}
