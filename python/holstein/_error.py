"""The one exception of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _abi

if TYPE_CHECKING:
    from ._recover import Recovered


class HolsteinError(Exception):
    """A failure of the library: `kind` ("locked", "bitmap-not-found", ...) to decide by, the text for people."""

    def __init__(
        self, message: str, code: int, errno: int = 0, recovery: tuple[Recovered, ...] = ()
    ) -> None:
        super().__init__(message)
        #: The HOL_ERR_* number.
        self.code = code
        #: The operating system's error number, 0 when it had no part.
        self.errno = errno
        #: What a recovery found that is the reason why a transaction did not start; else empty.
        self.recovery = recovery

    def __reduce__(self) -> tuple[type[HolsteinError], tuple[object, ...]]:
        # An exception is copied, and pickled, by its arguments, of which the base class knows the text alone.
        return type(self), (self.args[0], self.code, self.errno, self.recovery)

    @property
    def kind(self) -> str:
        """The class of the failure."""
        return _abi.ERRORS.get(self.code, "unknown")
