//! Reads all rows of fragments whose rows lie in one file each, in their order, under a read budget.
//!
//! Rows are asked for some at a time, all their columns at once. As many such reads are under way as the budget and what
//! the storage takes to answer are worth; the rows of the first are decoded on other threads, and handed on.

use std::collections::VecDeque;
use std::future::{poll_fn, ready};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use futures::future::{BoxFuture, try_join};
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance_core::Error as LanceError;
use lance_core::datatypes::Schema as LanceSchema;
use lance_core::utils::deletion::DeletionVector;
use lance_core::utils::tokio::get_num_compute_intensive_cpus;
use lance_encoding::decoder::{DecoderConfig, DecoderPlugins, FilterExpression, ReadBatchTask};
use lance_file::LanceEncodingsIo;
use lance_file::reader::{FileReader, FileReaderOptions};
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::reader_projection_from_field_ids;
use lance_io::ReadBatchParams;
use lance_io::scheduler::{ScanScheduler, SchedulerConfig};
use lance_io::traits::Reader;
use lance_table::format::DataFile;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::budgeted_io::{BudgetedIo, ReadFigures, RowReads};
use super::failure::driven;
use super::row_id_field;
use super::row_readers::is_plain;
use super::row_windows::RowBytes;
use crate::cache::{ReadRequest, ScanReads};

/// Fragments that are opened ahead at most.
const FRAGMENTS: usize = 16;
/// Reads that are under way or wait to be decoded at most. The usual budget bounds them before, at 19; this is for those
/// that are as good as none. Of a store in a cloud Lance has 64 requests under way, and a read is one at least.
const READS: usize = 64;
/// What a column reads more than its rows take: chunks at the ends of a read are read whole.
const ENDS: usize = 8 << 10;
/// Columns of a file beyond which only a part of them is known to those who read few.
const COLUMNS: usize = 64;

/// Which fragments have the rows of some columns in one file each.
pub(super) struct FileColumns {
    /// The columns of files; `None` if what is in files is not what is read.
    leaves: Option<Vec<i32>>,
}

/// A fragment whose rows lie in one file, as far as they are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileRows {
    /// Which of the dataset's fragments.
    fragment: usize,
    /// Which of its files; `None` if no column is read.
    file: Option<usize>,
    rows: u64,
}

impl FileColumns {
    /// Of the columns `wanted`.
    pub(super) fn new(dataset: &Dataset, wanted: &LanceSchema) -> Self {
        let is_read = is_plain(wanted) && !dataset.manifest().uses_stable_row_ids();
        let leaves = wanted.fields_pre_order().filter(|field| field.children.is_empty()).map(|field| field.id);
        Self { leaves: is_read.then(|| leaves.collect()) }
    }

    /// The rows of the dataset's fragment `place`; `None` if Lance has to put them together.
    pub(super) fn rows(&self, dataset: &Dataset, place: usize) -> Option<FileRows> {
        let (leaves, fragment) = (self.leaves.as_ref()?, &dataset.fragments()[place]);
        if !fragment.overlays.is_empty() {
            return None;
        }
        let rows = fragment.physical_rows? as u64;
        if leaves.is_empty() {
            return Some(FileRows { fragment: place, file: None, rows });
        }
        let has = |file: &DataFile, leaf: &i32| columns(file).any(|(field, _)| field == *leaf);
        let at = fragment.files.iter().position(|file| leaves.iter().all(|leaf| has(file, leaf)))?;
        let file = &fragment.files[at];
        let is_old = matches!(file.file_version().ok()?, ConcreteFileVersion::V1 | ConcreteFileVersion::V2_0);
        let is_wide = file.column_indices.len() > COLUMNS.max(4 * leaves.len());
        let is_read = !is_old && !is_wide && file.base_id.is_none();
        is_read.then_some(FileRows { fragment: place, file: Some(at), rows })
    }
}

/// The fields of a file and where their columns are.
fn columns(file: &DataFile) -> impl Iterator<Item = (i32, u32)> {
    let columns = file.fields.iter().zip(file.column_indices.iter());
    columns.filter_map(|(field, column)| Some((*field, u32::try_from(*column).ok()?)))
}

/// What the reads of one scan have in common.
pub(super) struct FileScan {
    pub(super) dataset: Arc<Dataset>,
    /// The columns that are read, as the dataset has them.
    pub(super) wanted: LanceSchema,
    pub(super) batch_size: usize,
    pub(super) reads: Arc<ScanReads>,
    pub(super) figures: ReadFigures,
}

