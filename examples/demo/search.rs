//! Questions by words, by vector and by both, asked while an editor keeps changing what they find; every answer is
//! checked.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

use crate::Result;
use crate::editor::{self, Chunk, Editor, Ledger};
use crate::table::Table;

/// How many rows a question asks for, and how often it is asked while the editor writes.
const FOUND: usize = 5;
const TIMES: usize = 5;
/// The vector question as somebody types it, and spelt right.
const TYPED: &str = "retuns an itertor over the elments of a colection";
const SPELT: &str = "returns an iterator over the elements of a collection";
/// How many rows of each question the editor knows, of which it edits every third.
const KNOWN: usize = 15;
/// What is compared of the indexes' vectors with all vectors.
const SAMPLES: usize = 20;
const NEAREST: usize = 10;

/// One question.
struct Question {
    title: &'static str,
    /// What it selects from, with `{k}` for how many rows.
    from: &'static str,
    /// What is marked in its snippets.
    marks: &'static str,
    /// The figures that it shows, and their names.
    figures: &'static str,
    /// The column that ranks, and whether its smallest value is best.
    rank: (&'static str, bool),
}

const QUESTIONS: [Question; 3] = [
    Question {
        title: "text: BM25 over all live chunks; a phrase, a prefix, and a misspelt word",
        from: r#"text_search('chunks', 'body', '"at least one"~2 OR (panic* AND overflw~)', k => {k})
  WHERE bytes > 500"#,
        marks: r#""at least one"~2 OR (panic* AND overflw~)"#,
        figures: "_score AS score",
        rank: ("_score", false),
    },
    Question {
        title: "vector: what is spelt alike, however badly it is typed",
        from:
            "vector_search('chunks', 'embedding', embed('retuns an itertor over the elments of a colection'), k => {k})
  WHERE bytes > 500",
        marks: "return* iterator element* collection",
        figures: "_distance AS distance",
        rank: ("_distance", true),
    },
    Question {
        title: "hybrid: both, fused by reciprocal ranks",
        from: "hybrid_search('chunks', 'embedding', embed('reding and writting a file'),
                     'body', 'read write file', k => {k})
  WHERE bytes > 500",
        marks: "read write file",
        figures: "_score AS score, _vector_rank AS by_vector, _text_rank AS by_text",
        rank: ("_score", false),
    },
];

impl Question {
    fn from(&self, k: usize) -> String {
        self.from.replace("{k}", &k.to_string())
    }

    /// What the page shows.
    fn sql(&self) -> String {
        format!(
            "SELECT {},\n       lsm_source(path, chunk) AS source, path, chunk, edits,\n       \
             snippet(body, '{}', 18, '«', '»') AS snippet\n  FROM {}",
            self.figures,
            self.marks,
            self.from(FOUND)
        )
    }
}

/// Asks, first beside an editor and then alone.
pub(crate) async fn ask(table: &Table, location: &Path) -> Result<()> {
    let mut known = Vec::new();
    for question in &QUESTIONS {
        known.extend(chunks_of(&one(table
            .query(&format!("SELECT path, chunk FROM {}", question.from(KNOWN)))
            .await?)?)?);
    }
    let mut seen = HashSet::new();
    known.retain(|chunk| seen.insert(chunk.clone()));
    let mut edited: Vec<Chunk> = known.into_iter().step_by(3).collect();
    if edited.is_empty() {
        edited = chunks_of(&one(table.query("SELECT path, chunk FROM chunks ORDER BY path, chunk LIMIT 5").await?)?)?;
    }
    println!(
        "   An editor changes {} of the chunks that are found, one after the other, as fast as it can:",
        edited.len()
    );
    println!("   {}", editor::STATEMENT);

    let editor = Editor::start(table.another(location).await?, edited);
    for question in &QUESTIONS {
        ask_beside(table, question, &editor).await?;
    }
    let report = editor.stop().await?;
    println!(
        "\nThe editor made {} edits, {:.0} ms each. It looked for the words of each edit by text_search, right after its",
        report.edits,
        report.took.as_secs_f64() * 1e3 / report.edits.max(1) as f64
    );
    println!("UPDATE: all were found.");
    compare(table).await
}

