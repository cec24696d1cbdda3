//! Keys to rows: where they are, and what is there.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::future::try_join_all;

use super::reading::Reading;
use super::whereabouts::{GenerationPlace, Located, Place, locate, picked};
use crate::block_list::BlockLists;
use crate::error::Result;
use crate::key::Keys;
use crate::memtable::MemTableView;
use crate::source::{Found, PointSource};
use crate::version::Snapshot;

/// A lookup of keys in a snapshot, for plans.
#[derive(Debug)]
pub struct PointLookup {
    snapshot: Arc<Snapshot>,
    lists: Arc<BlockLists>,
    keys: Vec<ArrayRef>,
    lookahead: usize,
}

impl PointLookup {
    /// Looks up `keys`, the key columns in key order; while the keys of a generation are loaded, those of `lookahead` others
    /// are.
    pub fn new(snapshot: Arc<Snapshot>, lists: Arc<BlockLists>, keys: Vec<ArrayRef>, lookahead: usize) -> Self {
        Self { snapshot, lists, keys, lookahead }
    }
}

#[async_trait]
impl PointSource for PointLookup {
    fn label(&self) -> String {
        format!("keys={}", self.keys[0].len())
    }

    async fn lookup(&self, projection: &[usize], schema: &SchemaRef) -> Result<Found> {
        lookup((self.snapshot.as_ref(), self.lists.as_ref()), &self.keys, self.lookahead, projection, schema).await
    }
}

/// The live rows of `keys` (the key columns in key order, no NULL), projected, in the order of the keys; a key without
/// a live row is left out. While the keys of a generation are loaded, those of `lookahead` others are.
///
/// # Errors
/// `Invalid` if the columns are not the key's; whatever reading raises.
pub async fn lookup(
    (snapshot, lists): (&Snapshot, &BlockLists),
    keys: &[ArrayRef],
    lookahead: usize,
    projection: &[usize],
    schema: &SchemaRef,
) -> Result<Found> {
    let images = snapshot.version().base.schema().key().of_columns(keys)?;
    let Located { mut places, missing, probed, readings: loaded, mut work } =
        locate(snapshot, &images, lookahead).await?;
    let known: Vec<GenerationPlace> = loaded.iter().map(|(place, _)| *place).collect();
    let readings = readings(snapshot, &places, &known, !missing.is_empty());
    let from_base = match base_rows(snapshot, lists, &images, &missing).await? {
        InBase::At(rows) => {
            for (i, row) in rows {
                places[i] = Some(Place::Base { row });
            }
            None
        }
        InBase::Unknown => {
            let (rows, which) = snapshot.version().base.find(&picked(keys, &missing)?, projection).await?;
            Some((rows, which.into_iter().map(|w| missing[w]).collect()))
        }
    };
    let sources = 1 + snapshot.shards().map(|(s, memtables)| memtables.len() + s.generations.len()).sum::<usize>();
    let probed = probed + usize::from(!missing.is_empty());
    let rows = gather(snapshot, &places, from_base, projection, schema).await?;
    loaded.iter().map(|(_, reading)| reading).chain(&readings).for_each(|reading| reading.tell(&mut work));
    Ok(Found { rows, probed, skipped: sources - probed, work })
}

/// What is read of the generations that have rows at `places`, but for those `known` to be read, and of the base if it is
/// asked.
fn readings<'a>(
    snapshot: &'a Snapshot,
    places: &[Option<Place>],
    known: &[GenerationPlace],
    asks_base: bool,
) -> Vec<Reading<'a>> {
    let version = snapshot.version();
    let of_generation = |place: &Place| match *place {
        Place::Generation { shard, generation, .. } => Some((shard, generation)),
        Place::MemTable { .. } | Place::Base { .. } => None,
    };
    let generations = places.iter().flatten().filter_map(of_generation).filter(|place| !known.contains(place));
    let mut generations: Vec<GenerationPlace> = generations.collect();
    generations.sort_unstable();
    generations.dedup();
    let generations =
        generations.into_iter().map(move |(shard, place)| version.shards[shard].generations[place].handle());
    let base = asks_base.then(|| version.base.handle());
    generations.chain(base).map(|handle| Reading::begin(handle)).collect()
}

/// Whether each of `keys` (the key columns in key order, no NULL) has a live row.
///
/// # Errors
/// As [`lookup`].
pub async fn present(
    (snapshot, lists): (&Snapshot, &BlockLists),
    keys: &[ArrayRef],
    lookahead: usize,
) -> Result<Vec<bool>> {
    let images = snapshot.version().base.schema().key().of_columns(keys)?;
    let Located { places, missing, .. } = locate(snapshot, &images, lookahead).await?;
    let mut present: Vec<bool> = places.iter().map(Option::is_some).collect();
    match base_rows(snapshot, lists, &images, &missing).await? {
        InBase::At(rows) => rows.iter().for_each(|(i, _)| present[*i] = true),
        InBase::Unknown => {
            let (_, which) = snapshot.version().base.find(&picked(keys, &missing)?, &[]).await?;
            which.into_iter().for_each(|w| present[missing[w]] = true);
        }
    }
    Ok(present)
}

