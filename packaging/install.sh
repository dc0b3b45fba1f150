#!/bin/sh
# Installs the libraries, the header and the pkg-config file under DESTDIR.
# TARGET_DIR holds the built libraries; PREFIX and LIBDIR are where they will be used from.
set -eu
cd "$(dirname "$0")/.."
: "${DESTDIR:=}" "${PREFIX:=/usr/local}" "${TARGET_DIR:=target/release}"
: "${LIBDIR:=$PREFIX/lib}"
version=$(sed -n 's/^version = "\([0-9.]*\)"$/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}

install -d "$DESTDIR$LIBDIR/pkgconfig" "$DESTDIR$PREFIX/include"
install -m 755 "$TARGET_DIR/libholstein.so" "$DESTDIR$LIBDIR/libholstein.so.$version"
ln -sf "libholstein.so.$version" "$DESTDIR$LIBDIR/libholstein.so.$major"
ln -sf "libholstein.so.$major" "$DESTDIR$LIBDIR/libholstein.so"
install -m 644 "$TARGET_DIR/libholstein.a" "$DESTDIR$LIBDIR/libholstein.a"
install -m 644 include/holstein.h "$DESTDIR$PREFIX/include/holstein.h"
sed -e "s|@PREFIX@|$PREFIX|; s|@LIBDIR@|$LIBDIR|; s|@VERSION@|$version|" holstein.pc.in \
    > "$DESTDIR$LIBDIR/pkgconfig/holstein.pc"
chmod 644 "$DESTDIR$LIBDIR/pkgconfig/holstein.pc"
