//! What failed and what the caller should do about it.
//!
//! An [`Error`] carries a coarse [`ErrorKind`] that names the caller's next move, a message for people, the facts
//! known where it happened and the error below it. A kind exists only if a caller would act differently.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use datafusion::common::DataFusionError;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The caller's next move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another statement changed the same key first: repeat the statement.
    Conflict,
    /// Another process claimed the shard, or dropped the table: open the table again if this process should write.
    Fenced,
    /// Queues or memory are full and did not drain in time: slow down and repeat.
    Backpressure,
    /// The storage did not answer or is full: repeat later.
    Unavailable,
    /// The write may or may not be applied: read before repeating it.
    Indeterminate,
    /// The request cannot be carried out as it is: change it.
    Invalid,
    /// Stored data is damaged: the error names the object; repair or quarantine it.
    Corrupt,
    /// The table handle was closed, its table was dropped in this process, or one of its tasks panicked: open the table
    /// again.
    Closed,
    /// A defect of this crate: report it.
    Internal,
}

impl ErrorKind {
    /// The kind's name, as errors print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Fenced => "Fenced",
            Self::Backpressure => "Backpressure",
            Self::Unavailable => "Unavailable",
            Self::Indeterminate => "Indeterminate",
            Self::Invalid => "Invalid",
            Self::Corrupt => "Corrupt",
            Self::Closed => "Closed",
            Self::Internal => "Internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The fact that [`Error::rows_written`] reads.
const ROWS_WRITTEN: &str = "rows_written_before";

/// An error with its kind, message, context and source. Cheap to clone: one failed group commit answers many writers.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of `kind` with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    constructors! {
        /// Another statement changed the same key first.
        conflict => Conflict,
        /// Another process claimed the shard.
        fenced => Fenced,
        /// Queues or memory are full.
        backpressure => Backpressure,
        /// The storage did not answer.
        unavailable => Unavailable,
        /// The write may or may not be applied.
        indeterminate => Indeterminate,
        /// The request is wrong.
        invalid => Invalid,
        /// Stored data is damaged.
        corrupt => Corrupt,
        /// The handle was closed.
        closed => Closed,
        /// A defect of this crate.
        internal => Internal,
    }

    /// Adds a fact known at this place, such as the shard or the object.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        Arc::make_mut(&mut self.0).context.push((name, value.to_string()));
        self
    }

    /// Keeps the error below this one.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// The caller's next move.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without kind, context and source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts added on the way up, innermost first.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// Adds how many rows of the write were acknowledged before it failed.
    #[must_use]
    pub(crate) fn with_rows_written(self, rows: u64) -> Self {
        if rows == 0 { self } else { self.with_context(ROWS_WRITTEN, rows) }
    }

    /// How many rows of a large write were acknowledged before the part that failed, at least; they are in. Of the part
    /// that failed, rows may be in as well.
    pub fn rows_written(&self) -> u64 {
        let written = self.context().iter().find(|(name, _)| *name == ROWS_WRITTEN);
        written.and_then(|(_, rows)| rows.parse().ok()).unwrap_or(0)
    }

    /// Whether repeating the same request later can succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Conflict | ErrorKind::Backpressure | ErrorKind::Unavailable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)?;
        for (i, (name, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    /// Recovers an [`Error`] that travelled through DataFusion; anything else is classed by whose fault it is.
    fn from(error: DataFusionError) -> Self {
        let mut below: &(dyn StdError + 'static) = &error;
        loop {
            if let Some(ours) = below.downcast_ref::<Error>() {
                return ours.clone();
            }
            match below.source() {
                Some(next) => below = next,
                None => break,
            }
        }
        match error.find_root() {
            DataFusionError::Plan(_)
            | DataFusionError::SQL(_, _)
            | DataFusionError::SchemaError(_, _)
            | DataFusionError::Configuration(_)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Execution(_)
            | DataFusionError::ArrowError(_, _) => Error::invalid("the statement failed").with_source(error),
            DataFusionError::ResourcesExhausted(_) => Error::backpressure("out of memory").with_source(error),
            DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => {
                Error::unavailable("the storage failed").with_source(error)
            }
            _ => Error::internal("the query engine failed").with_source(error),
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Error::internal("an Arrow kernel failed").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_datafusion() {
        let ours = Error::fenced("claimed by epoch 7").with_context("shard", "s1");
        let wrapped = DataFusionError::from(ours).context("while inserting");
        let back = Error::from(wrapped);
        assert_eq!(back.kind(), ErrorKind::Fenced);
        assert_eq!(back.to_string(), "Fenced: claimed by epoch 7 (shard=s1)");
        assert_eq!((back.rows_written(), back.with_rows_written(7).rows_written()), (0, 7));
    }

    #[test]
    fn a_foreign_error_is_classed_and_kept() {
        let error = Error::from(DataFusionError::Plan("no such column".into()));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("no such column"));
        assert!(!error.is_retryable());
    }
}
