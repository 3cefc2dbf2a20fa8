//! The replica in rows, for whoever stores it.
//!
//! | row | holds |
//! | --- | --- |
//! | `h` | format, federation, cluster, inviter, epoch and vector of the base |
//! | `b` KEY | the key's entry in the base |
//! | `c` epoch, position (8 bytes each, big-endian) | a change set, in the order in which it was taken |
//! | `r` number (8 bytes, big-endian) | a refusal |

use std::collections::{BTreeMap, VecDeque};

use crate::base::{Base, Version, decode_entry};
use crate::change::Signed;
use crate::codec::{Malformed, Reader, Writer, whole};
use crate::id::{ClusterId, FederationId};
use crate::refusal::Refusal;
use crate::vector::Vector;

/// Rises with every change of the rows that an older build could not read.
const FORMAT: u8 = 1;

/// Why rows are not a replica's.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no head row.
    #[error("the rows have no head: they are not a replica's, or not all of them are there")]
    NoHead,
    /// A newer build wrote them.
    #[error("the rows have format {0}; this build reads format {FORMAT}: use the build that wrote them, or a newer one")]
    Format(u8),
    /// A row cannot be read.
    #[error("the row {row:02x?} cannot be read: {malformed}")]
    Malformed {
        /// Its key.
        row: Vec<u8>,
        /// What is wrong.
        malformed: Malformed,
    },
    /// A change set does not fit those before it.
    #[error("a change set of epoch {epoch} at position {position} does not fit those before it: rows are missing or mixed up")]
    Misplaced {
        /// Its epoch.
        epoch: u64,
        /// Its position.
        position: u64,
    },
}

/// The head row's content.
pub(crate) struct Head {
    pub federation: FederationId,
    pub me: ClusterId,
    pub inviter: Option<ClusterId>,
    pub epoch: u64,
    pub vector: Vector,
}

/// All rows, read.
pub(crate) struct Rows {
    pub head: Head,
    pub base: Base,
    pub changes: Vec<(u64, u64, Signed, usize)>,
    pub refusals: VecDeque<(u64, Refusal)>,
}

pub(crate) fn head_key() -> Vec<u8> {
    b"h".to_vec()
}

pub(crate) fn base_key(key: &str) -> Vec<u8> {
    [b"b", key.as_bytes()].concat()
}

pub(crate) fn change_key(epoch: u64, position: usize) -> Vec<u8> {
    [b"c".as_slice(), &epoch.to_be_bytes(), &(position as u64).to_be_bytes()].concat()
}

pub(crate) fn refusal_key(number: u64) -> Vec<u8> {
    [b"r".as_slice(), &number.to_be_bytes()].concat()
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.federation.0);
        out.extend_from_slice(&self.me.0);
        out.option(self.inviter, |out, inviter| out.extend_from_slice(&inviter.0));
        out.number(self.epoch);
        self.vector.encode(&mut out);
        out
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        r.byte()?;
        let (federation, me) = (FederationId(r.array()?), ClusterId(r.array()?));
        let inviter = r.option(|r| Ok(ClusterId(r.array()?)))?;
        Ok(Self { federation, me, inviter, epoch: r.number()?, vector: Vector::decode(r)? })
    }
}

/// Reads rows, in whatever order they come.
pub(crate) fn read(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Rows, LoadError> {
    let mut head = None;
    let mut entries: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    let mut changes = Vec::new();
    let mut refusals = Vec::new();
    for (row, value) in rows {
        let malformed = |malformed| LoadError::Malformed { row: row.clone(), malformed };
        match row.split_first() {
            Some((b'h', [])) => {
                if value.first() != Some(&FORMAT) {
                    return Err(LoadError::Format(value.first().copied().unwrap_or_default()));
                }
                head = Some(whole(&value, Head::decode).map_err(malformed)?);
            }
            Some((b'b', _)) => {
                let (key, versions) = whole(&value, decode_entry).map_err(malformed)?;
                entries.insert(key, versions);
            }
            Some((b'c', at)) => {
                let (epoch, position) =
                    whole(at, |r| Ok((u64::from_be_bytes(r.array()?), u64::from_be_bytes(r.array()?)))).map_err(malformed)?;
                changes.push((epoch, position, whole(&value, Signed::decode).map_err(malformed)?, value.len()));
            }
            Some((b'r', at)) => {
                let number = whole(at, |r| Ok(u64::from_be_bytes(r.array()?))).map_err(malformed)?;
                refusals.push((number, Refusal::decode(&value).map_err(malformed)?));
            }
            _ => return Err(malformed(Malformed("it is of no known kind"))),
        }
    }
    let head: Head = head.ok_or(LoadError::NoHead)?;
    changes.sort_by_key(|(epoch, position, ..)| (*epoch, *position));
    refusals.sort_by_key(|(number, _)| *number);
    let base = Base::of(head.epoch, head.vector.clone(), entries);
    Ok(Rows { head, base, changes, refusals: refusals.into() })
}