impl FileScan {
    /// The rows of `fragments`: the columns, then `_rowid`. It must be called within a runtime.
    ///
    /// # Errors
    /// If the storage cannot be reached.
    pub(super) async fn rows(self, fragments: Vec<FileRows>) -> Result<RowStream, LanceError> {
        let store = self.dataset.object_store(None).await?;
        let parallelism = store.io_parallelism();
        // No bound of its own: nothing is asked for before there is room. Whatever the environment says, the store tells which
        // scheduler it is for.
        let config = SchedulerConfig { io_buffer_size_bytes: 0, use_lite_scheduler: None };
        let scheduler = ScanScheduler::new(store, config);
        let (alive, scan) = watch::channel(());
        let batch_size = u32::try_from(self.batch_size).unwrap_or(u32::MAX).max(1);
        let (reads, figures) = (Arc::clone(&self.reads), self.figures.clone());
        let shared = Arc::new(self);
        let files = stream::iter(fragments)
            .map(move |rows| {
                let open = OpenFile::open(Arc::clone(&shared), Arc::clone(&scheduler), rows);
                // Who reads the same metadata waits for this, and nobody polls it while the consumer takes its time.
                driven(open).boxed()
            })
            .buffered(parallelism.clamp(1, FRAGMENTS))
            .boxed();
        let planner = Planner { files, current: None, reads, figures, batch_size, place: 0, scan };
        let windows = stream::try_unfold(planner, |mut planner| async move {
            let next = planner.next().await?;
            Ok(next.map(|window| (window, planner)))
        });
        Ok(RowStream {
            windows: windows.boxed(),
            opening: FuturesOrdered::new(),
            open: VecDeque::new(),
            decoding: VecDeque::new(),
            handed: None,
            threads: get_num_compute_intensive_cpus().max(1),
            is_planned: false,
            alive: Some(alive),
        })
    }
}

/// The columns of a file that are read.
struct Contents {
    scheduler: Arc<ScanScheduler>,
    reader: Arc<dyn Reader>,
    file: FileReader,
}

/// A fragment that can be read.
struct OpenFile {
    /// The row id of its first row.
    first: u64,
    bytes: RowBytes,
    rows: u64,
    columns: usize,
    deleted: Option<Arc<DeletionVector>>,
    contents: Option<Contents>,
}

impl OpenFile {
    async fn open(scan: Arc<FileScan>, scheduler: Arc<ScanScheduler>, rows: FileRows) -> Result<Arc<Self>, LanceError> {
        let metadata = &scan.dataset.fragments()[rows.fragment];
        let fragment = FileFragment::new(Arc::clone(&scan.dataset), metadata.clone());
        let contents = async {
            match rows.file {
                Some(file) => {
                    Self::contents(&scan, scheduler, &fragment, &metadata.files[file], rows.rows).await.map(Some)
                }
                None => Ok(None),
            }
        };
        let (deleted, contents) = try_join(fragment.get_deletion_vector(), contents).await?;
        let (contents, bytes, columns) = match contents {
            Some((contents, bytes, columns)) => (Some(contents), bytes, columns),
            None => (None, RowBytes::new([], rows.rows), 0),
        };
        let first = (fragment.id() as u64) << 32;
        Ok(Arc::new(Self { first, bytes, rows: rows.rows, columns, deleted, contents }))
    }

    async fn contents(
        scan: &FileScan,
        scheduler: Arc<ScanScheduler>,
        fragment: &FileFragment,
        file: &DataFile,
        rows: u64,
    ) -> Result<(Contents, RowBytes, usize), LanceError> {
        let path = scan.dataset.data_dir().join(file.path.as_str());
        let opened = scheduler.open_file(&path, &file.file_size_bytes).await?;
        let metadata = fragment.get_file_metadata(&opened).await?;
        if metadata.num_rows != rows {
            let message = format!("it has {} rows, {rows} were written", metadata.num_rows);
            return Err(LanceError::corrupt_file(path, message));
        }
        let places = columns(file).filter_map(|(field, column)| Some((u32::try_from(field).ok()?, column))).collect();
        let projection = reader_projection_from_field_ids(metadata.version, &scan.wanted, &places)?;
        let read = projection.column_indices.iter().filter_map(|column| metadata.column_infos.get(*column as usize));
        let bytes = RowBytes::new(read.map(Arc::as_ref), rows);
        let columns = projection.column_indices.len();
        // Under the names that Lance's own readers use: what one of them knows the others need not read.
        let cache = scan.dataset.session().file_metadata_cache().with_key_prefix(scan.dataset.uri());
        let cache = cache.with_key_prefix(path.as_ref());
        // Few rows at a time: what is planned here is small. Where long values are is read with the page's metadata, once: so
        // a read asks for all that it needs at once, whatever the environment says.
        let decoder_config =
            DecoderConfig { cache_repetition_index: true, inline_scheduling: Some(true), ..DecoderConfig::default() };
        let options = FileReaderOptions { decoder_config, ..FileReaderOptions::default() };
        let reader = Arc::clone(opened.reader());
        let io = Arc::new(LanceEncodingsIo::new(opened));
        let plugins = Arc::<DecoderPlugins>::default();
        let file =
            FileReader::try_open_with_file_metadata(io, path, Some(projection), plugins, metadata, &cache, options)
                .await?;
        Ok((Contents { scheduler, reader, file }, bytes, columns))
    }

