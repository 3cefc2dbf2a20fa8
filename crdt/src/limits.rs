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
/// Bytes of the change sets, signatures counted in, that one cluster may write in one epoch. What is beyond is refused by everybody alike: it
/// follows from the author's own history. Books of epochs do not count, else no epoch could end.
pub const AUTHOR_BYTES_MAX: u64 = 32 << 20;
/// Of these, what an honest cluster keeps free, so that what it took on before it knew that it is full still fits.
pub const AUTHOR_BYTES_SPARE: u64 = 8 << 20;
/// Bytes of the base and of all history that is open, beyond which an honest cluster writes nothing more: see `Replica::room`. Members that do
/// not know of each other's writes may together go beyond it, each by its own budget; a lie about it cannot be told from that.
pub const DOCUMENT_BYTES_MAX: u64 = 64 << 20;
/// Values of one key that the base keeps: the winner and those that lost. With the largest values they are a megabyte, which fits into a
/// frame and into one command of a kernel. What lost to so many is given up when the epoch is folded.
pub const VERSIONS_MAX: usize = 16;
/// Change sets that one change set may name as its direct past. A federation has few clusters, so few heads at a time.
pub const DEPS_MAX: usize = 256;
/// Clusters that were ever introduced, removed ones too, as far as whoever introduces the next one knows. Each dials each other, so there are
/// far fewer. Members that do not know of each other may together go beyond it, as many times as there are of them.
pub const INTRODUCED_MAX: usize = 512;
/// Clusters in one list: of members, of a version vector.
pub const CLUSTERS_MAX: usize = 4096;
/// An epoch's number. Each takes a history of megabytes, so nobody comes near it; what names a higher one is nonsense, and no sum wraps.
pub const EPOCH_MAX: u64 = 1 << 40;
/// Bytes of one frame as it is sent. Beyond it, what is left goes into the next.
pub const FRAME_BYTES_SENT: usize = 512 << 10;
/// Bytes of one frame as it is taken. A larger one ends the session: no peer of this version sends it.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// Frames that are under way unacknowledged. When full, the session waits for its peer.
pub const WINDOW: usize = 8;
/// Change sets that a session holds because their past is missing. When full, it ends.
pub const PENDING_MAX: usize = 16_384;
/// Bytes of these change sets. When full, the session ends.
pub const PENDING_BYTES_MAX: usize = 64 << 20;
/// Refusals that a replica remembers; the oldest goes first.
pub const REFUSALS_MAX: usize = 256;
/// Signatures that come with a base: with their keys they fit into a frame.
pub const ATTESTATIONS_MAX: usize = 512;
/// Bytes of a snapshot that is taken from a peer.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Hashes in one list of a synchronisation message: heads, needs.
pub const HASHES_MAX: usize = 4096;
/// Change sets that a peer's summary (a Bloom filter) may speak of.
pub const BLOOM_ENTRIES_MAX: u64 = 1 << 21;
