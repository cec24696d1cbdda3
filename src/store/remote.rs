//! A table directory in an object store, reached through Lance so that both see the same bytes and credentials.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lance_io::object_store::{ObjectStore, ObjectStoreRegistry};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::failure::{from_lance, from_object_store};
use super::{Put, StoreOptions};
use crate::error::{Error, Result};

/// The object stores of this process. Lance sessions must share it: a `memory://` location is one store only there.
pub fn registry() -> Arc<ObjectStoreRegistry> {
    static REGISTRY: LazyLock<Arc<ObjectStoreRegistry>> = LazyLock::new(Arc::default);
    Arc::clone(&REGISTRY)
}

/// Fails if `uri` needs a feature that this build does not have: Lance would say that it knows no such scheme.
fn check_scheme(uri: &str) -> Result<()> {
    let feature = match uri.split_once("://") {
        Some(("s3" | "s3a" | "s3+ddb", _)) if !cfg!(feature = "aws") => "aws",
        Some(("gs", _)) if !cfg!(feature = "gcp") => "gcp",
        Some(("az" | "abfss", _)) if !cfg!(feature = "azure") => "azure",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!(
        "this build has no such object store: build datafusion-lsm with the feature '{feature}'"
    ))
    .with_context("location", uri))
}

#[derive(Debug)]
pub(super) struct Remote {
    store: Arc<ObjectStore>,
    base: Path,
}

impl Remote {
    pub(super) async fn open(uri: &str, options: &StoreOptions) -> Result<Self> {
        let params = options.params(uri);
        check_scheme(uri)?;
        let (store, base) = ObjectStore::from_uri_and_params(registry(), uri, &params).await.map_err(from_lance)?;
        Ok(Self { store, base })
    }

    fn path(&self, path: &str) -> Path {
        path.split('/').filter(|part| !part.is_empty()).fold(self.base.clone(), |base, part| base.join(part))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let result = async { self.store.inner.get(&self.path(path)).await?.bytes().await }.await;
        absent_as_none(result).map_err(|e| from_object_store(e, "reading", path))
    }

    pub(super) async fn exists(&self, path: &str) -> Result<bool> {
        let head = absent_as_none(self.store.inner.head(&self.path(path)).await);
        Ok(head.map_err(|e| from_object_store(e, "looking for", path))?.is_some())
    }

    pub(super) async fn list(&self, dir: &str, dirs: bool) -> Result<Vec<String>> {
        let prefix = self.path(dir);
        let listing = absent_as_none(self.store.inner.list_with_delimiter(Some(&prefix)).await)
            .map_err(|e| from_object_store(e, "listing", dir))?;
        let Some(listing) = listing else { return Ok(Vec::new()) };
        let name = |path: &Path| path.filename().map(str::to_string);
        Ok(if dirs {
            listing.common_prefixes.iter().filter_map(name).collect()
        } else {
            listing.objects.iter().filter_map(|object| name(&object.location)).collect()
        })
    }

    pub(super) async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        if self.store.scheme() == "cos" {
            return Err(Error::invalid(
                "Tencent COS does not create objects reliably without replacing: choose another store",
            ));
        }
        let options = PutOptions::from(PutMode::Create);
        match self.store.inner.put_opts(&self.path(path), PutPayload::from(bytes), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Put::Exists)
            }
            Err(error) => Err(from_object_store(error, "creating", path)),
        }
    }

    pub(super) async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let put = self.store.inner.put(&self.path(path), PutPayload::from(bytes)).await;
        put.map(drop).map_err(|e| from_object_store(e, "writing", path))
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        let deleted = absent_as_none(self.store.inner.delete(&self.path(path)).await);
        deleted.map(drop).map_err(|e| from_object_store(e, "deleting", path))
    }

    pub(super) async fn delete_dir(&self, dir: &str) -> Result<()> {
        let objects = self.store.inner.list(Some(&self.path(dir))).map_ok(|object| object.location).boxed();
        let mut deleted = self.store.inner.delete_stream(objects);
        while let Some(result) = deleted.next().await {
            absent_as_none(result).map_err(|e| from_object_store(e, "deleting", dir))?;
        }
        Ok(())
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let moved = self.store.inner.rename(&self.path(from), &self.path(to)).await;
        moved.map_err(|e| from_object_store(e, "moving", from))
    }
}

fn absent_as_none<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
