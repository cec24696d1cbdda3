//! One call that teaches a session all of this crate: tables, rules, functions, options.
//!
//! It changes what is there, it adds nothing twice: calling it again is no error.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::{TableFunction, TableFunctionImpl};
use datafusion::config::TableOptions;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::engine::LsmEngine;
use super::factory::{FILE_TYPE, LsmTableFactory};
use super::functions::{LsmFunction, LsmTableFunction};
use super::options::{SessionOptions, TableOptionNames};
use super::rule::{LsmStatementRule, RULE};

/// Registers LSM tables: `STORED AS LSM`, the rule that statements need, the `lsm_…` table functions and the `lsm.*`
/// options.
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
        for (name, function) in functions_of() {
            functions.insert(name.into(), Arc::new(TableFunction::new(name.into(), function)));
        }
        let in_analyzer = self.analyzer().iter().flat_map(|a| &a.rules).any(|rule| rule.name() == RULE);
        let added = self.analyzer_rules().iter().flatten().any(|rule| rule.name() == RULE);
        if in_analyzer || added { self } else { self.with_analyzer_rule(Arc::new(LsmStatementRule)) }
    }
}

fn register(state: &mut SessionState, engine: &Arc<LsmEngine>) {
    let options = state.config_mut().options_mut();
    if options.extensions.get::<SessionOptions>().is_none() {
        options.extensions.insert(SessionOptions::default());
    }
    state.register_table_options_extension(TableOptionNames);
    state.table_factories_mut().insert(FILE_TYPE.into(), factory(engine));
    for (name, function) in functions_of() {
        state.register_udtf(name, function);
    }
    if !state.analyzer().rules.iter().any(|rule| rule.name() == RULE) {
        state.add_analyzer_rule(Arc::new(LsmStatementRule));
    }
}

fn factory(engine: &Arc<LsmEngine>) -> Arc<LsmTableFactory> {
    Arc::new(LsmTableFactory::new(Arc::clone(engine)))
}

fn functions_of() -> impl Iterator<Item = (&'static str, Arc<dyn TableFunctionImpl>)> {
    LsmFunction::ALL.iter().map(|function| {
        let implementation: Arc<dyn TableFunctionImpl> = Arc::new(LsmTableFunction::new(*function));
        (function.name(), implementation)
    })
}
