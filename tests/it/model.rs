//! Random operations on whole tables against an in-memory oracle, and concurrent ones with a check of their history.
//! Some tables are searched: by vectors, whose nearest the oracle finds by comparing all, and by texts, of which it makes
//! one corpus.
//!
//! A failure prints its seed; `LSM_SEED` repeats it and `LSM_OPS` makes runs longer. Memtables are so small that freezes
//! and flushes happen all the time: what the seed does not decide is when the background work happens.

mod check;
mod columns;
mod concurrent;
mod history;
mod operation;
mod process;
mod run;
mod search;
mod texts;

use datafusion_lsm::distance::Metric;
use datafusion_lsm::settings::Ack;

use crate::support::key_type::KeyType;
use crate::support::number_from_env;
use run::{Config, run};

/// Operations of each run: all runs together make more than 10,000.
const OPERATIONS: u64 = 1_100;

fn check(number: u64, key_type: KeyType, shards: u32, change: impl FnOnce(&mut Config)) {
    let seed = number_from_env("LSM_SEED", 0x5eed_0000 + number);
    let operations = number_from_env("LSM_OPS", OPERATIONS);
    let ack = Ack::Durable;
    let (keys, most, large) = (400, 60, false);
    let search = None;
    let mut config =
        Config { key_type, shards, partitions: 1, ack, search, keys, most, large, sync: false, seed, operations };
    change(&mut config);
    run(config);
}

#[test]
fn a_table_of_numbers_behaves_like_the_oracle() {
    check(1, KeyType::Int64, 1, |c| c.search = Some(Metric::L2));
}

#[test]
fn a_table_of_numbers_on_three_shards_behaves_like_the_oracle() {
    check(2, KeyType::Int64, 3, |c| c.partitions = 4);
}

#[test]
fn a_table_of_texts_behaves_like_the_oracle() {
    check(3, KeyType::Text, 1, |c| (c.partitions, c.search) = (4, Some(Metric::Cosine)));
}

#[test]
fn a_table_of_texts_on_three_shards_behaves_like_the_oracle() {
    check(4, KeyType::Text, 3, |_| ());
}

#[test]
fn a_table_of_composite_keys_on_three_shards_behaves_like_the_oracle() {
    check(5, KeyType::Composite, 3, |c| (c.partitions, c.search) = (4, Some(Metric::InnerProduct)));
}

#[test]
fn a_table_of_dates_that_survives_power_failures_behaves_like_the_oracle() {
    check(6, KeyType::Date, 3, |c| (c.sync, c.search) = (true, Some(Metric::L2)));
}

#[test]
fn a_table_of_decimals_behaves_like_the_oracle() {
    check(7, KeyType::Decimal, 1, |c| c.partitions = 4);
}

#[test]
fn a_table_of_composite_keys_that_survives_power_failures_behaves_like_the_oracle() {
    check(8, KeyType::Composite, 1, |c| c.sync = true);
}

#[test]
fn a_large_table_with_indexes_in_every_source_behaves_like_the_oracle() {
    check(10, KeyType::Int64, 1, |c| {
        (c.search, c.keys, c.most, c.large, c.operations) = (Some(Metric::L2), 6_000, 900, true, c.operations / 5);
    });
}

#[test]
fn a_large_table_of_directions_behaves_like_the_oracle() {
    check(11, KeyType::Text, 1, |c| {
        (c.search, c.keys, c.most, c.large, c.operations) = (Some(Metric::Cosine), 6_000, 900, true, c.operations / 5);
    });
}

#[test]
fn a_table_that_acknowledges_from_memory_loses_only_the_end_in_a_crash() {
    check(9, KeyType::Uuid, 1, |c| c.ack = Ack::Memory);
}
