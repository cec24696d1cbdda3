//! The statements that are not SQL: what happens to a table besides being asked.

/// One control statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// `control flush t`: the memtable of `t` becomes a generation, and is one when this returns.
    Flush(String),
    /// `control refresh t`: `t` looks for what other processes wrote.
    Refresh(String),
    /// `control crash`: the process dies without closing anything. `control crash power`: every process dies, and what
    /// was never synced, names included, is gone. Their connections go on with new sessions that know no table.
    Crash {
        /// Whether the machine dies with the process.
        power: bool,
    },
    /// `control reopen`: every table of the process is closed in order. Its connections go on with new sessions.
    Reopen,
    /// `control process NAME`: from now on this connection is one of the process NAME, with a new session.
    Process(String),
}

impl Control {
    /// The control statement that `text` is; none if it is SQL.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (first, rest) = words.split_first()?;
        if !first.eq_ignore_ascii_case("control") {
            return None;
        }
        Some(match rest {
            ["flush", table] => Ok(Self::Flush((*table).to_string())),
            ["refresh", table] => Ok(Self::Refresh((*table).to_string())),
            ["crash"] => Ok(Self::Crash { power: false }),
            ["crash", "power"] => Ok(Self::Crash { power: true }),
            ["reopen"] => Ok(Self::Reopen),
            ["process", name] => Ok(Self::Process((*name).to_string())),
            _ => Err(format!(
                "'{text}': known are control flush TABLE, control refresh TABLE, control crash, control crash power, \
                 control reopen and control process NAME"
            )),
        })
    }
}
