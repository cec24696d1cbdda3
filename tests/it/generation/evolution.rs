//! Generations older than the table's schema.

use lance::dataset::{ColumnAlteration, NewColumnTransform};

use super::*;

/// `(id, a, b)`, both text.
async fn table_of_texts(place: &Place) -> Arc<BaseTable> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    place.create(&spec_of(vec![Field::new("id", DataType::Int64, false), text("a"), text("b")], &["id"])).await
}

fn texts(table: &BaseTable, id: i64, a: &str, b: &str) -> RecordBatch {
    let text = |s: &str| Arc::new(StringArray::from(vec![s])) as ArrayRef;
    let batch = RecordBatch::try_new(Arc::clone(table.schema().logical()), vec![longs(&[id]), text(a), text(b)]);
    table.schema().to_stored(&batch.unwrap()).unwrap()
}

#[tokio::test]
async fn columns_dropped_renamed_and_added_since_are_told_apart() {
    let place = Place::new().await;
    let old = table_of_texts(&place).await;
    let record = flush(&place, &old, 1, vec![texts(&old, 1, "in a", "in b")]).await;

    // `a` goes, `b` takes its name, and a new `b` comes, which must not be taken for either.
    let mut lance = place.lance().await;
    lance.drop_columns(&["a"]).await.unwrap();
    lance.alter_columns(&[ColumnAlteration::new("b".into()).rename("a".into())]).await.unwrap();
    let new = arrow::datatypes::Schema::new(vec![Field::new("b", DataType::Utf8, true)]);
    lance.add_columns(NewColumnTransform::AllNulls(Arc::new(new)), None, None).await.unwrap();
    let table = old.refresh().await.unwrap().unwrap();

    let generation = open(&place, &table, &record).await;
    let names: Vec<_> = table.schema().logical().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "a", "b"]);
    let read = scan(&generation, &[1, 2, 0], &[]).await;
    assert_eq!((strings(read.column(0)), read.column(1).null_count()), (vec!["in b"], 1));
    assert_eq!(scan(&generation, &[0], &[col("a").eq(lit("in b")), col("b").is_null()]).await.num_rows(), 1);
    assert_eq!(scan(&generation, &[0], &[col("b").is_not_null()]).await.num_rows(), 0);
    assert_eq!(scan(&generation, &[2], &[]).await.num_rows(), 1, "only a column that it does not have");
    let taken = generation.take(&[0], &[2, 1]).await.unwrap();
    assert_eq!((taken.column(0).null_count(), strings(taken.column(1))), (1, vec!["in b"]));
    assert_eq!(generation.take(&[0, 0], &[2]).await.unwrap().num_rows(), 2);

    let later = flush(&place, &table, 2, vec![texts(&table, 2, "new a", "new b")]).await;
    let later = open(&place, &table, &later).await;
    assert_eq!(strings(scan(&later, &[2], &[]).await.column(0)), ["new b"]);
}

#[tokio::test]
async fn a_memtable_of_the_old_schema_is_flushed_under_the_old_numbers() {
    let place = Place::new().await;
    let old = table_of_texts(&place).await;
    let batch = texts(&old, 1, "in a", "in b");
    place.lance().await.drop_columns(&["a"]).await.unwrap();
    let table = old.refresh().await.unwrap().unwrap();
    let shard = ShardId::unsharded();
    let record = write(&place.opener, &place.io, shard, GenerationId(1), vec![batch], old.schema(), table.layout())
        .await
        .unwrap();
    let generation = open(&place, &table, &record).await;
    assert_eq!(strings(scan(&generation, &[1], &[]).await.column(0)), ["in b"]);
}

#[tokio::test]
async fn fields_of_structs_are_told_apart_too() {
    let place = Place::new().await;
    let inner = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Int64, true)];
    let point = Field::new("p", DataType::Struct(inner.into()), true);
    let old = place.create(&spec_of(vec![Field::new("id", DataType::Int64, false), point], &["id"])).await;
    let DataType::Struct(fields) = old.schema().logical().field(1).data_type().clone() else { unreachable!() };
    let point = arrow::array::StructArray::new(fields, vec![longs(&[10]), longs(&[20])], None);
    let batch = RecordBatch::try_new(Arc::clone(old.schema().logical()), vec![longs(&[1]), Arc::new(point)]).unwrap();
    let record = flush(&place, &old, 1, vec![old.schema().to_stored(&batch).unwrap()]).await;

    let mut lance = place.lance().await;
    lance.drop_columns(&["p.x"]).await.unwrap();
    lance.alter_columns(&[ColumnAlteration::new("p.y".into()).rename("x".into())]).await.unwrap();
    let table = old.refresh().await.unwrap().unwrap();
    let generation = open(&place, &table, &record).await;
    let read = scan(&generation, &[1], &[]).await;
    let point = read.column(0).as_struct();
    assert_eq!((point.num_columns(), ids(point.column_by_name("x").unwrap())), (1, vec![20]));
    let taken = generation.take(&[0], &[1]).await.unwrap();
    assert_eq!(taken.column(0), read.column(0));
}
