/* A cancelled backup leaves nothing, whether it is asked to stop or just freed. */
#include "check.h"

static hol_txn *start(hol_disk *disk, const char *target)
{
    /* Compression at its slowest: the backup still runs when the cancel comes. */
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.compression = HOL_COMPRESSION_ZSTD;
    options.compression_level = 19;
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    OK(hol_txn_add(txn, hol_action_backup(disk, target, &options)));
    OK(hol_txn_start(txn));
    return txn;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_disk *disk = open_disk(argv[1], "slow.qcow2");
    hol_txn *txn = start(disk, path_in(argv[2], "cancelled.qcow2"));
    CHECK_CODE(HOL_TIMED_OUT, "", hol_txn_wait(txn, 0));
    OK(hol_txn_cancel(txn));
    CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(txn, -1));
    CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(txn, 0));
    OK(hol_txn_cancel(txn));
    hol_job *job = NULL;
    int code = 0;
    const char *message = NULL;
    OK(hol_txn_job(txn, 0, &job));
    OK(hol_job_error(job, &code, &message));
    CHECK(code == HOL_ERR_CANCELLED && message && message[0]);
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    int cancelled = 0;
    while (hol_txn_next_event(txn, &event) == 1)
        cancelled += event.kind == HOL_EVENT_CANCELLED;
    CHECK(cancelled == 1 && event.kind == HOL_EVENT_FINISHED);
    CHECK(files_in(argv[2]) == 0);
    hol_txn_free(txn);
    /* The job outlives the transaction. */
    CHECK(message[0]);
    hol_job_free(job);

    txn = start(disk, path_in(argv[2], "freed.qcow2"));
    hol_txn_free(txn);
    CHECK(files_in(argv[2]) == 0);
    OK(hol_disk_close(disk));
    return 0;
}
