"""Where memory is short, calls fail and the process goes on."""

import os
import resource
import unittest
from pathlib import Path

import holstein
from images import KIB, ImagesCase

COPIED, REFUSED, PYTHON_ITSELF = range(3)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class MemoryTest(ImagesCase):
    def back_up_with(self, room: int) -> int:
        """In a process of its own that may have so many bytes more of address space than it has; gives how it ended."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        status = PYTHON_ITSELF
        try:
            with holstein.Disk(self.disk) as disk:
                hard = resource.getrlimit(resource.RLIMIT_AS)[1]
                resource.setrlimit(resource.RLIMIT_AS, (address_space() + room, hard))
                transaction = holstein.Transaction()
                transaction.add_backup(disk, self.folder / "target.qcow2", existing="overwrite", compression="zstd")
                transaction.start()
                transaction.wait()
                status = COPIED
        except holstein.HolsteinError:
            status = REFUSED
        except MemoryError:
            pass
        finally:
            os._exit(status)

    def test_no_room_is_an_error(self) -> None:
        ends = [self.back_up_with(room * 1600 * KIB) for room in range(40)]
        self.assertEqual([os.WTERMSIG(end) for end in ends if os.WIFSIGNALED(end)], [])
        codes = [os.WEXITSTATUS(end) for end in ends]
        self.assertGreater(codes.count(REFUSED), 3, codes)
        self.assertEqual(self.back_up_with(1 << 30), COPIED)


if __name__ == "__main__":
    unittest.main()
