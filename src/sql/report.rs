//! What the table functions answer, as rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::functions::LsmFunction;
use crate::error::Result;
use crate::table::{IndexInfo, LsmTable, Metric, SourceInfo, WalInfo};

/// The columns of a function.
pub(super) fn schema(function: LsmFunction) -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    let optional = |field: Field| field.with_nullable(true);
    Arc::new(Schema::new(match function {
        LsmFunction::Sources => vec![
            optional(text("shard")),
            optional(number("index")),
            text("kind"),
            number("generation"),
            number("rows"),
            optional(number("bytes")),
            optional(number("age_ms")),
            text("state"),
            optional(text("error")),
        ],
        LsmFunction::Indexes => vec![
            text("name"),
            text("column"),
            text("kind"),
            text("parameters"),
            optional(text("shard")),
            text("source"),
            number("generation"),
            number("rows"),
            number("indexed"),
            optional(text("error")),
        ],
        LsmFunction::Wal => vec![
            text("shard"),
            text("role"),
            number("epoch"),
            number("next_position"),
            number("replay_after"),
            number("current_generation"),
            number("manifest_version"),
            number("queued_units"),
            number("queued_bytes"),
            number("quarantined_entries"),
            optional(number("quarantined_rows")),
            optional(text("error")),
        ],
        LsmFunction::Metrics => vec![text("name"), number("value"), text("unit")],
        LsmFunction::Flush => vec![number("generations")],
        LsmFunction::Refresh => vec![number("base_version"), number("generations")],
        LsmFunction::DropIndex => vec![number("dropped")],
        LsmFunction::Warm => vec![number("sources"), number("bytes")],
    }))
}

/// Does what the function does, with what it was told beside the table, and returns its rows.
pub(super) async fn run(function: LsmFunction, table: &LsmTable, argument: Option<&str>) -> Result<RecordBatch> {
    let columns = match function {
        LsmFunction::Sources => sources(&table.sources()),
        LsmFunction::Indexes => indexes(&table.index_info().await?),
        LsmFunction::DropIndex => {
            let dropped = table.drop_index(argument.unwrap_or_default(), false).await?;
            vec![numbers([u64::from(dropped)])]
        }
        LsmFunction::Wal => wal(&table.wal().await?),
        LsmFunction::Metrics => metrics(&table.metrics()),
        LsmFunction::Flush => {
            table.flush().await?;
            vec![numbers([generations(table)])]
        }
        LsmFunction::Warm => {
            let warmed = table.warm(argument.unwrap_or_default().parse()?).await?;
            vec![numbers([warmed.sources as u64]), numbers([warmed.bytes])]
        }
        LsmFunction::Refresh => {
            table.refresh().await?;
            vec![numbers([table.snapshot().version().base.version()]), numbers([generations(table)])]
        }
    };
    Ok(RecordBatch::try_new(schema(function), columns)?)
}

fn generations(table: &LsmTable) -> u64 {
    table.snapshot().version().shards.iter().map(|shard| shard.generations.len() as u64).sum()
}

fn numbers(values: impl IntoIterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn maybe_numbers(values: impl IntoIterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<UInt64Array>())
}

fn texts(values: impl IntoIterator<Item = impl AsRef<str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn maybe_texts(values: impl IntoIterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn sources(sources: &[SourceInfo]) -> Vec<ArrayRef> {
    vec![
        maybe_texts(sources.iter().map(|s| s.shard.map(|shard| shard.to_string()))),
        maybe_numbers(sources.iter().map(|s| s.index)),
        texts(sources.iter().map(|s| s.kind)),
        numbers(sources.iter().map(|s| s.generation.0)),
        numbers(sources.iter().map(|s| s.rows)),
        maybe_numbers(sources.iter().map(|s| s.bytes)),
        maybe_numbers(sources.iter().map(|s| s.age_ms)),
        texts(sources.iter().map(|s| s.state)),
        maybe_texts(sources.iter().map(|s| s.error.clone())),
    ]
}

fn indexes(indexes: &[IndexInfo]) -> Vec<ArrayRef> {
    vec![
        texts(indexes.iter().map(|i| &i.index.name)),
        texts(indexes.iter().map(|i| &i.index.column)),
        texts(indexes.iter().map(|i| i.index.kind.name())),
        texts(indexes.iter().map(|i| i.index.kind.params())),
        maybe_texts(indexes.iter().map(|i| i.shard.map(|shard| shard.to_string()))),
        texts(indexes.iter().map(|i| i.source)),
        numbers(indexes.iter().map(|i| i.generation.0)),
        numbers(indexes.iter().map(|i| i.rows)),
        numbers(indexes.iter().map(|i| i.indexed)),
        maybe_texts(indexes.iter().map(|i| i.error.clone())),
    ]
}

fn wal(shards: &[WalInfo]) -> Vec<ArrayRef> {
    let figure = |of: fn(&WalInfo) -> u64| numbers(shards.iter().map(of));
    vec![
        texts(shards.iter().map(|s| s.shard.to_string())),
        texts(shards.iter().map(|s| s.role)),
        figure(|s| s.epoch),
        figure(|s| s.next_position),
        figure(|s| s.replay_after),
        figure(|s| s.current_generation),
        figure(|s| s.manifest_version),
        figure(|s| s.queued_units),
        figure(|s| s.queued_bytes),
        figure(|s| s.quarantined_entries),
        maybe_numbers(shards.iter().map(|s| s.quarantined_rows)),
        maybe_texts(shards.iter().map(|s| s.error.clone())),
    ]
}

fn metrics(metrics: &[Metric]) -> Vec<ArrayRef> {
    vec![
        texts(metrics.iter().map(|m| m.name)),
        numbers(metrics.iter().map(|m| m.value)),
        texts(metrics.iter().map(|m| m.unit)),
    ]
}
