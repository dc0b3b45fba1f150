/* Changing bitmaps: each function, several changes as one step, what is refused, and QEMU's word on the image. */
#include "changing.h"

static const char *images, *work;

static hol_bitmap_details about(hol_disk *disk, const char *name)
{
    hol_bitmap_details details = HOL_OPTIONS_INIT(hol_bitmap_details);
    OK(hol_bitmap_info(disk, name, &details));
    return details;
}

static size_t number_of(hol_disk *disk)
{
    size_t number = SIZE_MAX;
    OK(hol_bitmap_list(disk, &number));
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(disk, &details));
    CHECK(details.bitmaps == number);
    return number;
}

static void one_by_one(void)
{
    copy(images, "disk.qcow2", work, "one.qcow2");
    hol_disk *disk = open_to_write(work, "one.qcow2");
    CHECK(number_of(disk) == 1);
    /* Texts that are lent before a change stay after it. */
    hol_bitmap_details before = about(disk, "nightly");

    OK(hol_bitmap_add(disk, "default", NULL));
    CHECK(about(disk, "default").granularity == 64 * KIB);
    CHECK(about(disk, "default").flags == (HOL_BITMAP_AUTO | HOL_BITMAP_USABLE | HOL_BITMAP_COUNTED));
    hol_bitmap_options options = HOL_OPTIONS_INIT(hol_bitmap_options);
    options.granularity = 4 * KIB;
    options.recording = HOL_RECORDING_DISABLED;
    OK(hol_bitmap_add(disk, "\xff fine", &options));
    CHECK(about(disk, "\xff fine").granularity == 4 * KIB);
    CHECK(about(disk, "\xff fine").flags == HOL_BITMAP_COUNTED);
    OK(hol_bitmap_enable(disk, "\xff fine"));
    CHECK(about(disk, "\xff fine").flags & HOL_BITMAP_AUTO);
    OK(hol_bitmap_disable(disk, "default"));
    CHECK(!(about(disk, "default").flags & HOL_BITMAP_AUTO) && about(disk, "default").reason);
    CHECK(number_of(disk) == 3);

    const char *sources[] = { "default", "nightly" };
    OK(hol_bitmap_merge(disk, "\xff fine", sources, 2));
    CHECK(dirty(disk, "\xff fine") == 192 * KIB && dirty(disk, "nightly") == 192 * KIB);
    OK(hol_bitmap_clear(disk, "nightly"));
    CHECK(dirty(disk, "nightly") == 0 && about(disk, "nightly").count == 0);
    OK(hol_bitmap_rename(disk, "\xff fine", "weekly"));
    CHECK(dirty(disk, "weekly") == 192 * KIB);
    OK(hol_bitmap_remove(disk, "default"));
    CHECK(number_of(disk) == 2);
    CHECK(strcmp(before.name, "nightly") == 0 && before.count == 192 * KIB);

    /* Guest data is as it was. */
    hol_disk *original = open_disk(images, "disk.qcow2");
    check_same(disk, original);
    OK(hol_disk_close(original));
    OK(hol_disk_close(disk));
    check_image(work, "one.qcow2");
}

static void from_another_disk(void)
{
    copy(images, "disk.qcow2", work, "from.qcow2");
    hol_disk *disk = open_to_write(work, "from.qcow2"), *other = open_disk(images, "disk.qcow2");
    OK(hol_bitmap_clear(disk, "nightly"));
    OK(hol_bitmap_merge_from(disk, "nightly", other, "nightly"));
    CHECK(dirty(disk, "nightly") == 192 * KIB);
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "weekly", hol_bitmap_merge_from(disk, "nightly", other, "weekly"));
    OK(hol_disk_close(other));
    other = open_disk(images, "inuse.qcow2");
    CHECK_CODE(HOL_ERR_BITMAP_UNUSABLE, "inuse.qcow2", hol_bitmap_merge_from(disk, "nightly", other, "nightly"));
    OK(hol_disk_close(other));

    copy(images, "second.qcow2", work, "small.qcow2");
    other = open_to_write(work, "small.qcow2");
    OK(hol_bitmap_add(other, "small", NULL));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "small", hol_bitmap_merge_from(disk, "nightly", other, "small"));
    OK(hol_disk_close(other));
    OK(hol_disk_close(disk));
    check_image(work, "from.qcow2");
}

