#!/bin/sh
# Builds and runs the examples in C and Python on a disk made for them.
#
# usage: tools/examples.sh FOLDER_OF_THE_LIBRARIES
set -eu
libraries=$1
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

qemu-img create -q -f qcow2 "$folder/disk.qcow2" 16M
qemu-io -f qcow2 -c 'write -q -P 1 0 1M' "$folder/disk.qcow2"
qemu-img bitmap --add "$folder/disk.qcow2" nightly
qemu-io -f qcow2 -c 'write -q -P 2 4M 128k' "$folder/disk.qcow2"

echo "c-examples/backup.c"
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror -Iinclude c-examples/backup.c -L"$libraries" -lholstein \
    -Wl,-rpath,"$libraries" -o "$folder/backup"
mkdir "$folder/copies"
"$folder/backup" "$folder/copies" "$folder/disk.qcow2"
qemu-img compare -f qcow2 -F qcow2 "$folder/disk.qcow2" "$folder/copies/disk.qcow2"

echo "c-examples/transaction.c"
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror -D_POSIX_C_SOURCE=200809L -Iinclude c-examples/transaction.c -L"$libraries" \
    -lholstein -Wl,-rpath,"$libraries" -o "$folder/transaction"
mkdir "$folder/night"
for name in one two three; do cp "$folder/disk.qcow2" "$folder/$name.qcow2"; done
"$folder/transaction" "$folder/night" "$folder/one.qcow2" "$folder/two.qcow2" "$folder/three.qcow2" | tee "$folder/said"
grep -q '^failed: .*three.qcow2' "$folder/said"
test "$(grep -c ': 131072 dirty bytes, 1 bitmaps$' "$folder/said")" = 3
test "$(grep -c ': 0 dirty bytes, 2 bitmaps$' "$folder/said")" = 3
test "$(ls "$folder/night")" = "$(printf 'one.qcow2\nthree.qcow2\ntwo.qcow2')"
for name in one two three; do
    qemu-img check -q "$folder/$name.qcow2"
    qemu-img check -q "$folder/night/$name.qcow2"
done

echo "python/examples/changed_extents.py"
"${PYTHON:-python3}" python/examples/changed_extents.py "$folder/disk.qcow2" nightly | tee "$folder/extents"
grep -qF '{"start": 4194304, "length": 131072}' "$folder/extents"
