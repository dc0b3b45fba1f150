"""The actions of a transaction other than backups."""

from __future__ import annotations

from contextlib import ExitStack
from ctypes import byref
from dataclasses import dataclass

from . import _abi
from ._bitmap_changes import recording
from ._disk import Disk
from ._library import Path, lib, name_bytes, number, path_bytes


@dataclass(frozen=True)
class Below:
    """To merge from: a bitmap of the image below, which behind an external snapshot is the disk as it was before."""

    name: str | bytes


class Actions:
    """What `Transaction` can do beside backups. Each action sees what those before it in the list did; a bitmap is one of
    the image that is on top of the disk then."""

    def bitmap_add(
        self, disk: Disk, name: str | bytes, *, granularity: int = 0, disabled: bool = False
    ) -> None:
        """A new, clean bitmap; granularity 0 is the library's choice."""
        options = _abi.BitmapOptions(
            granularity=number("granularity", granularity), recording=recording(disabled)
        )
        self._add(disk._use(lib.hol_action_bitmap_add, name_bytes(name), byref(options)))

    def bitmap_remove(self, disk: Disk, name: str | bytes) -> None:
        """The bitmap goes; also one that cannot be used."""
        self._add(disk._use(lib.hol_action_bitmap_remove, name_bytes(name)))

    def bitmap_clear(self, disk: Disk, name: str | bytes) -> None:
        """All of it becomes clean."""
        self._add(disk._use(lib.hol_action_bitmap_clear, name_bytes(name)))

    def bitmap_enable(self, disk: Disk, name: str | bytes) -> None:
        """It records writes from then on."""
        self._add(disk._use(lib.hol_action_bitmap_enable, name_bytes(name)))

    def bitmap_disable(self, disk: Disk, name: str | bytes) -> None:
        """It does not record writes from then on."""
        self._add(disk._use(lib.hol_action_bitmap_disable, name_bytes(name)))

    def bitmap_merge(
        self, disk: Disk, name: str | bytes, *sources: str | bytes | Below | tuple[Disk, str | bytes]
    ) -> None:
        """What is dirty in any of the sources becomes dirty in it too: a name, `Below(name)`, or (other disk, name)."""
        with ExitStack() as at_work:
            structures = [_source(source, at_work) for source in sources]
            array = (_abi.MergeSource * len(sources))(*structures)
            self._add(disk._use(lib.hol_action_bitmap_merge, name_bytes(name), array, len(array)))

    def external_snapshot(
        self, disk: Disk, overlay: Path, *, cluster_size: int = 0, backing_name: Path | None = None
    ) -> None:
        """A new image on top of the disk; later actions on the disk are about that. When the transaction is done the disk
        goes on there: close it, and open the overlay."""
        options = _abi.OverlayOptions(
            cluster_size=number("cluster_size", cluster_size),
            backing_name=None if backing_name is None else path_bytes(backing_name),
        )
        self._add(disk._use(lib.hol_action_external_snapshot, path_bytes(overlay), byref(options)))

    def internal_snapshot(self, disk: Disk, name: str | bytes) -> None:
        """A snapshot inside the image that is on top of the disk then."""
        self._add(disk._use(lib.hol_action_internal_snapshot, name_bytes(name)))

    def internal_snapshot_delete(self, disk: Disk, id_or_name: str | bytes) -> None:
        """A snapshot inside that image goes."""
        self._add(disk._use(lib.hol_action_internal_snapshot_delete, name_bytes(id_or_name)))

    def abort(self) -> None:
        """The transaction will fail, with nothing done."""
        self._add(lib.hol_action_abort())

    def _add(self, action: int | None) -> None:
        raise NotImplementedError


def _source(
    source: str | bytes | Below | tuple[Disk, str | bytes], at_work: ExitStack
) -> _abi.MergeSource:
    """The structure for a source, whose disk stays open until at_work ends."""
    layers = _abi.CHOICES["LAYER"]
    if isinstance(source, Below):
        return _abi.MergeSource(name=name_bytes(source.name), layer=layers.index("below"))
    if isinstance(source, tuple):
        disk, name = source
        return _abi.MergeSource(name=name_bytes(name), disk=at_work.enter_context(disk._calls.call()))
    return _abi.MergeSource(name=name_bytes(source))
