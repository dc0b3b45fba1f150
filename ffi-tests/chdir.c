/* A host may change its folder at any time: relative paths keep the meaning that they had when they were handed in. */
#include "changing.h"

#include <sys/stat.h>
#include <unistd.h>

static hol_disk *image(const char *name)
{
    hol_disk_options to_write = HOL_OPTIONS_INIT(hol_disk_options);
    to_write.access = HOL_ACCESS_WRITE;
    hol_create_options options = HOL_OPTIONS_INIT(hol_create_options);
    options.open = &to_write;
    hol_disk *disk = NULL;
    OK(hol_disk_create(name, 4 << 20, &options, &disk));
    return disk;
}

/* Adds everything in one folder, starts in a second one, and waits in a third one. */
static void run(hol_txn *txn, const char *start, const char *wait)
{
    CHECK(chdir(start) == 0);
    OK(hol_txn_start(txn));
    CHECK(chdir(wait) == 0);
    OK(hol_txn_wait(txn, -1));
    hol_txn_free(txn);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *here = path_in(argv[2], "here"), *there = path_in(argv[2], "there");
    CHECK(mkdir(here, 0777) == 0 && mkdir(there, 0777) == 0);
    CHECK(mkdir(path_in(here, "journal"), 0777) == 0 && chdir(here) == 0);

    static uint8_t bytes[1 << 20];
    memset(bytes, 7, sizeof bytes);
    hol_disk *first = image("first.qcow2"), *second = image("second.qcow2");
    OK(hol_bitmap_add(first, "nightly", NULL));
    OK(hol_bitmap_add(second, "nightly", NULL));
    OK(hol_disk_write(first, 0, bytes, sizeof bytes));
    OK(hol_disk_write(second, 1 << 20, bytes, sizeof bytes));

    hol_backup_options full = HOL_OPTIONS_INIT(hol_backup_options);
    full.bitmap = "nightly";
    full.sync = HOL_SYNC_FULL;
    full.bitmap_mode = HOL_BITMAP_MODE_ON_SUCCESS;
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_set_journal(txn, "journal"));
    OK(hol_txn_add(txn, hol_action_backup(first, "full-first.qcow2", &full)));
    OK(hol_txn_add(txn, hol_action_backup(second, "full-second.qcow2", &full)));
    run(txn, "/", there);
    CHECK(files_in(there) == 0 && files_in("/") > 0 && files_in(path_in(here, "journal")) == 0);
    CHECK(files_in(here) == 5);

    /* The handle was opened in the other folder; a new name means this one, and its journal lies here, too. */
    CHECK(chdir(there) == 0);
    OK(hol_disk_write(first, 2 << 20, bytes, sizeof bytes));
    hol_backup_options increment = HOL_OPTIONS_INIT(hol_backup_options);
    increment.bitmap = "nightly";
    increment.sync = HOL_SYNC_INCREMENTAL;
    increment.backing = "../here/full-first.qcow2";
    increment.backing_format = HOL_FORMAT_QCOW2;
    hol_disk_options any = HOL_OPTIONS_INIT(hol_disk_options);
    any.access = HOL_ACCESS_WRITE;
    any.backing_policy = HOL_BACKING_ANY;
    OK(hol_disk_close(first));
    OK(hol_disk_open("../here/first.qcow2", &any, &first));
    txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(first, "increment.qcow2", &increment)));
    CHECK(chdir(here) == 0);
    run(txn, here, "/");
    CHECK(files_in(there) == 1 && files_in(here) == 5);
    check_image(there, "increment.qcow2");

    /* Disks that were opened in two folders, in one group: whatever the current one is, its name leads to its file. */
    hol_disk *other = NULL;
    CHECK(chdir(there) == 0);
    OK(hol_disk_create("other.qcow2", 4 << 20, NULL, &other));
    hol_backup_options copied = HOL_OPTIONS_INIT(hol_backup_options);
    txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(other, "there.qcow2", &copied)));
    CHECK(chdir(here) == 0);
    OK(hol_txn_add(txn, hol_action_backup(second, "here.qcow2", &copied)));
    run(txn, "/", there);
    OK(hol_disk_close(other));
    CHECK(unlink("other.qcow2") == 0 && unlink("there.qcow2") == 0);
    CHECK(files_in(there) == 1 && files_in(here) == 6 && unlink(path_in(here, "here.qcow2")) == 0);

    /* A new image on top. */
    CHECK(chdir(here) == 0);
    txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_external_snapshot(second, "over.qcow2", NULL)));
    run(txn, there, "/");
    CHECK(files_in(there) == 1 && files_in(here) == 6);
    OK(hol_disk_close(first));
    OK(hol_disk_close(second));
    check_image(here, "over.qcow2");
    char command[4096];
    snprintf(command, sizeof command, "cd '%s' && qemu-img compare -q first.qcow2 ../there/increment.qcow2"
             " && qemu-img compare -q second.qcow2 full-second.qcow2", here);
    CHECK(system(command) == 0);
    return 0;
}
