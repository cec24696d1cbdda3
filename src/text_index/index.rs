//! The index itself: appending documents, statistics, and reading it out for a flush.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::bits::LEN;
use super::block::END;
use super::chain::{Ink, Pen, Postings};
use super::dictionary::{Dictionary, Entry};
use super::lengths::{LengthView, Lengths};
use super::posting::{Positions, Posting, PostingList};

/// A full-text index over the rows of a memtable.
///
/// One thread appends while any number read; readers say which rows they see by a watermark, so what is appended
/// meanwhile does not change their answers.
#[derive(Debug)]
pub struct TextIndex {
    with_positions: bool,
    dictionary: Dictionary,
    lengths: Lengths,
    rows: AtomicU32,
    frozen: AtomicBool,
    /// Bytes held by chains of postings and by the writer.
    held: AtomicUsize,
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    pens: Vec<Pen>,
    ink: Ink,
    /// The texts of the current document's tokens, and where each ends and stands.
    text: String,
    ends: Vec<(usize, u32)>,
    /// Term and position of each token of the current document.
    tokens: Vec<(u32, u32)>,
    positions: Vec<u32>,
}

/// Why documents were not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendError {
    /// The first row is not the one behind the last.
    Row {
        /// The row that is due.
        expected: u32,
        /// The row that was given.
        given: u32,
    },
    /// The index is frozen.
    Frozen,
    /// There are no row or term numbers left.
    Full,
    /// The postings are damaged.
    Postings,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { expected, given } => write!(f, "row {expected} is due, not {given}"),
            Self::Frozen => f.write_str("the text index is frozen"),
            Self::Full => f.write_str("the text index has no row or term numbers left"),
            Self::Postings => f.write_str("postings are not of rows of the index, in order"),
        }
    }
}

impl std::error::Error for AppendError {}

/// What scores are made of: of one index or summed over several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Rows with at least one token.
    pub doc_count: u64,
    /// Their tokens.
    pub total_tokens: u64,
    /// For each term that was asked for, how many rows hold it.
    pub doc_freqs: Vec<u64>,
}

impl Statistics {
    /// Adds those of another source for the same terms.
    pub fn add(&mut self, other: &Self) {
        self.doc_count += other.doc_count;
        self.total_tokens += other.total_tokens;
        self.doc_freqs.resize(self.doc_freqs.len().max(other.doc_freqs.len()), 0);
        self.doc_freqs.iter_mut().zip(&other.doc_freqs).for_each(|(sum, more)| *sum += more);
    }

    /// Tokens of an average row, 0 if there is none.
    pub fn average_length(&self) -> f32 {
        if self.doc_count == 0 { 0.0 } else { self.total_tokens as f32 / self.doc_count as f32 }
    }
}

impl TextIndex {
    /// An empty index. Without positions it is smaller and cannot search for phrases.
    pub fn new(with_positions: bool) -> Self {
        let positions = if with_positions { Positions::Kept } else { Positions::Absent };
        let writer = Writer { ink: Ink::new(positions, 0), ..Writer::default() };
        Self {
            with_positions,
            dictionary: Dictionary::new(),
            lengths: Lengths::default(),
            rows: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            writer: Mutex::new(writer),
        }
    }

    /// An index of documents of these lengths, in tokens, whose terms are added one by one, each with all its postings.
    pub fn of_lengths(with_positions: bool, lengths: impl IntoIterator<Item = u32>) -> Self {
        let index = Self::new(with_positions);
        index.frozen.store(true, Ordering::Release);
        let mut rows = 0;
        for length in lengths.into_iter().take(END as usize - 1) {
            index.lengths.push(rows, length);
            rows += 1;
        }
        index.rows.store(rows, Ordering::Release);
        index
    }

