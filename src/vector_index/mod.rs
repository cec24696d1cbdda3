//! Vectors in memory that the nearest are found among: one bit a dimension to look at, exact distances of few.
//!
//! Owns: codes, estimates and which rows to compare. Does not own the vectors, which stay where the rows are, nor which
//! rows may be found: a watermark and a mask tell.

mod block;
mod class;
mod code;
mod count;
mod index;
mod kernels;
mod mask;
mod nearest;
mod product;
mod random;
mod rank;
mod rotation;
mod search;
mod simd;
mod top;

pub use class::{Class, vector_of};
pub use index::{IndexError, VectorIndex};
pub use mask::Mask;
pub use nearest::Nearest;
pub use product::{ProductCodebook, ProductList, ProductTable};
pub use rank::{accepts, known_distance, rank, squared_length};
pub use search::{Effort, Request, Vectors, Work};
pub use simd::Simd;
pub use top::{Neighbour, Top};
