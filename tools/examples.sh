#!/bin/sh
# Builds and runs the examples in C and Python on a disk made for them.
#
# usage: tools/examples.sh RELEASE_FOLDER
set -eu
release=$1
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

qemu-img create -q -f qcow2 "$folder/disk.qcow2" 16M
qemu-io -f qcow2 -c 'write -q -P 1 0 1M' "$folder/disk.qcow2"
qemu-img bitmap --add "$folder/disk.qcow2" nightly
qemu-io -f qcow2 -c 'write -q -P 2 4M 128k' "$folder/disk.qcow2"

# The name that programs look for, as an installation has it.
ln -s "$release/libholstein.so" "$folder/libholstein.so.0"

echo "c-examples/backup.c"
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror -Iinclude c-examples/backup.c -L"$release" -lholstein \
    -Wl,-rpath,"$folder" -o "$folder/backup"
mkdir "$folder/copies"
"$folder/backup" "$folder/copies" "$folder/disk.qcow2"
qemu-img compare -f qcow2 -F qcow2 "$folder/disk.qcow2" "$folder/copies/disk.qcow2"

echo "python/examples/changed_extents.py"
"${PYTHON:-python3}" python/examples/changed_extents.py "$folder/disk.qcow2" nightly | tee "$folder/extents"
grep -qF '{"start": 4194304, "length": 131072}' "$folder/extents"
