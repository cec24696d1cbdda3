//! A store in memory, reached as one over a network is: it counts what it is asked for.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use datafusion_lsm::store::registry;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance_core::Result as LanceResult;
use lance_io::object_store::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreProvider};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use url::Url;

/// A scheme that Lance commits to by conditional puts, and no store of this build has.
const SCHEME: &str = "tos";
/// Bytes that are read at once, as from stores in a cloud.
const BLOCK: usize = 64 << 10;

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
    /// Of so many reads one breaks off before its last byte.
    Short(u64),
    /// Nothing is answered but that it is not.
    Down,
}

/// A store in memory that counts requests.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    inner: InMemory,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    /// What was read, for who wants to know why.
    read: Mutex<Vec<String>>,
    weather: Mutex<Weather>,
    asked: AtomicU64,
}

impl Bucket {
    /// A new one, and where a table may be in it.
    pub(crate) fn new() -> (Arc<Self>, String) {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let bucket = Arc::new(Self::default());
        BUCKETS.lock().unwrap().insert(name.clone(), Arc::clone(&bucket));
        (bucket, format!("{SCHEME}://{name}/table"))
    }

    /// Starts to count anew; what was asked for until now.
    pub(crate) fn reset(&self) -> (Requests, Vec<String>) {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let requests = Requests { gets: take(&self.gets), heads: take(&self.heads), lists: take(&self.lists) };
        (requests, std::mem::take(&mut self.read.lock().unwrap()))
    }

    /// From now on things go wrong so.
    pub(crate) fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// Gives all objects whose names end so another content, or deletes them.
    pub(crate) async fn replace(&self, suffix: &str, content: Option<&'static [u8]>) {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        for object in all.into_iter().filter(|object| object.location.as_ref().ends_with(suffix)) {
            match content {
                Some(content) => drop(self.inner.put(&object.location, content.into()).await.unwrap()),
                None => self.inner.delete(&object.location).await.unwrap(),
            }
        }
    }

    fn count(&self, counter: &AtomicU64, what: String) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.read.lock().unwrap().push(what);
    }
}

#[derive(Debug)]
struct Provider;

#[async_trait]
impl ObjectStoreProvider for Provider {
    async fn new_store(&self, url: Url, _: &ObjectStoreParams) -> LanceResult<LanceStore> {
        let bucket = Arc::clone(BUCKETS.lock().unwrap().entry(url.authority().to_string()).or_default());
        Ok(LanceStore::new(bucket, url, Some(BLOCK), None, false, true, 64, 3, None))
    }

    fn extract_path(&self, url: &Url) -> LanceResult<Path> {
        Ok(Path::from(url.path().trim_start_matches('/')))
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match options.head {
            true => self.count(&self.heads, format!("HEAD {location}")),
            false => self.count(&self.gets, format!("GET {location} {:?}", options.range)),
        }
        let refused = |why: &str| Error::Generic { store: "Bucket", source: format!("{why}: {location}").into() };
        let weather = *self.weather.lock().unwrap();
        let is_due = |every: u64| self.asked.fetch_add(1, Ordering::Relaxed) % every == every - 1;
        match weather {
            Weather::Down => return Err(refused("500 Internal Server Error")),
            Weather::Busy(every) if is_due(every) => return Err(refused("503 Slow Down")),
            _ => {}
        }
        let mut result = self.inner.get_opts(location, options).await?;
        if matches!(weather, Weather::Short(every) if is_due(every)) && !result.range.is_empty() {
            let range = result.range.clone();
            let meta = result.meta.clone();
            let bytes = result.bytes().await?;
            let short = bytes.slice(..bytes.len() - 1);
            let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(short) }).boxed());
            result = GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() };
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count(&self.lists, format!("LIST {prefix:?}"));
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count(&self.lists, format!("LIST {prefix:?}"));
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count(&self.lists, format!("LIST {prefix:?}"));
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}
