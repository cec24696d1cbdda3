//! What a table can be told: plain data with defaults, names and validation. Components such as the clock live apart.
//!
//! The names are the option names of SQL (`OPTIONS ('lsm.wal.linger' '5ms')`) and of the stored defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whether a handle may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Reads, and claims its shards at the first write.
    Write,
    /// Only reads: choose it for processes beside the writer; nothing this handle does can fence anybody.
    Read,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When it is in the WAL, synced: it survives power loss.
    Durable,
    /// When it is in the memtable: faster, and lost if the process dies before the WAL write that follows at once.
    Memory,
}

/// What an INSERT does with a key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The new row replaces the old one.
    Replace,
    /// The statement fails.
    Error,
    /// The old row stays; the new one is not counted.
    Ignore,
}

/// What opening does with a damaged WAL entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// The shard refuses with `Corrupt`, naming the entry; other shards stay usable.
    Strict,
    /// The entry and all later ones are moved aside and reported, and the shard goes on behind them. Loses rows.
    Quarantine,
}

/// How the nearest rows are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchMode {
    /// By an index where there is one: a near row may be missed now and then.
    Auto,
    /// By comparing every row.
    Exact,
}

/// Which rows say what a word weighs in the score of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchStats {
    /// The live rows of the snapshot: scores do not change when rows are moved.
    Live,
    /// All rows that sources hold, superseded ones as well: cheaper, and scores change when rows are moved.
    Physical,
}

/// How much is read before queries ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Warmth {
    /// Nothing.
    None,
    /// Where in the files the columns are.
    Metadata,
    /// Besides, what indexes need to be asked, and the keys.
    Indexes,
    /// Besides, all files, as far as they fit into what keeps blocks of them.
    All,
}

/// What DROP TABLE does with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrop {
    /// Only the name goes.
    Keep,
    /// The table's directory is deleted.
    Delete,
}

macro_rules! named_enum {
    ($type:ident { $($name:literal => $variant:ident),* $(,)? }) => {
        impl std::str::FromStr for $type {
            type Err = Error;
            fn from_str(value: &str) -> Result<Self> {
                match value.to_ascii_lowercase().as_str() {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(Error::invalid(format!(
                        "'{value}' is not one of {}", [$($name),*].join(", ")
                    ))),
                }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $name),* })
            }
        }
    };
}

named_enum!(Access { "write" => Write, "read" => Read });
named_enum!(Ack { "durable" => Durable, "memory" => Memory });
named_enum!(OnConflict { "replace" => Replace, "error" => Error, "ignore" => Ignore });
named_enum!(Recovery { "strict" => Strict, "quarantine" => Quarantine });
named_enum!(SearchMode { "auto" => Auto, "exact" => Exact });
named_enum!(SearchStats { "live" => Live, "physical" => Physical });
named_enum!(Warmth { "none" => None, "metadata" => Metadata, "indexes" => Indexes, "all" => All });
named_enum!(OnDrop { "keep" => Keep, "delete" => Delete });

trait Value: Sized {
    fn parse(text: &str) -> Result<Self>;
    fn print(&self) -> String;
}

