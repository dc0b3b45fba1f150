"""Changing bitmaps: one by one, as one step, and what is refused."""

import holstein
from images import KIB, ImagesCase, tool


class BitmapChangesTest(ImagesCase):
    def writable(self) -> holstein.Disk:
        return holstein.Disk(self.disk, writable=True)

    def refused(self, kind: str, *parts: str):
        return _Refused(self, kind, parts)

    def tearDown(self) -> None:
        tool("qemu-img", "check", self.disk)

    def test_one_by_one(self) -> None:
        with self.writable() as disk:
            disk.add_bitmap("default")
            self.assertEqual((disk.bitmap("default").granularity, disk.bitmap("default").auto), (65536, True))
            disk.add_bitmap(b"\xff fine", granularity=4096, disabled=True)
            fine = disk.bitmap(b"\xff fine")
            self.assertEqual((fine.granularity, fine.auto, fine.count), (4096, False, 0))
            disk.enable_bitmap(fine.name)
            disk.disable_bitmap("default")
            disk.merge_bitmaps(fine.name, "default", "nightly")
            disk.rename_bitmap(fine.name, "weekly")
            disk.clear_bitmap("nightly")
            disk.remove_bitmap("default")
            self.assertEqual([(each.name, each.count) for each in disk.bitmaps()],
                             [("nightly", 0), ("weekly", 192 * KIB)])
            self.assertEqual(disk.info().bitmaps, 2)
        self.assertIn("name: weekly", tool("qemu-img", "info", self.disk))
        # QEMU goes on with it.
        tool("qemu-io", "-c", "write 4M 4k", self.disk)
        with holstein.Disk(self.disk) as disk:
            self.assertEqual(disk.bitmap_count("weekly"), 196 * KIB)

    def test_a_block_is_one_step(self) -> None:
        other = self.folder / "other.qcow2"
        tool("qemu-img", "create", "-f", "qcow2", other, "8M")
        tool("qemu-img", "bitmap", "--add", other, "b")
        tool("qemu-io", "-c", "write 6M 64k", other)
        with self.writable() as disk, holstein.Disk(other) as source:
            with disk.bitmap_changes() as changes:
                changes.rename("nightly", "yesterday")
                changes.add("all", granularity=512, disabled=True)
                changes.merge("all", "yesterday")
                changes.merge("all", "b", source_disk=source)
                changes.clear("yesterday")
                changes.disable("yesterday")
                changes.enable("all")
                changes.remove("yesterday")
                self.assertEqual(len(disk.bitmaps()), 1)
            (bitmap,) = disk.bitmaps()
            self.assertEqual((bitmap.name, bitmap.auto), ("all", True))
            extents = [(extent.start, extent.length) for extent in disk.bitmap_extents("all")]
            self.assertEqual(extents, self.DIRTY + [(6144 * KIB, 64 * KIB)])
            disk.merge_bitmaps("all", "b", source_disk=source)

    def test_all_or_none(self) -> None:
        before = self.disk.read_bytes()
        with self.writable() as disk:
            with self.refused("bitmap-not-found", "weekly", "disk.qcow2"), disk.bitmap_changes() as changes:
                changes.clear("nightly")
                changes.clear("weekly")
            with self.assertRaises(ZeroDivisionError), disk.bitmap_changes() as changes:
                changes.clear("nightly")
                raise ZeroDivisionError
            source = holstein.Disk(self.disk, sharing="force")
            with self.assertRaises(ValueError), disk.bitmap_changes() as changes:
                changes.merge("nightly", "nightly", source_disk=source)
                source.close()
            self.assertEqual(disk.bitmap_count("nightly"), 192 * KIB)
        self.assertEqual(self.disk.read_bytes(), before)

    def test_refusals(self) -> None:
        before = self.disk.read_bytes()
        with holstein.Disk(self.disk) as disk:
            with self.refused("wrong-state", "disk.qcow2"):
                disk.clear_bitmap("nightly")
            with self.refused("locked", "disk.qcow2"):
                self.writable()
        with self.writable() as disk:
            with self.refused("locked", "disk.qcow2"):
                holstein.Disk(self.disk)
            with self.refused("exists", "nightly"):
                disk.add_bitmap("nightly")
            with self.refused("invalid-argument", "power of two"):
                disk.add_bitmap("x", granularity=1000)
            with self.refused("exists", "nightly"):
                disk.rename_bitmap("nightly", "nightly")
            with self.refused("invalid-argument", "nightly"):
                disk.merge_bitmaps("nightly")
            for change in (disk.remove_bitmap, disk.clear_bitmap, disk.enable_bitmap, disk.disable_bitmap):
                with self.refused("bitmap-not-found", "weekly"):
                    change("weekly")
            with self.assertRaises(ValueError):
                disk.add_bitmap("a\0b")
        self.assertEqual(self.disk.read_bytes(), before)


class _Refused:
    """The block fails with a HolsteinError of this kind, whose text has these parts."""

    def __init__(self, case: ImagesCase, kind: str, parts: tuple[str, ...]) -> None:
        self.case, self.kind, self.parts = case, kind, parts

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _trace: object) -> bool:
        self.case.assertIsInstance(error, holstein.HolsteinError)
        self.case.assertEqual(error.kind, self.kind)
        for part in self.parts:
            self.case.assertIn(part, str(error))
        return True
