//! What to search for, with the statistics already in it.

use std::fmt;

/// A term of one of the searched fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// Which of the search's fields.
    pub field: usize,
    /// The term as the index knows it.
    pub text: String,
    /// Its inverse document frequency times all boosts; finite and not negative.
    pub weight: f32,
}

impl Term {
    /// A term of the first field.
    pub fn new(text: impl Into<String>, weight: f32) -> Self {
        Self { field: 0, text: text.into(), weight }
    }
}

/// One place of a phrase.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// The place within the phrase. No two slots of a phrase have the same.
    pub offset: u32,
    /// What may stand there, all of one field. Nothing matches if there is none.
    pub terms: Vec<Term>,
}

/// A tree of conditions that score.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Rows that hold the term.
    Term(Term),
    /// Rows that hold a term of each slot, each at its place behind the one before or up to `slop` behind that. The
    /// score is that of all their terms, wherever these stand.
    Phrase {
        /// The places; none match nothing.
        slots: Vec<Slot>,
        /// How far each slot may be behind its place.
        slop: u32,
    },
    /// Rows that match any; the score is the sum of those that match.
    Any(Vec<Query>),
    /// Rows that match any; the score is the best of those that match.
    Best(Vec<Query>),
    /// Rows that match all of `must` and none of `must_not`, and any of `should` if `must` is empty. The score is the
    /// sum of those in `must` and `should` that match.
    Bool {
        /// What must match.
        must: Vec<Query>,
        /// What may match.
        should: Vec<Query>,
        /// What must not match.
        must_not: Vec<Query>,
    },
    /// Rows that match `positive`; for those that match `negative` as well, `factor` times its score is subtracted.
    Boost {
        /// What must match.
        positive: Box<Query>,
        /// What is not wanted.
        negative: Box<Query>,
        /// How little; finite and not negative.
        factor: f32,
    },
    /// The same rows with their scores multiplied.
    Scaled {
        /// What must match.
        query: Box<Query>,
        /// Finite and not negative.
        factor: f32,
    },
}

/// Why a query cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryError {
    /// A weight or factor is negative, infinite or not a number.
    Weight,
    /// A term is of a field that the search does not have.
    Field(usize),
    /// A phrase in a field whose index keeps no positions.
    Positions(usize),
    /// The tree is deeper than [`Query::MAX_DEPTH`].
    Depth,
    /// Two slots of a phrase have the same place, or are of different fields.
    Phrase,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight => f.write_str("weights and factors are finite and not negative"),
            Self::Field(field) => write!(f, "there is no field {field}"),
            Self::Positions(field) => write!(f, "the index of field {field} keeps no positions for phrases"),
            Self::Depth => write!(f, "the query is nested deeper than {}", Query::MAX_DEPTH),
            Self::Phrase => f.write_str("the slots of a phrase have different places in one field"),
        }
    }
}

impl std::error::Error for QueryError {}

impl Query {
    /// How deep a tree may be: as deep as a query that was typed, and what its leaves become in addition.
    pub const MAX_DEPTH: usize = 70;

    /// Calls `f` with every term, in order.
    pub fn for_each_term(&self, f: &mut impl FnMut(&Term)) {
        match self {
            Self::Term(term) => f(term),
            Self::Phrase { slots, .. } => slots.iter().flat_map(|slot| &slot.terms).for_each(f),
            Self::Any(children) | Self::Best(children) => children.iter().for_each(|child| child.for_each_term(f)),
            Self::Bool { must, should, must_not } => {
                must.iter().chain(should).chain(must_not).for_each(|child| child.for_each_term(f));
            }
            Self::Boost { positive, negative, .. } => {
                positive.for_each_term(f);
                negative.for_each_term(f);
            }
            Self::Scaled { query, .. } => query.for_each_term(f),
        }
    }

    /// Fails unless the query can be answered over fields that keep positions or not.
    pub(crate) fn check(&self, fields: &[bool], depth: usize) -> Result<(), QueryError> {
        let each = |children: &[Self]| children.iter().try_for_each(|child| child.check(fields, depth + 1));
        match self {
            _ if depth == Self::MAX_DEPTH => Err(QueryError::Depth),
            Self::Term(term) => term.check(fields).map(drop),
            Self::Phrase { slots, .. } => check_phrase(slots, fields),
            Self::Any(children) | Self::Best(children) => each(children),
            Self::Bool { must, should, must_not } => [must, should, must_not].into_iter().try_for_each(|c| each(c)),
            Self::Boost { positive, negative, factor } => {
                check_weight(*factor)?;
                positive.check(fields, depth + 1)?;
                negative.check(fields, depth + 1)
            }
            Self::Scaled { query, factor } => {
                check_weight(*factor)?;
                query.check(fields, depth + 1)
            }
        }
    }
}

impl Term {
    /// Whether the field keeps positions.
    fn check(&self, fields: &[bool]) -> Result<bool, QueryError> {
        check_weight(self.weight)?;
        fields.get(self.field).copied().ok_or(QueryError::Field(self.field))
    }
}

fn check_weight(weight: f32) -> Result<(), QueryError> {
    if weight.is_finite() && weight >= 0.0 { Ok(()) } else { Err(QueryError::Weight) }
}

fn check_phrase(slots: &[Slot], fields: &[bool]) -> Result<(), QueryError> {
    let mut terms = slots.iter().flat_map(|slot| &slot.terms);
    for term in terms.clone() {
        if !term.check(fields)? {
            return Err(QueryError::Positions(term.field));
        }
    }
    if let Some(first) = terms.next()
        && terms.any(|term| term.field != first.field)
    {
        return Err(QueryError::Phrase);
    }
    let mut offsets: Vec<u32> = slots.iter().map(|slot| slot.offset).collect();
    offsets.sort_unstable();
    if offsets.windows(2).any(|pair| pair[0] == pair[1]) { Err(QueryError::Phrase) } else { Ok(()) }
}
