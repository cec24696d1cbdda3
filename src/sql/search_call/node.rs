//! A call as a node of a plan, until it is analyzed.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::{DFSchema, DFSchemaRef, Result, TableReference};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::parameters::{Parameter, SearchFunction};
use crate::error::Error;

/// A search of the rows of one plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SearchCall {
    pub(super) function: SearchFunction,
    /// In the order of the function's parameters, of which the last may be missing.
    arguments: Vec<Expr>,
    /// The rows that are searched: those of a table, without those that filters leave out.
    pub(super) input: LogicalPlan,
    schema: DFSchemaRef,
}

impl SearchCall {
    /// # Errors
    /// `Invalid` if the table has a column of the name of one that the function adds.
    pub(super) fn try_new(function: SearchFunction, arguments: Vec<Expr>, input: LogicalPlan) -> Result<Self> {
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> =
            input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        if function == SearchFunction::Hybrid {
            // Joined, any of them may be missing on one side.
            for (_, field) in &mut fields {
                *field = Arc::new(Field::new(field.name(), field.data_type().clone(), true));
            }
        }
        for added in function.columns() {
            if fields.iter().any(|(_, field)| field.name() == added.name()) {
                let (function, column) = (function.name(), added.name());
                return Err(Error::invalid(format!(
                    "{function} returns '{column}', and the table has a column of that name: search a view that names \
                     it otherwise"
                ))
                .into());
            }
            fields.push((None, Arc::new(added)));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { function, arguments, input, schema })
    }

    /// The call that `plan` is, if it is one.
    pub(super) fn of(plan: &LogicalPlan) -> Option<&Self> {
        let LogicalPlan::Extension(Extension { node }) = plan else { return None };
        node.as_any().downcast_ref()
    }

    pub(super) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The same search among other rows, which have the same columns.
    pub(super) fn with_input(&self, input: LogicalPlan) -> Self {
        Self { input, ..self.clone() }
    }

    /// Its arguments with what they are for.
    pub(super) fn arguments(&self) -> impl Iterator<Item = (&'static Parameter, &Expr)> {
        self.function.parameters().iter().zip(&self.arguments)
    }
}

/// Calls have no order but that of equals.
impl PartialOrd for SearchCall {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for SearchCall {
    fn name(&self) -> &str {
        "SearchCall"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.arguments.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SearchCall: {}", self.function.name())?;
        self.arguments().try_for_each(|(parameter, argument)| write!(f, " {}={argument}", parameter.name))
    }

    fn with_exprs_and_inputs(&self, arguments: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) if inputs.is_empty() && arguments.len() == self.arguments.len() => {
                Ok(Self { arguments, input, ..self.clone() })
            }
            _ => Err(Error::internal("a search has one input and keeps the number of its arguments").into()),
        }
    }
}
