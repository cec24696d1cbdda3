//! The tables that are open in a process: sessions that share an engine share tables by their location.
//!
//! Two open tables of one location would be two writers that fence each other, so opening is single flight and an
//! open table is found again. The engine holds no table open: who uses it does.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, Weak};

use datafusion::arrow::datatypes::{Field, SchemaRef};
use parking_lot::Mutex;

use super::declaration::OF_A_STATEMENT;
use super::location;
use crate::base::{AdoptSpec, CreateSpec};
use crate::error::{Error, Result};
use crate::index_spec::IndexSpec;
use crate::settings::{Access, Settings};
use crate::table::{Components, LsmTable};
use crate::task::{self, Supervisor};

/// What matters only when a table is created or opened first.
const OF_THE_START: &[&str] = &["lsm.adopt", "lsm.read.budget", "lsm.recovery", "lsm.shards", "lsm.shard.column"];

static GLOBAL: LazyLock<Arc<LsmEngine>> = LazyLock::new(LsmEngine::new);

type ComponentsOf = dyn Fn(&str) -> Components + Send + Sync;

/// What to open.
#[derive(Debug, Clone, Default)]
pub struct OpenRequest {
    /// Where the table is.
    pub uri: String,
    /// What the handle is told beyond what is stored with the table; one that is open already must agree.
    pub options: BTreeMap<&'static str, String>,
    /// What Lance needs to reach the storage.
    pub storage_options: HashMap<String, String>,
    /// Create the table if there is none.
    pub create: Option<CreateSpec>,
    /// Make a table of a plain dataset.
    pub adopt: Option<AdoptSpec>,
    /// Delete what is there first.
    pub replace: bool,
}

/// One location in one way of access: a handle that only reads is not the one that writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    uri: String,
    reads: bool,
}

/// The open table of a place; its lock is held while it is opened or deleted.
type Slot = tokio::sync::Mutex<Weak<LsmTable>>;

/// Opens tables once for all sessions that share it.
pub struct LsmEngine {
    slots: Mutex<HashMap<Place, Arc<Slot>>>,
    components: Box<ComponentsOf>,
    drops: Supervisor,
}

impl fmt::Debug for LsmEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmEngine").field("slots", &self.slots.lock().len()).finish_non_exhaustive()
    }
}

impl LsmEngine {
    /// An engine of its own: what it opens is shared with no other engine.
    pub fn new() -> Arc<Self> {
        Self::with_components(|_| Components::default())
    }

