"""What is done about transactions that a crash interrupted."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Callable

from . import _abi
from ._library import Path, check, lib, path_bytes, text


@dataclass(frozen=True)
class Recovered:
    """One thing that a recovery found or did."""

    #: "target-published", "bitmaps-changed", "temporary-removed", "unfinished", ...
    kind: str
    #: The file it is about.
    path: str
    #: The reason, where there is more to say than the kind does.
    reason: str | None


def recover(journal: Path) -> list[Recovered]:
    """Finishes or takes back every transaction that died and has its journal in this folder; tells what was found and
    done. Doing it again changes nothing."""
    return receive(lambda callback: check(lib.hol_recover(path_bytes(journal), None, callback, None)))


def receive(call: Callable[[object], object]) -> list[Recovered]:
    """The items that a call gives to its callback."""
    found: list[Recovered] = []

    def receive_one(recovered: ctypes._Pointer[_abi.Recovered], _opaque: object) -> int:
        item = recovered.contents
        known = 0 < item.kind <= len(_abi.RECOVERED)
        kind = _abi.RECOVERED[item.kind - 1] if known else "other"
        found.append(Recovered(kind, os.fsdecode(item.path), text(item.reason)))
        return 0

    call(_abi.RecoveredCallback(receive_one))
    return found
