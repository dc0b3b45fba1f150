#!/bin/sh
# The shared library given exports what symbols.txt lists, no more and no less, and the header given declares it.
set -eu
here=$(dirname "$0")
nm -D --defined-only "$1" | sed 's/.* //' | LC_ALL=C sort | diff -u "$here/symbols.txt" -
sed -n 's/^\(HOL_MUST_USE \)\{0,1\}[a-z][a-z0-9_ ]* \**\(hol_[a-z_]*\)(.*/\2/p' "$2" | LC_ALL=C sort |
    diff -u "$here/symbols.txt" -
