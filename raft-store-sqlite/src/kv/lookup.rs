//! Reading keys, as they are or as they were.
//!
//! Keys are stored as TEXT or BLOB, and all TEXT comes before all BLOB: so a range is two runs, each in the order of bytes, which are
//! merged. At an earlier revision, keys that were deleted since have runs of their own.

use rusqlite::{Connection, Row, Rows, Statement};

use super::bytes::{OwnedBytes, StoredBytes};
use crate::answer::{Found, KeyValue};
use crate::execution::{Budget, Failure};
use crate::step::{Detail, KeyRange, Lookup};

const NOW: &str = "SELECT key, value, create_revision, mod_revision, version, lease FROM kv";
const NOW_KEYS: &str = "SELECT key, x'', create_revision, mod_revision, version, lease FROM raft_kv";

/// What each key of a table was at revision ?3, unless it was not there: from its latest change back to the last that had come by then.
macro_rules! then {
    ($heads:literal) => {
        concat!(
            "SELECT key, value, create_revision, mod_revision, version, lease FROM (
                SELECT head.key, was.value, was.create_revision, was.revision AS mod_revision, was.version, was.lease
                FROM ",
            $heads,
            " AS head CROSS JOIN raft_changes AS was
                ON was.change = CASE WHEN head.mod_revision <= ?3 THEN head.change ELSE (
                    WITH RECURSIVE chain (change, revision, prior) AS (
                        SELECT change, revision, prior FROM raft_changes WHERE change = head.change
                        UNION ALL
                        SELECT earlier.change, earlier.revision, earlier.prior
                        FROM chain CROSS JOIN raft_changes AS earlier ON earlier.change = chain.prior
                        WHERE chain.revision > ?3)
                    SELECT change FROM chain WHERE revision <= ?3) END
                WHERE was.value IS NOT NULL)"
        )
    };
}
/// A key is in one of these two, or in neither.
const THEN: &[&str] = &[then!("raft_kv"), then!("raft_kv_deleted")];

/// Reads keys, within the budget. The revision must be one that can be read.
pub(crate) fn lookup(connection: &Connection, lookup: &Lookup, budget: &mut Budget) -> Result<Found, Failure> {
    let now = if lookup.detail == Detail::Full { &[NOW] } else { &[NOW_KEYS] };
    let (selects, counted): (&[&str], &[&str]) = if lookup.revision == 0 { (now, &[NOW_KEYS]) } else { (THEN, THEN) };
    let mut found = Found::default();
    let limit = if lookup.limit == 0 { u64::MAX } else { lookup.limit };
    if lookup.detail != Detail::Count {
        gather(connection, selects, lookup, limit, budget, &mut found)?;
    }
    // What was not gathered is only counted.
    let is_whole = lookup.detail != Detail::Count && !found.more;
    found.count = if is_whole {
        found.entries.len() as u64
    } else {
        count(connection, counted, lookup).map_err(Failure::Sqlite)?
    };
    Ok(found)
}

fn gather(
    connection: &Connection,
    selects: &[&str],
    lookup: &Lookup,
    limit: u64,
    budget: &mut Budget,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut statements = Vec::new();
    for (sql, bounds) in selects.iter().flat_map(|select| runs(select, &lookup.range)) {
        let statement = connection.prepare_cached(&sql).map_err(Failure::Sqlite)?;
        statements.push((statement, bounds));
    }
    let mut merge = Vec::new();
    for (statement, bounds) in &mut statements {
        merge.push(Run::begin(statement, bounds, lookup.revision).map_err(Failure::Sqlite)?);
    }
    loop {
        let runs = merge.iter_mut().filter(|run| run.next.is_some());
        let first = runs.min_by(|one, other| one.next_key().cmp(&other.next_key()));
        let Some(run) = first else { return Ok(()) };
        if found.entries.len() as u64 >= limit {
            found.more = true;
            return Ok(());
        }
        let mut entry = run.take().map_err(Failure::Sqlite)?;
        if lookup.detail == Detail::Keys {
            entry.value = bytes::Bytes::new();
        }
        budget.spend_entry(&entry)?;
        found.entries.push(entry);
    }
}

fn count(connection: &Connection, selects: &[&str], lookup: &Lookup) -> rusqlite::Result<u64> {
    let mut count = 0;
    for (sql, bounds) in selects.iter().flat_map(|select| runs(select, &lookup.range)) {
        let sql = format!("SELECT count(*) FROM ({sql})");
        let mut statement = connection.prepare_cached(&sql)?;
        bind(&mut statement, &bounds, lookup.revision)?;
        count += statement.raw_query().next()?.map_or(Ok(0), |row| row.get::<_, u64>(0))?;
    }
    Ok(count)
}

/// The runs of a range: what selects each, and its bounds.
pub(super) fn runs<'a>(select: &str, range: &'a KeyRange) -> Vec<(String, Vec<StoredBytes<'a>>)> {
    let (start, end) = match range {
        KeyRange::Key(key) => return vec![(format!("{select} WHERE key = ?1"), vec![StoredBytes::of(key)])],
        KeyRange::Span { start, end } => (&**start, end.as_deref()),
    };
    // The least BLOB comes after all TEXT.
    let text = [StoredBytes::Text(start), end.map_or(StoredBytes::Blob(b""), StoredBytes::Text)];
    let bounded = format!("{select} WHERE key >= ?1 AND key < ?2 ORDER BY key");
    let blob = match end {
        Some(end) => (bounded.clone(), vec![StoredBytes::Blob(start), StoredBytes::Blob(end)]),
        None => (format!("{select} WHERE key >= ?1 ORDER BY key"), vec![StoredBytes::Blob(start)]),
    };
    vec![(bounded, text.into()), blob]
}

/// A run that is being read.
struct Run<'a> {
    rows: Rows<'a>,
    next: Option<KeyValue>,
}

impl<'a> Run<'a> {
    fn begin(statement: &'a mut Statement<'_>, bounds: &[StoredBytes<'_>], revision: u64) -> rusqlite::Result<Self> {
        bind(statement, bounds, revision)?;
        let mut rows = statement.raw_query();
        let next = rows.next()?.map(entry).transpose()?;
        Ok(Self { rows, next })
    }

    fn next_key(&self) -> Option<&bytes::Bytes> {
        self.next.as_ref().map(|entry| &entry.key)
    }

    /// The next one, which must be there.
    fn take(&mut self) -> rusqlite::Result<KeyValue> {
        let next = self.rows.next()?.map(entry).transpose()?;
        Ok(std::mem::replace(&mut self.next, next).expect("only a run that has a next one is asked for it"))
    }
}

fn bind(statement: &mut Statement<'_>, bounds: &[StoredBytes<'_>], revision: u64) -> rusqlite::Result<()> {
    for (place, bound) in bounds.iter().enumerate() {
        statement.raw_bind_parameter(place + 1, bound)?;
    }
    if revision > 0 {
        statement.raw_bind_parameter(3, revision)?;
    }
    Ok(())
}

/// Reads a row of key, value, create_revision, mod_revision, version and lease.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: row.get::<_, OwnedBytes>(0)?.0,
        value: row.get::<_, OwnedBytes>(1)?.0,
        create_revision: row.get(2)?,
        mod_revision: row.get(3)?,
        version: row.get(4)?,
        lease: row.get(5)?,
    })
}
