"""Open disks, their extents and their bitmaps."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint8, c_uint64, c_void_p
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, TypeVar

from . import _abi
from ._bitmap_changes import BitmapChanges, recording
from ._calls import Calls
from ._check import CheckReport, run_check
from ._library import Path, check, choice, lib, name_bytes, number, path_bytes, text
from ._lineage import Chain, Layer, layer_of, read_chain

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Extent:
    """A part of a disk. Of a bitmap's extents, only start and length mean something."""

    start: int
    length: int
    #: One of the chain's images holds the part.
    present: bool = False
    #: The part reads as zeros.
    zero: bool = False
    #: The part is stored as data.
    data: bool = False
    #: The part is stored compressed.
    compressed: bool = False
    #: Which image of the chain holds the part; 0 is the top.
    depth: int = 0
    #: Where in its file the part begins, when that can be said.
    offset: int | None = None


@dataclass(frozen=True)
class BitmapInfo:
    """A persistent bitmap of a disk."""

    name: str
    #: Bytes of the disk that one bit stands for.
    granularity: int
    in_use: bool
    auto: bool
    #: Dirty bytes, in whole granules; None when the content cannot be read.
    count: int | None
    #: Why no backup can be based on the bitmap; None: it can.
    reason: str | None
    #: The identity of the backup from which on the bitmap has every change, in the form of a UUID; None: not known.
    base: str | None = None
    #: With base: size of the disk at that time, in bytes.
    base_size: int = 0

    @property
    def usable(self) -> bool:
        """A backup can be based on the bitmap."""
        return self.reason is None


@dataclass(frozen=True)
class Snapshot:
    """An internal snapshot of a disk."""

    #: Its number, as text.
    id: str
    name: str
    #: When it was taken, in seconds since 1970.
    date: float
    #: Bytes of the state of a virtual machine that it has.
    vm_state_size: int
    #: Nanoseconds that the virtual machine had run.
    vm_clock_nsec: int
    #: Size of the disk at that time; None: not known.
    disk_size: int | None
    #: Instructions that the virtual machine had run; None: not known.
    icount: int | None


@dataclass(frozen=True)
class DiskInfo:
    """What is known of a disk's top image. Numbers that only qcow2 has are 0 for a raw image."""

    format: str
    virtual_size: int
    actual_size: int
    file_length: int
    version: int
    cluster_size: int
    refcount_bits: int
    compression: str
    snapshots: int
    bitmaps: int
    layers: int
    backing: str | None
    backing_path: str | None
    backing_format: str | None
    data_file: str | None
    lazy_refcounts: bool
    corrupt: bool
    dirty: bool
    extended_l2: bool
    data_file_raw: bool
    #: The identity of the image, in the form of a UUID, if it is a backup that Holstein made or a copy of one.
    identity: str | None = None
    #: The identity of the backup below it, by its own header.
    parent: str | None = None


