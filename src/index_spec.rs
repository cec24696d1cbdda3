//! Which columns a table has indexes of, and of what kind: plain data, spelled as an option.
//!
//! The option is `lsm.index.<column>`, its value the kind: `fts`, `vector(l2)`, `vector(cosine)` or
//! `vector(inner_product)`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use crate::distance::Metric;
use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// What the names of index options begin with.
pub const PREFIX: &str = "lsm.index.";

/// An index of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSpec {
    /// The column.
    pub column: String,
    /// What the index finds.
    pub kind: IndexKind,
}

/// What an index finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// The nearest vectors by a metric.
    Vector(Metric),
    /// Texts by their words.
    #[serde(rename = "fts")]
    Text,
}

impl IndexSpec {
    /// The index that the option `lsm.index.<column>` says.
    ///
    /// # Errors
    /// `Invalid` if there is no such kind.
    pub fn parse(column: &str, kind: &str) -> Result<Self> {
        let kind =
            kind.parse().map_err(|e: Error| Error::invalid(format!("option '{PREFIX}{column}': {}", e.message())))?;
        Ok(Self { column: column.to_string(), kind })
    }

    /// The indexes among stored options, in the order of their columns' names.
    ///
    /// # Errors
    /// `Invalid` if this version does not know a kind.
    pub fn of_options(options: &HashMap<String, String>) -> Result<Vec<Self>> {
        let own = options.iter().filter_map(|(name, kind)| Some((name.strip_prefix(PREFIX)?, kind)));
        let mut specs = own.map(|(column, kind)| Self::parse(column, kind)).collect::<Result<Vec<_>>>()?;
        specs.sort_by(|a, b| a.column.cmp(&b.column));
        Ok(specs)
    }

    /// Fails unless the table of `schema`, which has the indexes `there`, has those of `declared` among them.
    ///
    /// # Errors
    /// `Invalid`, naming the index.
    pub fn check_there(declared: &[Self], there: &[Self], schema: &TableSchema) -> Result<()> {
        for index in declared {
            let index = index.resolved(schema)?;
            if !there.contains(&index) {
                let shown = |index: &Self| format!("{} {}", index.column, index.kind);
                let is: Vec<String> = there.iter().map(shown).collect();
                return Err(Error::invalid(format!(
                    "the table that is there has the indexes ({}), '{}' was declared: leave it out",
                    is.join(", "),
                    shown(&index)
                )));
            }
        }
        Ok(())
    }

    /// The name and value of the option that says this.
    pub fn option(&self) -> (String, String) {
        (format!("{PREFIX}{}", self.column), self.kind.to_string())
    }

    /// The index with the column's name as the table has it: options may have lost its capitals.
    ///
    /// # Errors
    /// `Invalid` if there is no such column, or its type cannot be indexed so.
    pub fn resolved(&self, schema: &TableSchema) -> Result<Self> {
        let fields = schema.logical().fields();
        let mut alike = fields.iter().filter(|f| f.name().eq_ignore_ascii_case(&self.column));
        let found = fields.iter().find(|f| *f.name() == self.column).or_else(|| alike.next());
        let Some(field) = found else {
            return Err(Error::invalid(format!("option '{PREFIX}{}': there is no such column", self.column)));
        };
        match (self.kind, field.data_type()) {
            (IndexKind::Vector(_), DataType::FixedSizeList(element, width))
                if *element.data_type() == DataType::Float32 && *width > 0 =>
            {
                Ok(Self { column: field.name().clone(), kind: self.kind })
            }
            (IndexKind::Text, DataType::Utf8 | DataType::LargeUtf8) => {
                Ok(Self { column: field.name().clone(), kind: self.kind })
            }
            (IndexKind::Text, other) => Err(Error::invalid(format!(
                "option '{PREFIX}{}': a text index needs a column of the type VARCHAR, and this one is {other}",
                self.column
            ))),
            (IndexKind::Vector(_), other) => Err(Error::invalid(format!(
                "option '{PREFIX}{}': a vector index needs a column of the type FLOAT[n], and this one is {other}",
                self.column
            ))),
        }
    }
}

/// What options call an index of texts.
const TEXT: &str = "fts";

/// The metrics as options name them.
const METRICS: [(&str, Metric); 3] =
    [("l2", Metric::L2), ("cosine", Metric::Cosine), ("inner_product", Metric::InnerProduct)];

impl FromStr for IndexKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == TEXT {
            return Ok(Self::Text);
        }
        let metric = lower.strip_prefix("vector(").and_then(|rest| rest.strip_suffix(')')).map(str::trim);
        match METRICS.iter().find(|(name, _)| Some(*name) == metric) {
            Some((_, metric)) => Ok(Self::Vector(*metric)),
            None => {
                let kinds: Vec<String> = METRICS.iter().map(|(_, metric)| Self::Vector(*metric).to_string()).collect();
                Err(Error::invalid(format!("'{text}' is no kind of index: known are {TEXT}, {}", kinds.join(", "))))
            }
        }
    }
}

impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Vector(metric) = self else { return f.write_str(TEXT) };
        let name = METRICS.iter().find(|(_, m)| m == metric).map_or("l2", |(name, _)| name);
        write!(f, "vector({name})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    #[test]
    fn index_options_are_read_as_they_are_written() {
        for (_, metric) in METRICS {
            let spec = IndexSpec { column: "e".into(), kind: IndexKind::Vector(metric) };
            assert_eq!(IndexSpec::parse("e", "FTS").unwrap().kind, IndexKind::Text);
            let options = HashMap::from([spec.option(), ("lsm.ack".into(), "memory".into())]);
            assert_eq!(IndexSpec::of_options(&options).unwrap(), [spec]);
        }
        assert_eq!(IndexSpec::parse("e", " Vector( L2 ) ").unwrap().kind, IndexKind::Vector(Metric::L2));
        for bad in ["", "vector", "vector()", "vector(l3)", "fst"] {
            assert!(IndexSpec::parse("e", bad).unwrap_err().message().contains("lsm.index.e"), "{bad}");
        }
    }

    #[test]
    fn an_index_needs_a_column_of_its_type() {
        let vector = |element| DataType::FixedSizeList(Arc::new(Field::new("item", element, true)), 4);
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("Near", vector(DataType::Float32), true),
            Field::new("wide", vector(DataType::Float64), true),
        ]);
        let schema = TableSchema::try_new(&schema, &["id".into()]).unwrap();
        assert!(IndexSpec::parse("id", "fts").unwrap().resolved(&schema).unwrap_err().message().contains("VARCHAR"));
        let resolved = |column| IndexSpec::parse(column, "vector(cosine)").unwrap().resolved(&schema);
        assert_eq!(resolved("near").unwrap().column, "Near");
        for column in ["id", "wide", "nowhere"] {
            assert!(resolved(column).unwrap_err().message().contains(column));
        }
    }
}
