//! Texts that sources found for a query, and their scores: who asks above them need not look at the texts again.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use parking_lot::Mutex;

use crate::text_search::text_at;

/// Bytes of texts that are kept for one query; what is found beyond is scored where it is asked for.
const KEPT: usize = 1 << 20;

/// What texts of one query score.
#[derive(Debug, Default)]
pub(super) struct FoundTexts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    scores: HashMap<Box<[u8]>, f32>,
    bytes: usize,
}

impl FoundTexts {
    /// Keeps what rows score whose texts these are, column by column.
    pub(super) fn keep(&self, texts: &[ArrayRef], scores: &[f32]) {
        let mut kept = self.0.lock();
        for (row, score) in scores.iter().enumerate() {
            let Some(key) = key(texts, row) else { return };
            if kept.bytes + key.len() > KEPT {
                return;
            }
            kept.bytes += key.len();
            kept.scores.insert(key.into(), *score);
        }
    }

    /// What rows score whose texts these are; `None` if some of them are not kept.
    pub(super) fn scores(&self, texts: &[ArrayRef]) -> Option<Vec<f32>> {
        let kept = self.0.lock();
        let rows = texts.first()?.len();
        if kept.scores.is_empty() {
            return None;
        }
        (0..rows).map(|row| kept.scores.get(key(texts, row)?.as_slice()).copied()).collect()
    }
}

/// The texts of a row, each behind its length; NULL is an empty text.
fn key(texts: &[ArrayRef], row: usize) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    for column in texts {
        let text = text_at(column, row).ok()?.unwrap_or_default();
        key.extend(text.len().to_le_bytes());
        key.extend(text.as_bytes());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{LargeStringArray, StringArray};

    use super::*;

    fn texts(rows: &[(&str, Option<&str>)]) -> [ArrayRef; 2] {
        let title: StringArray = rows.iter().map(|(title, _)| Some(*title)).collect();
        let body: LargeStringArray = rows.iter().map(|(_, body)| *body).collect();
        [Arc::new(title), Arc::new(body)]
    }

    #[test]
    fn scores_are_those_of_the_same_texts() {
        let found = FoundTexts::default();
        assert_eq!(found.scores(&texts(&[("a", None)])), None);
        found.keep(&texts(&[("ab", Some("c")), ("a", Some("bc")), ("d", None)]), &[1.0, 2.0, 0.0]);
        assert_eq!(
            found.scores(&texts(&[("d", Some("")), ("a", Some("bc")), ("ab", Some("c"))])),
            Some(vec![0.0, 2.0, 1.0])
        );
        assert_eq!(found.scores(&texts(&[("ab", Some("c")), ("abc", None)])), None);
    }

    #[test]
    fn more_than_there_is_room_for_is_not_kept() {
        let found = FoundTexts::default();
        let long = "x".repeat(KEPT / 2);
        let rows = [("a", Some(long.as_str())), ("b", Some(long.as_str())), ("c", None)];
        found.keep(&texts(&rows), &[1.0, 2.0, 3.0]);
        assert_eq!(found.scores(&texts(&rows[..1])), Some(vec![1.0]));
        assert_eq!(found.scores(&texts(&rows[1..2])), None);
    }
}
