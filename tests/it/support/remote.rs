//! A store in memory, reached as one over a network is. It counts what it is asked for, answers as late as it is told to,
//! and knows how much of what it gave is still held.
#![allow(dead_code, reason = "tests use a part, benches another")]

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion_lsm::store::registry;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_core::Result as LanceResult;
use lance_io::object_store::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreProvider};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use url::Url;

/// A scheme that Lance commits to by conditional puts, and no store of this build has.
const SCHEME: &str = "tos";
/// Bytes that are read at once, as from stores in a cloud.
const BLOCK: usize = 64 << 10;
/// Objects that one request deletes at most.
const DELETED: usize = 1_000;

static BUCKETS: LazyLock<Mutex<HashMap<String, Arc<Bucket>>>> = LazyLock::new(|| {
    registry().insert(SCHEME, Arc::new(Provider));
    Mutex::default()
});

/// The requests of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) gets: u64,
    pub(crate) heads: u64,
    pub(crate) lists: u64,
}

impl Requests {
    /// Those that only read.
    pub(crate) fn all(self) -> u64 {
        self.gets + self.heads + self.lists
    }
}

/// What goes wrong with what is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Weather {
    #[default]
    Fine,
    /// Of so many reads one is refused: there are too many.
    Busy(u64),
    /// The same in other words: there were too many of late. Clients of stores in clouds say it so, when they have tried
    /// for long enough.
    Throttled(u64),
    /// Of so many reads one breaks off before its last byte.
    Short(u64),
    /// The first read of each object with this in its name brings other bytes than are there.
    Garbled(&'static str),
    /// Of so many reads one takes so long before its first byte.
    Late(u64, Duration),
    /// Reads of objects with this in their names are refused.
    Lost(&'static str),
    /// What is asked of objects with this in their names is not done before there is other weather.
    Stuck(&'static str),
    /// Nothing is answered but that it is not.
    Down,
}

/// A store in memory that counts requests.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    name: String,
    inner: InMemory,
    delay: Delay,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    bytes: Arc<Given>,
    /// What was read, for who wants to know why.
    read: Mutex<Vec<String>>,
    is_silent: AtomicBool,
    copies: AtomicBool,
    weather: watch::Sender<Weather>,
    asked: AtomicU64,
    /// The objects that came garbled in this weather.
    garbled: Mutex<HashSet<Path>>,
    hanging: AtomicUsize,
    counted: Mutex<&'static str>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Bucket {
    /// A new one, and where a table may be in it.
    pub(crate) fn new() -> (Arc<Self>, String) {
        Self::of(InMemory::new(), false)
    }

    /// Another one, of which nobody knows yet, with what is in this one; and where the table is in it. It answers at once.
    pub(crate) fn fork(&self) -> (Arc<Self>, String) {
        Self::of(self.inner.fork(), self.is_silent.load(Ordering::Relaxed))
    }

    fn of(inner: InMemory, is_silent: bool) -> (Arc<Self>, String) {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let bucket = Self { name: name.clone(), inner, is_silent: is_silent.into(), ..Self::default() };
        let bucket = Arc::new(bucket);
        let uri = bucket.uri();
        BUCKETS.lock().insert(name, Arc::clone(&bucket));
        (bucket, uri)
    }

    /// Where a table may be in it.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}://{}/table", self.name)
    }

    /// Takes it away: nobody finds it any more, and what is in it goes with the last who holds it.
    pub(crate) fn remove(&self) {
        BUCKETS.lock().remove(&self.name);
    }

    /// What is in it, without counting or delay.
    pub(crate) fn objects(&self) -> &InMemory {
        &self.inner
    }

    /// From now on every request takes so long before it does anything.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.delay.set(delay);
    }

    /// From now on things go wrong so.
    pub(crate) fn set_weather(&self, weather: Weather) {
        self.garbled.lock().clear();
        self.weather.send_replace(weather);
    }

    /// From now on counts how many reads of objects with this in their names are under way at a time.
    pub(crate) fn count_under_way(&self, part: &'static str) {
        *self.counted.lock() = part;
        self.most_under_way.store(0, Ordering::SeqCst);
    }

    /// The most of these that there were.
    pub(crate) fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::SeqCst)
    }

    /// Requests that are late or stuck now.
    pub(crate) fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    /// Gives all objects whose names end so another content, or deletes them.
    pub(crate) async fn replace(&self, suffix: &str, content: Option<&'static [u8]>) -> Result<()> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await?;
        for object in all.into_iter().filter(|object| object.location.as_ref().ends_with(suffix)) {
            match content {
                Some(content) => drop(self.inner.put(&object.location, content.into()).await?),
                None => self.inner.delete(&object.location).await?,
            }
        }
        Ok(())
    }

    /// Gives all objects whose names end so what `content` makes of theirs, or deletes them.
    pub(crate) async fn rewrite(&self, suffix: &str, content: impl Fn(Bytes) -> Option<Bytes>) -> Result<()> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await?;
        for object in all.into_iter().filter(|object| object.location.as_ref().ends_with(suffix)) {
            let old = self.inner.get(&object.location).await?.bytes().await?;
            match content(old) {
                Some(content) => drop(self.inner.put(&object.location, content.into()).await?),
                None => self.inner.delete(&object.location).await?,
            }
        }
        Ok(())
    }

    /// Gives all objects that are in `other` what is in them there.
    pub(crate) async fn restore(&self, other: &Bucket) -> Result<()> {
        let all: Vec<ObjectMeta> = other.inner.list(None).try_collect().await?;
        for object in all {
            let content = other.inner.get(&object.location).await?.bytes().await?;
            self.inner.put(&object.location, content.into()).await?;
        }
        Ok(())
    }

    /// The sizes of all objects with this in their names.
    pub(crate) async fn sizes(&self, part: &str) -> Result<Vec<u64>> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await?;
        let named = all.iter().filter(|object| object.location.as_ref().contains(part));
        Ok(named.map(|object| object.size).collect())
    }

    /// From now on it does not take down what it reads: that takes time.
    pub(crate) fn silence(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
    }

    /// From now on what it gives is memory of its own, as what comes over a network is, and not a part of what it keeps.
    pub(crate) fn give_copies(&self) {
        self.copies.store(true, Ordering::Relaxed);
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Requests {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests { gets: get(&self.gets), heads: get(&self.heads), lists: get(&self.lists) }
    }

    /// Bytes that were read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes.all.load(Ordering::Relaxed)
    }

    /// Bytes that were read and that somebody still refers to.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.bytes.held.load(Ordering::Relaxed)
    }

    /// The most of these that there were at a time.
    pub(crate) fn peak(&self) -> u64 {
        self.bytes.peak.load(Ordering::Relaxed)
    }

    /// Starts to count anew; what was asked for until now. What is still held stays so.
    pub(crate) fn reset(&self) -> (Requests, Vec<String>) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let requests = Requests { gets: take(&self.gets), heads: take(&self.heads), lists: take(&self.lists) };
        take(&self.bytes.all);
        self.bytes.peak.store(self.bytes_held(), Ordering::Relaxed);
        (requests, std::mem::take(&mut *self.read.lock()))
    }

    /// Waits until there is other weather, if requests for this object are stuck.
    async fn get_unstuck(&self, location: &Path) {
        let weather = *self.weather.borrow();
        if let Weather::Stuck(part) = weather
            && location.as_ref().contains(part)
        {
            let _hanging = Entered::new(&self.hanging);
            let _ = self.weather.subscribe().wait_for(|now| *now != weather).await;
        }
    }

    fn count(&self, counter: &AtomicU64, what: impl FnOnce() -> String) {
        counter.fetch_add(1, Ordering::Relaxed);
        if !self.is_silent.load(Ordering::Relaxed) {
            self.read.lock().push(what());
        }
    }
}

