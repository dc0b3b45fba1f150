/* Checks and repairs: what is found, what is repaired, what remains, and the check of each image of a chain. */
#include "changing.h"

#include <fcntl.h>
#include <unistd.h>

enum { CLUSTER = 64 * 1024 };

static const char *images, *work;

static uint64_t big_endian(int file, off_t offset)
{
    unsigned char bytes[8];
    CHECK(pread(file, bytes, sizeof bytes, offset) == sizeof bytes);
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Sets the refcount of a cluster; a cluster behind the end comes into the file. */
static void set_refcount(const char *path, off_t cluster, unsigned char value)
{
    int file = open(path, O_RDWR);
    CHECK(file >= 0);
    off_t block = (off_t)big_endian(file, (off_t)big_endian(file, 48));
    unsigned char entry[2] = { 0, value };
    CHECK(pwrite(file, entry, sizeof entry, block + 2 * cluster) == sizeof entry);
    off_t end = lseek(file, 0, SEEK_END), wanted = (cluster + 1) * CLUSTER;
    CHECK(end >= wanted || ftruncate(file, wanted) == 0);
    CHECK(close(file) == 0);
}

static hol_check_report summary(hol_check *check)
{
    hol_check_report report = HOL_OPTIONS_INIT(hol_check_report);
    OK(hol_check_summary(check, &report));
    return report;
}

static void consistent(void)
{
    hol_check *check = NULL;
    OK(hol_disk_check(path_in(images, "disk.qcow2"), NULL, &check));
    hol_check_report report = summary(check);
    CHECK(report.verdict == HOL_VERDICT_CONSISTENT && report.problems == 0 && report.leaks_are_certain == 1);
    CHECK(report.total_clusters == 128 && report.allocated_clusters > 0 && report.image_end_offset > 0);
    hol_problem problem = HOL_OPTIONS_INIT(hol_problem);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no problem 0", hol_check_problem(check, 0, &problem));
    hol_check_free(check);
}

static void leaks(void)
{
    copy(images, "disk.qcow2", work, "leaks.qcow2");
    const char *path = path_in(work, "leaks.qcow2");
    set_refcount(path, 100, 1);
    hol_check *check = NULL;
    OK(hol_disk_check(path, NULL, &check));
    hol_check_report report = summary(check);
    CHECK(report.verdict == HOL_VERDICT_LEAKS && report.leaks == 1 && report.problems == 1);
    CHECK(report.found == 0 && report.leaks_fixed == 0);
    hol_problem problem = HOL_OPTIONS_INIT(hol_problem);
    OK(hol_check_problem(check, 0, &problem));
    CHECK(problem.kind == HOL_PROBLEM_LEAK && problem.severity == HOL_SEVERITY_LEAK);
    CHECK(problem.offset == UINT64_C(100) * CLUSTER && problem.clusters == 1 && strlen(problem.text) > 0);
    CHECK(strcmp(hol_problem_name(problem.kind), "leak") == 0);
    hol_check_free(check);

    OK(hol_disk_repair(path, NULL, HOL_REPAIR_LEAKS, &check));
    report = summary(check);
    CHECK(report.verdict == HOL_VERDICT_CONSISTENT && report.leaks == 0 && report.problems == 0);
    CHECK(report.leaks_fixed == 1 && report.found == 1 && report.lost_bitmaps == 0 && report.left == 0);
    OK(hol_check_found(check, 0, &problem));
    CHECK(problem.kind == HOL_PROBLEM_LEAK);
    const char *text = NULL, *reason = NULL;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no lost bitmap 0", hol_check_lost_bitmap(check, 0, &text, &reason));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "there are 0", hol_check_left(check, 0, &reason));
    hol_check_free(check);
    check_image(work, "leaks.qcow2");
}

static void corruption(void)
{
    copy(images, "disk.qcow2", work, "corrupt.qcow2");
    const char *path = path_in(work, "corrupt.qcow2");
    /* The header's own. */
    set_refcount(path, 0, 0);
    hol_check *check = NULL;
    OK(hol_disk_repair(path, NULL, HOL_REPAIR_LEAKS, &check));
    CHECK(summary(check).verdict == HOL_VERDICT_CORRUPT && summary(check).corruptions == 1);
    hol_problem problem = HOL_OPTIONS_INIT(hol_problem);
    OK(hol_check_problem(check, 0, &problem));
    CHECK(problem.kind == HOL_PROBLEM_REFCOUNT_TOO_LOW && problem.severity == HOL_SEVERITY_CORRUPTION);
    hol_check_free(check);
    OK(hol_disk_repair(path, NULL, HOL_REPAIR_ALL, &check));
    CHECK(summary(check).verdict == HOL_VERDICT_CONSISTENT && summary(check).corruptions_fixed == 1);
    hol_check_free(check);
    check_image(work, "corrupt.qcow2");
}

/* A bitmap's table lies behind the end of the file. */
static void a_bitmap_is_lost(void)
{
    copy(images, "disk.qcow2", work, "lost.qcow2");
    const char *path = path_in(work, "lost.qcow2");
    int file = open(path, O_RDWR);
    CHECK(file >= 0);
    /* The bitmaps extension, 0x23852875: number, reserved, size and offset of the directory. */
    off_t at = 104;
    while (big_endian(file, at) >> 32 != 0x23852875)
        at += 8 + (off_t)(((big_endian(file, at) & 0xffffffff) + 7) & ~UINT64_C(7));
    off_t directory = (off_t)big_endian(file, at + 24);
    unsigned char far[8] = { 0, 0, 0x7f, 0, 0, 0, 0, 0 };
    CHECK(pwrite(file, far, sizeof far, directory) == sizeof far);
    CHECK(close(file) == 0);
    hol_check *check = NULL;
    OK(hol_disk_repair(path, NULL, HOL_REPAIR_ALL, &check));
    CHECK(summary(check).lost_bitmaps == 1 && summary(check).further_corruptions_fixed > 0);
    const char *name = NULL, *reason = NULL;
    OK(hol_check_lost_bitmap(check, 0, &name, &reason));
    CHECK(strcmp(name, "nightly") == 0 && strlen(reason) > 0);
    CHECK_CODE(HOL_ERR_NULL, "reason", hol_check_lost_bitmap(check, 0, &name, NULL));
    hol_check_free(check);
}

/* Of two snapshots the first claims too much extra data, and the L1 table of the second is nowhere. */
static void snapshots_are_mended_and_lost(void)
{
    copy(images, "disk.qcow2", work, "snapshots.qcow2");
    const char *path = path_in(work, "snapshots.qcow2");
    char command[8192];
    for (const char *name = "ab"; *name != 0; name++) {
        snprintf(command, sizeof command, "qemu-img snapshot -c %c '%s'", *name, path);
        CHECK(system(command) == 0);
    }
    int file = open(path, O_RDWR);
    CHECK(file >= 0);
    off_t table = (off_t)big_endian(file, 64);
    /* An entry has 40 bytes, 24 bytes of extra data, an id and a name of one byte, and zeros up to a multiple of 8. */
    unsigned char much[4] = { 0, 0, 7, 0xd0 }, far[8] = { 0, 0, 0x7f, 0, 0, 0, 0, 0 };
    CHECK(pwrite(file, much, sizeof much, table + 36) == sizeof much);
    CHECK(pwrite(file, far, sizeof far, table + 72) == sizeof far);
    CHECK(close(file) == 0);
    hol_check *check = NULL;
    OK(hol_disk_repair(path, NULL, HOL_REPAIR_ALL, &check));
    CHECK(summary(check).lost_snapshots == 1 && summary(check).mended_snapshots == 1);
    uint32_t first = 7, count = 7;
    const char *name = NULL, *reason = NULL, *mended = NULL;
    OK(hol_check_lost_snapshots(check, 0, &first, &count, &name, &reason));
    CHECK(first == 1 && count == 1 && strcmp(name, "b") == 0 && strstr(reason, "L1 table") != NULL);
    OK(hol_check_mended_snapshot(check, 0, &mended));
    CHECK(strstr(mended, "2000 bytes of extra data") != NULL);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no lost snapshot 1",
               hol_check_lost_snapshots(check, 1, &first, &count, &name, &reason));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no mended snapshot 1", hol_check_mended_snapshot(check, 1, &mended));
    CHECK_CODE(HOL_ERR_NULL, "first", hol_check_lost_snapshots(check, 0, NULL, &count, &name, &reason));
    hol_check_free(check);
}

