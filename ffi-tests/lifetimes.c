/* Handles are freed in every order, and what depends on them goes on. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_job *jobs[2];
    for (int disk_first = 0; disk_first < 2; disk_first++) {
        const char *target = path_in(argv[2], disk_first ? "a.qcow2" : "b.qcow2");
        hol_disk *disk = open_disk(argv[1], "disk.qcow2");
        hol_action *action = hol_action_backup(disk, target, NULL), *unused = hol_action_backup(disk, "x", NULL);
        CHECK(action && unused);
        if (disk_first)
            OK(hol_disk_close(disk));
        hol_txn *txn = hol_txn_new(), *other = hol_txn_new();
        OK(hol_txn_add(txn, action));
        OK(hol_txn_start(txn));
        OK(hol_txn_job(txn, 0, &jobs[disk_first]));
        OK(hol_txn_wait(txn, -1));
        if (!disk_first)
            OK(hol_disk_close(disk));
        /* One that was never started takes its action along. */
        OK(hol_txn_add(other, unused));
        hol_txn_free(other);
        hol_txn_free(txn);
    }
    /* The jobs outlive all. */
    for (int i = 0; i < 2; i++) {
        uint32_t status = 0;
        hol_report report = HOL_OPTIONS_INIT(hol_report);
        OK(hol_job_status(jobs[i], &status));
        OK(hol_job_report(jobs[i], &report));
        CHECK(status == HOL_JOB_CONCLUDED && report.data_bytes > 0);
        hol_job_free(jobs[i]);
    }
    CHECK(files_in(argv[2]) == 2);
    return 0;
}
