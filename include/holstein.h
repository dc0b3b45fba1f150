/*
 * Holstein: transactional, incremental backup of qcow2 disks. MIT OR Apache-2.0.
 *
 * Made from src/capi by `make header`: change it there.
 *
 * Handles are opaque. Functions that can fail return int, 0 or a positive result on success and HOL_ERR_* (all
 * negative) on failure; hol_last_error_message() then has the text. Results are written only on success. Arguments must
 * not be NULL where their function does not allow it; HOL_ERR_NULL names the one that is. Texts are UTF-8 or, for paths
 * and names, the bytes that the operating system or the image has. Flags and constants that a function does not know are
 * errors.
 *
 * Handles may be freed in any order: what was made from another handle keeps what it needs of it. After HOL_ERR_PANIC, a
 * defect of the library, the handles of the call give HOL_ERR_PANIC until they are freed; the process goes on.
 *
 * A handle is for the process that made it. In a fork of that, every call with it gives HOL_ERR_WRONG_STATE, and freeing it
 * does nothing: the locks, the files and the work at hand are the parent's.
 *
 * The library has no global state and installs no signal handler. Its threads end with the handle that they work for, so
 * that it can be unloaded when every handle is freed.
 */

#ifndef HOLSTEIN_H
#define HOLSTEIN_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header; hol_version() is that of the library. */
#define HOL_VERSION_MAJOR 0
#define HOL_VERSION_MINOR 1
#define HOL_VERSION_PATCH 0
#define HOL_VERSION_NUMBER (HOL_VERSION_MAJOR * 1000000 + HOL_VERSION_MINOR * 1000 + HOL_VERSION_PATCH)
#define HOL_VERSION "0.1.0"

#if defined(__GNUC__)
#define HOL_MUST_USE __attribute__((warn_unused_result))
#else
#define HOL_MUST_USE
#endif

/*
 * The initializer of a structure that begins with struct_size, everything else zero:
 *     hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
 * Other languages zero the structure and set struct_size to its size.
 */
#ifdef __cplusplus
template <typename T> inline T hol_options_init() { T value = T(); value.struct_size = sizeof(T); return value; }
#define HOL_OPTIONS_INIT(type) hol_options_init<type>()
#else
#define HOL_OPTIONS_INIT(type) { .struct_size = sizeof(type) }
#endif

/**
 * Success.
 */
#define HOL_OK 0

/**
 * An argument that must not be NULL is NULL; the message names it.
 */
#define HOL_ERR_NULL -1

/**
 * A defect of the library, caught in this call. The handle it happened in must only be freed.
 */
#define HOL_ERR_PANIC -2

/**
 * An argument is outside its range, or arguments contradict each other.
 */
#define HOL_ERR_INVALID_ARGUMENT -3

/**
 * A file or folder does not exist.
 */
#define HOL_ERR_NOT_FOUND -4

/**
 * A file exists already and may not be overwritten.
 */
#define HOL_ERR_EXISTS -5

/**
 * Somebody uses the image in a way that excludes this use: another process, or this one by another handle. The message says
 * which.
 */
#define HOL_ERR_LOCKED -6

/**
 * The operating system reported a failure of input or output: hol_last_error_errno().
 */
#define HOL_ERR_IO -7

/**
 * The file system (or quota) is full.
 */
#define HOL_ERR_NO_SPACE -8

/**
 * The image breaks the qcow2 specification.
 */
#define HOL_ERR_CORRUPT -9

/**
 * The image is valid but uses something that this version cannot handle.
 */
#define HOL_ERR_UNSUPPORTED -10

/**
 * The image is encrypted.
 */
#define HOL_ERR_ENCRYPTED -11

/**
 * The image names another file that the backing policy does not allow.
 */
#define HOL_ERR_POLICY_DENIED -12

/**
 * The image would need more memory than the budget allows.
 */
#define HOL_ERR_LIMIT -13

/**
 * The image has no bitmap of that name.
 */
#define HOL_ERR_BITMAP_NOT_FOUND -14

/**
 * The bitmap exists but cannot be trusted.
 */
#define HOL_ERR_BITMAP_UNUSABLE -15

/**
 * The work was cancelled, by the caller or because another job of its group ended.
 */
#define HOL_ERR_CANCELLED -16

/**
 * The handle is not in a state that allows this call.
 */
#define HOL_ERR_WRONG_STATE -17

/**
 * A defect of the library, caught in a job.
 */
#define HOL_ERR_INTERNAL -18

/**
 * The operating system does not permit the access.
 */
#define HOL_ERR_PERMISSION -19

/**
 * Memory is short; nothing is wrong with the image. Give memory free, or a smaller hol_disk_options.memory_limit.
 */
#define HOL_ERR_NO_MEMORY -20

/**
 * The image is qcow2. The default: a format is what the caller says and never guessed.
 */
#define HOL_FORMAT_QCOW2 0

/**
 * The image is raw: its bytes are the disk's.
 */
#define HOL_FORMAT_RAW 1

/**
 * Files that an image names (backing file, data file) are opened when they are regular files in the image's own
 * folder or below it. The default.
 */
#define HOL_BACKING_BESIDE 0

/**
 * Files that an image names are opened when they are regular files in the folder hol_disk_options.backing_dir or below it.
 */
#define HOL_BACKING_UNDER 1

/**
 * Files that an image names are opened when they are regular files or block devices, wherever they are.
 */
#define HOL_BACKING_ANY 2

/**
 * Files that an image names are not opened: it is an error that it names one.
 */
#define HOL_BACKING_DENY 3

/**
 * The image is locked as QEMU locks it: opening fails while another process writes it. The default.
 */
#define HOL_SHARING_LOCKED 0

/**
 * The image is opened without locks, for information about an image in use: what is read may be torn.
 */
#define HOL_SHARING_FORCE 1

/**
 * The image is opened for reading. The default.
 */
#define HOL_ACCESS_READ 0

/**
 * The image and its external data file are opened for reading and writing: data, size, bitmaps and internal snapshots can be
 * changed. A backup needs this when its bitmap changes (HOL_BITMAP_MODE_ON_SUCCESS, HOL_BITMAP_MODE_ALWAYS), and so do the
 * actions that change bitmaps or snapshots of the disk. As long as it is open the image is locked against all that heed
 * QEMU's locks, other handles of this process included. Images below it are only read, and others may read them. Data is
 * written only with HOL_LAYERS_CHAIN.
 */
#define HOL_ACCESS_WRITE 1

/**
 * The image is opened with the files that it names. The default.
 */
#define HOL_LAYERS_CHAIN 0

/**
 * The image alone is opened: for information, since data may be elsewhere.
 */
#define HOL_LAYERS_TOP_ONLY 1

/**
 * Copy by bitmap when one is named, else everything. The default.
 */
#define HOL_SYNC_DEFAULT 0

/**
 * Copy the whole disk.
 */
#define HOL_SYNC_FULL 1

/**
 * Copy what the top image holds itself, without its backing files.
 */
#define HOL_SYNC_TOP 2

/**
 * Copy what the bitmap says changed; bitmap_mode says what becomes of the bitmap.
 */
#define HOL_SYNC_BITMAP 3

/**
 * Copy what the bitmap says changed, with HOL_BITMAP_MODE_ON_SUCCESS.
 */
#define HOL_SYNC_INCREMENTAL 4

/**
 * Copy nothing: the target is an empty image over its backing file, which it needs.
 */
#define HOL_SYNC_NONE 5

/**
 * The library's choice for the sync mode. The default.
 */
#define HOL_BITMAP_MODE_DEFAULT 0

/**
 * The bitmap starts anew when the backup has succeeded.
 */
#define HOL_BITMAP_MODE_ON_SUCCESS 1

/**
 * The bitmap stays as it is.
 */
#define HOL_BITMAP_MODE_NEVER 2

/**
 * The bitmap loses what is in the target, also when the backup fails or is cancelled: then the target is kept with what
 * it has, and hol_report.partial_end tells how far it goes. Nothing is kept, and the bitmap stays as it is, when nothing
 * was copied yet, when the target itself fails, and when it would replace an existing one. Not for several backups with
 * HOL_COMPLETION_GROUPED.
 */
#define HOL_BITMAP_MODE_ALWAYS 3

/**
 * Clusters are stored as they are. The default.
 */
#define HOL_COMPRESSION_NONE 0

/**
 * Clusters are compressed with zlib (deflate).
 */
#define HOL_COMPRESSION_ZLIB 1

/**
 * Clusters are compressed with zstd.
 */
#define HOL_COMPRESSION_ZSTD 2

/**
 * An existing target is an error. The default.
 */
#define HOL_EXISTING_REFUSE 0

/**
 * An existing target is replaced when the new one is complete.
 */
#define HOL_EXISTING_OVERWRITE 1

/**
 * Zeros within data are found and stored as zero clusters. The default.
 */
#define HOL_ZERO_DETECTION_ON 0

/**
 * Data is stored without being looked at.
 */
#define HOL_ZERO_DETECTION_OFF 1

/**
 * An error of input or output makes the job fail. The default.
 */
#define HOL_ON_ERROR_REPORT 0

/**
 * The same piece is tried again after a pause, from 10 ms up to 1 s, 10 times at most; then the job fails. Nothing is ever
 * left out.
 */
#define HOL_ON_ERROR_IGNORE 1

/**
 * The job pauses when there is no space left; else it fails.
 */
#define HOL_ON_ERROR_ENOSPC 2

/**
 * The job pauses; when it is resumed it tries the same piece again.
 */
#define HOL_ON_ERROR_STOP 3

/**
 * The job takes its last step by itself. The default.
 */
#define HOL_LAST_STEP_AUTO 0

/**
 * The job takes its last step when it is told to.
 */
#define HOL_LAST_STEP_MANUAL 1

/**
 * An increment over another image than the backup that its bitmap counts from is refused. The default.
 */
#define HOL_LINEAGE_STRICT 0

/**
 * It is not: the caller knows better.
 */
#define HOL_LINEAGE_IGNORE 1

/**
 * The target shares blocks with the source's files where the file system can (XFS, btrfs), and gets a copy of the rest. The
 * default. Shared data is neither read nor written, and zeros in it stay data. A target with compression shares nothing.
 */
#define HOL_REFLINK_AUTO 0

/**
 * Data that cannot be shared is an error (HOL_ERR_UNSUPPORTED), before anything is copied where that can be known. Less than a
 * block at the end of a file is copied. Not with compression.
 */
#define HOL_REFLINK_ALWAYS 1

/**
 * All data is copied.
 */
#define HOL_REFLINK_NEVER 2

/**
 * What the backup alone brings into the page cache is dropped again, of the files that it reads and of its target; what was there
 * before stays. The default. Of files that the process neither owns nor may write nothing is dropped.
 */
#define HOL_PAGE_CACHE_DROP 0

/**
 * The page cache is left to the kernel.
 */
#define HOL_PAGE_CACHE_KEEP 1

/**
 * All jobs of a transaction succeed, or none leaves anything behind. The default.
 */
#define HOL_COMPLETION_GROUPED 0

/**
 * Each job succeeds or fails by itself.
 */
#define HOL_COMPLETION_INDIVIDUAL 1

/**
 * A callback asked to stop, and so the call did.
 */
#define HOL_STOPPED 1

/**
 * One of the images of the chain holds this part; without it the part is unallocated and reads as zeros.
 */
#define HOL_EXTENT_PRESENT 1

/**
 * The part reads as zeros.
 */
#define HOL_EXTENT_ZERO 2

/**
 * The part is stored as data.
 */
#define HOL_EXTENT_DATA 4

/**
 * The part is stored compressed.
 */
#define HOL_EXTENT_COMPRESSED 8

/**
 * host_offset says where the part is stored.
 */
#define HOL_EXTENT_OFFSET 16

/**
 * The bitmap says that the part changed.
 */
#define HOL_EXTENT_DIRTY 32

/**
 * All flags of hol_extent.flags that this header knows; hol_constant() tells which the library knows.
 */
