//! One call that teaches a session all of this crate: tables, rules, functions, options.
//!
//! It changes what is there, it adds nothing twice: calling it again is no error.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::{TableFunction, TableFunctionImpl};
use datafusion::config::TableOptions;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::distance;
use super::engine::LsmEngine;
use super::factory::{FILE_TYPE, LsmTableFactory};
use super::functions::{LsmFunction, LsmTableFunction};
use super::options::{SessionOptions, TableOptionNames};
use super::rule::{LsmStatementRule, RULE};
use super::score;
use super::search::{self, LsmSearchRule};
use super::search_call::{NamedArguments, SearchFunction, SearchTableFunction};
use super::snippet;
use super::source;
use super::text;

/// Registers LSM tables: `STORED AS LSM`, the rules that statements and searches need, the `lsm.*` options, the `lsm_…`
/// table functions, and what searches: `vector_search`, `text_search`, `hybrid_search`, `text_match`, `score`,
/// `snippet`, `lsm_source`, and distances, which take the places of DataFusion's of the same names and answer the same.
///
/// ```
/// use datafusion::prelude::SessionContext;
/// use datafusion_lsm::sql::LsmSessionExt;
///
/// let context = SessionContext::new().with_lsm();
/// # let _ = context;
/// ```
pub trait LsmSessionExt: Sized {
    /// Registers everything; tables are shared with every session of the process that was made so.
    #[must_use]
    fn with_lsm(self) -> Self {
        self.with_lsm_engine(LsmEngine::global())
    }

    /// Registers everything; tables are shared with the sessions of the same engine.
    #[must_use]
    fn with_lsm_engine(self, engine: Arc<LsmEngine>) -> Self;
}

impl LsmSessionExt for SessionContext {
    fn with_lsm_engine(self, engine: Arc<LsmEngine>) -> Self {
        {
            let state = self.state_ref();
            register(&mut state.write(), &engine);
        }
        let searches = self.state_ref().read().optimizers().iter().any(|rule| rule.name() == search::RULE);
        if !searches {
            self.add_optimizer_rule(Arc::new(LsmSearchRule));
        }
        self
    }
}

impl LsmSessionExt for SessionStateBuilder {
    fn with_lsm_engine(mut self, engine: Arc<LsmEngine>) -> Self {
        let config = self.config().get_or_insert_with(SessionConfig::new);
        let options = config.options_mut();
        if options.extensions.get::<SessionOptions>().is_none() {
            options.extensions.insert(SessionOptions::default());
        }
        let defaults = TableOptions::default_from_session_config(config.options());
        self.table_options().get_or_insert(defaults).extensions.insert(TableOptionNames);
        self.table_factories().get_or_insert_with(HashMap::new).insert(FILE_TYPE.into(), factory(&engine));
        let functions = self.table_functions().get_or_insert_with(HashMap::new);
        let names_arguments = names_arguments(functions);
        for (name, function) in functions_of() {
            functions.insert(name.into(), Arc::new(TableFunction::new(name.into(), function)));
        }
        if !names_arguments {
            self.relation_planners().get_or_insert_default().insert(0, Arc::new(NamedArguments));
        }
        let functions = self.scalar_functions().get_or_insert_with(Vec::new);
        let known = |name: &str| functions.iter().rev().find(|f| f.name() == name).cloned();
        let distances = distance::functions(known);
        functions.extend(distances);
        functions.extend([text::function(), score::function(), snippet::function(), source::function()]);
        let in_analyzer = self.analyzer().iter().flat_map(|a| &a.rules).any(|rule| rule.name() == RULE);
        let added = self.analyzer_rules().iter().flatten().any(|rule| rule.name() == RULE);
        let in_optimizer = self.optimizer().iter().flat_map(|o| &o.rules).any(|rule| rule.name() == search::RULE);
        let searches = self.optimizer_rules().iter().flatten().any(|rule| rule.name() == search::RULE);
        let builder = if in_analyzer || added { self } else { self.with_analyzer_rule(Arc::new(LsmStatementRule)) };
        if in_optimizer || searches { builder } else { builder.with_optimizer_rule(Arc::new(LsmSearchRule)) }
    }
}

