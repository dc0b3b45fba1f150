/* A thread loads the library, uses it with its own threads and errors, unloads it, and ends; then the main thread does.
 * Arguments: LIBRARY IMAGES WORK. */
#include <holstein.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "dlopen.c:%d: not so: %s\n", __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

/* ISO C has no cast from an object to a function pointer. */
#define SYMBOL(name)                                     \
    __typeof__(&hol_##name) name;                        \
    do {                                                 \
        void *symbol_ = dlsym(library, "hol_" #name);    \
        CHECK(symbol_ != NULL);                          \
        memcpy(&name, &symbol_, sizeof name);            \
    } while (0)

static char **arguments;

static void *use(void *round)
{
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    SYMBOL(last_error_message);
    SYMBOL(disk_open);
    SYMBOL(disk_close);
    SYMBOL(disk_size);
    SYMBOL(disk_read);
    SYMBOL(recover);
    SYMBOL(action_backup);
    SYMBOL(txn_new);
    SYMBOL(txn_add);
    SYMBOL(txn_commit);
    SYMBOL(txn_free);

    char source[1024], target[1024];
    snprintf(source, sizeof source, "%s/disk.qcow2", arguments[2]);
    snprintf(target, sizeof target, "%s/copy%d.qcow2", arguments[3], *(int *)round);
    hol_disk *disk = NULL;
    CHECK(disk_open("/missing/image", NULL, &disk) == HOL_ERR_NOT_FOUND);
    CHECK(strstr(last_error_message(), "/missing/image") != NULL);
    CHECK(disk_open(source, NULL, &disk) == HOL_OK);
    hol_txn *txn = txn_new();
    CHECK(txn != NULL && txn_add(txn, action_backup(disk, target, NULL)) == HOL_OK);
    CHECK(txn_commit(txn) == HOL_OK);
    txn_free(txn);
    CHECK(recover(arguments[3], NULL, NULL, NULL) == HOL_OK);
    /* A read that is large enough for threads of the disk. */
    uint64_t size = 0;
    CHECK(disk_size(disk, &size) == HOL_OK);
    unsigned char *buffer = malloc((size_t)size);
    CHECK(buffer != NULL && disk_read(disk, 0, buffer, (size_t)size) == HOL_OK);
    free(buffer);
    CHECK(disk_close(disk) == HOL_OK);
    CHECK(dlclose(library) == 0);
    /* Every handle is freed, and this thread goes on. */
    CHECK(dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) == NULL);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    arguments = argv;
    int round = 0;
    for (; round < 3; round++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, use, &round) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    for (; round < 6; round++)
        use(&round);
    /* Nothing of the library is left in the process. */
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    int threads = 0;
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status))
        sscanf(line, "Threads: %d", &threads);
    fclose(status);
    CHECK(threads == 1);
    return 0;
}
