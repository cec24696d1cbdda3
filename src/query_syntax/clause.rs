//! The leaves of a text query: what is looked for, as it was typed.

/// How far a word may be from the one that was typed, in insertions, deletions and replacements of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Distance {
    /// One edit.
    One,
    /// Two edits.
    Two,
}

impl Distance {
    /// The number of edits.
    pub fn edits(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// A leaf of a [`TextQuery`](super::TextQuery). Without a field it asks whatever fields the caller takes by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextClause {
    /// A word, or several to a tokenizer: `rust`, `user@example.com`.
    Term {
        /// Where to look.
        field: Option<String>,
        /// What to look for.
        text: String,
    },
    /// The words that begin so: `rus*`.
    Prefix {
        /// Where to look.
        field: Option<String>,
        /// How the words begin.
        text: String,
    },
    /// The words that are spelled nearly so: `rust~`, `rust~2`.
    Fuzzy {
        /// Where to look.
        field: Option<String>,
        /// What to look for.
        text: String,
        /// How far a word may be from it.
        distance: Distance,
    },
    /// Words in this order, side by side: `"memory safe"`, `"memory safe"~2`.
    Phrase {
        /// Where to look.
        field: Option<String>,
        /// What to look for.
        text: String,
        /// How many places each word may be behind where it stands in the phrase, after the word before it.
        slop: u32,
    },
}

impl TextClause {
    /// Where to look, if the query says.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Term { field, .. }
            | Self::Prefix { field, .. }
            | Self::Fuzzy { field, .. }
            | Self::Phrase { field, .. } => field.as_deref(),
        }
    }

    /// The same clause in another field, or in none.
    #[must_use]
    pub fn in_field(&self, name: Option<&str>) -> Self {
        let mut clause = self.clone();
        match &mut clause {
            Self::Term { field, .. }
            | Self::Prefix { field, .. }
            | Self::Fuzzy { field, .. }
            | Self::Phrase { field, .. } => *field = name.map(String::from),
        }
        clause
    }

    /// What to look for, as typed and without escapes.
    pub fn text(&self) -> &str {
        match self {
            Self::Term { text, .. }
            | Self::Prefix { text, .. }
            | Self::Fuzzy { text, .. }
            | Self::Phrase { text, .. } => text,
        }
    }
}
