//! The house rules that a compiler does not check, read from the text of the sources: which room may import which,
//! which foreign crate lives where, who may spawn, how files are named. `docs/architecture.md` gives the reasons.

mod scan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datafusion_lsm::settings::Settings;
use walkdir::{DirEntry, WalkDir};

/// Each room and its level: a room imports only from rooms of a lower level. Rooms of level 0 may use each other.
const ROOMS: &[(&str, u8)] = &[
    ("error", 0),
    ("distance", 0),
    ("ids", 0),
    ("index_spec", 0),
    ("key", 0),
    ("schema", 0),
    ("settings", 0),
    ("size", 0),
    ("vector_index", 1),
    ("clock", 0),
    ("events", 0),
    ("metrics", 0),
    ("source", 0),
    ("store", 1),
    ("task", 1),
    ("cache", 1),
    ("physical_plan", 1),
    ("manifest", 2),
    ("memtable", 2),
    ("dataset", 2),
    ("query_syntax", 0),
    ("text_index", 0),
    ("text_search", 1),
    ("wal", 3),
    ("generation", 3),
    ("base", 3),
    ("block_list", 4),
    ("version", 5),
    ("writer", 6),
    ("flush", 6),
    ("compaction", 6),
    ("gc", 6),
    ("planner", 6),
    ("table", 7),
    ("sql", 8),
];

/// Imports beside the levels: importer, imported and why.
const BESIDE: &[(&str, &str, &str)] = &[
    ("store", "task", "file calls block, and only `task` may spawn for them"),
    ("physical_plan", "task", "sources are searched by many threads, and only `task` may spawn for them"),
    ("store", "cache", "what is read from a store stays in memory, which `cache` bounds"),
];

/// Each foreign path and the rooms that may name it.
const FOREIGN: &[(&str, &[&str])] = &[
    ("lance::", &["dataset", "generation", "base"]),
    ("lance_index::", &["dataset", "generation", "base", "memtable", "planner", "text_search"]),
    ("lance_linalg::", &["distance", "dataset", "generation", "base", "memtable", "planner"]),
    ("lance_table::", &["dataset", "generation", "base", "manifest"]),
    ("lance_encoding::", &["dataset"]),
    ("lance_file::", &["dataset", "generation", "base", "cache"]),
    ("lance_io::", &["store", "dataset", "generation", "base", "cache"]),
    ("metrics::", &["metrics"]),
    ("object_store::", &["store", "dataset", "generation", "base", "cache"]),
    ("datafusion::sql::", &["sql"]),
    ("datafusion::catalog::", &["sql", "planner"]),
    ("SessionContext", &["sql"]),
    ("SessionState", &["sql"]),
];

/// What starts a task or a thread: only the room `task` does.
const SPAWNING: &[&str] = &[
    "tokio::spawn",
    "tokio::task::spawn",
    "spawn_blocking",
    "spawn_local",
    "thread::spawn",
    "thread::Builder",
    "rayon::spawn",
    "JoinSet",
    "SpawnedTask",
];

/// Parts of Lance's own MemWAL engine. This crate reads and writes its format and is otherwise its peer: these belong
/// in tests and benches.
const PEER: &[&str] = &[
    "LsmScanner",
    "LsmPointLookupPlanner",
    "LsmDataSourceCollector",
    "MemTableScanner",
    "ShardManifestStore",
    "mem_wal::write",
    "mem_wal::index",
    "mem_wal::memtable",
    "mem_wal::ShardWriter",
    "DatasetMemWalExt",
];

/// A longer file is two nouns.
const MAX_LINES: usize = 600;

/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[];

const VAGUE: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "types"];

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "docs",
    "examples",
    "sqllogictests",
    "src",
    "tests",
];