#define HOL_EXTENT_FLAGS_MASK 63

/**
 * In hol_disk_details.flags: refcounts are updated lazily.
 */
#define HOL_DISK_LAZY_REFCOUNTS 1

/**
 * In hol_disk_details.flags: the image is marked corrupt.
 */
#define HOL_DISK_CORRUPT 2

/**
 * In hol_disk_details.flags: the image was not closed cleanly, its refcounts may be wrong.
 */
#define HOL_DISK_DIRTY 4

/**
 * In hol_disk_details.flags: the image has subclusters.
 */
#define HOL_DISK_EXTENDED_L2 8

/**
 * In hol_disk_details.flags: the external data file is a raw image of the disk.
 */
#define HOL_DISK_DATA_FILE_RAW 16

/**
 * All flags of hol_disk_details.flags that this header knows; hol_constant() tells which the library knows.
 */
#define HOL_DISK_FLAGS_MASK 31

/**
 * Nothing lies below, and nothing has to.
 */
#define HOL_LINK_BOTTOM 1

/**
 * The image below is the backup that this one was made over.
 */
#define HOL_LINK_PROVEN 2

/**
 * This image, or the one below, says nothing about that.
 */
#define HOL_LINK_UNKNOWN 3

/**
 * The image below is another backup, or nothing lies below an increment.
 */
#define HOL_LINK_BROKEN 4

/**
 * The image was not checked: nobody asked for it, or it is raw and has nothing to check.
 */
#define HOL_VERDICT_NONE 0

/**
 * Nothing is wrong.
 */
#define HOL_VERDICT_CONSISTENT 1

/**
 * Space is wasted, and nothing else is wrong.
 */
#define HOL_VERDICT_LEAKS 2

/**
 * Data is damaged, or will be when the image is written; of a chain also: a link is broken.
 */
#define HOL_VERDICT_CORRUPT 3

/**
 * A part could not be checked.
 */
#define HOL_VERDICT_INCOMPLETE 4

/**
 * Refcounts that are higher than the references go down, so that leaked clusters can be used again.
 */
#define HOL_REPAIR_LEAKS 1

/**
 * The same; and wrong refcounts are counted anew, and broken bitmaps and snapshots are given up.
 */
#define HOL_REPAIR_ALL 2

/**
 * A cluster has a lower refcount than references: it may be given away while it is in use.
 */
#define HOL_PROBLEM_REFCOUNT_TOO_LOW 1

/**
 * A cluster has a higher refcount than references: wasted space, but no harm.
 */
#define HOL_PROBLEM_LEAK 2

/**
 * A table entry breaks the specification.
 */
#define HOL_PROBLEM_INVALID_ENTRY 3

/**
 * The flag of a table entry that promises a refcount of 1 disagrees with the refcount.
 */
#define HOL_PROBLEM_COPIED_FLAG 4

/**
 * A reference leads behind the end of the file.
 */
#define HOL_PROBLEM_OUTSIDE_FILE 5

/**
 * A refcount cannot be read, since its table entry is invalid.
 */
#define HOL_PROBLEM_NO_REFCOUNT 6

/**
 * A table begins in the file but is cut short by its end.
 */
#define HOL_PROBLEM_CUT_SHORT 7

/**
 * Two structures lie on one cluster that only one of them can own.
 */
#define HOL_PROBLEM_OVERLAP 8

/**
 * The bitmap directory or a bitmap is damaged.
 */
#define HOL_PROBLEM_BITMAP 9

/**
 * A bitmap is in a state in which its contents cannot be used; no damage.
 */
#define HOL_PROBLEM_UNUSABLE_BITMAP 10

/**
 * An entry of the snapshot table has neither a name nor tables.
 */
#define HOL_PROBLEM_SNAPSHOT 11

/**
 * Data is damaged, or will be when the image is written.
 */
#define HOL_SEVERITY_CORRUPTION 1

/**
 * Space is wasted.
 */
#define HOL_SEVERITY_LEAK 2

/**
 * Something could not be checked.
 */
#define HOL_SEVERITY_UNCHECKED 3

/**
 * Worth knowing.
 */
#define HOL_SEVERITY_NOTE 4

/**
 * Version 3 of the qcow2 format. The default.
 */
#define HOL_COMPAT_1_1 0

/**
 * Version 2 of the qcow2 format, for programs that know nothing newer: no zero clusters, no bitmaps.
 */
#define HOL_COMPAT_0_10 1

/**
 * Nothing is done for the guest's clusters in advance. The default.
 */
#define HOL_PREALLOCATION_OFF 0

/**
 * Each of the guest's clusters gets its place and its entry in the tables; no data is written.
 */
#define HOL_PREALLOCATION_METADATA 1

/**
 * All flags that hol_create_options.flags may have; hol_constant() tells which the library knows.
 */
#define HOL_CREATE_FLAGS_MASK 25

/**
 * In hol_bitmap_details.flags: the bitmap was not closed cleanly, or is in use.
 */
#define HOL_BITMAP_IN_USE 1

/**
 * In hol_bitmap_details.flags: the bitmap records writes.
 */
#define HOL_BITMAP_AUTO 2

/**
 * In hol_bitmap_details.flags: a backup can be based on the bitmap; without it reason says why not.
 */
#define HOL_BITMAP_USABLE 4

/**
 * In hol_bitmap_details.flags: count is known.
 */
#define HOL_BITMAP_COUNTED 8

/**
 * All flags of hol_bitmap_details.flags that this header knows; hol_constant() tells which the library knows.
 */
#define HOL_BITMAP_FLAGS_MASK 15

/**
 * The bitmap records writes. The default.
 */
#define HOL_RECORDING_ENABLED 0

/**
 * The bitmap does not record: writes are missing in it then.
 */
#define HOL_RECORDING_DISABLED 1

/**
 * A new, clean bitmap called name, with granularity and recording.
 */
#define HOL_CHANGE_ADD 1

/**
 * The bitmap goes; also one that cannot be used.
 */
#define HOL_CHANGE_REMOVE 2

/**
 * All of the bitmap becomes clean.
 */
#define HOL_CHANGE_CLEAR 3

/**
 * The bitmap records from now on.
 */
#define HOL_CHANGE_ENABLE 4

/**
 * The bitmap does not record from now on.
 */
#define HOL_CHANGE_DISABLE 5

/**
 * The bitmap is called new_name from now on.
 */
#define HOL_CHANGE_RENAME 6

/**
 * What is dirty in any of the sources becomes dirty in the bitmap too.
 */
#define HOL_CHANGE_MERGE 7

/**
 * In hol_snapshot_details.flags: disk_size is known.
 */
#define HOL_SNAPSHOT_DISK_SIZE 1

/**
 * In hol_snapshot_details.flags: icount is known.
 */
#define HOL_SNAPSHOT_ICOUNT 2

/**
 * All flags of hol_snapshot_details.flags that this header knows; hol_constant() tells which the library knows.
 */
#define HOL_SNAPSHOT_FLAGS_MASK 3

/**
 * The image on top of the disk at that point of the list. The default.
 */
#define HOL_LAYER_TOP 0

/**
 * The image below that: behind an external snapshot, the disk as it was before.
 */
#define HOL_LAYER_BELOW 1

/**
 * The job has not begun.
 */
#define HOL_JOB_CREATED 1

/**
 * The job copies.
 */
#define HOL_JOB_RUNNING 2

/**
 * The job has done its work and waits for the others of its group.
 */
#define HOL_JOB_WAITING 3

/**
 * The job undoes what it did, after a failure or a cancel; or finishes a partial target (HOL_BITMAP_MODE_ALWAYS).
 */
#define HOL_JOB_ABORTING 4

/**
 * The job is over: hol_job_error() says how it ended.
 */
#define HOL_JOB_CONCLUDED 5

/**
 * The job is paused: nothing of it is read or written until it is resumed.
 */
#define HOL_JOB_PAUSED 6

/**
 * The job and all of its group have done their work; what is left is that the targets appear.
 */
#define HOL_JOB_PENDING 7

/**
 * The job is over and was dismissed.
 */
#define HOL_JOB_DISMISSED 8

/**
 * hol_txn_wait() ended because its time did; the transaction still runs.
 */
#define HOL_TIMED_OUT 1

/**
 * The job's status is now the event's status.
 */
#define HOL_EVENT_STATUS 1

/**
 * The job has dealt with done of total bytes.
 */
#define HOL_EVENT_PROGRESS 2

/**
 * The job failed with code; hol_job_error() has the text.
 */
#define HOL_EVENT_FAILED 3

/**
 * The job was cancelled.
 */
#define HOL_EVENT_CANCELLED 4

/**
 * The job succeeded.
 */
#define HOL_EVENT_COMPLETED 5

/**
 * The whole transaction is over: hol_txn_wait() no longer blocks. The last event.
 */
#define HOL_EVENT_FINISHED 6

/**
 * The job met an error with code, when reading or writing (side), and does action about it.
 */
#define HOL_EVENT_ERROR 7

/**
 * The error came from reading the source or an image below it.
 */
#define HOL_SIDE_SOURCE 1

/**
 * The error came from writing the target.
 */
#define HOL_SIDE_TARGET 2

/**
 * The job fails.
 */
#define HOL_ACTION_REPORT 1

/**
 * The job tries the same piece again, after a pause.
 */
#define HOL_ACTION_IGNORE 2

/**
 * The job pauses: hol_job_resume() lets it try the same piece again. hol_job_stop_error() has the text.
 */
#define HOL_ACTION_STOP 3

/**
 * A line about something that failed.
 */
#define HOL_LOG_ERROR 1

/**
 * A line about something that is not as it should be, or was asked to end early.
 */
#define HOL_LOG_WARNING 2

/**
 * A line about anything else.
 */
#define HOL_LOG_INFO 3

/**
 * A temporary file of a transaction that was never decided was removed.
 */
#define HOL_RECOVERED_TEMPORARY_REMOVED 1

/**
 * A target got its name.
 */
#define HOL_RECOVERED_TARGET_PUBLISHED 2

/**
 * A target had its name already.
 */
#define HOL_RECOVERED_TARGET_WAS_PUBLISHED 3

/**
 * A target is not there any more, or its name is taken: the bitmaps of its transaction stay dirty.
 */
#define HOL_RECOVERED_TARGET_MISSING 4

/**
 * The bitmaps of an image are as the transaction makes them.
 */
#define HOL_RECOVERED_BITMAPS_CHANGED 5

/**
 * They were so already.
 */
#define HOL_RECOVERED_BITMAPS_WERE_CHANGED 6

/**
 * The bitmaps stay as they are, dirtier than they could be.
 */
#define HOL_RECOVERED_BITMAPS_LEFT 7

/**
 * What somebody wrote meanwhile, or may have, is not in an image's bitmaps, or the backup that they are about is gone: they
 * are inconsistent now, and the next backup is a full one.
 */
#define HOL_RECOVERED_BITMAPS_GIVEN_UP 8

/**
 * Something cannot be finished now; the journal stays for the next recovery.
 */
#define HOL_RECOVERED_UNFINISHED 9

/**
 * The transaction is at work: nothing was touched.
 */
#define HOL_RECOVERED_AT_WORK 10

/**
 * One step of a transaction, not yet run. It belongs to one thread at a time.
 */
typedef struct hol_action hol_action;

/**
 * What a check of a chain found. Several threads may use it at the same time; only hol_chain_free() must come alone.
 */
typedef struct hol_chain hol_chain;

/**
 * What a check or a repair found. Several threads may use it at the same time; only hol_check_free() must come alone.
 */
typedef struct hol_check hol_check;

/**
 * An open disk: an image with the files it is made of. Several threads may use it at the same time; only
 * hol_disk_close() must come alone. What was made from it (actions, transactions, jobs) keeps what it needs of it and may
 * outlive it.
 */
typedef struct hol_disk hol_disk;

/**
 * A job of a transaction, running or finished. Several threads may use it at the same time; only hol_job_free() must
 * come alone. It may outlive its transaction, and freeing it does not stop the work.
 */
