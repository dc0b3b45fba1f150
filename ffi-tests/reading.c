/* What a disk and its bitmaps hold, against what images.sh put there. */
#include "check.h"

#define KIB UINT64_C(1024)

struct seen {
    hol_disk *disk;
    int number, stop_after;
    hol_extent extents[16];
};

static int see(const hol_extent *extent, void *opaque)
{
    struct seen *seen = opaque;
    CHECK(extent->struct_size == sizeof *extent && seen->number < 16);
    seen->extents[seen->number++] = *extent;
    /* No lock is held: the library can be called, on the same disk too. */
    uint8_t byte;
    uint64_t size = 0;
    OK(hol_disk_read(seen->disk, extent->start, &byte, 1));
    OK(hol_disk_size(seen->disk, &size));
    CHECK(extent->start + extent->length <= size);
    return seen->number == seen->stop_after;
}

static void info(hol_disk *disk, hol_disk *top)
{
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details), again = details;
    OK(hol_disk_info(disk, &details));
    CHECK(details.virtual_size == 8192 * KIB && details.cluster_size == 64 * KIB);
    CHECK(details.format == HOL_FORMAT_QCOW2 && details.version == 3 && details.refcount_bits == 16);
    CHECK(details.compression == HOL_COMPRESSION_ZLIB && details.flags == 0 && details.layers == 1);
    CHECK(details.bitmaps == 1 && details.snapshots == 0 && details.file_length > 1024 * KIB);
    CHECK(details.actual_size > 0 && !details.backing && !details.backing_format && !details.data_file);
    OK(hol_disk_info(top, &details));
    CHECK(strcmp(details.backing, "base.qcow2") == 0 && strcmp(details.backing_format, "qcow2") == 0);
    CHECK(strstr(details.backing_path, "/base.qcow2") && details.layers == 2);
    /* The texts stay. */
    OK(hol_disk_info(top, &again));
    CHECK(details.backing == again.backing);
}

static void bitmaps(hol_disk *disk, hol_disk *unusable)
{
    size_t number = 0;
    uint64_t dirty = 0;
    hol_bitmap_details details = HOL_OPTIONS_INIT(hol_bitmap_details), named = details;
    OK(hol_bitmap_list(disk, &number));
    CHECK(number == 1);
    OK(hol_bitmap_info_at(disk, 0, &details));
    CHECK(strcmp(details.name, "nightly") == 0 && !details.reason && details.granularity == 64 * KIB);
    CHECK(details.flags == (HOL_BITMAP_AUTO | HOL_BITMAP_USABLE | HOL_BITMAP_COUNTED));
    CHECK(details.count == 192 * KIB);
    OK(hol_bitmap_info(disk, "nightly", &named));
    CHECK(memcmp(&details, &named, sizeof details) == 0);
    OK(hol_bitmap_count(disk, "nightly", &dirty));
    CHECK(dirty == 192 * KIB);

    struct seen seen = { .disk = disk };
    OK(hol_bitmap_extents(disk, "nightly", see, &seen));
    CHECK(seen.number == 2);
    CHECK(seen.extents[0].start == 256 * KIB && seen.extents[0].length == 128 * KIB);
    CHECK(seen.extents[1].start == 512 * KIB && seen.extents[1].length == 64 * KIB);
    CHECK(seen.extents[0].flags == HOL_EXTENT_DIRTY && seen.extents[1].flags == HOL_EXTENT_DIRTY);
    seen = (struct seen){ .disk = disk, .stop_after = 1 };
    CHECK(hol_bitmap_extents(disk, "nightly", see, &seen) == HOL_STOPPED && seen.number == 1);

    OK(hol_bitmap_info(unusable, "nightly", &details));
    CHECK((details.flags & HOL_BITMAP_IN_USE) && !(details.flags & HOL_BITMAP_USABLE));
    CHECK(details.reason && details.reason[0]);
}

static void data(hol_disk *disk, hol_disk *top)
{
    uint8_t bytes[2];
    OK(hol_disk_read(disk, 256 * KIB - 1, bytes, 2));
    CHECK(bytes[0] == 0x11 && bytes[1] == 0x22);
    OK(hol_disk_read(disk, 512 * KIB - 1, bytes, 2));
    CHECK(bytes[0] == 0x11 && bytes[1] == 0);
    OK(hol_disk_read(disk, 8192 * KIB - 1, bytes, 1));
    CHECK(bytes[0] == 0);
    OK(hol_disk_read(top, 64 * KIB - 1, bytes, 2));
    CHECK(bytes[0] == 0x44 && bytes[1] == 0x33);

    struct seen seen = { .disk = top };
    OK(hol_disk_extents(top, 0, 1024 * KIB, see, &seen));
    CHECK(seen.number == 3);
    CHECK(seen.extents[0].start == 0 && seen.extents[0].length == 64 * KIB && seen.extents[0].depth == 0);
    CHECK(seen.extents[0].flags == (HOL_EXTENT_PRESENT | HOL_EXTENT_DATA | HOL_EXTENT_OFFSET));
    CHECK(seen.extents[0].host_offset > 0);
    CHECK(seen.extents[1].start == 64 * KIB && seen.extents[1].length == 448 * KIB);
    CHECK(seen.extents[1].depth == 1 && (seen.extents[1].flags & HOL_EXTENT_DATA));
    CHECK(seen.extents[2].start == 512 * KIB && seen.extents[2].length == 512 * KIB);
    CHECK(seen.extents[2].flags == HOL_EXTENT_ZERO);
    seen = (struct seen){ .disk = top, .stop_after = 2 };
    CHECK(hol_disk_extents(top, 0, 1024 * KIB, see, &seen) == HOL_STOPPED && seen.number == 2);
    seen = (struct seen){ .disk = top };
    OK(hol_disk_extents(top, 1024 * KIB, 0, see, &seen));
    CHECK(seen.number == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_disk *disk = open_disk(argv[1], "disk.qcow2"), *top = open_disk(argv[1], "top.qcow2");
    hol_disk *unusable = open_disk(argv[1], "inuse.qcow2");
    info(disk, top);
    bitmaps(disk, unusable);
    data(disk, top);
    OK(hol_disk_close(unusable));
    OK(hol_disk_close(top));
    OK(hol_disk_close(disk));
    return 0;
}
