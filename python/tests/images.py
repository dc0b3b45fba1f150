"""Images for the tests, made by QEMU's own tools."""

import subprocess
import tempfile
import unittest
from pathlib import Path

KIB = 1024


def tool(*command: object) -> str:
    """Runs a tool; its output. One that fails fails the test, with what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class ImagesCase(unittest.TestCase):
    """Tests with a folder that holds disk.qcow2: 8 MiB, data, and the bitmap "nightly" with two dirty parts."""

    DIRTY = [(256 * KIB, 128 * KIB), (512 * KIB, 64 * KIB)]

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.disk = self.folder / "disk.qcow2"
        tool("qemu-img", "create", "-f", "qcow2", self.disk, "8M")
        tool("qemu-io", "-c", "write -P 0x11 0 1M", self.disk)
        tool("qemu-img", "bitmap", "--add", "-g", "64k", self.disk, "nightly")
        tool("qemu-io", "-c", "write -P 0x22 256k 128k", "-c", "write -z 512k 64k", self.disk)

    def assert_same(self, a: Path, b: Path) -> None:
        """Both images are whole and hold the same disk."""
        tool("qemu-img", "check", a)
        tool("qemu-img", "compare", a, b)
