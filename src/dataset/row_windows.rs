//! How many bytes of a file rows take, and thus how many rows are read at once.

use std::collections::BTreeMap;
use std::ops::Range;

use lance_encoding::decoder::ColumnInfo;

/// A read that would end so close to the end of a page, or of a batch, ends there: this part of it before, that part
/// behind.
const SNAP: (f64, f64) = (0.75, 1.125);

/// The bytes of the columns that are read, row by row: as many for each row of a page.
#[derive(Debug)]
pub(super) struct RowBytes {
    rows: u64,
    /// Rows, and what all rows up to there take. Between two of them each row takes the same.
    points: Vec<(u64, f64)>,
    /// Where the pages of the column that takes most end.
    page_ends: Vec<u64>,
}

impl RowBytes {
    /// Of `rows` rows in these columns.
    pub(super) fn new<'a>(columns: impl IntoIterator<Item = &'a ColumnInfo>, rows: u64) -> Self {
        let columns = columns.into_iter().map(|column| {
            let of_column = sum(&column.buffer_offsets_and_sizes);
            let pages: Vec<(u64, u64)> =
                column.page_infos.iter().map(|page| (page.num_rows, sum(&page.buffer_offsets_and_sizes))).collect();
            // Some encodings count otherwise than in rows.
            if pages.iter().map(|page| page.0).sum::<u64>() == rows {
                pages
            } else {
                vec![(rows, of_column + pages.iter().map(|page| page.1).sum::<u64>())]
            }
        });
        Self::of_pages(&columns.collect::<Vec<_>>(), rows)
    }

    /// Of columns whose pages have so many rows and bytes.
    fn of_pages(columns: &[Vec<(u64, u64)>], rows: u64) -> Self {
        // How much more a row takes from here on than before.
        let mut steps: BTreeMap<u64, f64> = BTreeMap::from([(rows, 0.0)]);
        for pages in columns {
            let mut start = 0;
            for &(count, bytes) in pages.iter().filter(|page| page.0 > 0) {
                let each = bytes as f64 / count as f64;
                *steps.entry(start).or_default() += each;
                start += count;
                *steps.entry(start).or_default() -= each;
            }
        }
        let (mut points, mut each, mut all) = (vec![(0, 0.0)], 0.0, 0.0);
        for (row, step) in steps {
            let (last, _) = points[points.len() - 1];
            all += each * (row - last) as f64;
            if row > last {
                points.push((row, all));
            }
            each += step;
        }
        let widest = columns.iter().max_by_key(|pages| pages.iter().map(|page| page.1).sum::<u64>());
        let ends = widest.into_iter().flatten().scan(0, |end, page| {
            *end += page.0;
            Some(*end)
        });
        Self { rows, points, page_ends: ends.collect() }
    }

    /// What the rows from `start` on take.
    pub(super) fn rest(&self, start: u64) -> usize {
        let all = self.points.last().map_or(0.0, |point| point.1);
        (all - self.up_to(start)).max(0.0).ceil() as usize
    }

    /// The rows from `start` on that take about `bytes`: whole batches, if that is one at least, else up to the end of a
    /// page where that is near, or of a batch: a few rows more would be a batch of their own. One row at least.
    pub(super) fn window(&self, start: u64, bytes: usize, batch: u64) -> Range<u64> {
        if bytes >= self.rest(start) {
            return start..self.rows;
        }
        let want = self.up_to(start) + bytes as f64;
        let at = self.points.partition_point(|point| point.1 <= want);
        let end = match self.points.get(at) {
            Some(&(row, all)) => {
                let (before, so_far) = self.points[at - 1];
                before + ((want - so_far) / (all - so_far) * (row - before) as f64) as u64
            }
            None => self.rows,
        };
        let count = end.saturating_sub(start).max(1);
        if count >= batch {
            return start..start + count / batch * batch;
        }
        let from = start + (count as f64 * SNAP.0) as u64;
        let most = (count as f64 * SNAP.1) as u64;
        let to = start + most.min(batch);
        let near = self.page_ends[self.page_ends.partition_point(|end| *end <= from)..].first();
        let count = if batch <= most { batch } else { count };
        start..near.copied().filter(|end| *end <= to).unwrap_or(start + count)
    }

    fn up_to(&self, row: u64) -> f64 {
        let at = self.points.partition_point(|point| point.0 <= row);
        let (before, so_far) = self.points[at - 1];
        match self.points.get(at) {
            Some(&(end, all)) => so_far + (all - so_far) * (row - before) as f64 / (end - before) as f64,
            None => so_far,
        }
    }
}

fn sum(buffers: &[(u64, u64)]) -> u64 {
    buffers.iter().map(|(_, size)| size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A column of ten bytes a row, and one whose pages have 100 rows, of one byte a row and then of 19.
    fn bytes() -> RowBytes {
        RowBytes::of_pages(&[vec![(1000, 10_000)], (0..10).map(|i| (100, 100 + i % 2 * 1800)).collect()], 1000)
    }

    #[test]
    fn rows_take_their_part_of_their_pages() {
        let bytes = bytes();
        assert_eq!([0, 50, 100, 150, 999, 1000].map(|row| bytes.rest(row)), [20_000, 19_450, 18_900, 17_450, 29, 0]);
        let none = RowBytes::of_pages(&[], 30);
        assert_eq!((none.rest(0), none.window(10, 0, 4)), (0, 10..30));
        let empty = RowBytes::of_pages(&[vec![]], 0);
        assert_eq!(empty.rest(0), 0);
    }

    #[test]
    fn so_many_rows_are_read_as_take_the_bytes() {
        let bytes = bytes();
        // Whole batches.
        assert_eq!(bytes.window(0, 1100, 10), 0..100);
        assert_eq!(bytes.window(0, 1199, 30), 0..90);
        assert_eq!(bytes.window(10, 5_000, 7), 10..297);
        // Less than one: up to a page's end if that is near.
        assert_eq!(bytes.window(0, 1_000, 5_000), 0..100);
        assert_eq!(bytes.window(0, 1_300, 5_000), 0..100);
        assert_eq!(bytes.window(0, 700, 5_000), 0..63);
        assert_eq!(bytes.window(0, 2_500, 5_000), 0..148);
        // A batch if that is near, and no page ends before.
        assert_eq!(bytes.window(0, 1_050, 98), 0..98);
        assert_eq!(bytes.window(0, 1_050, 103), 0..100);
        assert_eq!(bytes.window(0, 1_050, 5_000), 0..100);
        assert_eq!(bytes.window(895, 2_900, 110), 895..1000, "no further than there are rows");
        // One row at least, and all that are left at most.
        assert_eq!(bytes.window(100, 0, 5_000), 100..101);
        assert_eq!(bytes.window(990, 1_000_000, 8), 990..1000);
        let mut next = 0;
        while next < 1000 {
            let window = bytes.window(next, 300, 16);
            assert!(window.start == next && window.end > next && window.end <= 1000);
            next = window.end;
        }
    }
}
