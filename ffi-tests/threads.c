/* Each thread has its own last error, and threads share a disk. */
#include "check.h"

#include <pthread.h>

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
    return 0;
}