class Disk:
    """An open image with the files it is made of. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        path: Path,
        *,
        format: str = "qcow2",
        backing_policy: str = "beside",
        backing_dir: Path | None = None,
        sharing: str = "locked",
        layers: str = "chain",
        writable: bool = False,
        memory_limit: int = 0,
        chain_limit: int = 0,
        thread_limit: int = 0,
        fd: int | None = None,
    ) -> None:
        """Opens the image, or takes the one that is open as descriptor fd: then the path is what it is called. The descriptor
        is duplicated, stays the caller's, and serves one disk at a time. The options are those of hol_disk_options, by name: backing_policy is "beside", "under"
        (with backing_dir), "any" or "deny"; sharing "locked" or "force"; layers "chain" or "top-only". A writable disk
        can be changed, its data, its size and its bitmaps, and nobody else can open its image meanwhile."""
        options = _disk_options(
            format=format,
            backing_policy=backing_policy,
            backing_dir=backing_dir,
            sharing=sharing,
            layers=layers,
            writable=writable,
            memory_limit=memory_limit,
            chain_limit=chain_limit,
            thread_limit=thread_limit,
        )
        handle = c_void_p()
        if fd is None:
            check(lib.hol_disk_open(path_bytes(path), byref(options), byref(handle)))
        else:
            check(lib.hol_disk_open_fd(fd, path_bytes(path), byref(options), byref(handle)))
        self._calls = Calls("disk", handle)

    @classmethod
    def create(
        cls,
        path: Path,
        size: int | None = None,
        *,
        cluster_size: int = 0,
        compat: str = "1.1",
        refcount_bits: int = 0,
        extended_l2: bool = False,
        compression_type: str = "zlib",
        backing: Path | None = None,
        backing_format: str | None = None,
        data_file: Path | None = None,
        data_file_raw: bool = False,
        lazy_refcounts: bool = False,
        preallocation: str = "off",
        existing: str = "refuse",
        backing_policy: str = "beside",
        backing_dir: Path | None = None,
        layers: str = "chain",
        writable: bool = False,
        memory_limit: int = 0,
        chain_limit: int = 0,
    ) -> Disk:
        """Makes a new qcow2 image, which appears complete or not at all, and opens it: backing_policy and what follows
        are those of Disk(). Without a size the disk is as large as its backing file, or as a raw data file that exists.
        The other options are those of hol_create_options, by name; a backing file comes with its format."""
        if size is not None and size <= 0:
            raise ValueError("size must be positive")
        if (backing is None) != (backing_format is None):
            raise ValueError("backing and backing_format go together: a format is never guessed")
        open_options = _disk_options(
            backing_policy=backing_policy,
            backing_dir=backing_dir,
            layers=layers,
            writable=writable,
            memory_limit=memory_limit,
            chain_limit=chain_limit,
        )
        flags = {"EXTENDED_L2": extended_l2, "LAZY_REFCOUNTS": lazy_refcounts, "DATA_FILE_RAW": data_file_raw}
        options = _abi.CreateOptions(
            backing=None if backing is None else path_bytes(backing),
            data_file=None if data_file is None else path_bytes(data_file),
            open=ctypes.pointer(open_options),
            cluster_size=number("cluster_size", cluster_size),
            compat=choice("COMPAT", "compat", compat),
            refcount_bits=number("refcount_bits", refcount_bits, 32),
            compression_type=choice("COMPRESSION", "compression_type", compression_type),
            backing_format=0 if backing_format is None else choice("FORMAT", "backing_format", backing_format),
            flags=sum(_abi.DISK_FLAGS[name] for name, is_set in flags.items() if is_set),
            preallocation=choice("PREALLOCATION", "preallocation", preallocation),
            existing=choice("EXISTING", "existing", existing),
        )
        disk = cls.__new__(cls)
        handle = c_void_p()
        check(lib.hol_disk_create(path_bytes(path), number("size", size or 0), byref(options), byref(handle)))
        disk._calls = Calls("disk", handle)
        return disk

    @property
    def handle(self) -> c_void_p:
        """The hol_disk, for calls of the library; no other thread may close the disk during those."""
        return self._calls.open_handle()

    def _use(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Calls a function of the library on the disk, which stays open until it returns."""
        with self._calls.call() as handle:
            return function(handle, *arguments)

    def _run(self, function: Callable[..., int], *arguments: object) -> int:
        """The same; raises how it failed."""
        return check(self._use(function, *arguments))

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""
        size = c_uint64()
        self._run(lib.hol_disk_size, byref(size))
        return size.value

    def info(self) -> DiskInfo:
        """What is known of the top image."""
        details = _abi.DiskDetails()
        # The texts are the disk's: it stays open until they are read.
        with self._calls.call() as handle:
            check(lib.hol_disk_info(handle, byref(details)))
            flags = {name.lower(): bool(details.flags & flag) for name, flag in _abi.DISK_FLAGS.items()}
            return DiskInfo(
                format=_abi.CHOICES["FORMAT"][details.format],
                virtual_size=details.virtual_size,
                actual_size=details.actual_size,
                file_length=details.file_length,
                version=details.version,
                cluster_size=details.cluster_size,
                refcount_bits=details.refcount_bits,
                compression=_abi.CHOICES["COMPRESSION"][details.compression],
                snapshots=details.snapshots,
                bitmaps=details.bitmaps,
                layers=details.layers,
                backing=text(details.backing),
                backing_path=text(details.backing_path),
                backing_format=text(details.backing_format),
                data_file=text(details.data_file),
                identity=text(details.identity),
                parent=text(details.parent),
                **flags,
            )

    def chain(self) -> list[Layer]:
        """All images that the disk is made of, its own first, and how each stands on the one below. Nothing else is checked."""
        with self._calls.call() as handle:
            details = _abi.DiskDetails()
            check(lib.hol_disk_info(handle, byref(details)))
            layers = []
            for index in range(details.layers):
                layer = _abi.Layer()
                check(lib.hol_disk_layer(handle, index, byref(layer)))
                layers.append(layer_of(layer))
            return layers

    @staticmethod
    def check_chain(
        path: Path,
        *,
        format: str = "qcow2",
        backing_policy: str = "beside",
        backing_dir: Path | None = None,
        sharing: str = "locked",
        memory_limit: int = 0,
        chain_limit: int = 0,
    ) -> Chain:
        """Checks every image of the chain whose top is at the path, and that each stands on the backup that it was made
        over. Nothing is changed. The options are those of Disk()."""
        options = _disk_options(
            format=format,
            backing_policy=backing_policy,
            backing_dir=backing_dir,
            sharing=sharing,
            layers="chain",
            writable=False,
            memory_limit=memory_limit,
            chain_limit=chain_limit,
        )
        return read_chain(path_bytes(path), options)

    @staticmethod
    def check(path: Path, *, sharing: str = "locked", memory_limit: int = 0) -> CheckReport:
        """Checks the qcow2 image at the path, also one that is too damaged to be opened; changes nothing. It takes one or two
        bytes of memory for each cluster of the file; memory_limit 0 is 64 MiB."""
        options = _check_options(sharing, memory_limit)
        return run_check(lambda report: lib.hol_disk_check(path_bytes(path), byref(options), report))

    @staticmethod
    def repair(path: Path, mode: str = "leaks", *, memory_limit: int = 0) -> CheckReport:
        """Repairs the qcow2 image at the path, durably. Mode "leaks" frees leaked clusters; "all" also counts wrong refcounts
        anew and gives up broken bitmaps. Guest data is never changed. Nobody else may have the image open."""
        if mode not in _abi.REPAIRS:
            raise ValueError(f"mode cannot be {mode!r}: it is one of {', '.join(_abi.REPAIRS)}")
        number = _abi.REPAIRS.index(mode) + 1
        options = _check_options("locked", memory_limit)
        return run_check(lambda report: lib.hol_disk_repair(path_bytes(path), byref(options), number, report))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the disk, read through the chain."""
        data = bytearray(number("length", length))
        # An array of no bytes has no address to give.
        buffer = (c_uint8 * length).from_buffer(data) if length else (c_uint8 * 1)()
        self._run(lib.hol_disk_read, number("offset", offset), buffer, length)
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes to a writable disk; every bitmap that records has the range before. Durable after flush or close."""
        data = bytes(data)
        buffer = (c_uint8 * max(len(data), 1)).from_buffer_copy(data or b"\0")
        self._run(lib.hol_disk_write, number("offset", offset), buffer, len(data))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Makes a part of a writable disk read as zero, without storing zeros where that is possible."""
        self._run(lib.hol_disk_write_zeroes, number("offset", offset), number("length", length))

    def discard(self, offset: int, length: int) -> None:
        """Gives up what a part of a writable disk holds: the clusters that it covers whole read as zero then."""
        self._run(lib.hol_disk_discard, number("offset", offset), number("length", length))

    def flush(self) -> None:
        """Makes everything durable that was written."""
        self._run(lib.hol_disk_flush)

    def resize(self, size: int) -> None:
        """Changes the size of a writable disk, durably; what is new reads as zero and is dirty in every bitmap."""
        self._run(lib.hol_disk_resize, number("size", size))

    def snapshots(self) -> list[Snapshot]:
        """The internal snapshots."""
        number = c_size_t()
        with self._calls.call() as handle:
            check(lib.hol_snapshot_list(handle, byref(number)))
            return [_snapshot(lib.hol_snapshot_info_at, handle, index) for index in range(number.value)]

    def create_snapshot(self, name: str | bytes) -> Snapshot:
        """Takes an internal snapshot of a writable disk as it is, durably, and tells what it is; bitmaps are not part of
        it."""
        with self._calls.call() as handle:
            return _snapshot(lib.hol_disk_snapshot_create_details, handle, name_bytes(name))

    def delete_snapshot(self, id_or_name: str | bytes) -> None:
        """Deletes an internal snapshot of a writable disk, durably."""
        self._run(lib.hol_disk_snapshot_delete, name_bytes(id_or_name))

    def extents(self, start: int = 0, length: int | None = None) -> list[Extent]:
        """How the disk is stored, in runs; all of it unless told which part. Reads no data."""
        if length is None:
            length = self.size - start
        if start < 0 or length < 0:
            raise ValueError("start and length cannot be negative, and start not past the end")
        return _collect(lambda callback: self._use(lib.hol_disk_extents, start, length, callback, None))

    def bitmaps(self) -> list[BitmapInfo]:
        """The persistent bitmaps, with those that cannot be used."""
        number = c_size_t()
        self._run(lib.hol_bitmap_list, byref(number))
        return [self._bitmap(lib.hol_bitmap_info_at, index) for index in range(number.value)]

    def bitmap(self, name: str | bytes) -> BitmapInfo:
        """The persistent bitmap of this name."""
        return self._bitmap(lib.hol_bitmap_info, name_bytes(name))

    def bitmap_count(self, name: str | bytes) -> int:
        """Dirty bytes of a bitmap, in whole granules."""
        count = c_uint64()
        self._run(lib.hol_bitmap_count, name_bytes(name), byref(count))
        return count.value

    def bitmap_extents(self, name: str | bytes) -> list[Extent]:
        """The parts of the disk that a bitmap says are dirty: ascending, merged, within the disk."""
        name = name_bytes(name)
        return _collect(lambda callback: self._use(lib.hol_bitmap_extents, name, callback, None))

    def add_bitmap(self, name: str | bytes, *, granularity: int = 0, disabled: bool = False) -> None:
        """Adds a clean bitmap to a writable disk; granularity 0 is the library's choice. This change and the others here
        are durable when they return."""
        options = _abi.BitmapOptions(
            granularity=number("granularity", granularity), recording=recording(disabled)
        )
        self._run(lib.hol_bitmap_add, name_bytes(name), byref(options))

    def remove_bitmap(self, name: str | bytes) -> None:
        """Removes a bitmap, also one that cannot be used."""
        self._run(lib.hol_bitmap_remove, name_bytes(name))

    def clear_bitmap(self, name: str | bytes) -> None:
        """Makes all of a bitmap clean."""
        self._run(lib.hol_bitmap_clear, name_bytes(name))

    def enable_bitmap(self, name: str | bytes) -> None:
        """Lets a bitmap record writes from now on."""
        self._run(lib.hol_bitmap_enable, name_bytes(name))

    def disable_bitmap(self, name: str | bytes) -> None:
        """Lets a bitmap not record writes from now on."""
        self._run(lib.hol_bitmap_disable, name_bytes(name))

    def rename_bitmap(self, name: str | bytes, new_name: str | bytes) -> None:
        """Gives a bitmap a name that is not in use."""
        self._run(lib.hol_bitmap_rename, name_bytes(name), name_bytes(new_name))

    def merge_bitmaps(self, name: str | bytes, *sources: str | bytes, source_disk: Disk | None = None) -> None:
        """Makes everything dirty in the bitmap `name` that is dirty in one of the sources, bitmaps of this disk or of
        source_disk, which has the same size."""
        with self.bitmap_changes() as changes:
            changes.merge(name, *sources, source_disk=source_disk)

    def bitmap_changes(self) -> BitmapChanges:
        """Collects changes of the bitmaps in a `with` block; at its end all are carried out as one step, or none is."""
        return BitmapChanges(self)

    def close(self) -> None:
        """Closes the disk, with what was written durable; a second time does nothing. Transactions that use it keep what
        they need. Other threads may be in calls of it: their end is waited for, and their next call raises ValueError."""
        check(lib.hol_disk_close(self._calls.take()))

    def _bitmap(self, function: Callable[..., int], key: object) -> BitmapInfo:
        details = _abi.BitmapDetails()
        # The texts are the disk's: it stays open until they are read.
        with self._calls.call() as handle:
            check(function(handle, key, byref(details)))
            flags = {name: bool(details.flags & flag) for name, flag in _abi.BITMAP_FLAGS.items()}
            return BitmapInfo(
                name=text(details.name) or "",
                granularity=details.granularity,
                in_use=flags["IN_USE"],
                auto=flags["AUTO"],
                count=details.count if flags["COUNTED"] else None,
                reason=text(details.reason),
                base=text(details.base),
                base_size=details.base_size,
            )

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if calls := getattr(self, "_calls", None):
            lib.hol_disk_close(calls.take())


def _check_options(sharing: str, memory_limit: int) -> _abi.DiskOptions:
    return _abi.DiskOptions(
        memory_limit=number("memory_limit", memory_limit), sharing=choice("SHARING", "sharing", sharing)
    )


def _snapshot(function: Callable[..., int], disk: c_void_p, key: object) -> Snapshot:
    details = _abi.SnapshotDetails()
    check(function(disk, key, byref(details)))
    flags = {name: bool(details.flags & flag) for name, flag in _abi.SNAPSHOT_FLAGS.items()}
    return Snapshot(
        id=text(details.id) or "",
        name=text(details.name) or "",
        date=details.date_sec + details.date_nsec / 1e9,
        vm_state_size=details.vm_state_size,
        vm_clock_nsec=details.vm_clock_nsec,
        disk_size=details.disk_size if flags["DISK_SIZE"] else None,
        icount=details.icount if flags["ICOUNT"] else None,
    )


def _disk_options(
    *,
    format: str = "qcow2",
    backing_policy: str,
    backing_dir: Path | None,
    sharing: str = "locked",
    layers: str,
    writable: bool,
    memory_limit: int,
    chain_limit: int,
    thread_limit: int = 0,
) -> _abi.DiskOptions:
    return _abi.DiskOptions(
        backing_dir=None if backing_dir is None else path_bytes(backing_dir),
        memory_limit=number("memory_limit", memory_limit),
        chain_limit=number("chain_limit", chain_limit, 32),
        thread_limit=number("thread_limit", thread_limit, 32),
        format=choice("FORMAT", "format", format),
        backing_policy=choice("BACKING", "backing_policy", backing_policy),
        sharing=choice("SHARING", "sharing", sharing),
        layers=choice("LAYERS", "layers", layers),
        access=_abi.CHOICES["ACCESS"].index("write" if writable else "read"),
    )


def _collect(call: Callable[[object], int]) -> list[Extent]:
    """The extents that a call gives to its callback."""
    extents: list[Extent] = []
    raised: list[BaseException] = []

    def receive(extent: ctypes._Pointer[_abi.Extent], _opaque: object) -> int:
        # ctypes would print an exception and go on: it stops the call here and is raised after it.
        try:
            extents.append(_extent(extent.contents))
            return 0
        except BaseException as error:
            raised.append(error)
            return 1

    check(call(_abi.ExtentCallback(receive)))
    if raised:
        raise raised[0]
    return extents


def _extent(extent: _abi.Extent) -> Extent:
    flags = {name: bool(extent.flags & flag) for name, flag in _abi.EXTENT_FLAGS.items()}
    return Extent(
        start=extent.start,
        length=extent.length,
        present=flags["PRESENT"],
        zero=flags["ZERO"],
        data=flags["DATA"],
        compressed=flags["COMPRESSED"],
        depth=extent.depth,
        offset=extent.host_offset if flags["OFFSET"] else None,
    )
