#!/bin/sh
# Makes the images of the tests in the folder given. reading.c says what is expected of them.
set -eu
mkdir -p "$1/sub"
cd "$1"
quietly() { "$@" > made.log 2>&1 || { echo "images.sh: $*" >&2; cat made.log >&2; exit 1; }; }

quietly qemu-img create -f qcow2 disk.qcow2 8M
quietly qemu-io -c 'write -P 0x11 0 1M' disk.qcow2
quietly qemu-img bitmap --add -g 64k disk.qcow2 nightly
quietly qemu-io -c 'write -P 0x22 256k 128k' -c 'write -z 512k 64k' disk.qcow2

quietly qemu-img create -f qcow2 second.qcow2 4M
quietly qemu-io -c 'write -P 0x55 1M 2M' second.qcow2

quietly qemu-img create -f qcow2 base.qcow2 1M
quietly qemu-io -c 'write -P 0x33 0 512k' base.qcow2
quietly qemu-img create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
quietly qemu-io -c 'write -P 0x44 0 64k' top.qcow2
# Its backing file is outside its own folder.
quietly qemu-img create -f qcow2 -b ../base.qcow2 -F qcow2 sub/denied.qcow2

quietly qemu-img create -f raw raw.img 1M
quietly qemu-img create -f qcow2 locked.qcow2 1M
quietly qemu-img create -f qcow2 --object secret,id=key,data=secret \
    -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10 encrypted.qcow2 1M
echo 'no image' > broken.qcow2
# The last incompatible feature bit, which nothing defines.
cp base.qcow2 future.qcow2
printf '\200' | dd of=future.qcow2 bs=1 seek=72 conv=notrunc status=none

# A writer that dies leaves the bitmap in use.
cp disk.qcow2 inuse.qcow2
(ulimit -c 0; qemu-io -c 'write 0 64k' -c abort inuse.qcow2 > made.log 2>&1) && exit 1

# Compressed clusters that cannot be inflated: the tables are whole, the data is not.
head -c 4194304 /dev/urandom | od -An -v -tx1 | head -c 4194304 > text.img
quietly qemu-img convert -c -f raw -O qcow2 text.img torn.qcow2
size=$(wc -c < torn.qcow2)
head -c "$((size - 327680))" /dev/zero | tr '\0' '\377' | dd of=torn.qcow2 bs=64k seek=5 conv=notrunc status=none
quietly qemu-img map --output=json torn.qcow2
if qemu-img convert -O raw torn.qcow2 torn.img > made.log 2>&1; then
    echo 'images.sh: torn.qcow2 can be read' >&2
    exit 1
fi

# Enough data that compressing it takes a while.
i=0
while [ $i -lt 8 ]; do cat text.img; i=$((i + 1)); done > slow.img
quietly qemu-img convert -f raw -O qcow2 slow.img slow.qcow2
rm -f text.img torn.img slow.img made.log
