//! What a subscriber of `tracing` sees of a table's work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use datafusion_lsm::sql::{LsmEngine, LsmSessionExt};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// A span when it began.
#[derive(Debug, Clone, Default)]
struct Seen {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_string());
    }
}

/// The spans of the crate, in the order in which they began.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        if !metadata.target().starts_with("datafusion_lsm") {
            return;
        }
        let parent = context.span(id).and_then(|span| Some(span.parent()?.name()));
        let mut seen = Seen { name: metadata.name(), parent, fields: BTreeMap::new() };
        attributes.record(&mut seen);
        self.0.lock().push(seen);
    }
}

impl Spans {
    /// The spans of a name; there are some.
    fn named(&self, name: &str) -> Vec<Seen> {
        let all = self.0.lock();
        let named: Vec<Seen> = all.iter().filter(|seen| seen.name == name).cloned().collect();
        assert!(!named.is_empty(), "{name} is not among {all:#?}");
        named
    }
}

#[tokio::test]
async fn an_insert_a_flush_and_a_search_are_seen_as_spans() {
    let dir = tempfile::tempdir().unwrap();
    let spans = Spans::default();
    // Of this thread, which runs all tasks of the test.
    let _subscriber = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    let engine = LsmEngine::new();
    let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
    let create = format!(
        "CREATE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, body VARCHAR) STORED AS LSM LOCATION '{}' \
         OPTIONS ('lsm.sync' 'false', 'lsm.base.refresh' '0', 'lsm.index.body' 'fts')",
        dir.path().join("t").display()
    );
    for sql in [
        create.as_str(),
        "INSERT INTO t VALUES (1, 'a red fox'), (2, 'a blue whale')",
        "SELECT * FROM lsm_flush('t')",
        "INSERT INTO t VALUES (3, 'a grey fox')",
        "SELECT id FROM text_search('t', 'body', 'fox', k => 3)",
    ] {
        session.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).collect().await.unwrap();
    }
    let uri = engine.tables()[0].uri().to_string();
    let of_table = |seen: &Seen, fields: &[(&'static str, &str)]| {
        assert_eq!(seen.fields.get("table"), Some(&uri), "{seen:?}");
        for (name, value) in fields {
            assert_eq!(seen.fields.get(name).map(String::as_str), Some(*value), "{seen:?}");
        }
    };

    of_table(&spans.named("lsm.open")[0], &[]);
    let statements = spans.named("lsm.statement");
    assert_eq!(statements.len(), 2, "{statements:?}");
    statements.iter().for_each(|seen| of_table(seen, &[]));
    let claims = spans.named("lsm.claim");
    assert_eq!((claims.len(), claims[0].parent), (1, Some("lsm.statement")));
    assert!(claims[0].fields.contains_key("shard"));
    assert_eq!(spans.named("lsm.replay").last().unwrap().parent, Some("lsm.claim"));
    let writes = spans.named("lsm.wal");
    assert_eq!(writes.len(), 2, "{writes:?}");
    of_table(&writes[0], &[("generation", "1"), ("units", "1")]);

    let flushes = spans.named("lsm.flush");
    assert_eq!(flushes.len(), 1, "{flushes:?}");
    of_table(&flushes[0], &[("generation", "1"), ("rows", "2")]);
    let is_of_flush = |seen: &&Seen| seen.parent == Some("lsm.flush");
    let opened = spans.named("lsm.dataset.open");
    let of_generation = |seen: &&Seen| is_of_flush(seen) && seen.fields.contains_key("generation");
    of_table(opened.iter().find(of_generation).unwrap(), &[("generation", "1")]);
    let warmed = spans.named("lsm.warm.generation");
    assert_eq!(warmed.iter().find(is_of_flush).unwrap().fields.get("generation").unwrap(), "1");

    of_table(&spans.named("lsm.search")[0], &[("kind", "text"), ("k", "3")]);
    for part in ["lsm.search.prepare", "lsm.search.source"] {
        assert_eq!(spans.named(part)[0].parent, Some("lsm.search"), "{part}");
    }
}