    /// An engine whose tables get their components, such as clock and event listener, by location.
    pub fn with_components(components: impl Fn(&str) -> Components + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::default(), components: Box::new(components), drops: Supervisor::new() })
    }

    /// The engine of the process.
    pub fn global() -> Arc<Self> {
        Arc::clone(&GLOBAL)
    }

    /// The table, which is opened if it is not open.
    ///
    /// # Errors
    /// `Invalid` if it is open with other settings, is not there and not to be created, or is another table.
    pub async fn open(&self, request: OpenRequest) -> Result<Arc<LsmTable>> {
        let (uri, _) = location::canonical(&request.uri)?;
        let mut told = Settings::default();
        for (name, value) in &request.options {
            told.set(name, value)?;
        }
        let reads = told.access == Access::Read;
        let slot = self.slot(&uri, reads);
        let mut open = slot.lock().await;
        if let Some(table) = open.upgrade().filter(|table| table.is_usable()) {
            if request.replace {
                return Err(Error::invalid("the table is in use and cannot be replaced: drop its other names first")
                    .with_context("table", uri));
            }
            check_options(table.settings(), &request.options)?;
            let declared = request.create.map(|create| create.indexes).unwrap_or_default();
            IndexSpec::check_there(&declared, &table.indexes(), &table.table_schema())?;
            return Ok(table);
        }
        let mut builder =
            LsmTable::builder(&uri).storage_options(request.storage_options).components((self.components)(&uri));
        for (name, value) in request.options {
            builder = builder.option(name, value);
        }
        if let Some(create) = request.create {
            builder = builder.create(create).replace(request.replace);
        }
        if let Some(adopt) = request.adopt {
            builder = builder.adopt(adopt);
        }
        let table = Box::pin(builder.open()).await?;
        *open = Arc::downgrade(&table);
        Ok(table)
    }

    /// The tables that are open.
    pub fn tables(&self) -> Vec<Arc<LsmTable>> {
        let slots: Vec<_> = self.slots.lock().values().map(Arc::clone).collect();
        slots.iter().filter_map(|slot| slot.try_lock().ok().and_then(|open| open.upgrade())).collect()
    }

    /// Tells the recorders of all open tables their figures as they are now: see [`LsmTable::record_metrics`].
    pub fn record_metrics(&self) {
        self.tables().iter().for_each(|table| table.record_metrics());
    }

    /// Closes every open table and waits for deletions that were begun.
    ///
    /// # Errors
    /// The first error; the other tables are closed all the same.
    pub async fn close(&self) -> Result<()> {
        let slots: Vec<_> = self.slots.lock().drain().map(|(_, slot)| slot).collect();
        let mut outcome = Ok(());
        for slot in slots {
            // Waits for who opens or deletes.
            let table = std::mem::take(&mut *slot.lock().await).upgrade();
            if let Some(table) = table {
                outcome = outcome.and(table.close().await);
            }
        }
        outcome
    }

    /// Deletes the table's directory in the background. Whoever opens its location waits for that.
    ///
    /// # Errors
    /// `Invalid` outside a tokio runtime: nothing happens then.
    pub(super) fn delete(self: &Arc<Self>, table: Arc<LsmTable>) -> Result<()> {
        task::check_runtime()?;
        // What is acknowledged from now on would be lost.
        table.retire();
        let slot = self.slot(table.uri(), table.settings().access == Access::Read);
        // Taken at once, so that nobody opens the table between now and the task's first step.
        let held = Arc::clone(&slot).try_lock_owned();
        self.drops.spawn_until("delete", move |_| async move {
            let mut open = match held {
                Ok(open) => open,
                Err(_) => slot.lock_owned().await,
            };
            // Unless it was lost before, and the slot is already that of a newer handle.
            if open.upgrade().is_none_or(|now| Arc::ptr_eq(&now, &table)) {
                *open = Weak::new();
            }
            if let Err(error) = table.destroy().await {
                tracing::error!(
                    table = table.uri(),
                    %error,
                    "a dropped table could not be deleted: its data is still there, open the location again to use it"
                );
            }
        });
        Ok(())
    }

    fn slot(&self, uri: &str, reads: bool) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        // A slot that only this map knows and whose table is gone is nobody's.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |open| open.strong_count() > 0)
        });
        Arc::clone(slots.entry(Place { uri: uri.to_string(), reads }).or_default())
    }
}

/// Fails if options differ from those of the open table.
fn check_options(open: &Settings, options: &BTreeMap<&'static str, String>) -> Result<()> {
    let mut wanted = open.clone();
    for (name, value) in options {
        wanted.set(name, value)?;
    }
    for ((name, is, _), (_, want, _)) in open.entries().into_iter().zip(wanted.entries()) {
        if is != want && !OF_THE_START.contains(&name) && !OF_A_STATEMENT.contains(&name) {
            return Err(Error::invalid(format!(
                "the table is open in this process with option '{name}' = {is}, {want} was asked for: drop its other \
                 names first, or take the option back"
            )));
        }
    }
    Ok(())
}

/// Fails unless the table has these columns and this key.
pub(super) fn check_declared(table: &LsmTable, schema: &SchemaRef, key: &[String]) -> Result<()> {
    let is = table.table_schema();
    if is.logical() != schema {
        return Err(Error::invalid(format!(
            "the table at this location has other columns: it has ({}), declared are ({}); leave the columns out to \
             open it as it is",
            columns(is.logical()),
            columns(schema)
        ))
        .with_context("table", table.uri()));
    }
    if is.key().names() != key {
        return Err(Error::invalid(format!(
            "the table at this location has another primary key: it has ({}), declared is ({})",
            is.key().names().join(", "),
            key.join(", ")
        ))
        .with_context("table", table.uri()));
    }
    Ok(())
}

