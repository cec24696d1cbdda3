//! CREATE EXTERNAL TABLE … STORED AS LSM.
//!
//! With columns it creates the table or verifies that the one there has them; without columns it opens what is there.
//! A declaration that is wrong fails before anything is opened.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Result;
use datafusion::logical_expr::CreateExternalTable;

use super::declaration::Declaration;
use super::drop_hook;
use super::engine::{LsmEngine, OpenRequest, check_declared};
use super::options::SessionOptions;
use super::provider::{Defaults, LsmTableProvider};
use crate::settings::OnDrop;

/// What STORED AS calls these tables.
pub(super) const FILE_TYPE: &str = "LSM";

/// Makes the tables of `STORED AS LSM`.
#[derive(Debug)]
pub struct LsmTableFactory {
    engine: Arc<LsmEngine>,
}

impl LsmTableFactory {
    /// A factory whose tables are opened by `engine`.
    pub fn new(engine: Arc<LsmEngine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl TableProviderFactory for LsmTableFactory {
    async fn create(&self, state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let session = state.config_options().extensions.get::<SessionOptions>();
        let declaration = Declaration::try_new(command, session)?;
        if declaration.settings.on_drop == OnDrop::Delete {
            drop_hook::install(state, &command.name, &self.engine)?;
        }
        let request = OpenRequest {
            uri: declaration.uri.clone(),
            options: declaration.told.clone(),
            storage_options: declaration.options.storage().clone(),
            create: declaration.create(),
            adopt: declaration.adopt(),
            replace: declaration.replaces(command),
        };
        let table = Box::pin(self.engine.open(request)).await?;
        if let Some((schema, key)) = &declaration.columns {
            check_declared(&table, schema, key)?;
        }
        let defaults = Defaults::new(&declaration, &command.column_defaults)?;
        Ok(Arc::new(LsmTableProvider::new(table).with_defaults(defaults)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch, RecordBatchIterator, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};

    use super::super::fixture::{Fixture, run};
    use super::*;
    use crate::base::CreateSpec;
    use crate::error::ErrorKind;

    /// A plain Lance dataset `(id, v)`.
    async fn dataset(uri: &str, ids: Vec<Option<i64>>) {
        let fields = vec![Field::new("id", DataType::Int64, true), Field::new("v", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let texts = StringArray::from_iter_values(ids.iter().map(|id| format!("{id:?}")));
        let columns = vec![Arc::new(Int64Array::from(ids)) as _, Arc::new(texts) as _];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let batches = RecordBatchIterator::new([Ok(batch)], schema);
        lance::Dataset::write(batches, uri, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_plain_dataset_becomes_a_table_only_when_asked_and_only_with_a_real_key() {
        let fixture = Fixture::new();
        let session = fixture.session();
        let create = |name: &str, columns: &str, options: &str| {
            format!("CREATE EXTERNAL TABLE {name} {columns} STORED AS LSM LOCATION '{}' {options}", fixture.path(name))
        };
        let columns = "(id BIGINT, v VARCHAR, PRIMARY KEY (id))";
        let adopt = "OPTIONS ('lsm.adopt' 'true')";
        dataset(&fixture.path("good"), vec![Some(1), Some(2), Some(3)]).await;
        dataset(&fixture.path("twice"), vec![Some(1), Some(2), Some(1)]).await;
        dataset(&fixture.path("none"), vec![Some(1), None]).await;
        for name in ["good", "twice", "none"] {
            let error = run(&session, &create(name, columns, "")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains("lsm.adopt"), "{error}");
        }
        for name in ["twice", "none"] {
            let error = run(&session, &create(name, columns, adopt)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        run(&session, &create("good", columns, adopt)).await.unwrap();
        assert_eq!(run(&session, "UPDATE good SET v = 'x' WHERE id = 2").await.unwrap(), ["1"]);
        assert_eq!(run(&session, "DELETE FROM good WHERE id = 3").await.unwrap(), ["1"]);
        let rows = run(&session, "SELECT * FROM good ORDER BY id").await.unwrap();
        assert_eq!(rows, ["1 Some(1)", "2 x"]);
    }

    #[tokio::test]
    async fn adopting_what_is_a_table_already_is_opening_it() {
        let fixture = Fixture::new();
        let session = fixture.session();
        dataset(&fixture.path("t"), vec![Some(1)]).await;
        let create = format!(
            "CREATE EXTERNAL TABLE t (id BIGINT, v VARCHAR, PRIMARY KEY (id)) STORED AS LSM LOCATION '{}' \
             OPTIONS ('lsm.adopt' 'true')",
            fixture.path("t")
        );
        run(&session, &create).await.unwrap();
        run(&session, "INSERT INTO t VALUES (2, 'two')").await.unwrap();
        run(&session, "DROP TABLE t").await.unwrap();
        run(&session, &create).await.unwrap();
        assert_eq!(run(&session, "SELECT count(*) FROM t").await.unwrap(), ["2"]);
    }

    #[tokio::test]
    async fn columns_that_sql_cannot_declare_are_written_and_read_with_sql() {
        let fixture = Fixture::new();
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let schema = Schema::new(vec![
            Field::new("id", DataType::FixedSizeBinary(2), false),
            Field::new("d", dictionary, true),
            Field::new("l", DataType::LargeUtf8, true),
            Field::new("t", DataType::Time64(TimeUnit::Microsecond), true),
        ]);
        let create = CreateSpec {
            schema: Arc::new(schema),
            key: vec!["id".into()],
            shards: 1,
            shard_column: None,
            indexes: Vec::new(),
            defaults: std::collections::HashMap::new(),
        };
        let request = OpenRequest { uri: fixture.path("t"), create: Some(create), ..OpenRequest::default() };
        let table = fixture.engine.open(request).await.unwrap();
        let session = fixture.another().await;
        drop(table);
        let insert = "INSERT INTO t VALUES (X'0001', 'a', 'x', TIME '12:34:56'), (X'00ff', NULL, NULL, NULL), \
                      (X'0100', 'a', 'y', NULL)";
        assert_eq!(run(&session, insert).await.unwrap(), ["3"]);
        for flushed in [false, true] {
            if flushed {
                run(&session, "SELECT * FROM lsm_flush('t')").await.unwrap();
            }
            let rows = run(&session, "SELECT * FROM t ORDER BY id").await.unwrap();
            assert_eq!(rows, ["0001 a x 12:34:56", "00ff NULL NULL NULL", "0100 a y NULL"], "flushed: {flushed}");
            assert_eq!(run(&session, "SELECT count(*) FROM t WHERE d = 'a'").await.unwrap(), ["2"]);
        }
        assert_eq!(run(&session, "UPDATE t SET d = 'b' WHERE l = 'y'").await.unwrap(), ["1"]);
        assert_eq!(run(&session, "DELETE FROM t WHERE d IS NULL").await.unwrap(), ["1"]);
        assert_eq!(run(&session, "SELECT d, l FROM t ORDER BY id").await.unwrap(), ["a x", "b y"]);
    }
}
