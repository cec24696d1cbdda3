//! What a CREATE EXTERNAL TABLE declares: columns, key and options, checked and normalised.
//!
//! What it says and we would not do is refused: an option or clause that is read and dropped would be a promise.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::Constraint;
use datafusion::logical_expr::CreateExternalTable;

use super::location;
use super::options::{SessionOptions, TableOptions};
use crate::base::{AdoptSpec, CreateSpec};
use crate::error::{Error, Result};
use crate::settings::{OnDrop, Settings};

/// What a session says of its own statements, and not of the tables it opens.
pub(super) const OF_A_STATEMENT: &[&str] = &[
    "lsm.ack",
    "lsm.on_conflict",
    "lsm.drop",
    "lsm.search.mode",
    "lsm.search.stats",
    "lsm.search.nprobes",
    "lsm.search.ef",
    "lsm.search.refine",
];

/// A checked declaration.
#[derive(Debug)]
pub(super) struct Declaration {
    pub(super) uri: String,
    /// What is said, by the session or the declaration, over the defaults.
    pub(super) settings: Settings,
    /// What the table is told: what its declaration says, and what its session does for all tables.
    pub(super) told: BTreeMap<&'static str, String>,
    pub(super) options: TableOptions,
    /// The declared columns and key; `None` if the table is opened as it is.
    pub(super) columns: Option<(SchemaRef, Vec<String>)>,
}

impl Declaration {
    /// # Errors
    /// `Invalid` for what cannot be done.
    pub(super) fn try_new(command: &CreateExternalTable, session: Option<&SessionOptions>) -> Result<Self> {
        refuse_clauses(command)?;
        let (uri, local) = location::canonical(&command.location)?;
        let options = TableOptions::parse(&command.options, local)?;
        let mut settings = Settings::default();
        let mut told = BTreeMap::new();
        for (name, value) in session.iter().flat_map(|s| s.values()) {
            settings.set(name, value)?;
            if !OF_A_STATEMENT.contains(name) {
                told.insert(*name, value.clone());
            }
        }
        for (name, value) in options.own() {
            settings.set(name, value)?;
            told.insert(*name, value.clone());
        }
        let key = key_of(command)?;
        let columns = match (command.schema.fields().is_empty(), key.is_empty()) {
            (true, true) => None,
            (_, true) => {
                return Err(Error::invalid("a table needs a PRIMARY KEY: declare one, for example PRIMARY KEY (id)"));
            }
            _ => Some((normalise(command.schema.as_arrow(), &key), key)),
        };
        Ok(Self { uri, settings, told, options, columns })
    }

    /// What to create if there is nothing.
    pub(super) fn create(&self) -> Option<CreateSpec> {
        let (schema, key) = self.columns.as_ref().filter(|_| !self.settings.adopt)?;
        Some(CreateSpec {
            schema: Arc::clone(schema),
            key: key.clone(),
            shards: self.settings.shards,
            shard_column: self.settings.shard_column.clone(),
            indexes: self.options.indexes().to_vec(),
            defaults: HashMap::new(),
        })
    }

    /// How to make a table of a dataset, if that is asked for.
    pub(super) fn adopt(&self) -> Option<AdoptSpec> {
        self.settings.adopt.then(|| AdoptSpec {
            key: self.columns.as_ref().map(|(_, key)| key.clone()).unwrap_or_default(),
            columns: self.columns.as_ref().map(|(columns, _)| Arc::clone(columns)),
            shards: self.settings.shards,
            shard_column: self.settings.shard_column.clone(),
            indexes: self.options.indexes().to_vec(),
            defaults: self.options.kept(),
        })
    }

    /// Whether what is there is deleted first: OR REPLACE is DROP and CREATE, and DROP keeps the data unless told.
    pub(super) fn replaces(&self, command: &CreateExternalTable) -> bool {
        command.or_replace && self.settings.on_drop == OnDrop::Delete && self.columns.is_some()
    }
}

fn refuse_clauses(command: &CreateExternalTable) -> Result<()> {
    let refuse = |given: bool, why: &'static str| if given { Err(Error::invalid(why)) } else { Ok(()) };
    refuse(
        !command.table_partition_cols.is_empty(),
        "PARTITIONED BY is for files: an LSM table spreads its rows with OPTIONS ('lsm.shards' '4')",
    )?;
    refuse(!command.order_exprs.is_empty(), "WITH ORDER is for files: an LSM table keeps no order")?;
    refuse(command.unbounded, "UNBOUNDED is for streams: an LSM table is bounded")?;
    refuse(command.temporary, "an LSM table cannot be TEMPORARY: its rows are stored")
}

/// The names of the key columns in key order.
fn key_of(command: &CreateExternalTable) -> Result<Vec<String>> {
    let mut key = Vec::new();
    for constraint in command.constraints.iter() {
        match constraint {
            Constraint::PrimaryKey(columns) if key.is_empty() => {
                key = columns.iter().map(|i| command.schema.field(*i).name().clone()).collect();
            }
            Constraint::PrimaryKey(_) => return Err(Error::invalid("the table has two primary keys: declare one")),
            Constraint::Unique(_) => {
                return Err(Error::invalid("UNIQUE cannot be enforced: only the PRIMARY KEY is unique"));
            }
        }
    }
    Ok(key)
}

/// The columns as they are stored: key columns NOT NULL, views as what they are views of.
fn normalise(schema: &Schema, key: &[String]) -> SchemaRef {
    let column = |field: &FieldRef| {
        let nullable = field.is_nullable() && !key.contains(field.name());
        Field::new(field.name(), stored(field.data_type()), nullable)
    };
    Arc::new(Schema::new(schema.fields().iter().map(column).collect::<Vec<_>>()))
}

fn stored(data_type: &DataType) -> DataType {
    let field = |f: &FieldRef| Arc::new(Field::new(f.name(), stored(f.data_type()), f.is_nullable()));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(f) | DataType::ListView(f) => DataType::List(field(f)),
        DataType::LargeList(f) | DataType::LargeListView(f) => DataType::LargeList(field(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(field(f), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        DataType::Map(f, sorted) => DataType::Map(field(f), *sorted),
        DataType::Dictionary(k, v) => DataType::Dictionary(k.clone(), Box::new(stored(v))),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_stored_as_what_they_are_views_of_at_any_depth() {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8View, true),
            Field::new("l", list(list(DataType::BinaryView)), true),
        ]);
        let stored = normalise(&schema, &["id".into()]);
        assert_eq!(stored.field(0), &Field::new("id", DataType::Utf8, false));
        assert_eq!(stored.field(1), &Field::new("l", list(list(DataType::Binary)), true));
    }
}
