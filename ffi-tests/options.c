/* Structures of an older and of a newer program: shorter, equal, longer, with a tail of zeros or of something. */
#include "check.h"

/* A newer header's structures: this library's, and a field more. */
struct newer_options {
    hol_disk_options known;
    uint64_t unknown;
};
struct newer_details {
    hol_disk_details known;
    uint64_t unknown;
};

static const char *image;

static int open_with(const void *options)
{
    hol_disk *disk = NULL;
    int code = hol_disk_open(image, (const hol_disk_options *)options, &disk);
    OK(hol_disk_close(disk));
    return code;
}

static void read_by_the_library(void)
{
    hol_disk_options equal = HOL_OPTIONS_INIT(hol_disk_options);
    CHECK_CODE(HOL_OK, "", open_with(NULL));
    CHECK_CODE(HOL_OK, "", open_with(&equal));
    equal.layers = 99;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "layers", open_with(&equal));

    /* Shorter: the tail, garbage here, is not read. */
    hol_disk_options *shorter = malloc(offsetof(hol_disk_options, format));
    CHECK(shorter != NULL);
    shorter->struct_size = offsetof(hol_disk_options, format);
    shorter->backing_dir = NULL;
    shorter->memory_limit = 0;
    CHECK_CODE(HOL_OK, "", open_with(shorter));
    shorter->memory_limit = 1;
    CHECK_CODE(HOL_ERR_LIMIT, "", open_with(shorter));
    free(shorter);

    /* The structure as it was before access. */
    equal.layers = HOL_LAYERS_TOP_ONLY;
    equal.access = 99;
    equal.struct_size = offsetof(hol_disk_options, access);
    CHECK_CODE(HOL_OK, "", open_with(&equal));

    struct newer_options longer = { .known.struct_size = sizeof longer };
    CHECK_CODE(HOL_OK, "", open_with(&longer));
    longer.unknown = 1;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "does not know", open_with(&longer));
    longer.unknown = (uint64_t)1 << 63;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "does not know", open_with(&longer));

    const size_t never_a_size[] = { 0, 1, 7, 12, (size_t)1 << 20, SIZE_MAX };
    for (size_t i = 0; i < sizeof never_a_size / sizeof never_a_size[0]; i++) {
        hol_disk_options wrong = { .struct_size = never_a_size[i] };
        CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", open_with(&wrong));
    }
}

static void of_a_backup(hol_disk *disk)
{
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    hol_action *action = hol_action_backup(disk, "x", &options);
    CHECK(action != NULL);
    hol_action_free(action);
    options.struct_size = 0;
    CHECK(hol_action_backup(disk, "x", &options) == NULL);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", hol_last_error_code());

    /* What hol_txn_add() says about NULL is the constructor's failure while that is the last one. */
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", hol_txn_add(txn, NULL));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "mode", hol_txn_set_completion(txn, 9));
    CHECK_CODE(HOL_ERR_NULL, "action cannot be NULL", hol_txn_add(txn, NULL));
    hol_txn_free(txn);
}

static void filled_by_the_library(hol_disk *disk)
{
    struct newer_details longer;
    memset(&longer, 0xee, sizeof longer);
    longer.known.struct_size = sizeof longer;
    OK(hol_disk_info(disk, &longer.known));
    CHECK(longer.known.struct_size == sizeof longer);
    CHECK(longer.known.virtual_size == 8 << 20 && longer.known.layers == 1 && longer.unknown == 0);

    hol_disk_details shorter;
    memset(&shorter, 0xee, sizeof shorter);
    shorter.struct_size = offsetof(hol_disk_details, actual_size);
    OK(hol_disk_info(disk, &shorter));
    CHECK(shorter.virtual_size == 8 << 20 && shorter.actual_size == 0xeeeeeeeeeeeeeeee);

    shorter.struct_size = 4;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", hol_disk_info(disk, &shorter));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    image = path_in(argv[1], "disk.qcow2");
    read_by_the_library();
    hol_disk *disk = open_disk(argv[1], "disk.qcow2");
    of_a_backup(disk);
    filled_by_the_library(disk);
    OK(hol_disk_close(disk));
    return 0;
}
