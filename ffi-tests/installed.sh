#!/bin/sh
# Installs into a folder and builds the example as a C project would: from what pkg-config says, and nothing else.
set -eux
root=$(cd "$(dirname "$0")/.." && pwd)
stage=$BUILD/stage
built=$LIBDIR
# The installation has a LIBDIR of its own, its default.
env -u LIBDIR DESTDIR="$stage" PREFIX=/opt/holstein TARGET_DIR="$built" "$root/packaging/install.sh"
export PKG_CONFIG_LIBDIR="$stage/opt/holstein/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$stage"
strict='-std=c11 -Wall -Wextra -Wpedantic -Werror'
installed=$stage/opt/holstein/lib

version=$(pkg-config --modversion holstein)
test -f "$installed/libholstein.so.$version"
test "$(readlink "$installed/libholstein.so")" = libholstein.so.0

# shellcheck disable=SC2046,SC2086 # The options are words.
{
    cc $strict -o "$BUILD/example" "$root/c-examples/backup.c" $(pkg-config --cflags --libs holstein)
    # Without the shared library beside it, the linker takes the static one.
    mkdir "$stage/static"
    cp "$installed/libholstein.a" "$stage/static/"
    cc $strict -o "$BUILD/example_static" "$root/c-examples/backup.c" $(pkg-config --cflags holstein) \
        -L"$stage/static" $(pkg-config --libs-only-l --static holstein)
}
ldd "$BUILD/example_static" | grep -q libholstein && exit 1

mkdir "$BUILD/shared_out" "$BUILD/static_out"
LD_LIBRARY_PATH=$installed "$BUILD/example" "$BUILD/shared_out" "$BUILD/images/disk.qcow2" "$BUILD/images/second.qcow2"
"$BUILD/example_static" "$BUILD/static_out" "$BUILD/images/disk.qcow2" "$BUILD/images/second.qcow2"
for copy in "$BUILD/shared_out" "$BUILD/static_out"; do
    for disk in disk second; do
        qemu-img check "$copy/$disk.qcow2"
        qemu-img compare "$copy/$disk.qcow2" "$BUILD/images/$disk.qcow2"
    done
done
# A second run finds the targets, says so, and fails.
if "$BUILD/example_static" "$BUILD/static_out" "$BUILD/images/disk.qcow2" 2> "$BUILD/said"; then exit 1; fi
grep disk.qcow2 "$BUILD/said"
