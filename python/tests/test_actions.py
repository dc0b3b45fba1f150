"""Transactions of all kinds of actions."""

import json

import holstein
from images import KIB, ImagesCase, tool


class ActionsTest(ImagesCase):
    def open(self, name: str = "disk.qcow2") -> holstein.Disk:
        return holstein.Disk(self.folder / name, writable=True)

    def dirty(self, name: str, bitmap: str) -> int:
        with holstein.Disk(self.folder / name) as disk:
            return sum(extent.length for extent in disk.bitmap_extents(bitmap))

    def test_in_the_order_of_the_list(self) -> None:
        target = self.folder / "target.qcow2"
        with self.open() as disk, holstein.Transaction(grouped=True) as transaction:
            transaction.bitmap_add(disk, "copy", granularity=4096, disabled=True)
            transaction.bitmap_merge(disk, "copy", "nightly")
            transaction.add_backup(disk, target)
            transaction.bitmap_clear(disk, "nightly")
            transaction.bitmap_disable(disk, "nightly")
            transaction.bitmap_enable(disk, "nightly")
            transaction.bitmap_add(disk, "gone")
            transaction.bitmap_remove(disk, "gone")
        self.assert_same(target, self.disk)
        self.assertEqual((self.dirty("disk.qcow2", "copy"), self.dirty("disk.qcow2", "nightly")), (192 * KIB, 0))

    def test_a_bitmap_moves_to_the_overlay(self) -> None:
        with self.open() as disk, holstein.Transaction() as transaction:
            transaction.external_snapshot(disk, self.folder / "over.qcow2", cluster_size=4096)
            transaction.bitmap_add(disk, "nightly")
            transaction.bitmap_merge(disk, "nightly", holstein.Below("nightly"))
        self.assertEqual(self.dirty("over.qcow2", "nightly"), 192 * KIB)
        self.assert_same(self.folder / "over.qcow2", self.disk)
        info = json.loads(tool("qemu-img", "info", "--output=json", self.folder / "over.qcow2"))
        self.assertEqual((info["backing-filename"], info["cluster-size"]), ("disk.qcow2", 4096))

    def test_snapshots_of_both_kinds(self) -> None:
        with self.open() as disk, holstein.Transaction() as transaction:
            transaction.internal_snapshot(disk, "below")
            transaction.external_snapshot(disk, self.folder / "over.qcow2")
            transaction.internal_snapshot(disk, "above")
        for name, snapshot in (("disk.qcow2", "below"), ("over.qcow2", "above")):
            tool("qemu-img", "check", self.folder / name)
            self.assertIn(snapshot, tool("qemu-img", "snapshot", "-l", self.folder / name))
        with self.open("over.qcow2") as disk, holstein.Transaction() as transaction:
            transaction.internal_snapshot_delete(disk, "above")
        self.assertNotIn("above", tool("qemu-img", "snapshot", "-l", self.folder / "over.qcow2"))

    def test_merge_from_another_disk(self) -> None:
        other = self.folder / "other.qcow2"
        tool("qemu-img", "create", "-f", "qcow2", other, "8M")
        with self.open() as disk, self.open("other.qcow2") as second, holstein.Transaction() as transaction:
            transaction.bitmap_add(second, "theirs")
            transaction.bitmap_merge(second, "theirs", (disk, "nightly"))
        self.assertEqual(self.dirty("other.qcow2", "theirs"), 192 * KIB)

    def test_one_bad_action_changes_nothing(self) -> None:
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        with self.open() as disk:
            transaction = holstein.Transaction()
            transaction.bitmap_remove(disk, "nightly")
            transaction.external_snapshot(disk, self.folder / "over.qcow2")
            transaction.abort()
            with self.assertRaises(holstein.HolsteinError) as caught:
                transaction.commit()
            self.assertEqual(caught.exception.kind, "cancelled")
            self.assertIn("action 3 (abort)", str(caught.exception))
        self.assertEqual({path: path.read_bytes() for path in self.folder.iterdir()}, before)
