//! Where a table is, in one spelling: two names of one directory are one table.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The one spelling of `location`, and whether it is on a local file system.
///
/// # Errors
/// `Invalid` if it is empty or no path.
pub(super) fn canonical(location: &str) -> Result<(String, bool)> {
    let trimmed = location.trim_end_matches('/');
    if trimmed.is_empty() {
        return Err(Error::invalid("the location is empty or the root directory: give the table a directory"));
    }
    match trimmed.split_once("://") {
        None => Ok((local(trimmed)?, true)),
        Some(("file", path)) => Ok((local(path)?, true)),
        Some((scheme @ ("file-object-store" | "file+uring"), path)) => {
            Ok((format!("{scheme}://{}", local(path)?), true))
        }
        Some(_) => Ok((trimmed.to_string(), false)),
    }
}

/// The absolute path without links, as far as it exists.
fn local(path: &str) -> Result<String> {
    let invalid =
        |e: std::io::Error| Error::invalid("the location is no path").with_context("location", path).with_source(e);
    let absolute = std::path::absolute(path).map_err(invalid)?;
    let resolved = resolve(&absolute);
    match resolved.to_str() {
        Some(text) => Ok(text.to_string()),
        None => Err(Error::invalid("the location is not UTF-8").with_context("location", path)),
    }
}

fn resolve(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => resolve(parent).join(name),
        (Err(_), ..) => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let expected = format!("{}/t", real.display());
        for spelling in [
            format!("{}/t", dir.path().display()),
            format!("{}/t//", dir.path().display()),
            format!("{}/./t", dir.path().display()),
            format!("file://{}/t/", dir.path().display()),
        ] {
            assert_eq!(canonical(&spelling).unwrap(), (expected.clone(), true), "{spelling}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
            let linked = canonical(&format!("{}/link/t", dir.path().display())).unwrap();
            assert_eq!(linked.0, expected);
        }
    }

    #[test]
    fn remote_locations_are_left_alone() {
        assert_eq!(canonical("s3://bucket/t/").unwrap(), ("s3://bucket/t".to_string(), false));
        assert!(canonical("").is_err() && canonical("/").is_err());
    }
}
