"""Backs up qcow2 disks: several at once, all or none, only what changed.

    import holstein

    with holstein.Disk("vm.qcow2") as disk, holstein.Transaction() as transaction:
        transaction.add_backup(disk, "vm-increment.qcow2", bitmap="nightly", bitmap_mode="never",
                               backing="vm-full.qcow2")

The package needs nothing but the shared library: HOLSTEIN_LIBRARY names it, else the one beside the package, in the
source tree or in the system is used. Every failure is a `HolsteinError`.
"""

from ._actions import Below
from ._bitmap_changes import BitmapChanges
from ._check import CheckReport, LostSnapshots, Problem
from ._disk import BitmapInfo, Disk, DiskInfo, Extent, Snapshot
from ._error import HolsteinError
from ._library import version
from ._lineage import Chain, Layer, Lineage
from ._recover import Recovered, recover
from ._transaction import Event, Job, Report, Transaction

__all__ = [
    "Below",
    "BitmapChanges",
    "BitmapInfo",
    "Chain",
    "CheckReport",
    "Disk",
    "DiskInfo",
    "Event",
    "Extent",
    "HolsteinError",
    "Job",
    "Layer",
    "Lineage",
    "LostSnapshots",
    "Problem",
    "Recovered",
    "Report",
    "Snapshot",
    "Transaction",
    "recover",
    "version",
]
