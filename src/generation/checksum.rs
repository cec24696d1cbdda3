//! Checksums of a generation's files. Lance's have none: a flipped bit in a data file would be read as another value.
//!
//! They are written to a file beside the others, which Lance does not look at, and compared when the generation is
//! opened. Only on local file systems: object stores check what they keep. Generations of other writers have no such file.

use serde::{Deserialize, Serialize};

use super::GenerationRecord;
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::store::{ObjectIo, TablePaths};

/// The name of the file with the checksums.
const FILE: &str = "checksums.json";

/// One file: its path within the generation, its length in bytes and the CRC-32 (IEEE) of its content.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Checksum {
    path: String,
    length: u64,
    crc32: u32,
}

/// Writes the checksums of all files of the generation named `name`; a sync follows.
pub(super) async fn write(io: &ObjectIo, shard: ShardId, name: &str) -> Result<()> {
    if !io.is_local() {
        return Ok(());
    }
    let dir = TablePaths::generation_dir(shard, name);
    let mut checksums = Vec::new();
    for path in io.files(&dir).await? {
        let (length, crc32) = io.checksum(&path).await?;
        let path = path.strip_prefix(&dir).unwrap_or(&path).trim_start_matches('/').to_string();
        checksums.push(Checksum { path, length, crc32 });
    }
    checksums.sort_by(|a, b| a.path.cmp(&b.path));
    let bytes = serde_json::to_vec_pretty(&checksums)
        .map_err(|e| Error::internal("checksums could not be encoded").with_source(e))?;
    io.put(&format!("{dir}/{FILE}"), bytes.into()).await
}

/// Compares the files of a generation with their checksums, if it has some.
///
/// # Errors
/// `Corrupt`, naming the file, if one is missing or was changed; `Unavailable` if the storage fails.
pub async fn verify(io: &ObjectIo, shard: ShardId, record: &GenerationRecord) -> Result<()> {
    if !io.is_local() {
        return Ok(());
    }
    let dir = TablePaths::generation_dir(shard, &record.path);
    let list = format!("{dir}/{FILE}");
    let Some(bytes) = io.get(&list).await? else { return Ok(()) };
    let damaged = |path: &str| {
        Error::corrupt("a file of a generation is not what was written: restore it from a backup")
            .with_context("path", path)
    };
    let checksums: Vec<Checksum> = serde_json::from_slice(&bytes).map_err(|e| damaged(&list).with_source(e))?;
    for expected in checksums {
        let path = format!("{dir}/{}", expected.path);
        match io.checksum(&path).await {
            Ok(found) if found == (expected.length, expected.crc32) => {}
            Err(error) if io.exists(&path).await? => return Err(error),
            _ => return Err(damaged(&path)),
        }
    }
    Ok(())
}
