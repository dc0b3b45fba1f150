"""Handles that several threads use: nobody frees one while a call of it is at work."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from ctypes import c_void_p
from typing import Callable, Iterator


class Calls:
    """The handle of an object and the calls of it that are at work."""

    def __init__(self, what: str, handle: c_void_p) -> None:
        self._what = what
        self._number = 0
        self._none = threading.Condition()
        self._process = os.getpid()
        self.handle = handle

    def open_handle(self) -> c_void_p:
        """The handle; ValueError when it was taken."""
        if not self.handle:
            raise ValueError(f"the {self._what} is closed")
        return self.handle

    @contextmanager
    def call(self) -> Iterator[c_void_p]:
        """The handle, which is not freed before this ends. In a fork the library refuses it."""
        if self._inherited():
            yield self.open_handle()
            return
        with self._none:
            handle = self.open_handle()
            self._number += 1
        try:
            yield handle
        finally:
            with self._none:
                self._number -= 1
                self._none.notify_all()

    def take(self, hurry: Callable[[c_void_p], object] | None = None) -> c_void_p:
        """Takes the handle away, to be freed: no call can begin from now on, and those at work have ended. `hurry` is called
        with the handle if there are any. A fork has nothing to free."""
        if self._inherited():
            self.handle = c_void_p()
            return self.handle
        with self._none:
            handle, self.handle = self.handle, c_void_p()
            if handle and self._number and hurry is not None:
                hurry(handle)
            self._none.wait_for(lambda: self._number == 0)
        return handle

    def _inherited(self) -> bool:
        """Whether this is a fork, where threads of the parent are missing that may hold the lock or be in a call."""
        return os.getpid() != self._process
