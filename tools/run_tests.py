#!/usr/bin/env python3
"""Builds all test programs, then runs several at a time: most of them wait for other programs or for a disk.

`cargo test` runs them one after the other. What a program prints is shown when it has ended.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

CARGO = os.environ.get("CARGO", "cargo")

# The longest ones first, so that none is left alone at the end.
LONGEST = [
    "sync_modes", "group_commit", "copies", "bitmap_crashes", "differential", "repair", "sequences", "snapshots", "hostile",
    "write_failures", "jobs", "write_crashes", "simulated_storage", "actions", "create", "check", "lock_matrix",
    "holstein (lib)", "writing",
]

# The examples in the documentation: cargo compiles and runs them.
EXAMPLES = "examples in the documentation"


def programs() -> list[tuple[str, str]]:
    """Names and paths of the test programs, built."""
    build = subprocess.run(
        [CARGO, "test", "--locked", "--no-run", "--message-format=json-render-diagnostics"],
        stdout=subprocess.PIPE, text=True,
    )
    if build.returncode:
        sys.exit(build.returncode)
    found = []
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            target = message["target"]
            kind = "" if target["kind"] == ["test"] else f" ({target['kind'][0]})"
            found.append((target["name"] + kind, message["executable"]))
    return sorted(found, key=lambda program: (rank(program[0]), program[0]))


def rank(name: str) -> int:
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def run(command: list[str]) -> tuple[int, str, float]:
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - start


def main() -> int:
    found = programs()
    if not found:
        print("no test programs were built", file=sys.stderr)
        return 1
    failed = []
    # One more than there are cores: each waits for a disk or for QEMU's tools now and then.
    with ThreadPoolExecutor(1 + max(2, os.cpu_count() or 2)) as pool:
        commands = [(name, [path]) for name, path in found]
        # Not at the end, where it would be alone.
        commands.insert(len(LONGEST) // 2, (EXAMPLES, [CARGO, "test", "--locked", "--doc"]))
        running = {pool.submit(run, command): name for name, command in commands}
        for done in as_completed(running):
            code, output, seconds = done.result()
            print(f"\n-- {running[done]}, {seconds:.0f} s\n{output.strip()}", flush=True)
            if code:
                failed.append(running[done])
    print(f"\n{len(commands) - len(failed)} of {len(commands)} test programs passed")
    if failed:
        print(f"failed: {', '.join(sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