static void as_one_step(void)
{
    copy(images, "disk.qcow2", work, "step.qcow2");
    hol_disk *disk = open_to_write(work, "step.qcow2"), *other = open_disk(images, "disk.qcow2");
    const char *here[] = { "today" }, *there[] = { "nightly" };
    hol_bitmap_change changes[] = {
        { .kind = HOL_CHANGE_RENAME, .name = "nightly", .new_name = "today" },
        { .kind = HOL_CHANGE_ADD, .name = "all", .granularity = 512, .recording = HOL_RECORDING_DISABLED },
        { .kind = HOL_CHANGE_MERGE, .name = "all", .sources = here, .source_count = 1 },
        { .kind = HOL_CHANGE_CLEAR, .name = "today" },
        { .kind = HOL_CHANGE_ADD, .name = "copied" },
        { .kind = HOL_CHANGE_MERGE, .name = "copied", .sources = there, .source_count = 1, .source_disk = other },
        { .kind = HOL_CHANGE_DISABLE, .name = "today" },
        { .kind = HOL_CHANGE_ENABLE, .name = "all" },
        { .kind = HOL_CHANGE_REMOVE, .name = "today" },
        /* No such bitmap any more: this one spoils all. */
        { .kind = HOL_CHANGE_CLEAR, .name = "today" },
    };
    size_t number = sizeof changes / sizeof changes[0];
    for (size_t i = 0; i < number; i++)
        changes[i].struct_size = sizeof changes[i];
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "today", hol_bitmap_apply(disk, changes, number));
    CHECK(number_of(disk) == 1 && dirty(disk, "nightly") == 192 * KIB);
    OK(hol_bitmap_apply(disk, changes, number - 1));
    CHECK(number_of(disk) == 2 && dirty(disk, "all") == 192 * KIB && dirty(disk, "copied") == 192 * KIB);
    CHECK(about(disk, "all").granularity == 512 && about(disk, "all").flags & HOL_BITMAP_AUTO);
    OK(hol_bitmap_apply(disk, changes, 0));
    CHECK(number_of(disk) == 2);
    OK(hol_disk_close(other));
    OK(hol_disk_close(disk));
    check_image(work, "step.qcow2");
}

/* One change is refused, whatever is wrong with it. */
static void refuse(hol_disk *disk, int code, const char *part, hol_bitmap_change change)
{
    change.struct_size = sizeof change;
    CHECK_CODE(code, part, hol_bitmap_apply(disk, &change, 1));
}

