//! The two ways in which a node uses an engine, and what RocksDB is told for each.
//!
//! A machine may have two cores, and a whole node should idle below 100 MB, so everything here is small and bounded:
//! one background thread beside the flushing one, few open files, memory tables and block cache with fixed budgets. What a state's files
//! need in memory grows with their number, up to about 100 MB for as many as are kept open.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env, LogLevel, Options};

const MIB: usize = 1 << 20;

/// What an engine is tuned for, and what it does about a damaged write-ahead log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// An append-only log: small synced batches in key order, read back from memory or in order, purged by range from
    /// the front.
    ///
    /// What was acknowledged must be there after a restart, so the write-ahead log is read strictly: only an
    /// incomplete record at its very end is forgiven, which is what a crash in the middle of a write leaves.
    /// Damage anywhere else is [`crate::StorageError::Corruption`], and the engine does not open. Nor does it where the log
    /// ends before what was synced, which a file beside it remembers. What a power cut left of a write that was under way is dropped, even with
    /// holes in it, where everything that was synced lies before.
    ///
    /// RocksDB could reuse old log files, which roughly halves the time of a flush, but not in this mode: there, the
    /// end of the new log and damage look alike. Not losing an acknowledged entry silently is worth more, and flushes
    /// are shared by all who wait for one.
    Log,
    /// A large state: batches that are mostly buffered, because another log holds the truth, and many point reads.
    ///
    /// It has no write-ahead log of its own: after a crash, also of the process alone, a prefix of the batches is there, as
    /// far as memory tables were written to files, and the owner applies again what follows. Whatever is
    /// [`Durability::Synced`](crate::Durability) writes a table to a file, so a batch that must not be lost belongs into an engine for logs.
    State,
}

/// The numbers in which the profiles differ.
struct Tuning {
    /// One keyspace's memory table is written to a file when it has grown to this.
    table_bytes: usize,
    /// All memory tables of all keyspaces together, those being written to files included. Bounds the memory.
    all_tables_bytes: usize,
    /// Blocks that were read from files; of a log also their indices.
    cache_bytes: usize,
    /// How much is read from a file at once.
    block_bytes: usize,
    /// As many files that memory was flushed into are merged with the first level.
    merged_files: i32,
    /// The write-ahead log is kept until its data are in files. Bounds the disk and the time to open.
    wal_bytes_max: u64,
    /// Target size of one data file.
    file_bytes: u64,
    /// Size of the first level of sorted files, below those that memory is flushed into. Each of those spans nearly all keys, so that
    /// merging four of them rewrites the whole level: as large as they are, and no larger.
    first_level_bytes: u64,
    compression: DBCompressionType,
    recovery: DBRecoveryMode,
}

/// Data files kept open. Each costs some memory, of a state's about 0.4 MB for its index and filter; a miss costs opening it again.
const OPEN_FILES_MAX: i32 = 256;

/// Ten bits per key let about one in a hundred reads of an absent key look into a file for nothing.
const FILTER_BITS_PER_KEY: f64 = 10.0;

/// A filter beside each memory table of a state, as a part of the table's budget: room for about as many keys as fit into
/// the table, at ten bits each. Request ids are asked for once with every command and are nearly always absent; without
/// the filter each such question walks the table's list.
const TABLE_FILTER_RATIO: f64 = 0.01;

/// RocksDB's own diary, `LOG`: enough to see what led to a failure, and bounded.
const DIARY_BYTES_MAX: usize = 2 * MIB;
const DIARY_FILES_MAX: usize = 3;

/// Written data are handed to the disk in steps of this size, so that a flush of the log never waits for the many
/// megabytes that a compaction has just left in the page cache.
const WRITE_BACK_BYTES: u64 = MIB as u64;

