//! A store in memory, reached as one over a network is, whose reads of data wait for a gate and fail on demand. It counts
//! the bytes that were asked for until their last reference is gone.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion_lsm::store::registry;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use lance_core::Result as LanceResult;
use lance_io::object_store::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreProvider};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;
use url::Url;

use super::remote::Entered;

/// A scheme that Lance commits to by conditional puts, and no store of this build has.
const SCHEME: &str = "oss";
const BLOCK: usize = 64 << 10;

static STORES: LazyLock<Mutex<HashMap<String, Arc<Gated>>>> = LazyLock::new(|| {
    registry().insert(SCHEME, Arc::new(Provider));
    Mutex::default()
});

/// Bytes that were asked for and are not gone.
#[derive(Debug, Default)]
pub(crate) struct Held {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Held {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    /// The most since this was last asked.
    pub(crate) fn peak(&self) -> usize {
        self.peak.swap(self.now(), Ordering::SeqCst)
    }

    fn add(self: &Arc<Self>, bytes: usize) -> Count {
        let now = self.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.peak.fetch_max(now, Ordering::SeqCst);
        Count(Arc::clone(self), bytes)
    }
}

/// So many bytes until it is dropped.
#[derive(Debug)]
struct Count(Arc<Held>, usize);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Ordering::SeqCst);
    }
}

struct Counted(Bytes, #[expect(dead_code, reason = "it counts until it is dropped")] Count);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A store whose reads of data can be held up.
#[derive(Debug)]
pub(crate) struct Gated {
    inner: InMemory,
    gate: watch::Sender<bool>,
    pub(crate) held: Arc<Held>,
    under_way: AtomicUsize,
    fails: AtomicBool,
    /// How long the next read takes, and how much longer the one after it.
    latency: Mutex<(Duration, Duration)>,
}

impl Gated {
    /// A new one, and where a dataset may be in it.
    pub(crate) fn new() -> (Arc<Self>, String) {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let gated = Arc::new(Self {
            inner: InMemory::new(),
            gate: watch::Sender::new(true),
            held: Arc::default(),
            under_way: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            latency: Mutex::default(),
        });
        STORES.lock().unwrap().insert(name.clone(), Arc::clone(&gated));
        (gated, format!("{SCHEME}://{name}/dataset"))
    }

    /// Reads of data wait, or go on.
    pub(crate) fn open(&self, is_open: bool) {
        self.gate.send_replace(is_open);
    }

    /// Reads of data fail from now on, or do not.
    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// Reads of data take so long from now on.
    pub(crate) fn delay(&self, latency: Duration) {
        *self.latency.lock().unwrap() = (latency, Duration::ZERO);
    }

    /// Each read of data takes so much longer than the one before from now on.
    pub(crate) fn slow_down(&self, step: Duration) {
        *self.latency.lock().unwrap() = (step, step);
    }

    fn next_latency(&self) -> Duration {
        let mut latency = self.latency.lock().unwrap();
        let now = latency.0;
        let more = latency.1;
        latency.0 += more;
        now
    }

    /// How many reads of data wait.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    async fn read(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let under_way = Entered::new(&self.under_way);
        let meta = self.inner.get_opts(location, GetOptions { head: true, ..options.clone() }).await?.meta;
        let asked = options.range.as_ref().map_or(Ok(0..meta.size), |range| range.as_range(meta.size));
        let asked: Range<u64> = asked.map_err(|error| generic(&error.to_string()))?;
        let count = self.held.add((asked.end - asked.start) as usize);
        let latency = self.next_latency();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        // It is there as long as the store.
        let _ = self.gate.subscribe().wait_for(|is_open| *is_open).await;
        drop(under_way);
        if self.fails.load(Ordering::SeqCst) {
            return Err(generic("no such luck"));
        }
        let result = self.inner.get_opts(location, options).await?;
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let bytes = Bytes::from_owner(Counted(result.bytes().await?, count));
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }
}

fn generic(message: &str) -> Error {
    Error::Generic { store: "Gated", source: message.into() }
}

#[derive(Debug)]
struct Provider;

#[async_trait]
impl ObjectStoreProvider for Provider {
    async fn new_store(&self, url: Url, _: &ObjectStoreParams) -> LanceResult<LanceStore> {
        let gated = Arc::clone(&STORES.lock().unwrap()[url.authority()]);
        Ok(LanceStore::new(gated, url, Some(BLOCK), None, false, true, 64, 0, None))
    }

    fn extract_path(&self, url: &Url) -> LanceResult<Path> {
        Ok(Path::from(url.path().trim_start_matches('/')))
    }
}

#[async_trait]
impl ObjectStore for Gated {
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
        if options.head || !location.as_ref().contains("/data/") {
            return self.inner.get_opts(location, options).await;
        }
        self.read(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}
