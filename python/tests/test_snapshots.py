"""Internal snapshots: taken, deleted, refused."""

import holstein
from images import KIB, ImagesCase, tool


class SnapshotsTest(ImagesCase):
    def tearDown(self) -> None:
        tool("qemu-img", "check", self.disk)

    def test_taken_and_deleted(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            dirty = disk.bitmap_count("nightly")
            disk.create_snapshot("before")
            disk.create_snapshot("größer")
            self.assertEqual(disk.info().snapshots, 2)
            self.assertEqual(disk.bitmap_count("nightly"), dirty)
            disk.write(0, b"a" * KIB)
        tool("qemu-img", "check", self.disk)
        self.assertIn("before", tool("qemu-img", "snapshot", "-l", self.disk))
        with holstein.Disk(self.disk, writable=True) as disk:
            disk.delete_snapshot("1")
            disk.delete_snapshot("größer".encode())
            self.assertEqual(disk.info().snapshots, 0)
            self.assertEqual(disk.read(0, 2), b"aa")

    def test_refusals(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            disk.create_snapshot("one")
            for refused, kind in (
                (lambda: disk.create_snapshot("one"), "exists"),
                (lambda: disk.create_snapshot(""), "invalid-argument"),
                (lambda: disk.delete_snapshot("two"), "not-found"),
            ):
                with self.assertRaises(holstein.HolsteinError) as caught:
                    refused()
                self.assertEqual(caught.exception.kind, kind)
        with holstein.Disk(self.disk) as disk, self.assertRaises(holstein.HolsteinError) as caught:
            disk.delete_snapshot("one")
        self.assertEqual(caught.exception.kind, "wrong-state")

    def test_listed(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            self.assertEqual(disk.snapshots(), [])
            first = disk.create_snapshot("one")
            second = disk.create_snapshot("größer")
            self.assertEqual([(first.id, first.name), (second.id, second.name)], [("1", "one"), ("2", "größer")])
            self.assertEqual((first.disk_size, first.vm_state_size, first.icount), (8 << 20, 0, None))
            self.assertEqual(disk.snapshots(), [first, second])
            disk.delete_snapshot(first.id)
            self.assertEqual(disk.snapshots(), [second])
