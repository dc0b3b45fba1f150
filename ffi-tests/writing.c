/* Writing a disk: data, zeros, discards, its size, and what the bitmaps record of it. */
#include "changing.h"

static const char *images, *work;

static void reads_as(hol_disk *disk, uint64_t offset, size_t length, uint8_t byte)
{
    static uint8_t buffer[1 << 16];
    CHECK(length <= sizeof buffer);
    OK(hol_disk_read(disk, offset, buffer, length));
    for (size_t at = 0; at < length; at++)
        CHECK(buffer[at] == byte);
}

static void data_zeros_and_discards(void)
{
    static uint8_t data[9000];
    memset(data, 0x77, sizeof data);
    copy(images, "disk.qcow2", work, "disk.qcow2");
    hol_disk *disk = open_to_write(work, "disk.qcow2");
    OK(hol_bitmap_clear(disk, "nightly"));

    OK(hol_disk_write(disk, 5 * KIB, data, sizeof data));
    OK(hol_disk_write(disk, 8 * 1024 * KIB, data, 0));
    OK(hol_disk_flush(disk));
    reads_as(disk, 5 * KIB, sizeof data, 0x77);
    reads_as(disk, 4 * KIB, KIB, 0x11);
    OK(hol_disk_write_zeroes(disk, 100 * KIB, 1000));
    OK(hol_disk_discard(disk, 192 * KIB, 64 * KIB));
    reads_as(disk, 100 * KIB, 1000, 0);
    reads_as(disk, 192 * KIB, 64 * KIB, 0);
    CHECK(dirty(disk, "nightly") == 192 * KIB);

    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(disk, &details));
    CHECK(details.virtual_size == 8 * 1024 * KIB);
    OK(hol_disk_close(disk));
    check_image(work, "disk.qcow2");
}

static void another_size(void)
{
    copy(images, "disk.qcow2", work, "size.qcow2");
    hol_disk *disk = open_to_write(work, "size.qcow2");
    OK(hol_bitmap_clear(disk, "nightly"));
    OK(hol_disk_resize(disk, 64 * KIB));
    OK(hol_disk_resize(disk, 16 * 1024 * KIB));
    uint64_t size = 0;
    OK(hol_disk_size(disk, &size));
    CHECK(size == 16 * 1024 * KIB);
    reads_as(disk, 0, 64 * KIB, 0x11);
    reads_as(disk, 64 * KIB, 64 * KIB, 0);
    CHECK(dirty(disk, "nightly") == 16 * 1024 * KIB - 64 * KIB);
    OK(hol_disk_close(disk));
    check_image(work, "size.qcow2");
}

static void refusals(void)
{
    uint8_t byte = 1;
    copy(images, "disk.qcow2", work, "refused.qcow2");
    hol_disk *disk = open_to_write(work, "refused.qcow2");
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "do not lie in the disk", hol_disk_write(disk, 8 * 1024 * KIB, &byte, 1));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no part of a disk", hol_disk_write_zeroes(disk, 1, UINT64_MAX));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "do not lie in the disk", hol_disk_discard(disk, 0, UINT64_MAX));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no multiple of 512", hol_disk_resize(disk, 1000));
    CHECK_CODE(HOL_ERR_NULL, "buffer", hol_disk_write(disk, 0, NULL, 1));
    OK(hol_disk_flush(disk));
    OK(hol_disk_close(disk));

    disk = open_disk(work, "refused.qcow2");
    CHECK_CODE(HOL_ERR_WRONG_STATE, "opened for reading", hol_disk_write(disk, 0, &byte, 1));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "opened for reading", hol_disk_resize(disk, 512));
    OK(hol_disk_flush(disk));
    OK(hol_disk_close(disk));

    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_write(NULL, 0, &byte, 1));
    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_write_zeroes(NULL, 0, 1));
    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_discard(NULL, 0, 1));
    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_flush(NULL));
    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_resize(NULL, 512));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    data_zeros_and_discards();
    another_size();
    refusals();
    return 0;
}
