#!/bin/sh
# Installs into a folder and uses that as others would: a C project with pkg-config, one with CMake, Python, a user.
set -eux
root=$(cd "$(dirname "$0")/.." && pwd)
stage=$BUILD/stage
built=$LIBDIR
prefix=/opt/holstein
# The installation has a LIBDIR of its own, its default.
env -u LIBDIR -u PYTHONDIR DESTDIR="$stage" PREFIX=$prefix LIBRARIES="$built" "$root/packaging/install.sh"
export PKG_CONFIG_LIBDIR="$stage$prefix/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$stage"
strict='-std=c11 -Wall -Wextra -Wpedantic -Werror'
installed=$stage$prefix/lib

version=$(pkg-config --modversion holstein)
test -f "$installed/libholstein.so.$version"
test "$(readlink "$installed/libholstein.so")" = libholstein.so.0
# All of zstd and of Rust's runtime, with debug information, had 90 MB.
test "$(stat -c %s "$installed/libholstein.a")" -lt 20000000

# shellcheck disable=SC2046,SC2086 # The options are words.
{
    cc $strict -o "$BUILD/example" "$root/c-examples/backup.c" $(pkg-config --cflags --libs holstein)
    # Static as a whole: what pkg-config says is all that it needs. gcc: the linker warns of functions of glibc.
    gcc -static -o "$BUILD/example_static" "$root/c-examples/backup.c" $(pkg-config --cflags --libs --static holstein)
}
ldd "$BUILD/example_static" && exit 1

# Beside a host's own zstd, and beside the library of another Rust program.
cat > "$BUILD/other.rs" <<'RUST'
#[unsafe(no_mangle)]
pub extern "C" fn other() -> i32 {
    std::panic::catch_unwind(|| (0..3).collect::<Vec<i32>>().iter().sum()).unwrap_or(-1)
}
RUST
rustc --edition 2024 --crate-type staticlib -O -o "$BUILD/libother.a" "$BUILD/other.rs"
cat > "$BUILD/beside.c" <<'C'
#include <holstein.h>
unsigned ZSTD_versionNumber(void);
unsigned ZSTD_versionNumber(void) { return 7; }
int other(void);
int main(void) { return hol_version() == 0 || ZSTD_versionNumber() != 7 || other() != 3; }
C
for order in "libholstein.a libother.a" "libother.a libholstein.a"; do
    # shellcheck disable=SC2046,SC2086 # The options are words.
    (cd "$BUILD" && cp "$installed/libholstein.a" . &&
        cc $strict -o beside beside.c $(pkg-config --cflags holstein) $order -lm)
    "$BUILD/beside"
done

# CMake finds it from the prefix alone.
cmake -S "$root/ffi-tests/cmake" -B "$BUILD/cmake" -DCMAKE_PREFIX_PATH="$stage$prefix" \
    -DEXAMPLE="$root/c-examples/backup.c" -DCMAKE_BUILD_TYPE=Release
cmake --build "$BUILD/cmake"
ldd "$BUILD/cmake/static" | grep -q libholstein && exit 1

# backs_up NAME PROGRAM: the program copies both disks into a folder of that name.
backs_up() {
    mkdir "$BUILD/$1"
    "$2" "$BUILD/$1" "$BUILD/images/disk.qcow2" "$BUILD/images/second.qcow2"
    for disk in disk second; do
        qemu-img check "$BUILD/$1/$disk.qcow2"
        qemu-img compare "$BUILD/$1/$disk.qcow2" "$BUILD/images/$disk.qcow2"
    done
}
LD_LIBRARY_PATH=$installed backs_up shared_out "$BUILD/example"
backs_up static_out "$BUILD/example_static"
backs_up cmake_shared_out "$BUILD/cmake/shared"
backs_up cmake_static_out "$BUILD/cmake/static"
# A second run finds the targets, says so, and fails.
if "$BUILD/example_static" "$BUILD/static_out" "$BUILD/images/disk.qcow2" 2> "$BUILD/said"; then exit 1; fi
grep disk.qcow2 "$BUILD/said"

# The command, its page, and the Python package, which finds the library beside it.
"$stage$prefix/bin/holstein" --version | grep -F "$version"
page=$stage$prefix/share/man/man1/holstein.1
grep -qF "holstein $version" "$page"
"$stage$prefix/bin/holstein" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' > "$BUILD/commands"
test "$(wc -l < "$BUILD/commands")" -ge 10
while read -r command; do
    test "$command" = help || grep -q "^\.B[IR]* $command " "$page"
done < "$BUILD/commands"
test -f "$stage$prefix/share/doc/holstein/docs/command.md"
package=$(dirname "$(find "$stage$prefix/lib" -name _abi.py)")
link=$package/libholstein.so.0
test "$(readlink "$link")" = "$prefix/lib/libholstein.so.0"
ln -sf "$stage$(readlink "$link")" "$link"
cd "$BUILD"
env -u HOLSTEIN_LIBRARY PYTHONPATH="$(dirname "$package")" python3 -c '
import holstein, sys
assert holstein.version() == sys.argv[1], holstein.version()
with open("/proc/self/maps") as maps:
    assert sys.argv[2] in maps.read()' "$version" "$installed/libholstein.so.$version"