    /// The first row from `start` on that is not known to be deleted, as far as it is worth to skip: a batch at a time.
    fn skip_deleted(&self, mut start: u64, batch_size: u64) -> u64 {
        let Some(deleted) = &self.deleted else { return start };
        while start < self.rows {
            let end = self.rows.min(start + batch_size);
            if !deleted.contains_range(start as u32..end as u32) {
                break;
            }
            start = end;
        }
        start
    }
}

/// Says which rows are read next, when there is room for them.
struct Planner {
    files: BoxStream<'static, Result<Arc<OpenFile>, LanceError>>,
    current: Option<(Arc<OpenFile>, u64)>,
    reads: Arc<ScanReads>,
    figures: ReadFigures,
    batch_size: u32,
    place: u64,
    scan: watch::Receiver<()>,
}

impl Planner {
    async fn next(&mut self) -> Result<Option<BoxFuture<'static, Result<Window, LanceError>>>, LanceError> {
        loop {
            let Some((file, start)) = self.current.take() else {
                let Some(file) = self.files.try_next().await? else { return Ok(None) };
                self.current = Some((file, 0));
                continue;
            };
            let start = file.skip_deleted(start, self.batch_size.into());
            if start >= file.rows {
                continue;
            }
            // Whoever polls the stream polls this: it goes on when what is held gets less.
            poll_fn(|cx| self.reads.poll_ahead(file.columns, cx)).await;
            let ends = file.columns * ENDS;
            let rest = file.bytes.rest(start) + ends;
            if let Some(due) = self.reads.due(rest, file.columns) {
                sleep_until(due).await;
            }
            let charge = self.reads.admit(ReadRequest::Rows { rest, columns: file.columns }).await;
            let bytes = charge.bytes().saturating_sub(ends).max(charge.bytes() / 2);
            let rows = file.bytes.window(start, bytes, self.batch_size.into());
            let reads = RowReads::new(charge, self.figures.clone());
            self.current = Some((Arc::clone(&file), rows.end));
            self.place += 1;
            let window = Window::read(file, rows, self.place, self.batch_size, reads, self.scan.clone());
            return Ok(Some(window.boxed()));
        }
    }
}

/// Rows whose reads are under way.
struct Window {
    file: Arc<OpenFile>,
    tasks: Pin<Box<dyn Stream<Item = ReadBatchTask> + Send>>,
    /// The rows that are not decoded yet.
    rows: Range<u64>,
    reads: Arc<RowReads>,
}

impl Window {
    async fn read(
        file: Arc<OpenFile>,
        rows: Range<u64>,
        place: u64,
        batch_size: u32,
        reads: Arc<RowReads>,
        scan: watch::Receiver<()>,
    ) -> Result<Self, LanceError> {
        let tasks = match &file.contents {
            Some(contents) => {
                let io = BudgetedIo::new(&contents.scheduler, &contents.reader, place, &reads, scan);
                let params = ReadBatchParams::Range(rows.start as usize..rows.end as usize);
                let file = contents.file.with_scheduler(io);
                file.read_tasks(params, batch_size, None, FilterExpression::no_filter()).await?
            }
            None => stream::iter(rows_only(&rows, batch_size)).boxed(),
        };
        reads.charge().settle();
        Ok(Self { file, tasks, rows, reads })
    }

    /// What a task decodes, and after the last one the reads.
    fn batch(&mut self, task: ReadBatchTask) -> Decoding {
        let (file, start) = (Arc::clone(&self.file), self.rows.start);
        self.rows.start += u64::from(task.num_rows);
        let last = self.rows.is_empty().then(|| Arc::clone(&self.reads));
        let batch = async move { finish(&task.task.await?, &file, start) };
        Decoding::Running(batch.boxed(), last)
    }
}

/// Batches without columns.
fn rows_only(rows: &Range<u64>, batch_size: u32) -> Vec<ReadBatchTask> {
    let starts = rows.clone().step_by(batch_size as usize);
    let task = |start: u64| {
        let num_rows = (rows.end - start).min(batch_size.into()) as u32;
        let options = RecordBatchOptions::new().with_row_count(Some(num_rows as usize));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options);
        ReadBatchTask { task: ready(batch.map_err(LanceError::from)).boxed(), num_rows }
    };
    starts.map(task).collect()
}