typedef struct hol_job hol_job;

/**
 * A transaction: actions that take effect together. Several threads may use it at the same time; only hol_txn_free()
 * must come alone. Two transactions over one disk work side by side; one that would be in the way of another that runs
 * (the same bitmap, a snapshot deleted or an overlay made beside other changes) is refused at its start with HOL_ERR_WRONG_STATE.
 */
typedef struct hol_txn hol_txn;

/**
 * How a disk is opened. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
 * other field is the default. Texts belong to the caller and are copied.
 */
typedef struct hol_disk_options {
  /**
   * sizeof(hol_disk_options)
   */
  size_t struct_size;
  /**
   * The folder of HOL_BACKING_UNDER; else NULL.
   */
  const char *backing_dir;
  /**
   * Memory that the image's tables may take, in bytes; 0: 64 MiB.
   */
  uint64_t memory_limit;
  /**
   * HOL_FORMAT_*
   */
  uint32_t format;
  /**
   * HOL_BACKING_*
   */
  uint32_t backing_policy;
  /**
   * HOL_SHARING_*
   */
  uint32_t sharing;
  /**
   * HOL_LAYERS_*
   */
  uint32_t layers;
  /**
   * HOL_ACCESS_*
   */
  uint32_t access;
  /**
   * Most images in the chain, the top included; 0: 1000. Nothing is made that would stand on more.
   */
  uint32_t chain_limit;
  /**
   * Most threads that a large read uses; 0: two for each processor, 16 at most. A transaction has a limit of its own.
   */
  uint32_t thread_limit;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} hol_disk_options;

/**
 * What is known of a disk's top image. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
 * library fills the rest. Texts belong to the disk and stay until hol_disk_close().
 */
typedef struct hol_disk_details {
  /**
   * sizeof(hol_disk_details)
   */
  size_t struct_size;
  /**
   * Size of the disk in bytes.
   */
  uint64_t virtual_size;
  /**
   * Bytes that the file takes in its file system.
   */
  uint64_t actual_size;
  /**
   * Length of the file in bytes.
   */
  uint64_t file_length;
  /**
   * Size of a cluster in bytes; 0 for a raw image.
   */
  uint64_t cluster_size;
  /**
   * Number of internal snapshots.
   */
  uint64_t snapshots;
  /**
   * Number of persistent bitmaps.
   */
  uint64_t bitmaps;
  /**
   * The backing file as the image names it; NULL: none.
   */
  const char *backing;
  /**
   * The backing file's path; NULL when there is none or its name is not a path.
   */
  const char *backing_path;
  /**
   * The backing file's format as the image names it; NULL: not named.
   */
  const char *backing_format;
  /**
   * The external data file as the image names it; NULL: none.
   */
  const char *data_file;
  /**
   * HOL_FORMAT_*
   */
  uint32_t format;
  /**
   * Version of the qcow2 format, 2 or 3; 0 for a raw image.
   */
  uint32_t version;
  /**
   * HOL_COMPRESSION_* of compressed clusters; HOL_COMPRESSION_NONE for a raw image.
   */
  uint32_t compression;
  /**
   * Bits of a refcount; 0 for a raw image.
   */
  uint32_t refcount_bits;
  /**
   * HOL_DISK_*, combined
   */
  uint32_t flags;
  /**
   * Number of images in the chain, with this one.
   */
  uint32_t layers;
  /**
   * The identity of the image, in the form of a UUID, if it is a backup that Holstein made or a copy of one; else NULL.
   */
  const char *identity;
  /**
   * The identity of the backup below it, by its own header; NULL: not known.
   */
  const char *parent;
} hol_disk_details;

/**
 * A part of a disk. The library makes it: struct_size says how much of it this library knows.
 */
typedef struct hol_extent {
  /**
   * sizeof(hol_extent), the library's
   */
  size_t struct_size;
  /**
   * First byte of the part in the disk.
   */
  uint64_t start;
  /**
   * Bytes in the part.
   */
  uint64_t length;
  /**
   * With HOL_EXTENT_OFFSET: where in its file the part begins; else 0.
   */
  uint64_t host_offset;
  /**
   * Which image of the chain holds the part: 0 is the top.
   */
  uint32_t depth;
  /**
   * HOL_EXTENT_*, combined
   */
  uint32_t flags;
} hol_extent;

/**
 * Receives the extents of a disk or bitmap, ascending, in the calling thread and with no lock held: it may call
 * the library, but must not close the disk. `extent` is valid during the callback only. Return 0 to go on,
 * anything else to stop. No exception may leave it.
 */
typedef int (*hol_extent_cb)(const struct hol_extent *extent, void *opaque);

/**
 * One image of a chain. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills the
 * rest. Texts belong to the handle that was asked and stay until it is freed.
 */
typedef struct hol_layer {
  /**
   * sizeof(hol_layer)
   */
  size_t struct_size;
  /**
   * Where the image was opened.
   */
  const char *path;
  /**
   * The identity of the image, in the form of a UUID; NULL: it has none.
   */
  const char *identity;
  /**
   * The identity of the backup that it was made over, by its own header; NULL: not known.
   */
  const char *parent;
  /**
   * Size of its disk in bytes.
   */
  uint64_t virtual_size;
  /**
   * HOL_FORMAT_*
   */
  uint32_t format;
  /**
   * How it stands on the image below: HOL_LINK_*
   */
  uint32_t link;
  /**
   * What a check of the image alone found: HOL_VERDICT_*
   */
  uint32_t verdict;
  /**
   * 0
   */
  uint32_t reserved;
} hol_layer;

/**
 * What a check found, in numbers; after a repair: what remains, and what was done. Set struct_size to the sizeof of the
 * structure (HOL_OPTIONS_INIT does); the library fills the rest.
 */
typedef struct hol_check_report {
  /**
   * sizeof(hol_check_report)
   */
  size_t struct_size;
  /**
   * Refcounts that are too low, and entries that are wrong.
   */
  uint64_t corruptions;
  /**
   * Damage that QEMU does not count: overlaps, broken bitmaps, tables that the file's end cuts short.
   */
  uint64_t further_corruptions;
  /**
   * Clusters whose refcount is too high.
   */
  uint64_t leaks;
  /**
   * Clusters that could not be checked.
   */
  uint64_t check_errors;
  /**
   * The end of the last cluster in use, in bytes of the file.
   */
  uint64_t image_end_offset;
  /**
   * Clusters of the disk.
   */
  uint64_t total_clusters;
  /**
   * Clusters of the disk that the image has space for.
   */
  uint64_t allocated_clusters;
  /**
   * Of these, those that do not follow the one before them.
   */
  uint64_t fragmented_clusters;
  /**
   * Clusters of the disk that are compressed.
   */
  uint64_t compressed_clusters;
  /**
   * Number of problems that hol_check_problem() tells: a thousand at most.
   */
  uint64_t problems;
  /**
   * How many more there are.
   */
  uint64_t problems_omitted;
  /**
   * Of a repair: corruptions that are gone.
   */
  uint64_t corruptions_fixed;
  /**
   * Of a repair: damage that QEMU does not count and that is gone.
   */
  uint64_t further_corruptions_fixed;
  /**
   * Of a repair: leaked clusters that are free now.
   */
  uint64_t leaks_fixed;
  /**
   * Of a repair: number of problems found before it that hol_check_found() tells; a thousand at most.
   */
  uint64_t found;
  /**
   * How many more there were.
   */
  uint64_t found_omitted;
  /**
   * Of a repair: bitmaps that were given up, which hol_check_lost_bitmap() tells. The next backup by them is a full one.
   */
  uint64_t lost_bitmaps;
  /**
   * Of a repair: number of things that were not repaired although that might have been expected; hol_check_left() tells
   * each.
   */
  uint64_t left;
  /**
   * HOL_VERDICT_*
   */
  uint32_t verdict;
  /**
   * 1: everything that can refer to clusters was read, so that leaked clusters are surely not in use; else 0.
   */
  uint32_t leaks_are_certain;
  /**
   * Of a repair: number of parts of the snapshot table that were given up, which hol_check_lost_snapshots() tells.
   */
  uint64_t lost_snapshots;
  /**
   * Of a repair: number of things that were mended in the snapshot table; hol_check_mended_snapshot() tells each.
   */
  uint64_t mended_snapshots;
} hol_check_report;

/**
 * One thing that is wrong, or the same thing with several clusters in a row. Set struct_size to the sizeof of the structure
 * (HOL_OPTIONS_INIT does); the library fills the rest. The text belongs to the check.
 */
typedef struct hol_problem {
  /**
   * sizeof(hol_problem)
   */
  size_t struct_size;
  /**
   * The problem in words.
   */
  const char *text;
  /**
   * Where, in bytes of the file; UINT64_MAX: it is not about one place.
   */
  uint64_t offset;
  /**
   * How many clusters from there on; 0: it is not about clusters.
   */
  uint64_t clusters;
  /**
   * HOL_PROBLEM_*. Later versions may add kinds.
   */
  uint32_t kind;
  /**
   * HOL_SEVERITY_*
   */
  uint32_t severity;
} hol_problem;

/**
 * What a new image shall be. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
 * other field is the default. Texts and structures belong to the caller and are copied.
 */
typedef struct hol_create_options {
  /**
   * sizeof(hol_create_options)
   */
  size_t struct_size;
  /**
   * The image below, as the new one records it: a relative name starts from the new image's folder. It must
   * exist, and the policy in `open` must allow to open it. NULL: none.
   */
  const char *backing;
  /**
   * The name of a file of its own for the guest's data. A relative one starts from the image's folder; QEMU
   * starts from its working directory, so an absolute one serves both. The file is made, and must not exist
   * yet; with HOL_DISK_DATA_FILE_RAW it may: then it is the disk as it is, and is not changed. NULL: none.
   */
  const char *data_file;
  /**
   * How the new disk is opened; NULL: all defaults.
   */
  const struct hol_disk_options *open;
  /**
   * Bytes of a cluster, a power of two from 512 to 2 MiB; 0: 64 KiB.
   */
  uint64_t cluster_size;
  /**
   * HOL_COMPAT_*
   */
  uint32_t compat;
  /**
   * Width of a refcount: 1, 2, 4, 8, 16, 32 or 64 bits; 0: 16.
   */
  uint32_t refcount_bits;
  /**
   * How clusters are compressed that will be: HOL_COMPRESSION_ZLIB or HOL_COMPRESSION_ZSTD; 0: zlib.
   */
  uint32_t compression_type;
  /**
   * The backing file's format: HOL_FORMAT_*
   */
  uint32_t backing_format;
  /**
   * HOL_DISK_EXTENDED_L2, HOL_DISK_LAZY_REFCOUNTS, HOL_DISK_DATA_FILE_RAW, combined
   */
  uint32_t flags;
  /**
   * HOL_PREALLOCATION_*
   */
  uint32_t preallocation;
  /**
   * What becomes of an image that exists: HOL_EXISTING_*. A data file is never replaced.
   */
  uint32_t existing;
  /**
   * 0
   */
  uint32_t reserved;
} hol_create_options;

/**
 * What is known of a persistent bitmap. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
 * library fills the rest. Texts belong to the disk and stay until hol_disk_close().
 */
typedef struct hol_bitmap_details {
  /**
   * sizeof(hol_bitmap_details)
   */
  size_t struct_size;
  /**
   * The name: bytes from the image, which need not be UTF-8.
   */
  const char *name;
  /**
   * Why no backup can be based on the bitmap; NULL: it can.
   */
  const char *reason;
  /**
   * Bytes of the disk that one bit stands for.
   */
  uint64_t granularity;
  /**
   * With HOL_BITMAP_COUNTED: bytes that are dirty, in whole granules; else 0.
   */
  uint64_t count;
  /**
   * HOL_BITMAP_*, combined
   */
  uint32_t flags;
  /**
   * 0
   */
  uint32_t reserved;
  /**
   * The identity of the backup from which on the bitmap has every change, in the form of a UUID; NULL: not known.
   */
  const char *base;
  /**
   * With base: size of the disk at that time, in bytes; else 0.
   */
  uint64_t base_size;
} hol_bitmap_details;

