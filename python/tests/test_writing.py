"""Writing a disk: data, zeros, discards, its size, and what the bitmaps record of it."""

import holstein
from images import KIB, ImagesCase, tool


class WritingTest(ImagesCase):
    def writable(self) -> holstein.Disk:
        return holstein.Disk(self.disk, writable=True)

    def tearDown(self) -> None:
        tool("qemu-img", "check", self.disk)

    def test_data_zeros_and_discards(self) -> None:
        with self.writable() as disk:
            disk.clear_bitmap("nightly")
            disk.write(5 * KIB, b"abc" * KIB)
            disk.write(disk.size, b"")
            self.assertEqual(disk.read(5 * KIB, 6), b"abcabc")
            disk.flush()
            disk.write_zeroes(100 * KIB, 1000)
            disk.discard(192 * KIB, 64 * KIB)
            self.assertEqual(disk.read(99 * KIB, 3 * KIB), b"\x11" * KIB + bytes(1000) + b"\x11" * 1048)
            self.assertEqual(disk.read(192 * KIB, 64 * KIB), bytes(64 * KIB))
            # Data of 8 KiB lies in the first granule, zeros in the second, the discard in the fourth.
            self.assertEqual(disk.bitmap_count("nightly"), 192 * KIB)
        read = tool("qemu-io", "-r", "-c", "read -P 0x61 5k 1", "-c", "read -P 0 192k 64k", self.disk)
        self.assertNotIn("failed", read)

    def test_another_size(self) -> None:
        with self.writable() as disk:
            disk.clear_bitmap("nightly")
            disk.resize(1024 * KIB)
            disk.resize(1024 * KIB + 512)
            self.assertEqual(disk.size, 1024 * KIB + 512)
            self.assertEqual(disk.read(1024 * KIB, 512), bytes(512))
            self.assertEqual(disk.bitmap_extents("nightly"), [holstein.Extent(1024 * KIB, 512)])
        self.assertIn("nightly", tool("qemu-img", "info", self.disk))

    def test_refusals(self) -> None:
        before = self.disk.read_bytes()
        with self.writable() as disk:
            for refused in (
                lambda: disk.write(disk.size, b"x"),
                lambda: disk.write_zeroes(disk.size - 1, 2),
                lambda: disk.discard(1, 2**64 - 1),
                lambda: disk.resize(513),
            ):
                with self.assertRaises(holstein.HolsteinError) as caught:
                    refused()
                self.assertEqual(caught.exception.kind, "invalid-argument")
            with self.assertRaises(ValueError):
                disk.write(-1, b"x")
        with holstein.Disk(self.disk) as disk, self.assertRaises(holstein.HolsteinError) as caught:
            disk.write(0, b"x")
        self.assertEqual(caught.exception.kind, "wrong-state")
        self.assertIn("opened for reading", str(caught.exception))
        self.assertEqual(self.disk.read_bytes(), before)
