"""The C ABI as ctypes sees it: constants, structures, one table of signatures, and the search for the library.

Nothing here has behaviour of its own; the classes of the package are built on it.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

OK = 0
STOPPED = 1
TIMED_OUT = 1

#: HOL_ERR_* by number, named as `HolsteinError.kind` names them.
ERRORS = {
    -1: "null",
    -2: "panic",
    -3: "invalid-argument",
    -4: "not-found",
    -5: "exists",
    -6: "locked",
    -7: "io",
    -8: "no-space",
    -9: "corrupt",
    -10: "unsupported",
    -11: "encrypted",
    -12: "policy-denied",
    -13: "limit",
    -14: "bitmap-not-found",
    -15: "bitmap-unusable",
    -16: "cancelled",
    -17: "wrong-state",
    -18: "internal",
    -19: "permission",
    -20: "no-memory",
}

#: The constants that carry a choice: the group in the header, then the choices from 0 on.
CHOICES = {
    "FORMAT": ("qcow2", "raw"),
    "BACKING": ("beside", "under", "any", "deny"),
    "SHARING": ("locked", "force"),
    "LAYERS": ("chain", "top-only"),
    "ACCESS": ("read", "write"),
    "RECORDING": ("enabled", "disabled"),
    "SYNC": ("default", "full", "top", "bitmap", "incremental", "none"),
    "BITMAP_MODE": ("default", "on-success", "never", "always"),
    "COMPRESSION": ("none", "zlib", "zstd"),
    "COMPAT": ("1.1", "0.10"),
    "PREALLOCATION": ("off", "metadata"),
    "EXISTING": ("refuse", "overwrite"),
    "ZERO_DETECTION": ("on", "off"),
    "ON_ERROR": ("report", "ignore", "enospc", "stop"),
    "LAST_STEP": ("auto", "manual"),
    "LINEAGE": ("strict", "ignore"),
    "REFLINK": ("auto", "always", "never"),
    "PAGE_CACHE": ("drop", "keep"),
    "COMPLETION": ("grouped", "individual"),
    "LAYER": ("top", "below"),
}

#: HOL_JOB_* and the like, which begin at 1.
STATUSES = {
    1: "created",
    2: "running",
    3: "waiting",
    4: "aborting",
    5: "concluded",
    6: "paused",
    7: "pending",
    8: "dismissed",
}
EVENTS = {
    1: "status",
    2: "progress",
    3: "failed",
    4: "cancelled",
    5: "completed",
    6: "finished",
    7: "error",
}
SIDES = {1: "source", 2: "target"}
ACTIONS = {1: "report", 2: "ignore", 3: "stop"}
LINKS = {1: "bottom", 2: "proven", 3: "unknown", 4: "broken"}
#: Without 0, "none": not checked.
VERDICTS = {1: "consistent", 2: "leaks", 3: "corrupt", 4: "incomplete"}
SEVERITIES = {1: "corruption", 2: "leak", 3: "unchecked", 4: "note"}
LEVELS = {1: "error", 2: "warning", 3: "info"}

#: HOL_CHANGE_*, which begin at 1.
CHANGES = ("add", "remove", "clear", "enable", "disable", "rename", "merge")

#: HOL_REPAIR_*, which begin at 1.
REPAIRS = ("leaks", "all")

#: HOL_PROBLEM_*, which begin at 1.
PROBLEMS = (
    "refcount-too-low",
    "leak",
    "invalid-entry",
    "copied-flag",
    "outside-file",
    "no-refcount",
    "cut-short",
    "overlap",
    "bitmap",
    "unusable-bitmap",
    "snapshot",
)

#: In a problem: it is not about one place.
NO_OFFSET = (1 << 64) - 1

#: Flags, by group.
EXTENT_FLAGS = {"PRESENT": 1, "ZERO": 2, "DATA": 4, "COMPRESSED": 8, "OFFSET": 16, "DIRTY": 32}
BITMAP_FLAGS = {"IN_USE": 1, "AUTO": 2, "USABLE": 4, "COUNTED": 8}
SNAPSHOT_FLAGS = {"DISK_SIZE": 1, "ICOUNT": 2}
DISK_FLAGS = {"LAZY_REFCOUNTS": 1, "CORRUPT": 2, "DIRTY": 4, "EXTENDED_L2": 8, "DATA_FILE_RAW": 16}


class _Sized(ctypes.Structure):
    """A structure that begins with its own size."""

    def __init__(self, **fields: object) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class DiskOptions(_Sized):
    """hol_disk_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("backing_dir", c_char_p),
        ("memory_limit", c_uint64),
        ("format", c_uint32),
        ("backing_policy", c_uint32),
        ("sharing", c_uint32),
        ("layers", c_uint32),
        ("access", c_uint32),
        ("chain_limit", c_uint32),
        ("thread_limit", c_uint32),
        ("reserved", c_uint32),
    ]


