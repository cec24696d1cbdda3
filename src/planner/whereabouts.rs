//! Where the newest row of each of some keys is, outside the base: all keys of a lookup are asked of one source after the
//! other, newest first, and no key of an older one than the first that holds it.
//!
//! What tells which keys a generation can have goes before its keys: these are loaded if one of the keys may be there, and
//! with them those of the next generations of which the same is true.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::reading::Reading;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::key::{KeyMap, KeyRef, Keys};
use crate::source::{Preparation, Work};
use crate::version::Snapshot;

/// Where the newest row of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In a memtable, by position.
    MemTable { shard: usize, memtable: usize, row: usize },
    /// In a generation, by row id.
    Generation { shard: usize, generation: usize, row: u64 },
    /// In the base, by row id.
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

/// A generation of a snapshot: its shard's place, and its own among the generations of that.
pub(super) type GenerationPlace = (usize, usize);

/// Where keys are outside the base.
pub(super) struct Located<'a> {
    pub(super) places: Vec<Option<Place>>,
    /// Keys that no source but the base can hold.
    pub(super) missing: Vec<usize>,
    /// Sources that were asked for at least one key.
    pub(super) probed: usize,
    /// What is read of generations whose keys were not in memory.
    pub(super) readings: Vec<(GenerationPlace, Reading<'a>)>,
    /// What it took to know which of these to load.
    pub(super) work: Work,
}

/// A source that is asked for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    MemTable(usize, usize),
    Generation(GenerationPlace),
}

/// Keys on their way through the sources.
struct Search<'a> {
    snapshot: &'a Snapshot,
    keys: &'a Keys,
    hashes: Vec<u64>,
    places: Vec<Option<Place>>,
    /// Keys that no source held so far.
    open: Vec<usize>,
    probed: usize,
}

impl<'a> Search<'a> {
    fn new(snapshot: &'a Snapshot, keys: &'a Keys) -> Self {
        Self {
            snapshot,
            keys,
            hashes: keys.iter().map(|key| key.hash()).collect(),
            places: vec![None; keys.len()],
            open: (0..keys.len()).collect(),
            probed: 0,
        }
    }

    /// All sources but the base in the order in which they are asked. All shards are: the shard of a key is a matter of
    /// writing.
    fn sources(&self) -> Vec<Asked> {
        let mut sources = Vec::new();
        for (s, (shard, memtables)) in self.snapshot.shards().enumerate() {
            sources.extend((0..memtables.len()).map(|m| Asked::MemTable(s, m)));
            sources.extend((0..shard.generations.len()).map(|g| Asked::Generation((s, g))));
        }
        sources
    }

