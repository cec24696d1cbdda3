//! What follows the Arrow stream of an entry of ours: {magic, id, length, CRC-32}, 36 bytes.
//!
//! The id makes the bytes of every entry unlike all others, so that reading a slot back tells whose it is.

use uuid::Uuid;

const MAGIC: &[u8; 8] = b"LSMWAL\x01\n";

/// The length of a trailer.
pub(super) const LEN: usize = 8 + 16 + 8 + 4;

/// Appends the trailer to an Arrow stream.
pub(super) fn append(stream: &mut Vec<u8>, id: Uuid) {
    let length = stream.len() as u64;
    stream.extend_from_slice(MAGIC);
    stream.extend_from_slice(id.as_bytes());
    stream.extend_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(stream);
    stream.extend_from_slice(&crc.to_le_bytes());
}

/// Whether `bytes`, of which the first `length` are the Arrow stream, end with a trailer that fits them.
pub(super) fn verify(bytes: &[u8], length: usize) -> bool {
    let Some(trailer) = bytes.get(length..).filter(|rest| rest.len() == LEN) else { return false };
    let crc = crc32fast::hash(&bytes[..bytes.len() - 4]);
    trailer.starts_with(MAGIC) && trailer[24..32] == (length as u64).to_le_bytes() && trailer[32..] == crc.to_le_bytes()
}
