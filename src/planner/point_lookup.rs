//! Keys to rows: each key is asked of the newest source first and of no older one than the first that holds it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::future::try_join_all;

use super::reading::Reading;
use crate::block_list::BlockLists;
use crate::error::Result;
use crate::key::Keys;
use crate::memtable::MemTableView;
use crate::source::{Found, PointSource, Work};
use crate::version::{ShardVersion, Snapshot};

/// A lookup of keys in a snapshot, for plans.
#[derive(Debug)]
pub struct PointLookup {
    snapshot: Arc<Snapshot>,
    lists: Arc<BlockLists>,
    keys: Vec<ArrayRef>,
}

impl PointLookup {
    /// Looks up `keys`, the key columns in key order.
    pub fn new(snapshot: Arc<Snapshot>, lists: Arc<BlockLists>, keys: Vec<ArrayRef>) -> Self {
        Self { snapshot, lists, keys }
    }
}

#[async_trait]
impl PointSource for PointLookup {
    fn label(&self) -> String {
        format!("keys={}", self.keys[0].len())
    }

    async fn lookup(&self, projection: &[usize], schema: &SchemaRef) -> Result<Found> {
        lookup(&self.snapshot, &self.lists, &self.keys, projection, schema).await
    }
}

/// Where the newest row of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    MemTable { shard: usize, memtable: usize, row: usize },
    Generation { shard: usize, generation: usize, row: u64 },
    Base { row: u64 },
}

impl Place {
    /// What the source is called, as in EXPLAIN; of the base not which version of it.
    fn name(&self, snapshot: &Snapshot) -> String {
        let (shard, name) = match *self {
            Self::MemTable { shard, memtable, .. } => {
                (shard, format!("memtable {}", snapshot.memtables(shard)[memtable].generation()))
            }
            Self::Generation { shard, generation, .. } => {
                (shard, format!("generation {}", snapshot.version().shards[shard].generations[generation].id()))
            }
            Self::Base { .. } => return "base".into(),
        };
        if snapshot.version().shards.len() > 1 { format!("shard {shard}, {name}") } else { name }
    }
}

/// The live rows of `keys` (the key columns in key order, no NULL), projected, in the order of the keys; a key without
/// a live row is left out.
///
/// # Errors
/// `Invalid` if the columns are not the key's; whatever reading raises.
pub async fn lookup(
    snapshot: &Snapshot,
    lists: &BlockLists,
    keys: &[ArrayRef],
    projection: &[usize],
    schema: &SchemaRef,
) -> Result<Found> {
    let images = snapshot.version().base.schema().key().of_columns(keys)?;
    let Located { mut places, missing, probed } = locate_fresh(snapshot, &images)?;
    let readings = readings(snapshot, &places, !missing.is_empty());
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
    let mut work = Work::default();
    readings.iter().for_each(|reading| reading.tell(&mut work));
    Ok(Found { rows, probed, skipped: sources - probed, work })
}

/// What is read of the generations that have rows at `places`, and of the base if it is asked.
fn readings<'a>(snapshot: &'a Snapshot, places: &[Option<Place>], asks_base: bool) -> Vec<Reading<'a>> {
    let version = snapshot.version();
    let of_generation = |place: &Place| match *place {
        Place::Generation { shard, generation, .. } => Some((shard, generation)),
        Place::MemTable { .. } | Place::Base { .. } => None,
    };
    let mut generations: Vec<(usize, usize)> = places.iter().flatten().filter_map(of_generation).collect();
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
pub async fn present(snapshot: &Snapshot, lists: &BlockLists, keys: &[ArrayRef]) -> Result<Vec<bool>> {
    let images = snapshot.version().base.schema().key().of_columns(keys)?;
    let Located { places, missing, .. } = locate_fresh(snapshot, &images)?;
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

/// What the source is called that each of `keys` (the key columns in key order) is in: where the newest row of the key
/// is, or the base if it is in no memtable and in no generation, without looking there. NULL for a key that is deleted,
/// and for one with a NULL in it.
///
/// # Errors
/// `Invalid` if the columns are not the key's; why a shard is damaged.
pub fn source_names(snapshot: &Snapshot, keys: &[ArrayRef]) -> Result<StringArray> {
    let nulls =
        keys.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
    let rows = keys.first().map_or(0, |column| column.len());
    let whole: Vec<usize> = (0..rows).filter(|row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row))).collect();
    let images = snapshot.version().base.schema().key().of_columns(&picked(keys, &whole)?)?;
    let Located { places, missing, .. } = locate_fresh(snapshot, &images)?;
    let mut names: Vec<Option<String>> = vec![None; rows];
    for (row, place) in whole.iter().zip(&places) {
        names[*row] = place.as_ref().map(|place| place.name(snapshot));
    }
    for i in missing {
        names[whole[i]] = Some("base".into());
    }
    Ok(names.into())
}

/// Where keys are outside the base.
struct Located {
    places: Vec<Option<Place>>,
    /// Keys that no source but the base can hold.
    missing: Vec<usize>,
    /// Sources that were asked for the key that took most.
    probed: usize,
}

fn locate_fresh(snapshot: &Snapshot, images: &Keys) -> Result<Located> {
    let mut located = Located { places: vec![None; images.len()], missing: Vec::new(), probed: 0 };
    for i in 0..images.len() {
        let (whereabouts, probed) = find_fresh(snapshot, images, i)?;
        located.probed = located.probed.max(probed);
        match whereabouts {
            Whereabouts::Row(place) => located.places[i] = Some(place),
            Whereabouts::Deleted => {}
            Whereabouts::Nowhere => located.missing.push(i),
        }
    }
    if !located.missing.is_empty() {
        snapshot.check()?;
    }
    Ok(located)
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

fn picked(keys: &[ArrayRef], rows: &[usize]) -> Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from_iter_values(rows.iter().map(|i| *i as u32));
    keys.iter().map(|c| Ok(take(c, &rows, None)?)).collect()
}

enum Whereabouts {
    Row(Place),
    Deleted,
    Nowhere,
}

/// Looks for key `i` in every source but the base. All shards are asked: the shard of a key is a matter of writing.
fn find_fresh(snapshot: &Snapshot, keys: &Keys, i: usize) -> Result<(Whereabouts, usize)> {
    let key = keys.get(i);
    let hash = key.hash();
    let mut probed = 0;
    for (s, (shard, memtables)) in snapshot.shards().enumerate() {
        for (m, memtable) in memtables.iter().enumerate() {
            probed += 1;
            match memtable.find(key, hash) {
                Some((_, true)) => return found(shard, Whereabouts::Deleted, probed),
                Some((row, false)) => {
                    return found(shard, Whereabouts::Row(Place::MemTable { shard: s, memtable: m, row }), probed);
                }
                None => {}
            }
        }
        for (g, generation) in shard.generations.iter().enumerate() {
            probed += 1;
            if let Some(row) = generation.keys().get(key, hash) {
                if generation.keys().tombstones().contains(row) {
                    return found(shard, Whereabouts::Deleted, probed);
                }
                return found(shard, Whereabouts::Row(Place::Generation { shard: s, generation: g, row }), probed);
            }
        }
    }
    Ok((Whereabouts::Nowhere, probed))
}

/// A damaged shard may hold a newer version of the key where it cannot be read.
fn found(shard: &ShardVersion, whereabouts: Whereabouts, probed: usize) -> Result<(Whereabouts, usize)> {
    match &shard.damage {
        Some(error) => Err(error.clone()),
        None => Ok((whereabouts, probed)),
    }
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
