//! Text on disk as rows: files found, grouped by the folder they are in, cut into chunks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};

use crate::Result;

/// A chunk ends at the first line that goes beyond this many bytes.
const CHUNK: usize = 2_000;

/// A file of text.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Relative to the folder, `/` between its parts: what the table calls it.
    pub(crate) path: String,
    /// How big it is.
    pub(crate) bytes: u64,
    on_disk: PathBuf,
    modified: i64,
}

impl File {
    /// The crate, or whatever the first part of the path is.
    pub(crate) fn group(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Result<Rows> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.on_disk)?).into_owned();
        let mut rows = Rows::default();
        for (number, body) in chunks(&text).enumerate() {
            rows.paths.push(self.path.clone());
            rows.chunks.push(i32::try_from(number)?);
            rows.bytes.push(i64::try_from(body.len())?);
            rows.bodies.push(body.to_string());
            rows.modified.push(self.modified);
        }
        Ok(rows)
    }
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_sources() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|h| h.join(".cargo")));
    let sources = home.ok_or("no home directory: give a folder")?.join("registry").join("src");
    let registries = std::fs::read_dir(&sources).map_err(|e| format!("{}: {e}: give a folder", sources.display()))?;
    let mut registries: Vec<PathBuf> = registries.map(|r| Ok(r?.path())).collect::<Result<_>>()?;
    registries.sort();
    let most = registries.into_iter().max_by_key(|r| std::fs::read_dir(r).map_or(0, Iterator::count));
    most.ok_or_else(|| format!("{}: cargo has downloaded nothing yet: give a folder", sources.display()).into())
}

/// Every Markdown and Rust file below `folder`. Crates come in an order that mixes the alphabet, so that a part of them
/// is a sample; the files of one stay together.
pub(crate) fn files(folder: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        let wanted = entry.path().extension().is_some_and(|e| e == "md" || e == "rs");
        if !wanted || !entry.file_type().is_file() {
            continue;
        }
        let meta = entry.metadata()?;
        let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let parts = entry.path().strip_prefix(folder)?.iter().map(|p| p.to_string_lossy());
        files.push(File {
            path: parts.collect::<Vec<_>>().join("/"),
            bytes: meta.len(),
            on_disk: entry.path().to_path_buf(),
            modified: i64::try_from(modified.as_nanos())?,
        });
    }
    if files.is_empty() {
        return Err(format!("{}: no Markdown and no Rust file", folder.display()).into());
    }
    files.sort_by_cached_key(|f| mixed(f.group()));
    Ok(files)
}

/// A number that has little to do with how `name` begins.
fn mixed(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The chunks of `text`: whole lines, unless one is very long.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let from = CHUNK.min(rest.len());
        let line = rest.as_bytes()[from..].iter().take(CHUNK).position(|b| *b == b'\n');
        let end = line.map_or((from + CHUNK).min(rest.len()), |at| from + at + 1);
        let end = rest.ceil_char_boundary(end);
        let (chunk, after) = rest.split_at(end);
        rest = after;
        Some(chunk)
    })
}

/// Rows to be written.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    paths: Vec<String>,
    chunks: Vec<i32>,
    bodies: Vec<String>,
    bytes: Vec<i64>,
    modified: Vec<i64>,
}

impl Rows {
    /// Adds those of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.chunks.extend(other.chunks);
        self.bodies.extend(other.bodies);
        self.bytes.extend(other.bytes);
        self.modified.extend(other.modified);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.paths.len()
    }

    /// The bodies of each file's chunks, file by file.
    pub(crate) fn by_file(&self) -> impl Iterator<Item = (&str, &[String])> {
        let mut from = 0;
        self.paths.chunk_by(|a, b| a == b).map(move |paths| {
            let to = from + paths.len();
            let bodies = &self.bodies[from..to];
            from = to;
            (paths[0].as_str(), bodies)
        })
    }

    /// How many bytes of text.
    pub(crate) fn text(&self) -> u64 {
        self.bytes.iter().map(|b| b.unsigned_abs()).sum()
    }

    /// As a batch with the table's columns.
    pub(crate) fn batch(self) -> Result<RecordBatch> {
        Ok(RecordBatch::try_from_iter([
            ("path", Arc::new(StringArray::from(self.paths)) as ArrayRef),
            ("chunk", Arc::new(Int32Array::from(self.chunks))),
            ("body", Arc::new(StringArray::from(self.bodies))),
            ("bytes", Arc::new(Int64Array::from(self.bytes))),
            ("modified", Arc::new(TimestampNanosecondArray::from(self.modified))),
        ])?)
    }
}
