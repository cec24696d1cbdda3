//! The `lsm.*` options as SQL spells them: a session's by SET, a table's by OPTIONS.
//!
//! DataFusion lower-cases the keys of OPTIONS and puts `format.` before those without a dot, so each option has
//! several spellings: only [`own_name`] knows them. A key that is nobody's is an error, never ignored.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};

use datafusion::common::Result as DataFusionResult;
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};

use crate::error::{Error, Result};
use crate::index_spec::{self, IndexSpec};
use crate::settings::{Ack, OnConflict, Settings};

/// The indexes that `key` spells with its value: `lsm.index.body`, `format.lsm.index.body`.
///
/// # Errors
/// `Invalid` if the value is no kind of index.
fn index_option(key: &str, value: &str) -> Result<Option<Vec<IndexSpec>>> {
    let bare = key.strip_prefix("format.").unwrap_or(key);
    if !IndexSpec::is_option(bare, value) {
        return Ok(None);
    }
    bare.strip_prefix(index_spec::PREFIX).map(|column| IndexSpec::parse(column, value)).transpose()
}

/// The prefix of all options.
const PREFIX: &str = "lsm";
/// What options about searches begin with.
pub(super) const SEARCH: &str = "lsm.search.";

/// What only CREATE EXTERNAL TABLE can say: it is about one table.
const OF_ONE_TABLE: &[&str] = &["lsm.adopt", "lsm.shards", "lsm.shard.column"];

/// The option that `key` spells, if it is one of ours: `lsm.memtable.rows`, `memtable_rows` or `format.memtable_rows`.
///
/// # Errors
/// `Invalid` if the key claims to be ours and is not.
fn own_name(key: &str) -> Result<Option<&'static str>> {
    let bare = key.strip_prefix("format.").unwrap_or(key);
    let ours = bare.strip_prefix("lsm.").or_else(|| bare.strip_prefix("lsm_"));
    let same = |name: &str| name.replace('_', ".") == format!("{PREFIX}.{}", ours.unwrap_or(bare)).replace('_', ".");
    match (Settings::NAMES.iter().find(|name| same(name)), ours) {
        (Some(name), _) => Ok(Some(name)),
        (None, None) => Ok(None),
        (None, Some(ours)) => {
            Err(Error::invalid(format!("unknown option '{PREFIX}.{ours}': known are {}", Settings::NAMES.join(", "))))
        }
    }
}

/// The options of a session: what its statements do unless the session says nothing, and the defaults of the tables
/// that it opens. `SET lsm.ack = 'memory'`; the value `default` takes it back.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    values: BTreeMap<&'static str, String>,
}

impl SessionOptions {
    /// When this session's writes are acknowledged, if it says.
    pub fn ack(&self) -> Option<Ack> {
        self.values.get("lsm.ack").and_then(|v| v.parse().ok())
    }

    /// What this session's INSERTs do with a key that exists, if it says.
    pub fn on_conflict(&self) -> Option<OnConflict> {
        self.values.get("lsm.on_conflict").and_then(|v| v.parse().ok())
    }

    /// What was set.
    pub(super) fn values(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }

    fn try_set(&mut self, key: &str, value: &str) -> Result<()> {
        let bare = key.strip_prefix("lsm.").unwrap_or(key);
        let full = format!("{PREFIX}.{bare}");
        let name = own_name(&full)?.unwrap_or_default();
        if OF_ONE_TABLE.contains(&name) {
            return Err(Error::invalid(format!(
                "option '{name}' is about one table: give it in the OPTIONS of CREATE EXTERNAL TABLE"
            )));
        }
        if value.eq_ignore_ascii_case("default") {
            self.values.remove(name);
            return Ok(());
        }
        Settings::default().set(name, value)?;
        self.values.insert(name, value.to_string());
        Ok(())
    }
}

impl ConfigExtension for SessionOptions {
    const PREFIX: &'static str = PREFIX;
}

