//! Which columns a table has indexes of, of what kind, and what they are told: plain data, spelled as an option.
//!
//! The option is `lsm.index.<column>`, its value one kind of index or several: `fts`, `fts(language='German'), btree`,
//! `vector(cosine)`. The names of parameters are Lance's, or shorter ones.

mod kind;
mod notation;
mod params;
mod text_params;
mod vector_params;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::settings::switch;

pub use kind::IndexKind;
pub use text_params::{LANGUAGES, StopWords, TOKENIZERS, TextParams};
pub use vector_params::{VectorLayout, VectorParams, metric_named};

/// What the names of index options begin with.
pub const PREFIX: &str = "lsm.index.";

/// The setting whose name is that of an option of a column `sync`: the values tell them apart.
const SYNC: &str = "lsm.index.sync";

/// What the names of Lance's own indexes begin with.
const SYSTEM: &str = "__";

/// An index of one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSpec {
    /// Its name, which no other index of the table has.
    pub name: String,
    /// The column.
    pub column: String,
    /// What the index finds.
    pub kind: IndexKind,
}

impl IndexSpec {
    /// An index with the name that it gets if none is said: `<column>_<kind>`.
    pub fn new(column: &str, kind: IndexKind) -> Self {
        Self { name: format!("{column}_{}", kind.name()), column: column.to_string(), kind }
    }

    /// Whether an option says indexes of a column. `lsm.index.sync` does unless its value is that of a switch.
    pub fn is_option(name: &str, value: &str) -> bool {
        name.starts_with(PREFIX) && !(name == SYNC && switch(value).is_some())
    }

    /// The indexes that the option `lsm.index.<column>` says, at least one.
    ///
    /// # Errors
    /// `Invalid` if there is no such kind or parameter.
    pub fn parse(column: &str, kinds: &str) -> Result<Vec<Self>> {
        let read = |call| {
            let (kind, name) = IndexKind::read(call)?;
            let index = Self::new(column, kind);
            Ok(Self { name: name.unwrap_or_else(|| index.name.clone()), ..index })
        };
        let all = notation::parse(kinds).and_then(|calls| calls.into_iter().map(read).collect::<Result<Vec<_>>>());
        all.map_err(|e| Error::invalid(format!("option '{PREFIX}{column}': {}", e.message())))
    }

    /// The index `name` of the kind that `kind` says with parameters, and those of `params` besides, each a name and a
    /// value as it is written in options.
    ///
    /// # Errors
    /// `Invalid` if there is no such kind or parameter.
    pub fn declared(name: Option<&str>, column: &str, kind: &str, params: &[(String, String)]) -> Result<Self> {
        let mut calls = notation::parse(kind)?;
        let (Some(mut call), true) = (calls.pop(), calls.is_empty()) else {
            return Err(Error::invalid(format!("'{kind}' says several indexes: create one at a time")));
        };
        for (name, value) in params {
            call.params.push((Some(name.to_ascii_lowercase()), notation::parse_value(value)?));
        }
        if let Some(name) = name {
            call.params.push((Some("name".into()), Value::String(name.to_string())));
        }
        let (kind, name) = IndexKind::read(call)?;
        let index = Self::new(column, kind);
        Ok(Self { name: name.unwrap_or_else(|| index.name.clone()), ..index })
    }

    /// The indexes among stored options, in the order of their columns' names.
    ///
    /// # Errors
    /// `Invalid` if this version does not know a kind.
    pub fn of_options(options: &HashMap<String, String>) -> Result<Vec<Self>> {
        let own: BTreeMap<&String, &String> =
            options.iter().filter(|(name, kinds)| Self::is_option(name, kinds)).collect();
        let own = own.into_iter().map(|(name, kinds)| (&name[PREFIX.len()..], kinds));
        let specs = own.map(|(column, kinds)| Self::parse(column, kinds)).collect::<Result<Vec<_>>>()?;
        Ok(specs.into_iter().flatten().collect())
    }

    /// The options that say these indexes: a column each.
    pub fn options(specs: &[Self]) -> BTreeMap<String, String> {
        let mut options: BTreeMap<String, String> = BTreeMap::new();
        for spec in specs {
            let kinds = options.entry(format!("{PREFIX}{}", spec.column)).or_default();
            if !kinds.is_empty() {
                kinds.push_str(", ");
            }
            kinds.push_str(&spec.to_string());
        }
        options
    }