/**
 * What a new bitmap is like. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
 * other field is the default.
 */
typedef struct hol_bitmap_options {
  /**
   * sizeof(hol_bitmap_options)
   */
  size_t struct_size;
  /**
   * Bytes of the disk that one bit stands for: a power of two from 512 to 2 GiB; 0: the image's cluster size, within
   * 4 KiB and 64 KiB.
   */
  uint64_t granularity;
  /**
   * HOL_RECORDING_*
   */
  uint32_t recording;
  /**
   * 0
   */
  uint32_t reserved;
} hol_bitmap_options;

/**
 * One change of a disk's bitmaps, for hol_bitmap_apply(). Set struct_size to the sizeof of the structure
 * (HOL_OPTIONS_INIT does), kind and name; a field that is for other kinds is zero. Texts belong to the caller and are
 * copied.
 */
typedef struct hol_bitmap_change {
  /**
   * sizeof(hol_bitmap_change)
   */
  size_t struct_size;
  /**
   * The bitmap that changes.
   */
  const char *name;
  /**
   * With HOL_CHANGE_RENAME: a name that is not in use; else NULL.
   */
  const char *new_name;
  /**
   * With HOL_CHANGE_MERGE: the names of the bitmaps to merge from; else NULL.
   */
  const char *const *sources;
  /**
   * With HOL_CHANGE_MERGE: how many sources there are, at least 1; else 0.
   */
  size_t source_count;
  /**
   * With HOL_CHANGE_MERGE: the disk that has the sources; they are taken as they are before the call. NULL: the disk that
   * is changed; they are taken as the changes before this one leave them.
   */
  const struct hol_disk *source_disk;
  /**
   * With HOL_CHANGE_ADD: as in hol_bitmap_options; else 0.
   */
  uint64_t granularity;
  /**
   * HOL_CHANGE_*; there is no default.
   */
  uint32_t kind;
  /**
   * With HOL_CHANGE_ADD: HOL_RECORDING_*; else 0.
   */
  uint32_t recording;
} hol_bitmap_change;

/**
 * What is known of an internal snapshot. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the
 * library fills the rest. Texts belong to the disk and stay until hol_disk_close().
 */
typedef struct hol_snapshot_details {
  /**
   * sizeof(hol_snapshot_details)
   */
  size_t struct_size;
  /**
   * Its id, a number as text (invalid UTF-8 replaced).
   */
  const char *id;
  /**
   * Its name (invalid UTF-8 replaced).
   */
  const char *name;
  /**
   * Bytes of the state of a virtual machine that it has.
   */
  uint64_t vm_state_size;
  /**
   * With HOL_SNAPSHOT_DISK_SIZE: size of the disk at that time, in bytes; else 0.
   */
  uint64_t disk_size;
  /**
   * Nanoseconds that the virtual machine had run.
   */
  uint64_t vm_clock_nsec;
  /**
   * With HOL_SNAPSHOT_ICOUNT: instructions that the virtual machine had run; else 0.
   */
  uint64_t icount;
  /**
   * When it was taken, in seconds since 1970.
   */
  uint64_t date_sec;
  /**
   * And nanoseconds.
   */
  uint32_t date_nsec;
  /**
   * HOL_SNAPSHOT_*, combined
   */
  uint32_t flags;
} hol_snapshot_details;

/**
 * How a disk is backed up. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
 * other field is the default. Texts belong to the caller and are copied.
 */
typedef struct hol_backup_options {
  /**
   * sizeof(hol_backup_options)
   */
  size_t struct_size;
  /**
   * The persistent bitmap that says what changed; NULL: none.
   */
  const char *bitmap;
  /**
   * The backing file to record in the target: what an increment is based on; NULL: none.
   */
  const char *backing;
  /**
   * The target's cluster size in bytes; 0: the source's.
   */
  uint64_t cluster_size;
  /**
   * HOL_SYNC_*
   */
  uint32_t sync;
  /**
   * HOL_BITMAP_MODE_*
   */
  uint32_t bitmap_mode;
  /**
   * The target's format: HOL_FORMAT_*
   */
  uint32_t format;
  /**
   * The backing file's format: HOL_FORMAT_*
   */
  uint32_t backing_format;
  /**
   * HOL_COMPRESSION_*
   */
  uint32_t compression;
  /**
   * The level of compression; 0: the library's choice.
   */
  uint32_t compression_level;
  /**
   * HOL_EXISTING_*
   */
  uint32_t existing;
  /**
   * HOL_ZERO_DETECTION_*
   */
  uint32_t zero_detection;
  /**
   * Bytes of data a second that are read at most; 0: without a limit. Zeros, holes and shared data do not count.
   */
  uint64_t speed;
  /**
   * What to do when the source, or an image below it, cannot be read: HOL_ON_ERROR_*
   */
  uint32_t on_source_error;
  /**
   * What to do when the target cannot be written: HOL_ON_ERROR_*
   */
  uint32_t on_target_error;
  /**
   * When the target appears: HOL_LAST_STEP_AUTO, as soon as it can; HOL_LAST_STEP_MANUAL, after hol_job_finalize().
   * With HOL_COMPLETION_GROUPED one job that waits makes all wait, and one that is told lets all go on.
   */
  uint32_t finalize;
  /**
   * HOL_LAST_STEP_MANUAL: the transaction is over only after hol_job_dismiss(); HOL_LAST_STEP_AUTO: when the job is.
   */
  uint32_t dismiss;
  /**
   * Whether an increment must stand on the backup that its bitmap counts from, where that is known: HOL_LINEAGE_*
   */
  uint32_t lineage;
  /**
   * Whether the target shares blocks with the source's files: HOL_REFLINK_*
   */
  uint32_t reflink;
  /**
   * What is done about the page cache: HOL_PAGE_CACHE_*
   */
  uint32_t page_cache;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} hol_backup_options;

/**
 * A bitmap to merge from, for hol_action_bitmap_merge(). Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
 * does) and name. Texts belong to the caller and are copied.
 */
typedef struct hol_merge_source {
  /**
   * sizeof(hol_merge_source)
   */
  size_t struct_size;
  /**
   * The name of the bitmap.
   */
  const char *name;
  /**
   * Another disk, of the same size, whose top image has the bitmap; NULL: the disk whose bitmap changes.
   */
  const struct hol_disk *disk;
  /**
   * HOL_LAYER_*; with another disk HOL_LAYER_TOP.
   */
  uint32_t layer;
  /**
   * 0
   */
  uint32_t reserved;
} hol_merge_source;

/**
 * How hol_action_external_snapshot() makes the new image. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
 * does); zero in every other field is the default.
 */
typedef struct hol_overlay_options {
  /**
   * sizeof(hol_overlay_options)
   */
  size_t struct_size;
  /**
   * Bytes of a cluster: a power of two from 512 to 2 MiB; 0: 64 KiB.
   */
  uint64_t cluster_size;
  /**
   * The name of the disk's image as the new one records it, relative to the new one's folder; NULL: the file's name if
   * both are in one folder, else its whole path.
   */
  const char *backing_name;
} hol_overlay_options;

/**
 * A failure as a job tells it. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library
 * fills the rest.
 */
typedef struct hol_error_details {
  /**
   * sizeof(hol_error_details)
   */
  size_t struct_size;
  /**
   * What is wrong, where, and what to do; NULL: nothing has failed. The text belongs to the handle that was asked, as
   * the function says.
   */
  const char *message;
  /**
   * HOL_ERR_*, or HOL_OK: nothing has failed.
   */
  int32_t code;
  /**
   * The operating system's errno; 0: it had no part.
   */
  int32_t os_error;
} hol_error_details;

/**
 * What a job copied. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills the rest.
 */
typedef struct hol_report {
  /**
   * sizeof(hol_report)
   */
  size_t struct_size;
  /**
   * Bytes of the disk that are stored in the target as data.
   */
  uint64_t data_bytes;
  /**
   * Bytes of the disk that are recorded in the target as zeros.
   */
  uint64_t zero_bytes;
  /**
   * Bytes that were written to the target for the data.
   */
  uint64_t stored_bytes;
  /**
   * Of a job that failed or was cancelled and whose partial target was kept (HOL_BITMAP_MODE_ALWAYS): the target has
   * what was to be copied up to this offset of the disk. 0: no partial target was kept.
   */
  uint64_t partial_end;
  /**
   * Bytes of the data that the target shares with the files of the source (HOL_REFLINK_*).
   */
  uint64_t shared_bytes;
} hol_report;

/**
 * What a backup descends from. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills
 * the rest. Texts belong to the job and stay until hol_job_free().
 */
typedef struct hol_lineage {
  /**
   * sizeof(hol_lineage)
   */
  size_t struct_size;
  /**
   * The target's own identity, in the form of a UUID; NULL: it gets none (a raw image, or no room in its header).
   */
  const char *identity;
  /**
   * The identity of the backup that it stands on; NULL: none, or not known.
   */
  const char *parent;
  /**
   * Number of notes: what could not be checked or remembered. hol_job_note() has their texts.
   */
  uint64_t notes;
} hol_lineage;

/**
 * Something that happened in a running transaction. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
 * does); the library fills the rest.
 */
typedef struct hol_event {
  /**
   * sizeof(hol_event)
   */
  size_t struct_size;
  /**
   * Index of the job, in the order in which the actions were added; -1: the whole transaction.
   */
  int64_t job;
  /**
   * With HOL_EVENT_PROGRESS: bytes dealt with.
   */
  uint64_t done;
  /**
   * With HOL_EVENT_PROGRESS: bytes to deal with.
   */
  uint64_t total;
  /**
   * HOL_EVENT_*. Later versions may add events: ignore those that are unknown.
   */
  uint32_t kind;
  /**
   * With HOL_EVENT_STATUS: HOL_JOB_*.
   */
  uint32_t status;
  /**
   * With HOL_EVENT_FAILED and HOL_EVENT_ERROR: HOL_ERR_*.
   */
  int32_t code;
  /**
   * 0
   */
  uint32_t reserved;
  /**
   * With HOL_EVENT_ERROR: HOL_SIDE_*.
   */
  uint32_t side;
  /**
   * With HOL_EVENT_ERROR: HOL_ACTION_*.
   */
  uint32_t action;
  /**
   * With HOL_EVENT_FAILED and HOL_EVENT_ERROR: the operating system's errno; 0: it had no part.
   */
  int32_t os_error;
  /**
   * 0
   */
  uint32_t reserved2;
} hol_event;

/**
 * Receives a line of a transaction's log: HOL_LOG_*, the index of the job that it is about (-1: the transaction), and a
 * text that is valid during the callback.
 *
 * It is called by the transaction's own threads, never by two at once, in the order in which things happen, with no lock
 * held. It may call the library, hol_txn_cancel() and the functions of jobs among it; but it must not wait for its own
 * transaction (hol_txn_wait(), hol_txn_commit()), nor free it. While it works other threads go on, and their lines wait.
 * No exception may leave it. The last call is over when hol_txn_free() returns.
 */
typedef void (*hol_log_cb)(uint32_t level, int64_t job, const char *message, void *opaque);

/**
 * Ends what was handed over with a callback: frees `opaque`, lets a reference go. It must not call the library, and no exception
 * may leave it.
 */
typedef void (*hol_destroy_cb)(void *opaque);

/**
 * What a recovery has found and done, in numbers. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
 * does); the library fills the rest.
 */
typedef struct hol_recover_report {
  /**
   * sizeof(hol_recover_report)
   */
  size_t struct_size;
  /**
   * Targets that have their names now, or had them already.
   */
  uint64_t targets;
  /**
   * Temporary files that were removed.
   */
  uint64_t removed;
  /**
   * Images whose bitmaps are as their transaction makes them.
   */
  uint64_t bitmaps;
  /**
   * Images whose bitmaps stay dirtier than they could be, or were given up for a full copy.
   */
  uint64_t left;
  /**
   * Things that cannot be finished now: call again later.
   */
  uint64_t unfinished;
  /**
   * Transactions that are at work.
   */
  uint64_t at_work;
} hol_recover_report;

