#!/bin/sh
# Installs, with apt-get, what a Debian machine with a Rust toolchain and a C compiler lacks.
#
# usage: tools/setup.sh demo|check|mounts|fuzz
#   demo   what `make demo` needs: qemu-img and qemu-io
#   check  what `make check` and `make bench` need: QEMU's tools from version 10 on, C and C++ compilers with
#          AddressSanitizer, valgrind, pkg-config, CMake, Python, and the toolchain's rustfmt and clippy
#   mounts what `make check-long` and the reflink rows of `make bench` need besides: mkfs of XFS and btrfs, filefrag
#   fuzz   what `make fuzz` needs: a C++ compiler, for libFuzzer
#
# Does nothing and prints nothing when everything is there.
set -eu

# The tests compare with what this version prints.
QEMU_NEEDED=10

have() {
    command -v "$1" >/dev/null 2>&1
}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*" \
            "run it as root once, then start again"
    fi
}

apt_updated=no
install_packages() {
    have apt-get || fail "missing: $*" "there is no apt-get here: install these Debian packages' equals by hand"
    if [ "$apt_updated" = no ]; then
        as_root apt-get -qq update >/dev/null
        apt_updated=yes
    fi
    echo "setup: installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

qemu_version() {
    qemu-img --version 2>/dev/null | sed -n 's/^qemu-img version \([0-9]*\)\..*/\1/p'
}

qemu_is_new_enough() {
    version=$(qemu_version)
    [ -n "$version" ] && [ "$version" -ge "$QEMU_NEEDED" ]
}

# Debian 12 has QEMU 7.2; its backports have 10.
install_qemu_from_backports() {
    codename=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || codename=
    [ "$codename" = bookworm ] && have apt-get || return 0
    list=/etc/apt/sources.list.d/bookworm-backports.list
    if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
        echo "deb http://deb.debian.org/debian bookworm-backports main" | as_root tee "$list" >/dev/null
        apt_updated=no
    fi
    install_packages -t bookworm-backports qemu-utils
}

# Whether the compiler $1 links and runs a program with AddressSanitizer.
sanitizes() {
    folder=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$folder/empty.c"
    if "$1" -fsanitize=address "$folder/empty.c" -o "$folder/empty" 2>/dev/null && "$folder/empty" 2>/dev/null; then
        rm -r "$folder"
    else
        rm -r "$folder"
        return 1
    fi
}

setup_demo() {
    have qemu-img && have qemu-io || install_packages qemu-utils
}

setup_check() {
    for component in fmt clippy; do
        cargo $component --version >/dev/null 2>&1 || {
            have rustup || fail "cargo $component is missing: install that component of the Rust toolchain"
            rustup --quiet component add "$(echo $component | sed s/fmt/rustfmt/)"
        }
    done

    packages=
    for tool in qemu-img qemu-io qemu-nbd qemu-storage-daemon; do
        have "$tool" || packages=qemu-utils
    done
    have gcc || packages="$packages gcc libc6-dev"
    have g++ || packages="$packages g++"
    have clang || packages="$packages clang"
    have valgrind || packages="$packages valgrind"
    have pkg-config || packages="$packages pkg-config"
    have cmake || packages="$packages cmake"
    have make || packages="$packages make"
    have python3 || packages="$packages python3"
    # shellcheck disable=SC2086 # a list of packages
    [ -z "$packages" ] || install_packages $packages

    sanitizes gcc || install_packages "libgcc-$(gcc -dumpversion | cut -d. -f1)-dev"
    sanitizes clang || install_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
    for compiler in gcc clang; do
        sanitizes "$compiler" || fail "$compiler -fsanitize=address does not work: install its AddressSanitizer runtime"
    done

    qemu_is_new_enough || install_qemu_from_backports
    qemu_is_new_enough || fail \
        "qemu-img is version $(qemu_version), the tests need $QEMU_NEEDED or newer" \
        "install qemu-utils $QEMU_NEEDED (on Debian 12 from bookworm-backports, or use Debian 13), then start again"
}

setup_mounts() {
    packages=
    have mkfs.xfs || packages="$packages xfsprogs"
    have mkfs.btrfs || packages="$packages btrfs-progs"
    have filefrag || packages="$packages e2fsprogs"
    # shellcheck disable=SC2086 # a list of packages
    [ -z "$packages" ] || install_packages $packages
}

setup_fuzz() {
    have c++ || install_packages g++
}

case "${1:-}" in
    demo) setup_demo ;;
    check) setup_check ;;
    mounts) setup_mounts ;;
    fuzz) setup_fuzz ;;
    *) fail "usage: tools/setup.sh demo|check|mounts|fuzz" ;;
esac
