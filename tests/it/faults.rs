//! What happens when storage fails, delays, forgets to answer or hands back something else than was written.

mod corruption;
mod fencing;
mod flush;
mod quarantine;
mod wal;
