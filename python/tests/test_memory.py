"""Where memory is short, calls fail and the process goes on."""

import subprocess
import sys
import unittest

from images import KIB, ImagesCase

COPIED, REFUSED, PYTHON_ITSELF = 0, 3, 4

# In a process of its own, whose heap has no free room yet: a backup with so many bytes more of address space than it has.
BACK_UP = """
import os, resource, sys
import holstein
source, target, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
disk = holstein.Disk(source)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
try:
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    transaction = holstein.Transaction()
    transaction.add_backup(disk, target, existing="overwrite", compression="zstd")
    transaction.start()
    transaction.wait()
except holstein.HolsteinError:
    os._exit(3)
except MemoryError:
    os._exit(4)
os._exit(0)
"""


class MemoryTest(ImagesCase):
    def back_up_with(self, room: int) -> int:
        command = [sys.executable, "-c", BACK_UP, self.disk, self.folder / "target.qcow2", str(room)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode

    def test_no_room_is_an_error(self) -> None:
        codes = [self.back_up_with(room * 2000 * KIB) for room in range(20)]
        self.assertEqual([code for code in codes if code not in (COPIED, REFUSED, PYTHON_ITSELF)], [], codes)
        self.assertGreater(codes.count(REFUSED), 1, codes)
        self.assertEqual(self.back_up_with(1 << 30), COPIED)


if __name__ == "__main__":
    unittest.main()
