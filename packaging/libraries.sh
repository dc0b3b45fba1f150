#!/bin/sh
# Makes the libraries for C from the static library that cargo built.
#
# usage: packaging/libraries.sh RELEASE_FOLDER OUTPUT_FOLDER
#
# Cargo's archive shows the names of Rust's runtime and of zstd to a program, and clashes with the program's own. Here its
# parts become one object: it shows hol_* alone, and what nothing calls is left out. From that come
#   libholstein.a             without debug information
#   libholstein.so.VERSION    with line numbers and symbol versions, and the links to it
# CC, LD, AR, NM, OBJCOPY and READELF name the tools (GNU binutils), for a build for another machine.
set -eu
cd "$(dirname "$0")/.."
release=$1 output=$2
: "${CC:=cc}" "${LD:=ld}" "${AR:=ar}" "${NM:=nm}" "${OBJCOPY:=objcopy}" "${READELF:=readelf}"
version=$(sed -n 's/^version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1)
soname=libholstein.so.${version%%.*}
archive=$release/libholstein.a

# A program that is linked in cargo's folder looks for the soname.
ln -sf libholstein.so "$release/$soname"

mkdir -p "$output"
made=$output/.made
from=$(stat -L -c "$version %i %s %y" "$archive")
# What is there stays when it was made from this archive, and by these files.
if [ -f "$made" ] && [ "$(cat "$made")" = "$from" ] &&
    [ -z "$(find packaging/holstein.map packaging/libraries.sh -newer "$made")" ]; then
    exit 0
fi
rm -f "$made"
work=$(mktemp -d "$output/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "$from" > "$work/made"

# Asked of the shared library: nm with a plugin for another LLVM cannot read the archive, which has bitcode beside the code.
"$NM" -D --defined-only "$release/libholstein.so" | sed -n 's/^[0-9a-f]* T \(hol_[a-z0-9_]*\)$/-u \1/p' > "$work/roots"
[ -s "$work/roots" ] || { echo "libraries.sh: $release/libholstein.so has no hol_*" >&2; exit 1; }
"$LD" -r -o "$work/all.o" --gc-sections --force-group-allocation "@$work/roots" "$archive"
# Functions that only left out code asked for, if the system has them (weakly): ld keeps their names, and objcopy would make
# them functions that have to be there.
"$READELF" -sW "$work/all.o" | awk '$5 == "LOCAL" && $7 == "UND" && $8 != "" { print $8 }' > "$work/unused"
"$OBJCOPY" -R .llvmbc -R .llvmcmd -R .llvm_addrsig --strip-symbols="$work/unused" \
    --wildcard --keep-global-symbol='hol_*' "$work/all.o" "$work/holstein.o"

"$CC" -shared -o "$work/libholstein.so" "$work/holstein.o" \
    -Wl,--version-script=packaging/holstein.map,-soname,"$soname",--gc-sections,-z,relro,-z,now,-z,defs
"$OBJCOPY" --strip-debug "$work/holstein.o"
"$AR" rcs "$work/libholstein.a" "$work/holstein.o"

mv "$work/libholstein.a" "$output/libholstein.a"
mv "$work/libholstein.so" "$output/libholstein.so.$version"
ln -sf "libholstein.so.$version" "$output/$soname"
ln -sf "$soname" "$output/libholstein.so"
mv "$work/made" "$made"
