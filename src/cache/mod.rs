//! The one memory figure of a process and who holds how much of it.

mod memory_budget;

pub use memory_budget::{MemoryBudget, MemoryLease, Reclaim};