/**
 * One thing that recovery found or did. Texts are valid during the callback.
 */
typedef struct hol_recovered {
  /**
   * sizeof(hol_recovered)
   */
  size_t struct_size;
  /**
   * The file it is about.
   */
  const char *path;
  /**
   * The reason, where there is more to say than the kind does; else NULL.
   */
  const char *reason;
  /**
   * HOL_RECOVERED_*. Later versions may add kinds.
   */
  uint32_t kind;
  /**
   * 0
   */
  uint32_t reserved;
} hol_recovered;

/**
 * Receives what a recovery has found and done, in the calling thread and with no lock held: it may call the library.
 * `recovered` is valid during the callback only. Return 0 to go on, anything else to stop hearing of it; all is done by
 * then. No exception may leave it.
 */
typedef int (*hol_recovered_cb)(const struct hol_recovered *recovered, void *opaque);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that runs, as "0.1.0"; HOL_VERSION is the version of the header. The text is
 * static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_version(void);

/**
 * The version of the library that runs, as a number that can be compared: HOL_VERSION_NUMBER is that of the
 * header.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
uint32_t hol_version_number(void);

/**
 * Writes the sizeof of the structure named `type_name` ("hol_event") to `*size`: lets bindings in other
 * languages check their own declarations. HOL_ERR_INVALID_ARGUMENT when there is no such structure.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_sizeof(const char *type_name, size_t *size);

/**
 * The short name of a code, for logs and for programs: "no-space" of HOL_ERR_NO_SPACE, "ok" of HOL_OK, "unknown" of a
 * number that is no code. The same in all bindings. The text is static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_error_name(int code);

/**
 * The short name of a job's status: "running" of HOL_JOB_RUNNING, "unknown" of a number that is none. The text is static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_status_name(uint32_t status);

/**
 * The short name of a kind of event: "progress" of HOL_EVENT_PROGRESS, "unknown" of a number that is none. The text is
 * static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_event_name(uint32_t kind);

/**
 * The short name of what a recovery did: "target-published" of HOL_RECOVERED_TARGET_PUBLISHED, "unknown" of a number that
 * is none. The text is static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_recovered_name(uint32_t kind);

/**
 * The short name of a kind of problem that a check finds: "leak" of HOL_PROBLEM_LEAK, "unknown" of a number that is none. The
 * text is static.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_problem_name(uint32_t kind);

/**
 * Writes the value of the constant called `constant_name` ("HOL_EVENT_FINISHED") to `*value`: lets bindings in other
 * languages do without numbers of their own. HOL_ERR_INVALID_ARGUMENT when this library has no such constant, which
 * tells what it knows; the HOL_*_MASK are all flags that it knows.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_constant(const char *constant_name,
                 int64_t *value);

/**
 * The text of the last failure in the calling thread: what is wrong, where, and what to do. UTF-8 where the
 * names in it are; one of more than 2047 bytes is cut and ends in "...". "" when nothing failed yet; never NULL.
 *
 * The text belongs to the library and stays until the next failing call in this thread. A call that
 * succeeds leaves it alone.
 *
 * Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
 */
const char *hol_last_error_message(void);

/**
 * The code of the last failure in the calling thread, HOL_ERR_*, or HOL_OK when nothing failed yet. For
 * functions that return a pointer.
 *
 * Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
 */
int hol_last_error_code(void);

/**
 * The operating system's errno of the last failure in the calling thread; 0 when it had no part in it.
 *
 * Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
 */
int hol_last_error_errno(void);

/**
 * Forgets the last failure of the calling thread.
 *
 * Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
 */
void hol_last_error_clear(void);

/**
 * Opens the image at `path`, and what it is made of as far as the options allow, for reading; with HOL_ACCESS_WRITE the
 * image itself also for writing: its data, its size, its bitmaps. A relative path, and a relative
 * hol_disk_options.backing_dir, start from the folder that the process is in now, wherever it goes later.
 *
 * `options` may be NULL: all defaults. On success `*disk` belongs to the caller: hol_disk_close(). On failure it is
 * NULL.
 *
 * Errors: HOL_ERR_NOT_FOUND, HOL_ERR_LOCKED (somebody writes the image, or with HOL_ACCESS_WRITE
 * uses it: another process, or this one by another handle, as the message says), HOL_ERR_CORRUPT, HOL_ERR_UNSUPPORTED,
 * HOL_ERR_ENCRYPTED, HOL_ERR_POLICY_DENIED (the image names a file outside the policy), HOL_ERR_LIMIT, HOL_ERR_IO,
 * HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_open(const char *path,
                  const struct hol_disk_options *options,
                  struct hol_disk **disk);

/**
 * As hol_disk_open(), of an image that the caller has opened as descriptor `fd`: for programs in a sandbox that may not open
 * files, and for block devices that are handed to them. `path` is what the image is called, and must not be NULL: in messages,
 * for the folder that names inside the image start from, and in the journal of a transaction that changes its bitmaps, so
 * that a recovery finds it. Files that the image names, and targets, are opened by their paths.
 *
 * The descriptor is open for reading, with HOL_ACCESS_WRITE also for writing, without O_APPEND and O_DIRECT. It is duplicated
 * and stays the caller's, who may close it at once. The locks are taken on its open file, which all duplicates share: it
 * serves one disk at a time, and must not be used for locks meanwhile.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (such a descriptor cannot be used), HOL_ERR_IO (no open descriptor), HOL_ERR_PERMISSION
 * (open for reading only), HOL_ERR_LOCKED (also: the open file has locks, as of another disk), and as hol_disk_open().
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_open_fd(int fd,
                     const char *path,
                     const struct hol_disk_options *options,
                     struct hol_disk **disk);

/**
 * Closes a disk and frees the handle, whatever is returned; what was written is durable then, or the failure tells that
 * it may not be. NULL is allowed and does nothing. Texts that were borrowed from the disk end here. Actions and
 * running transactions that use the disk keep its files open until they are freed.
 *
 * Errors: those of hol_disk_flush().
 *
 * Threads: any, but no other call may use the disk. Blocks: yes, for output of what was written. From callbacks: not the disk that calls back.
 * Since: 0.1.
 */
int hol_disk_close(struct hol_disk *disk);

/**
 * Writes the disk's size in bytes to `*size`.
 *
 * Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: while another thread changes the disk. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_disk_size(const struct hol_disk *disk, uint64_t *size);

/**
 * Fills `*details` with what is known of the disk's top image, as it was at the first call, or at the first one since
 * the disk was changed.
 *
 * Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_info(const struct hol_disk *disk,
                  struct hol_disk_details *details);

/**
 * Reads `length` bytes of the disk from `offset` on, through the chain, into `buffer`. After a failure the buffer's
 * content is undefined.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL,
 * HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_read(const struct hol_disk *disk,
                  uint64_t offset,
                  uint8_t *buffer,
                  size_t length);

/**
 * Calls `callback` for each extent of the `length` bytes of the disk from `offset` on: neighbouring clusters that
 * are stored alike are one extent. Reads tables, never data. `opaque` is passed through and may be NULL.
 *
 * Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
 * Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL,
 * HOL_ERR_PANIC; the extents before the failure have been given.
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_extents(const struct hol_disk *disk,
                     uint64_t offset,
                     uint64_t length,
                     hol_extent_cb callback,
                     void *opaque);

/**
 * Fills `*layer` with what is known of the image at `index` of the disk's chain: 0 is the disk's own,
 * hol_disk_details.layers is their number. Nothing is checked but the link. The texts belong to the disk.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: while another thread changes the disk. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_disk_layer(const struct hol_disk *disk, size_t index, struct hol_layer *layer);

/**
 * Checks every image of the chain whose top is at `path`, and that each stands on the backup that it was made over.
 * Nothing is changed. `options` may be NULL; they say how the images below are found (layers and access do not count), and
 * how much memory the check of one image may take: one or two bytes for each cluster of the file.
 *
 * On success `*chain` belongs to the caller: hol_chain_free(). On failure it is NULL. A damaged image is no failure, unless
 * its chain cannot be opened.
 *
 * Errors: those of hol_disk_open(), HOL_ERR_LIMIT (too many clusters for the memory limit).
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_check_chain(const char *path,
                         const struct hol_disk_options *options,
                         struct hol_chain **chain);

/**
 * Writes the number of images to `*number`, and the verdict on the whole chain, HOL_VERDICT_*, to `*verdict`: the worst of
 * its images, and HOL_VERDICT_CORRUPT where a link is broken. Each of the two may be NULL.
 *
 * Errors: HOL_ERR_NULL (chain), HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_chain_summary(const struct hol_chain *chain,
                      size_t *number,
                      uint32_t *verdict);

/**
 * Fills `*layer` with what is known of the image at `index`, the top first, and what its check found. The texts belong to
 * the chain.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_chain_layer(const struct hol_chain *chain,
                    size_t index,
                    struct hol_layer *layer);

/**
 * Frees a chain. NULL is allowed and does nothing. Texts that were borrowed from it end here.
 *
 * Threads: any, but no other call may use the chain. Blocks: no. From callbacks: yes. Since: 0.1.
 */
void hol_chain_free(struct hol_chain *chain);

/**
 * Checks the qcow2 image at `path`: whether refcounts and tables agree, whether anything lies on anything else, whether its
 * bitmaps are sound. Looks at the image alone, also at one that is too damaged to be opened, and changes nothing. `options`
 * may be NULL: of them only format, sharing and memory_limit count; the check needs one or two bytes of memory for each
 * cluster of the file.
 *
 * On success `*check` belongs to the caller: hol_check_free(). On failure it is NULL. A damaged image is no failure.
 *
 * Errors: those of hol_disk_open() for an image that cannot be looked at at all; HOL_ERR_UNSUPPORTED (a raw image has nothing
 * to check), HOL_ERR_LIMIT (too many clusters for the memory limit).
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_check(const char *path,
                   const struct hol_disk_options *options,
                   struct hol_check **check);

/**
 * Repairs the qcow2 image at `path` as far as `mode`, HOL_REPAIR_*, allows, and checks it before and afterwards. The image is
 * locked against everybody else; what is repaired is durable when this returns. Guest data is never changed. `options` as
 * for hol_disk_check().
 *
 * On success `*check` belongs to the caller: hol_check_free(). On failure it is NULL. That something remains is no failure.
 *
 * Errors: as hol_disk_check(); HOL_ERR_LOCKED (anybody else has the image open), HOL_ERR_INVALID_ARGUMENT (mode; or the image
 * is to be shared), HOL_ERR_UNSUPPORTED (the header has no room for what has to change), HOL_ERR_LIMIT: nothing has changed.
 * After HOL_ERR_IO and HOL_ERR_NO_SPACE a part may be repaired; the image is not worse than it was, and the repair can be
 * tried again.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_repair(const char *path,
                    const struct hol_disk_options *options,
                    uint32_t mode,
                    struct hol_check **check);

/**
 * Gives what the check of the image at `index` of a chain found. On success `*check` belongs to the caller:
 * hol_check_free(). On failure it is NULL.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_UNSUPPORTED (the image is raw and has nothing to check), HOL_ERR_NULL,
 * HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_chain_check(const struct hol_chain *chain,
                    size_t index,
                    struct hol_check **check);

/**
 * Fills `*report` with what was found and done, in numbers.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_check_summary(const struct hol_check *check, struct hol_check_report *report);

/**
 * Fills `*problem` with the problem at `index`, from 0 to below hol_check_report.problems; after a repair those that remain.
 * The text stays until hol_check_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_check_problem(const struct hol_check *check,
                      size_t index,
                      struct hol_problem *problem);

/**
 * As hol_check_problem(), of what a repair found before: from 0 to below hol_check_report.found.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_check_found(const struct hol_check *check, size_t index, struct hol_problem *problem);

/**
 * Writes the name of a bitmap that a repair gave up to `*name`, and why to `*reason`; `index` is from 0 to below
 * hol_check_report.lost_bitmaps. The name is NULL for all that a directory which makes no sense may have had. Both stay until
 * hol_check_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_check_lost_bitmap(const struct hol_check *check,
                          size_t index,
                          const char **name,
                          const char **reason);

/**
 * Writes which snapshots a repair gave up: the place of the first of them in the snapshot table, from 0, to `*first`, how many
 * follow each other there to `*count`, the name to `*name`, and why to `*reason`; `index` is from 0 to below
 * hol_check_report.lost_snapshots. The name is NULL for several, and where it cannot be made out. Both texts stay until
 * hol_check_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_check_lost_snapshots(const struct hol_check *check,
                             size_t index,
                             uint32_t *first,
                             uint32_t *count,
                             const char **name,
                             const char **reason);

/**
 * Writes what a repair mended in the snapshot table, with what was wrong, to `*text`; `index` is from 0 to below
 * hol_check_report.mended_snapshots. The text stays until hol_check_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_check_mended_snapshot(const struct hol_check *check,
                              size_t index,
                              const char **text);

/**
 * Writes what a repair did not do, and why, to `*reason`; `index` is from 0 to below hol_check_report.left. The text stays
 * until hol_check_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_check_left(const struct hol_check *check,
                   size_t index,
                   const char **reason);

/**
 * Frees what a check found. NULL is allowed and does nothing. Texts that were borrowed from it end here.
 *
 * Threads: any, but no other call may use the check. Blocks: no. From callbacks: yes. Since: 0.1.
 */
