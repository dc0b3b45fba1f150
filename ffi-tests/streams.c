/* A host without standard streams: no file of the library becomes one, so no text of anybody lands in an image. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

static int streams[3];

static void close_streams(void)
{
    for (int fd = 0; fd < 3; fd++) {
        streams[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        CHECK(streams[fd] >= 100);
    }
    for (int fd = 0; fd < 3; fd++)
        close(fd);
}

/* With the streams back, for CHECK: the number of them that something else has become, as seen before. */
static int open_streams(void)
{
    int taken = 0;
    for (int fd = 0; fd < 3; fd++)
        taken += write(fd, "a plugin of the host says hello\n", 32) >= 0 || errno != EBADF || fcntl(fd, F_GETFD) >= 0;
    for (int fd = 0; fd < 3; fd++)
        if (dup2(streams[fd], fd) < 0 || close(streams[fd]) < 0)
            exit(2);
    return taken;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *source = path_in(argv[1], "top.qcow2"), *made = path_in(argv[2], "made.qcow2");
    const char *copy = path_in(argv[2], "copy.qcow2");
    unsigned char bytes[65536];
    memset(bytes, 0x5a, sizeof bytes);

    close_streams();
    hol_disk *disk = NULL, *top = NULL;
    hol_disk_options writing = HOL_OPTIONS_INIT(hol_disk_options);
    writing.access = HOL_ACCESS_WRITE;
    int code = hol_disk_create(made, 1 << 20, NULL, &disk);
    code |= disk ? hol_disk_close(disk) : 1;
    code |= hol_disk_open(made, &writing, &disk);
    code |= disk ? hol_disk_write(disk, 0, bytes, sizeof bytes) : 1;
    code |= disk ? hol_disk_flush(disk) : 1;
    code |= hol_disk_open(source, NULL, &top);
    hol_txn *txn = hol_txn_new();
    code |= hol_txn_add(txn, hol_action_backup(top, copy, NULL));
    code |= hol_txn_start(txn);
    struct pollfd event = { hol_txn_event_fd(txn), POLLIN, 0 };
    int ready = poll(&event, 1, 60000);
    int taken = open_streams();
    CHECK(code == HOL_OK);
    CHECK(event.fd > 2 && ready == 1);
    CHECK(taken == 0);
    OK(hol_txn_wait(txn, -1));
    hol_txn_free(txn);

    hol_disk *copied = open_disk(argv[2], "copy.qcow2");
    check_same(top, copied);
    OK(hol_disk_close(copied));
    OK(hol_disk_close(top));
    OK(hol_disk_close(disk));
    disk = open_disk(argv[2], "made.qcow2");
    unsigned char read_back[sizeof bytes];
    OK(hol_disk_read(disk, 0, read_back, sizeof read_back));
    CHECK(memcmp(bytes, read_back, sizeof bytes) == 0);
    OK(hol_disk_close(disk));
    return 0;
}
