//! The two engines take turns on one table, with random writes and an oracle.

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::lance_side::Lance;
use crate::support::key_type::KeyType;
use crate::support::number_from_env;
use crate::support::place::{Place, quiet};
use crate::support::rows::{self, Row, Rows};

const TURNS: u64 = 8;

/// One write of a turn: rows to put or keys to delete.
enum Write {
    Put(Vec<(u32, Row)>),
    Delete(Vec<u32>),
    Flush,
}

fn writes(random: &mut StdRng, next: &mut i64, rows: &mut Rows) -> Vec<Write> {
    let mut writes = Vec::new();
    for _ in 0..random.random_range(2..8) {
        writes.push(match random.random_range(0..6) {
            0 => Write::Flush,
            1 => {
                let keys = (0..100).choose_multiple(random, 6);
                keys.iter().for_each(|key| drop(rows.remove(key)));
                Write::Delete(keys)
            }
            _ => {
                let put: Vec<(u32, Row)> = (0..random.random_range(1..20))
                    .map(|_| {
                        *next += 1;
                        let s = random.random_bool(0.8).then(|| format!("row {next}"));
                        (random.random_range(0..100), Row { n: *next, s })
                    })
                    .collect();
                rows.extend(put.iter().cloned());
                Write::Put(put)
            }
        });
    }
    writes
}

async fn write_here(place: &Place, writes: Vec<Write>, expected: &Rows, before: &Rows, close: bool) {
    let table = place.open(quiet()).await.unwrap();
    assert_eq!(&place.rows(&table).await, before, "what Lance left");
    for write in writes {
        match write {
            Write::Put(rows) => drop(table.put(rows::batch(place.key_type, &rows)).await.unwrap()),
            Write::Delete(keys) => drop(table.delete(place.key_type.batch(&keys)).await.unwrap()),
            Write::Flush => table.flush().await.unwrap(),
        }
    }
    assert_eq!(&place.rows(&table).await, expected);
    if close {
        table.close().await.unwrap();
    }
}

async fn write_there(place: &Place, writes: Vec<Write>, expected: &Rows, before: &Rows, close: bool) {
    let lance = Lance::open(place).await;
    assert_eq!(&lance.rows().await, before, "what we left");
    for write in writes {
        match write {
            Write::Put(rows) => lance.put(&rows::batch(place.key_type, &rows)).await,
            Write::Delete(keys) => lance.delete(&keys).await,
            Write::Flush => lance.freeze().await,
        }
    }
    assert_eq!(&lance.rows().await, expected);
    if close { lance.close().await } else { lance.abort().await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_take_turns_and_agree() {
    let seed = number_from_env("LSM_SEED", 0xA11);
    for (i, (key_type, shards)) in
        [(KeyType::Int64, 1), (KeyType::Text, 3), (KeyType::Composite, 1)].into_iter().enumerate()
    {
        let mut random = StdRng::seed_from_u64(seed + i as u64);
        println!("seed {seed}, {key_type:?} on {shards} shards");
        let place = Place::new(key_type, shards);
        drop(place.open(quiet()).await.unwrap());
        let (mut next, mut rows) = (0, Rows::new());
        for turn in 0..number_from_env("LSM_OPS", TURNS) {
            let before = rows.clone();
            let (writes, close) = (writes(&mut random, &mut next, &mut rows), random.random_bool(0.5));
            match turn % 2 {
                0 => Box::pin(write_here(&place, writes, &rows, &before, close)).await,
                _ => Box::pin(write_there(&place, writes, &rows, &before, close)).await,
            }
        }
    }
}
