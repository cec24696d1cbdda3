//! The store in memory that tests and benches reach as one over a network is: how long it takes and what it counts.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;

use crate::support::remote::Bucket;

/// How many delays of 10 ms some work takes.
async fn delays<T>(work: impl Future<Output = object_store::Result<T>>) -> u128 {
    let start = Instant::now();
    work.await.unwrap();
    start.elapsed().as_millis() / 10
}

#[tokio::test(start_paused = true)]
async fn a_store_takes_its_time_for_every_request() {
    let (bucket, _) = Bucket::new();
    let (a, b, c) = (Path::from("table/a"), Path::from("table/b"), Path::from("table/c"));
    let in_parts = async || {
        let mut upload = bucket.put_multipart(&b).await?;
        upload.put_part("one".into()).await?;
        upload.put_part("two".into()).await?;
        upload.complete().await
    };
    assert_eq!(delays(bucket.put(&a, "a".into())).await, 0);
    bucket.set_delay(Duration::from_millis(10));
    assert_eq!(delays(bucket.put(&a, "abc".into())).await, 1);
    assert_eq!(delays(in_parts()).await, 4);
    assert_eq!(delays(bucket.get(&a)).await, 1);
    assert_eq!(delays(bucket.head(&a)).await, 1);
    assert_eq!(delays(bucket.list(None).try_collect::<Vec<_>>()).await, 1);
    assert_eq!(delays(bucket.list_with_offset(None, &a).try_collect::<Vec<_>>()).await, 1);
    assert_eq!(delays(bucket.list_with_delimiter(None)).await, 1);
    assert_eq!(delays(bucket.copy(&a, &c)).await, 1);
    let requests = bucket.requests();
    assert_eq!((requests.gets, requests.heads, requests.lists), (1, 1, 3));

    let (fork, _) = bucket.fork();
    let several = futures::stream::iter([Ok(a.clone()), Ok(b)]).boxed();
    assert_eq!(delays(bucket.delete_stream(several).try_collect::<Vec<_>>()).await, 1);
    bucket.set_delay(Duration::ZERO);
    let left: Vec<_> = bucket.list(None).map_ok(|object| object.location).try_collect().await.unwrap();
    assert_eq!(left, [c]);
    // What is deleted in one is still in the other.
    assert_eq!(delays(fork.get(&a)).await, 0);
    assert_eq!((fork.requests().gets, bucket.requests().gets), (1, 1));
}

#[tokio::test]
async fn a_store_knows_what_is_held_of_what_it_gave() {
    let (bucket, _) = Bucket::new();
    let path = Path::from("table/a");
    bucket.put(&path, vec![7; 1_000].into()).await.unwrap();
    let read = async |range| bucket.get_range(&path, range).await.unwrap();
    let (first, second) = (read(0..600).await, read(600..1_000).await);
    // Who asks how large a file is gets nothing of it.
    bucket.head(&path).await.unwrap();
    assert_eq!((bucket.bytes_read(), bucket.bytes_held(), bucket.peak()), (1_000, 1_000, 1_000));
    let part = first.slice(10..20);
    drop((first, second));
    assert_eq!((bucket.bytes_held(), bucket.peak()), (600, 1_000));
    bucket.reset();
    assert_eq!((bucket.bytes_read(), bucket.bytes_held(), bucket.peak()), (0, 600, 600));
    let third = read(0..100).await;
    drop(part);
    assert_eq!((bucket.bytes_read(), bucket.bytes_held(), bucket.peak()), (100, 100, 700));
    drop(third);
    assert_eq!(bucket.bytes_held(), 0);
}
