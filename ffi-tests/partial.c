/* Bitmap mode always: what a cancelled backup keeps, and the increment that takes the rest. And sync mode none. */
#include "check.h"

#include <time.h>

#define KIB UINT64_C(1024)

static const char *work;

static void copy(const char *from, const char *to)
{
    static char bytes[1 << 16];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    CHECK(in != NULL && out != NULL);
    for (size_t length; (length = fread(bytes, 1, sizeof bytes, in)) > 0;)
        CHECK(fwrite(bytes, 1, length, out) == length);
    CHECK(fclose(out) == 0 && fclose(in) == 0);
}

static hol_disk *open_to_write(const char *path)
{
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.access = HOL_ACCESS_WRITE;
    hol_disk *disk = NULL;
    OK(hol_disk_open(path, &options, &disk));
    return disk;
}

static void check_image(const char *path)
{
    char command[2048];
    snprintf(command, sizeof command, "qemu-img check -q '%s'", path);
    CHECK(system(command) == 0);
}

static uint64_t dirty(hol_disk *disk)
{
    uint64_t bytes = UINT64_MAX;
    OK(hol_bitmap_count(disk, "b", &bytes));
    return bytes;
}

static hol_backup_options always(void)
{
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = HOL_SYNC_FULL;
    options.bitmap = "b";
    options.bitmap_mode = HOL_BITMAP_MODE_ALWAYS;
    options.compression = HOL_COMPRESSION_ZSTD;
    options.compression_level = 1;
    /* Bytes in a second: slow enough to be cancelled on the way. */
    options.speed = 4 << 20;
    return options;
}

static void cancelled(hol_disk *disk)
{
    hol_backup_options options = always();
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "partial.qcow2"), &options)));
    OK(hol_txn_start(txn));
    hol_job *job = NULL;
    OK(hol_txn_job(txn, 0, &job));
    uint64_t done = 0, total = 0, size = 0;
    while (done == 0) {
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        OK(hol_job_progress(job, &done, &total));
    }
    hol_report report = HOL_OPTIONS_INIT(hol_report);
    OK(hol_job_report(job, &report));
    CHECK(report.partial_end == 0);
    OK(hol_txn_cancel(txn));
    /* Whatever text is told on the way stays, and the last one is complete. */
    int code = 0;
    const char *early = NULL, *late = NULL;
    do
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* under valgrind no other thread runs meanwhile */
    while (hol_job_error(job, &code, &early) == HOL_OK && early == NULL);
    CHECK(code == HOL_ERR_CANCELLED);
    CHECK_CODE(HOL_ERR_CANCELLED, "the partial target '", hol_txn_wait(txn, -1));
    OK(hol_job_error(job, &code, &late));
    CHECK(code == HOL_ERR_CANCELLED && strstr(late, "partial.qcow2' was kept") && strstr(late, "has the rest"));
    CHECK(strstr(early, "the backup was cancelled") && strstr(late, "the backup was cancelled"));
    hol_txn_free(txn);

    OK(hol_job_report(job, &report));
    OK(hol_disk_size(disk, &size));
    CHECK(report.partial_end > 0 && report.partial_end <= size && report.partial_end % (64 * KIB) == 0);
    CHECK(report.data_bytes + report.zero_bytes == report.partial_end);
    CHECK(dirty(disk) == size - report.partial_end);
    /* An older program does not know of it. */
    hol_report older = { .struct_size = offsetof(hol_report, partial_end), .partial_end = 7 };
    OK(hol_job_report(job, &older));
    CHECK(older.data_bytes == report.data_bytes && older.partial_end == 7);
    hol_job_free(job);
    check_image(path_in(work, "partial.qcow2"));
}

static void the_rest(hol_disk *disk)
{
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = HOL_SYNC_INCREMENTAL;
    options.bitmap = "b";
    options.backing = "partial.qcow2";
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "rest.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    CHECK(dirty(disk) == 0);
    hol_disk *whole = open_disk(work, "rest.qcow2");
    check_same(disk, whole);
    OK(hol_disk_close(whole));
    check_image(path_in(work, "rest.qcow2"));
}

/* A start that is refused with this text. */
static void refused(hol_disk *disk, const hol_backup_options *options, int backups, const char *part)
{
    hol_txn *txn = hol_txn_new();
    const char *targets[] = { path_in(work, "x.qcow2"), path_in(work, "y.qcow2") };
    int before = files_in(work);
    for (int i = 0; i < backups; i++)
        OK(hol_txn_add(txn, hol_action_backup(disk, targets[i], options)));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, part, hol_txn_start(txn));
    hol_txn_free(txn);
    CHECK(files_in(work) == before && dirty(disk) == 0);
}

static void none(hol_disk *disk)
{
    hol_backup_options options = always();
    refused(disk, &options, 2, "use individual completion");
    options.sync = HOL_SYNC_NONE;
    options.compression = options.compression_level = 0;
    options.speed = 0;
    refused(disk, &options, 1, "sync mode none copies nothing");
    options.bitmap = NULL;
    refused(disk, &options, 1, "without a bitmap");
    options.bitmap_mode = HOL_BITMAP_MODE_DEFAULT;
    refused(disk, &options, 1, "backing file");

    options.backing = "rest.qcow2";
    hol_txn *txn = hol_txn_new();
    hol_job *job = NULL;
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "none.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    OK(hol_txn_job(txn, 0, &job));
    hol_report report = HOL_OPTIONS_INIT(hol_report);
    OK(hol_job_report(job, &report));
    CHECK(report.data_bytes == 0 && report.zero_bytes == 0 && report.stored_bytes == 0 && report.partial_end == 0);
    hol_job_free(job);
    hol_txn_free(txn);
    hol_disk *empty = open_disk(work, "none.qcow2");
    check_same(disk, empty);
    OK(hol_disk_close(empty));
    check_image(path_in(work, "none.qcow2"));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    work = argv[2];
    copy(path_in(argv[1], "slow.qcow2"), path_in(work, "disk.qcow2"));
    hol_disk *disk = open_to_write(path_in(work, "disk.qcow2"));
    OK(hol_bitmap_add(disk, "b", NULL));
    cancelled(disk);
    the_rest(disk);
    none(disk);
    OK(hol_disk_close(disk));
    return 0;
}