static void refusals(void)
{
    hol_disk *disk = open_to_write(work, "one.qcow2");
    hol_bitmap_options options = HOL_OPTIONS_INIT(hol_bitmap_options);
    const char *sources[] = { "weekly", NULL, "absent" };

    CHECK_CODE(HOL_ERR_EXISTS, "weekly", hol_bitmap_add(disk, "weekly", NULL));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "1 to 1023", hol_bitmap_add(disk, "", NULL));
    options.granularity = 1000;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "power of two", hol_bitmap_add(disk, "x", &options));
    options.granularity = 0;
    options.recording = 2;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "recording", hol_bitmap_add(disk, "x", &options));
    options.recording = 0;
    options.reserved = 1;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "reserved", hol_bitmap_add(disk, "x", &options));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_remove(disk, "absent"));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_clear(disk, "absent"));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_enable(disk, "absent"));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_disable(disk, "absent"));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_rename(disk, "absent", "x"));
    CHECK_CODE(HOL_ERR_EXISTS, "nightly", hol_bitmap_rename(disk, "weekly", "nightly"));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "nothing", hol_bitmap_merge(disk, "nightly", sources, 0));
    CHECK_CODE(HOL_ERR_NULL, "sources", hol_bitmap_merge(disk, "nightly", sources, 2));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "sources", hol_bitmap_merge(disk, "nightly", sources, SIZE_MAX));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "absent", hol_bitmap_merge(disk, "nightly", sources + 2, 1));

    refuse(disk, HOL_ERR_INVALID_ARGUMENT, "kind cannot be 0", (hol_bitmap_change){ .name = "x" });
    refuse(disk, HOL_ERR_INVALID_ARGUMENT, "kind cannot be 8", (hol_bitmap_change){ .name = "x", .kind = 8 });
    refuse(disk, HOL_ERR_NULL, "name", (hol_bitmap_change){ .kind = HOL_CHANGE_CLEAR });
    refuse(disk, HOL_ERR_NULL, "new_name", (hol_bitmap_change){ .kind = HOL_CHANGE_RENAME, .name = "weekly" });
    refuse(disk, HOL_ERR_NULL, "sources", (hol_bitmap_change){ .kind = HOL_CHANGE_MERGE, .name = "weekly" });
    refuse(disk, HOL_ERR_INVALID_ARGUMENT, "granularity is only for kind HOL_CHANGE_ADD",
           (hol_bitmap_change){ .kind = HOL_CHANGE_CLEAR, .name = "weekly", .granularity = 512 });
    refuse(disk, HOL_ERR_INVALID_ARGUMENT, "source_disk is only for kind HOL_CHANGE_MERGE",
           (hol_bitmap_change){ .kind = HOL_CHANGE_ENABLE, .name = "weekly", .source_disk = disk });
    hol_bitmap_change wrong[] = { HOL_OPTIONS_INIT(hol_bitmap_change), { .struct_size = 8 } };
    wrong[0].kind = HOL_CHANGE_REMOVE;
    wrong[0].name = "weekly";
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "changes[1].struct_size", hol_bitmap_apply(disk, wrong, 2));
    CHECK(number_of(disk) == 2 && dirty(disk, "weekly") == 192 * KIB && dirty(disk, "nightly") == 0);

    /* While one may write, nobody else opens the image. */
    hol_disk_options writing = HOL_OPTIONS_INIT(hol_disk_options);
    writing.access = HOL_ACCESS_WRITE;
    hol_disk *second = NULL;
    const char *path = path_in(work, "one.qcow2");
    CHECK_CODE(HOL_ERR_LOCKED, "one.qcow2", hol_disk_open(path, &writing, &second));
    CHECK_CODE(HOL_ERR_LOCKED, "one.qcow2", hol_disk_open(path, NULL, &second));
    OK(hol_disk_close(disk));
    disk = open_disk(work, "one.qcow2");
    CHECK_CODE(HOL_ERR_LOCKED, "one.qcow2", hol_disk_open(path, &writing, &second));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "one.qcow2", hol_bitmap_clear(disk, "weekly"));
    OK(hol_disk_close(disk));

    writing.sharing = HOL_SHARING_FORCE;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "one.qcow2", hol_disk_open(path, &writing, &second));
    writing.sharing = HOL_SHARING_LOCKED;
    writing.access = 2;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "access", hol_disk_open(path, &writing, &second));
    writing.access = HOL_ACCESS_READ;
    CHECK(second == NULL);
}

static void unusable(void)
{
    copy(images, "inuse.qcow2", work, "inuse.qcow2");
    hol_disk *disk = open_to_write(work, "inuse.qcow2");
    CHECK_CODE(HOL_ERR_BITMAP_UNUSABLE, "nightly", hol_bitmap_clear(disk, "nightly"));
    OK(hol_bitmap_add(disk, "next", NULL));
    OK(hol_bitmap_remove(disk, "nightly"));
    CHECK(number_of(disk) == 1);
    OK(hol_disk_close(disk));
    check_image(work, "inuse.qcow2");
}

static void after_a_backup(void)
{
    copy(images, "disk.qcow2", work, "backed.qcow2");
    hol_disk *disk = open_to_write(work, "backed.qcow2");
    CHECK(about(disk, "nightly").count == 192 * KIB);
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = HOL_SYNC_INCREMENTAL;
    options.bitmap = "nightly";
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "increment.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    /* What the disk tells is of now. */
    CHECK(about(disk, "nightly").count == 0 && dirty(disk, "nightly") == 0);
    OK(hol_disk_close(disk));
    check_image(work, "backed.qcow2");
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    one_by_one();
    from_another_disk();
    as_one_step();
    refusals();
    unusable();
    after_a_backup();
    return 0;
}
