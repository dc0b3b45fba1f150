/* Each way to fail that a program can meet: its code, its text, and that nothing is left behind. */
#include "check.h"

#include <errno.h>
#include <sys/stat.h>

static const char *images, *work;

static int open_as(const char *name, const hol_disk_options *options)
{
    hol_disk *disk = (hol_disk *)&images;
    int code = hol_disk_open(path_in(images, name), options, &disk);
    CHECK((code == HOL_OK) == (disk != NULL));
    OK(hol_disk_close(disk));
    return code;
}

static void opening(void)
{
    CHECK_CODE(HOL_ERR_NOT_FOUND, "missing.qcow2", open_as("missing.qcow2", NULL));
    CHECK(hol_last_error_errno() == ENOENT);
    CHECK_CODE(HOL_ERR_IO, "disk.qcow2/inside", open_as("disk.qcow2/inside", NULL));
    CHECK(hol_last_error_errno() == ENOTDIR);
    CHECK_CODE(HOL_ERR_CORRUPT, "broken.qcow2", open_as("broken.qcow2", NULL));
    CHECK(hol_last_error_errno() == 0);
    CHECK_CODE(HOL_ERR_UNSUPPORTED, "future.qcow2", open_as("future.qcow2", NULL));
    CHECK_CODE(HOL_ERR_ENCRYPTED, "encrypted.qcow2", open_as("encrypted.qcow2", NULL));
    CHECK_CODE(HOL_ERR_POLICY_DENIED, "denied.qcow2", open_as("sub/denied.qcow2", NULL));

    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.backing_policy = HOL_BACKING_UNDER;
    CHECK_CODE(HOL_ERR_NULL, "backing_dir", open_as("disk.qcow2", &options));
    options.backing_dir = images;
    CHECK_CODE(HOL_OK, "", open_as("sub/denied.qcow2", &options));
    options.backing_policy = HOL_BACKING_DENY;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "backing_dir", open_as("disk.qcow2", &options));
    options.backing_dir = NULL;
    CHECK_CODE(HOL_ERR_POLICY_DENIED, "top.qcow2", open_as("top.qcow2", &options));
    options.backing_policy = HOL_BACKING_ANY;
    CHECK_CODE(HOL_OK, "", open_as("sub/denied.qcow2", &options));
    options.chain_limit = 1;
    CHECK_CODE(HOL_ERR_LIMIT, "chain limit", open_as("top.qcow2", &options));
    options.chain_limit = 2;
    CHECK_CODE(HOL_OK, "", open_as("top.qcow2", &options));
    options.memory_limit = 1;
    CHECK_CODE(HOL_ERR_LIMIT, "", open_as("disk.qcow2", &options));
}

/* Another process has the image open for writing. */
static void locking(void)
{
    const char *image = path_in(images, "locked.qcow2"), *said = path_in(work, "said");
    char command[4096];
    snprintf(command, sizeof command, "qemu-io '%s' > '%s'", image, said);
    CHECK(mkfifo(said, 0600) == 0);
    FILE *writer = popen(command, "w");
    CHECK(writer != NULL);
    FILE *answers = fopen(said, "r");
    /* Its prompt comes when the image is open. */
    CHECK(answers != NULL && fgetc(answers) == 'q');
    CHECK_CODE(HOL_ERR_LOCKED, "locked.qcow2", open_as("locked.qcow2", NULL));
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.sharing = HOL_SHARING_FORCE;
    CHECK_CODE(HOL_OK, "", open_as("locked.qcow2", &options));
    fputs("quit\n", writer);
    pclose(writer);
    fclose(answers);
    remove(said);
    CHECK_CODE(HOL_OK, "", open_as("locked.qcow2", NULL));
}

static int count_calls(const hol_extent *extent, void *opaque)
{
    (void)extent;
    return ++*(int *)opaque, 0;
}

