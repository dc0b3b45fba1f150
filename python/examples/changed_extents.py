#!/usr/bin/env python3
"""What changed on a disk since its bitmap was made.

    changed_extents.py IMAGE BITMAP              prints the dirty extents as JSON
    changed_extents.py IMAGE BITMAP --write DIR  also writes the data of each to DIR/START.bin
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import holstein  # noqa: E402  (found beside this folder when it is not installed)

#: Bytes read at a time: an extent can be as large as the disk.
STEP = 4 << 20


def write_out(disk: holstein.Disk, extent: holstein.Extent, folder: Path) -> None:
    """Writes the data of one extent to a file that is named by where it begins."""
    with (folder / f"{extent.start}.bin").open("xb") as out:
        for offset in range(extent.start, extent.start + extent.length, STEP):
            out.write(disk.read(offset, min(STEP, extent.start + extent.length - offset)))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Prints what changed on a disk since its bitmap was made.")
    parser.add_argument("image", type=Path)
    parser.add_argument("bitmap")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the data of each extent to this folder")
    options = parser.parse_args()
    try:
        with holstein.Disk(options.image) as disk:
            extents = disk.bitmap_extents(options.bitmap)
            if options.write:
                options.write.mkdir(parents=True, exist_ok=True)
                for extent in extents:
                    write_out(disk, extent, options.write)
    except (holstein.HolsteinError, OSError) as error:
        print(f"changed_extents: {error}", file=sys.stderr)
        return 1
    print(json.dumps([{"start": extent.start, "length": extent.length} for extent in extents]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
