/* New images: the defaults, every option, what is refused, and that nothing is left then. */
#include "check.h"

static hol_disk_details details_of(hol_disk *disk)
{
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(disk, &details));
    return details;
}

static void defaults(const char *work)
{
    hol_disk *disk = NULL;
    const char *path = path_in(work, "plain.qcow2");
    OK(hol_disk_create(path, 3 << 20, NULL, &disk));
    hol_disk_details details = details_of(disk);
    CHECK(details.virtual_size == 3 << 20 && details.version == 3 && details.cluster_size == 65536);
    CHECK(details.refcount_bits == 16 && details.compression == HOL_COMPRESSION_ZLIB && details.flags == 0);
    CHECK(!details.backing && !details.data_file && details.layers == 1);
    uint8_t bytes[4096], zeros[4096] = { 0 };
    memset(bytes, 0xee, sizeof bytes);
    OK(hol_disk_read(disk, (3 << 20) - sizeof bytes, bytes, sizeof bytes));
    CHECK(memcmp(bytes, zeros, sizeof bytes) == 0);
    /* It is open for reading. */
    CHECK_CODE(HOL_ERR_WRONG_STATE, "plain.qcow2", hol_bitmap_add(disk, "nightly", NULL));
    OK(hol_disk_close(disk));

    /* What exists stays, unless the caller says otherwise. */
    disk = (hol_disk *)bytes;
    CHECK_CODE(HOL_ERR_EXISTS, "plain.qcow2", hol_disk_create(path, 1 << 20, NULL, &disk));
    CHECK(disk == NULL);
    disk = open_disk(work, "plain.qcow2");
    CHECK(details_of(disk).virtual_size == 3 << 20);
    OK(hol_disk_close(disk));
    hol_create_options options = HOL_OPTIONS_INIT(hol_create_options);
    options.existing = HOL_EXISTING_OVERWRITE;
    OK(hol_disk_create(path, 1 << 20, &options, &disk));
    CHECK(details_of(disk).virtual_size == 1 << 20);
    OK(hol_disk_close(disk));
}

static void every_option(const char *images, const char *work)
{
    hol_disk *disk = NULL;
    hol_disk_options open = HOL_OPTIONS_INIT(hol_disk_options);
    open.access = HOL_ACCESS_WRITE;
    open.backing_policy = HOL_BACKING_ANY;
    hol_create_options options = HOL_OPTIONS_INIT(hol_create_options);
    const char *base = path_in(images, "disk.qcow2");
    options.open = &open;
    options.backing = base;
    options.backing_format = HOL_FORMAT_QCOW2;
    options.cluster_size = 32768;
    options.refcount_bits = 64;
    options.compression_type = HOL_COMPRESSION_ZSTD;
    options.flags = HOL_DISK_EXTENDED_L2 | HOL_DISK_LAZY_REFCOUNTS;
    options.preallocation = HOL_PREALLOCATION_METADATA;
    OK(hol_disk_create(path_in(work, "top.qcow2"), 0, &options, &disk));
    hol_disk_details details = details_of(disk);
    CHECK(details.virtual_size == 8 << 20 && details.cluster_size == 32768 && details.refcount_bits == 64);
    CHECK(details.compression == HOL_COMPRESSION_ZSTD && details.layers == 2);
    CHECK(details.flags == (HOL_DISK_EXTENDED_L2 | HOL_DISK_LAZY_REFCOUNTS));
    CHECK(strcmp(details.backing, base) == 0 && strcmp(details.backing_format, "qcow2") == 0);
    CHECK(details.file_length > 8 << 20);
    hol_disk *below = open_disk(images, "disk.qcow2");
    check_same(below, disk);
    OK(hol_disk_close(below));
    OK(hol_bitmap_add(disk, "nightly", NULL));
    OK(hol_disk_close(disk));

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.data_file = "disk.raw";
    options.flags = HOL_DISK_DATA_FILE_RAW;
    OK(hol_disk_create(path_in(work, "data.qcow2"), 2 << 20, &options, &disk));
    details = details_of(disk);
    CHECK(strcmp(details.data_file, "disk.raw") == 0 && details.flags == HOL_DISK_DATA_FILE_RAW);
    OK(hol_disk_close(disk));
    /* It is there now, and is the disk: also its size. */
    OK(hol_disk_create(path_in(work, "again.qcow2"), 0, &options, &disk));
    CHECK(details_of(disk).virtual_size == 2 << 20);
    OK(hol_disk_close(disk));

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.compat = HOL_COMPAT_0_10;
    OK(hol_disk_create(path_in(work, "old.qcow2"), 1 << 20, &options, &disk));
    CHECK(details_of(disk).version == 2);
    OK(hol_disk_close(disk));
}

#define REFUSED(code, part, field, value)                                                   \
    do {                                                                                    \
        hol_create_options options_ = HOL_OPTIONS_INIT(hol_create_options);                 \
        hol_disk *disk_ = (hol_disk *)&options_;                                            \
        options_.field = (value);                                                           \
        CHECK_CODE(code, part, hol_disk_create(path, 1 << 20, &options_, &disk_));          \
        CHECK(disk_ == NULL);                                                               \
    } while (0)

static void refusals(const char *images, const char *work)
{
    const char *path = path_in(work, "never.qcow2");
    int before = files_in(work);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "cluster size 3000", cluster_size, 3000);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "3 bits", refcount_bits, 3);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "compat cannot be 2", compat, 2);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "compression_type cannot be 3", compression_type, 3);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "preallocation cannot be 2", preallocation, 2);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "existing cannot be 2", existing, 2);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "flags that are not known here: 0x2", flags, HOL_DISK_CORRUPT);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "only a data file can be raw", flags, HOL_DISK_DATA_FILE_RAW);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "backing_format is only for", backing_format, HOL_FORMAT_RAW);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "reserved must be 0", reserved, 1);
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "options->struct_size is 0", struct_size, 0);
    hol_disk_options sizeless = { 0 };
    REFUSED(HOL_ERR_INVALID_ARGUMENT, "options->open->struct_size is 0", open, &sizeless);
    REFUSED(HOL_ERR_NOT_FOUND, "nothing.qcow2", backing, "nothing.qcow2");
    REFUSED(HOL_ERR_POLICY_DENIED, "lies outside", backing, path_in(images, "disk.qcow2"));
    REFUSED(HOL_ERR_EXISTS, "plain.qcow2", data_file, "plain.qcow2");

    hol_disk *disk = NULL;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "a size is needed", hol_disk_create(path, 0, NULL, &disk));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "multiple of 512", hol_disk_create(path, 1, NULL, &disk));
    CHECK_CODE(HOL_ERR_NOT_FOUND, "missing", hol_disk_create(path_in(work, "missing/x"), 512, NULL, &disk));
    CHECK(files_in(work) == before);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    defaults(argv[2]);
    every_option(argv[1], argv[2]);
    refusals(argv[1], argv[2]);
    return 0;
}