    /// Fails unless the table of `schema`, which has the indexes `there`, has those of `declared` among them, under
    /// whatever names.
    ///
    /// # Errors
    /// `Invalid`, naming the index.
    pub fn check_there(declared: &[Self], there: &[Self], schema: &TableSchema) -> Result<()> {
        for index in declared {
            let index = index.resolved(schema)?;
            if !there.iter().any(|there| there.column == index.column && index.kind.is_answered_by(&there.kind)) {
                let shown = |index: &Self| format!("{} {}", index.column, index.kind);
                let is: Vec<String> = there.iter().map(shown).collect();
                return Err(Error::invalid(format!(
                    "the table that is there has the indexes ({}), '{}' was declared: leave it out, or make it with \
                     CREATE INDEX",
                    is.join(", "),
                    shown(&index)
                )));
            }
        }
        Ok(())
    }

    /// Nothing, if a table with the indexes `others` can have this one too.
    ///
    /// # Errors
    /// `Invalid` if one of them has its name, or answers for the same column in the same way.
    pub fn check_beside(&self, others: &[Self]) -> Result<()> {
        if let Some(other) = others.iter().find(|other| other.name == self.name) {
            return Err(Error::invalid(format!(
                "there is an index '{}' already: {} of '{}'; choose another name",
                self.name, other.kind, other.column
            )));
        }
        match others.iter().find(|other| other.column == self.column && other.kind.excludes(&self.kind)) {
            None => Ok(()),
            Some(other) => Err(Error::invalid(format!(
                "the column '{}' has the index '{}', {}: drop it first to have {}",
                self.column, other.name, other.kind, self.kind
            ))),
        }
    }

    /// The index with the column's name as the table has it: options may have lost its capitals.
    ///
    /// # Errors
    /// `Invalid` if there is no such column, or its type cannot be indexed so.
    pub fn resolved(&self, schema: &TableSchema) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("the index of '{}': {why}", self.column));
        if self.name.starts_with(SYSTEM) {
            return Err(wrong(&format!("names that begin with {SYSTEM} are Lance's own, choose another one")));
        }
        let fields = schema.logical().fields();
        let mut alike = fields.iter().filter(|f| f.name().eq_ignore_ascii_case(&self.column));
        let found = fields.iter().find(|f| *f.name() == self.column).or_else(|| alike.next());
        let Some(field) = found else { return Err(wrong("there is no such column")) };
        self.kind.check_type(field.data_type()).map_err(|e| wrong(e.message()))?;
        let own_name = Self::new(&self.column, self.kind.clone()).name != self.name;
        let resolved = Self::new(field.name(), self.kind.clone());
        Ok(if own_name { Self { name: self.name.clone(), ..resolved } } else { resolved })
    }
}

