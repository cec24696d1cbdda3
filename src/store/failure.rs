//! Which of our kinds a failure of the storage is.
//!
//! `Unavailable` means that trying again can help, `Invalid` that it cannot: a wrong class here turns a full disk into
//! a refused request or a typing error into endless retries.

use std::error::Error as StdError;
use std::fmt;
use std::io::{Error as IoError, ErrorKind as IoErrorKind};

use lance_core::Error as LanceError;

use crate::error::Error;

/// The error of a file operation on `path`.
pub(super) fn from_io(error: IoError, doing: &'static str, path: &str) -> Error {
    let class = match error.kind() {
        IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem => {
            Error::invalid("the location is not writable or not readable: grant access or choose another")
        }
        IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => {
            Error::unavailable("the disk is full: free some space")
        }
        IoErrorKind::NotADirectory | IoErrorKind::IsADirectory | IoErrorKind::InvalidFilename => {
            Error::invalid("the location is not a table directory: choose another")
        }
        _ => Error::unavailable("the file system failed"),
    };
    class.with_context("doing", doing).with_context("path", path).with_source(error)
}

/// The error of a request to an object store.
pub(super) fn from_object_store(error: object_store::Error, doing: &'static str, path: &str) -> Error {
    use object_store::Error as Store;
    let class = match &error {
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            Error::invalid("the object store denies access: check the credentials")
        }
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            Error::invalid("the object store cannot do this: choose one with conditional writes")
        }
        Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => {
            Error::invalid("the location or the storage options are wrong")
        }
        _ => Error::unavailable("the object store failed"),
    };
    class.with_context("doing", doing).with_context("path", path).with_source(error)
}

/// An error of Lance as one of ours, by what the caller can do about it.
///
/// A commit conflict becomes `Conflict`, a missing object and a damaged file `Corrupt` (what a manifest names must be
/// there), storage that does not answer `Unavailable`, a wrong request `Invalid`; what Lance should never run into is
/// `Internal`. One of ours that came through Lance stays what it was.
pub fn from_lance(error: LanceError) -> Error {
    ours_in(&error).unwrap_or_else(|| class_of(&error).with_source(LanceCause(error)))
}

/// The error of ours that Lance wrapped, if it is one.
fn ours_in(error: &LanceError) -> Option<Error> {
    let source = match error {
        LanceError::IO { source, .. } | LanceError::External { source } => source,
        LanceError::Wrapped { error, .. } => error,
        LanceError::Shared { source } => return ours_in(source),
        _ => return None,
    };
    let mut below: Option<&(dyn StdError + 'static)> = Some(source.as_ref());
    while let Some(cause) = below {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return Some(ours.clone());
        }
        if let Some(lance) = cause.downcast_ref::<LanceError>() {
            return ours_in(lance);
        }
        below = cause.source();
    }
    None
}

/// What Lance says, without the places in its sources.
#[derive(Debug)]
struct LanceCause(LanceError);

impl fmt::Display for LanceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_places(&self.0.to_string()))
    }
}

impl StdError for LanceCause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// `text` without its parts that name a line of a source file: `, /a/b.rs:7:5`.
fn without_places(text: &str) -> String {
    let is_place = |part: &str| {
        let mut words = part.trim_end().rsplitn(3, ':');
        let is_number =
            |word: Option<&str>| word.is_some_and(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_digit()));
        is_number(words.next()) && is_number(words.next()) && words.next().is_some_and(|path| path.ends_with(".rs"))
    };
    let parts: Vec<&str> = text.split(", ").filter(|part| !is_place(part)).collect();
    parts.join(", ")
}

fn class_of(error: &LanceError) -> Error {
    match error {
        LanceError::InvalidInput { .. }
        | LanceError::SchemaMismatch { .. }
        | LanceError::DatasetAlreadyExists { .. }
        | LanceError::NotSupported { .. }
        | LanceError::Unprocessable { .. }
        | LanceError::InvalidTableLocation { .. }
        | LanceError::InvalidRef { .. }
        | LanceError::FieldNotFound { .. }
        | LanceError::Schema { .. } => Error::invalid("Lance refuses the request: see the cause below"),
        LanceError::DatasetNotFound { path, .. } => {
            Error::invalid("there is no dataset here: create it or correct the location").with_context("path", path)
        }
        LanceError::CorruptFile { path, .. } => {
            Error::corrupt("a file is damaged: restore it from a backup").with_context("path", path)
        }
        LanceError::NotFound { uri, .. } => {
            Error::corrupt("an object that should exist is missing: restore it from a backup").with_context("path", uri)
        }
        LanceError::VersionNotFound { .. } | LanceError::RefNotFound { .. } => {
            Error::invalid("the version does not exist: open a newer one")
        }
        LanceError::CommitConflict { .. }
        | LanceError::RetryableCommitConflict { .. }
        | LanceError::IncompatibleTransaction { .. }
        | LanceError::VersionConflict { .. }
        | LanceError::RefConflict { .. } => Error::conflict("another commit to the base came first: repeat"),
        LanceError::TooMuchWriteContention { .. } | LanceError::Backpressure { .. } => {
            Error::backpressure("too many commits at once: repeat later")
        }
        LanceError::DiskCapExceeded { .. } => Error::unavailable("the disk space for spilling is used up"),
        LanceError::Timeout { .. } => Error::unavailable("the storage did not answer in time"),
        LanceError::IO { source, .. } => class_of_source(source.as_ref()),
        LanceError::Fenced { .. } => Error::fenced("another process claimed the shard: open the table again"),
        LanceError::Wrapped { error, .. } => class_of_source(error.as_ref()),
        LanceError::External { source } => class_of_source(source.as_ref()),
        LanceError::Shared { source } => class_of(source),
        LanceError::Cloned { .. } => Error::unavailable("the storage failed"),
        _ => Error::internal("Lance failed"),
    }
}

