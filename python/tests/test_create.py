"""New images."""

import holstein
from images import KIB, ImagesCase, tool

MIB = 1024 * KIB


class CreateTest(ImagesCase):
    def test_defaults(self) -> None:
        path = self.folder / "plain.qcow2"
        with holstein.Disk.create(path, 3 * MIB) as disk:
            self.assertIsInstance(disk, holstein.Disk)
            info = disk.info()
            self.assertEqual(disk.read(3 * MIB - 4, 4), bytes(4))
            with self.assertRaises(holstein.HolsteinError) as caught:
                disk.add_bitmap("nightly")
            self.assertEqual(caught.exception.kind, "wrong-state")
        self.assertEqual((info.virtual_size, info.version, info.cluster_size), (3 * MIB, 3, 64 * KIB))
        self.assertEqual((info.refcount_bits, info.compression, info.layers), (16, "zlib", 1))
        tool("qemu-img", "check", path)

    def test_options_arrive(self) -> None:
        path = self.folder / "top.qcow2"
        disk = holstein.Disk.create(
            path,
            cluster_size=32 * KIB,
            refcount_bits=1,
            extended_l2=True,
            compression_type="zstd",
            backing="disk.qcow2",
            backing_format="qcow2",
            lazy_refcounts=True,
            preallocation="metadata",
            writable=True,
        )
        with disk:
            info = disk.info()
            disk.add_bitmap("nightly")
        self.assertEqual((info.virtual_size, info.cluster_size, info.refcount_bits), (8 * MIB, 32 * KIB, 1))
        self.assertEqual((info.compression, info.backing, info.backing_format), ("zstd", "disk.qcow2", "qcow2"))
        self.assertTrue(info.extended_l2 and info.lazy_refcounts and info.layers == 2)
        self.assertGreater(info.file_length, 8 * MIB)
        self.assert_same(path, self.disk)

        with holstein.Disk.create(self.folder / "old.qcow2", MIB, compat="0.10") as disk:
            self.assertEqual(disk.info().version, 2)
        with holstein.Disk.create(self.folder / "old.qcow2", 2 * MIB, existing="overwrite") as disk:
            self.assertEqual((disk.size, disk.info().version), (2 * MIB, 3))

        sub = self.folder / "sub"
        sub.mkdir()
        above = {"backing": "../disk.qcow2", "backing_format": "qcow2"}
        with self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk.create(sub / "top.qcow2", **above)
        self.assertEqual(caught.exception.kind, "policy-denied")
        with holstein.Disk.create(
            sub / "top.qcow2", **above, backing_policy="under", backing_dir=self.folder, layers="top-only"
        ) as disk:
            self.assertEqual(disk.info().layers, 1)

    def test_a_raw_disk_gets_an_image(self) -> None:
        raw = self.folder / "disk.raw"
        raw.write_bytes(b"\x33" * MIB)
        # QEMU looks for a relative name from where it runs, so this one is not.
        with holstein.Disk.create(
            self.folder / "image.qcow2", data_file=raw, data_file_raw=True, writable=True
        ) as disk:
            self.assertEqual((disk.size, disk.read(MIB - 1, 1)), (MIB, b"\x33"))
            self.assertTrue(disk.info().data_file_raw)
            disk.add_bitmap("nightly")
        self.assertEqual(raw.read_bytes(), b"\x33" * MIB)
        tool("qemu-img", "check", self.folder / "image.qcow2")

    def test_refusals_leave_nothing(self) -> None:
        before = sorted(self.folder.iterdir())
        path = self.folder / "never.qcow2"
        for options in (
            {"compat": "2"},
            {"preallocation": "full"},
            {"backing": "disk.qcow2"},
            {"backing_format": "qcow2"},
            {"size": 0},
            {"size": -512},
        ):
            with self.assertRaises(ValueError):
                holstein.Disk.create(path, **{"size": MIB, **options})
        for options, kind, words in (
            ({"size": 1000}, "invalid-argument", "use 512 or 1024"),
            ({"cluster_size": 3000}, "invalid-argument", "power of two"),
            ({"compat": "0.10", "extended_l2": True}, "invalid-argument", "extended L2"),
            ({"data_file_raw": True}, "invalid-argument", "only a data file can be raw"),
            ({"data_file": "disk.qcow2"}, "exists", "disk.qcow2"),
        ):
            with self.assertRaises(holstein.HolsteinError) as caught:
                holstein.Disk.create(path, **{"size": MIB, **options})
            self.assertEqual(caught.exception.kind, kind)
            self.assertIn(words, str(caught.exception))
        self.assertEqual(sorted(self.folder.iterdir()), before)
