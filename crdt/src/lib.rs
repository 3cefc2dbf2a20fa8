//! What the clusters of a federation share: signed change sets in automerge documents, and the synchronisation as a pure state machine.
//!
//! No sockets, no clock, no threads, no tokio: time, keys and bytes come in, bytes and what changed go out. (Signing hedges with the
//! library's own randomness, as FIPS 204 advises, and automerge draws an actor id that is replaced at once; nothing is decided by either.)
//!
//! ```text
//!   typed      directory of clusters, capacity, policies, agents, global contexts: by name, not by key
//!   view       values, conflicts, digests            verify    does the replica agree with itself?
//!   ───────────────────────────────────────────────────────────────────────────────────────────────
//!   replica    one cluster's copy; every transition gives a Commit: rows to store, values that changed, conflicts, refusals
//!   accept     whether a change set is taken         epoch     how history is compacted
//!   ───────────────────────────────────────────────────────────────────────────────────────────────
//!   layer      one epoch: automerge's document, and an index of who knew what        base      what is folded: no history
//!   change     a signed change set                   session   frames in, frames out, with one peer
//! ```
//!
//! ```
//! use tarn_crdt::{Identity, Pqcrypto, Replica, Scope, Session, Tuning, Write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (oslo, lima) = (Identity::from_seed(&Pqcrypto, &[1; 32]), Identity::from_seed(&Pqcrypto, &[2; 32]));
//! let (mut a, _) = Replica::found(&oslo, "shop", b"card", Tuning::default(), 1_000)?;
//! // Who joins signs its own card: nobody else says who it is.
//! let (card, signature) = (b"lima".to_vec(), lima.sign_card(&a.federation(), b"lima"));
//! let introduce = Write::Introduce { public_key: lima.public_key().to_vec(), scope: Scope::ALL, card, signature };
//! a.write(&oslo, vec![introduce], 1_001)?;
//! let (mut b, _) = Replica::join(a.federation(), &lima, oslo.id(), Tuning::default());
//!
//! let (mut at_a, mut at_b) = (Session::new(lima.id(), 1_002), Session::new(oslo.id(), 1_003));
//! loop {
//!     let (to_b, to_a) = (at_a.poll(&mut a), at_b.poll(&mut b));
//!     if to_b.is_none() && to_a.is_none() {
//!         break;
//!     }
//!     // A node stores the commits before it polls again.
//!     to_b.into_iter().try_for_each(|frame| at_b.receive(&mut b, &frame, 1_004).outcome)?;
//!     to_a.into_iter().try_for_each(|frame| at_a.receive(&mut a, &frame, 1_004).outcome)?;
//! }
//! assert_eq!(a.digest(), b.digest());
//! # Ok(())
//! # }
//! ```
//!
//! # The way of a change
//!
//! A cluster writes a **change set**: some keys at once. It becomes one change of automerge, whose hash is signed (ML-DSA-65), together
//! with the federation and the epoch. Change set and signature are stored and travel together, so whoever gets it from a third cluster can
//! still verify it. What travels is the room's own encoding, and automerge's change is derived from it: the operations that it supersedes
//! follow from the past that it names. No byte of a stranger reaches automerge's decoders, which trust run lengths, indices and Bloom
//! filters that they read.
//!
//! A change set is taken when its past is here, its author is introduced in that past, the signature is the author's, its hash is its
//! content's, and the author may write each key (`key.rs`: its own keys, and the sections of its scope). All of this is a function of the
//! change set and its past, so every replica decides alike whatever arrives first. It works because rights only grow: an introduction fixes
//! key and scope for ever. A refusal ends the session and is recorded with its [`Reason`]; what came before it stays.
//!
//! **Withdrawn trust.** Once a replica knows that C is removed, it takes nothing in C's own session; C hears of it, if it is connected, and
//! nothing after that. What C wrote it takes from members alone: a member that hands it over has taken it before it knew, or from one that
//! had. A member with whose knowledge C's change set is on top builds on it with an empty one, so that it is signed and sealed by one that
//! stays. So all members end with the same: what any of them had taken when it learned of it.
//!
//! *Removals count, whoever made them.* Clusters may remove each other without knowing of each other, and who removed somebody may have been
//! removed before: what counts is whether a member had taken the removal. So if A and B remove each other, both are gone. Two members that
//! nobody removed take everything from each other, whatever each of them knows of others, and so come to the same. (They did not when a
//! member's signature was needed for what a removed cluster wrote. One knew that A is removed, by B, and the other that B is, by A: neither
//! trusted what would have told it otherwise, and neither knew that it should sign.) A member that hands over for ever what a removed
//! cluster goes on writing is to be removed itself.
//!
//! **Equivocation.** Two change sets of one cluster with one number: the second is refused. Members that took different ones cannot meet by
//! themselves: that cluster has to be removed, and those on one side have to join anew with new keys. Every member's refusals tell.
//!
//! **Conflicts.** Where clusters wrote a key without knowing of each other, one value wins (the higher epoch, then automerge's order) and
//! the others stay beside it, folded or not, until somebody writes the key who knows of them.
//!
//! # Layers, and why folding is safe
//!
//! History would grow for ever, so it is cut into **epochs**. Below is the **base**, keys and values without history; on it the epoch that
//! is being closed, `e`, and the one that is written, `e + 1`. The highest layer that has a key wins.
//!
//! 1. *Open.* A cluster opens `e + 1` when `e` has more history than [`Tuning`] allows, or when somebody else did. Its first change set
//!    there **seals** `e`: it says, as a version [`Vector`], what the cluster knew of `e`. It writes to `e` no more. A later change set
//!    renews the seal where more of `e` has come, so that what it writes supersedes what it saw.
//! 2. *End.* What is kept of `e` is `U`: everything that the members had sealed, and that those who removed somebody knew. The members are
//!    the founder, those of the base and whoever is introduced in `U`, less the removed: the least set for which this holds.
//! 3. *Confirm.* A member that has all of `U` computes the base that this gives, and confirms members, `U` and digest with its signature.
//! 4. *Fold.* A member whose own last confirmation is the same as that of all members it counts puts the new base in the place of `e`, and
//!    says so. Whoever counts and sees that a member has folded does the same, if all that the end counts have confirmed it, and it counts
//!    all that are introduced in `U` and not removed. Who does not count, being introduced later, does so when all that count have folded.
//!    The history of `e` is kept until then.
//!
//! **Nothing is lost.** A member writes to `e` only before it seals, and its seal covers its own change sets; so everything that members
//! ever wrote to `e` is in `U`. A cluster that is cut off has not sealed, so `e` waits for it, or until it is removed; meanwhile everybody
//! writes to `e + 1`.
//!
//! **Nobody folds to something else.** Suppose two members P and Q, neither ever removed, fold `e` by step 4 to ends `T1 = (M1, U1)` and
//! `T2 = (M2, U2)`. Each counts the other, so P confirmed T2 before T1 (T1 is its last) and Q confirmed T1 before T2. What a replica knows
//! only grows: removals, what removers knew, and each member's seal. Take the first cluster in the closure that gives M2 which is not in
//! M1. What introduces it is in the base, known to a remover, or sealed by one before it, which is in M1 too; all of that P still knows at
//! T1, where seals are larger: so `U1` introduces it. It is not in M1, but Q, which counts it at T2, knew of no removal of it at T1 and
//! would have counted it there. So M2 is within M1, and in the same way M1 within M2. With equal members `U` only grows: P says `U2 ≤ U1`
//! and Q `U1 ≤ U2`, so they are equal, and so are the bases.
//!
//! *Followers.* A cluster that was removed without knowing it may fold to `T1`, while the others agree on `T2` without it. Say P follows it
//! and Q folds to `T2`, and neither is ever removed. If `T1` counts P, so does `T2`, as above: P had confirmed T2 before it followed, knew
//! who is removed there, and followed none of those. The same holds for whom it followed, down to the first, who folded by step 4: `T2`
//! counts it, and the two ends are equal as above. If `T1` does not count P, all whom it counts have folded to it first; one of them was
//! never removed, and `T2` counts that one. This needs one member, of those whom the base counts, that is never removed. Where all of them
//! are, nobody closes the epoch any more: it is read and written as before, up to its bounds.
//!
//! The digest shows if any of this should ever fail ([`Reason::Diverged`]): then nothing is folded.
//!
//! **Supersession survives folding.** Every value in the base keeps epoch, author and number, and every change set of `e + 1` what it knew
//! of `e`: so which value supersedes which is the same before and after.
//!
//! A cluster that joins asks its inviter, or a member that it knows, for the base, which comes with the signatures of those who folded it, and
//! begins in the epoch that is written. So does one that did not count and stayed away while all who counted folded. It takes the base if its
//! inviter has signed it, or more than half of those who count as far as it knows; where it knows nobody yet, from its inviter alone.
//!
//! # Size
//!
//! While all clusters are connected, what a replica stores stays within **five times** the live content with the default multiple of 2, or
//! within five times [`Tuning::history_bytes_min`] where that is more; and about 20 kB for each cluster for the books of an epoch. (One for
//! the base, two for an epoch that is full, and that history again in the worst moment, while it is folded and the next begins.)
//! `tests/size.rs` holds it to that. A change set costs its content and 3.5 kB, of which the signature is 3,309 bytes.
//!
//! # Bounds
//!
//! What one author may write in an epoch, and how many clusters may be introduced, every replica checks alike, for both follow from a change
//! set's own past ([`limits::AUTHOR_BYTES_MAX`], [`limits::INTRODUCED_MAX`]). The bound of the whole document is each writer's own to keep
//! ([`Replica::room`]): which change sets came first two replicas may see differently, so a refusal would have them diverge.
//!
//! # Synchronisation
//!
//! [`Session`] is automerge's protocol for each open epoch, in a small in-order stream of its own, for links that lose, repeat or reorder.
//! Change sets travel one by one, never as a whole document, in frames of half a megabyte. An idle session is silent. Everything has a
//! bound in [`limits`], checked before it is decoded or held. What a session holds back (past missing) it holds up to a
//! limit, and loses when it ends: the next one brings it again.
//!
//! # How fast
//!
//! `cargo test -p tarn-crdt --bench sync -- 10000`, on two cores that others used as well: signing 0.1 to 0.3 ms, verifying 0.03 ms;
//! writing 5,000 change sets a second, catching up 5,000 to 8,000 (both sides in one thread), loading 150,000.

#![forbid(unsafe_code)]

mod accept;
mod base;
mod change;
mod codec;
mod commit;
mod epoch;
mod id;
mod key;
mod layer;
pub mod limits;
mod records;
mod refusal;
mod replica;
mod rows;
mod session;
mod signature;
mod typed;
mod vector;
mod verify;
mod view;

pub use base::Version;
pub use codec::Malformed;
pub use commit::{Commit, Conflict, Row};
pub use id::{CLUSTER_ID_BYTES, ClusterId, FederationId, NotAClusterId};
pub use key::{Scope, Shared};
pub use records::card_is_signed;
pub use refusal::{Reason, Refusal};
pub use replica::{Replica, Tuning, WriteError};
pub use rows::LoadError;
pub use session::{Received, Session, SessionError};
pub use signature::{AwsLc, Identity, PUBLIC_KEY_BYTES, Pqcrypto, SEED_BYTES, SIGNATURE_BYTES, Scheme};
pub use typed::{Cluster, Entry, Write, clusters_of, shared_key};
pub use vector::Vector;
pub use verify::Inconsistent;
pub use view::Size;