void hol_check_free(struct hol_check *check);

/**
 * Makes a new qcow2 image at `path`, a disk of `size` bytes (a multiple of 512) that reads as zeros, or as its backing
 * file does; and opens it as options->open says. Size 0: that of the backing file, or of a raw data file that exists.
 *
 * The image appears under its name complete and durable, or not at all. `options` may be NULL: all defaults. On success
 * `*disk` belongs to the caller: hol_disk_close(). On failure it is NULL, and nothing was created, unless the message
 * says that the image was created and cannot be opened.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (options that contradict each other or exceed what the format can hold, the size),
 * HOL_ERR_EXISTS, HOL_ERR_NOT_FOUND, HOL_ERR_POLICY_DENIED (a backing file or data file outside the policy),
 * HOL_ERR_LOCKED, HOL_ERR_NO_SPACE, HOL_ERR_IO; those of hol_disk_open() for a backing file; HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_create(const char *path,
                    uint64_t size,
                    const struct hol_create_options *options,
                    struct hol_disk **disk);

/**
 * Writes `length` bytes from `buffer` to the disk, from byte `offset` on. Every bitmap that records has the range,
 * durably, before the data is written. The data is durable after hol_disk_flush(). The disk was opened with
 * HOL_ACCESS_WRITE and all of its chain.
 *
 * After a failure the range holds old or new data, in any mixture; everything else is as it was.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (past the disk's end), HOL_ERR_WRONG_STATE (opened for reading or without its
 * backing files, or a running backup reads it), HOL_ERR_UNSUPPORTED (a raw image), HOL_ERR_CORRUPT (the image cannot
 * be trusted to say which clusters are free), HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_LIMIT, HOL_ERR_NULL,
 * HOL_ERR_PANIC.
 *
 * Threads: any; calls that use the same disk wait for each other. Blocks: yes, for input and output. From callbacks:
 * yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_write(struct hol_disk *disk,
                   uint64_t offset,
                   const uint8_t *buffer,
                   size_t length);

/**
 * Makes `length` bytes of the disk from `offset` on read as zero, without storing zeros where that is possible.
 * Otherwise as hol_disk_write().
 *
 * Errors: those of hol_disk_write().
 *
 * Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_write_zeroes(struct hol_disk *disk,
                          uint64_t offset,
                          uint64_t length);

/**
 * Gives up what `length` bytes of the disk from `offset` on hold: the clusters that they cover whole read as zero
 * then, and their space is free for others. Where that is not possible (an image of version 2 over a backing file, a
 * raw data file) they stay as they are. Otherwise as hol_disk_write().
 *
 * Errors: those of hol_disk_write().
 *
 * Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_discard(struct hol_disk *disk,
                     uint64_t offset,
                     uint64_t length);

/**
 * Makes everything durable that was written to the disk.
 *
 * Errors: HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_NULL, HOL_ERR_PANIC. After a failed flush nobody knows what is
 * durable; where the system refused to say, every further write fails too, and the disk must be opened anew.
 *
 * Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_flush(struct hol_disk *disk);

/**
 * Changes the size of the disk to `size` bytes, a multiple of 512: durable when this returns, all of it or nothing.
 * What lies behind a smaller size is gone, what is new reads as zero, and is dirty in every bitmap. All bitmaps are
 * written for the new size with the same step; one that is inconsistent stays so.
 *
 * Errors: those of hol_disk_write(); HOL_ERR_INVALID_ARGUMENT for a size that the image or one of its bitmaps cannot
 * have; HOL_ERR_UNSUPPORTED where version 2 of the format lacks what is needed.
 *
 * Threads: as hol_disk_write(). Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_resize(struct hol_disk *disk,
                    uint64_t size);

/**
 * Writes the number of persistent bitmaps of the disk's top image to `*number`, with those that cannot be used.
 * The list is the one of the first call, or of the first one since the bitmaps were changed.
 *
 * Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_LIMIT, HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_list(const struct hol_disk *disk,
                    size_t *number);

/**
 * Fills `*details` with what is known of the bitmap at `index`, from 0 to below the number that
 * hol_bitmap_list() gives.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), and as hol_bitmap_list().
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_info_at(const struct hol_disk *disk,
                       size_t index,
                       struct hol_bitmap_details *details);

/**
 * Fills `*details` with what is known of the bitmap called `name`.
 *
 * Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_INVALID_ARGUMENT (struct_size), and as hol_bitmap_list().
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_info(const struct hol_disk *disk,
                    const char *name,
                    struct hol_bitmap_details *details);

/**
 * Writes the number of bytes that the bitmap called `name` says are dirty, in whole granules, to `*dirty_bytes`. Loads
 * the bitmap.
 *
 * Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (the message says why), HOL_ERR_CORRUPT, HOL_ERR_IO,
 * HOL_ERR_LIMIT, HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_count(const struct hol_disk *disk,
                     const char *name,
                     uint64_t *dirty_bytes);

/**
 * Calls `callback` for each part of the disk that the bitmap called `name` says is dirty: ascending, merged, ending
 * within the disk, with HOL_EXTENT_DIRTY. `opaque` is passed through and may be NULL.
 *
 * Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
 * Errors: as hol_bitmap_count(), before the first callback.
 *
 * Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_extents(const struct hol_disk *disk,
                       const char *name,
                       hol_extent_cb callback,
                       void *opaque);

/**
 * Adds a clean bitmap called `name` (1 to 1023 bytes) to the disk's top image. The change is durable when this returns, as
 * that of every function here; the disk was opened with HOL_ACCESS_WRITE. `options` may be NULL: all defaults.
 *
 * Errors: HOL_ERR_EXISTS, HOL_ERR_INVALID_ARGUMENT (name, options), HOL_ERR_WRONG_STATE (opened for reading, or a running backup keeps the
 * bitmap),
 * HOL_ERR_UNSUPPORTED (no qcow2 of version 3), HOL_ERR_CORRUPT (nobody knows which clusters are free), HOL_ERR_LIMIT,
 * HOL_ERR_NULL, HOL_ERR_PANIC: nothing has changed. After other errors the message says if the change was made
 * all the same or if that is unknown; the disk must be opened anew then, before it is changed again.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_add(struct hol_disk *disk,
                   const char *name,
                   const struct hol_bitmap_options *options);

/**
 * Removes the bitmap called `name`; also one that cannot be used.
 *
 * Errors: HOL_ERR_BITMAP_NOT_FOUND, and as hol_bitmap_add().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_remove(struct hol_disk *disk, const char *name);

/**
 * Makes all of the bitmap called `name` clean.
 *
 * Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (it is inconsistent), and as hol_bitmap_add().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_clear(struct hol_disk *disk, const char *name);

/**
 * Lets the bitmap called `name` record writes from now on.
 *
 * Errors: as hol_bitmap_clear().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_enable(struct hol_disk *disk, const char *name);

/**
 * Lets the bitmap called `name` not record writes from now on: they are missing in it then, and no backup can be based on it
 * until it is enabled.
 *
 * Errors: as hol_bitmap_clear().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_disable(struct hol_disk *disk,
                       const char *name);

/**
 * Gives the bitmap called `name` another name, which is not in use.
 *
 * Errors: HOL_ERR_EXISTS (`new_name`), HOL_ERR_BITMAP_NOT_FOUND (`name`), and as hol_bitmap_add().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_rename(struct hol_disk *disk, const char *name, const char *new_name);

/**
 * Makes everything dirty in the bitmap called `name` that is dirty in one of the `source_count` bitmaps that `sources`
 * names, of the same disk and of any granularity. They stay as they are.
 *
 * Errors: HOL_ERR_BITMAP_NOT_FOUND, HOL_ERR_BITMAP_UNUSABLE (one of them; the message says why), HOL_ERR_INVALID_ARGUMENT
 * (no source), and as hol_bitmap_add().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_merge(struct hol_disk *disk,
                     const char *name,
                     const char *const *sources,
                     size_t source_count);

/**
 * Makes everything dirty in the bitmap called `name` that is dirty in the bitmap `source` of another disk, which has the same
 * size; it need only be open for reading.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (the disks differ in size), and as hol_bitmap_merge().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_merge_from(struct hol_disk *disk,
                          const char *name,
                          const struct hol_disk *source_disk,
                          const char *source);

/**
 * Carries out `number` changes as one step: all of them, in their order and each seeing those before it, or none. All
 * structures have the same struct_size, which is also the distance from one to the next.
 *
 * Errors: those of the single functions; HOL_ERR_INVALID_ARGUMENT too for a field that is not for the change's kind.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_bitmap_apply(struct hol_disk *disk,
                     const struct hol_bitmap_change *changes,
                     size_t number);

/**
 * Writes the number of internal snapshots of the disk's image to `*number`. The list is the one of the first call, or of
 * the first one since the image was changed.
 *
 * Errors: HOL_ERR_CORRUPT, HOL_ERR_IO, HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_snapshot_list(const struct hol_disk *disk,
                      size_t *number);

/**
 * Fills `*details` with what is known of the snapshot at `index`, from 0 to below the number that hol_snapshot_list()
 * gives.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), and as hol_snapshot_list().
 *
 * Threads: any. Blocks: yes, for input, the first time. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_snapshot_info_at(const struct hol_disk *disk,
                         size_t index,
                         struct hol_snapshot_details *details);

/**
 * Takes an internal snapshot of the disk as it is, called `name` (1 to 255 bytes), with the date of now: durable when
 * this returns, all of it or nothing. What was written before is in it. Bitmaps are not part of a snapshot, and stay as
 * they are. The disk was opened with HOL_ACCESS_WRITE.
 *
 * Errors: HOL_ERR_EXISTS (a snapshot has this name, or this id), HOL_ERR_INVALID_ARGUMENT (name), HOL_ERR_WRONG_STATE
 * (opened for reading, or a running backup reads the disk), HOL_ERR_UNSUPPORTED (a raw image, or one with a data file),
 * HOL_ERR_LIMIT (a refcount cannot tell of another user, or there are too many snapshots), HOL_ERR_CORRUPT (nobody knows
 * which clusters are free), HOL_ERR_NULL, HOL_ERR_PANIC: nothing has changed. After other errors the message says if the
 * change was made all the same or if that is unknown; the disk must be opened anew then, before it is changed again.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_snapshot_create(struct hol_disk *disk,
                             const char *name);

/**
 * As hol_disk_snapshot_create(), and fills `*details` with what the new snapshot is: its id, among others.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size; nothing has changed), and as hol_disk_snapshot_create().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_snapshot_create_details(struct hol_disk *disk,
                                     const char *name,
                                     struct hol_snapshot_details *details);

/**
 * Deletes the internal snapshot that has this id or this name. The disk and its bitmaps stay as they are.
 *
 * Errors: HOL_ERR_NOT_FOUND, HOL_ERR_INVALID_ARGUMENT (several have it: as their id or as their name; the message tells
 * their ids), and as hol_disk_snapshot_create().
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_snapshot_delete(struct hol_disk *disk,
                             const char *id_or_name);

/**
 * Makes the action that copies `source` to a new image file at `target`. Nothing is checked against the disk or the
 * file system yet, and nothing written.
 *
 * `options` may be NULL: all defaults, a full copy. The action belongs to the caller until hol_txn_add() takes it; one
 * that is not added is freed by hol_action_free(). It keeps what it needs of the disk, which may be closed.
 *
 * Returns NULL on failure, which hol_txn_add() accepts and reports, so that calls can be nested; or see
 * hol_last_error_code(): HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_backup(struct hol_disk *source,
                                     const char *target,
                                     const struct hol_backup_options *options);

/**
 * Makes the action that fails: nothing of the list is done. For tests of what comes before it.
 *
 * Returns NULL on failure: HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE struct hol_action *hol_action_abort(void);

/**
 * Frees an action that was not added to a transaction. NULL is allowed and does nothing.
 *
 * Threads: any. Blocks: while files are closed, where its disk was closed before. From callbacks: yes. Since: 0.1.
 */
