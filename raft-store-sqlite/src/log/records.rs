//! What the log keeps besides entries: who the node is, its term and vote, and what the entries begin after. A row each, with
//! a checksum.

use raft_core::types::{ClusterId, EntryId, HardState, Identity, Incarnation, Index, NodeId, Snapshot, Term};
use rusqlite::{Connection, OptionalExtension, Row};

use super::batches::End;
use crate::codec;
use crate::error::Error;

/// What the log begins after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The state up to there; nothing, if the log is whole.
    pub(crate) snapshot: Snapshot,
    /// Whether the state may still be an older one, which the snapshot has to replace.
    pub(crate) must_install: bool,
}

/// Where the log begins and ends: kept apart from the entries, so that none is lost at either end without notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The last entry of the snapshot that the log begins after.
    pub(super) after: Index,
    /// The last batch, and what its last entry is.
    pub(super) end: End,
}

/// What keeps a record from being read.
pub(super) enum Unreadable {
    /// It is not what was written.
    Damaged(&'static str),
    /// Something else is the matter.
    Other(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

pub(super) fn store_identity(connection: &Connection, identity: Identity) -> rusqlite::Result<()> {
    let sql =
        "INSERT OR REPLACE INTO meta (one, node_id, cluster_id, incarnation, checksum) VALUES (1, ?1, ?2, ?3, ?4)";
    let Identity { node, cluster, incarnation } = identity;
    let row = (node.0, cluster.to_string(), incarnation.to_string(), identity_checksum(identity));
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

/// Who the file says the node is.
pub(super) fn identity(connection: &Connection) -> Result<Identity, Unreadable> {
    let (identity, stored) = identity_unchecked(connection)?;
    if stored != Some(identity_checksum(identity)) {
        return Err(Unreadable::Damaged("the checksum of the node's identity is wrong"));
    }
    Ok(identity)
}

/// Gives an identity its checksum, which older formats had none of.
pub(super) fn seal_identity(connection: &Connection) -> Result<(), Unreadable> {
    let (identity, _) = identity_unchecked(connection)?;
    Ok(store_identity(connection, identity).map_err(Error::sqlite("storing the node's identity"))?)
}

fn identity_unchecked(connection: &Connection) -> Result<(Identity, Option<u32>), Unreadable> {
    let sql = "SELECT node_id, cluster_id, incarnation, checksum FROM meta";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get(3)?));
    let row = connection.query_row(sql, [], read).map_err(Error::sqlite("reading the node's identity"))?;
    let (node, cluster, incarnation, stored) = row;
    let number = |text: &str| {
        u64::from_str_radix(text, 16).map_err(|_| Unreadable::Damaged("a number of the node's identity is none"))
    };
    let (cluster, incarnation) = (ClusterId(number(&cluster)?), Incarnation(number(&incarnation)?));
    Ok((Identity { node: NodeId(node), cluster, incarnation }, stored))
}

pub(super) fn store_hard_state(connection: &Connection, hard_state: HardState) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO hard_state (one, term, vote, checksum) VALUES (1, ?1, ?2, ?3)";
    let HardState { term, vote } = hard_state;
    let row = (term.0, vote.map(|node| node.0), hard_state_checksum(hard_state));
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

pub(super) fn hard_state(connection: &Connection) -> Result<HardState, Unreadable> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, Option<u64>>(1)?, row.get(2)?));
    let (term, vote, stored): (u64, _, u32) = connection
        .query_row("SELECT term, vote, checksum FROM hard_state", [], read)
        .map_err(Error::sqlite("reading the hard state"))?;
    let hard_state = HardState { term: Term(term), vote: vote.map(NodeId) };
    if stored != hard_state_checksum(hard_state) {
        return Err(Unreadable::Damaged("the checksum of the term and vote is wrong"));
    }
    Ok(hard_state)
}

pub(super) fn store_beginning(connection: &Connection, beginning: &Beginning) -> rusqlite::Result<()> {
    let Beginning { snapshot: Snapshot { last, membership }, must_install } = beginning;
    let membership = codec::encode_membership(membership);
    let sum = checksum_at(*last, u8::from(*must_install), &membership);
    let sql = "INSERT OR REPLACE INTO snapshot (one, idx, term, membership, must_install, checksum)
               VALUES (1, ?1, ?2, ?3, ?4, ?5)";
    let row = (last.index.0, last.term.0, membership.as_ref(), must_install, sum);
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

pub(super) fn beginning(connection: &Connection) -> Result<Beginning, Unreadable> {
    let read = |row: &Row<'_>| {
        let last = EntryId::new(Index(row.get(0)?), Term(row.get(1)?));
        Ok((last, row.get::<_, Vec<u8>>(2)?, row.get(3)?, row.get::<_, u32>(4)?))
    };
    let sql = "SELECT idx, term, membership, must_install, checksum FROM snapshot";
    let row = connection.query_row(sql, [], read).optional();
    let row = row.map_err(Error::sqlite("reading what the log begins after"))?;
    let Some((last, membership, must_install, stored)) = row else { return Ok(Beginning::default()) };
    if stored != checksum_at(last, u8::from(must_install), &membership) {
        return Err(Unreadable::Damaged("the checksum of the snapshot it begins after is wrong"));
    }
    let membership = codec::decode_membership(&membership)?.into();
    Ok(Beginning { snapshot: Snapshot { last, membership }, must_install })
}

pub(super) fn store_bounds(connection: &Connection, bounds: Bounds) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO bounds (one, after, last, last_checksum, checksum) VALUES (1, ?1, ?2, ?3, ?4)";
    let Bounds { after, end } = bounds;
    let row = (after.0, end.last.0, end.checksum, bounds_checksum(bounds));
    connection.prepare_cached(sql)?.execute(row).map(|_| ())
}

pub(super) fn bounds(connection: &Connection) -> Result<Bounds, Unreadable> {
    let read = |row: &Row<'_>| {
        let end = End { last: Index(row.get(1)?), checksum: row.get(2)? };
        Ok((Bounds { after: Index(row.get(0)?), end }, row.get::<_, u32>(3)?))
    };
    let (bounds, stored) = connection
        .query_row("SELECT after, last, last_checksum, checksum FROM bounds", [], read)
        .map_err(Error::sqlite("reading where the log ends"))?;
    if stored != bounds_checksum(bounds) {
        return Err(Unreadable::Damaged("the checksum of where it ends is wrong"));
    }
    Ok(bounds)
}

fn identity_checksum(Identity { node, cluster, incarnation }: Identity) -> u32 {
    let sum = crc32c::crc32c(&node.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &cluster.0.to_le_bytes());
    crc32c::crc32c_append(sum, &incarnation.0.to_le_bytes())
}

fn hard_state_checksum(HardState { term, vote }: HardState) -> u32 {
    let sum = crc32c::crc32c(&term.0.to_le_bytes());
    // Nobody has the id zero, so it stands for no vote.
    crc32c::crc32c_append(sum, &vote.map_or(0, |node| node.0).to_le_bytes())
}

/// Covers an entry's position and something that belongs to it: also in a format before this one.
pub(super) fn checksum_at(id: EntryId, kind: u8, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&id.index.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &id.term.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &[kind]);
    crc32c::crc32c_append(sum, bytes)
}

fn bounds_checksum(Bounds { after, end }: Bounds) -> u32 {
    let sum = crc32c::crc32c(&after.0.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &end.last.0.to_le_bytes());
    crc32c::crc32c_append(sum, &end.checksum.to_le_bytes())
}