/// How long every request takes.
#[derive(Debug, Default, Clone)]
struct Delay(Arc<AtomicU64>);

impl Delay {
    fn set(&self, delay: Duration) {
        self.0.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn pass(&self) {
        match self.0.load(Ordering::Relaxed) {
            0 => {}
            nanoseconds => tokio::time::sleep(Duration::from_nanos(nanoseconds)).await,
        }
    }
}

/// What is counted until it ends or is given up.
pub(crate) struct Entered<'a>(&'a AtomicUsize);

impl<'a> Entered<'a> {
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes that a store gave.
#[derive(Debug, Default)]
struct Given {
    all: AtomicU64,
    held: AtomicU64,
    peak: AtomicU64,
}

/// Bytes that are counted as held until the last reference to them goes.
struct Held {
    bytes: Bytes,
    given: Arc<Given>,
}

impl Held {
    fn give(bytes: Bytes, given: &Arc<Given>) -> Bytes {
        let len = bytes.len() as u64;
        given.all.fetch_add(len, Ordering::Relaxed);
        let held = given.held.fetch_add(len, Ordering::Relaxed) + len;
        given.peak.fetch_max(held, Ordering::Relaxed);
        Bytes::from_owner(Self { bytes, given: Arc::clone(given) })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.given.held.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Provider;

#[async_trait]
impl ObjectStoreProvider for Provider {
    async fn new_store(&self, url: Url, _: &ObjectStoreParams) -> LanceResult<LanceStore> {
        let bucket = Arc::clone(BUCKETS.lock().entry(url.authority().to_string()).or_default());
        Ok(LanceStore::new(bucket, url, Some(BLOCK), None, false, true, 64, 3, None))
    }

    fn extract_path(&self, url: &Url) -> LanceResult<Path> {
        Ok(Path::from(url.path().trim_start_matches('/')))
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.delay.pass().await;
        self.get_unstuck(location).await;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.delay.pass().await;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { upload, delay: self.delay.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match options.head {
            true => self.count(&self.heads, || format!("HEAD {location}")),
            false => self.count(&self.gets, || format!("GET {location} {:?}", options.range)),
        }
        let is_counted = location.as_ref().contains(*self.counted.lock());
        let _under_way = is_counted.then(|| Entered::new(&self.under_way));
        self.most_under_way.fetch_max(self.under_way.load(Ordering::SeqCst), Ordering::SeqCst);
        self.delay.pass().await;
        self.get_unstuck(location).await;
        let refused = |why: &str| Error::Generic { store: "Bucket", source: format!("{why}: {location}").into() };
        let weather = *self.weather.borrow();
        let is_due = |every: u64| self.asked.fetch_add(1, Ordering::Relaxed) % every == every - 1;
        match weather {
            Weather::Down => return Err(refused("500 Internal Server Error")),
            Weather::Busy(every) if is_due(every) => return Err(refused("503 Slow Down")),
            Weather::Throttled(every) if is_due(every) => {
                return Err(refused("Server returned non-2xx status code: 429 Too Many Requests"));
            }
            Weather::Late(every, delay) if is_due(every) => {
                let _hanging = Entered::new(&self.hanging);
                tokio::time::sleep(delay).await;
            }
            Weather::Lost(part) if location.as_ref().contains(part) => return Err(refused("503 Service Unavailable")),
            _ => {}
        }
        let breaks_off = matches!(weather, Weather::Short(every) if is_due(every));
        let is_garbled = !options.head
            && matches!(weather, Weather::Garbled(part) if location.as_ref().contains(part))
            && self.garbled.lock().insert(location.clone());
        let result = self.inner.get_opts(location, options).await?;
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let (given, copies) = (Arc::clone(&self.bytes), self.copies.load(Ordering::Relaxed));
        let bytes = result.into_stream().map(move |bytes| {
            let bytes = bytes?;
            let len = bytes.len() - usize::from(breaks_off && !bytes.is_empty());
            let bytes = if is_garbled { bytes.iter().map(|byte| !byte).collect() } else { bytes };
            let bytes = if copies { Bytes::copy_from_slice(&bytes[..len]) } else { bytes.slice(..len) };
            Ok(Held::give(bytes, &given))
        });
        Ok(GetResult { payload: GetResultPayload::Stream(bytes.boxed()), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, delay) = (self.inner.clone(), self.delay.clone());
        let delete = move |locations: Vec<Result<Path>>| {
            let deleted = inner.delete_stream(futures::stream::iter(locations).boxed());
            let delay = delay.clone();
            async move { delay.pass().await }.map(|()| deleted).flatten_stream()
        };
        locations.chunks(DELETED).flat_map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count(&self.lists, || format!("LIST {prefix:?}"));
        let (listed, delay) = (self.inner.list(prefix), self.delay.clone());
        async move { delay.pass().await }.map(|()| listed).flatten_stream().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count(&self.lists, || format!("LIST {prefix:?}"));
        let (listed, delay) = (self.inner.list_with_offset(prefix, offset), self.delay.clone());
        async move { delay.pass().await }.map(|()| listed).flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count(&self.lists, || format!("LIST {prefix:?}"));
        self.delay.pass().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.delay.pass().await;
        self.inner.copy_opts(from, to, options).await
    }
}

/// A file that is written in parts, each of which is a request.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    delay: Delay,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, delay) = (self.upload.put_part(data), self.delay.clone());
        async move {
            delay.pass().await;
            part.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.delay.pass().await;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.delay.pass().await;
        self.upload.abort().await
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}
