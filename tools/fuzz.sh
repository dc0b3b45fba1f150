#!/bin/sh
# Builds the fuzz targets with coverage and runs them, one after the other. Fails when one finds something.
#
# usage: tools/fuzz.sh [TARGET...]         runs these, or all of them
#        tools/fuzz.sh build               only builds
#        tools/fuzz.sh keep [TARGET...]    adds to fuzz/corpus the small inputs of runs that reach more code
# FUZZ_SECONDS: how long each target runs (60)
#
# A stable toolchain has all that is needed: the flags below are those that cargo-fuzz gives without a sanitizer.
set -eu
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
programs=$folder/$host/release

# Only for the targets and what they use, not for build scripts: therefore --target.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    "${CARGO:-cargo}" build --quiet --release --locked --manifest-path fuzz/Cargo.toml \
    --target "$host" --target-dir "$folder"

longest() {
    case $1 in
        l2) echo 1100 ;;
        image) echo 131072 ;;
        *) echo 4096 ;;
    esac
}

# What is new goes to the first folder; the second one is only read.
run() {
    mkdir -p "$folder/corpus/$1" "$folder/artifacts"
    log=$folder/$1.log
    if "$programs/$1" "$folder/corpus/$1" "fuzz/corpus/$1" -max_total_time="$seconds" -max_len="$(longest "$1")" \
        -len_control=0 -timeout=5 -rss_limit_mb=512 -malloc_limit_mb=64 -artifact_prefix="$folder/artifacts/$1-" \
        >"$log" 2>&1; then
        coverage=$(sed -n 's/^.*DONE *\(cov: [0-9]*\).*/\1/p' "$log")
        printf '%-17s clean: %s, %s\n' "$1" "$coverage" "$(tail -n 1 "$log")"
    else
        printf '%-17s found something (%s):\n' "$1" "$log"
        grep -a -A 4 -e 'panicked at' -e '^too much memory' -e '^memory is not' -e 'ERROR: libFuzzer' "$log" |
            head -n 12
        grep -a -o 'Test unit written to .*' "$log" || true
        return 1
    fi
}

# Small inputs alone, so that the corpus stays small.
keep() {
    small=$folder/small/$1
    rm -rf "$small"
    mkdir -p "$small"
    find "$folder/corpus/$1" -type f -size -4k -exec cp {} "$small" \;
    "$programs/$1" "fuzz/corpus/$1" "$small" -set_cover_merge=1 2>&1 | tail -n 1
}

action=run
case ${1:-} in
    build) exit 0 ;;
    keep) action=keep && shift ;;
esac
[ $# -gt 0 ] || set -- header l2 bitmap_directory image
status=0
for target in "$@"; do
    $action "$target" || status=1
done
exit $status