/// Asks a question again and again while `editor` edits, and prints the last answer.
async fn ask_beside(table: &Table, question: &Question, editor: &Editor) -> Result<()> {
    println!("\n-- {}\n{};", question.title, question.sql());
    let before = editor.edits();
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..TIMES {
        let known = editor.acknowledged();
        let start = Instant::now();
        let answer = one(table.query(&question.sql()).await?)?;
        times.push(start.elapsed());
        check(&answer, &known)?;
        last = Some(answer);
    }
    times.sort_unstable();
    let answer = last.ok_or("never asked")?;
    print(&answer)?;
    println!(
        "   asked {TIMES} times, {:.0} ms in the middle, while {} edits came in",
        times[TIMES / 2].as_secs_f64() * 1e3,
        editor.edits() - before
    );
    Ok(())
}

/// Whether each row of an answer is there once, no older than what was acknowledged before, and where it can be.
fn check(answer: &RecordBatch, acknowledged: &Ledger) -> Result<()> {
    let chunks = chunks_of(answer)?;
    let distinct: HashSet<&Chunk> = chunks.iter().collect();
    if distinct.len() < chunks.len() {
        return Err(format!("a chunk was found twice: {chunks:?}").into());
    }
    let sources = texts(answer, "source")?;
    for ((chunk, edits), source) in chunks.iter().zip(numbers(answer, "edits")?).zip(sources.as_string::<i32>()) {
        let before = acknowledged.get(chunk).copied().unwrap_or(0);
        if edits < before {
            return Err(format!("{chunk:?} was found after {edits} edits, {before} were made before").into());
        }
        // Nobody but the editor edits, and its rows are not in the base.
        if edits > 0 && source.is_none_or(|source| source == "base") {
            return Err(format!("{chunk:?} was edited, and is said to come from {source:?}").into());
        }
    }
    Ok(())
}

/// Asks by indexes and by looking at every row, and compares.
async fn compare(table: &Table) -> Result<()> {
    println!(
        "\nNow that nothing changes, the same by indexes and by looking at every row (lsm.search.mode = 'exact'):"
    );
    for question in &QUESTIONS {
        let (rank, is_ascending) = question.rank;
        let sql = format!("SELECT path, chunk, CAST({rank} AS DOUBLE) AS rank FROM {}", question.from(FOUND));
        let (found, exact) = (one(table.query(&sql).await?)?, one(table.exactly(&sql).await?)?);
        let (ranks, best) = (figures(&found, "rank")?, figures(&exact, "rank")?);
        let same = same_chunks(&found, &exact)?;
        let is_approximate = question.from.contains("embed(");
        let agree = ranks.len() == best.len()
            && ranks.is_sorted_by(|a, b| if is_ascending { a <= b } else { a >= b })
            && (!is_approximate || same + 1 >= best.len())
            && (is_approximate || ranks.iter().zip(&best).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs()));
        if !agree {
            return Err(format!("{}: {ranks:?} by indexes, {best:?} of all rows", question.title).into());
        }
        let name = question.title.split(':').next().unwrap_or_default();
        println!("   {name}: {same} of {} rows are the same", best.len());
    }

    let (typed, spelt) = (nearest(table, TYPED).await?, nearest(table, SPELT).await?);
    println!(
        "   vector: spelt right, {} of the nearest {NEAREST} are those found for what was typed",
        same_chunks(&typed, &spelt)?
    );

    let sample =
        format!("SELECT path, chunk FROM chunks WHERE embedding IS NOT NULL ORDER BY md5(path), chunk LIMIT {SAMPLES}");
    let (mut same, mut all, mut times) = (0, 0, [Duration::ZERO; 2]);
    for chunk in chunks_of(&one(table.query(&sample).await?)?)? {
        let vector = format!("SELECT embedding FROM chunks WHERE {}", chunk.filter());
        let vector = one(table.query(&vector).await?)?;
        let vector = vector.column(0).as_fixed_size_list().value(0);
        let vector: Vec<String> = vector.as_primitive::<Float32Type>().values().iter().map(f32::to_string).collect();
        let sql = format!(
            "SELECT path, chunk FROM vector_search('chunks', 'embedding', [{}], k => {NEAREST})",
            vector.join(", ")
        );
        let start = Instant::now();
        let found = one(table.query(&sql).await?)?;
        times[0] += start.elapsed();
        let start = Instant::now();
        let exact = one(table.exactly(&sql).await?)?;
        times[1] += start.elapsed();
        if found.num_rows() != exact.num_rows() {
            return Err(format!("{} rows of {}", found.num_rows(), exact.num_rows()).into());
        }
        same += same_chunks(&found, &exact)?;
        all += exact.num_rows();
    }
    println!(
        "   {SAMPLES} other vectors, k = {NEAREST}: {same} of {all} rows are the same, {:.0} ms each by indexes, {:.0} ms exactly",
        times[0].as_secs_f64() * 1e3 / SAMPLES as f64,
        times[1].as_secs_f64() * 1e3 / SAMPLES as f64
    );
    if same * 100 < all * 95 {
        return Err("less than 95 in 100 of the nearest were found".into());
    }
    Ok(())
}

