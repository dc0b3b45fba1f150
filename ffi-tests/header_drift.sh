#!/bin/sh
# Fails when the header given is not the one that src/capi makes.
set -eu
made=$(mktemp)
trap 'rm -f "$made"' EXIT
"$(dirname "$0")/../packaging/header.sh" > "$made"
diff -u "$1" "$made" || { echo 'the header differs from src/capi: make -C ffi-tests header'; exit 1; }
