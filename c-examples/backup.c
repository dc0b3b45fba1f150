/*
 * Backs up several qcow2 disks at once, all or none:
 *
 *     backup FOLDER DISK...
 *
 * copies each DISK to a file of the same name in FOLDER. Progress comes through a file descriptor, so that a program with
 * an event loop of its own can watch it there.
 *
 *     cc -std=c11 -o backup backup.c $(pkg-config --cflags --libs holstein)
 */
#include <holstein.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

/* Says what failed last in this thread. */
static int complain(const char *what)
{
    fprintf(stderr, "%s: %s (error %d)\n", what, hol_last_error_message(), hol_last_error_code());
    return -1;
}

/* Adds the backup of one disk to the transaction. */
static int add(hol_txn *txn, const char *folder, const char *path)
{
    const char *name = strrchr(path, '/');
    char target[4096];
    int length = snprintf(target, sizeof target, "%s/%s", folder, name ? name + 1 : path);
    if (length < 0 || (size_t)length >= sizeof target) {
        fprintf(stderr, "%s: the path of its target is too long\n", path);
        return -1;
    }

    hol_disk *disk;
    if (hol_disk_open(path, NULL, &disk) < 0)
        return complain("open");
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.sync = HOL_SYNC_FULL;
    /* The transaction takes the action, and reports NULL as the failure that hol_action_backup() had. */
    int code = hol_txn_add(txn, hol_action_backup(disk, target, &options));
    if (code < 0)
        complain("add");
    /* The action keeps what it needs of the disk. */
    if (hol_disk_close(disk) < 0)
        return complain("close");
    return code;
}

/* Shows what happens until the transaction is over. */
static int watch(hol_txn *txn, char **paths)
{
    struct pollfd waiting = { .events = POLLIN };
    waiting.fd = hol_txn_event_fd(txn);
    if (waiting.fd < 0)
        return complain("events");
    for (;;) {
        hol_event event = HOL_OPTIONS_INIT(hol_event);
        int got = hol_txn_next_event(txn, &event);
        if (got < 0)
            return complain("events");
        if (got == 0) {
            poll(&waiting, 1, -1); /* A signal only makes us look again. */
            continue;
        }
        if (event.kind == HOL_EVENT_FINISHED)
            return 0;
        if (event.kind == HOL_EVENT_PROGRESS && event.total > 0)
            printf("%s: %" PRIu64 " %%\n", paths[event.job], event.done * 100 / event.total);
    }
}

/* Tells how each disk's job ended. */
static int report(hol_txn *txn, char **paths)
{
    size_t jobs;
    if (hol_txn_job_count(txn, &jobs) < 0)
        return complain("jobs");
    for (size_t i = 0; i < jobs; i++) {
        hol_job *job;
        hol_report copied = HOL_OPTIONS_INIT(hol_report);
        const char *message;
        int code;
        if (hol_txn_job(txn, i, &job) < 0)
            return complain("job");
        if (hol_job_error(job, &code, &message) < 0 || hol_job_report(job, &copied) < 0)
            complain("job");
        else if (code < 0)
            fprintf(stderr, "%s: %s\n", paths[i], message);
        else
            printf("%s: %" PRIu64 " bytes copied\n", paths[i], copied.data_bytes);
        hol_job_free(job);
    }
    /* All succeeded, or none has left a file. */
    return hol_txn_wait(txn, -1) < 0 ? complain("backup") : 0;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s FOLDER DISK...\n", argv[0]);
        return 2;
    }
    hol_txn *txn = hol_txn_new();
    int code = txn ? 0 : complain("transaction");
    for (int i = 2; code >= 0 && i < argc; i++)
        code = add(txn, argv[1], argv[i]);
    if (code >= 0 && (code = hol_txn_start(txn)) < 0)
        complain("start");
    if (code >= 0)
        code = watch(txn, argv + 2);
    if (code >= 0)
        code = report(txn, argv + 2);
    hol_txn_free(txn);
    return code < 0;
}
