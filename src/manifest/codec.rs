//! Manifest bytes: Lance's protobuf and, as its last field, our mark {magic, attempt id, CRC-32 of all before}.
//!
//! Lance skips the unknown field and drops it when it writes the next version. The id tells our attempt from another
//! process's equal one when the answer to a write was lost; without it two racers could both believe they won.

use bytes::Bytes;
use lance_table::format::pb;
use prost::Message;
use uuid::Uuid;

use super::ShardManifest;
use crate::error::{Error, Result};
use crate::ids::{ManifestVersion, ShardId};

/// Field 2047, length-delimited, 24 bytes, beginning with our magic.
const MARK_HEAD: [u8; 7] = [0xfa, 0x7f, 24, b'L', b'S', b'M', b'1'];
const MARK_LEN: usize = MARK_HEAD.len() + 16 + 4;

/// The bytes of a manifest, with a mark of a fresh attempt id.
pub(super) fn encode(manifest: &ShardManifest) -> Bytes {
    let mut bytes = pb::ShardManifest::from(manifest).encode_to_vec();
    bytes.extend_from_slice(&MARK_HEAD);
    bytes.extend_from_slice(Uuid::new_v4().as_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.into()
}

/// The manifest in `bytes`, which must be what its name says.
///
/// # Errors
/// `Corrupt`, naming the object.
pub(super) fn decode(bytes: &[u8], shard: ShardId, version: ManifestVersion, path: &str) -> Result<ShardManifest> {
    let corrupt = |why: &str| {
        Error::corrupt(format!("the shard manifest is damaged ({why}): restore it from a backup"))
            .with_context("path", path)
    };
    if let Some(start) = bytes.len().checked_sub(MARK_LEN)
        && bytes[start..].starts_with(&MARK_HEAD)
    {
        let (sealed, crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(sealed).to_le_bytes() != crc {
            return Err(corrupt("its checksum does not match"));
        }
    }
    let message = pb::ShardManifest::decode(bytes).map_err(|e| corrupt("it does not parse").with_source(e))?;
    let manifest = ShardManifest::try_from(message).map_err(|e| corrupt("it lacks a field").with_source(e))?;
    if manifest.shard_id != shard.0 {
        return Err(corrupt("it belongs to another shard"));
    }
    if manifest.version != version.0 {
        return Err(corrupt("it has another version than its name"));
    }
    Ok(manifest)
}