static void reading(hol_disk *disk)
{
    uint8_t byte;
    int calls = 0;
    uint64_t number = 7;
    hol_bitmap_details details = HOL_OPTIONS_INIT(hol_bitmap_details);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "", hol_disk_read(disk, 8 << 20, &byte, 1));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "", hol_disk_read(disk, UINT64_MAX, &byte, 1));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "buffer", hol_disk_read(disk, 0, &byte, SIZE_MAX));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "past the disk",
               hol_disk_extents(disk, 1, 8 << 20, count_calls, &calls));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "past the disk",
               hol_disk_extents(disk, UINT64_MAX, 2, count_calls, &calls));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no bitmap 9", hol_bitmap_info_at(disk, 9, &details));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "weekly", hol_bitmap_info(disk, "weekly", &details));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "weekly", hol_bitmap_count(disk, "weekly", &number));
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "weekly", hol_bitmap_extents(disk, "weekly", count_calls, &calls));

    hol_disk *unusable = open_disk(images, "inuse.qcow2");
    CHECK_CODE(HOL_ERR_BITMAP_UNUSABLE, "nightly", hol_bitmap_count(unusable, "nightly", &number));
    CHECK_CODE(HOL_ERR_BITMAP_UNUSABLE, "nightly",
               hol_bitmap_extents(unusable, "nightly", count_calls, &calls));
    OK(hol_disk_close(unusable));
    CHECK(calls == 0 && number == 7 && details.granularity == 0);
}

/* The one action is refused, by its constructor or by the start. */
static int back_up(hol_disk *disk, const char *target, const hol_backup_options *options)
{
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    int code = hol_txn_add(txn, hol_action_backup(disk, target, options));
    if (code == HOL_OK)
        code = hol_txn_commit(txn);
    hol_txn_free(txn);
    return code;
}

static void backing_up(hol_disk *disk)
{
    const char *target = path_in(work, "target.qcow2"), *taken = path_in(images, "base.qcow2");
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = 99;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "options->sync", back_up(disk, target, &options));
    options = (hol_backup_options)HOL_OPTIONS_INIT(hol_backup_options);
    options.compression_level = 3;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "compression_level", back_up(disk, target, &options));
    options = (hol_backup_options)HOL_OPTIONS_INIT(hol_backup_options);
    options.backing_format = HOL_FORMAT_RAW;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "backing_format", back_up(disk, target, &options));
    options = (hol_backup_options)HOL_OPTIONS_INIT(hol_backup_options);
    options.cluster_size = 1000;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "", back_up(disk, target, &options));
    options = (hol_backup_options)HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = HOL_SYNC_BITMAP;
    options.bitmap_mode = HOL_BITMAP_MODE_NEVER;
    options.bitmap = "weekly";
    CHECK_CODE(HOL_ERR_BITMAP_NOT_FOUND, "weekly", back_up(disk, target, &options));
    CHECK_CODE(HOL_ERR_EXISTS, "base.qcow2", back_up(disk, taken, NULL));
    CHECK_CODE(HOL_ERR_NOT_FOUND, "nowhere", back_up(disk, path_in(work, "nowhere/target.qcow2"), NULL));
    CHECK(files_in(work) == 0);
}

static void states(hol_disk *disk)
{
    hol_txn *txn = hol_txn_new();
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    hol_job *job = NULL;
    size_t number;
    CHECK(txn != NULL);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_wait(txn, 0));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_cancel(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_event_fd(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_next_event(txn, &event));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_job_count(txn, &number));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "not started", hol_txn_job(txn, 0, &job));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "mode", hol_txn_set_completion(txn, 2));
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "state.qcow2"), NULL)));
    OK(hol_txn_start(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started already", hol_txn_start(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started already", hol_txn_commit(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started already", hol_txn_set_completion(txn, 0));
    /* The refused action is taken all the same: valgrind sees it when not. */
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started already", hol_txn_add(txn, hol_action_backup(disk, "x", NULL)));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no job 1", hol_txn_job(txn, 1, &job));
    OK(hol_txn_wait(txn, -1));
    hol_txn_free(txn);
    CHECK(remove(path_in(work, "state.qcow2")) == 0);
    CHECK(files_in(work) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    CHECK(hol_last_error_code() == HOL_OK && strcmp(hol_last_error_message(), "") == 0);
    opening();
    locking();
    hol_disk *disk = open_disk(images, "disk.qcow2");
    reading(disk);
    backing_up(disk);
    states(disk);
    OK(hol_disk_close(disk));
    hol_last_error_clear();
    CHECK(hol_last_error_code() == HOL_OK && strcmp(hol_last_error_message(), "") == 0);
    return 0;
}
