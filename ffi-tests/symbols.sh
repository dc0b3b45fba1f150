#!/bin/sh
# The libraries in the folder given export what symbols.txt lists, no more and no less, and the header given declares it.
# The shared one gives each a version.
set -eu
here=$(dirname "$0")
nm -D --defined-only "$1/libholstein.so" | sed -n 's/^[0-9a-f]* [^A] //p' | LC_ALL=C sort |
    sed 's/@@HOLSTEIN_0\.1$//; t; s/$/ without a version/' | diff -u "$here/symbols.txt" -
nm -g --defined-only "$1/libholstein.a" | sed -n 's/^[0-9a-f]* . //p' | LC_ALL=C sort | diff -u "$here/symbols.txt" -
sed -n 's/^\(HOL_MUST_USE \)\{0,1\}[a-z][a-z0-9_ ]* \**\(hol_[a-z_]*\)(.*/\2/p' "$2" | LC_ALL=C sort |
    diff -u "$here/symbols.txt" -