static void of_a_chain(void)
{
    hol_chain *chain = NULL;
    OK(hol_disk_check_chain(path_in(images, "top.qcow2"), NULL, &chain));
    hol_check *check = NULL;
    OK(hol_chain_check(chain, 1, &check));
    CHECK(summary(check).verdict == HOL_VERDICT_CONSISTENT && summary(check).total_clusters == 16);
    hol_check_free(check);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no image 2", hol_chain_check(chain, 2, &check));
    CHECK(check == NULL);
    OK(hol_chain_check(chain, 0, &check));
    /* It outlives the chain. */
    hol_chain_free(chain);
    CHECK(summary(check).problems == 0);
    hol_check_free(check);
}

static void refusals(void)
{
    hol_check *check = (hol_check *)&check;
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.format = HOL_FORMAT_RAW;
    CHECK_CODE(HOL_ERR_UNSUPPORTED, "", hol_disk_check(path_in(images, "raw.img"), &options, &check));
    CHECK(check == NULL);
    const char *path = path_in(images, "disk.qcow2");
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "mode cannot be 0", hol_disk_repair(path, NULL, 0, &check));
    CHECK_CODE(HOL_ERR_NULL, "path", hol_disk_check(NULL, NULL, &check));
    CHECK_CODE(HOL_ERR_NULL, "check", hol_disk_check(path, NULL, NULL));
    CHECK_CODE(HOL_ERR_NULL, "check", hol_check_summary(NULL, NULL));
    hol_disk *disk = open_disk(images, "disk.qcow2");
    CHECK_CODE(HOL_ERR_LOCKED, "this process itself", hol_disk_repair(path, NULL, HOL_REPAIR_ALL, &check));
    OK(hol_disk_close(disk));
    hol_check_free(NULL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    consistent();
    leaks();
    corruption();
    a_bitmap_is_lost();
    snapshots_are_mended_and_lost();
    of_a_chain();
    refusals();
    return 0;
}
