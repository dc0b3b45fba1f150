"""Several changes of a disk's bitmaps as one step."""

from __future__ import annotations

from contextlib import ExitStack
from ctypes import c_char_p
from types import TracebackType
from typing import TYPE_CHECKING

from . import _abi
from ._library import lib, name_bytes, number

if TYPE_CHECKING:
    from ._disk import Disk


class BitmapChanges:
    """Changes of a disk's bitmaps, made by `Disk.bitmap_changes`. They are collected, and carried out by `apply` or at the
    end of a `with` block: all of them, in their order and each seeing those before it, or none. An exception in the block
    drops them."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._changes: list[_abi.BitmapChange] = []
        # Their handles are asked for at the end, when a disk that was closed meanwhile is noticed.
        self._sources: list[Disk | None] = []

    def add(self, name: str | bytes, *, granularity: int = 0, disabled: bool = False) -> None:
        """A new, clean bitmap; granularity 0 is the library's choice."""
        self._note("add", name, granularity=number("granularity", granularity), recording=recording(disabled))

    def remove(self, name: str | bytes) -> None:
        """The bitmap goes; also one that cannot be used."""
        self._note("remove", name)

    def clear(self, name: str | bytes) -> None:
        """All of it becomes clean."""
        self._note("clear", name)

    def enable(self, name: str | bytes) -> None:
        """It records writes from now on."""
        self._note("enable", name)

    def disable(self, name: str | bytes) -> None:
        """It does not record writes from now on."""
        self._note("disable", name)

    def rename(self, name: str | bytes, new_name: str | bytes) -> None:
        """It gets a name that is not in use."""
        self._note("rename", name, new_name=name_bytes(new_name))

    def merge(self, name: str | bytes, *sources: str | bytes, source_disk: Disk | None = None) -> None:
        """What is dirty in any of the sources becomes dirty in it too. They are bitmaps of the same disk as the changes
        before leave them, or of source_disk as they are before the step."""
        texts = (c_char_p * len(sources))(*map(name_bytes, sources))
        self._note("merge", name, source_disk, sources=texts, source_count=len(sources))

    def apply(self) -> None:
        """Carries the changes out and forgets them."""
        with ExitStack() as at_work:
            for change, disk in zip(self._changes, self._sources):
                change.source_disk = disk and at_work.enter_context(disk._calls.call())
            changes = (_abi.BitmapChange * len(self._changes))(*self._changes)
            self._disk._run(lib.hol_bitmap_apply, changes, len(changes))
        self._changes, self._sources = [], []

    def _note(self, kind: str, name: str | bytes, source_disk: Disk | None = None, **fields: object) -> None:
        change = _abi.BitmapChange(kind=_abi.CHANGES.index(kind) + 1, name=name_bytes(name), **fields)
        self._changes.append(change)
        self._sources.append(source_disk)

    def __enter__(self) -> BitmapChanges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.apply()


def recording(disabled: bool) -> int:
    """The constant for whether a new bitmap records."""
    return _abi.CHOICES["RECORDING"].index("disabled" if disabled else "enabled")