/// The rows of a batch that are not deleted, the first of which is the `start`th of its file, with their ids.
fn finish(batch: &RecordBatch, file: &OpenFile, start: u64) -> Result<RecordBatch, LanceError> {
    let first = file.first + start;
    let ids = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
    let live = file.deleted.as_ref().and_then(|deleted| deleted.build_predicate(ids.values().iter()));
    let schema = batch.schema();
    let fields: Vec<_> = schema.fields().iter().cloned().chain([Arc::new(row_id_field())]).collect();
    let columns = batch.columns().iter().cloned().chain([Arc::new(ids) as _]).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    match live {
        Some(live) if live.false_count() > 0 => Ok(filter_record_batch(&batch, &live)?),
        _ => Ok(batch),
    }
}

/// A batch that is decoded elsewhere, and the reads that it is the last of.
enum Decoding {
    Running(BoxFuture<'static, Result<RecordBatch, LanceError>>, Option<Arc<RowReads>>),
    Done(Result<RecordBatch, LanceError>, Option<Arc<RowReads>>),
}

/// The rows of a scan.
pub(super) struct RowStream {
    windows: BoxStream<'static, Result<BoxFuture<'static, Result<Window, LanceError>>, LanceError>>,
    opening: FuturesOrdered<BoxFuture<'static, Result<Window, LanceError>>>,
    open: VecDeque<Result<Window, LanceError>>,
    decoding: VecDeque<Decoding>,
    /// The reads whose last rows were handed on: until more are wanted their consumer may be busy with these.
    handed: Option<Arc<RowReads>>,
    threads: usize,
    is_planned: bool,
    /// Reads go on while it is there.
    alive: Option<watch::Sender<()>>,
}

impl RowStream {
    /// Asks for more while there is room.
    fn plan(&mut self, cx: &mut Context<'_>) {
        while !self.is_planned && self.opening.len() + self.open.len() < READS {
            match self.windows.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(window))) => self.opening.push_back(window),
                Poll::Ready(Some(Err(error))) => {
                    self.opening.push_back(ready(Err(error)).boxed());
                    self.is_planned = true;
                }
                Poll::Ready(None) => self.is_planned = true,
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(window)) = self.opening.poll_next_unpin(cx) {
            self.open.push_back(window);
        }
    }

    /// Decodes the rows of the first reads.
    fn decode(&mut self, cx: &mut Context<'_>) {
        while self.decoding.len() < self.threads {
            let mut window = match self.open.pop_front() {
                None => break,
                Some(Ok(window)) => window,
                Some(Err(error)) => {
                    self.decoding.push_back(Decoding::Done(Err(error), None));
                    continue;
                }
            };
            match window.tasks.poll_next_unpin(cx) {
                Poll::Ready(Some(task)) => {
                    self.decoding.push_back(window.batch(task));
                    if !window.rows.is_empty() {
                        self.open.push_front(Ok(window));
                    }
                }
                Poll::Ready(None) => {
                    let missing = LanceError::internal(format!("rows {:?} of a file did not come", window.rows));
                    self.decoding.push_back(Decoding::Done(Err(missing), None));
                }
                Poll::Pending => {
                    self.open.push_front(Ok(window));
                    break;
                }
            }
        }
        self.decoding.iter_mut().for_each(|batch| batch.poll(cx));
    }

    /// Lets go of everything.
    fn end(&mut self) {
        self.is_planned = true;
        self.windows = stream::empty().boxed();
        self.opening.clear();
        self.open.clear();
        self.decoding.clear();
        self.alive = None;
    }
}

impl Decoding {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::Running(batch, last) = self
            && let Poll::Ready(batch) = batch.poll_unpin(cx)
        {
            *self = Self::Done(batch, last.take());
        }
    }
}

impl Stream for RowStream {
    type Item = Result<RecordBatch, LanceError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.handed = None;
        loop {
            this.plan(cx);
            this.decode(cx);
            if !matches!(this.decoding.front(), None | Some(Decoding::Done(..))) {
                return Poll::Pending;
            }
            let Some(Decoding::Done(batch, last)) = this.decoding.pop_front() else {
                if this.is_planned && this.opening.is_empty() && this.open.is_empty() {
                    this.end();
                    return Poll::Ready(None);
                }
                return Poll::Pending;
            };
            let Ok(batch) = batch else {
                this.end();
                return Poll::Ready(Some(batch));
            };
            if let Some(reads) = &last {
                reads.done();
            }
            if batch.num_rows() > 0 {
                this.handed = last;
                return Poll::Ready(Some(Ok(batch)));
            }
        }
    }
}
