/*
 * Three disks in one transaction, one of which fails; then the same again:
 *
 *     transaction FOLDER DISK DISK DISK
 *
 * copies what the bitmap "nightly" of each DISK marks to a file of the same name in FOLDER. The first time something takes
 * the third target's name while the copies are made: no target appears, and every bitmap is as it was. The second time all
 * three are copied, and every bitmap is clean.
 *
 *     cc -std=c11 -o transaction transaction.c $(pkg-config --cflags --libs holstein)
 */
#include <holstein.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DISKS = 3 };

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, hol_last_error_message());
    exit(1);
}

/* The three backups, each with a bitmap that begins with it. They appear at once, or after hol_job_finalize(). */
static hol_txn *transaction(hol_disk **disks, char **targets, uint32_t finalize)
{
    hol_txn *txn = hol_txn_new();
    if (!txn)
        die("transaction");
    for (int i = 0; i < DISKS; i++) {
        hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
        options.sync = HOL_SYNC_INCREMENTAL;
        options.bitmap = "nightly";
        options.finalize = finalize;
        if (hol_txn_add(txn, hol_action_bitmap_add(disks[i], "since", NULL)) < 0 ||
            hol_txn_add(txn, hol_action_backup(disks[i], targets[i], &options)) < 0)
            die("add");
    }
    return txn;
}

/* Waits until all jobs are complete and wait for hol_job_finalize(). */
static void wait_pending(hol_txn *txn)
{
    struct pollfd waiting = { .events = POLLIN };
    if ((waiting.fd = hol_txn_event_fd(txn)) < 0)
        die("events");
    for (int pending = 0; pending < DISKS;) {
        hol_event event = HOL_OPTIONS_INIT(hol_event);
        int got = hol_txn_next_event(txn, &event);
        if (got < 0)
            die("events");
        if (got == 0)
            poll(&waiting, 1, -1);
        else if (event.kind == HOL_EVENT_STATUS && event.status == HOL_JOB_PENDING)
            pending++;
        else if (event.kind == HOL_EVENT_FINISHED)
            die("it has failed too early");
    }
}

static void show(hol_disk **disks, char **paths)
{
    for (int i = 0; i < DISKS; i++) {
        uint64_t dirty;
        size_t bitmaps;
        if (hol_bitmap_count(disks[i], "nightly", &dirty) < 0 || hol_bitmap_list(disks[i], &bitmaps) < 0)
            die(paths[i]);
        printf("    %s: %" PRIu64 " dirty bytes, %zu bitmaps\n", paths[i], dirty, bitmaps);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 + DISKS) {
        fprintf(stderr, "usage: %s FOLDER DISK DISK DISK\n", argv[0]);
        return 2;
    }
    hol_disk *disks[DISKS];
    char names[DISKS][4096], *targets[DISKS], **paths = argv + 2;
    for (int i = 0; i < DISKS; i++) {
        const char *name = strrchr(paths[i], '/');
        snprintf(names[i], sizeof names[i], "%s/%s", argv[1], name ? name + 1 : paths[i]);
        targets[i] = names[i];
        hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
        options.access = HOL_ACCESS_WRITE;
        if (hol_disk_open(paths[i], &options, &disks[i]) < 0)
            die("open");
    }

    /* All is copied, and nothing has appeared yet: the moment for something to go wrong. */
    hol_txn *txn = transaction(disks, targets, HOL_LAST_STEP_MANUAL);
    if (hol_txn_start(txn) < 0)
        die("start");
    wait_pending(txn);
    FILE *in_the_way = fopen(targets[2], "wx");
    hol_job *first;
    if (!in_the_way || hol_txn_job(txn, 0, &first) < 0 || hol_job_finalize(first) < 0)
        die("finalize");
    hol_job_free(first);
    if (hol_txn_wait(txn, -1) >= 0) {
        fprintf(stderr, "the third backup has not failed\n");
        return 1;
    }
    printf("failed: %s\n", hol_last_error_message());
    for (size_t i = 0; i < DISKS; i++) {
        hol_job *job;
        const char *message;
        int code;
        if (hol_txn_job(txn, i, &job) < 0 || hol_job_error(job, &code, &message) < 0)
            die("job");
        printf("    %s: %s\n", paths[i], message);
        hol_job_free(job);
    }
    hol_txn_free(txn);
    show(disks, paths);
    fclose(in_the_way);
    remove(targets[2]);

    /* Nothing has changed, so the same can be run again at once. */
    txn = transaction(disks, targets, HOL_LAST_STEP_AUTO);
    if (hol_txn_commit(txn) < 0)
        die("commit");
    hol_txn_free(txn);
    printf("done:\n");
    show(disks, paths);
    for (int i = 0; i < DISKS; i++)
        if (hol_disk_close(disks[i]) < 0)
            die("close");
    return 0;
}
