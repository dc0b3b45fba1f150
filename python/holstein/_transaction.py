"""Transactions and their jobs."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from ctypes import byref, c_char_p, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Iterator

from . import _abi
from ._actions import Actions
from ._calls import Calls
from ._disk import Disk
from ._error import HolsteinError
from ._library import Path, check, choice, last_error, lib, name_bytes, number, path_bytes, text
from ._lineage import Lineage
from ._recover import receive


@dataclass(frozen=True)
class Event:
    """Something that happened: "status", "progress", "error", "failed", "cancelled", "completed", "finished", or "unknown"
    to this package."""

    kind: str
    #: Index of the job; None: the whole transaction.
    job: int | None
    #: Of a "status" event.
    status: str | None = None
    #: Of a "progress" event: bytes dealt with, and to deal with.
    done: int = 0
    total: int = 0
    #: Of a "failed" event: the HOL_ERR_* number; `Job.error` has the text. Of an "error" event, too: `Job.stop_error` has
    #: the text if the job stopped.
    code: int = 0
    #: Of a "failed" or "error" event: the operating system's error number, 0 when it had no part.
    errno: int = 0
    #: Of an "error" event: where the error came from, "source" or "target".
    side: str | None = None
    #: Of an "error" event: what the job does, "report", "ignore" or "stop".
    action: str | None = None


@dataclass(frozen=True)
class Report:
    """What a job copied."""

    #: Bytes of the disk stored as data.
    data_bytes: int
    #: Bytes of the disk recorded as zeros.
    zero_bytes: int
    #: Bytes that were written to the target for the data.
    stored_bytes: int
    #: Of a job that failed or was cancelled and whose partial target was kept (bitmap_mode "always"): the target has what
    #: was to be copied up to this offset of the disk. None: no partial target was kept.
    partial_end: int | None = None
    #: Bytes of the data that the target shares with the files of the source (reflink).
    shared_bytes: int = 0


#: Seconds for which the library is waited for at once: Python handles Ctrl-C between calls only.
_SLICE = 0.25


def _log_callback(log: Callable[[str, int | None, str], object]) -> object:
    def callback(level: int, job: int, message: bytes, _opaque: object) -> None:
        _telling.now = True
        try:
            log(_abi.LEVELS.get(level, "info"), None if job < 0 else job, message.decode(errors="replace"))
        finally:
            _telling.now = False

    return _abi.LogCallback(callback)


class Job:
    """A job of a transaction, which it may outlive."""

    def __init__(self, handle: c_void_p) -> None:
        """Made by `Transaction.jobs`."""
        self._handle = handle

    @property
    def status(self) -> str:
        """ "created", "running", "paused", "waiting", "pending", "aborting", "concluded" or "dismissed"."""
        status = c_uint32()
        check(lib.hol_job_status(self._handle, byref(status)))
        return _abi.STATUSES.get(status.value, "unknown")

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes dealt with, and to deal with."""
        done, total = c_uint64(), c_uint64()
        check(lib.hol_job_progress(self._handle, byref(done), byref(total)))
        return done.value, total.value

    @property
    def error(self) -> HolsteinError | None:
        """How the job failed; None while it has not."""
        return self._told(lib.hol_job_error_details)

    @property
    def stop_error(self) -> HolsteinError | None:
        """The error for which the job paused, until it is resumed."""
        return self._told(lib.hol_job_stop_error_details)

    def pause(self) -> None:
        """Asks the job to begin nothing more; it is "paused" when what is at work is done."""
        check(lib.hol_job_pause(self._handle))

    def resume(self) -> None:
        """Lets a paused job go on; what stopped it is tried again."""
        check(lib.hol_job_resume(self._handle))

    def cancel(self) -> None:
        """Asks the job to end without a target, and with it all of its group."""
        check(lib.hol_job_cancel(self._handle))

    def set_speed(self, bytes_per_second: int) -> None:
        """Limits how many bytes of data a second the job reads; 0 is without a limit."""
        check(lib.hol_job_set_speed(self._handle, number("bytes_per_second", bytes_per_second)))

    def finalize(self) -> None:
        """Lets the target of a "pending" job appear, and those of its group."""
        check(lib.hol_job_finalize(self._handle))

    def dismiss(self) -> None:
        """Says that somebody took note of how the job ended."""
        check(lib.hol_job_dismiss(self._handle))

    def _told(self, ask: Callable[..., int]) -> HolsteinError | None:
        details = _abi.ErrorDetails()
        check(ask(self._handle, byref(details)))
        if not details.code:
            return None
        return HolsteinError((details.message or b"").decode(errors="replace"), details.code, details.os_error)

    def report(self) -> Report:
        """What the job has copied."""
        report = _abi.Report()
        check(lib.hol_job_report(self._handle, byref(report)))
        return Report(
            report.data_bytes,
            report.zero_bytes,
            report.stored_bytes,
            report.partial_end or None,
            report.shared_bytes,
        )

    def lineage(self) -> Lineage:
        """What the job's target descends from, and what could not be checked or remembered about that."""
        lineage = _abi.Lineage()
        check(lib.hol_job_lineage(self._handle, byref(lineage)))
        notes = []
        for index in range(lineage.notes):
            note = c_char_p()
            check(lib.hol_job_note(self._handle, index, byref(note)))
            notes.append(text(note.value) or "")
        return Lineage(text(lineage.identity), text(lineage.parent), notes)

    def __del__(self) -> None:
        lib.hol_job_free(self._handle)


