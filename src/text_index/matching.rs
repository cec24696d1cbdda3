//! Which rows match a query, without scores, as bits.

use super::block::END;
use super::cursor::{FieldView, TermCursor};
use super::phrase::PhraseCursor;
use super::query::{Query, Term};

/// The rows that match a checked query, 64 to a word.
pub(crate) fn matching(query: &Query, fields: &[FieldView<'_>], words: usize) -> Vec<u64> {
    let any = |children: &[Query]| {
        let mut all = vec![0; words];
        for child in children {
            match child {
                // A prefix may stand for many words, of few rows each.
                Query::Term(term) => set_rows(&mut all, term, fields),
                other => or(&mut all, &matching(other, fields, words)),
            }
        }
        all
    };
    match query {
        Query::Term(term) => {
            let mut all = vec![0; words];
            set_rows(&mut all, term, fields);
            all
        }
        Query::Phrase { slots, slop } => {
            let mut all = vec![0; words];
            let Some(mut phrase) = PhraseCursor::new(fields, slots, *slop, 0.0) else { return all };
            let mut row = phrase.row();
            while row != END {
                if phrase.eval(f32::NEG_INFINITY).is_some() {
                    set(&mut all, row);
                }
                row = phrase.seek(row + 1);
            }
            all
        }
        Query::Any(children) | Query::Best(children) => any(children),
        Query::Bool { must, should, must_not } => {
            let mut all = match must.split_first() {
                None => any(should),
                Some((first, rest)) => {
                    let mut all = matching(first, fields, words);
                    for child in rest {
                        let child = matching(child, fields, words);
                        all.iter_mut().zip(child).for_each(|(word, other)| *word &= other);
                    }
                    all
                }
            };
            for child in must_not {
                let child = matching(child, fields, words);
                all.iter_mut().zip(child).for_each(|(word, other)| *word &= !other);
            }
            all
        }
        Query::Boost { positive, .. } => matching(positive, fields, words),
        Query::Scaled { query, .. } => matching(query, fields, words),
    }
}

fn or(all: &mut [u64], more: &[u64]) {
    all.iter_mut().zip(more).for_each(|(word, other)| *word |= other);
}

fn set_rows(all: &mut [u64], term: &Term, fields: &[FieldView<'_>]) {
    let mut cursor = TermCursor::new(&fields[term.field], &term.text, 0.0, false);
    cursor.for_each_block(|rows| rows.iter().for_each(|&row| set(all, row)));
}

fn set(all: &mut [u64], row: u32) {
    if let Some(word) = all.get_mut(row as usize / 64) {
        *word |= 1 << (row % 64);
    }
}
