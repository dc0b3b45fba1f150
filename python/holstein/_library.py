"""The loaded library, and what every call of it needs."""

from __future__ import annotations

import os
from ctypes import byref, c_int64
from typing import Union

from . import _abi
from ._error import HolsteinError

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

lib = _abi.load()


def version() -> str:
    """The version of the library in use."""
    return lib.hol_version().decode()


def text(value: bytes | None) -> str | None:
    """A text of the library. Names come from images and file systems: bytes that are no UTF-8 stay distinct."""
    return None if value is None else os.fsdecode(value)


def last_error() -> HolsteinError:
    """The failure of the last call in this thread."""
    message = lib.hol_last_error_message().decode(errors="replace")
    return HolsteinError(message, lib.hol_last_error_code(), lib.hol_last_error_errno())


def check(result: int) -> int:
    """The result of a call, when it did not fail."""
    if result < 0:
        raise last_error()
    return result


def constant(name: str) -> int:
    """The value of a constant of the header, by its name there; ValueError for one that the library does not have."""
    value = c_int64()
    if lib.hol_constant(name.encode(), byref(value)) < 0:
        raise ValueError(f"the library has no constant {name}")
    return value.value


def choice(group: str, option: str, value: str) -> int:
    """The constant for a choice by name."""
    choices = _abi.CHOICES[group]
    if value not in choices:
        raise ValueError(f"{option} cannot be {value!r}: it is one of {', '.join(choices)}")
    return choices.index(value)


def number(option: str, value: int, bits: int = 64) -> int:
    """An integer of the library, which ctypes would cut to its size."""
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{option} cannot be {value}")
    return value


def path_bytes(path: Path) -> bytes:
    """A path for the library, which takes it as C does: up to the first NUL."""
    path = os.fsencode(path)
    if b"\0" in path:
        raise ValueError("a path cannot hold a NUL")
    return path


def name_bytes(name: str | bytes) -> bytes:
    """The name of a bitmap for the library."""
    return path_bytes(name)