macro_rules! value_by_str {
    ($($type:ty: $what:literal),*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self> {
                text.parse().map_err(|_| Error::invalid(format!("'{text}' is not {}", $what)))
            }
            fn print(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

value_by_str!(u32: "a whole number", usize: "a whole number", String: "a text");

/// What a switch is told: `true` or `on`, `false` or `off`, in capitals or not; `None` if it is something else.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" => Some(true),
        "false" | "off" => Some(false),
        _ => None,
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self> {
        switch(text).ok_or_else(|| Error::invalid(format!("'{text}' is neither on nor off, true nor false")))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

macro_rules! value_by_enum {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self> {
                text.parse()
            }
            fn print(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

value_by_enum!(Access, Ack, OnConflict, Recovery, SearchMode, SearchStats, Warmth, OnDrop);

/// A number of bytes; reads `64MiB` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The number as a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for Bytes {
    fn parse(text: &str) -> Result<Self> {
        text.parse::<bytesize::ByteSize>()
            .map(|b| Self(b.as_u64()))
            .map_err(|_| Error::invalid(format!("'{text}' is not a size such as 64MiB")))
    }

    fn print(&self) -> String {
        bytesize::ByteSize(self.0).to_string()
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self> {
        humantime::parse_duration(text)
            .or_else(|e| if text == "0" { Ok(Duration::ZERO) } else { Err(e) })
            .map_err(|_| Error::invalid(format!("'{text}' is not a duration such as 10s or 5ms")))
    }

    fn print(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl<T: Value> Value for Option<T> {
    fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text.eq_ignore_ascii_case("none") { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn print(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_string(), T::print)
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $field:ident: $type:ty = $name:literal, $default:expr;)*) => {
        /// The settings of one table.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $doc])* #[doc = concat!("\n\nOption `", $name, "`.")] #[serde(rename = $name)] pub $field: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Settings {
            /// The names of all options.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Whether a new table keeps the option for whoever opens it next.
            pub fn is_stored(name: &str) -> bool {
                const OF_ONE_HANDLE: &[&str] = &[
                    "lsm.access",
                    "lsm.adopt",
                    "lsm.cache.memory",
                    "lsm.drop",
                    "lsm.read.budget",
                    "lsm.recovery",
                    "lsm.shards",
                    "lsm.shard.column",
                ];
                !OF_ONE_HANDLE.contains(&name)
            }

            /// Sets one option by its name.
            ///
            /// # Errors
            /// `Invalid` if there is no such option or the value does not fit; nothing is set then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
                let mut next = self.clone();
                match name {
                    $($name => {
                        next.$field = <$type as Value>::parse(value)
                            .map_err(|e| Error::invalid(format!("option '{name}': {}", e.message())))?;
                    })*
                    _ => {
                        return Err(Error::invalid(format!(
                            "unknown option '{name}': known are {}", Self::NAMES.join(", ")
                        )));
                    }
                }
                next.check_ranges()?;
                *self = next;
                Ok(())
            }

            /// Every option with its value and what it says.
            pub fn entries(&self) -> Vec<(&'static str, String, &'static str)> {
                vec![$(($name, <$type as Value>::print(&self.$field), concat!($($doc),*).trim())),*]
            }
        }
    };
}

settings! {
    /// Whether this handle may write.
    access: Access = "lsm.access", Access::Write;
    /// Make a table of a plain Lance dataset, after checking that its key is unique and non-null.
    adopt: bool = "lsm.adopt", false;
    /// How many shards a new table has, each with its own writer, WAL and manifest.
    shards: u32 = "lsm.shards", 1;
    /// The column whose hash decides the shard; default the first key column.
    shard_column: Option<String> = "lsm.shard.column", None;
    /// When a write is acknowledged.
    ack: Ack = "lsm.ack", Ack::Durable;
    /// Compare generations on local file systems with their checksums when the table is opened.
    verify: bool = "lsm.verify", true;
    /// Sync files on local file systems. Off survives a crash of the process but not of the machine.
    sync: bool = "lsm.sync", true;
    /// What an INSERT does with a key that exists.
    on_conflict: OnConflict = "lsm.on_conflict", OnConflict::Replace;
    /// What opening does with a damaged WAL entry.
    recovery: Recovery = "lsm.recovery", Recovery::Strict;
    /// What DROP TABLE does with the data.
    on_drop: OnDrop = "lsm.drop", OnDrop::Keep;
    /// How the nearest rows are found.
    search_mode: SearchMode = "lsm.search.mode", SearchMode::Auto;
    /// Which rows say what words weigh in scores.
    search_stats: SearchStats = "lsm.search.stats", SearchStats::Live;
    /// How many partitions of a vector index are looked into; none is by its size and the filter.
    search_nprobes: Option<usize> = "lsm.search.nprobes", None;
    /// How many rows a search keeps in view on its way through a graph of a vector index; none is by what is asked for.
    search_ef: Option<usize> = "lsm.search.ef", None;
    /// How many rows a vector index gives for each row that is asked for, to be compared exactly; none is by how coarse
    /// it is.
    search_refine: Option<usize> = "lsm.search.refine", None;
    /// Rows are indexed before they are acknowledged. Off, they are acknowledged once they are in the WAL and the
    /// memtable, and searches compare them one by one until they are indexed.
    index_sync: bool = "lsm.index.sync", true;
    /// Refuse limits of memtables that are larger than what Lance's own writer can replay.
    interop: bool = "lsm.interop", true;
    /// How long a WAL write waits for company; none is 0 on local files, 5ms on object stores.
    wal_linger: Option<Duration> = "lsm.wal.linger", None;
    /// How many bytes of a shard may wait for the WAL before writers wait.
    wal_queue: Bytes = "lsm.wal.queue", Bytes::mib(64);
    /// How long a write waits for room, and again for durability, before it fails; also how long a shard's flush may
    /// take where a statement waits for it.
    write_timeout: Duration = "lsm.write.timeout", Duration::from_secs(30);
    /// A memtable freezes at this many rows.
    memtable_rows: usize = "lsm.memtable.rows", 100_000;
    /// A memtable freezes at this many bytes of rows.
    memtable_bytes: Bytes = "lsm.memtable.bytes", Bytes::mib(128);
    /// A memtable freezes at this many WAL entries.
    memtable_entries: usize = "lsm.memtable.entries", 8_000;
    /// A memtable freezes at the first write after this age; none is at no age.
    memtable_age: Option<Duration> = "lsm.memtable.age", None;
    /// How many bytes the memtables of one open table may hold, their indexes and frozen ones included, before writers
    /// wait for the flush.
    memtable_limit: Bytes = "lsm.memtable.limit", Bytes::mib(512);
    /// How many bytes of a statement's rows for one shard are one unit: part of one WAL entry, atomic across crashes.
    statement_unit: Bytes = "lsm.statement.unit", Bytes::mib(32);
    /// How many manifest versions ahead are probed at once.
    manifest_probe: usize = "lsm.manifest.probe", 2;
    /// How often commits of others are looked for, to the base and to shards this process does not write; none is
    /// never.
    base_refresh: Option<Duration> = "lsm.base.refresh", Some(Duration::from_secs(10));
    /// How much is read ahead of queries when the table is opened.
    warm: Warmth = "lsm.warm", Warmth::None;
    /// How many bytes of files on object stores this table keeps in memory, apart from other tables; none is what the
    /// process keeps for all of them.
    cache_memory: Option<Bytes> = "lsm.cache.memory", None;
    /// How many bytes of the base's keys may be resident.
    base_keys: Bytes = "lsm.base.keys", Bytes::mib(256);
    /// How many bytes the queries of the process may have read and not yet used; none is what was said last, at first
    /// 64MiB.
    read_budget: Option<Bytes> = "lsm.read.budget", None;
    /// How many further generations that may have a key have their keys loaded while those of one are, when a key is
    /// looked up; 0 is none.
    read_lookahead: usize = "lsm.read.lookahead", 1;
}

/// What Lance's writer replays at its defaults.
const LANCE_MEMTABLE_ROWS: usize = 100_000;
const LANCE_MEMTABLE_ENTRIES: usize = 8_000;

/// How thoroughly the vector indexes of generations and base are searched; each is chosen by the index unless it is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchEffort {
    /// How many partitions are looked into.
    pub nprobes: Option<usize>,
    /// How many rows are kept in view on the way through a graph.
    pub ef: Option<usize>,
    /// How many rows are compared exactly for each that is asked for.
    pub refine: Option<usize>,
}

impl Settings {
    /// How thoroughly vector indexes are searched.
    pub fn search_effort(&self) -> SearchEffort {
        SearchEffort { nprobes: self.search_nprobes, ef: self.search_ef, refine: self.search_refine }
    }

    /// Checks each option for itself.
    fn check_ranges(&self) -> Result<()> {
        check((1..=1024).contains(&self.shards), "option 'lsm.shards': give 1 to 1024")?;
        check(self.memtable_rows > 0, "option 'lsm.memtable.rows': give at least 1")?;
        check(self.memtable_rows < u32::MAX as usize / 2, "option 'lsm.memtable.rows': give less than 2147483647")?;
        check(self.memtable_bytes.0 >= 1 << 10, "option 'lsm.memtable.bytes': give at least 1KiB")?;
        check(self.memtable_entries > 0, "option 'lsm.memtable.entries': give at least 1")?;
        check(
            self.read_budget.is_none_or(|b| b.0 >= 1 << 20),
            "option 'lsm.read.budget': give at least 1MiB, or none",
        )?;
        check(self.read_lookahead <= 64, "option 'lsm.read.lookahead': give 0 to 64")?;
        check(self.manifest_probe > 0, "option 'lsm.manifest.probe': give at least 1")?;
        check(within(self.search_nprobes, 1_000_000), "option 'lsm.search.nprobes': give 1 to 1000000, or none")?;
        check(within(self.search_ef, 100_000), "option 'lsm.search.ef': give 1 to 100000, or none")?;
        check(within(self.search_refine, 1000), "option 'lsm.search.refine': give 1 to 1000, or none")?;
        check(self.statement_unit.0 >= 1 << 10, "option 'lsm.statement.unit': give at least 1KiB")
    }

    /// Checks that the settings fit, each for itself and together.
    ///
    /// # Errors
    /// `Invalid`, naming the option.
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        check(
            self.memtable_limit >= self.memtable_bytes,
            "option 'lsm.memtable.limit': give at least 'lsm.memtable.bytes'",
        )?;
        if self.interop {
            check(
                self.memtable_rows <= LANCE_MEMTABLE_ROWS,
                "option 'lsm.memtable.rows': Lance replays at most 100000 rows a memtable; set 'lsm.interop' to false to exceed it",
            )?;
            check(
                self.memtable_entries <= LANCE_MEMTABLE_ENTRIES,
                "option 'lsm.memtable.entries': Lance replays at most 8000 entries a memtable; set 'lsm.interop' to false to exceed it",
            )?;
        }
        Ok(())
    }
}

/// Whether a number is not given, or from 1 to `most`.
fn within(number: Option<usize>, most: usize) -> bool {
    number.is_none_or(|number| (1..=most).contains(&number))
}

fn check(fits: bool, why: &'static str) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::invalid(why)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_by_name_and_printed_back() {
        let mut settings = Settings::default();
        settings.set("lsm.wal.linger", "5ms").unwrap();
        settings.set("lsm.memtable.bytes", "1 MiB").unwrap();
        settings.set("lsm.on_conflict", "IGNORE").unwrap();
        assert_eq!(settings.wal_linger, Some(Duration::from_millis(5)));
        let mut again = Settings::default();
        for (name, value, doc) in settings.entries() {
            again.set(name, &value).unwrap();
            assert!(!doc.is_empty());
        }
        assert_eq!(again, settings);
    }

    #[test]
    fn a_switch_is_on_or_off_true_or_false() {
        let mut settings = Settings::default();
        for (value, is_on) in [("off", false), ("on", true), ("FALSE", false), ("True", true), ("Off", false)] {
            settings.set("lsm.index.sync", value).unwrap();
            assert_eq!(settings.index_sync, is_on, "{value}");
        }
        let shown = settings.entries().into_iter().find(|(name, ..)| *name == "lsm.index.sync").unwrap();
        assert_eq!(shown.1, "false");
        assert!(settings.set("lsm.index.sync", "").unwrap_err().message().contains("neither on nor off"));
    }

    #[test]
    fn settings_travel_as_json() {
        let json = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), Settings::default());
        assert!(serde_json::from_str::<Settings>(r#"{"lsm.no_such": 1}"#).is_err());
    }

    #[test]
    fn bad_options_name_themselves() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("lsm.nope", "1"),
            ("lsm.sync", "maybe"),
            ("lsm.index.sync", "no"),
            ("lsm.wal.queue", "x"),
            ("lsm.ack", "never"),
            ("lsm.search.ef", "0"),
            ("lsm.search.refine", "1001"),
            ("lsm.search.nprobes", "-1"),
            ("lsm.read.budget", "1KiB"),
            ("lsm.read.lookahead", "65"),
        ] {
            assert!(settings.set(name, value).unwrap_err().message().contains(name));
        }
        let before = settings.clone();
        assert!(settings.set("lsm.memtable.rows", "0").unwrap_err().message().contains("at least 1"));
        assert_eq!(settings, before);
        settings.memtable_rows = 200_000;
        assert!(settings.validate().unwrap_err().message().contains("lsm.interop"));
        settings.interop = false;
        settings.validate().unwrap();
    }
}