    fn generation(&self, (shard, generation): GenerationPlace) -> &'a Arc<Generation> {
        let snapshot = self.snapshot;
        &snapshot.version().shards[shard].generations[generation]
    }

    /// Whether a generation may have a key that is not found yet.
    fn may_be_in(&self, generation: &Generation) -> bool {
        self.open.iter().any(|&i| generation.may_hold(self.keys.get(i), self.hashes[i]))
    }

    /// Asks a source of a shard: `find` tells where it has a key with a hash, and whether as a tombstone.
    ///
    /// # Errors
    /// A damaged shard may hold a newer version of a key where it cannot be read.
    fn ask(&mut self, shard: usize, find: impl Fn(KeyRef<'_>, u64) -> Option<(Place, bool)>) -> Result<()> {
        let (before, places) = (self.open.len(), &mut self.places);
        self.open.retain(|&i| match find(self.keys.get(i), self.hashes[i]) {
            Some((place, is_deleted)) => {
                places[i] = (!is_deleted).then_some(place);
                false
            }
            None => true,
        });
        match &self.snapshot.version().shards[shard].damage {
            Some(error) if self.open.len() < before => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn ask_memtable(&mut self, shard: usize, memtable: usize) -> Result<()> {
        let snapshot = self.snapshot;
        let view = &snapshot.memtables(shard)[memtable];
        self.ask(shard, |key, hash| {
            let (row, is_deleted) = view.find(key, hash)?;
            Some((Place::MemTable { shard, memtable, row }, is_deleted))
        })
    }

    fn ask_generation(&mut self, (shard, generation): GenerationPlace, map: &KeyMap) -> Result<()> {
        self.ask(shard, |key, hash| {
            let row = map.get(key, hash)?;
            Some((Place::Generation { shard, generation, row }, map.tombstones().contains(row)))
        })
    }

    fn located(self, readings: Vec<(GenerationPlace, Reading<'a>)>, work: Work) -> Result<Located<'a>> {
        if !self.open.is_empty() {
            self.snapshot.check()?;
        }
        Ok(Located { places: self.places, missing: self.open, probed: self.probed, readings, work })
    }
}

/// Key maps on their way, each by the place of its generation.
#[derive(Default)]
struct Loading {
    begun: HashSet<GenerationPlace>,
    flying: FuturesUnordered<BoxFuture<'static, (GenerationPlace, Result<Arc<KeyMap>>)>>,
    done: HashMap<GenerationPlace, Result<Arc<KeyMap>>>,
}

impl Loading {
    /// Begins to load the keys of a generation, unless that was done. Whether it was not.
    fn begin(&mut self, place: GenerationPlace, generation: &Arc<Generation>) -> bool {
        let is_new = self.begun.insert(place);
        if is_new {
            let generation = Arc::clone(generation);
            self.flying.push(async move { (place, generation.keys().await) }.boxed());
        }
        is_new
    }

    /// The keys of a generation that was begun.
    async fn keys(&mut self, place: GenerationPlace) -> Result<Arc<KeyMap>> {
        loop {
            if let Some(keys) = self.done.remove(&place) {
                return keys;
            }
            match self.flying.next().await {
                Some((place, keys)) => drop(self.done.insert(place, keys)),
                None => return Err(Error::internal("keys are waited for that nobody loads")),
            }
        }
    }
}

/// Finds `keys`. Where the keys of a generation have to be loaded, those of the next `lookahead` that may have some of them
/// are loaded with it; what nobody needs in the end is not waited for.
///
/// # Errors
/// Why a shard is damaged; what loading keys raises.
pub(super) async fn locate<'a>(snapshot: &'a Snapshot, keys: &'a Keys, lookahead: usize) -> Result<Located<'a>> {
    let mut search = Search::new(snapshot, keys);
    let (mut loading, mut readings, mut work) = (Loading::default(), Vec::new(), Work::default());
    let sources = search.sources();
    for (at, source) in sources.iter().enumerate() {
        if search.open.is_empty() {
            break;
        }
        search.probed += 1;
        let place = match *source {
            Asked::MemTable(shard, memtable) => {
                search.ask_memtable(shard, memtable)?;
                continue;
            }
            Asked::Generation(place) => place,
        };
        let generation = search.generation(place);
        if let Some(map) = generation.known_keys() {
            search.ask_generation(place, map)?;
            continue;
        }
        let may_be_there = search.may_be_in(generation);
        work.add("filters_asked", 1);
        work.add("filtered_out", usize::from(!may_be_there));
        if !may_be_there {
            continue;
        }
        let next = sources[at + 1..].iter().filter_map(|source| match source {
            Asked::Generation(place) => Some(*place),
            Asked::MemTable(..) => None,
        });
        let is_wanted = |place: &GenerationPlace| {
            let generation = search.generation(*place);
            generation.known_keys().is_none() && search.may_be_in(generation)
        };
        for place in std::iter::once(place).chain(next.filter(is_wanted).take(lookahead)) {
            let generation = search.generation(place);
            // Before it is asked for anything.
            let reading = Reading::begin(generation.handle());
            if loading.begin(place, generation) {
                readings.push((place, reading));
            }
        }
        let map = loading.keys(place).await?;
        search.ask_generation(place, &map)?;
    }
    search.located(readings, work)
}

/// What the source is called that each of `keys` (the key columns in key order) is in: where the newest row of the key
/// is, or the base if it is in no memtable and in no generation, without looking there. NULL for a key that is deleted,
/// and for one with a NULL in it.
///
/// # Errors
/// `Invalid` if the columns are not the key's; why a shard is damaged; `Internal` if it takes keys of a generation that are
/// not in memory: a scan of the snapshot that is [told](super::ScanRequest::with_keys) loads all.
pub fn source_names(snapshot: &Snapshot, keys: &[ArrayRef]) -> Result<StringArray> {
    let nulls =
        keys.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
    let rows = keys.first().map_or(0, |column| column.len());
    let whole: Vec<usize> = (0..rows).filter(|row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row))).collect();
    let images = snapshot.version().base.schema().key().of_columns(&picked(keys, &whole)?)?;
    let Located { places, missing, .. } = locate_in_memory(snapshot, &images)?;
    let mut names: Vec<Option<String>> = vec![None; rows];
    for (row, place) in whole.iter().zip(&places) {
        names[*row] = place.as_ref().map(|place| place.name(snapshot));
    }
    for i in missing {
        names[whole[i]] = Some("base".into());
    }
    Ok(names.into())
}

/// As [`locate`], without loading anything.
fn locate_in_memory<'a>(snapshot: &'a Snapshot, keys: &'a Keys) -> Result<Located<'a>> {
    let mut search = Search::new(snapshot, keys);
    for source in search.sources() {
        if search.open.is_empty() {
            break;
        }
        match source {
            Asked::MemTable(shard, memtable) => search.ask_memtable(shard, memtable)?,
            Asked::Generation(place) => {
                let generation = search.generation(place);
                match generation.known_keys() {
                    Some(map) => search.ask_generation(place, map)?,
                    None if search.may_be_in(generation) => {
                        return Err(Error::internal("keys are asked for before they are loaded"));
                    }
                    None => {}
                }
            }
        }
    }
    search.located(Vec::new(), Work::default())
}

/// The rows of key columns at `rows`.
pub(super) fn picked(keys: &[ArrayRef], rows: &[usize]) -> Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from_iter_values(rows.iter().map(|i| *i as u32));
    keys.iter().map(|c| Ok(take(c, &rows, None)?)).collect()
}

/// Loads the keys of all generations of a snapshot before rows come out of which somebody asks [where](source_names) they
/// are.
#[derive(Debug)]
pub(super) struct KeyLoading {
    snapshot: Arc<Snapshot>,
}

impl KeyLoading {
    /// What is to be done; nothing if all keys are in memory.
    pub(super) fn of(snapshot: &Arc<Snapshot>) -> Option<Self> {
        let loading = Self { snapshot: Arc::clone(snapshot) };
        let is_needed = loading.unloaded().next().is_some();
        is_needed.then_some(loading)
    }

    fn unloaded(&self) -> impl Iterator<Item = &Arc<Generation>> {
        let all = self.snapshot.version().shards.iter().flat_map(|shard| &shard.generations);
        all.filter(|generation| generation.known_keys().is_none())
    }
}

#[async_trait]
impl Preparation for KeyLoading {
    fn label(&self) -> String {
        "keys of generations".into()
    }

    async fn prepare(&self) -> Result<Work> {
        let unloaded: Vec<Arc<Generation>> = self.unloaded().cloned().collect();
        let readings: Vec<Reading<'_>> =
            unloaded.iter().map(|generation| Reading::begin(generation.handle())).collect();
        Generation::keys_of(unloaded.iter().cloned()).await?;
        let mut work = Work::default();
        readings.iter().for_each(|reading| reading.tell(&mut work));
        Ok(work)
    }
}
