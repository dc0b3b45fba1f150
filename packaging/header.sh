#!/bin/sh
# Writes the C header to standard output. The version comes from Cargo.toml, everything else from src/capi.
# CBINDGEN names the pinned tool: its output changes between versions.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1)
IFS=. read -r major minor patch <<EOF
$version
EOF
source=$(mktemp)
trap 'rm -f "$source"' EXIT
# One file, each module in its braces: cbindgen then sees the C ABI alone, in this order.
for module in version error options extent disk create write bitmap bitmap_change snapshot action actions job verbs txn log recover; do
    echo "mod $module {"
    cat "src/capi/$module.rs"
    echo "}"
done > "$source"
"${CBINDGEN:-cbindgen}" --quiet --config cbindgen.toml "$source" |
    sed -e "s/@MAJOR@/$major/; s/@MINOR@/$minor/; s/@PATCH@/$patch/g" -e 's/[[:space:]]*$//'