void hol_action_free(struct hol_action *action);

/**
 * Makes the action that adds a clean bitmap called `name` to the image that is on top of the disk at that point of the
 * list. `options` may be NULL. Errors of the start: as hol_bitmap_add().
 *
 * Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as
 * hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_bitmap_add(struct hol_disk *disk,
                                         const char *name,
                                         const struct hol_bitmap_options *options);

/**
 * Makes the action that removes the bitmap called `name`; also one that cannot be used. Errors of the start: as
 * hol_bitmap_remove().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_bitmap_remove(struct hol_disk *disk,
                                            const char *name);

/**
 * Makes the action that makes all of the bitmap called `name` clean. Errors of the start: as
 * hol_bitmap_clear().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE struct hol_action *hol_action_bitmap_clear(struct hol_disk *disk, const char *name);

/**
 * Makes the action that lets the bitmap called `name` record from then on. Errors of the start: as
 * hol_bitmap_enable().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE struct hol_action *hol_action_bitmap_enable(struct hol_disk *disk, const char *name);

/**
 * Makes the action that lets the bitmap called `name` not record from then on. Errors of the start: as
 * hol_bitmap_disable().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE struct hol_action *hol_action_bitmap_disable(struct hol_disk *disk, const char *name);

/**
 * Makes the action that makes everything dirty in the bitmap called `name` that is dirty in one of the `source_count`
 * bitmaps `sources`, as they are at that point of the list. All structures have the same struct_size, which is also the
 * distance from one to the next. Errors of the start: as hol_bitmap_merge_from().
 *
 * Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (no source, or a field of one), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise
 * as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_bitmap_merge(struct hol_disk *disk,
                                           const char *name,
                                           const struct hol_merge_source *sources,
                                           size_t source_count);

/**
 * Makes the action that puts a new image at `overlay` on top of the disk; later actions on the disk are about that.
 * `options` may be NULL. When the transaction is done the disk goes on there: close it, and open `overlay`. Errors of the
 * start: HOL_ERR_EXISTS, HOL_ERR_NOT_FOUND (its folder), HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_UNSUPPORTED (a second
 * one for the same disk), HOL_ERR_WRONG_STATE (the disk has one already), HOL_ERR_IO, HOL_ERR_NO_SPACE.
 *
 * Returns NULL on failure: HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as
 * hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_external_snapshot(struct hol_disk *disk,
                                                const char *overlay,
                                                const struct hol_overlay_options *options);

/**
 * Makes the action that takes a snapshot called `name` (1 to 255 bytes) inside the image that is on top of the disk at that
 * point of the list. Errors of the start: as hol_disk_snapshot_create().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_internal_snapshot(struct hol_disk *disk,
                                                const char *name);

/**
 * Makes the action that deletes the snapshot with this id or name from the image that is on top of the disk at that point
 * of the list. Errors of the start: as hol_disk_snapshot_delete().
 *
 * Returns NULL on failure: HOL_ERR_NULL, HOL_ERR_PANIC. Otherwise as hol_action_backup().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_action *hol_action_internal_snapshot_delete(struct hol_disk *disk,
                                                       const char *id_or_name);

/**
 * Makes all of `*options` zero, its defaults, and sets its struct_size to `size`: the sizeof of the structure as the caller
 * knows it. The same as HOL_OPTIONS_INIT.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_disk_options_init(struct hol_disk_options *options,
                          size_t size);

/**
 * As hol_disk_options_init(), for a hol_backup_options.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_backup_options_init(struct hol_backup_options *options, size_t size);

/**
 * As hol_disk_options_init(), for a hol_create_options.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_create_options_init(struct hol_create_options *options, size_t size);

/**
 * As hol_disk_options_init(), for a hol_bitmap_options.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_options_init(struct hol_bitmap_options *options, size_t size);

/**
 * As hol_disk_options_init(), for a hol_bitmap_change.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_bitmap_change_init(struct hol_bitmap_change *change, size_t size);

/**
 * As hol_disk_options_init(), for a hol_merge_source.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_merge_source_init(struct hol_merge_source *source, size_t size);

/**
 * As hol_disk_options_init(), for a hol_overlay_options.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_overlay_options_init(struct hol_overlay_options *options, size_t size);

/**
 * Writes the job's status, HOL_JOB_*, to `*status`. Later versions may add statuses.
 *
 * Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_status(const struct hol_job *job, uint32_t *status);

/**
 * Writes how many bytes the job has dealt with to `*done`, and of how many to `*total`.
 *
 * Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_progress(const struct hol_job *job, uint64_t *done, uint64_t *total);

/**
 * Writes how the job failed: its code, HOL_ERR_*, to `*code` and its text to `*message`. While the job has not failed
 * they become HOL_OK and NULL. The text belongs to the job and stays until hol_job_free(). Both are final when the job
 * is concluded: the text may then also tell what was kept or could not be done.
 *
 * Returns HOL_OK when both are written, also for a job that failed.
 * Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_error(const struct hol_job *job,
                  int *code,
                  const char **message);

/**
 * Fills `*details` with how the job failed, as hol_job_error() tells it, and with the operating system's errno. The text
 * belongs to the job and stays until hol_job_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_error_details(const struct hol_job *job,
                          struct hol_error_details *details);

/**
 * Fills `*report` with what the job has copied; complete when the job is concluded.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_report(const struct hol_job *job, struct hol_report *report);

/**
 * Fills `*lineage` with what the job's target descends from; complete when the job is concluded.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_lineage(const struct hol_job *job, struct hol_lineage *lineage);

/**
 * Writes the note at `index`, from 0 to below hol_lineage.notes, to `*note`. The text belongs to the job and stays until
 * hol_job_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_note(const struct hol_job *job,
                 size_t index,
                 const char **note);

/**
 * Frees the handle of a job; the job itself goes on. NULL is allowed and does nothing. The text that was borrowed
 * from it ends here.
 *
 * Threads: any, but no other call may use the handle. Blocks: no. From callbacks: yes. Since: 0.1.
 */
void hol_job_free(struct hol_job *job);

/**
 * Asks the job to begin nothing more, and does not wait: it is HOL_JOB_PAUSED when what is at work is done. Other jobs go
 * on, but those of its group wait for it in the end.
 *
 * Errors: HOL_ERR_WRONG_STATE (paused already, or its work is done), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_pause(struct hol_job *job);

/**
 * Lets a job that is paused go on. What stopped it (HOL_ON_ERROR_STOP, HOL_ON_ERROR_ENOSPC) is tried again.
 *
 * Errors: HOL_ERR_WRONG_STATE (not paused), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_resume(struct hol_job *job);

/**
 * Asks the job to end without a target, and does not wait. With HOL_COMPLETION_GROUPED all jobs end with it.
 *
 * Errors: HOL_ERR_WRONG_STATE (it has ended, or its target is about to appear), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_cancel(struct hol_job *job);

/**
 * Limits how many bytes of data a second the job reads from now on; 0 is without a limit.
 *
 * Errors: HOL_ERR_WRONG_STATE (its work is done), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_set_speed(struct hol_job *job, uint64_t bytes_per_second);

/**
 * Lets the target of a job that is HOL_JOB_PENDING appear, and those of its group; does not wait.
 *
 * Errors: HOL_ERR_WRONG_STATE (not pending), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_finalize(struct hol_job *job);

/**
 * Says of a job that is HOL_JOB_CONCLUDED that somebody took note of how it ended. The handle stays valid.
 *
 * Errors: HOL_ERR_WRONG_STATE (not concluded), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_job_dismiss(struct hol_job *job);

/**
 * Writes the error that made the job pause (HOL_ACTION_STOP): its code, HOL_ERR_*, to `*code` and its text to
 * `*message`. While no error has, and after hol_job_resume(), they become HOL_OK and NULL. The text belongs to the job
 * and stays until hol_job_free().
 *
 * Returns HOL_OK when both are written. Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_stop_error(const struct hol_job *job,
                       int *code,
                       const char **message);

/**
 * Fills `*details` with the error that made the job pause, as hol_job_stop_error() tells it, and with the operating
 * system's errno. The text belongs to the job and stays until hol_job_free().
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_job_stop_error_details(const struct hol_job *job,
                               struct hol_error_details *details);

/**
 * Makes a transaction without actions, with HOL_COMPLETION_GROUPED. It belongs to the caller: hol_txn_free(). Returns
 * NULL on failure: hol_last_error_code().
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
struct hol_txn *hol_txn_new(void);

/**
 * Chooses what the failure of one job means for the others: HOL_COMPLETION_*.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (mode), HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_set_completion(struct hol_txn *txn,
                           uint32_t mode);

/**
 * Sets the folder that the transaction's journal is kept in while it runs; it must exist. The default is that of the
 * first target. hol_recover() finishes there what a crash interrupted. A relative path starts from the folder that the
 * process is in during this call.
 *
 * Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_set_journal(struct hol_txn *txn,
                        const char *journal_dir);

/**
 * Sets how many threads copy at most; 0, the default: two for each processor, 16 at most. A higher number than that changes
 * nothing. One more thread leads them.
 *
 * Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_set_thread_limit(struct hol_txn *txn,
                             uint32_t most);

/**
 * Adds an action to a transaction that is not started yet. It takes the action, also when it fails: the action must not
 * be used or freed after this call. Relative paths of new files start from the folder that the process is in during this
 * call; it may go to another one at once.
 *
 * When `action` is NULL because its constructor has just failed in this thread, that failure is returned and stays
 * the last error, so that the two calls can be nested.
 *
 * Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC, and those of the action's constructor.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_add(struct hol_txn *txn,
                struct hol_action *action);

/**
 * Starts a transaction: everything is checked, then the jobs run in the library's own threads. Returns when the point in
 * time of the copies is taken; without a backup among the actions, when all is done. A transaction whose start failed has
 * changed nothing and can only be freed.
 *
 * Errors: HOL_ERR_CANCELLED (hol_action_abort()), HOL_ERR_EXISTS (a target), HOL_ERR_NOT_FOUND (a target's folder), HOL_ERR_BITMAP_NOT_FOUND,
 * HOL_ERR_BITMAP_UNUSABLE, HOL_ERR_INVALID_ARGUMENT, HOL_ERR_UNSUPPORTED, HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_LIMIT,
 * HOL_ERR_WRONG_STATE (started already; or a recovery at the start changed what this transaction goes by, see
 * hol_txn_recovery()), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input and output of tables, for a recovery, while another transaction changes one of the
 * disks, and without a backup for all of the work. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_start(struct hol_txn *txn);

/**
 * Waits until a started transaction is over, at most `timeout_ms` milliseconds; less than 0 is for ever, 0 only asks.
 *
 * Returns HOL_OK: over, and every job succeeded; HOL_TIMED_OUT: it still runs; else how it failed, the same each
 * time: the first failure of a job, HOL_ERR_CANCELLED after hol_txn_cancel(); hol_job_error() tells it for each
 * job. Further errors: HOL_ERR_WRONG_STATE (not started, or called by what receives its own log), HOL_ERR_NULL,
 * HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes. From callbacks: those of other transactions. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_wait(struct hol_txn *txn,
                 int64_t timeout_ms);

/**
 * Asks a started transaction to stop, and does not wait for it. Jobs that are not concluded end with HOL_ERR_CANCELLED
 * and leave no target behind, but for a partial one with HOL_BITMAP_MODE_ALWAYS. No effect once targets have begun to
 * appear: then the transaction succeeds.
 *
 * Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_cancel(struct hol_txn *txn);

/**
 * Runs a transaction: hol_txn_start(), then hol_txn_wait() without end. Jobs and events can be asked for afterwards.
 *
 * Errors: as those two.
 *
 * Threads: any. Blocks: yes. From callbacks: those of other transactions. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_commit(struct hol_txn *txn);

/**
 * Returns a file descriptor for poll() or select(): readable while hol_txn_next_event() has events to give. It belongs
 * to the transaction and ends with hol_txn_free(); neither read nor close it.
 *
 * Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_event_fd(struct hol_txn *txn);

/**
 * Takes the oldest waiting event and fills `*event` with it.
 *
 * Returns 1 when there was one, 0 when none waits.
 * Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any; each event is given once. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_next_event(struct hol_txn *txn,
                       struct hol_event *event);

/**
 * Writes the number of jobs of a started transaction to `*number`: one for each backup action.
 *
 * Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE int hol_txn_job_count(struct hol_txn *txn, size_t *number);

/**
 * Gives the job at `index` of a started transaction; jobs have the order in which the actions were added. On success
 * `*job` belongs to the caller: hol_job_free(). On failure it is NULL.
 *
 * Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_job(struct hol_txn *txn,
                size_t index,
                struct hol_job **job);

/**
 * Frees a transaction. One that still runs is cancelled, and its end waited for: afterwards nothing of it works in the
 * background. NULL is allowed and does nothing.
 *
 * Threads: any, but no other call may use the transaction. Blocks: yes, while it runs. From callbacks: those of other
 * transactions. Since: 0.1.
 */