class Transaction(Actions):
    """Backups and other actions that take effect together: all or none with completion "grouped", each for itself with "individual".

    In a `with` statement the transaction is run at the end of the block, unless `start` was called in it, and waited for;
    an exception in the block cancels it.
    """

    def __init__(
        self,
        *,
        completion: str = "grouped",
        grouped: bool | None = None,
        journal: Path | None = None,
        log: Callable[[str, int | None, str], object] | None = None,
        thread_limit: int = 0,
    ) -> None:
        """grouped=True or False says the same as completion. The journal is a folder, which must exist; without it that of
        the first target is taken. `recover` finishes there what a crash interrupted.

        log receives a line for everything that happens: "error", "warning" or "info", the index of the job or None, and
        the text. It is called by the library's threads, one line after the other; it may use jobs and cancel the
        transaction, but must not wait for it or close it.

        thread_limit is how many threads copy at most; 0 is two for each processor, 16 at most."""
        if grouped is not None:
            completion = "grouped" if grouped else "individual"
        mode = choice("COMPLETION", "completion", completion)
        handle = c_void_p(lib.hol_txn_new())
        if not handle:
            raise last_error()
        self._calls = Calls("transaction", handle)
        _living.add(self)
        self._started = False
        check(lib.hol_txn_set_completion(handle, mode))
        check(lib.hol_txn_set_thread_limit(handle, number("thread_limit", thread_limit, 32)))
        if journal is not None:
            check(lib.hol_txn_set_journal(handle, path_bytes(journal)))
        # Kept as long as the library may call it.
        self._log = _abi.LogCallback() if log is None else _log_callback(log)
        check(lib.hol_txn_set_log(handle, self._log, None))

    @property
    def handle(self) -> c_void_p:
        """The hol_txn, for calls of the library; no other thread may close the transaction during those."""
        return self._calls.open_handle()

    def add_backup(
        self,
        source: Disk,
        target: Path,
        *,
        sync: str = "default",
        bitmap: str | bytes | None = None,
        bitmap_mode: str = "default",
        format: str = "qcow2",
        backing: Path | None = None,
        backing_format: str = "qcow2",
        cluster_size: int = 0,
        compression: str = "none",
        compression_level: int = 0,
        existing: str = "refuse",
        zero_detection: str = "on",
        speed: int = 0,
        on_source_error: str = "report",
        on_target_error: str = "report",
        finalize: str = "auto",
        dismiss: str = "auto",
        lineage: str = "strict",
        reflink: str = "auto",
        page_cache: str = "drop",
    ) -> None:
        """Adds the copy of a disk to a new file. The options are those of hol_backup_options, by name; the disk may be
        closed afterwards."""
        options = _abi.BackupOptions(
            bitmap=None if bitmap is None else name_bytes(bitmap),
            backing=None if backing is None else path_bytes(backing),
            cluster_size=number("cluster_size", cluster_size),
            sync=choice("SYNC", "sync", sync),
            bitmap_mode=choice("BITMAP_MODE", "bitmap_mode", bitmap_mode),
            format=choice("FORMAT", "format", format),
            backing_format=choice("FORMAT", "backing_format", backing_format),
            compression=choice("COMPRESSION", "compression", compression),
            compression_level=number("compression_level", compression_level, 32),
            existing=choice("EXISTING", "existing", existing),
            zero_detection=choice("ZERO_DETECTION", "zero_detection", zero_detection),
            speed=number("speed", speed),
            on_source_error=choice("ON_ERROR", "on_source_error", on_source_error),
            on_target_error=choice("ON_ERROR", "on_target_error", on_target_error),
            finalize=choice("LAST_STEP", "finalize", finalize),
            dismiss=choice("LAST_STEP", "dismiss", dismiss),
            lineage=choice("LINEAGE", "lineage", lineage),
            reflink=choice("REFLINK", "reflink", reflink),
            page_cache=choice("PAGE_CACHE", "page_cache", page_cache),
        )
        self._add(source._use(lib.hol_action_backup, path_bytes(target), byref(options)))

    def _add(self, action: int | None) -> None:
        try:
            with self._calls.call() as handle:
                check(lib.hol_txn_add(handle, action))
        except ValueError:
            # Closed: nobody has taken it.
            lib.hol_action_free(action)
            raise

    def start(self) -> None:
        """Starts the jobs; returns when the point in time of the copies is taken."""
        self._started = True
        with self._calls.call() as handle:
            try:
                check(lib.hol_txn_start(handle))
            except HolsteinError as error:
                error.recovery = tuple(
                    receive(lambda callback: check(lib.hol_txn_recovery(handle, None, callback, None)))
                )
                raise

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, at most `timeout` seconds: False when it still runs then. Raises how it failed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if deadline is None else min(max(deadline - time.monotonic(), 0), _SLICE)
            with self._calls.call() as handle:
                ended = check(lib.hol_txn_wait(handle, round(left * 1000))) != _abi.TIMED_OUT
            if ended or (deadline is not None and time.monotonic() >= deadline):
                return ended

    def commit(self) -> None:
        """Starts the jobs and waits for their end."""
        self.start()
        self.wait()

    def cancel(self) -> None:
        """Asks the jobs to stop; `wait` then raises a failure of kind "cancelled"."""
        with self._calls.call() as handle:
            check(lib.hol_txn_cancel(handle))

    def fileno(self) -> int:
        """A file descriptor that is readable while events wait: for select, selectors and asyncio."""
        with self._calls.call() as handle:
            return check(lib.hol_txn_event_fd(handle))

    def events(self) -> Iterator[Event]:
        """The events that wait now; does not block."""
        event = _abi.Event()
        while self._next_event(event):
            yield Event(
                kind=_abi.EVENTS.get(event.kind, "unknown"),
                job=None if event.job < 0 else event.job,
                status=_abi.STATUSES.get(event.status),
                done=event.done,
                total=event.total,
                code=event.code,
                errno=event.os_error,
                side=_abi.SIDES.get(event.side),
                action=_abi.ACTIONS.get(event.action),
            )

    def _next_event(self, event: _abi.Event) -> int:
        with self._calls.call() as handle:
            return check(lib.hol_txn_next_event(handle, byref(event)))

    @property
    def jobs(self) -> list[Job]:
        """The jobs of a started transaction, in the order in which they were added."""
        number_of_jobs = c_size_t()
        with self._calls.call() as handle:
            check(lib.hol_txn_job_count(handle, byref(number_of_jobs)))
            return [_job(handle, index) for index in range(number_of_jobs.value)]

    def close(self) -> None:
        """Frees the transaction; one that runs is cancelled, and its end waited for. Other threads may be in calls of it:
        what they wait for ends, and their next call raises ValueError. What still lives when Python ends is closed then."""
        # Only one that was started can be cancelled; an error says that there is nothing to cancel.
        hurry = lib.hol_txn_cancel if self._started else None
        lib.hol_txn_free(self._calls.take(hurry))

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The handle stays until the object goes, so that jobs and events can be asked for after the block.
        if kind is not None:
            self.close()
        elif self._calls.handle:
            if not self._started:
                self.start()
            self.wait()

    def __del__(self) -> None:
        if calls := getattr(self, "_calls", None):
            if getattr(_telling, "now", False):
                # The library may call it once more: it does not wait in here.
                _outlived.append(self._log)
            lib.hol_txn_free(calls.take())


def _job(transaction: c_void_p, index: int) -> Job:
    handle = c_void_p()
    check(lib.hol_txn_job(transaction, index, byref(handle)))
    return Job(handle)


#: Whether this thread is in what receives a log.
_telling = threading.local()

#: What receives the log of a transaction whose last reference went in there.
_outlived: list[object] = []

#: The library must not call Python any more when the interpreter ends.
_living: weakref.WeakSet[Transaction] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for transaction in list(_living):
        transaction.close()
