//! The demo: real text goes in, is edited, a writer dies in the middle of an insert, nothing acknowledged is lost, and
//! all of it is searched while it changes.
//!
//! Without a folder it takes every Markdown and Rust file of the sources that cargo has downloaded, as many as it can
//! write in the time it gives itself. `--seconds N` changes that time.
#![allow(clippy::print_stdout, reason = "a demo talks")]
#![allow(clippy::disallowed_methods, reason = "it tells how long things take")]

#[path = "demo/editor.rs"]
mod editor;
#[path = "demo/embedding.rs"]
mod embedding;
#[path = "demo/search.rs"]
mod search;
#[path = "demo/table.rs"]
mod table;
#[path = "demo/text.rs"]
mod text;
#[path = "demo/victim.rs"]
mod victim;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int32Type;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::arrow::util::pretty::pretty_format_batches;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use table::Table;
use text::{File, Rows};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long it ingests: with all that follows the demo stays under a minute, optimised or not.
const SECONDS: u64 = 20;
/// How much text goes into the base at first, and into each INSERT after that.
const BULK: u64 = 3 << 20;
const STATEMENT: u64 = 1 << 20;
/// When the victim dies: while it writes this statement.
const LAST: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|a| a == victim::ROLE).is_some() {
        let (Some(location), Some(folder), Some(first)) = (args.next(), args.next(), args.next()) else {
            return Err("the victim is started by the demo".into());
        };
        let first: usize = first.to_string_lossy().parse()?;
        let files = text::files(Path::new(&folder))?;
        return victim::write(&Table::open(Path::new(&location)).await?, &files[first..]).await;
    }
    let mut seconds = SECONDS;
    let mut folder = None;
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let given = args.next().ok_or("--seconds: how many?")?;
            seconds = given.to_string_lossy().parse()?;
        } else if !arg.is_empty() {
            folder = Some(PathBuf::from(arg));
        }
    }
    let folder = folder.map_or_else(text::cargo_sources, Ok)?;
    let place = tempfile::tempdir()?;
    story(&folder, &place.path().join("chunks"), Duration::from_secs(seconds)).await
}