    /// Adds a term of an index [`of_lengths`](Self::of_lengths); one that is there stays as it is. Readers find the term
    /// with all postings or not at all.
    ///
    /// # Errors
    /// If the postings are none of rows of this index in their order, or there are no term numbers left.
    pub fn add_term(&self, text: &str, postings: &PostingList) -> Result<(), AppendError> {
        if !postings.is_sound(self.rows(), self.with_positions) {
            return Err(AppendError::Postings);
        }
        let Some(&first) = postings.rows.first() else { return Ok(()) };
        let writer = &mut *self.writer.lock();
        let ink = &mut writer.ink;
        let postings = || Postings::of(postings, ink, |row| self.lengths.get(row));
        self.dictionary.insert(text, first, postings).ok_or(AppendError::Full)?;
        self.held.store(writer.memory(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether rows hold the term, as far as terms were added.
    pub fn has_term(&self, text: &str) -> bool {
        self.dictionary.find(text).is_some()
    }

    /// Whether positions are kept.
    pub fn has_positions(&self) -> bool {
        self.with_positions
    }

    /// How many rows were appended: the highest watermark there is.
    pub fn rows(&self) -> u32 {
        self.rows.load(Ordering::Acquire)
    }

    /// How many terms there are, those of rows above any watermark included.
    pub fn term_count(&self) -> usize {
        self.dictionary.len()
    }

    /// Bytes of memory held. Of what was replaced, what readers still hold is not counted.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.dictionary.memory() + self.lengths.memory() + self.held.load(Ordering::Relaxed)
    }

    /// Appends the documents of consecutive rows, each its tokens as text and position. A row without a document is an
    /// empty one.
    ///
    /// # Errors
    /// As [`Self::appender`] and [`Appender::end_document`]; the documents before stay.
    pub fn append<D, S>(&self, first_row: u32, documents: impl IntoIterator<Item = D>) -> Result<(), AppendError>
    where
        D: IntoIterator<Item = (S, u32)>,
        S: AsRef<str>,
    {
        let mut appender = self.appender(first_row)?;
        for document in documents {
            for (text, position) in document {
                appender.token(text.as_ref(), position);
            }
            appender.end_document()?;
        }
        Ok(())
    }

    /// Appends documents token by token, the first that of `first_row`. Waits for another appender to be dropped.
    ///
    /// # Errors
    /// If `first_row` is not the row behind the last, or the index is frozen.
    pub fn appender(&self, first_row: u32) -> Result<Appender<'_>, AppendError> {
        let writer = self.writer.lock();
        if self.frozen.load(Ordering::Acquire) {
            return Err(AppendError::Frozen);
        }
        let expected = self.rows();
        if first_row != expected {
            return Err(AppendError::Row { expected, given: first_row });
        }
        let mut appender = Appender { index: self, writer, row: first_row, counted: 0 };
        appender.forget_document();
        Ok(appender)
    }

    /// Ends appending and gives back what only appending needs. Answers stay the same.
    pub fn freeze(&self) {
        let mut writer = self.writer.lock();
        if self.frozen.swap(true, Ordering::AcqRel) {
            return;
        }
        let ink = &mut writer.ink;
        let mut at = self.dictionary.seek(b"");
        while let Some(term) = at {
            self.dictionary.entry(term).postings.shrink(ink);
            at = self.dictionary.next(term);
        }
        let (positions, held) = (ink.positions, ink.held);
        *writer = Writer { ink: Ink::new(positions, held), ..Writer::default() };
        self.held.store(writer.memory(), Ordering::Relaxed);
    }

    /// Statistics of the rows below `watermark`, without those whose bit in `dead` is set. Rows behind the bits are not
    /// dead.
    pub fn statistics<S: AsRef<str>>(&self, terms: &[S], watermark: u32, dead: Option<&[u64]>) -> Statistics {
        let watermark = watermark.min(self.rows());
        let all = self.lengths.totals(watermark);
        let gone = dead.map(|words| self.lengths.totals_of(words, watermark)).unwrap_or_default();
        let doc_freqs = terms.iter().map(|term| self.doc_freq(term.as_ref(), watermark, dead)).collect();
        Statistics { doc_count: all.documents - gone.documents, total_tokens: all.tokens - gone.tokens, doc_freqs }
    }

    /// How many rows below `watermark` hold the term, without those whose bit in `dead` is set.
    pub fn doc_freq(&self, term: &str, watermark: u32, dead: Option<&[u64]>) -> u64 {
        let Some(entry) = self.dictionary.find(term) else { return 0 };
        let snapshot = entry.postings.below(watermark, self.positions(false));
        let Some(dead) = dead else { return snapshot.len(watermark) as u64 };
        let is_live = |row: &u32| dead.get(*row as usize / 64).is_none_or(|word| word >> (row % 64) & 1 == 0);
        let mut count = snapshot.tail.rows.iter().filter(|row| is_live(row)).count();
        let mut rows = [0; LEN];
        for block in (0..snapshot.sealed()).map_while(|i| snapshot.block(i)) {
            block.rows(&mut rows);
            let rows = &rows[..block.len()];
            // Only the last block may reach beyond the watermark.
            let len = if block.last() < watermark { rows.len() } else { rows.partition_point(|row| *row < watermark) };
            count += rows[..len].iter().filter(|row| is_live(row)).count();
        }
        count as u64
    }

    /// How many tokens each row below `watermark` has.
    pub fn lengths(&self, watermark: u32) -> impl Iterator<Item = u32> {
        let watermark = watermark.min(self.rows());
        let view = self.lengths.view(watermark);
        (0..watermark).map(move |row| view.get(row))
    }

    /// All terms of rows below `watermark`, in the order of their bytes.
    pub fn terms(&self, watermark: u32) -> impl Iterator<Item = TermEntry<'_>> {
        let watermark = watermark.min(self.rows());
        let mut at = self.dictionary.seek(b"");
        let entries = std::iter::from_fn(move || {
            let term = at?;
            at = self.dictionary.next(term);
            Some(self.dictionary.entry(term))
        });
        entries.filter(move |entry| entry.first_row() < watermark).map(move |entry| TermEntry {
            entry,
            watermark,
            positions: self.positions(true),
        })
    }

