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
for module in version constant error options extent disk chain check create write bitmap bitmap_change snapshot action actions init job verbs txn log recover; do
    echo "mod $module {"
    cat "src/capi/$module.rs"
    echo "}"
done > "$source"
"${CBINDGEN:-cbindgen}" --quiet --config cbindgen.toml "$source" |
    sed -e "s/@MAJOR@/$major/; s/@MINOR@/$minor/; s/@PATCH@/$patch/g" -e 's/[[:space:]]*$//' |
    awk '
        { lines[NR] = $0 }
        # Every declared function tells that it is there.
        match($0, /^(HOL_MUST_USE )?[a-z][a-z0-9_ ]*[ *]hol_[a-z0-9_]+\(/) {
            name = substr($0, 1, RLENGTH - 1)
            sub(/.*[ *]hol_/, "", name)
            have[++functions] = toupper(name)
        }
        END {
            # Before the last line, which ends the guard.
            for (i = 1; i < NR; i++) print lines[i]
            print "/* Which functions this header declares, for code that builds with several versions of it. */"
            for (i = 1; i <= functions; i++) print "#define HOL_HAVE_" have[i] " 1"
            print ""
            print lines[NR]
        }'
