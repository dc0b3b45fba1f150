"""Jobs: verbs, manual last steps, and the log."""

import subprocess
import sys
import threading
import time
from typing import Callable

import holstein
from images import ImagesCase


class JobsTest(ImagesCase):
    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.001)

    def test_pause_and_speed(self) -> None:
        target = self.folder / "target.qcow2"
        transaction = holstein.Transaction()
        with holstein.Disk(self.disk) as disk:
            # At one byte a second it would take for ever.
            transaction.add_backup(disk, target, speed=1, on_source_error="stop", on_target_error="ignore")
        transaction.start()
        (job,) = transaction.jobs
        self.until(lambda: job.status == "running")
        with self.assertRaises(holstein.HolsteinError) as caught:
            job.resume()
        self.assertEqual(caught.exception.kind, "wrong-state")
        self.assertIn("is not paused", str(caught.exception))
        job.pause()
        self.until(lambda: job.status == "paused")
        self.assertIsNone(job.stop_error)
        with self.assertRaises(holstein.HolsteinError) as caught:
            job.pause()
        self.assertIn("is already paused", str(caught.exception))
        for speed in (-1, 1 << 64):
            with self.assertRaises(ValueError):
                job.set_speed(speed)
        job.set_speed(0)
        job.resume()
        self.assertTrue(transaction.wait(60))
        states = [event.status for event in transaction.events() if event.kind == "status"]
        self.assertEqual(states, ["running", "paused", "running", "waiting", "pending", "concluded"])
        self.assert_same(target, self.disk)

    def test_close_while_others_wait(self) -> None:
        for _ in range(20):
            transaction = holstein.Transaction()
            with holstein.Disk(self.disk) as disk:
                transaction.add_backup(disk, self.folder / "target.qcow2", speed=1)
            transaction.start()
            ends: list[str] = []

            def wait() -> None:
                try:
                    transaction.wait(60)
                    ends.append("success")
                except holstein.HolsteinError as error:
                    ends.append(error.kind)
                except ValueError:
                    ends.append("closed")

            threads = [threading.Thread(target=wait) for _ in range(4)]
            for thread in threads:
                thread.start()
            transaction.close()
            for thread in threads:
                thread.join()
            self.assertLessEqual(set(ends), {"cancelled", "closed"})
            self.assertEqual(len(ends), 4)

    def test_python_ends_while_a_transaction_runs(self) -> None:
        target = self.folder / "target.qcow2"
        for end in ("transaction.wait()", "sys.exit(0)"):
            script = f"""
import holstein, sys
transaction = holstein.Transaction(log=lambda *line: None)
with holstein.Disk({str(self.disk)!r}) as disk:
    transaction.add_backup(disk, {str(target)!r}, speed={0 if "wait" in end else 1})
transaction.start()
{end}
"""
            for _ in range(8):
                target.unlink(missing_ok=True)
                done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertEqual(target.exists(), "wait" in end)
                self.assertEqual([path.name for path in self.folder.glob(".holstein*")], [])

    def test_the_last_reference_goes_in_the_log(self) -> None:
        for text in ("is waiting", "has ended"):
            gone = threading.Event()
            held: list[holstein.Transaction] = []

            def log(_level: str, _job: int | None, line: str) -> None:
                if text in line and held:
                    with self.assertRaisesRegex(holstein.HolsteinError, "receives the log"):
                        held[0].wait()
                    held.pop()
                    gone.set()

            held.append(holstein.Transaction(log=log))
            with holstein.Disk(self.disk) as disk:
                held[0].add_backup(disk, self.folder / f"{text}.qcow2")
            held[0].start()
            self.assertTrue(gone.wait(60))

    def test_numbers_are_not_cut(self) -> None:
        with holstein.Disk(self.disk) as disk, holstein.Transaction() as transaction:
            for options in ({"cluster_size": (1 << 64) + 65536}, {"compression_level": (1 << 32) + 1}):
                with self.assertRaisesRegex(ValueError, next(iter(options))):
                    transaction.add_backup(disk, self.folder / "target.qcow2", **options)
            with self.assertRaisesRegex(ValueError, "offset"):
                disk.read((1 << 64) + 512, 1)
            transaction.add_backup(disk, self.folder / "target.qcow2")
            transaction.start()
            self.assertTrue(transaction.wait(float("inf")))

    def test_last_steps_by_hand(self) -> None:
        target = self.folder / "target.qcow2"
        transaction = holstein.Transaction()
        with holstein.Disk(self.disk) as disk:
            transaction.add_backup(disk, target, finalize="manual", dismiss="manual")
        transaction.start()
        (job,) = transaction.jobs
        self.until(lambda: job.status == "pending")
        self.assertFalse(target.exists())
        job.finalize()
        self.until(lambda: job.status == "concluded")
        self.assertFalse(transaction.wait(0.01))
        job.dismiss()
        self.assertTrue(transaction.wait(60))
        self.assertEqual((job.status, job.error), ("dismissed", None))
        self.assert_same(target, self.disk)

    def test_cancel_of_one(self) -> None:
        transaction = holstein.Transaction()
        with holstein.Disk(self.disk) as disk:
            transaction.add_backup(disk, self.folder / "a.qcow2", speed=1)
            transaction.add_backup(disk, self.folder / "b.qcow2", speed=1)
        transaction.start()
        first, second = transaction.jobs
        second.cancel()
        with self.assertRaises(holstein.HolsteinError) as caught:
            transaction.wait(60)
        self.assertEqual(caught.exception.kind, "cancelled")
        self.assertEqual(str(second.error), "the backup was cancelled")
        self.assertTrue(str(first.error).startswith("cancelled because the backup to '"))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["disk.qcow2"])

    def test_log(self) -> None:
        lines: list[tuple[str, int | None, str]] = []

        def log(level: str, job: int | None, text: str) -> None:
            if job is not None:
                # It may ask, and what it asks for is answered.
                self.assertGreater(len(transaction.jobs), job)
            lines.append((level, job, text))

        transaction = holstein.Transaction(log=log)
        with holstein.Disk(self.disk) as disk:
            transaction.add_backup(disk, self.folder / "target.qcow2", finalize="manual")
        transaction.start()
        (job,) = transaction.jobs
        self.until(lambda: job.status == "pending")
        job.cancel()
        with self.assertRaises(holstein.HolsteinError):
            transaction.wait(60)
        transaction.close()
        name = f"the backup to '{self.folder / 'target.qcow2'}'"
        states = ("running", "waiting", "pending", "aborting", "concluded")
        expected = [("info", 0, f"{name} is {state}") for state in states]
        expected.append(("warning", 0, f"{name} was cancelled"))
        expected.append(("info", None, "the transaction has ended"))
        self.assertEqual(lines, expected)