    /// How postings are coded, and whether a reader wants their positions.
    pub(crate) fn positions(&self, wanted: bool) -> Positions {
        match (self.with_positions, wanted) {
            (false, _) => Positions::Absent,
            (true, false) => Positions::Skipped,
            (true, true) => Positions::Kept,
        }
    }

    pub(crate) fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    pub(crate) fn length_view(&self, watermark: u32) -> LengthView<'_> {
        self.lengths.view(watermark)
    }
}

/// A term and its postings below a watermark.
#[derive(Debug, Clone, Copy)]
pub struct TermEntry<'a> {
    entry: &'a Entry,
    watermark: u32,
    positions: Positions,
}

impl<'a> TermEntry<'a> {
    /// The term.
    pub fn text(&self) -> &'a str {
        self.entry.text()
    }

    /// Replaces what is in `list` by the term's postings.
    pub fn read(&self, list: &mut PostingList) {
        list.clear();
        self.entry.postings.below(self.watermark, self.positions).read(self.watermark, self.positions, list);
    }
}

/// Appends documents; the only one at its time.
#[derive(Debug)]
pub struct Appender<'a> {
    index: &'a TextIndex,
    writer: MutexGuard<'a, Writer>,
    row: u32,
    /// Tokens of the current document that are counted only.
    counted: u32,
}

impl Appender<'_> {
    /// Adds a token to the current document. Nothing is seen of it before the document's end.
    pub fn token(&mut self, text: &str, position: u32) {
        self.writer.text.push_str(text);
        let end = self.writer.text.len();
        self.writer.ends.push((end, position));
    }

    /// Adds a token to the length of the current document and to nothing else: nobody looks for it.
    pub fn count_token(&mut self) {
        self.counted = self.counted.saturating_add(1);
    }

    /// Ends the current document: readers can see it from now on. The next one is that of the next row.
    ///
    /// # Errors
    /// If there are no row or term numbers left; the document is forgotten then.
    pub fn end_document(&mut self) -> Result<(), AppendError> {
        let (row, index) = (self.row, self.index);
        if row == END - 1 {
            self.forget_document();
            return Err(AppendError::Full);
        }
        let writer = &mut *self.writer;
        let mut start = 0;
        for &(end, position) in &writer.ends {
            let Some(term) = index.dictionary.intern(&writer.text[start..end], row) else {
                self.forget_document();
                return Err(AppendError::Full);
            };
            writer.tokens.push((term, position));
            start = end;
        }
        writer.tokens.sort_unstable();
        writer.pens.resize(index.dictionary.len(), Pen::default());
        // Blocks are bounded by lengths: this row's must be there first.
        let tokens = u32::try_from(writer.tokens.len()).unwrap_or(u32::MAX);
        index.lengths.push(row, tokens.saturating_add(self.counted));
        for group in writer.tokens.chunk_by(|a, b| a.0 == b.0) {
            writer.positions.clear();
            if index.with_positions {
                writer.positions.extend(group.iter().map(|(_, position)| *position));
            }
            let posting = Posting {
                row,
                frequency: u32::try_from(group.len()).unwrap_or(u32::MAX),
                positions: &writer.positions,
            };
            let term = group[0].0;
            let pen = &mut writer.pens[term as usize];
            index.dictionary.entry(term).postings.append(posting, pen, &mut writer.ink, |row| index.lengths.get(row));
        }
        self.forget_document();
        self.row += 1;
        index.held.store(self.writer.memory(), Ordering::Relaxed);
        index.rows.store(self.row, Ordering::Release);
        Ok(())
    }

    fn forget_document(&mut self) {
        self.counted = 0;
        self.writer.text.clear();
        self.writer.ends.clear();
        self.writer.tokens.clear();
    }
}

impl Writer {
    /// Bytes held, those of all chains included.
    fn memory(&self) -> usize {
        self.ink.held
            + self.pens.capacity() * size_of::<Pen>()
            + self.text.capacity()
            + self.ends.capacity() * size_of::<(usize, u32)>()
            + self.tokens.capacity() * size_of::<(u32, u32)>()
            + self.positions.capacity() * size_of::<u32>()
    }
}
