"""Disks, their extents and their bitmaps."""

import copy
import errno
import json
import pickle
import subprocess
import sys
import threading
import unittest
from pathlib import Path

import holstein
from images import KIB, ImagesCase, tool

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "changed_extents.py"


class DiskTest(ImagesCase):
    def test_size_and_info(self) -> None:
        with holstein.Disk(self.disk) as disk:
            self.assertEqual(disk.size, 8192 * KIB)
            info = disk.info()
        self.assertEqual((info.format, info.version, info.cluster_size), ("qcow2", 3, 65536))
        self.assertEqual((info.virtual_size, info.bitmaps, info.layers), (8192 * KIB, 1, 1))
        self.assertIsNone(info.backing)
        self.assertFalse(info.corrupt)

    def test_read(self) -> None:
        with holstein.Disk(str(self.disk)) as disk:
            self.assertEqual(disk.read(256 * KIB - 2, 4), b"\x11\x11\x22\x22")
            self.assertEqual(disk.read(8192 * KIB, 0), b"")
            with self.assertRaises(holstein.HolsteinError) as caught:
                disk.read(8192 * KIB - 1, 2)
            self.assertEqual(caught.exception.kind, "invalid-argument")
            with self.assertRaises(ValueError):
                disk.read(-1, 1)

    def test_extents_are_those_of_qemu_img_map(self) -> None:
        expected = json.loads(tool("qemu-img", "map", "--output=json", self.disk))
        with holstein.Disk(self.disk) as disk:
            extents = disk.extents()
            part = disk.extents(512 * KIB, 64 * KIB)
        keys = ("start", "length", "depth", "present", "zero", "data", "compressed", "offset")
        got = [{key: getattr(extent, key) for key in keys} for extent in extents]
        self.assertEqual(got, [{key: extent.get(key) for key in keys} for extent in expected])
        self.assertEqual([(extent.start, extent.length, extent.zero) for extent in part], [(512 * KIB, 64 * KIB, True)])

    def test_bitmaps(self) -> None:
        with holstein.Disk(self.disk) as disk:
            (bitmap,) = disk.bitmaps()
            self.assertEqual(bitmap, disk.bitmap("nightly"))
            self.assertEqual((bitmap.name, bitmap.granularity, bitmap.count), ("nightly", 65536, 192 * KIB))
            self.assertTrue(bitmap.usable and bitmap.auto and not bitmap.in_use)
            self.assertEqual(disk.bitmap_count("nightly"), 192 * KIB)
            extents = disk.bitmap_extents(b"nightly")
            self.assertEqual([(extent.start, extent.length) for extent in extents], self.DIRTY)
            with self.assertRaises(holstein.HolsteinError) as caught:
                disk.bitmap_extents("weekly")
            self.assertEqual((caught.exception.kind, caught.exception.code), ("bitmap-not-found", -14))

    def test_a_chain_is_as_long_as_is_allowed(self) -> None:
        top = self.folder / "top.qcow2"
        tool("qemu-img", "create", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", top)
        with self.assertRaises(holstein.HolsteinError) as raised:
            holstein.Disk(top, chain_limit=1)
        self.assertEqual(raised.exception.kind, "limit")
        holstein.Disk(top, chain_limit=2).close()
        with self.assertRaises(ValueError):
            holstein.Disk(top, chain_limit=1 << 32)

    def test_errors_have_kind_code_errno_and_text(self) -> None:
        missing = self.folder / "missing.qcow2"
        with self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk(missing)
        self.assertEqual((caught.exception.kind, caught.exception.errno), ("not-found", errno.ENOENT))
        self.assertIn("missing.qcow2", str(caught.exception))
        with self.assertRaises(ValueError):
            holstein.Disk(self.disk, format="vmdk")
        with self.assertRaises(ValueError):
            holstein.Disk("a\0b")

    def test_options_arrive(self) -> None:
        raw = self.folder / "raw.img"
        raw.write_bytes(b"\x33" * 65536)
        with holstein.Disk(raw, format="raw") as disk:
            self.assertEqual((disk.size, disk.read(1, 1)), (65536, b"\x33"))
        sub = self.folder / "sub"
        sub.mkdir()
        tool("qemu-img", "create", "-f", "qcow2", "-b", "../disk.qcow2", "-F", "qcow2", sub / "top.qcow2")
        with self.assertRaises(holstein.HolsteinError) as caught:
            holstein.Disk(sub / "top.qcow2")
        self.assertEqual(caught.exception.kind, "policy-denied")
        with holstein.Disk(sub / "top.qcow2", backing_policy="under", backing_dir=self.folder) as disk:
            self.assertEqual(disk.info().layers, 2)
        with holstein.Disk(sub / "top.qcow2", layers="top-only", sharing="force") as disk:
            self.assertEqual(disk.info().backing, "../disk.qcow2")

    def test_a_closed_disk_is_no_crash(self) -> None:
        disk = holstein.Disk(self.disk)
        disk.close()
        disk.close()
        with self.assertRaises(ValueError):
            disk.size

    def test_closing_waits_for_the_calls_of_other_threads(self) -> None:
        for _ in range(20):
            disk = holstein.Disk(self.disk, writable=True)
            begun = threading.Barrier(5)
            ended: list[str] = []

            def work() -> None:
                begun.wait()
                try:
                    while True:
                        disk.read(0, 4 << 20)
                        self.assertEqual(disk.bitmap("nightly").name, "nightly")
                        self.assertEqual(disk.info().format, "qcow2")
                        disk.extents()
                except ValueError as error:
                    ended.append(str(error))

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            begun.wait()
            disk.close()
            for thread in threads:
                thread.join()
            self.assertEqual(ended, ["the disk is closed"] * 4)

    def test_example_prints_and_writes_the_changed_extents(self) -> None:
        out = self.folder / "out"
        printed = tool(sys.executable, EXAMPLE, self.disk, "nightly", "--write", out)
        self.assertEqual([(extent["start"], extent["length"]) for extent in json.loads(printed)], self.DIRTY)
        self.assertEqual((out / f"{256 * KIB}.bin").read_bytes(), b"\x22" * 128 * KIB)
        self.assertEqual((out / f"{512 * KIB}.bin").read_bytes(), bytes(64 * KIB))
        refused = subprocess.run([sys.executable, EXAMPLE, self.disk, "weekly"], capture_output=True, text=True)
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("weekly", refused.stderr)

    def test_by_descriptor(self) -> None:
        with open(self.disk, "r+b") as file:
            with holstein.Disk("called/so", fd=file.fileno(), writable=True) as disk:
                disk.write(0, b"abc")
                with self.assertRaises(holstein.HolsteinError) as caught:
                    holstein.Disk("called/so", fd=file.fileno())
                self.assertEqual(caught.exception.kind, "locked")
                self.assertIn("called/so", str(caught.exception))
        with holstein.Disk(self.disk) as disk:
            self.assertEqual(disk.read(0, 3), b"abc")


class ErrorTest(unittest.TestCase):
    def test_an_error_can_be_pickled_and_copied(self) -> None:
        error = holstein.HolsteinError("what and where", -8, 28)
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            self.assertIs(type(other), holstein.HolsteinError)
            self.assertEqual((str(other), other.kind, other.code, other.errno), ("what and where", "no-space", -8, 28))