impl ExtensionOptions for SessionOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> DataFusionResult<()> {
        Ok(self.try_set(key, value)?)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let mut settings = Settings::default();
        for (name, value) in &self.values {
            // Checked when it was set.
            let _ = settings.set(name, value);
        }
        let entry = |(key, value, description): (&'static str, String, &'static str)| ConfigEntry {
            key: key.to_string(),
            value: Some(value),
            description,
        };
        settings.entries().into_iter().filter(|(name, ..)| !OF_ONE_TABLE.contains(name)).map(entry).collect()
    }
}

/// Makes `lsm.*` known to tools that check the OPTIONS of CREATE EXTERNAL TABLE against DataFusion's table options
/// before they plan it, as datafusion-cli does. Checks names and values and keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableOptionNames;

impl ConfigExtension for TableOptionNames {
    const PREFIX: &'static str = PREFIX;
}

impl ExtensionOptions for TableOptionNames {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(*self)
    }

    fn set(&mut self, key: &str, value: &str) -> DataFusionResult<()> {
        let bare = key.strip_prefix("lsm.").unwrap_or(key);
        let full = format!("{PREFIX}.{bare}");
        if index_option(&full, value)?.is_some() {
            return Ok(());
        }
        Ok(Settings::default().set(own_name(&full)?.unwrap_or_default(), value)?)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// The OPTIONS of one CREATE EXTERNAL TABLE.
#[derive(Debug, Clone, Default)]
pub(super) struct TableOptions {
    own: BTreeMap<&'static str, String>,
    indexes: Vec<IndexSpec>,
    storage: HashMap<String, String>,
}

impl TableOptions {
    /// Sorts `options` into ours and those of the storage, which only remote locations have.
    ///
    /// # Errors
    /// `Invalid` for an option that is unknown, malformed or given twice.
    pub(super) fn parse(options: &HashMap<String, String>, local: bool) -> Result<Self> {
        let mut parsed = Self::default();
        let sorted: BTreeMap<_, _> = options.iter().collect();
        for (key, value) in sorted {
            if let Some(indexes) = index_option(key, value)? {
                let column = &indexes[0].column;
                if parsed.indexes.iter().any(|other| other.column.eq_ignore_ascii_case(column)) {
                    return Err(Error::invalid(format!(
                        "the indexes of '{column}' are given twice: give them at once"
                    )));
                }
                parsed.indexes.extend(indexes);
                continue;
            }
            match own_name(key)? {
                Some(name) => {
                    Settings::default().set(name, value)?;
                    if parsed.own.insert(name, value.clone()).is_some() {
                        return Err(Error::invalid(format!("option '{name}' is given twice")));
                    }
                }
                None if local => {
                    let name = key.strip_prefix("format.").unwrap_or(key);
                    return Err(Error::invalid(format!(
                        "unknown option '{name}': a local table has no storage options, and the options of a table are {}",
                        Settings::NAMES.join(", ")
                    )));
                }
                None => {
                    let name = key.strip_prefix("format.").unwrap_or(key);
                    parsed.storage.insert(name.to_string(), value.clone());
                }
            }
        }
        Ok(parsed)
    }

    /// What was given of ours.
    pub(super) fn own(&self) -> &BTreeMap<&'static str, String> {
        &self.own
    }

    /// The indexes of the table's columns.
    pub(super) fn indexes(&self) -> &[IndexSpec] {
        &self.indexes
    }

    /// What the storage is given.
    pub(super) fn storage(&self) -> &HashMap<String, String> {
        &self.storage
    }

    /// What was given and is kept with a new table.
    pub(super) fn kept(&self) -> HashMap<String, String> {
        let kept = self.own.iter().filter(|(name, _)| Settings::is_stored(name));
        kept.map(|(name, value)| ((*name).to_string(), value.clone())).collect()
    }
}

