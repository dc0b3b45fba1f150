"""What backups stand on: the images of a chain, and the proof of all of its links."""

from __future__ import annotations

import os
from ctypes import byref, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass

from . import _abi
from ._library import check, lib, text


@dataclass(frozen=True)
class Layer:
    """One image of a chain."""

    #: Where it was opened.
    path: str
    format: str
    #: Size of its disk in bytes.
    virtual_size: int
    #: Its identity, in the form of a UUID; None: it has none.
    identity: str | None
    #: The identity of the backup that it was made over, by its own header; None: not known.
    parent: str | None
    #: How it stands on the image below: "bottom", "proven", "unknown" or "broken".
    link: str
    #: What a check of the image alone found: "consistent", "leaks", "corrupt", "incomplete" (a part could not be checked); None:
    #: it was not checked, or is raw.
    verdict: str | None = None


@dataclass(frozen=True)
class Chain:
    """What a check of a chain found."""

    #: The images, the top first.
    layers: list[Layer]
    #: The worst of all, and "corrupt" where a link is broken.
    verdict: str


@dataclass(frozen=True)
class Lineage:
    """What a backup descends from."""

    #: The target's own identity, in the form of a UUID; None: it gets none.
    identity: str | None
    #: The identity of the backup that it stands on; None: none, or not known.
    parent: str | None
    #: What could not be checked or remembered.
    notes: list[str]


def layer_of(layer: _abi.Layer) -> Layer:
    """A layer with texts of its own."""
    return Layer(
        path=os.fsdecode(layer.path),
        format=_abi.CHOICES["FORMAT"][layer.format],
        virtual_size=layer.virtual_size,
        identity=text(layer.identity),
        parent=text(layer.parent),
        link=_abi.LINKS.get(layer.link, "unknown"),
        verdict=_abi.VERDICTS.get(layer.verdict),
    )


def read_chain(path: bytes, options: _abi.DiskOptions) -> Chain:
    """Checks a chain and reads what was found."""
    handle = c_void_p()
    check(lib.hol_disk_check_chain(path, byref(options), byref(handle)))
    try:
        number, verdict = c_size_t(), c_uint32()
        check(lib.hol_chain_summary(handle, byref(number), byref(verdict)))
        layers = []
        for index in range(number.value):
            layer = _abi.Layer()
            check(lib.hol_chain_layer(handle, index, byref(layer)))
            layers.append(layer_of(layer))
        return Chain(layers, _abi.VERDICTS.get(verdict.value, "incomplete"))
    finally:
        lib.hol_chain_free(handle)
