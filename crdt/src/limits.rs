//! Every bound of the room. What is larger is refused before it is decoded, held or stored.

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of what a cluster is introduced with beside its key and scope: a name, a root certificate, addresses.
pub const CARD_BYTES_MAX: usize = 48 << 10;
/// Keys that one change set may put.
pub const PUTS_MAX: usize = 1024;
/// Bytes of one change set's keys and values together.
pub const CHANGE_BYTES_MAX: usize = 256 << 10;
/// Change sets that one change set may name as its direct past. A federation has few clusters, so few heads at a time.
pub const DEPS_MAX: usize = 256;
/// Clusters in one list: of members, of a version vector.
pub const CLUSTERS_MAX: usize = 4096;
/// Bytes of one frame as it is sent. Beyond it, what is left goes into the next.
pub const FRAME_BYTES_SENT: usize = 512 << 10;
/// Bytes of one frame as it is taken. A larger one ends the session: no peer of this version sends it.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Frames that are under way unacknowledged. When full, the session waits for its peer.
pub const WINDOW: usize = 8;
/// Change sets that a session holds because their past is missing, or because nobody vouches for them yet. When full, it ends.
pub const PENDING_MAX: usize = 16_384;
/// Bytes of these change sets. When full, the session ends.
pub const PENDING_BYTES_MAX: usize = 64 << 20;
/// Refusals that a replica remembers; the oldest goes first.
pub const REFUSALS_MAX: usize = 256;
/// Bytes of a snapshot that is taken from a peer.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Hashes in one list of a synchronisation message: heads, needs.
pub const HASHES_MAX: usize = 4096;
/// Change sets that a peer's summary (a Bloom filter) may speak of.
pub const BLOOM_ENTRIES_MAX: u64 = 1 << 21;