fn columns(schema: &SchemaRef) -> String {
    let column =
        |f: &Arc<Field>| format!("{} {}{}", f.name(), f.data_type(), if f.is_nullable() { "" } else { " NOT NULL" });
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::super::fixture::{Fixture, run};
    use super::*;
    use crate::error::ErrorKind;

    fn request(fixture: &Fixture, options: &[(&'static str, &str)]) -> OpenRequest {
        let options = options.iter().map(|(name, value)| (*name, (*value).to_string())).collect();
        OpenRequest { uri: fixture.path("t"), options, ..OpenRequest::default() }
    }

    #[tokio::test]
    async fn who_opens_at_once_gets_one_table() {
        let fixture = Fixture::new();
        drop(fixture.with_rows(1).await);
        assert!(fixture.engine.tables().is_empty());
        let open = || fixture.engine.open(request(&fixture, &[]));
        let (a, b, c) = tokio::join!(open(), open(), open());
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&b, &c));
        assert_eq!(fixture.engine.tables().len(), 1);
        drop((a, b, c));
        assert!(fixture.engine.tables().is_empty());
    }

    #[tokio::test]
    async fn whether_files_are_synced_is_kept_with_the_table() {
        let fixture = Fixture::new();
        drop(fixture.with_rows(1).await);
        let table = LsmEngine::new().open(request(&fixture, &[])).await.unwrap();
        assert!(!table.settings().sync && !table.object_io().syncs());
        let table = LsmEngine::new().open(request(&fixture, &[("lsm.sync", "true")])).await.unwrap();
        assert!(table.settings().sync && table.object_io().syncs());
    }

    #[tokio::test]
    async fn a_table_that_is_open_is_not_told_otherwise() {
        let fixture = Fixture::new();
        let _session = fixture.with_rows(1).await;
        let same = fixture.engine.open(request(&fixture, &[("lsm.sync", "false"), ("lsm.ack", "memory")])).await;
        assert!(same.is_ok());
        let error = fixture.engine.open(request(&fixture, &[("lsm.memtable.rows", "7")])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("lsm.memtable.rows"), "{error}");
        // A handle that only reads is another handle.
        assert!(fixture.engine.open(request(&fixture, &[("lsm.access", "read")])).await.is_ok());
    }

    #[tokio::test]
    async fn a_table_that_was_closed_or_fenced_is_opened_anew() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(1).await;
        let closed = fixture.engine.open(request(&fixture, &[])).await.unwrap();
        closed.close().await.unwrap();
        assert_eq!(run(&session, "INSERT INTO t VALUES (2, 0)").await.unwrap_err().kind(), ErrorKind::Closed);
        let opened = fixture.engine.open(request(&fixture, &[])).await.unwrap();
        assert!(!Arc::ptr_eq(&opened, &closed));

        let session = fixture.another().await;
        let rival = LsmEngine::new().open(request(&fixture, &[])).await.unwrap();
        assert_eq!(run(&session, "INSERT INTO t VALUES (2, 0)").await.unwrap(), ["1"]);
        let rows = session.sql("SELECT CAST(3 AS BIGINT) AS id, CAST(0 AS BIGINT) AS n").await.unwrap();
        rival.put(rows.collect().await.unwrap().remove(0)).await.unwrap();
        assert_eq!(run(&session, "INSERT INTO t VALUES (4, 0)").await.unwrap_err().kind(), ErrorKind::Fenced);
        let session = fixture.another().await;
        assert_eq!(run(&session, "INSERT INTO t VALUES (4, 0)").await.unwrap(), ["1"]);
        assert_eq!(run(&session, "SELECT count(*) FROM t").await.unwrap(), ["4"]);
    }

    #[tokio::test]
    async fn a_dropped_table_with_lsm_drop_is_deleted_before_its_location_is_opened_again() {
        let fixture = Fixture::new();
        drop(fixture.with_rows(3).await);
        let session = fixture.session();
        let open = format!("CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{}'", fixture.path("t"));
        run(&session, &format!("{open} OPTIONS ('lsm.drop' 'delete')")).await.unwrap();
        run(&session, "DROP TABLE t").await.unwrap();
        let error = run(&session, &open).await.unwrap_err();
        assert!(error.message().contains("no table"), "{error}");
        assert!(!fixture.dir.path().join("t").exists());
    }

    #[tokio::test]
    async fn a_table_that_is_being_dropped_takes_nothing_under_its_other_names() {
        let fixture = Fixture::new();
        let session = fixture.with_rows(3).await;
        let other = fixture.session();
        let open = format!("CREATE EXTERNAL TABLE u STORED AS LSM LOCATION '{}'", fixture.path("t"));
        run(&other, &format!("{open} OPTIONS ('lsm.drop' 'delete')")).await.unwrap();
        run(&other, "DROP TABLE u").await.unwrap();
        for statement in ["INSERT INTO t VALUES (9, 9)", "UPDATE t SET n = 1", "TRUNCATE TABLE t"] {
            let error = run(&session, statement).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed, "{statement}: {error}");
        }
        fixture.engine.drops.stop().await.unwrap();
        assert!(!fixture.dir.path().join("t").exists());
    }

    #[tokio::test]
    async fn a_directory_that_holds_other_things_is_not_made_a_table() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let dir = fixture.dir.path().join("t");
        let create = format!(
            "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY) STORED AS LSM LOCATION '{}' OPTIONS ('lsm.drop' 'delete')",
            fixture.path("t")
        );
        for file in ["note.txt", "other/precious.txt"] {
            let file = dir.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "mine").unwrap();
            let error = run(&session, &create).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains("other things"), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), b"mine");
            std::fs::remove_dir_all(&dir).unwrap();
        }
        std::fs::create_dir_all(&dir).unwrap();
        run(&session, &create).await.unwrap();
    }

    #[tokio::test]
    async fn who_wrote_a_table_that_is_replaced_is_fenced_first() {
        let fixture = Fixture::new();
        drop(fixture.with_rows(3).await);
        let rival = LsmEngine::new().open(request(&fixture, &[])).await.unwrap();
        let row = async |id: i64| {
            let sql = format!("SELECT CAST({id} AS BIGINT) AS id, CAST(0 AS BIGINT) AS n");
            fixture.session().sql(&sql).await.unwrap().collect().await.unwrap().remove(0)
        };
        rival.put(row(4).await).await.unwrap();
        let session = fixture.session();
        let create = "CREATE OR REPLACE EXTERNAL TABLE t (id BIGINT PRIMARY KEY) STORED AS LSM LOCATION";
        run(&session, &format!("{create} '{}' OPTIONS ('lsm.drop' 'delete')", fixture.path("t"))).await.unwrap();
        let error = rival.put(row(5).await).await.unwrap_err();
        assert!([ErrorKind::Fenced, ErrorKind::Corrupt, ErrorKind::Indeterminate].contains(&error.kind()), "{error}");
        run(&session, "INSERT INTO t VALUES (1)").await.unwrap();
        let session = fixture.another().await;
        assert_eq!(run(&session, "SELECT count(*) FROM t").await.unwrap(), ["1"]);
    }

    #[tokio::test]
    async fn what_cannot_be_created_replaces_nothing() {
        let fixture = Fixture::new();
        drop(fixture.with_rows(3).await);
        let session = fixture.session();
        let create = |columns: &str, at: &str, options: &str| {
            format!(
                "CREATE OR REPLACE EXTERNAL TABLE t ({columns}) STORED AS LSM LOCATION '{}' OPTIONS ('lsm.drop' 'delete'{options})",
                fixture.path(at)
            )
        };
        for (columns, options) in [
            ("id DOUBLE PRIMARY KEY", ""),
            ("id BIGINT PRIMARY KEY, _tombstone INT", ""),
            ("id BIGINT PRIMARY KEY", ", 'lsm.memtable.rows' '0'"),
            ("id BIGINT PRIMARY KEY", ", 'lsm.shards' '2', 'lsm.shard.column' 'nope'"),
        ] {
            let error = run(&session, &create(columns, "t", options)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        let kept = fixture.another().await;
        assert_eq!(run(&kept, "SELECT count(*) FROM t").await.unwrap(), ["3"]);
        // A directory that is no table is nobody's to delete.
        std::fs::create_dir(fixture.dir.path().join("home")).unwrap();
        std::fs::write(fixture.dir.path().join("home/letter"), "dear").unwrap();
        let _ = run(&session, &create("id BIGINT PRIMARY KEY", "home", "")).await;
        assert!(fixture.dir.path().join("home/letter").exists());
    }

    #[tokio::test]
    async fn an_option_is_checked_together_with_those_stored_with_the_table() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY) STORED AS LSM LOCATION";
        let options = "OPTIONS ('lsm.interop' 'false', 'lsm.memtable.rows' '200000')";
        run(&session, &format!("{create} '{}' {options}", fixture.path("t"))).await.unwrap();
        run(&session, "DROP TABLE t").await.unwrap();
        let open = |rows: &str| request(&fixture, &[]).options.into_iter().chain([("lsm.memtable.rows", rows.into())]);
        for (rows, fine) in [("150000", true), ("0", false)] {
            let request = OpenRequest { options: open(rows).collect(), ..request(&fixture, &[]) };
            assert_eq!(LsmEngine::new().open(request).await.is_ok(), fine, "{rows}");
        }
    }

    /// What opens the table at `t` under this name.
    fn open(fixture: &Fixture, options: &str) -> String {
        format!("CREATE EXTERNAL TABLE t STORED AS LSM LOCATION '{}' {options}", fixture.path("t"))
    }

    /// A new session in which a table of three rows was opened with `options`.
    async fn reopened(fixture: &Fixture, options: &str) -> SessionContext {
        drop(fixture.with_rows(3).await);
        let session = fixture.session();
        run(&session, &open(fixture, options)).await.unwrap();
        session
    }

    #[tokio::test]
    async fn a_table_whose_shards_cannot_be_claimed_keeps_its_data() {
        let fixture = Fixture::new();
        let session = reopened(&fixture, "OPTIONS ('lsm.drop' 'delete', 'lsm.access' 'read')").await;
        run(&session, "DROP TABLE t").await.unwrap();
        run(&session, &open(&fixture, "")).await.unwrap();
        assert_eq!(run(&session, "SELECT count(*) FROM t").await.unwrap(), ["3"]);
    }

    #[tokio::test]
    async fn a_table_that_could_not_be_deleted_is_opened_anew() {
        let fixture = Fixture::new();
        let session = reopened(&fixture, "OPTIONS ('lsm.drop' 'delete', 'lsm.access' 'read')").await;
        let table = fixture.engine.open(request(&fixture, &[("lsm.access", "read")])).await.unwrap();
        table.refresh().await.unwrap();
        run(&session, "DROP TABLE t").await.unwrap();
        let opened = fixture.engine.open(request(&fixture, &[("lsm.access", "read")])).await.unwrap();
        assert!(!Arc::ptr_eq(&opened, &table));
        opened.refresh().await.unwrap();
        assert_eq!(table.refresh().await.unwrap_err().kind(), ErrorKind::Closed, "the handle does not go on");
    }

    #[test]
    fn a_drop_outside_a_runtime_is_refused() {
        let fixture = Fixture::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let session = runtime.block_on(reopened(&fixture, "OPTIONS ('lsm.drop' 'delete')"));
        let error = Error::from(session.deregister_table("t").unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains("tokio runtime"), "{error}");
        let rest = runtime.block_on(run(&session, "INSERT INTO t VALUES (9, 9)"));
        assert_eq!(rest.unwrap(), ["1"], "nothing was begun");
    }
}
