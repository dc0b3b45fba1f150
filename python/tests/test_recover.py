"""Recovery: what a transaction leaves that died, and what becomes of it."""

import os

import holstein
from images import ImagesCase, tool


class RecoverTest(ImagesCase):
    def setUp(self) -> None:
        super().setUp()
        self.journal = self.folder / "journal"
        self.journal.mkdir()
        self.target = self.folder / "targets" / "copy.qcow2"
        self.target.parent.mkdir()

    def test_a_transaction_that_dies_leaves_nothing_after_recovery(self) -> None:
        child = os.fork()
        if child == 0:
            # Ends without any cleaning up, as a killed process does.
            try:
                disk = holstein.Disk(self.disk)
                transaction = holstein.Transaction(grouped=True, journal=self.journal)
                transaction.add_backup(disk, self.target, compression="zlib", compression_level=9)
                transaction.start()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        left = list(self.target.parent.iterdir())
        # It may have come to its end before it died.
        if self.target not in left:
            self.assertEqual(len(left), 1)
            (found,) = holstein.recover(self.journal)
            self.assertEqual((found.kind, found.path, found.reason), ("temporary-removed", str(left[0]), None))
            self.assertEqual(list(self.target.parent.iterdir()), [])
        self.assertEqual(holstein.recover(self.journal), [])
        self.assertEqual(list(self.journal.iterdir()), [])

    def test_the_journal_goes_with_the_transaction(self) -> None:
        with holstein.Disk(self.disk, writable=True) as disk:
            with holstein.Transaction(grouped=False, journal=self.journal) as transaction:
                transaction.add_backup(disk, self.target, sync="full", bitmap="nightly", bitmap_mode="on-success")
            self.assertEqual(disk.bitmap_count("nightly"), 0)
        self.assertEqual(list(self.journal.iterdir()), [])
        self.assert_same(self.target, self.disk)
        tool("qemu-img", "check", self.disk)

    def test_a_journal_folder_that_is_not_there(self) -> None:
        with self.assertRaises(holstein.HolsteinError) as caught:
            holstein.recover(self.folder / "absent")
        self.assertEqual(caught.exception.kind, "not-found")
        with holstein.Disk(self.disk) as disk, self.assertRaises(holstein.HolsteinError) as caught:
            with holstein.Transaction(journal=self.folder / "absent") as transaction:
                transaction.add_backup(disk, self.target)
        self.assertEqual(caught.exception.kind, "not-found")
        self.assertEqual(list(self.target.parent.iterdir()), [])