class BackupOptions(_Sized):
    """hol_backup_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("bitmap", c_char_p),
        ("backing", c_char_p),
        ("cluster_size", c_uint64),
        ("sync", c_uint32),
        ("bitmap_mode", c_uint32),
        ("format", c_uint32),
        ("backing_format", c_uint32),
        ("compression", c_uint32),
        ("compression_level", c_uint32),
        ("existing", c_uint32),
        ("zero_detection", c_uint32),
        ("speed", c_uint64),
        ("on_source_error", c_uint32),
        ("on_target_error", c_uint32),
        ("finalize", c_uint32),
        ("dismiss", c_uint32),
        ("lineage", c_uint32),
        ("reflink", c_uint32),
        ("page_cache", c_uint32),
        ("reserved", c_uint32),
    ]


class CreateOptions(_Sized):
    """hol_create_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("backing", c_char_p),
        ("data_file", c_char_p),
        ("open", POINTER(DiskOptions)),
        ("cluster_size", c_uint64),
        ("compat", c_uint32),
        ("refcount_bits", c_uint32),
        ("compression_type", c_uint32),
        ("backing_format", c_uint32),
        ("flags", c_uint32),
        ("preallocation", c_uint32),
        ("existing", c_uint32),
        ("reserved", c_uint32),
    ]


class DiskDetails(_Sized):
    """hol_disk_details"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("virtual_size", c_uint64),
        ("actual_size", c_uint64),
        ("file_length", c_uint64),
        ("cluster_size", c_uint64),
        ("snapshots", c_uint64),
        ("bitmaps", c_uint64),
        ("backing", c_char_p),
        ("backing_path", c_char_p),
        ("backing_format", c_char_p),
        ("data_file", c_char_p),
        ("format", c_uint32),
        ("version", c_uint32),
        ("compression", c_uint32),
        ("refcount_bits", c_uint32),
        ("flags", c_uint32),
        ("layers", c_uint32),
        ("identity", c_char_p),
        ("parent", c_char_p),
    ]


class BitmapDetails(_Sized):
    """hol_bitmap_details"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("reason", c_char_p),
        ("granularity", c_uint64),
        ("count", c_uint64),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("base", c_char_p),
        ("base_size", c_uint64),
    ]


class SnapshotDetails(_Sized):
    """hol_snapshot_details"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("id", c_char_p),
        ("name", c_char_p),
        ("vm_state_size", c_uint64),
        ("disk_size", c_uint64),
        ("vm_clock_nsec", c_uint64),
        ("icount", c_uint64),
        ("date_sec", c_uint64),
        ("date_nsec", c_uint32),
        ("flags", c_uint32),
    ]


class CheckReport(_Sized):
    """hol_check_report"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("corruptions", c_uint64),
        ("further_corruptions", c_uint64),
        ("leaks", c_uint64),
        ("check_errors", c_uint64),
        ("image_end_offset", c_uint64),
        ("total_clusters", c_uint64),
        ("allocated_clusters", c_uint64),
        ("fragmented_clusters", c_uint64),
        ("compressed_clusters", c_uint64),
        ("problems", c_uint64),
        ("problems_omitted", c_uint64),
        ("corruptions_fixed", c_uint64),
        ("further_corruptions_fixed", c_uint64),
        ("leaks_fixed", c_uint64),
        ("found", c_uint64),
        ("found_omitted", c_uint64),
        ("lost_bitmaps", c_uint64),
        ("left", c_uint64),
        ("verdict", c_uint32),
        ("leaks_are_certain", c_uint32),
        ("lost_snapshots", c_uint64),
        ("mended_snapshots", c_uint64),
    ]


