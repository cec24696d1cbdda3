//! The table from Rust, without SQL: put, get, delete, snapshots, and the same table in a session afterwards.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmSessionExt, LsmTableProvider};
use datafusion_lsm::table::{CreateSpec, LsmTable};

fn rows(ids: &[i64], bodies: &[&str]) -> Result<RecordBatch, Box<dyn Error>> {
    Ok(RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("body", Arc::new(StringArray::from(bodies.to_vec()))),
    ])?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let location = dir.path().join("docs");
    let uri = location.to_str().ok_or("the path is not UTF-8")?;

    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("body", DataType::Utf8, true)]);
    let spec = CreateSpec {
        schema: Arc::new(schema),
        key: vec!["id".to_string()],
        shards: 1,
        shard_column: None,
        indexes: Vec::new(),
        defaults: Default::default(),
    };
    let table = LsmTable::builder(uri).create(spec).open().await?;

    // Durable when it returns. To have many writes under way, take the handle of each and wait later: they share WAL
    // entries.
    table.put(rows(&[1, 2, 3], &["one", "two", "three"])?).await?;
    let pending = table.put_no_wait(rows(&[4], &["four"])?).await?;
    pending.wait().await?;

    let found = table.get(&[ScalarValue::Int64(Some(2))]).await?;
    println!("row 2:\n{}", pretty_format_batches(found.as_slice())?);

    // A snapshot stays what it is while the table moves on.
    let snapshot = table.snapshot();
    let key = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![3])) as ArrayRef)])?;
    table.delete(key).await?;
    table.flush().await?;
    table.put(rows(&[1], &["one, again"])?).await?;
    println!(
        "rows then: {}, rows now: {}",
        table.live_rows(&snapshot).await?,
        table.live_rows(&table.snapshot()).await?
    );
    let plan = table.scan(&snapshot, None, &[], None)?;
    let session = SessionContext::new().with_lsm();
    println!("{}", pretty_format_batches(&collect(plan, session.task_ctx()).await?)?);

    for source in table.sources() {
        println!("{source:?}");
    }

    // Any number of readers beside the writer; none of them can write. Options that are given one by one go over those
    // stored with the table; `LsmTable::open` would take all from the `Settings` it is given.
    let reader = LsmTable::builder(uri).option("lsm.access", "read").open().await?;
    let refused = reader.put(rows(&[5], &["five"])?).await;
    println!("a reader that writes: {:?}", refused.map_err(|error| error.kind()));

    // The same handle under a name in SQL.
    session.register_table("docs", Arc::new(LsmTableProvider::new(Arc::clone(&table))))?;
    session.sql("SELECT count(*), max(body) FROM docs").await?.show().await?;

    table.close().await?;
    Ok(())
}
