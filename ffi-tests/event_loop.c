/* Two backups in one transaction, followed through the event descriptor in a poll loop. */
#include "check.h"

#include <poll.h>

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_disk *sources[2] = { open_disk(argv[1], "disk.qcow2"), open_disk(argv[1], "second.qcow2") };
    const char *names[2] = { "first.qcow2", "second.qcow2" };
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    for (int i = 0; i < 2; i++)
        OK(hol_txn_add(txn, hol_action_backup(sources[i], path_in(argv[2], names[i]), NULL)));
    OK(hol_txn_start(txn));

    int fd = hol_txn_event_fd(txn), finished = 0, completed[2] = { 0, 0 };
    uint32_t status[2] = { 0, 0 };
    uint64_t done[2] = { 0, 0 };
    CHECK(fd >= 0);
    while (!finished) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        CHECK(poll(&ready, 1, 120 * 1000) == 1);
        hol_event event = HOL_OPTIONS_INIT(hol_event);
        int got;
        while ((got = hol_txn_next_event(txn, &event)) == 1) {
            CHECK(!finished);
            CHECK(event.job >= -1 && event.job < 2 && event.reserved == 0);
            CHECK((event.job == -1) == (event.kind == HOL_EVENT_FINISHED));
            switch (event.kind) {
            case HOL_EVENT_STATUS:
                CHECK(event.status >= HOL_JOB_CREATED && event.status <= HOL_JOB_DISMISSED);
                status[event.job] = event.status;
                break;
            case HOL_EVENT_PROGRESS:
                CHECK(event.done >= done[event.job] && event.done <= event.total);
                done[event.job] = event.done;
                break;
            case HOL_EVENT_COMPLETED:
                completed[event.job]++;
                break;
            case HOL_EVENT_FINISHED:
                finished = 1;
                break;
            default:
                CHECK(!"an event of a failure");
            }
        }
        CHECK(got == 0);
    }
    /* Nothing waits any more, and the descriptor says so. */
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    CHECK(poll(&ready, 1, 0) == 0);
    OK(hol_txn_wait(txn, 0));
    CHECK(completed[0] == 1 && completed[1] == 1);
    CHECK(status[0] == HOL_JOB_CONCLUDED && status[1] == HOL_JOB_CONCLUDED);

    size_t jobs = 0;
    OK(hol_txn_job_count(txn, &jobs));
    CHECK(jobs == 2);
    for (size_t i = 0; i < jobs; i++) {
        hol_job *job = NULL;
        uint64_t at = 0, total = 0;
        uint32_t now = 0;
        int code = 1;
        const char *message = "";
        OK(hol_txn_job(txn, i, &job));
        OK(hol_job_status(job, &now));
        OK(hol_job_progress(job, &at, &total));
        OK(hol_job_error(job, &code, &message));
        CHECK(now == HOL_JOB_CONCLUDED && at == total && total > 0 && code == HOL_OK && !message);
        hol_job_free(job);
        hol_disk *copy = open_disk(argv[2], names[i]);
        check_same(sources[i], copy);
        OK(hol_disk_close(copy));
    }
    hol_txn_free(txn);
    OK(hol_disk_close(sources[0]));
    OK(hol_disk_close(sources[1]));
    return 0;
}