class Problem(_Sized):
    """hol_problem"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("text", c_char_p),
        ("offset", c_uint64),
        ("clusters", c_uint64),
        ("kind", c_uint32),
        ("severity", c_uint32),
    ]


class Layer(_Sized):
    """hol_layer"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("path", c_char_p),
        ("identity", c_char_p),
        ("parent", c_char_p),
        ("virtual_size", c_uint64),
        ("format", c_uint32),
        ("link", c_uint32),
        ("verdict", c_uint32),
        ("reserved", c_uint32),
    ]


class Lineage(_Sized):
    """hol_lineage"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("identity", c_char_p),
        ("parent", c_char_p),
        ("notes", c_uint64),
    ]


class BitmapOptions(_Sized):
    """hol_bitmap_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("granularity", c_uint64),
        ("recording", c_uint32),
        ("reserved", c_uint32),
    ]


class BitmapChange(_Sized):
    """hol_bitmap_change"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("new_name", c_char_p),
        ("sources", POINTER(c_char_p)),
        ("source_count", c_size_t),
        ("source_disk", c_void_p),
        ("granularity", c_uint64),
        ("kind", c_uint32),
        ("recording", c_uint32),
    ]


class MergeSource(_Sized):
    """hol_merge_source"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("disk", c_void_p),
        ("layer", c_uint32),
        ("reserved", c_uint32),
    ]


class OverlayOptions(_Sized):
    """hol_overlay_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("cluster_size", c_uint64),
        ("backing_name", c_char_p),
    ]


class Extent(_Sized):
    """hol_extent"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("start", c_uint64),
        ("length", c_uint64),
        ("host_offset", c_uint64),
        ("depth", c_uint32),
        ("flags", c_uint32),
    ]


class Event(_Sized):
    """hol_event"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("job", c_int64),
        ("done", c_uint64),
        ("total", c_uint64),
        ("kind", c_uint32),
        ("status", c_uint32),
        ("code", c_int32),
        ("reserved", c_uint32),
        ("side", c_uint32),
        ("action", c_uint32),
        ("os_error", c_int32),
        ("reserved2", c_uint32),
    ]


class ErrorDetails(_Sized):
    """hol_error_details"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("message", c_char_p),
        ("code", c_int32),
        ("os_error", c_int32),
    ]


class Report(_Sized):
    """hol_report"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("data_bytes", c_uint64),
        ("zero_bytes", c_uint64),
        ("stored_bytes", c_uint64),
        ("partial_end", c_uint64),
        ("shared_bytes", c_uint64),
    ]


class Recovered(_Sized):
    """hol_recovered"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("path", c_char_p),
        ("reason", c_char_p),
        ("kind", c_uint32),
        ("reserved", c_uint32),
    ]


