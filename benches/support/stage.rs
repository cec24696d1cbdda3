//! A table in a bucket as it was after some of its generations, each stage a fork of the one before.

use std::path::Path as Dir;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::Result;
use super::place::Place;
use super::remote::Bucket;

/// Where a bucket has its table.
const TABLE: &str = "table";

/// A bucket with the files below `dir` as its table.
pub(crate) async fn loaded(dir: &Dir) -> Result<Arc<Bucket>> {
    let (bucket, _) = Bucket::new();
    bucket.silence();
    load(&bucket, dir).await?;
    Ok(bucket)
}

/// What `grow` makes of the table in `earlier`, in another bucket.
pub(crate) async fn grown(earlier: &Bucket, grow: impl AsyncFnOnce(&str) -> Result<()>) -> Result<Arc<Bucket>> {
    let (bucket, uri) = earlier.fork();
    grow(&uri).await?;
    Ok(bucket)
}

/// The same, of which an earlier run may have kept on disk what there is beside `earlier`.
pub(crate) async fn kept(
    (place, label): (&Place, &str),
    earlier: &Bucket,
    grow: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<Arc<Bucket>> {
    let make = async |dir: &Dir| {
        let bucket = grown(earlier, grow).await?;
        save(&bucket, earlier, dir).await?;
        bucket.remove();
        Ok(())
    };
    let dir = place.built(label, make).await?;
    let (bucket, _) = earlier.fork();
    load(&bucket, &dir).await?;
    Ok(bucket)
}

/// Puts the files below `dir` into the table of `bucket`.
async fn load(bucket: &Bucket, dir: &Dir) -> Result<()> {
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry?;
        if entry.file_type().is_file() && !Place::is_mark(entry.path()) {
            let names = entry.path().strip_prefix(dir)?.iter().filter_map(|name| name.to_str());
            let path = names.fold(Path::from(TABLE), |path, name| path.join(name));
            bucket.objects().put(&path, std::fs::read(entry.path())?.into()).await?;
        }
    }
    Ok(())
}

/// Writes below `dir` the objects of the table in `bucket` that `earlier` does not have, or has in another version.
async fn save(bucket: &Bucket, earlier: &Bucket, dir: &Dir) -> Result<()> {
    let objects: Vec<_> = bucket.objects().list(Some(&Path::from(TABLE))).try_collect().await?;
    for object in objects {
        let before = earlier.objects().head(&object.location).await;
        if before.is_ok_and(|before| before.e_tag == object.e_tag) {
            continue;
        }
        let names = object.location.parts().skip(1);
        let file = names.fold(dir.to_path_buf(), |dir, name| dir.join(name.as_ref()));
        std::fs::create_dir_all(file.parent().ok_or("a file is in a directory")?)?;
        std::fs::write(file, bucket.objects().get(&object.location).await?.bytes().await?)?;
    }
    Ok(())
}
