"""A backup leaves the page cache as it was."""

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

from holstein import Disk, Transaction

from images import ImagesCase, tool

MIB = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def resident(path: Path) -> list[bool]:
    """For each page of a file, whether it is in the page cache."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        address = _libc.mmap(None, length, 0, mmap.MAP_SHARED, file.fileno(), 0)
        assert address != ctypes.c_void_p(-1).value
        pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        assert _libc.mincore(address, length, pages) == 0
        _libc.munmap(address, length)
        return [bool(page & 1) for page in pages.raw]


def forget(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class PageCacheCase(ImagesCase):
    def setUp(self) -> None:
        super().setUp()
        # Files in memory are always there.
        folder = tempfile.TemporaryDirectory(dir=Path(__file__).parent)
        self.addCleanup(folder.cleanup)
        self.place = Path(folder.name)

    def backup(self, source: Path, target: Path, **options: object) -> None:
        with Disk(source, format="raw") as disk, Transaction() as transaction:
            transaction.add_backup(disk, target, **options)
            transaction.commit()

    def test_source_and_target(self) -> None:
        source = self.place / "disk.raw"
        source.write_bytes(os.urandom(MIB) * 160)
        for compression in ("none", "zstd"):
            with self.subTest(compression=compression):
                forget(source)
                # What a guest uses.
                with open(source, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                    os.pread(file.fileno(), 2 * MIB, 20 * MIB)
                before = resident(source)
                self.assertTrue(0 < sum(before) < len(before) / 8)
                target = self.place / f"{compression}.qcow2"
                self.backup(source, target, compression=compression, reflink="never")
                after = resident(source)
                lost = [number for number, was in enumerate(before) if was and not after[number]]
                gained = sum(now and not was for was, now in zip(before, after))
                # The first bytes of a file are looked at more often than once.
                self.assertEqual(lost, [])
                self.assertLess(gained, MIB // mmap.PAGESIZE)
                self.assertLess(sum(resident(target)), MIB // mmap.PAGESIZE)
                tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)

    def test_it_can_be_left_alone(self) -> None:
        source = self.place / "disk.raw"
        source.write_bytes(os.urandom(MIB) * 16)
        forget(source)
        target = self.place / "kept.qcow2"
        self.backup(source, target, page_cache="keep", reflink="never")
        self.assertEqual(sum(resident(source)), 16 * MIB // mmap.PAGESIZE)
        self.assertGreater(sum(resident(target)), 15 * MIB // mmap.PAGESIZE)