/// What is known of keys in the base without reading rows.
enum InBase {
    /// Which of them are there, and in which rows.
    At(Vec<(usize, u64)>),
    /// Nothing: the base's keys are not resident.
    Unknown,
}

async fn base_rows(snapshot: &Snapshot, lists: &BlockLists, images: &Keys, missing: &[usize]) -> Result<InBase> {
    let base = &snapshot.version().base;
    if missing.is_empty() || base.rows() == 0 {
        return Ok(InBase::At(Vec::new()));
    }
    if !lists.may_hold_keys_of(base) {
        return Ok(InBase::Unknown);
    }
    let map = lists.base_keys(base).await?;
    let row = |i: &usize| {
        let key = images.get(*i);
        Some((*i, map.get(key, key.hash())?))
    };
    Ok(InBase::At(missing.iter().filter_map(row).collect()))
}

/// Takes the rows, source by source, and brings them into the order of the keys.
async fn gather(
    snapshot: &Snapshot,
    places: &[Option<Place>],
    from_base: Option<(RecordBatch, Vec<usize>)>,
    projection: &[usize],
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    if from_base.is_none()
        && let Some((memtable, rows)) = in_one_memtable(snapshot, places)
    {
        return memtable.take(&rows, projection, schema);
    }
    let mut found: Vec<(usize, Place)> = places.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    found.sort_by_key(|(_, place)| *place);
    let mut order = Vec::with_capacity(found.len());
    let same_source = |a: &Place, b: &Place| match (a, b) {
        (Place::MemTable { shard: s, memtable: m, .. }, Place::MemTable { shard: t, memtable: n, .. }) => {
            (s, m) == (t, n)
        }
        (Place::Generation { shard: s, generation: g, .. }, Place::Generation { shard: t, generation: h, .. }) => {
            (s, g) == (t, h)
        }
        (Place::Base { .. }, Place::Base { .. }) => true,
        _ => false,
    };
    let of_source = |group: &[(usize, Place)]| {
        order.extend(group.iter().map(|(i, _)| *i));
        let rows = group.iter().map(|(_, place)| match place {
            Place::Generation { row, .. } | Place::Base { row } => *row,
            Place::MemTable { row, .. } => *row as u64,
        });
        let (rows, place): (Vec<u64>, Place) = (rows.collect(), group[0].1);
        async move {
            let rows = match place {
                Place::MemTable { shard, memtable, .. } => {
                    let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
                    snapshot.memtables(shard)[memtable].take(&rows, projection, schema)?
                }
                Place::Generation { shard, generation, .. } => {
                    snapshot.version().shards[shard].generations[generation].take(&rows, projection).await?
                }
                Place::Base { .. } => snapshot.version().base.take(&rows, projection).await?,
            };
            relabelled(rows, schema)
        }
    };
    let taking: Vec<_> = found.chunk_by(|(_, a), (_, b)| same_source(a, b)).map(of_source).collect();
    let mut batches = try_join_all(taking).await?;
    if let Some((rows, which)) = from_base {
        batches.push(relabelled(rows, schema)?);
        order.extend(which);
    }
    let all = concat_batches(schema, &batches)?;
    if order.is_sorted() {
        return Ok(all);
    }
    let mut indices: Vec<u32> = (0..order.len() as u32).collect();
    indices.sort_by_key(|i| order[*i as usize]);
    let indices = UInt32Array::from(indices);
    let columns = all.columns().iter().map(|c| Ok(take(c, &indices, None)?)).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The rows that were found, in the order of the keys, if there are some and all are in one memtable.
fn in_one_memtable<'a>(snapshot: &'a Snapshot, places: &[Option<Place>]) -> Option<(&'a MemTableView, Vec<usize>)> {
    let mut found = None;
    let mut rows = Vec::with_capacity(places.len());
    for place in places.iter().flatten() {
        let Place::MemTable { shard, memtable, row } = place else { return None };
        if *found.get_or_insert((*shard, *memtable)) != (*shard, *memtable) {
            return None;
        }
        rows.push(*row);
    }
    let (shard, memtable) = found?;
    Some((&snapshot.memtables(shard)[memtable], rows))
}

fn relabelled(rows: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.schema_ref() == schema {
        return Ok(rows);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)?)
}

/// The projected logical schema.
pub(super) fn projected(schema: &Schema, projection: &[usize]) -> SchemaRef {
    Arc::new(Schema::new(projection.iter().map(|&i| Arc::clone(&schema.fields()[i])).collect::<Vec<_>>()))
}
