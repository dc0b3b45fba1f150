"""Transactions: backups, events, cancel, all or none."""

import gc
import os
import select
import time

import holstein
from images import KIB, ImagesCase, tool


class TransactionTest(ImagesCase):
    def test_a_limit_of_threads(self) -> None:
        target = self.folder / "limited.qcow2"
        with holstein.Disk(self.disk, thread_limit=1) as disk, holstein.Transaction(thread_limit=1) as transaction:
            transaction.add_backup(disk, target)
        self.assert_same(target, self.disk)
        with self.assertRaises(ValueError):
            holstein.Transaction(thread_limit=-1)

    def test_full_and_increment(self) -> None:
        full, increment = self.folder / "full.qcow2", self.folder / "increment.qcow2"
        with holstein.Disk(self.disk) as disk:
            with holstein.Transaction() as transaction:
                transaction.add_backup(disk, full)
            tool("qemu-img", "check", full)
            with holstein.Transaction() as transaction:
                transaction.add_backup(disk, increment, bitmap="nightly", bitmap_mode="never", backing="full.qcow2")
            (job,) = transaction.jobs
            self.assertEqual((job.status, job.error), ("concluded", None))
            self.assertEqual((job.report().data_bytes, job.report().zero_bytes), (128 * KIB, 64 * KIB))
        self.assert_same(full, self.disk)
        self.assert_same(increment, self.disk)

    def test_a_fork_does_its_parent_no_harm(self) -> None:
        with holstein.Disk(self.disk) as disk:
            transaction = holstein.Transaction()
            transaction.add_backup(disk, self.folder / "a.qcow2", speed=64 * KIB)
            transaction.start()
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                said = []
                for call in (lambda: disk.read(0, 512), transaction.cancel):
                    try:
                        call()
                    except holstein.HolsteinError as error:
                        said.append(error.kind)
                del transaction
                disk.close()
                gc.collect()
                os.write(writing, " ".join(said).encode())
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as said:
                self.assertEqual(said.read(), "wrong-state wrong-state")
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            transaction.wait()
        self.assert_same(self.folder / "a.qcow2", self.disk)

    def test_options_arrive(self) -> None:
        target = self.folder / "target.qcow2"
        target.write_bytes(b"in the way")
        with holstein.Disk(self.disk) as disk, holstein.Transaction() as transaction:
            transaction.add_backup(disk, target, compression="zstd", compression_level=1, cluster_size=4096,
                                   existing="overwrite", zero_detection="off", sync="full")
        with holstein.Disk(target) as copy:
            info = copy.info()
            self.assertEqual((info.cluster_size, info.compression), (4096, "zstd"))
            self.assertTrue(any(extent.compressed for extent in copy.extents()))
        self.assert_same(target, self.disk)

    def test_events_through_select(self) -> None:
        transaction = holstein.Transaction()
        with holstein.Disk(self.disk) as disk:
            transaction.add_backup(disk, self.folder / "a.qcow2")
            transaction.add_backup(disk, self.folder / "b.qcow2")
        transaction.start()
        seen = []
        while not seen or seen[-1].kind != "finished":
            self.assertTrue(select.select([transaction], [], [], 120)[0])
            seen += transaction.events()
        self.assertEqual(sorted(event.job for event in seen if event.kind == "completed"), [0, 1])
        self.assertIsNone(seen[-1].job)
        self.assertTrue(transaction.wait(0))
        jobs = transaction.jobs
        transaction.close()
        del transaction
        gc.collect()
        # The jobs outlive the transaction.
        for job in jobs:
            done, total = job.progress
            self.assertEqual(done, total)

    def test_grouped_failure_leaves_nothing(self) -> None:
        good = self.folder / "good.qcow2"
        with holstein.Disk(self.disk) as disk:
            with self.assertRaises(holstein.HolsteinError) as caught:
                with holstein.Transaction() as transaction:
                    transaction.add_backup(disk, good)
                    transaction.add_backup(disk, self.folder / "nowhere" / "bad.qcow2")
            self.assertEqual(caught.exception.kind, "not-found")
            self.assertEqual([path.name for path in self.folder.iterdir()], ["disk.qcow2"])
            with self.assertRaises(holstein.HolsteinError) as caught:
                transaction.start()
            self.assertEqual(caught.exception.kind, "wrong-state")

    def test_an_exception_in_the_block_runs_nothing(self) -> None:
        with holstein.Disk(self.disk) as disk:
            with self.assertRaises(ZeroDivisionError):
                with holstein.Transaction(completion="individual") as transaction:
                    transaction.add_backup(disk, self.folder / "never.qcow2")
                    raise ZeroDivisionError
        self.assertFalse((self.folder / "never.qcow2").exists())
        with self.assertRaises(ValueError):
            transaction.start()

    def test_cancel(self) -> None:
        slow = self.folder / "slow.img"
        slow.write_bytes(bytes(range(1, 251)) * (64 << 12))
        with holstein.Disk(slow, format="raw") as disk:
            transaction = holstein.Transaction()
            transaction.add_backup(disk, self.folder / "slow.qcow2", compression="zstd", compression_level=19)
            transaction.start()
            transaction.cancel()
            with self.assertRaises(holstein.HolsteinError) as caught:
                transaction.wait()
        self.assertEqual(caught.exception.kind, "cancelled")
        self.assertEqual(transaction.jobs[0].error.kind, "cancelled")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["disk.qcow2", "slow.img"])

    def test_a_cancelled_backup_in_mode_always_keeps_its_part(self) -> None:
        slow, partial, rest = (self.folder / name for name in ("slow.qcow2", "partial.qcow2", "rest.qcow2"))
        size = 16384 * KIB
        (self.folder / "slow.img").write_bytes(bytes(range(1, 251)) * (size // 250) + bytes(size % 250))
        tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.folder / "slow.img", slow)
        tool("qemu-img", "bitmap", "--add", slow, "b")
        with holstein.Disk(slow, writable=True) as disk:
            transaction = holstein.Transaction()
            transaction.add_backup(disk, partial, sync="full", bitmap="b", bitmap_mode="always", compression="zstd",
                                   compression_level=19)
            transaction.start()
            (job,) = transaction.jobs
            while job.progress[0] == 0:
                time.sleep(0.001)
            transaction.cancel()
            with self.assertRaisesRegex(holstein.HolsteinError, "partial target .* was kept") as caught:
                transaction.wait()
            self.assertEqual(caught.exception.kind, "cancelled")
            end = job.report().partial_end
            self.assertGreater(end, 0)
            self.assertEqual([(e.start, e.start + e.length) for e in disk.bitmap_extents("b")],
                             [(end, size)] if end < size else [])
            tool("qemu-img", "check", partial)
            with holstein.Transaction() as transaction:
                transaction.add_backup(disk, rest, sync="incremental", bitmap="b", backing="partial.qcow2")
            self.assertIsNone(transaction.jobs[0].report().partial_end)
            self.assertEqual(list(disk.bitmap_extents("b")), [])
        self.assert_same(rest, slow)

    def test_an_empty_list_succeeds(self) -> None:
        for completion in ("grouped", "individual"):
            with holstein.Transaction(completion=completion) as transaction:
                pass
            self.assertEqual((transaction.jobs, [event.kind for event in transaction.events()]), ([], ["finished"]))

    def test_none_is_an_empty_image_over_its_backing_file(self) -> None:
        empty = self.folder / "empty.qcow2"
        with holstein.Disk(self.disk) as disk:
            with self.assertRaisesRegex(holstein.HolsteinError, "backing file"):
                with holstein.Transaction() as transaction:
                    transaction.add_backup(disk, empty, sync="none")
            self.assertFalse(empty.exists())
            with holstein.Transaction() as transaction:
                transaction.add_backup(disk, empty, sync="none", backing="disk.qcow2")
            self.assertEqual(transaction.jobs[0].report(), holstein.Report(0, 0, 0))
        self.assert_same(empty, self.disk)

    def test_wrong_options_are_refused_before_anything_runs(self) -> None:
        with holstein.Disk(self.disk) as disk:
            transaction = holstein.Transaction()
            with self.assertRaises(ValueError):
                transaction.add_backup(disk, "x", sync="some")
            with self.assertRaises(holstein.HolsteinError) as caught:
                transaction.add_backup(disk, "x", compression_level=3)
            self.assertEqual(caught.exception.kind, "invalid-argument")
            with self.assertRaises(ValueError):
                holstein.Transaction(completion="some")
