"""The one exception of the package."""

from __future__ import annotations

from . import _abi


class HolsteinError(Exception):
    """A failure of the library: `kind` ("locked", "bitmap-not-found", ...) to decide by, the text for people."""

    def __init__(self, message: str, code: int, errno: int = 0) -> None:
        super().__init__(message)
        #: The HOL_ERR_* number.
        self.code = code
        #: The operating system's error number, 0 when it had no part.
        self.errno = errno

    def __reduce__(self) -> tuple[type[HolsteinError], tuple[str, int, int]]:
        # An exception is copied, and pickled, by its arguments, of which the base class knows the text alone.
        return type(self), (self.args[0], self.code, self.errno)

    @property
    def kind(self) -> str:
        """The class of the failure."""
        return _abi.ERRORS.get(self.code, "unknown")
