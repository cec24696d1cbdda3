//! A table in a store that is reached over a network: Lance reads its generations and does not mind their summaries.

use std::sync::Arc;

use datafusion_lsm::store::registry;
use datafusion_lsm::table::{Components, LsmTable};
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::mem_wal::LsmScanner;
use lance::session::Session;

use super::lance_side::generations_of;
use super::range;
use crate::support::key_type::KeyType;
use crate::support::place::{of_a_process, quiet};
use crate::support::remote::Bucket;
use crate::support::rows::{collected, numbered, schema, spec, stream};

const KEY: KeyType = KeyType::Int64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lance_reads_generations_that_have_summaries() {
    let (bucket, uri) = Bucket::new();
    let components: Components = of_a_process();
    let table = LsmTable::builder(&uri).settings(quiet()).components(components).create(spec(KEY, 1));
    let table = table.open().await.unwrap();
    table.replace_all(stream(schema(KEY), vec![numbered(KEY, &range(0..100, 0))])).await.unwrap();
    for (keys, n) in [(50..150, 1), (20..70, 2)] {
        table.put(numbered(KEY, &range(keys, n))).await.unwrap();
        table.delete(KEY.batch(&[10 + n as u32, 60])).await.unwrap();
        table.flush().await.unwrap();
    }
    assert_eq!(bucket.sizes("summary.binpb").await.unwrap().len(), 2);
    let snapshot = table.snapshot();
    let plan = table.scan(&snapshot, None, &[], None).unwrap();
    let expected = collected(KEY, &datafusion::physical_plan::collect(plan, Arc::default()).await.unwrap());
    assert_eq!(expected.len(), 150 - 3);

    // A session of its own: nothing that is in memory here is found there.
    let own = Arc::new(Session::new(1 << 20, 1 << 20, registry()));
    let base = DatasetBuilder::from_uri(&uri).with_session(own).load().await.unwrap();
    let theirs = generations_of(&snapshot);
    let scanner = LsmScanner::new(Arc::new(base), vec![theirs], KEY.names());
    let columns = schema(KEY);
    let columns: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
    let read = Box::pin(scanner.project(&columns).unwrap().try_into_batch()).await.unwrap();
    assert_eq!(collected(KEY, &[read]), expected);
    table.close().await.unwrap();
}
