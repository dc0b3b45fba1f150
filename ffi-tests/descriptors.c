/* Images by descriptor: read, written, backed up with their bitmap, refused, and with locks of their own. */
#define _GNU_SOURCE
#include "changing.h"

#include <fcntl.h>
#include <unistd.h>

static const char *images, *work;

static int opened(const char *name, int flags)
{
    int fd = open(path_in(work, name), flags | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static hol_disk *disk_of(int fd, const char *path, uint32_t access)
{
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.access = access;
    hol_disk *disk = NULL;
    OK(hol_disk_open_fd(fd, path, &options, &disk));
    return disk;
}

/* The path is but a name: there is no such file, and the descriptor is closed at once. */
static void read_without_a_path(void)
{
    int fd = opened("disk.qcow2", O_RDONLY);
    hol_disk *disk = disk_of(fd, path_in(work, "no/such/file"), HOL_ACCESS_READ);
    CHECK(close(fd) == 0);
    hol_disk *same = open_disk(images, "disk.qcow2");
    check_same(disk, same);
    CHECK(dirty(disk, "nightly") == 192 * KIB);
    OK(hol_disk_close(same));
    OK(hol_disk_close(disk));
}

static void with_a_backing_file(void)
{
    int fd = opened("top.qcow2", O_RDONLY);
    hol_disk *disk = disk_of(fd, path_in(work, "top.qcow2"), HOL_ACCESS_READ);
    hol_disk *same = open_disk(images, "top.qcow2");
    check_same(disk, same);
    OK(hol_disk_close(same));
    OK(hol_disk_close(disk));
    CHECK(close(fd) == 0);
}

/* The bitmap changes through the descriptor. */
static void backed_up(void)
{
    int fd = opened("disk.qcow2", O_RDWR);
    hol_disk *disk = disk_of(fd, path_in(work, "disk.qcow2"), HOL_ACCESS_WRITE);
    OK(hol_disk_write(disk, 0, (const uint8_t *)"new", 3));
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.bitmap = "nightly";
    options.bitmap_mode = HOL_BITMAP_MODE_ON_SUCCESS;
    options.sync = HOL_SYNC_FULL;
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "copy.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    CHECK(dirty(disk, "nightly") == 0);
    hol_disk *target = open_disk(work, "copy.qcow2");
    check_same(disk, target);
    OK(hol_disk_close(target));
    OK(hol_disk_close(disk));
    /* The caller's descriptor is as it was, and without locks. */
    CHECK(fcntl(fd, F_GETFD) >= 0);
    hol_disk *again = open_to_write(work, "disk.qcow2");
    OK(hol_disk_close(again));
    CHECK(close(fd) == 0);
    check_image(work, "disk.qcow2");
}

/* An open file has one set of locks. */
static void locks(void)
{
    const char *path = path_in(work, "disk.qcow2");
    int fd = opened("disk.qcow2", O_RDWR);
    hol_disk *disk = disk_of(fd, path, HOL_ACCESS_WRITE), *other = NULL;
    CHECK_CODE(HOL_ERR_LOCKED, "has locks already", hol_disk_open_fd(fd, path, NULL, &other));
    CHECK(other == NULL);
    CHECK_CODE(HOL_ERR_LOCKED, "this process itself", hol_disk_open(path, NULL, &other));
    int own = opened("disk.qcow2", O_RDONLY);
    CHECK_CODE(HOL_ERR_LOCKED, "this process itself", hol_disk_open_fd(own, path, NULL, &other));
    OK(hol_disk_close(disk));
    disk = disk_of(own, path, HOL_ACCESS_READ);
    OK(hol_disk_close(disk));
    CHECK(close(own) == 0 && close(fd) == 0);
}

static void refusals(void)
{
    const char *path = path_in(work, "disk.qcow2");
    hol_disk *disk = (hol_disk *)&disk;
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.access = HOL_ACCESS_WRITE;
    int fd = opened("disk.qcow2", O_RDONLY);
    CHECK_CODE(HOL_ERR_PERMISSION, "reading only", hol_disk_open_fd(fd, path, &options, &disk));
    CHECK(disk == NULL);
    CHECK_CODE(HOL_ERR_NULL, "path", hol_disk_open_fd(fd, NULL, NULL, &disk));
    CHECK_CODE(HOL_ERR_NULL, "disk", hol_disk_open_fd(fd, path, NULL, NULL));
    CHECK(close(fd) == 0);
    CHECK_CODE(HOL_ERR_IO, "descriptor", hol_disk_open_fd(fd, path, NULL, &disk));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "fd cannot be -1", hol_disk_open_fd(-1, path, NULL, &disk));
    const int unfit[] = { O_WRONLY, O_RDWR | O_APPEND, O_RDONLY | O_PATH };
    for (size_t i = 0; i < sizeof unfit / sizeof *unfit; i++) {
        fd = opened("disk.qcow2", unfit[i]);
        CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "descriptor", hol_disk_open_fd(fd, path, NULL, &disk));
        CHECK(close(fd) == 0);
    }
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "not a regular file", hol_disk_open_fd(ends[0], path, NULL, &disk));
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    copy(images, "disk.qcow2", work, "disk.qcow2");
    copy(images, "top.qcow2", work, "top.qcow2");
    copy(images, "base.qcow2", work, "base.qcow2");
    read_without_a_path();
    with_a_backing_file();
    backed_up();
    locks();
    refusals();
    return 0;
}