fn register(state: &mut SessionState, engine: &Arc<LsmEngine>) {
    let options = state.config_mut().options_mut();
    if options.extensions.get::<SessionOptions>().is_none() {
        options.extensions.insert(SessionOptions::default());
    }
    state.register_table_options_extension(TableOptionNames);
    state.table_factories_mut().insert(FILE_TYPE.into(), factory(engine));
    if !names_arguments(state.table_functions()) {
        let registered = state.register_relation_planner(Arc::new(NamedArguments));
        registered.expect("a session takes every planner of relations");
    }
    for (name, function) in functions_of() {
        state.register_udtf(name, function);
    }
    let distances = distance::functions(|name| state.scalar_functions().get(name).cloned());
    let of_rows = [text::function(), score::function(), snippet::function(), source::function()];
    for function in distances.into_iter().chain(of_rows) {
        state.register_udf(function).expect("a session takes every scalar function");
    }
    if !state.analyzer().rules.iter().any(|rule| rule.name() == RULE) {
        state.add_analyzer_rule(Arc::new(LsmStatementRule));
    }
}

fn factory(engine: &Arc<LsmEngine>) -> Arc<LsmTableFactory> {
    Arc::new(LsmTableFactory::new(Arc::clone(engine)))
}

fn functions_of() -> impl Iterator<Item = (&'static str, Arc<dyn TableFunctionImpl>)> {
    let of_tables = LsmFunction::ALL.iter().map(|function| {
        let implementation: Arc<dyn TableFunctionImpl> = Arc::new(LsmTableFunction::new(*function));
        (function.name(), implementation)
    });
    let searches = SearchFunction::ALL.iter().map(|function| {
        let implementation: Arc<dyn TableFunctionImpl> = Arc::new(SearchTableFunction::new(*function));
        (function.name(), implementation)
    });
    of_tables.chain(searches)
}

/// Whether the session that has `functions` knows ours already, and what plans their named arguments with them.
fn names_arguments(functions: &HashMap<String, Arc<TableFunction>>) -> bool {
    let known = functions.get(SearchFunction::Vector.name());
    known.is_some_and(|function| (function.function().as_ref() as &dyn Any).is::<SearchTableFunction>())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, run};
    use super::*;

    #[tokio::test]
    async fn registering_twice_changes_nothing() {
        let engine = LsmEngine::new();
        let session = SessionContext::new().with_lsm_engine(Arc::clone(&engine));
        run(&session, "SET lsm.ack = 'memory'").await.unwrap();
        let rules = session.state().analyzer().rules.len();
        let session = session.with_lsm_engine(engine);
        assert_eq!(session.state().analyzer().rules.len(), rules);
        let options = session.copied_config().options().extensions.get::<SessionOptions>().unwrap().clone();
        assert!(options.ack().is_some());
    }

    #[tokio::test]
    async fn a_session_built_from_a_builder_knows_all() {
        let fixture = Fixture::new();
        let builder = SessionStateBuilder::new().with_default_features().with_lsm_engine(Arc::clone(&fixture.engine));
        let state = builder.with_lsm_engine(Arc::clone(&fixture.engine)).build();
        let rules = state.analyzer().rules.iter().filter(|rule| rule.name() == RULE).count();
        assert_eq!(rules, 1);
        let session = SessionContext::new_with_state(state);
        let table = "CREATE EXTERNAL TABLE t (id INT PRIMARY KEY) STORED AS lsm LOCATION";
        run(&session, &format!("{table} '{}'", fixture.path("t"))).await.unwrap();
        assert_eq!(run(&session, "INSERT INTO t VALUES (1), (2)").await.unwrap(), ["2"]);
        assert_eq!(run(&session, "DELETE FROM t WHERE id = 1").await.unwrap(), ["1"]);
        assert_eq!(run(&session, "SELECT generations FROM lsm_flush('t')").await.unwrap(), ["1"]);
    }

    #[test]
    fn tools_that_check_table_options_know_ours() {
        let session = SessionContext::new().with_lsm_engine(LsmEngine::new());
        let mut options = session.state().default_table_options();
        let given = |key: &str, value: &str| [(key.to_string(), value.to_string())].into();
        options.alter_with_string_hash_map(&given("lsm.shards", "3")).unwrap();
        assert!(options.alter_with_string_hash_map(&given("lsm.shards", "many")).is_err());
        assert!(options.alter_with_string_hash_map(&given("lsm.nope", "3")).is_err());
    }
}
