//! The tree of a query over leaves of any kind.

use super::clause::TextClause;
use super::factor::Factor;
use super::parser::Parser;
use crate::error::Result;

/// A query over leaves `C`: [`TextQuery`] as typed, [`AnalyzedQuery`](super::AnalyzedQuery) in the words of an index.
///
/// A part that says nothing ([`Query::Empty`], AND and OR of nothing) is left out of what surrounds it, so that a stop
/// word cannot make an AND fail; alone it matches nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Query<C> {
    /// Says nothing.
    Empty,
    /// A leaf.
    Clause(C),
    /// All of these.
    And(Vec<Self>),
    /// At least one of these.
    Or(Vec<Self>),
    /// At least one of these; the score is the greatest of theirs. It has no syntax: it is what becomes of a leaf that is
    /// looked for in several columns.
    Best(Vec<Self>),
    /// What does not match this. Has no score.
    Not(Box<Self>),
    /// What matches `must`; what also matches `should` scores higher: `+must should`.
    Prefer {
        /// What has to match.
        must: Box<Self>,
        /// What adds to the score.
        should: Box<Self>,
    },
    /// The same documents with a score that counts `factor` times: `query^factor`.
    Boost {
        /// What has to match.
        query: Box<Self>,
        /// What the score is multiplied by.
        factor: Factor,
    },
}

/// A query as it was typed. `Display` prints it so that [`parse`](Self::parse) gives the same tree again.
pub type TextQuery = Query<TextClause>;

impl TextQuery {
    /// Reads a query in the syntax that [`query_syntax`](super) describes. Blank text is the empty query.
    ///
    /// # Errors
    /// `Invalid` if the text is no query or goes beyond [`MAX_CLAUSES`](super::MAX_CLAUSES) or
    /// [`MAX_DEPTH`](super::MAX_DEPTH); its context has the `offset` in characters, counted from 0.
    pub fn parse(text: &str) -> Result<Self> {
        Parser::new(text).parse()
    }

    /// The words of `text`, joined by OR. Nothing in it is syntax and no limit applies: for input that must not be
    /// interpreted.
    pub fn terms_of(text: &str) -> Self {
        let term = |word: &str| Self::Clause(TextClause::Term { field: None, text: word.to_string() });
        Self::any(text.split_whitespace().map(term).collect())
    }
}

impl<C> Query<C> {
    /// All of `parts`; a single one is itself.
    pub(super) fn all(parts: Vec<Self>) -> Self {
        Self::join(parts, Self::And)
    }

    /// At least one of `parts`; a single one is itself.
    pub(super) fn any(parts: Vec<Self>) -> Self {
        Self::join(parts, Self::Or)
    }

    /// The best of `parts`; a single one is itself.
    pub fn best(parts: Vec<Self>) -> Self {
        Self::join(parts, Self::Best)
    }

