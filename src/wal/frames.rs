//! The extent of an Arrow IPC stream: where its end-of-stream marker is.
//!
//! Arrow's own readers take the end of the input for the end of the stream, which hides a truncation between two
//! batches: this one demands the marker.

use arrow::ipc::root_as_message;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// The length of the stream at the start of `bytes`, its end-of-stream marker included.
pub(super) fn stream_length(bytes: &[u8]) -> Result<usize, &'static str> {
    let mut at = 0;
    loop {
        if take(bytes, &mut at, 4)? != CONTINUATION {
            return Err("a message does not begin where one should");
        }
        let header = take(bytes, &mut at, 4)?;
        let length = header.try_into().map(u32::from_le_bytes).map_err(|_| TRUNCATED)?;
        if length == 0 {
            return Ok(at);
        }
        let message =
            root_as_message(take(bytes, &mut at, length as usize)?).map_err(|_| "a message does not parse")?;
        let body = usize::try_from(message.bodyLength()).map_err(|_| "a message has an impossible length")?;
        take(bytes, &mut at, body)?;
    }
}

const TRUNCATED: &str = "it ends early";

fn take<'a>(bytes: &'a [u8], at: &mut usize, length: usize) -> Result<&'a [u8], &'static str> {
    let end = at.checked_add(length).ok_or(TRUNCATED)?;
    let taken = bytes.get(*at..end).ok_or(TRUNCATED)?;
    *at = end;
    Ok(taken)
}