async fn story(folder: &Path, location: &Path, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let files = text::files(folder)?;
    let total: u64 = files.iter().map(|f| f.bytes).sum();
    println!(
        "{}: {} files of Markdown and Rust, {}",
        folder.display(),
        HumanCount(files.len() as u64),
        HumanBytes(total)
    );
    println!("table: {}", location.display());

    // The last tenth is the victim's: more if there are few files, so that it has something to do.
    let reserved = (files.len() / 10).max(4 * LAST).min(files.len() / 2);
    let (ours, _) = files.split_at(files.len() - reserved);
    let table = Table::open(location).await?;
    let taken = ingest(&table, ours, limit).await?;
    let edited = edit(&table, &ours[..taken]).await?;
    let (rows, bytes) = totals(&table).await?;
    println!("   the table has {} chunks, {} of text", HumanCount(rows), HumanBytes(bytes));
    let flushing = Instant::now();
    table.query("SELECT * FROM lsm_flush('chunks')").await?;
    table.close().await?;
    println!("   flushed: what was in memory is in generations now, {:.1} s", flushing.elapsed().as_secs_f64());

    let table = crash(folder, location, &files, files.len() - reserved, rows).await?;
    ask(&table, &ours[..taken], &edited).await?;
    chapter("search: by words, by vector and by both, while another session edits what is found");
    search::ask(&table, location).await?;
    table.close().await?;
    println!("\nAll of it took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

fn chapter(text: &str) {
    println!("\n== {text}");
}

async fn totals(table: &Table) -> Result<(u64, u64)> {
    Ok((table.number("SELECT count(*) FROM chunks").await?, table.number("SELECT sum(bytes) FROM chunks").await?))
}

/// What goes first is loaded in one commit into the base, the rest comes in by INSERT. How many files were taken.
async fn ingest(table: &Table, files: &[File], limit: Duration) -> Result<usize> {
    chapter("ingest: one bulk load into the base, then INSERT after INSERT, each durable when it returns");
    let total: u64 = files.iter().map(|f| f.bytes).sum();
    let style = "   {bar:40} {bytes}/{total_bytes} of text, {bytes_per_sec}, {msg}";
    let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(style)?);
    let start = Instant::now();
    let (mut rows, mut taken, mut statements, mut chunks) = (Rows::default(), 0, 0, 0);
    while taken < files.len() && (taken == 0 || start.elapsed() < limit) {
        let group = files[taken].group();
        let wanted = if statements == 0 { BULK.min(total / 4) } else { STATEMENT };
        while rows.text() < wanted && taken < files.len() {
            rows.extend(files[taken].rows()?);
            taken += 1;
        }
        bar.set_message(group.to_string());
        let text = rows.text();
        let into = if statements == 0 { "INSERT OVERWRITE" } else { "INSERT INTO" };
        let written = std::mem::take(&mut rows);
        chunks += table.write(written, into).await?;
        statements += 1;
        if statements == 1 {
            for (name, took) in table.index_base().await? {
                bar.println(format!("   index {name} of the base's rows: {:.1} s", took.as_secs_f64()));
            }
        }
        bar.inc(text);
    }
    bar.finish_and_clear();
    let text = files[..taken].iter().map(|f| f.bytes).sum::<u64>();
    println!(
        "   {} chunks of {} files, {} of text, in {statements} statements: {:.1} s",
        HumanCount(chunks),
        HumanCount(taken as u64),
        HumanBytes(text),
        start.elapsed().as_secs_f64(),
    );
    if taken < files.len() {
        println!(
            "   left out: {} files; the demo ingests for {} s (--seconds N takes longer)",
            HumanCount((files.len() - taken) as u64),
            limit.as_secs()
        );
    }
    Ok(taken)
}

/// Changes the chunks of some files, deletes those of a crate. When it began, in SQL.
async fn edit(table: &Table, files: &[File]) -> Result<String> {
    chapter("edit");
    let now = table.query("SELECT CAST(now() AS TIMESTAMP) AS now").await?;
    let now = array_value_to_string(now.first().ok_or("no time")?.column(0), 0)?;
    let name = |f: &&File| f.path.rsplit('/').next().unwrap_or_default().to_string();
    let readme = files.iter().find(|f| name(f) == "README.md");
    let edited = readme.or(files.first()).map(|f| name(&f)).unwrap_or_default();
    let folder = |f: &File| if f.group() == f.path { f.path.clone() } else { format!("{}/", f.group()) };
    let deleted = files.get(files.len() / 2).map(folder).unwrap_or_default();
    let update = format!(
        "UPDATE chunks SET body = concat('(edited) ', body), bytes = bytes + 9, modified = now() WHERE path LIKE '%{}'",
        escaped(&edited)
    );
    let delete = format!("DELETE FROM chunks WHERE starts_with(path, '{}')", escaped(&deleted));
    for sql in [update, delete] {
        let start = Instant::now();
        let count = table.number(&sql).await?;
        println!("   {sql}\n      {} chunks, {:.2} s", HumanCount(count), start.elapsed().as_secs_f64());
    }
    Ok(now)
}

fn escaped(text: &str) -> String {
    text.replace('\'', "''")
}

/// Lets another process write, kills it, opens what it left and looks for everything that it was promised.
async fn crash(folder: &Path, location: &Path, files: &[File], first: usize, before: u64) -> Result<Table> {
    chapter("crash: another process writes on and is killed in the middle of an insert");
    let heard = victim::kill(location, folder, first, LAST)?;
    println!("   killed: {} statements begun, {} acknowledged", heard.begun, heard.acknowledged);

    let start = Instant::now();
    let table = Table::open(location).await?;
    let (after, _) = totals(&table).await?;
    println!("   opened again and counted in {:.2} s", start.elapsed().as_secs_f64());
    let mut promised = 0;
    let mut in_flight = 0;
    for (number, rows) in victim::statements(&files[first..]).take(heard.begun).enumerate() {
        let rows = rows?;
        let count = rows.len() as u64;
        if number >= heard.acknowledged {
            in_flight += count;
            continue;
        }
        let mut found = 0;
        for (path, bodies) in rows.by_file() {
            found += found_as_written(&table, path, bodies).await?;
        }
        if found != count {
            return Err(format!("{} acknowledged chunks are lost", count - found).into());
        }
        promised += count;
    }
    println!("   all {} chunks that were acknowledged are there, compared byte by byte", HumanCount(promised));
    let more = after.checked_sub(before + promised).ok_or("chunks that had been there are lost")?;
    match more {
        0 if in_flight == 0 => println!("   no statement was in flight when the process died"),
        0 => println!(
            "   of the {in_flight} chunks of the statement in flight there is none: not promised, not half done"
        ),
        rest if rest == in_flight => {
            println!(
                "   the {in_flight} chunks of the statement in flight are all there: it was durable, not yet answered"
            );
        }
        rest => return Err(format!("{rest} of {in_flight} chunks of a statement: half of it was done").into()),
    }
    Ok(table)
}

/// How many chunks of the file `path` are in the table with these bodies, asked for by their keys.
async fn found_as_written(table: &Table, path: &str, bodies: &[String]) -> Result<u64> {
    let numbers: Vec<String> = (0..bodies.len()).map(|number| number.to_string()).collect();
    let (path, numbers) = (escaped(path), numbers.join(", "));
    let sql = format!("SELECT chunk, body FROM chunks WHERE path = '{path}' AND chunk IN ({numbers})");
    let mut found = 0;
    for batch in table.query(&sql).await? {
        let (numbers, texts) = (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_string::<i32>());
        let same = |(number, text): (&i32, Option<&str>)| {
            usize::try_from(*number).is_ok_and(|n| bodies.get(n).map(String::as_str) == text)
        };
        found += numbers.values().iter().zip(texts).filter(|row| same(*row)).count() as u64;
    }
    Ok(found)
}

/// Questions over memtable, generations and base.
async fn ask(table: &Table, files: &[File], edited: &str) -> Result<()> {
    chapter("ask: one view over memtable, generations and base");
    let some = files.first().map(|f| escaped(&f.path)).unwrap_or_default();
    let questions = [
        "SELECT * FROM lsm_sources('chunks')".to_string(),
        "SELECT split_part(path, '/', 1) AS crate, count(*) AS chunks, sum(bytes) AS bytes
         FROM chunks GROUP BY 1 ORDER BY bytes DESC LIMIT 5"
            .to_string(),
        format!(
            "SELECT path, count(*) AS chunks, max(modified) AS edited FROM chunks
         WHERE modified >= TIMESTAMP '{edited}' GROUP BY path ORDER BY chunks DESC, path LIMIT 3"
        ),
        format!("SELECT path, chunk, bytes FROM chunks WHERE path = '{some}' AND chunk = 0"),
    ];
    for (number, sql) in questions.iter().enumerate() {
        let start = Instant::now();
        let rows = table.query(sql).await?;
        println!("\n{sql}\n{}", pretty_format_batches(&rows)?);
        println!("{:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        if number % 2 == 1 {
            let plan = table.query(&format!("EXPLAIN ANALYZE {sql}")).await?;
            plan_lines(&plan).for_each(|line| println!("   {line}"));
        }
    }
    Ok(())
}

/// The nodes of a plan that ran, each with the few figures that say most.
fn plan_lines(plan: &[RecordBatch]) -> impl Iterator<Item = String> + '_ {
    const FIGURES: [&str; 3] = ["output_rows=", "bytes=", "rows_dropped="];
    let texts = plan.iter().flat_map(|b| b.column(1).as_string::<i32>().iter().flatten());
    texts.flat_map(str::lines).map(|line| {
        let (node, metrics) = line.split_once(", metrics=[").unwrap_or((line, ""));
        let mut short: String = node.chars().take(110).collect();
        if short.len() < node.len() {
            short.push('…');
        }
        let figures = metrics.trim_end_matches(']').split(", ").filter(|m| FIGURES.iter().any(|f| m.starts_with(f)));
        let figures: Vec<&str> = figures.collect();
        if figures.is_empty() { short } else { format!("{short}  [{}]", figures.join(", ")) }
    })
}
