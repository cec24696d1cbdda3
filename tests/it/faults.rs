//! What happens when storage fails, delays, forgets to answer or hands back something else than was written.

mod claim;
mod corruption;
mod fencing;
mod flush;
mod foreign;
mod quarantine;
mod replace;
mod statement;
mod wal;