/// Looks for a cause that we know below a wrapped error.
fn class_of_source(source: &(dyn StdError + Send + Sync + 'static)) -> Error {
    let mut below: Option<&(dyn StdError + 'static)> = Some(source);
    while let Some(error) = below {
        if let Some(lance) = error.downcast_ref::<LanceError>() {
            return class_of(lance);
        }
        if let Some(io) = error.downcast_ref::<IoError>() {
            return match io.kind() {
                IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem => {
                    Error::invalid("the location is not writable or not readable")
                }
                IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => Error::unavailable("the disk is full"),
                IoErrorKind::UnexpectedEof | IoErrorKind::InvalidData => {
                    Error::corrupt("a file ends early or is damaged: restore it from a backup")
                }
                _ => Error::unavailable("the storage failed"),
            };
        }
        if error.is::<prost::DecodeError>() {
            return Error::corrupt("a file is damaged: restore it from a backup");
        }
        if let Some(store) = error.downcast_ref::<object_store::Error>().filter(|store| !is_generic(store)) {
            return match store {
                object_store::Error::NotFound { path, .. } => {
                    Error::corrupt("an object that should exist is missing: restore it from a backup")
                        .with_context("path", path)
                }
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    Error::invalid("the object store denies access: check the credentials")
                }
                object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
                    Error::invalid("the object store cannot do this: choose one with conditional writes")
                }
                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                    Error::conflict("another commit to the base came first: repeat")
                }
                _ => Error::unavailable("the storage failed"),
            };
        }
        below = error.source();
    }
    Error::unavailable("the storage failed")
}

/// Whether only what is below tells what happened.
fn is_generic(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn file_errors_tell_whether_trying_again_helps() {
        let kind = |kind| from_io(IoError::from(kind), "writing", "a/b").kind();
        assert_eq!(kind(IoErrorKind::StorageFull), ErrorKind::Unavailable);
        assert_eq!(kind(IoErrorKind::PermissionDenied), ErrorKind::Invalid);
        assert_eq!(kind(IoErrorKind::NotADirectory), ErrorKind::Invalid);
        assert!(from_io(IoError::other("x"), "writing", "a/b").to_string().contains("path=a/b"));
    }

    #[test]
    fn lance_errors_keep_their_class_through_wrapping() {
        let kind = |error| from_lance(error).kind();
        assert_eq!(kind(LanceError::invalid_input("x")), ErrorKind::Invalid);
        assert_eq!(kind(LanceError::not_found("x")), ErrorKind::Corrupt);
        assert_eq!(kind(LanceError::io("timeout")), ErrorKind::Unavailable);
        assert_eq!(kind(LanceError::from(IoError::from(IoErrorKind::PermissionDenied))), ErrorKind::Invalid);
        let local = |kind| object_store::Error::Generic { store: "local", source: IoError::from(kind).into() };
        assert_eq!(kind(LanceError::from(local(IoErrorKind::UnexpectedEof))), ErrorKind::Corrupt);
        assert_eq!(kind(LanceError::from(local(IoErrorKind::TimedOut))), ErrorKind::Unavailable);
        let silent = object_store::Error::Generic { store: "s3", source: "503".into() };
        assert_eq!(kind(LanceError::from(silent)), ErrorKind::Unavailable);
        assert_eq!(kind(LanceError::Shared { source: LanceError::not_found("x").into() }), ErrorKind::Corrupt);
    }

    #[test]
    fn an_error_of_ours_comes_through_lance_as_it_was() {
        let ours = Error::backpressure("full").with_context("shard", "s");
        let error = from_lance(LanceError::External { source: ours.clone().into() });
        assert_eq!(error.to_string(), ours.to_string());
    }

    #[test]
    fn what_lance_says_is_printed_without_places_in_its_sources() {
        let text = from_lance(LanceError::invalid_input("the reason, as it is")).to_string();
        assert!(text.contains("the reason, as it is"), "{text}");
        assert!(!text.contains(".rs:"), "{text}");
    }
}