class RecoverReport(_Sized):
    """hol_recover_report"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("targets", c_uint64),
        ("removed", c_uint64),
        ("bitmaps", c_uint64),
        ("left", c_uint64),
        ("unfinished", c_uint64),
        ("at_work", c_uint64),
    ]


#: What a recovery can find or do, in the order of HOL_RECOVERED_*.
RECOVERED = (
    "temporary-removed",
    "target-published",
    "target-was-published",
    "target-missing",
    "bitmaps-changed",
    "bitmaps-were-changed",
    "bitmaps-left",
    "bitmaps-given-up",
    "unfinished",
    "at-work",
)

#: The structures by their C names.
STRUCTURES = {
    "hol_disk_options": DiskOptions,
    "hol_backup_options": BackupOptions,
    "hol_create_options": CreateOptions,
    "hol_disk_details": DiskDetails,
    "hol_bitmap_details": BitmapDetails,
    "hol_bitmap_options": BitmapOptions,
    "hol_bitmap_change": BitmapChange,
    "hol_merge_source": MergeSource,
    "hol_overlay_options": OverlayOptions,
    "hol_snapshot_details": SnapshotDetails,
    "hol_check_report": CheckReport,
    "hol_problem": Problem,
    "hol_layer": Layer,
    "hol_lineage": Lineage,
    "hol_extent": Extent,
    "hol_error_details": ErrorDetails,
    "hol_event": Event,
    "hol_report": Report,
    "hol_recovered": Recovered,
    "hol_recover_report": RecoverReport,
}

RecoveredCallback = ctypes.CFUNCTYPE(c_int, POINTER(Recovered), c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, c_uint32, c_int64, c_char_p, c_void_p)
DestroyCallback = ctypes.CFUNCTYPE(None, c_void_p)
ExtentCallback = ctypes.CFUNCTYPE(c_int, POINTER(Extent), c_void_p)

#: Every function of the header: what it returns, and its arguments. Handles are void pointers.
SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "hol_version": (c_char_p, ()),
    "hol_version_number": (c_uint32, ()),
    "hol_sizeof": (c_int, (c_char_p, POINTER(c_size_t))),
    "hol_constant": (c_int, (c_char_p, POINTER(c_int64))),
    "hol_error_name": (c_char_p, (c_int,)),
    "hol_status_name": (c_char_p, (c_uint32,)),
    "hol_event_name": (c_char_p, (c_uint32,)),
    "hol_recovered_name": (c_char_p, (c_uint32,)),
    "hol_problem_name": (c_char_p, (c_uint32,)),
    "hol_last_error_message": (c_char_p, ()),
    "hol_last_error_code": (c_int, ()),
    "hol_last_error_errno": (c_int, ()),
    "hol_last_error_clear": (None, ()),
    "hol_disk_open": (c_int, (c_char_p, POINTER(DiskOptions), POINTER(c_void_p))),
    "hol_disk_open_fd": (c_int, (c_int, c_char_p, POINTER(DiskOptions), POINTER(c_void_p))),
    "hol_disk_options_init": (c_int, (POINTER(DiskOptions), c_size_t)),
    "hol_backup_options_init": (c_int, (POINTER(BackupOptions), c_size_t)),
    "hol_create_options_init": (c_int, (POINTER(CreateOptions), c_size_t)),
    "hol_bitmap_options_init": (c_int, (POINTER(BitmapOptions), c_size_t)),
    "hol_bitmap_change_init": (c_int, (POINTER(BitmapChange), c_size_t)),
    "hol_merge_source_init": (c_int, (POINTER(MergeSource), c_size_t)),
    "hol_overlay_options_init": (c_int, (POINTER(OverlayOptions), c_size_t)),
    "hol_disk_layer": (c_int, (c_void_p, c_size_t, POINTER(Layer))),
    "hol_disk_check_chain": (c_int, (c_char_p, POINTER(DiskOptions), POINTER(c_void_p))),
    "hol_chain_summary": (c_int, (c_void_p, POINTER(c_size_t), POINTER(c_uint32))),
    "hol_chain_layer": (c_int, (c_void_p, c_size_t, POINTER(Layer))),
    "hol_chain_check": (c_int, (c_void_p, c_size_t, POINTER(c_void_p))),
    "hol_disk_check": (c_int, (c_char_p, POINTER(DiskOptions), POINTER(c_void_p))),
    "hol_disk_repair": (c_int, (c_char_p, POINTER(DiskOptions), c_uint32, POINTER(c_void_p))),
    "hol_check_summary": (c_int, (c_void_p, POINTER(CheckReport))),
    "hol_check_problem": (c_int, (c_void_p, c_size_t, POINTER(Problem))),
    "hol_check_found": (c_int, (c_void_p, c_size_t, POINTER(Problem))),
    "hol_check_lost_bitmap": (c_int, (c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_char_p))),
    "hol_check_lost_snapshots": (
        c_int,
        (c_void_p, c_size_t, POINTER(c_uint32), POINTER(c_uint32), POINTER(c_char_p), POINTER(c_char_p)),
    ),
    "hol_check_mended_snapshot": (c_int, (c_void_p, c_size_t, POINTER(c_char_p))),
    "hol_check_left": (c_int, (c_void_p, c_size_t, POINTER(c_char_p))),
    "hol_check_free": (None, (c_void_p,)),
    "hol_chain_free": (None, (c_void_p,)),
    "hol_disk_create": (c_int, (c_char_p, c_uint64, POINTER(CreateOptions), POINTER(c_void_p))),
    "hol_disk_close": (c_int, (c_void_p,)),
    "hol_disk_size": (c_int, (c_void_p, POINTER(c_uint64))),
    "hol_disk_info": (c_int, (c_void_p, POINTER(DiskDetails))),
    "hol_disk_read": (c_int, (c_void_p, c_uint64, POINTER(c_uint8), c_size_t)),
    "hol_disk_extents": (c_int, (c_void_p, c_uint64, c_uint64, ExtentCallback, c_void_p)),
    "hol_disk_write": (c_int, (c_void_p, c_uint64, POINTER(c_uint8), c_size_t)),
    "hol_disk_write_zeroes": (c_int, (c_void_p, c_uint64, c_uint64)),
    "hol_disk_discard": (c_int, (c_void_p, c_uint64, c_uint64)),
    "hol_disk_flush": (c_int, (c_void_p,)),
    "hol_disk_resize": (c_int, (c_void_p, c_uint64)),
    "hol_disk_snapshot_create": (c_int, (c_void_p, c_char_p)),
    "hol_disk_snapshot_create_details": (c_int, (c_void_p, c_char_p, POINTER(SnapshotDetails))),
    "hol_snapshot_list": (c_int, (c_void_p, POINTER(c_size_t))),
    "hol_snapshot_info_at": (c_int, (c_void_p, c_size_t, POINTER(SnapshotDetails))),
    "hol_disk_snapshot_delete": (c_int, (c_void_p, c_char_p)),
    "hol_bitmap_list": (c_int, (c_void_p, POINTER(c_size_t))),
    "hol_bitmap_info_at": (c_int, (c_void_p, c_size_t, POINTER(BitmapDetails))),
    "hol_bitmap_info": (c_int, (c_void_p, c_char_p, POINTER(BitmapDetails))),
    "hol_bitmap_count": (c_int, (c_void_p, c_char_p, POINTER(c_uint64))),
    "hol_bitmap_extents": (c_int, (c_void_p, c_char_p, ExtentCallback, c_void_p)),
    "hol_bitmap_add": (c_int, (c_void_p, c_char_p, POINTER(BitmapOptions))),
    "hol_bitmap_remove": (c_int, (c_void_p, c_char_p)),
    "hol_bitmap_clear": (c_int, (c_void_p, c_char_p)),
    "hol_bitmap_enable": (c_int, (c_void_p, c_char_p)),
    "hol_bitmap_disable": (c_int, (c_void_p, c_char_p)),
    "hol_bitmap_rename": (c_int, (c_void_p, c_char_p, c_char_p)),
    "hol_bitmap_merge": (c_int, (c_void_p, c_char_p, POINTER(c_char_p), c_size_t)),
    "hol_bitmap_merge_from": (c_int, (c_void_p, c_char_p, c_void_p, c_char_p)),
    "hol_bitmap_apply": (c_int, (c_void_p, POINTER(BitmapChange), c_size_t)),
    "hol_action_backup": (c_void_p, (c_void_p, c_char_p, POINTER(BackupOptions))),
    "hol_action_abort": (c_void_p, ()),
    "hol_action_bitmap_add": (c_void_p, (c_void_p, c_char_p, POINTER(BitmapOptions))),
    "hol_action_bitmap_remove": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_bitmap_clear": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_bitmap_enable": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_bitmap_disable": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_bitmap_merge": (c_void_p, (c_void_p, c_char_p, POINTER(MergeSource), c_size_t)),
    "hol_action_internal_snapshot": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_internal_snapshot_delete": (c_void_p, (c_void_p, c_char_p)),
    "hol_action_external_snapshot": (c_void_p, (c_void_p, c_char_p, POINTER(OverlayOptions))),
    "hol_action_free": (None, (c_void_p,)),
    "hol_txn_new": (c_void_p, ()),
    "hol_txn_set_completion": (c_int, (c_void_p, c_uint32)),
    "hol_txn_set_journal": (c_int, (c_void_p, c_char_p)),
    "hol_recover": (c_int, (c_char_p, POINTER(RecoverReport), RecoveredCallback, c_void_p)),
    "hol_txn_recovery": (c_int, (c_void_p, POINTER(RecoverReport), RecoveredCallback, c_void_p)),
    "hol_txn_add": (c_int, (c_void_p, c_void_p)),
    "hol_txn_start": (c_int, (c_void_p,)),
    "hol_txn_wait": (c_int, (c_void_p, c_int64)),
    "hol_txn_cancel": (c_int, (c_void_p,)),
    "hol_txn_commit": (c_int, (c_void_p,)),
    "hol_txn_event_fd": (c_int, (c_void_p,)),
    "hol_txn_next_event": (c_int, (c_void_p, POINTER(Event))),
    "hol_txn_job_count": (c_int, (c_void_p, POINTER(c_size_t))),
    "hol_txn_job": (c_int, (c_void_p, c_size_t, POINTER(c_void_p))),
    "hol_txn_free": (None, (c_void_p,)),
    "hol_job_status": (c_int, (c_void_p, POINTER(c_uint32))),
    "hol_job_progress": (c_int, (c_void_p, POINTER(c_uint64), POINTER(c_uint64))),
    "hol_job_error": (c_int, (c_void_p, POINTER(c_int), POINTER(c_char_p))),
    "hol_job_error_details": (c_int, (c_void_p, POINTER(ErrorDetails))),
    "hol_job_stop_error_details": (c_int, (c_void_p, POINTER(ErrorDetails))),
    "hol_job_report": (c_int, (c_void_p, POINTER(Report))),
    "hol_job_free": (None, (c_void_p,)),
    "hol_job_pause": (c_int, (c_void_p,)),
    "hol_job_resume": (c_int, (c_void_p,)),
    "hol_job_cancel": (c_int, (c_void_p,)),
    "hol_job_set_speed": (c_int, (c_void_p, c_uint64)),
    "hol_job_lineage": (c_int, (c_void_p, POINTER(Lineage))),
    "hol_job_note": (c_int, (c_void_p, c_size_t, POINTER(c_char_p))),
    "hol_job_finalize": (c_int, (c_void_p,)),
    "hol_job_dismiss": (c_int, (c_void_p,)),
    "hol_job_stop_error": (c_int, (c_void_p, POINTER(c_int), POINTER(c_char_p))),
    "hol_txn_set_thread_limit": (c_int, (c_void_p, c_uint32)),
    "hol_txn_set_log": (c_int, (c_void_p, LogCallback, c_void_p)),
    "hol_txn_set_log_owned": (c_int, (c_void_p, LogCallback, c_void_p, DestroyCallback)),
}

_SONAME = "libholstein.so.0"


def _library_path() -> str:
    """HOLSTEIN_LIBRARY; else the library beside this package; else the one built in this source tree; else the system's."""
    if path := os.environ.get("HOLSTEIN_LIBRARY"):
        return path
    package = Path(__file__).resolve().parent
    candidates = [package / _SONAME]
    root = package.parent.parent
    if (root / "Cargo.toml").is_file():
        candidates += [root / "target" / profile / "libholstein.so" for profile in ("release", "debug")]
    return next((str(path) for path in candidates if path.is_file()), _SONAME)


def load(path: str | None = None) -> ctypes.CDLL:
    """The library with its functions' signatures set."""
    library = ctypes.CDLL(path or _library_path())
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
