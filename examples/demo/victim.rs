//! The process that is killed: it writes on until it is no more, and says when a statement begins and is acknowledged.
#![allow(clippy::print_stdout, reason = "this is how it tells")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;
use crate::table::Table;
use crate::text::{File, Rows};

/// The argument that makes this program the victim.
pub(crate) const ROLE: &str = "--victim";

/// What is known about the statements of a victim.
#[derive(Debug, Default)]
pub(crate) struct Testimony {
    /// How many statements had begun.
    pub(crate) begun: usize,
    /// How many of them, from the first on, were acknowledged.
    pub(crate) acknowledged: usize,
}

/// The statements of a victim, each the rows of some `files`: the same ones for whoever asks.
pub(crate) fn statements(files: &[File]) -> impl Iterator<Item = Result<Rows>> {
    // Twenty statements of a small folder, several megabytes' worth of them of a large one.
    let text = files.iter().map(|f| f.bytes).sum::<u64>() / 20;
    let text = text.min(256 << 10);
    let mut files = files.iter().peekable();
    std::iter::from_fn(move || {
        files.peek()?;
        let mut rows = Rows::default();
        while rows.text() <= text {
            match files.next().map(File::rows) {
                Some(Ok(more)) => rows.extend(more),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        Some(Ok(rows))
    })
}

/// Writes statement after statement.
pub(crate) async fn write(table: &Table, files: &[File]) -> Result<()> {
    let mut out = std::io::stdout();
    for rows in statements(files) {
        writeln!(out, "begin")?;
        out.flush()?;
        table.write(rows?, "INSERT INTO").await?;
        writeln!(out, "acknowledged")?;
        out.flush()?;
    }
    Ok(())
}

/// Starts a victim and kills it when it has begun `statements` of them.
pub(crate) fn kill(location: &Path, folder: &Path, first: usize, statements: usize) -> Result<Testimony> {
    let mut victim = Command::new(std::env::current_exe()?)
        .args([ROLE.as_ref(), location.as_os_str(), folder.as_os_str(), first.to_string().as_ref()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut heard = Testimony::default();
    for line in BufReader::new(victim.stdout.take().ok_or("no pipe")?).lines() {
        match line?.as_str() {
            "begin" => heard.begun += 1,
            "acknowledged" => heard.acknowledged += 1,
            other => return Err(format!("the victim says {other}").into()),
        }
        if heard.begun == statements && heard.acknowledged + 1 == statements {
            // SIGKILL where there is one.
            victim.kill()?;
        }
    }
    victim.wait()?;
    Ok(heard)
}