/// A file of `src`.
struct Source {
    path: String,
    room: String,
    text: String,
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn files(under: &str) -> impl Iterator<Item = PathBuf> {
    let ours = |e: &DirEntry| e.depth() == 0 || ![".git", "target"].iter().any(|skip| e.file_name() == *skip);
    let walk = WalkDir::new(root().join(under)).sort_by_file_name().into_iter().filter_entry(ours);
    walk.filter_map(Result::ok).filter(|e| e.file_type().is_file()).map(DirEntry::into_path)
}

fn rust_files(under: &str) -> Vec<Source> {
    let rust = files(under).filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = shown(&path);
        let room = path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs").to_string();
        Source { code: scan::code_of(&text), path, room, text }
    })
    .collect()
}

/// The files of the rooms; `lib.rs` opens all doors and is no room.
fn rooms() -> Vec<Source> {
    rust_files("src").into_iter().filter(|s| s.room != "lib").collect()
}

fn level(room: &str) -> Option<u8> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, level)| *level)
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\nThe rules and their reasons: docs/architecture.md\n", problems.join("\n"));
}

/// What is wrong with the paths that `code`, a file of `room`, names.
fn bad_imports(room: &str, path: &str, code: &str) -> Vec<String> {
    let Some(own) = level(room) else {
        return vec![format!("{path}: '{room}' is no room: give it a level in ROOMS and in docs/architecture.md")];
    };
    let mut problems = Vec::new();
    for other in scan::first_segments(code, "crate::") {
        match level(&other) {
            _ if other == room || BESIDE.iter().any(|(from, to, _)| (*from, *to) == (room, other.as_str())) => {}
            Some(0) if own == 0 => {}
            Some(theirs) if theirs < own => {}
            Some(theirs) => problems.push(format!(
                "{path}: room '{room}' (level {own}) imports from room '{other}' (level {theirs}): imports go down"
            )),
            None => problems.push(format!("{path}: room '{room}' imports 'crate::{other}': name it by its room")),
        }
    }
    // From a room's own file `super` is the crate's root; from deeper files two of them may be.
    let is_room_file = path == format!("src/{room}.rs") || path == format!("src/{room}/mod.rs");
    let outside_tests = scan::without_tests(code);
    if outside_tests.contains("super::super")
        || (is_room_file && scan::occurrences(outside_tests, "super::").count() > 0)
    {
        problems.push(format!("{path}: climbs with 'super' out of its room: write crate::room"));
    }
    problems
}

#[test]
fn imports_go_down_the_levels() {
    report(&rooms().iter().flat_map(|s| bad_imports(&s.room, &s.path, &s.code)).collect::<Vec<_>>());
}

#[test]
fn an_import_upwards_or_sideways_is_found() {
    let message = &bad_imports("store", "src/store/io.rs", "use crate::{error::Error, wal::WalEntry};")[0];
    assert!(message.contains("'store' (level 1)") && message.contains("'wal' (level 3)"), "{message}");
    assert_eq!(bad_imports("wal", "src/wal/a.rs", "crate::base::x(); crate::wal::y(); crate::store::z()").len(), 1);
    assert_eq!(bad_imports("wal", "src/wal/a.rs", "use crate::Error;").len(), 1);
    assert_eq!(bad_imports("wal", "src/wal/a.rs", "use super::super::base::X;").len(), 1);
    assert_eq!(bad_imports("attic", "src/attic.rs", "").len(), 1);
    assert!(bad_imports("ids", "src/ids.rs", "use crate::error::Error;").is_empty());
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let mut problems = Vec::new();
    for source in rooms() {
        let code = scan::without_tests(&source.code);
        for (foreign, homes) in FOREIGN {
            if scan::occurrences(code, foreign).next().is_some() && !homes.contains(&source.room.as_str()) {
                problems.push(format!(
                    "{}: room '{}' names {foreign}, which lives in: {}",
                    source.path,
                    source.room,
                    homes.join(", ")
                ));
            }
        }
        problems.extend(
            PEER.iter()
                .filter(|peer| code.contains(*peer))
                .map(|peer| format!("{}: room '{}' uses {peer} of Lance's own engine", source.path, source.room)),
        );
    }
    report(&problems);
}

#[test]
fn only_the_room_task_spawns() {
    let mut problems = Vec::new();
    for source in rooms().into_iter().filter(|s| s.room != "task") {
        for spawn in SPAWNING.iter().filter(|spawn| scan::without_tests(&source.code).contains(**spawn)) {
            problems.push(format!("{}: room '{}' uses {spawn}: ask room 'task'", source.path, source.room));
        }
    }
    report(&problems);
}