void hol_txn_free(struct hol_txn *txn);

/**
 * Lets `callback` receive the transaction's log from its start on; NULL: nobody does, as by default. `opaque` is handed
 * to it, and must be valid until hol_txn_free() returns; hol_txn_set_log_owned() can end it.
 *
 * Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_set_log(struct hol_txn *txn,
                    hol_log_cb callback,
                    void *opaque);

/**
 * As hol_txn_set_log(), and hands `opaque` over: `destroy(opaque)` is called once, when `callback` is not called any more and its
 * last call is over. That is in hol_txn_free(), in the next call that sets the log, or in this call when it fails or `callback`
 * is NULL; and in the thread of that call. `destroy` may be NULL: then this is hol_txn_set_log().
 *
 * Errors: as hol_txn_set_log(); `opaque` is ended then, too.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_set_log_owned(struct hol_txn *txn,
                          hol_log_cb callback,
                          void *opaque,
                          hol_destroy_cb destroy);

/**
 * Finishes or takes back every transaction that died, by a crash of the process or of the machine, and has its journal in
 * the folder `journal_dir`: where it was decided its targets get their names and its bitmaps change, where it was not
 * its temporary files go. Transactions at work are left alone. Doing it again changes nothing. hol_txn_start() does the
 * same for the transaction's own journal folder.
 *
 * `report` and `callback` may be NULL.
 *
 * Returns HOL_OK, also when something is unfinished, or HOL_STOPPED when the callback asked to stop.
 * Errors: HOL_ERR_NOT_FOUND, HOL_ERR_IO (the folder), HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL,
 * HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_recover(const char *journal_dir,
                struct hol_recover_report *report,
                hol_recovered_cb callback,
                void *opaque);

/**
 * Tells what a recovery found that is the reason why hol_txn_start() or hol_txn_commit() failed with HOL_ERR_WRONG_STATE: a
 * transaction that a crash had interrupted was ended in the journal folder, and changed bitmaps that this one goes by, or
 * made a target that it would replace. After any other failure, and without one, there is nothing to tell.
 *
 * `report` and `callback` may be NULL; they are those of hol_recover().
 *
 * Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
 * Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
 *
 * Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
 */
HOL_MUST_USE
int hol_txn_recovery(const struct hol_txn *txn,
                     struct hol_recover_report *report,
                     hol_recovered_cb callback,
                     void *opaque);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* Which functions this header declares, for code that builds with several versions of it. */
#define HOL_HAVE_VERSION 1
#define HOL_HAVE_VERSION_NUMBER 1
#define HOL_HAVE_SIZEOF 1
#define HOL_HAVE_ERROR_NAME 1
#define HOL_HAVE_STATUS_NAME 1
#define HOL_HAVE_EVENT_NAME 1
#define HOL_HAVE_RECOVERED_NAME 1
#define HOL_HAVE_PROBLEM_NAME 1
#define HOL_HAVE_CONSTANT 1
#define HOL_HAVE_LAST_ERROR_MESSAGE 1
#define HOL_HAVE_LAST_ERROR_CODE 1
#define HOL_HAVE_LAST_ERROR_ERRNO 1
#define HOL_HAVE_LAST_ERROR_CLEAR 1
#define HOL_HAVE_DISK_OPEN 1
#define HOL_HAVE_DISK_OPEN_FD 1
#define HOL_HAVE_DISK_CLOSE 1
#define HOL_HAVE_DISK_SIZE 1
#define HOL_HAVE_DISK_INFO 1
#define HOL_HAVE_DISK_READ 1
#define HOL_HAVE_DISK_EXTENTS 1
#define HOL_HAVE_DISK_LAYER 1
#define HOL_HAVE_DISK_CHECK_CHAIN 1
#define HOL_HAVE_CHAIN_SUMMARY 1
#define HOL_HAVE_CHAIN_LAYER 1
#define HOL_HAVE_CHAIN_FREE 1
#define HOL_HAVE_DISK_CHECK 1
#define HOL_HAVE_DISK_REPAIR 1
#define HOL_HAVE_CHAIN_CHECK 1
#define HOL_HAVE_CHECK_SUMMARY 1
#define HOL_HAVE_CHECK_PROBLEM 1
#define HOL_HAVE_CHECK_FOUND 1
#define HOL_HAVE_CHECK_LOST_BITMAP 1
#define HOL_HAVE_CHECK_LOST_SNAPSHOTS 1
#define HOL_HAVE_CHECK_MENDED_SNAPSHOT 1
#define HOL_HAVE_CHECK_LEFT 1
#define HOL_HAVE_CHECK_FREE 1
#define HOL_HAVE_DISK_CREATE 1
#define HOL_HAVE_DISK_WRITE 1
#define HOL_HAVE_DISK_WRITE_ZEROES 1
#define HOL_HAVE_DISK_DISCARD 1
#define HOL_HAVE_DISK_FLUSH 1
#define HOL_HAVE_DISK_RESIZE 1
#define HOL_HAVE_BITMAP_LIST 1
#define HOL_HAVE_BITMAP_INFO_AT 1
#define HOL_HAVE_BITMAP_INFO 1
#define HOL_HAVE_BITMAP_COUNT 1
#define HOL_HAVE_BITMAP_EXTENTS 1
#define HOL_HAVE_BITMAP_ADD 1
#define HOL_HAVE_BITMAP_REMOVE 1
#define HOL_HAVE_BITMAP_CLEAR 1
#define HOL_HAVE_BITMAP_ENABLE 1
#define HOL_HAVE_BITMAP_DISABLE 1
#define HOL_HAVE_BITMAP_RENAME 1
#define HOL_HAVE_BITMAP_MERGE 1
#define HOL_HAVE_BITMAP_MERGE_FROM 1
#define HOL_HAVE_BITMAP_APPLY 1
#define HOL_HAVE_SNAPSHOT_LIST 1
#define HOL_HAVE_SNAPSHOT_INFO_AT 1
#define HOL_HAVE_DISK_SNAPSHOT_CREATE 1
#define HOL_HAVE_DISK_SNAPSHOT_CREATE_DETAILS 1
#define HOL_HAVE_DISK_SNAPSHOT_DELETE 1
#define HOL_HAVE_ACTION_BACKUP 1
#define HOL_HAVE_ACTION_ABORT 1
#define HOL_HAVE_ACTION_FREE 1
#define HOL_HAVE_ACTION_BITMAP_ADD 1
#define HOL_HAVE_ACTION_BITMAP_REMOVE 1
#define HOL_HAVE_ACTION_BITMAP_CLEAR 1
#define HOL_HAVE_ACTION_BITMAP_ENABLE 1
#define HOL_HAVE_ACTION_BITMAP_DISABLE 1
#define HOL_HAVE_ACTION_BITMAP_MERGE 1
#define HOL_HAVE_ACTION_EXTERNAL_SNAPSHOT 1
#define HOL_HAVE_ACTION_INTERNAL_SNAPSHOT 1
#define HOL_HAVE_ACTION_INTERNAL_SNAPSHOT_DELETE 1
#define HOL_HAVE_DISK_OPTIONS_INIT 1
#define HOL_HAVE_BACKUP_OPTIONS_INIT 1
#define HOL_HAVE_CREATE_OPTIONS_INIT 1
#define HOL_HAVE_BITMAP_OPTIONS_INIT 1
#define HOL_HAVE_BITMAP_CHANGE_INIT 1
#define HOL_HAVE_MERGE_SOURCE_INIT 1
#define HOL_HAVE_OVERLAY_OPTIONS_INIT 1
#define HOL_HAVE_JOB_STATUS 1
#define HOL_HAVE_JOB_PROGRESS 1
#define HOL_HAVE_JOB_ERROR 1
#define HOL_HAVE_JOB_ERROR_DETAILS 1
#define HOL_HAVE_JOB_REPORT 1
#define HOL_HAVE_JOB_LINEAGE 1
#define HOL_HAVE_JOB_NOTE 1
#define HOL_HAVE_JOB_FREE 1
#define HOL_HAVE_JOB_PAUSE 1
#define HOL_HAVE_JOB_RESUME 1
#define HOL_HAVE_JOB_CANCEL 1
#define HOL_HAVE_JOB_SET_SPEED 1
#define HOL_HAVE_JOB_FINALIZE 1
#define HOL_HAVE_JOB_DISMISS 1
#define HOL_HAVE_JOB_STOP_ERROR 1
#define HOL_HAVE_JOB_STOP_ERROR_DETAILS 1
#define HOL_HAVE_TXN_NEW 1
#define HOL_HAVE_TXN_SET_COMPLETION 1
#define HOL_HAVE_TXN_SET_JOURNAL 1
#define HOL_HAVE_TXN_SET_THREAD_LIMIT 1
#define HOL_HAVE_TXN_ADD 1
#define HOL_HAVE_TXN_START 1
#define HOL_HAVE_TXN_WAIT 1
#define HOL_HAVE_TXN_CANCEL 1
#define HOL_HAVE_TXN_COMMIT 1
#define HOL_HAVE_TXN_EVENT_FD 1
#define HOL_HAVE_TXN_NEXT_EVENT 1
#define HOL_HAVE_TXN_JOB_COUNT 1
#define HOL_HAVE_TXN_JOB 1
#define HOL_HAVE_TXN_FREE 1
#define HOL_HAVE_TXN_SET_LOG 1
#define HOL_HAVE_TXN_SET_LOG_OWNED 1
#define HOL_HAVE_RECOVER 1
#define HOL_HAVE_TXN_RECOVERY 1

#endif  /* HOLSTEIN_H */
