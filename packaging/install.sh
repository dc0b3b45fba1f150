#!/bin/sh
# Installs the command, the libraries, the header, the files for pkg-config and CMake, the Python package and the pages
# under DESTDIR. LIBRARIES is the folder that libraries.sh made, COMMAND the built command; PREFIX, LIBDIR and PYTHONDIR
# are where things will be used from. PYTHONDIR is a folder below PREFIX where PYTHON looks for packages, unless said;
# "no" leaves the package out.
set -eu
cd "$(dirname "$0")/.."
: "${DESTDIR:=}" "${PREFIX:=/usr/local}" "${LIBRARIES:=target/release/lib}" "${COMMAND:=target/release/holstein}"
: "${LIBDIR:=$PREFIX/lib}" "${PYTHON:=python3}" "${PYTHONDIR:=}"
version=$(sed -n 's/^version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1)
soname=libholstein.so.${version%%.*}
include=$PREFIX/include
cmake=$LIBDIR/cmake/holstein
doc=$PREFIX/share/doc/holstein

# filled SOURCE TARGET: a template with the places of this installation.
filled() {
    sed -e "s|@PREFIX@|$PREFIX|g; s|@LIBDIR@|$LIBDIR|g; s|@VERSION@|$version|g; s|@SONAME@|$soname|g" \
        -e "s|@INCLUDE_FROM_CMAKE@|$(realpath -ms --relative-to="$cmake" "$include")|g" "$1" > "$DESTDIR$2"
    chmod 644 "$DESTDIR$2"
}

install -d "$DESTDIR$PREFIX/bin" "$DESTDIR$LIBDIR/pkgconfig" "$DESTDIR$cmake" "$DESTDIR$include" \
    "$DESTDIR$PREFIX/share/man/man1" "$DESTDIR$doc/docs"
install -m 755 "$COMMAND" "$DESTDIR$PREFIX/bin/holstein"

install -m 755 "$LIBRARIES/libholstein.so.$version" "$DESTDIR$LIBDIR/libholstein.so.$version"
ln -sf "libholstein.so.$version" "$DESTDIR$LIBDIR/$soname"
ln -sf "$soname" "$DESTDIR$LIBDIR/libholstein.so"
install -m 644 "$LIBRARIES/libholstein.a" "$DESTDIR$LIBDIR/libholstein.a"
install -m 644 include/holstein.h "$DESTDIR$include/holstein.h"
filled holstein.pc.in "$LIBDIR/pkgconfig/holstein.pc"
filled packaging/holstein-config.cmake.in "$cmake/holstein-config.cmake"
filled packaging/holstein-config-version.cmake.in "$cmake/holstein-config-version.cmake"

filled packaging/holstein.1.in "$PREFIX/share/man/man1/holstein.1"
install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$DESTDIR$doc"
install -m 644 docs/*.md "$DESTDIR$doc/docs"

# The first folder of Python's own list that is below PREFIX; else the usual one.
[ -n "$PYTHONDIR" ] || PYTHONDIR=$("$PYTHON" -c '
import os, site, sys
lib = os.path.join(os.path.normpath(sys.argv[1]), "lib")
usual = os.path.join(lib, "python%d.%d" % sys.version_info[:2], "site-packages")
print(next((path for path in site.getsitepackages() if path.startswith(lib + "/")), usual))' "$PREFIX") || PYTHONDIR=no
if [ "$PYTHONDIR" = no ]; then
    echo "install.sh: without the Python package" >&2
else
    install -d "$DESTDIR$PYTHONDIR/holstein"
    install -m 644 python/holstein/*.py python/holstein/py.typed "$DESTDIR$PYTHONDIR/holstein"
    # The package looks beside itself first, so it finds the library of this installation.
    ln -sf "$LIBDIR/$soname" "$DESTDIR$PYTHONDIR/holstein/$soname"
fi

# The loader's cache; not for a staged installation, and not everybody may.
[ -n "$DESTDIR" ] || ldconfig 2>/dev/null || true