impl Profile {
    fn tuning(self) -> Tuning {
        match self {
            Self::Log => Tuning {
                table_bytes: 8 * MIB,
                all_tables_bytes: 16 * MIB,
                cache_bytes: 4 * MIB,
                // Entries are read in order.
                block_bytes: 16 << 10,
                merged_files: 4,
                wal_bytes_max: 64 * MIB as u64,
                file_bytes: 16 * MIB as u64,
                first_level_bytes: 64 * MIB as u64,
                // What is purged soon is not worth compressing, and payloads often are compressed already.
                compression: DBCompressionType::None,
                recovery: DBRecoveryMode::TolerateCorruptedTailRecords,
            },
            // A table of half the size, with the files that follow from it, costs a loaded node an eighth more processor time.
            Self::State => Tuning {
                table_bytes: 32 * MIB,
                all_tables_bytes: 80 * MIB,
                cache_bytes: 16 * MIB,
                // Merging is most of what the engine does, and rows are small: blocks of 4 KiB cost it a twentieth more.
                block_bytes: 16 << 10,
                merged_files: 6,
                wal_bytes_max: 128 * MIB as u64,
                file_bytes: 32 * MIB as u64,
                first_level_bytes: 128 * MIB as u64,
                compression: DBCompressionType::Lz4,
                recovery: DBRecoveryMode::PointInTime,
            },
        }
    }

    /// The cache that all keyspaces of one engine share.
    pub(super) fn block_cache(self) -> Cache {
        Cache::new_lru_cache(self.tuning().cache_bytes)
    }

    /// What holds for the directory as a whole.
    pub(super) fn database_options(self) -> Options {
        let tuning = self.tuning();
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_wal_recovery_mode(tuning.recovery);
        if self == Self::Log {
            // A finished log file that was synced and is now missing or shorter is noticed when the engine opens.
            options.set_track_and_verify_wals_in_manifest(true);
        }

        // Every write reaches the operating system before it returns, so that a killed process loses nothing.
        options.set_manual_wal_flush(false);
        options.set_bytes_per_sync(WRITE_BACK_BYTES);
        // Without a write-ahead log, a batch over several column families is whole on the disk only if their tables go there together.
        options.set_atomic_flush(self == Self::State);

        // One thread writes: it need not be careful of others.
        options.set_allow_concurrent_memtable_write(false);

        options.set_db_write_buffer_size(tuning.all_tables_bytes);
        options.set_max_total_wal_size(tuning.wal_bytes_max);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_background_jobs(2);
        // Merging can wait for a while, and what writes and reads cannot. All engines of a process share the threads that merge.
        if let Ok(mut environment) = Env::new() {
            environment.lower_thread_pool_cpu_priority();
            options.set_env(&environment);
        }
        options.set_max_subcompactions(1);

        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(DIARY_BYTES_MAX);
        options.set_keep_log_file_num(DIARY_FILES_MAX);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    /// What holds for each keyspace.
    pub(super) fn family_options(self, cache: &Cache) -> Options {
        let tuning = self.tuning();
        let mut options = Options::default();
        options.set_write_buffer_size(tuning.table_bytes);
        options.set_max_write_buffer_number(2);
        options.set_level_zero_file_num_compaction_trigger(tuning.merged_files);
        options.set_target_file_size_base(tuning.file_bytes);
        options.set_max_bytes_for_level_base(tuning.first_level_bytes);
        options.set_compression_type(tuning.compression);
        // What has just come in is soon merged into the next level, or deleted.
        let young = [DBCompressionType::None; 2];
        options.set_compression_per_level(&[&young[..], &[tuning.compression; 5]].concat());
        options.set_block_based_table_factory(&self.table_options(cache));
        if self == Self::State {
            options.set_memtable_prefix_bloom_ratio(TABLE_FILTER_RATIO);
            options.set_memtable_whole_key_filtering(true);
        }
        options
    }

    fn table_options(self, cache: &Cache) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_block_size(self.tuning().block_bytes);
        match self {
            Self::Log => {
                table.set_cache_index_and_filter_blocks(true);
                table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            }
            Self::State => {
                table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
                // Every read of an absent key, such as a new request id, looks into the filters of all files. They stay with the open files: in
                // the cache, whole ones would have no room beside the rest, and finding parts of them cost a put a sixth of its time.
                table.set_cache_index_and_filter_blocks(false);
            }
        }
        table
    }
}
