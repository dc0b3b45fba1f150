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

    def test_refusals(self) -> None:
        with self.assertRaises(ValueError):
            holstein.Disk.repair(self.disk, "everything")
        with holstein.Disk(self.disk), self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk.repair(self.disk)
        self.assertEqual(caught.exception.kind, "locked")
        self.assertIn("this process itself", str(caught.exception))