#[test]
fn files_are_short_and_open_with_their_role() {
    let mut problems = Vec::new();
    for source in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("sqllogictests")) {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//! ") {
            problems.push(format!("{}: must open with '//!' and its role", source.path));
        }
        if lines > MAX_LINES && !LONGER.iter().any(|(path, _)| *path == source.path) {
            problems.push(format!("{}: {lines} lines, {MAX_LINES} at most: split it by noun", source.path));
        }
        for (i, line) in source.code.lines().enumerate() {
            if line.trim_start().starts_with("pub") && line.contains("use ") && line.trim_end().ends_with("::*;") {
                problems.push(format!("{}:{}: re-exports everything: list the names", source.path, i + 1));
            }
        }
    }
    for (path, _) in LONGER {
        let lines = std::fs::read_to_string(root().join(path)).map_or(0, |text| text.lines().count());
        if lines <= MAX_LINES {
            problems.push(format!("{path}: is short enough by now: take it off the list in tests/it/tidy.rs"));
        }
    }
    report(&problems);
}

#[test]
fn files_are_named_by_a_noun_of_the_field() {
    let vague = |path: &str| path.split('/').any(|part| VAGUE.contains(&part.trim_end_matches(".rs")));
    let paths = rust_files("src").into_iter().map(|s| s.path).filter(|path| vague(path));
    report(&paths.map(|path| format!("{path}: says nothing about what is in it")).collect::<Vec<_>>());
}

#[test]
fn test_names_are_unique() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in rust_files("src").into_iter().chain(rust_files("tests")) {
        for name in scan::test_names(&source.code) {
            if let Some(other) = seen.insert(name.clone(), source.path.clone()) {
                problems.push(format!("{} and {other}: two tests are named {name}", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let home = std::env::var("HOME").unwrap_or_default();
    let homes = ["/home/", "/Users/", "/root/", "/tmp/wt", "/work/"].map(String::from).into_iter();
    let here = [home, root().to_string_lossy().into_owned()]
        .into_iter()
        .filter(|p| p.matches('/').count() > 1)
        .map(|p| p + "/");
    let paths: Vec<String> = homes.chain(here).collect();
    let hosts = ["index.crates.io", "static.crates.io", "crates.io-index", "files.pythonhosted", "artifactory"];
    let mut problems = Vec::new();
    for file in files("").filter(|f| !f.ends_with("Cargo.lock") && !f.ends_with("tests/it/tidy.rs")) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for (i, line) in text.lines().enumerate() {
            let absolute = |p: &String| {
                line.match_indices(p.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}~/$".contains(c)))
            };
            let named = paths.iter().find(|p| absolute(p)).map(String::as_str);
            let named = named.or_else(|| hosts.into_iter().find(|host| line.contains(host)));
            problems.extend(named.map(|what| format!("{}:{}: names {what}", shown(&file), i + 1)));
        }
    }
    report(&problems);
}

#[test]
fn the_top_level_holds_what_it_should() {
    let entries = std::fs::read_dir(root()).unwrap().filter_map(Result::ok);
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let extra = names.filter(|n| !n.starts_with('.') && n != "target" && !TOP_LEVEL.contains(&n.as_str()));
    report(&extra.map(|name| format!("{name}: does not belong at the top level")).collect::<Vec<_>>());
}

#[test]
fn the_map_shows_every_room() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let missing = rooms().into_iter().filter(|s| !map.contains(&format!("`{}`", s.room)));
    report(
        &missing.map(|s| format!("{}: docs/architecture.md does not know `{}`", s.path, s.room)).collect::<Vec<_>>(),
    );
}

#[test]
fn operations_tell_of_every_option() {
    let told = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let missing = Settings::NAMES.iter().filter(|name| !told.contains(&format!("`{name}`")));
    report(&missing.map(|name| format!("docs/operations.md does not tell of `{name}`")).collect::<Vec<_>>());
}
