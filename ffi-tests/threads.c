/* Each thread has its own last error, and threads share a disk. */
#include "check.h"

#include <pthread.h>
#include <time.h>

static pthread_barrier_t both_failed;
static hol_disk *disk;

static void *fail(void *path)
{
    hol_disk *none = NULL;
    CHECK(strcmp(hol_last_error_message(), "") == 0);
    CHECK_CODE(HOL_ERR_NOT_FOUND, (const char *)path, hol_disk_open(path, NULL, &none));
    const char *message = hol_last_error_message();
    pthread_barrier_wait(&both_failed);
    /* The other thread has failed meanwhile. */
    CHECK(message == hol_last_error_message() && strstr(message, (const char *)path));
    /* A call that succeeds leaves the text alone. */
    uint64_t size = 0;
    for (int i = 0; i < 100; i++) {
        uint8_t bytes[4096];
        OK(hol_disk_size(disk, &size));
        OK(hol_disk_read(disk, (uint64_t)i << 12, bytes, sizeof bytes));
    }
    CHECK(strstr(message, (const char *)path));
    return NULL;
}

/* One thread copies, and one leads, whatever the machine has. */
static void a_limit(const char *images, const char *work)
{
    hol_disk *disks[2] = { open_disk(images, "disk.qcow2"), open_disk(images, "second.qcow2") };
    const char *targets[2] = { path_in(work, "a.qcow2"), path_in(work, "b.qcow2") };
    hol_backup_options slow = HOL_OPTIONS_INIT(hol_backup_options);
    slow.speed = 1;
    const struct timespec moment = { 0, 1000000 };
    int before = files_in("/proc/self/task");
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_set_thread_limit(txn, 1));
    for (int i = 0; i < 2; i++)
        OK(hol_txn_add(txn, hol_action_backup(disks[i], targets[i], &slow)));
    OK(hol_txn_start(txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started", hol_txn_set_thread_limit(txn, 2));
    for (int i = 0; i < 2; i++) {
        hol_job *job = NULL;
        uint32_t status = HOL_JOB_CREATED;
        OK(hol_txn_job(txn, (size_t)i, &job));
        while (status == HOL_JOB_CREATED) {
            nanosleep(&moment, NULL);
            OK(hol_job_status(job, &status));
        }
        CHECK(files_in("/proc/self/task") == before + 2);
        OK(hol_job_set_speed(job, 0));
        hol_job_free(job);
    }
    OK(hol_txn_wait(txn, -1));
    hol_txn_free(txn);
    for (int i = 0; i < 2; i++) {
        hol_disk *target = open_disk(work, i == 0 ? "a.qcow2" : "b.qcow2");
        check_same(disks[i], target);
        OK(hol_disk_close(target));
        OK(hol_disk_close(disks[i]));
    }
    CHECK_CODE(HOL_ERR_NULL, "txn", hol_txn_set_thread_limit(NULL, 1));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    static char first[] = "/missing/first.qcow2", second[] = "/missing/second.qcow2";
    pthread_t threads[2];
    disk = open_disk(argv[1], "disk.qcow2");
    CHECK(pthread_barrier_init(&both_failed, NULL, 2) == 0);
    CHECK(pthread_create(&threads[0], NULL, fail, first) == 0);
    CHECK(pthread_create(&threads[1], NULL, fail, second) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    pthread_barrier_destroy(&both_failed);
    CHECK(strcmp(hol_last_error_message(), "") == 0);
    OK(hol_disk_close(disk));
    a_limit(argv[1], argv[2]);
    return 0;
}
