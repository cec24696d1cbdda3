//! Which shard a row belongs to.
//!
//! A key always belongs to the same shard: a table is sharded by a column of its key, and never sharded anew.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type};
use lance::dataset::mem_wal::evaluate_sharding_spec_with_embedded_columns;
use lance_index::mem_wal::{MemWalIndexDetails, ShardingField, ShardingSpec};

use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::key::PrimaryKey;
use crate::store::from_lance;

/// The id of the one sharding of a table; Lance knows no other.
const SPEC_ID: u32 = 1;
/// The most shards a table can have.
const MAX_SHARDS: u32 = 1024;

/// How the rows of a table are spread over shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// The shards; a row of bucket `n` is in shard `n`.
    pub shards: Vec<ShardId>,
    /// The column whose hash tells the bucket; `None` if there is one shard.
    pub column: Option<String>,
    /// The id of the sharding in the MemWAL index; 0 if shards are managed by another program.
    pub spec_id: u32,
}

impl Sharding {
    /// A sharding for a new table.
    pub(super) fn plan(key: &PrimaryKey, shards: u32, column: Option<&str>) -> Result<Self> {
        if shards == 0 || shards > MAX_SHARDS {
            return Err(Error::invalid(format!("a table has 1 to {MAX_SHARDS} shards, not {shards}")));
        }
        let column = match column {
            Some(name) => key.columns().iter().find(|c| c.name == name).ok_or_else(|| {
                Error::invalid(format!(
                    "a table is sharded by a column of its primary key ({}), which '{name}' is not",
                    key.names().join(", ")
                ))
            })?,
            None => &key.columns()[0],
        };
        if shards == 1 {
            return Ok(Self { shards: vec![ShardId::unsharded()], column: None, spec_id: SPEC_ID });
        }
        if !is_hashable(&column.data_type) {
            return Err(Error::invalid(format!(
                "a table cannot be sharded by column '{}' of type {}: choose a key column that is a number, boolean, \
                 date, timestamp or string",
                column.name, column.data_type
            )));
        }
        Ok(Self {
            shards: (0..shards).map(ShardId::bucket).collect(),
            column: Some(column.name.clone()),
            spec_id: SPEC_ID,
        })
    }

    /// What the MemWAL index says of it; `source` is the field id of the column.
    pub(super) fn spec(&self, source: Option<i32>) -> ShardingSpec {
        ShardingSpec { spec_id: SPEC_ID, fields: vec![self.field(source)] }
    }

    fn field(&self, source: Option<i32>) -> ShardingField {
        let (transform, parameters) = match &self.column {
            Some(_) => ("bucket", HashMap::from([("num_buckets".into(), self.shards.len().to_string())])),
            None => ("unsharded", HashMap::new()),
        };
        ShardingField {
            field_id: "bucket".into(),
            source_ids: source.into_iter().collect(),
            transform: Some(transform.into()),
            expression: None,
            result_type: "int32".into(),
            parameters,
        }
    }

    /// The sharding that a MemWAL index describes. `name` names the column with a field id, `present` are the shards
    /// that have a directory.
    pub(super) fn read(
        details: &MemWalIndexDetails,
        name: impl Fn(i32) -> Option<String>,
        mut present: Vec<ShardId>,
    ) -> Result<Self> {
        present.sort_unstable();
        let Some(spec) = details.sharding_specs.first() else {
            let shards = if present.is_empty() { vec![ShardId::unsharded()] } else { present };
            return Ok(Self { shards, column: None, spec_id: 0 });
        };
        let [field] = spec.fields.as_slice() else {
            return Err(Error::invalid(format!(
                "the table is sharded by {} fields, this version knows tables sharded by one",
                spec.fields.len()
            )));
        };
        let sharding = match field.transform.as_deref() {
            Some("unsharded") => {
                // Lance lets a writer name its shard as it likes; a table of ours is alone in its directory.
                let shards = if present.is_empty() { vec![ShardId::unsharded()] } else { present };
                return Ok(Self { shards, column: None, spec_id: spec.spec_id });
            }
            Some("bucket") => {
                let count: u32 = field.parameters.get("num_buckets").and_then(|n| n.parse().ok()).unwrap_or(0);
                let column = field.source_ids.first().and_then(|id| name(*id));
                let (1..=MAX_SHARDS, Some(column)) = (count, column) else {
                    return Err(Error::corrupt("the sharding in the MemWAL index has no column or no buckets"));
                };
                Self { shards: (0..count).map(ShardId::bucket).collect(), column: Some(column), spec_id: spec.spec_id }
            }
            other => {
                return Err(Error::invalid(format!(
                    "the table is sharded by '{}', this version knows 'unsharded' and 'bucket'",
                    other.unwrap_or("an expression")
                )));
            }
        };
        match present.iter().find(|shard| !sharding.shards.contains(shard)) {
            Some(shard) => Err(Error::invalid(
                "the table has a shard whose bucket cannot be told from its name, since another program made it: write \
                 it with that program",
            )
            .with_context("shard", shard)),
            None => Ok(sharding),
        }
    }
}

/// The bucket of each row of a batch that has the sharding's column.
///
/// # Errors
/// `Invalid` if the column is missing or its type cannot be hashed, or if nothing tells the shards apart.
pub fn bucket(sharding: &Sharding, batch: &RecordBatch) -> Result<Vec<u32>> {
    let Some(column) = &sharding.column else {
        if sharding.shards.len() > 1 {
            return Err(Error::invalid(
                "the table's shards are managed by another program and nothing tells where a row belongs: write it \
                 with that program",
            ));
        }
        return Ok(vec![0; batch.num_rows()]);
    };
    if sharding.shards.len() == 1 {
        return Ok(vec![0; batch.num_rows()]);
    }
    let mut field = sharding.field(None);
    field.parameters.insert("column".into(), column.clone());
    let spec = ShardingSpec { spec_id: sharding.spec_id, fields: vec![field] };
    let buckets = evaluate_sharding_spec_with_embedded_columns(batch, &spec).map_err(from_lance)?;
    let buckets = buckets.column(0).as_primitive_opt::<Int32Type>();
    let buckets = buckets.ok_or_else(|| Error::internal("Lance hashed to something other than numbers"))?;
    Ok(buckets.values().iter().map(|bucket| bucket.cast_unsigned()).collect())
}

/// Whether Lance can hash values of the type.
fn is_hashable(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Date32
            | Timestamp(_, _)
            | Utf8
            | LargeUtf8
    )
}
