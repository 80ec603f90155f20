//! What one command did to rows, gathered as it happens.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::ValueRef;

use super::misused;
use super::triggers::Table;
use crate::codec::value::value_message;
use crate::codec::wire;
use crate::limits;

/// What tells a row from others of its table: its rowid or primary key, encoded.
pub(super) type Key = Vec<u8>;
/// A row's values, encoded.
pub(super) type Image = Vec<u8>;

/// What was noted of the rows of all tables.
#[derive(Default)]
pub(super) struct Noted {
    /// Whether the statement that runs may replace rows.
    pub(super) may_replace: bool,
    pub(super) tables: BTreeMap<String, Rows>,
    /// How much is kept of all of them.
    bytes: usize,
}

/// The rows of a table, in the order in which they were first noted.
#[derive(Default)]
pub(super) struct Rows {
    places: BTreeMap<Key, usize>,
    changes: Vec<Change>,
    /// There are too many to tell each.
    too_many: bool,
}

struct Change {
    key: Key,
    before: Option<Image>,
    after: After,
}

/// What is there of a row now.
enum After {
    Is(Option<Image>),
    /// It stood in the way of another: that is to be looked up.
    Unknown,
}

impl Noted {
    pub(super) fn clear(&mut self) {
        self.tables.clear();
        self.bytes = 0;
    }

    /// A row is there no more, as it was.
    pub(super) fn gone(&mut self, context: &Context<'_>) -> rusqlite::Result<bool> {
        self.note(context, Change::before, |change, _| change.after = After::Is(None))
    }

    /// A row is there that was not.
    pub(super) fn came(&mut self, context: &Context<'_>) -> rusqlite::Result<bool> {
        self.note(context, |_| None, |change, image| change.after = After::Is(Some(image)))
    }

    /// A row stands in the way of one that is to come.
    pub(super) fn in_the_way(&mut self, context: &Context<'_>) -> rusqlite::Result<bool> {
        self.note(context, Change::before, |change, _| change.after = After::Unknown)
    }

    /// Notes a row: what it was at first, if this is the first time, and what becomes of it now.
    fn note(
        &mut self,
        context: &Context<'_>,
        first: fn(&Image) -> Option<Image>,
        now: fn(&mut Change, Image),
    ) -> rusqlite::Result<bool> {
        let name = context.get_raw(0).as_str().map_err(|_| misused())?;
        if !self.tables.contains_key(name) {
            self.tables.insert(name.to_owned(), Rows::default());
        }
        let rows = self.tables.get_mut(name).expect("it was inserted if it was not there");
        if rows.too_many {
            return Ok(true);
        }
        let keys = context.get_raw(1).as_i64().map_err(|_| misused())? as usize;
        let key = encode_row((2..2 + keys).map(|place| context.get_raw(place)));
        let image = encode_row((2 + keys..context.len()).map(|place| context.get_raw(place)));
        self.bytes += key.len() + image.len();
        if self.bytes > limits::CHANGE_BYTES {
            self.bytes -= rows.give_up();
            return Ok(true);
        }
        let place = *rows.places.entry(key.clone()).or_insert(rows.changes.len());
        if place == rows.changes.len() {
            rows.changes.push(Change { key, before: first(&image), after: After::Unknown });
        }
        now(&mut rows.changes[place], image);
        Ok(true)
    }
}

impl Change {
    fn before(before: &Image) -> Option<Image> {
        Some(before.clone())
    }
}

impl Rows {
    /// What it all comes to, as it is stored; none if that is nothing.
    pub(super) fn into_message(self, table: &Table, connection: &Connection) -> rusqlite::Result<Option<Bytes>> {
        let mut rows = Vec::new();
        for Change { key, before, after } in self.changes {
            let after = match after {
                After::Is(after) => after,
                After::Unknown => table.find(connection, &key)?,
            };
            if before != after {
                rows.push(wire::RowChange { before: before.map(Bytes::from), after: after.map(Bytes::from) });
            }
        }
        if rows.is_empty() && !self.too_many {
            return Ok(None);
        }
        let (table, columns) = (table.name.clone(), table.columns.clone());
        let message = wire::RowChanges { table, columns, rows, too_many: self.too_many };
        Ok(Some(message.encode_to_vec().into()))
    }

    /// Tells only that there were changes. Returns how much that lets go.
    fn give_up(&mut self) -> usize {
        let bytes = |change: &Change| {
            let after = match &change.after {
                After::Is(Some(after)) => after.len(),
                After::Is(None) | After::Unknown => 0,
            };
            change.key.len() + change.before.as_ref().map_or(0, Vec::len) + after
        };
        let let_go = self.changes.iter().map(bytes).sum();
        *self = Self { too_many: true, ..Self::default() };
        let_go
    }
}

pub(super) fn encode_row<'a>(values: impl Iterator<Item = ValueRef<'a>>) -> Vec<u8> {
    wire::Row { values: values.map(|value| value_message(value.into())).collect() }.encode_to_vec()
}
