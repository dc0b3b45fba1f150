"""Checks and repairs."""

import struct

import holstein
from images import KIB, ImagesCase, tool

CLUSTER = 64 * KIB


class CheckTest(ImagesCase):
    def set_refcount(self, cluster: int, value: int) -> None:
        """Sets the refcount of a cluster; one behind the end comes into the file."""
        with open(self.disk, "r+b") as file:
            file.seek(48)
            (table,) = struct.unpack(">Q", file.read(8))
            file.seek(table)
            (block,) = struct.unpack(">Q", file.read(8))
            file.seek(block + 2 * cluster)
            file.write(struct.pack(">H", value))
            if file.seek(0, 2) < (cluster + 1) * CLUSTER:
                file.truncate((cluster + 1) * CLUSTER)

    def test_a_consistent_image(self) -> None:
        report = holstein.Disk.check(self.disk)
        self.assertEqual((report.verdict, report.problems, report.total_clusters), ("consistent", [], 128))
        self.assertTrue(report.leaks_are_certain)

    def test_leaks(self) -> None:
        self.set_refcount(100, 1)
        (leak,) = holstein.Disk.check(self.disk).problems
        self.assertEqual((leak.kind, leak.severity, leak.offset, leak.clusters), ("leak", "leak", 100 * CLUSTER, 1))
        report = holstein.Disk.repair(self.disk)
        self.assertEqual((report.verdict, report.leaks_fixed, report.found), ("consistent", 1, [leak]))
        self.assertEqual((report.problems, report.lost_bitmaps, report.left), ([], [], []))
        tool("qemu-img", "check", self.disk)

    def test_corruption(self) -> None:
        self.set_refcount(0, 0)
        self.assertEqual(holstein.Disk.repair(self.disk, "leaks").verdict, "corrupt")
        report = holstein.Disk.repair(self.disk, "all")
        self.assertEqual((report.verdict, report.corruptions_fixed), ("consistent", 1))
        tool("qemu-img", "check", self.disk)

    def test_snapshots(self) -> None:
        for name in ("a", "b"):
            tool("qemu-img", "snapshot", "-c", name, self.disk)
        with open(self.disk, "r+b") as file:
            file.seek(64)
            (table,) = struct.unpack(">Q", file.read(8))
            # Entries of 72 bytes: the first claims 2000 bytes of extra data, the L1 table of the second is nowhere.
            file.seek(table + 36)
            file.write(struct.pack(">I", 2000))
            file.seek(table + 72)
            file.write(struct.pack(">Q", 0x7F << 40))
        report = holstein.Disk.repair(self.disk, "all")
        (lost,) = report.lost_snapshots
        self.assertEqual((lost.first, lost.count, lost.name), (1, 1, "b"))
        self.assertIn("L1 table", lost.reason)
        (mended,) = report.mended_snapshots
        self.assertIn("snapshot 'a': it claims 2000 bytes of extra data", mended)
        self.assertEqual(report.verdict, "consistent")

    def test_refusals(self) -> None:
        with self.assertRaises(ValueError):
            holstein.Disk.repair(self.disk, "everything")
        with holstein.Disk(self.disk), self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk.repair(self.disk)
        self.assertEqual(caught.exception.kind, "locked")
        self.assertIn("this process itself", str(caught.exception))