    fn join(parts: Vec<Self>, node: fn(Vec<Self>) -> Self) -> Self {
        match <[Self; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) if parts.is_empty() => Self::Empty,
            Err(parts) => node(parts),
        }
    }

    /// What does not match `query`.
    pub(super) fn negated(query: Self) -> Self {
        Self::Not(Box::new(query))
    }

    /// Whether the query matches a document, given which leaves do. Leaves that cannot change the answer are not asked.
    pub fn matches(&self, mut leaf: impl FnMut(&C) -> bool) -> bool {
        self.says(&mut leaf).unwrap_or(false)
    }

    /// Whether all documents that the query can match have something in them that a leaf matches, so that they can be
    /// found through their words. Not so `NOT a` and `a OR NOT b`, which also match documents with neither word, and the
    /// empty query, which matches none.
    pub fn has_positive(&self) -> bool {
        self.says(&mut |_| false) == Some(false)
    }

    /// What the query says of a document, if anything.
    fn says(&self, leaf: &mut impl FnMut(&C) -> bool) -> Option<bool> {
        match self {
            Self::Empty => None,
            Self::Clause(clause) => Some(leaf(clause)),
            Self::And(parts) => Self::unless(parts, false, leaf),
            Self::Or(parts) | Self::Best(parts) => Self::unless(parts, true, leaf),
            Self::Not(query) => query.says(leaf).map(|says| !says),
            Self::Prefer { must, should } => must.says(leaf).or_else(|| should.says(leaf)),
            Self::Boost { query, .. } => query.says(leaf),
        }
    }

    /// The answer `decisive` if one of `parts` gives it, else the other one if any says something.
    fn unless(parts: &[Self], decisive: bool, leaf: &mut impl FnMut(&C) -> bool) -> Option<bool> {
        let mut said = None;
        for part in parts {
            said = part.says(leaf).or(said);
            if said == Some(decisive) {
                break;
            }
        }
        said
    }

    /// The leaves from left to right.
    pub fn clauses(&self) -> Vec<&C> {
        let (mut found, mut open) = (Vec::new(), vec![self]);
        while let Some(query) = open.pop() {
            match query {
                Self::Empty => {}
                Self::Clause(clause) => found.push(clause),
                _ => open.extend(query.parts().into_iter().rev()),
            }
        }
        found
    }

    /// The nodes on the longest way from the root to a leaf.
    pub fn height(&self) -> usize {
        1 + self.parts().into_iter().map(Self::height).max().unwrap_or(0)
    }

    /// The nodes right below this one.
    fn parts(&self) -> Vec<&Self> {
        match self {
            Self::Empty | Self::Clause(_) => Vec::new(),
            Self::And(parts) | Self::Or(parts) | Self::Best(parts) => parts.iter().collect(),
            Self::Not(query) | Self::Boost { query, .. } => vec![query],
            Self::Prefer { must, should } => vec![must, should],
        }
    }

    /// The same tree with a query in place of each leaf: gives leaves without a field their fields, or other leaves.
    pub fn map_clauses<D>(&self, mut leaf: impl FnMut(&C) -> Query<D>) -> Query<D> {
        self.mapped(&mut leaf)
    }

    fn mapped<D>(&self, leaf: &mut impl FnMut(&C) -> Query<D>) -> Query<D> {
        match self {
            Self::Empty => Query::Empty,
            Self::Clause(clause) => leaf(clause),
            Self::And(parts) => Query::And(parts.iter().map(|part| part.mapped(leaf)).collect()),
            Self::Or(parts) => Query::Or(parts.iter().map(|part| part.mapped(leaf)).collect()),
            Self::Best(parts) => Query::Best(parts.iter().map(|part| part.mapped(leaf)).collect()),
            Self::Not(query) => Query::negated(query.mapped(leaf)),
            Self::Prefer { must, should } => {
                Query::Prefer { must: Box::new(must.mapped(leaf)), should: Box::new(should.mapped(leaf)) }
            }
            Self::Boost { query, factor } => Query::Boost { query: Box::new(query.mapped(leaf)), factor: *factor },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_interprets_nothing() {
        let text = " title:a -b (c AND\t\"d*\" ";
        let terms = TextQuery::terms_of(text);
        let words: Vec<_> = terms.clauses().into_iter().map(|c| (c.field(), c.text())).collect();
        assert_eq!(words, ["title:a", "-b", "(c", "AND", "\"d*\""].map(|word| (None, word)));
        assert!(matches!(terms, Query::Or(_)));
        assert_eq!(TextQuery::parse(&terms.to_string()).unwrap(), terms);
        assert_eq!(TextQuery::terms_of(" \n"), Query::Empty);
        assert_eq!(TextQuery::terms_of("a").height(), 1);
        assert_eq!(TextQuery::terms_of(&"a ".repeat(5000)).clauses().len(), 5000);
    }

    #[test]
    fn positive_is_what_words_can_find() {
        for (text, expected) in [
            ("a", true),
            ("a -b", true),
            ("+a (NOT b)", true),
            ("a AND (b OR NOT c)", true),
            ("NOT (NOT a)", true),
            ("a AND NOT ()", true),
            ("", false),
            ("()", false),
            ("NOT a", false),
            ("-a -b", false),
            ("a OR NOT b", false),
            ("NOT (a AND b)", false),
            ("+(NOT a) b", false),
        ] {
            assert_eq!(TextQuery::parse(text).unwrap().has_positive(), expected, "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        for (text, expected) in [
            ("", false),
            ("()", false),
            ("NOT ()", false),
            ("()^2", false),
            ("yes AND ()", true),
            ("no OR ()", false),
            ("+() yes", true),
            ("+() no", false),
            ("+yes ()", true),
            ("yes AND NOT ()", true),
        ] {
            let query = TextQuery::parse(text).unwrap();
            assert_eq!(query.matches(|clause| clause.text() == "yes"), expected, "{text}");
        }
    }

    #[test]
    fn a_leaf_can_become_several() {
        let query = TextQuery::parse("a AND title:b^2").unwrap();
        let both = query.map_clauses(|clause| match clause {
            TextClause::Term { field: None, text } => TextQuery::any(
                ["title", "body"]
                    .map(|field| TextClause::Term { field: Some(field.to_string()), text: text.clone() })
                    .map(Query::Clause)
                    .into(),
            ),
            named => Query::Clause(named.clone()),
        });
        assert_eq!(both.to_string(), "(title:a OR body:a) AND title:b^2");
    }
}