/// The chunks nearest to a text.
async fn nearest(table: &Table, text: &str) -> Result<RecordBatch> {
    let sql = "SELECT path, chunk FROM vector_search('chunks', 'embedding', embed";
    one(table.query(&format!("{sql}('{text}'), k => {NEAREST})")).await?)
}

/// The hits, two lines each.
fn print(answer: &RecordBatch) -> Result<()> {
    let (sources, snippets) = (texts(answer, "source")?, texts(answer, "snippet")?);
    let (chunks, edits) = (chunks_of(answer)?, numbers(answer, "edits")?);
    let schema = answer.schema();
    let names: Vec<&String> = schema.fields().iter().map(|f| f.name()).take_while(|name| *name != "source").collect();
    let columns = names.iter().map(|name| texts(answer, name)).collect::<Result<Vec<_>>>()?;
    let of = |column: &ArrayRef, row| {
        let column = column.as_string::<i32>();
        if column.is_null(row) { "-".to_string() } else { column.value(row).to_string() }
    };
    let figures = |row| {
        let figure = |(name, column): (&&String, &ArrayRef)| {
            format!("{name} {}", of(column, row).chars().take(6).collect::<String>())
        };
        names.iter().zip(&columns).map(figure).collect::<Vec<_>>().join(", ")
    };
    let width = (0..chunks.len()).map(|row| figures(row).len()).max().unwrap_or(0);
    for (row, Chunk { path, number }) in chunks.iter().enumerate() {
        let edited = if edits[row] > 0 { format!(", edited {}×", edits[row]) } else { String::new() };
        let path = tail(path, 58);
        let (figures, source) = (figures(row), of(&sources, row));
        println!("{}. {figures:<width$}  {source:<12}  {path} #{number}{edited}", row + 1);
        let snippet = of(&snippets, row).split_whitespace().collect::<Vec<_>>().join(" ");
        println!("   {}", shortened(&snippet, 105));
    }
    if chunks.is_empty() {
        println!("   nothing is found");
    }
    Ok(())
}

/// The end of a path.
fn tail(path: &str, most: usize) -> String {
    match path.chars().count().checked_sub(most) {
        None | Some(0) => path.to_string(),
        Some(skipped) => format!("…{}", path.chars().skip(skipped + 1).collect::<String>()),
    }
}

/// The beginning of a text.
fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// All rows of an answer.
fn one(batches: Vec<RecordBatch>) -> Result<RecordBatch> {
    let schema = batches.first().ok_or("no answer")?.schema();
    Ok(concat_batches(&schema, &batches)?)
}

fn same_chunks(a: &RecordBatch, b: &RecordBatch) -> Result<usize> {
    let a: HashSet<Chunk> = chunks_of(a)?.into_iter().collect();
    Ok(chunks_of(b)?.iter().filter(|chunk| a.contains(chunk)).count())
}

fn chunks_of(answer: &RecordBatch) -> Result<Vec<Chunk>> {
    let paths = texts(answer, "path")?;
    let paths = paths.as_string::<i32>().iter().flatten();
    Ok(paths.zip(numbers(answer, "chunk")?).map(|(path, number)| Chunk { path: path.to_string(), number }).collect())
}

fn texts(answer: &RecordBatch, column: &str) -> Result<ArrayRef> {
    Ok(cast(answer.column_by_name(column).ok_or("a column is missing")?, &DataType::Utf8)?)
}

fn numbers(answer: &RecordBatch, column: &str) -> Result<Vec<i64>> {
    let column = cast(answer.column_by_name(column).ok_or("a column is missing")?, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().values().to_vec())
}

fn figures(answer: &RecordBatch, column: &str) -> Result<Vec<f64>> {
    let column = cast(answer.column_by_name(column).ok_or("a column is missing")?, &DataType::Float64)?;
    Ok(column.as_primitive::<Float64Type>().values().to_vec())
}
