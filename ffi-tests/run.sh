#!/bin/bash
# Tests of the C ABI: of the header, the libraries, the behaviour and the installation. The Makefile sets
# LIBDIR (the built libraries), COMMAND (the built command), INCLUDE (the header), BUILD (a folder for everything made
# here), CBINDGEN.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
passed=0 failed=0

# step NAME COMMAND...: one test; what it prints is shown only when it fails.
step() {
    local name=$1 status
    shift
    timeout -k 5 600 "$@" > "$BUILD/step.$$.log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name ($status)"
        sed 's/^/    /' "$BUILD/step.$$.log"
    fi
    return $status
}

strict=(-Wall -Wextra -Wpedantic -Werror -g -O1 "-I$INCLUDE")
# POSIX for the tests' own needs; the header alone is compiled without it.
c11=(-std=c11 "${strict[@]}" -D_POSIX_C_SOURCE=200809L)
with_shared=("-L$LIBDIR" "-Wl,-rpath,$LIBDIR" -lholstein -lpthread)
# What the static library needs from the system, as holstein.pc tells it.
read -ra system <<< "$(sed -n 's/^Libs.private: //p' "$root/holstein.pc.in")"
with_static=("$LIBDIR/libholstein.a" "${system[@]}")
behaviours=(sizes nulls errors told options threads reading create bitmaps writing snapshots defaults event_loop cancel jobs partial grouped actions recover lineage checking descriptors lifetimes streams chdir fork)

# build NAME SOURCE COMPILER OPTION...: BUILD/NAME from SOURCE.
build() {
    local name=$1 source=$2 compiler=$3
    shift 3
    step "build $name" "$compiler" "$here/$source" -o "$BUILD/$name" "$@"
}

# run NAME COMMAND...: a built test, given the images and an empty folder.
run() {
    local name=$1
    shift
    rm -rf "$BUILD/work.$$" && mkdir "$BUILD/work.$$"
    step "$name" "$@" "$BUILD/images" "$BUILD/work.$$"
}

memcheck=(valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,indirect
    --keep-debuginfo=yes)

# behaviour NAME: one test plainly, under valgrind, under AddressSanitizer.
behaviour() {
    local test=$1
    build "$test" "$test.c" gcc "${c11[@]}" "${with_shared[@]}" && run "$test" "$BUILD/$test" &&
        run "$test, valgrind" "${memcheck[@]}" "$BUILD/$test"
    build "$test.asan" "$test.c" gcc "${c11[@]}" -fsanitize=address "${with_static[@]}" &&
        run "$test, AddressSanitizer" "$BUILD/$test.asan"
}
if [ "${1:-}" = --behaviour ]; then
    told=$(behaviour "$2")
    echo "$told"
    exit 0
fi

rm -rf "$BUILD" && mkdir -p "$BUILD" || exit 1
step "make the images" "$here/images.sh" "$BUILD/images" || exit 1

# The header and the library as files.
for cc in gcc clang; do
    step "header alone, C11, $cc" "$cc" -std=c11 "${strict[@]}" -c -o "$BUILD/header.o" "$here/header_alone.c"
done
step "header is what src/capi gives" "$here/header_drift.sh" "$INCLUDE/holstein.h"
step "exported symbols" "$here/symbols.sh" "$LIBDIR" "$INCLUDE/holstein.h"
for folder in "$LIBDIR" "$(dirname "$COMMAND")"; do
    step "soname" bash -c "objdump -p '$folder/libholstein.so' | grep -x ' *SONAME *libholstein.so.0'"
    step "the soname's file is there" test -f "$folder/libholstein.so.0"
done
for cxx in g++ clang++; do
    build "header_cxx_$cxx" header_cxx.cpp "$cxx" -std=c++17 "${strict[@]}" "${with_shared[@]}"
    run "C++17, $cxx" "$BUILD/header_cxx_$cxx"
done

# Linked in every way.
build link_static link.c gcc "${c11[@]}" "${with_static[@]}"
run "static library" "$BUILD/link_static"
build link_shared link.c clang "${c11[@]}" "${with_shared[@]}"
run "shared library" "$BUILD/link_shared"
build dlopen dlopen.c gcc "${c11[@]}" -ldl -lpthread
run "loaded and unloaded in a thread" "$BUILD/dlopen" "$LIBDIR/libholstein.so"
run "loaded and unloaded in a thread, valgrind" "${memcheck[@]}" "--suppressions=$here/unloaded.supp" "$BUILD/dlopen" "$LIBDIR/libholstein.so"

# What it does. Several at a time: valgrind runs one thread at a time.
printf '%s\n' "${behaviours[@]}" | xargs -P "$(nproc)" -n 1 "$here/run.sh" --behaviour | tee "$BUILD/behaviour.log"
passed=$((passed + $(grep -c '^ok ' "$BUILD/behaviour.log")))
failed=$((failed + $(grep -c '^FAILED ' "$BUILD/behaviour.log")))
step "every test was run" test "$(grep -c '^\(ok\|FAILED\) .*, AddressSanitizer' "$BUILD/behaviour.log")" = ${#behaviours[@]}
step "AddressSanitizer is in" bash -c "nm '$BUILD/errors.asan' | grep -q __asan_init"
step "AddressSanitizer is out elsewhere" bash -c "nm '$BUILD/errors' && ! nm '$BUILD/errors' | grep -q __asan_init"

# Installed, and found by pkg-config alone.
step "installed copy" "$here/installed.sh"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