/// `settings` with those of `options` that are about searches, all of which are checked; the last of a name counts.
pub(super) fn with_search_options<'a>(
    settings: &Settings,
    options: impl IntoIterator<Item = (&'a &'static str, &'a String)>,
) -> Settings {
    let mut settings = settings.clone();
    for (name, value) in options.into_iter().filter(|(name, _)| name.starts_with(SEARCH)) {
        // Checked when it was told.
        let _ = settings.set(name, value);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SearchEffort;

    fn parse(options: &[(&str, &str)], local: bool) -> Result<TableOptions> {
        let options = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        TableOptions::parse(&options, local)
    }

    #[test]
    fn an_option_has_several_spellings_and_one_name() {
        for key in ["lsm.memtable.rows", "format.memtable_rows", "memtable.rows", "format.lsm_memtable_rows"] {
            assert_eq!(parse(&[(key, "7")], true).unwrap().own()["lsm.memtable.rows"], "7", "{key}");
        }
        let twice = parse(&[("lsm.ack", "memory"), ("format.ack", "durable")], true).unwrap_err();
        assert!(twice.message().contains("given twice"), "{twice}");
    }

    #[test]
    fn what_is_not_ours_goes_to_remote_storage_and_is_an_error_locally() {
        let remote = parse(&[("format.region", "eu"), ("aws.endpoint", "http://x")], false).unwrap();
        assert_eq!(remote.storage()["region"], "eu");
        assert_eq!(remote.storage()["aws.endpoint"], "http://x");
        assert!(parse(&[("format.shrads", "3")], true).unwrap_err().message().contains("'shrads'"));
        assert!(parse(&[("lsm.shrads", "3")], false).unwrap_err().message().contains("'lsm.shrads'"));
        assert!(parse(&[("lsm.shards", "many")], false).unwrap_err().message().contains("lsm.shards"));
    }

    #[test]
    fn an_index_is_an_option_of_its_column() {
        let options =
            parse(&[("lsm.index.body", "fts, btree"), ("format.lsm.index.e", "VECTOR(cosine)")], true).unwrap();
        let names: Vec<&str> = options.indexes().iter().map(|index| index.name.as_str()).collect();
        assert_eq!(names, ["e_vector", "body_fts", "body_btree"]);
        assert!(parse(&[("lsm.index.e", "vector")], true).unwrap_err().message().contains("lsm.index.e"));
    }

    #[test]
    fn whether_rows_wait_for_indexes_is_on_or_off_and_no_index() {
        for value in ["off", "ON", "true", "false"] {
            let options = parse(&[("lsm.index.sync", value)], true).unwrap();
            assert_eq!((options.own()["lsm.index.sync"].as_str(), options.indexes().len()), (value, 0));
            SessionOptions::default().set("index.sync", value).unwrap();
            TableOptionNames.set("index.sync", value).unwrap();
        }
        let options = parse(&[("lsm.index.sync", "btree")], true).unwrap();
        assert_eq!((options.own().len(), options.indexes()[0].column.as_str()), (0, "sync"));
        assert!(parse(&[("lsm.index.sync", "of")], true).unwrap_err().message().contains("lsm.index.sync"));
    }

    #[test]
    fn a_session_sets_what_is_not_about_one_table() {
        let mut options = SessionOptions::default();
        options.set("ack", "memory").unwrap();
        options.set("on_conflict", "ignore").unwrap();
        assert_eq!((options.ack(), options.on_conflict()), (Some(Ack::Memory), Some(OnConflict::Ignore)));
        options.set("ack", "default").unwrap();
        assert_eq!(options.ack(), None);
        for (key, value) in [("shards", "3"), ("index.e", "vector(l2)"), ("nope", "1"), ("ack", "never")] {
            assert!(options.set(key, value).unwrap_err().to_string().contains(key), "{key}");
        }
        let table = Settings { search_nprobes: Some(9), search_ef: Some(70), ..Settings::default() };
        options.set("search.nprobes", "none").unwrap();
        options.set("search.refine", "4").unwrap();
        let effort = SearchEffort { nprobes: None, ef: Some(70), refine: Some(4) };
        let searched = with_search_options(&table, options.values());
        assert_eq!(searched.search_effort(), effort, "the session goes before the table");
        let shown = options.entries().into_iter().find(|e| e.key == "lsm.on_conflict").unwrap();
        assert_eq!(shown.value.as_deref(), Some("ignore"));
    }
}