/// As options spell it: with its name, unless that is the default one.
impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Self::new(&self.column, self.kind.clone()).name == self.name {
            return self.kind.fmt(f);
        }
        f.write_str(&kind::with_name(&self.kind, &self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use crate::distance::Metric;

    fn one(text: &str) -> Result<IndexSpec> {
        IndexSpec::parse("e", text).map(|mut specs| specs.remove(0))
    }

    #[test]
    fn index_options_are_read_as_they_are_written() {
        for written in [
            "fts",
            "fts(language='German', stem=false)",
            "fts(tokenizer='ngram', ngram_min=2, ngram_max=4, prefix_only=true)",
            "fts(tokenizer='ngram', ngram_min=5)",
            "fts(tokenizer='icu', stop_words=['a', 'it''s'], lower_case=false, max_token_length=none)",
            "fts(stop_words=false, ascii_folding=false, max_token_length=7)",
            "vector(l2)",
            "vector(cosine)",
            "hnsw(inner_product, m=12, ef_construction=90)",
            "ivf_pq(l2, num_partitions=4, num_sub_vectors=2)",
            "ivf_hnsw_sq(cosine, num_partitions=4, m=8, name='near')",
            "btree",
            "bitmap(name='b')",
            "fts(language='Dutch'), btree, vector(l2), vector(cosine, name='other')",
        ] {
            let specs = IndexSpec::parse("e", written).unwrap();
            let mut options: HashMap<String, String> = IndexSpec::options(&specs).into_iter().collect();
            assert_eq!(options["lsm.index.e"], written);
            options.insert("lsm.ack".into(), "memory".into());
            assert_eq!(IndexSpec::of_options(&options).unwrap(), specs);
        }
        for (written, canonical) in [
            (" Vector( L2 ) ", "vector(l2)"),
            ("FTS()", "fts"),
            ("vector(metric=dot)", "vector(inner_product)"),
            ("hnsw", "hnsw(l2)"),
            (
                r#"{"kind": "fts", "base_tokenizer": "whitespace", "remove_stop_words": false}"#,
                "fts(tokenizer='whitespace', stop_words=false)",
            ),
            ("fts(tokenizer='ngram', ngram_max=2)", "fts(tokenizer='ngram', ngram_min=2, ngram_max=2)"),
            ("fts(custom_stop_words=['x'], language=english)", "fts(stop_words=['x'])"),
        ] {
            assert_eq!(one(written).unwrap().to_string(), canonical);
        }
        assert_eq!(one("vector(l2)").unwrap().kind, IndexKind::vector(Metric::L2));
        assert_eq!(one("fts").unwrap().name, "e_fts");
        let sync = |value: &str| IndexSpec::of_options(&HashMap::from([("lsm.index.sync".into(), value.into())]));
        for value in ["false", "true", "on", "OFF"] {
            assert_eq!(sync(value).unwrap(), [], "{value}");
        }
        assert_eq!(sync("fts").unwrap()[0].column, "sync");
    }

    #[test]
    fn what_an_index_cannot_be_told_is_an_error_that_names_what_it_can() {
        for (bad, told) in [
            ("", "kind of index"),
            ("vector", "vector(cosine)"),
            ("vector()", "vector(l2)"),
            ("vector(l3)", "known are l2, cosine"),
            ("fst", "known are fts, btree"),
            ("fts(lang='German')", "known are tokenizer, language"),
            ("fts(language='Klingon')", "Arabic, Danish"),
            ("fts(tokenizer='word')", "simple, whitespace"),
            ("fts(stem=perhaps)", "true or false"),
            ("fts(stop_words='the')", "list of words"),
            ("fts(max_token_length=0)", "above 0"),
            ("fts(ngram_min=2)", "tokenizer = 'ngram'"),
            ("fts(tokenizer=ngram, ngram_min=4, ngram_max=2)", "more than"),
            ("fts(stem=true, stem=true)", "twice"),
            ("fts(german)", "no name"),
            ("btree(x=1)", "known are name"),
            ("vector(l2, m=3)", "known are metric"),
            ("ivf_pq(l2, m=3)", "num_partitions"),
            ("hnsw(l2, m=-3)", "above 0"),
            ("btree(name='')", "name"),
        ] {
            let error = one(bad).unwrap_err();
            assert!(error.message().contains("lsm.index.e") && error.message().contains(told), "{bad}: {error}");
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
        let resolved = |column: &str, kind: &str| IndexSpec::parse(column, kind).unwrap()[0].resolved(&schema);
        assert!(resolved("id", "fts").unwrap_err().message().contains("VARCHAR"));
        let near = resolved("near", "vector(cosine)").unwrap();
        assert_eq!((near.column.as_str(), near.name.as_str()), ("Near", "Near_vector"));
        assert_eq!(resolved("near", "vector(cosine, name='n')").unwrap().name, "n");
        for column in ["id", "wide", "nowhere"] {
            assert!(resolved(column, "vector(cosine)").unwrap_err().message().contains(column));
        }
        assert!(resolved("wide", "bitmap").unwrap_err().message().contains("numbers"));
        assert!(resolved("id", "btree").is_ok());
        assert!(resolved("id", "btree(name='__x')").unwrap_err().message().contains("Lance"));
        assert!(resolved("near", "ivf_pq(num_sub_vectors=3)").unwrap_err().message().contains("divide"));
        let together = |kinds| {
            let specs = IndexSpec::parse("near", kinds).unwrap();
            let resolved: Vec<IndexSpec> = specs.iter().map(|spec| spec.resolved(&schema).unwrap()).collect();
            resolved[1].check_beside(&resolved[..1])
        };
        assert!(together("vector(l2), vector(cosine, name='n')").is_ok());
        for bad in ["vector(l2), vector(cosine)", "vector(l2), hnsw(l2)"] {
            assert!(together(bad).is_err(), "{bad}");
        }
    }
}
