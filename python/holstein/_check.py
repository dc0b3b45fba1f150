"""Checks and repairs of an image."""

from __future__ import annotations

from ctypes import byref, c_char_p, c_uint32, c_void_p
from dataclasses import dataclass, field
from typing import Callable

from . import _abi
from ._library import check, lib, text


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or the same thing with several clusters in a row."""

    #: "leak", "refcount-too-low", "invalid-entry", "copied-flag", "outside-file", "no-refcount", "cut-short", "overlap",
    #: "bitmap", "unusable-bitmap" or "snapshot".
    kind: str
    #: "corruption", "leak", "unchecked" or "note".
    severity: str
    #: The problem in words.
    text: str
    #: Where, in bytes of the file; None: it is not about one place.
    offset: int | None
    #: How many clusters from there on; 0: it is not about clusters.
    clusters: int


@dataclass(frozen=True)
class LostSnapshots:
    """Snapshots that a repair gave up, which follow each other in the snapshot table."""

    #: The place of the first one in the table, from 0, and how many there are.
    first: int
    count: int
    #: The name of the one; None for several, and where it cannot be made out.
    name: str | None
    #: Why.
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found; of a repair: what remains, and what was done."""

    #: "consistent", "leaks", "corrupt" or "incomplete" (a part could not be checked).
    verdict: str
    corruptions: int
    #: Damage that QEMU does not count.
    further_corruptions: int
    leaks: int
    check_errors: int
    #: Everything that can refer to clusters was read, so that leaked clusters are surely not in use.
    leaks_are_certain: bool
    image_end_offset: int
    total_clusters: int
    allocated_clusters: int
    fragmented_clusters: int
    compressed_clusters: int
    #: A thousand at most, and how many more there are.
    problems: list[Problem] = field(default_factory=list)
    problems_omitted: int = 0
    #: Of a repair, all that follows.
    corruptions_fixed: int = 0
    further_corruptions_fixed: int = 0
    leaks_fixed: int = 0
    #: What was found before: a thousand at most, and how many more there were.
    found: list[Problem] = field(default_factory=list)
    found_omitted: int = 0
    #: Bitmaps that were given up, with the reasons; None: all that a broken directory may have had.
    lost_bitmaps: list[tuple[str | None, str]] = field(default_factory=list)
    #: What was not repaired, although that might have been expected, with the reasons.
    left: list[str] = field(default_factory=list)
    #: Snapshots that were given up.
    lost_snapshots: list[LostSnapshots] = field(default_factory=list)
    #: What was mended in the snapshot table, with what was wrong.
    mended_snapshots: list[str] = field(default_factory=list)


def run_check(call: Callable[[object], int]) -> CheckReport:
    """Makes a check and reads what it found."""
    handle = c_void_p()
    check(call(byref(handle)))
    try:
        return _read(handle)
    finally:
        lib.hol_check_free(handle)


def _read(handle: c_void_p) -> CheckReport:
    report = _abi.CheckReport()
    check(lib.hol_check_summary(handle, byref(report)))
    lists = {
        "problems": [_problem(lib.hol_check_problem, handle, index) for index in range(report.problems)],
        "found": [_problem(lib.hol_check_found, handle, index) for index in range(report.found)],
        "lost_bitmaps": [_lost_bitmap(handle, index) for index in range(report.lost_bitmaps)],
        "left": [_left(handle, index) for index in range(report.left)],
        "lost_snapshots": [_lost_snapshots(handle, index) for index in range(report.lost_snapshots)],
        "mended_snapshots": [_mended_snapshot(handle, index) for index in range(report.mended_snapshots)],
    }
    others = {"struct_size", "verdict", "leaks_are_certain", *lists}
    numbers = {name: getattr(report, name) for name, _ in report._fields_ if name not in others}
    return CheckReport(
        verdict=_abi.VERDICTS.get(report.verdict, "incomplete"),
        leaks_are_certain=bool(report.leaks_are_certain),
        **numbers,
        **lists,
    )


def _problem(function: Callable[..., int], handle: c_void_p, index: int) -> Problem:
    problem = _abi.Problem()
    check(function(handle, index, byref(problem)))
    known = 0 < problem.kind <= len(_abi.PROBLEMS)
    return Problem(
        kind=_abi.PROBLEMS[problem.kind - 1] if known else "other",
        severity=_abi.SEVERITIES.get(problem.severity, "note"),
        text=text(problem.text) or "",
        offset=None if problem.offset == _abi.NO_OFFSET else problem.offset,
        clusters=problem.clusters,
    )


def _lost_bitmap(handle: c_void_p, index: int) -> tuple[str | None, str]:
    name, reason = c_char_p(), c_char_p()
    check(lib.hol_check_lost_bitmap(handle, index, byref(name), byref(reason)))
    return text(name.value), text(reason.value) or ""


def _lost_snapshots(handle: c_void_p, index: int) -> LostSnapshots:
    first, count, name, reason = c_uint32(), c_uint32(), c_char_p(), c_char_p()
    check(lib.hol_check_lost_snapshots(handle, index, byref(first), byref(count), byref(name), byref(reason)))
    return LostSnapshots(first.value, count.value, text(name.value), text(reason.value) or "")


def _mended_snapshot(handle: c_void_p, index: int) -> str:
    mended = c_char_p()
    check(lib.hol_check_mended_snapshot(handle, index, byref(mended)))
    return text(mended.value) or ""


def _left(handle: c_void_p, index: int) -> str:
    reason = c_char_p()
    check(lib.hol_check_left(handle, index, byref(reason)))
    return text(reason.value) or ""
