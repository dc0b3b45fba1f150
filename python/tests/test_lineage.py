"""Lineage: what a backup and a bitmap stand on, the proof of a chain, and a start that a recovery stops."""

import ctypes
import os
import pickle
import platform
import shutil
import struct
import unittest

import holstein
from images import ImagesCase, tool

#: rename, renameat2, linkat
NAMING = {"x86_64": (82, 316, 265), "aarch64": (38, 276, 37)}.get(platform.machine())


def die_at_rename() -> None:
    """This process dies when a file is to get its name."""
    jumps = [struct.pack("HBBI", 0x15, len(NAMING) - index, 0, number) for index, number in enumerate(NAMING)]
    code = struct.pack("HBBI", 0x20, 0, 0, 0) + b"".join(jumps)
    code += struct.pack("HBBI", 6, 0, 0, 0x7FFF0000) + struct.pack("HBBI", 6, 0, 0, 0x80000000)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


class LineageTest(ImagesCase):
    def setUp(self) -> None:
        super().setUp()
        self.full = self.folder / "full.qcow2"
        self.increment = self.folder / "increment.qcow2"

    def back_up(self, disk: holstein.Disk, target: object, backing: str | None = None) -> holstein.Lineage:
        sync = "incremental" if backing else "full"
        with holstein.Transaction() as transaction:
            transaction.add_backup(
                disk, target, sync=sync, bitmap="nightly", bitmap_mode="on-success", backing=backing
            )
        (job,) = transaction.jobs
        return job.lineage()

    def test_identities_and_the_base_of_a_bitmap(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            self.assertEqual((disk.bitmap("nightly").base, disk.info().identity), (None, None))
            full = self.back_up(disk, self.full)
            self.assertEqual((full.parent, full.notes), (None, []))
            bitmap = disk.bitmap("nightly")
            self.assertEqual((bitmap.base, bitmap.base_size), (full.identity, 8 << 20))
            increment = self.back_up(disk, self.increment, "full.qcow2")
            self.assertEqual(increment.parent, full.identity)
            with self.assertRaises(holstein.HolsteinError) as caught:
                self.back_up(disk, self.folder / "wrong.qcow2", "full.qcow2")
            self.assertEqual((caught.exception.kind, caught.exception.recovery), ("wrong-state", ()))
        with holstein.Disk(self.increment) as target:
            info = target.info()
            self.assertEqual((info.identity, info.parent), (increment.identity, full.identity))
            top, below = target.chain()
            self.assertEqual((top.link, below.link), ("proven", "bottom"))
            self.assertEqual((top.identity, below.identity), (increment.identity, full.identity))
            self.assertEqual((top.verdict, below.path), (None, str(self.full)))

    def test_a_note_where_nothing_is_known(self) -> None:
        tool("qemu-img", "convert", "-O", "qcow2", self.disk, self.full)
        with holstein.Disk(self.disk, writable=True) as disk:
            (note,) = self.back_up(disk, self.increment, "full.qcow2").notes
        self.assertIn("nightly", note)

    def test_a_chain_is_proven(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            self.back_up(disk, self.full)
            self.back_up(disk, self.increment, "full.qcow2")
        chain = holstein.Disk.check_chain(self.increment)
        self.assertEqual(chain.verdict, "consistent")
        self.assertEqual([layer.verdict for layer in chain.layers], ["consistent", "consistent"])
        self.assertEqual([layer.link for layer in chain.layers], ["proven", "bottom"])
        shutil.copy(self.increment, self.folder / "copy.qcow2")
        tool("qemu-img", "rebase", "-u", "-b", "copy.qcow2", "-F", "qcow2", self.increment)
        tool("qemu-img", "rebase", "-u", "-b", "", self.folder / "copy.qcow2")
        chain = holstein.Disk.check_chain(self.increment)
        self.assertEqual((chain.verdict, chain.layers[0].link), ("corrupt", "broken"))
        with self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk.check_chain(self.folder / "absent")
        self.assertEqual(caught.exception.kind, "not-found")

    @unittest.skipIf(NAMING is None, "the numbers of the system calls are not known")
    def test_what_the_recovery_found_comes_with_the_error(self) -> None:
        child = os.fork()
        if child == 0:
            try:
                disk = holstein.Disk(self.disk, writable=True)
                die_at_rename()
                self.back_up(disk, self.full)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.assertTrue(os.WIFSIGNALED(status), status)
        with holstein.Disk(self.disk, writable=True) as disk:
            with self.assertRaises(holstein.HolsteinError) as caught:
                self.back_up(disk, self.increment, "full.qcow2")
            error = caught.exception
            self.assertEqual(error.kind, "wrong-state")
            self.assertIn(("target-published", str(self.full)), [(item.kind, item.path) for item in error.recovery])
            self.assertIn("bitmaps-changed", [item.kind for item in error.recovery])
            self.assertEqual(pickle.loads(pickle.dumps(error)).recovery, error.recovery)
            # Looked at, it can be started again.
            self.back_up(disk, self.increment, "full.qcow2")
