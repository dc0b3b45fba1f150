/* What a backup stands on: identities, bases, notes, the proof of a chain, and a start that a recovery stops. */
#include "changing.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *work;

/* Runs one backup by the bitmap "nightly"; its job, or NULL when the start failed with `code`. */
static hol_job *back_up(hol_disk *disk, const char *target, const char *backing, int code)
{
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.bitmap = "nightly";
    options.bitmap_mode = HOL_BITMAP_MODE_ON_SUCCESS;
    options.sync = backing ? HOL_SYNC_INCREMENTAL : HOL_SYNC_FULL;
    options.backing = backing;
    hol_txn *txn = hol_txn_new();
    hol_job *job = NULL;
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, target), &options)));
    CHECK_CODE(code, "", hol_txn_commit(txn));
    if (code == HOL_OK)
        OK(hol_txn_job(txn, 0, &job));
    hol_txn_free(txn);
    return job;
}

static hol_bitmap_details nightly(hol_disk *disk)
{
    hol_bitmap_details details = HOL_OPTIONS_INIT(hol_bitmap_details);
    OK(hol_bitmap_info(disk, "nightly", &details));
    return details;
}

static int is(const char *a, const char *b)
{
    return a != NULL && b != NULL && strcmp(a, b) == 0;
}

static void identities(hol_disk *disk)
{
    CHECK(nightly(disk).base == NULL && nightly(disk).base_size == 0);
    hol_lineage lineage = HOL_OPTIONS_INIT(hol_lineage);
    hol_job *full = back_up(disk, "full.qcow2", NULL, HOL_OK);
    OK(hol_job_lineage(full, &lineage));
    CHECK(lineage.identity != NULL && strlen(lineage.identity) == 36);
    CHECK(lineage.parent == NULL && lineage.notes == 0);
    CHECK(is(nightly(disk).base, lineage.identity) && nightly(disk).base_size == 8 << 20);

    OK(hol_disk_write(disk, 0, (const uint8_t *)"new", 3));
    hol_lineage above = HOL_OPTIONS_INIT(hol_lineage);
    hol_job *increment = back_up(disk, "one.qcow2", "full.qcow2", HOL_OK);
    OK(hol_job_lineage(increment, &above));
    CHECK(is(above.parent, lineage.identity) && !is(above.identity, lineage.identity));
    CHECK(is(nightly(disk).base, above.identity));

    hol_disk *target = open_disk(work, "one.qcow2");
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(target, &details));
    CHECK(is(details.identity, above.identity) && is(details.parent, lineage.identity));
    hol_layer layer = HOL_OPTIONS_INIT(hol_layer);
    OK(hol_disk_layer(target, 0, &layer));
    CHECK(layer.link == HOL_LINK_PROVEN && layer.verdict == HOL_VERDICT_NONE);
    CHECK(is(layer.identity, above.identity) && is(layer.parent, lineage.identity));
    OK(hol_disk_layer(target, 1, &layer));
    CHECK(layer.link == HOL_LINK_BOTTOM && strstr(layer.path, "/full.qcow2") != NULL);
    CHECK(is(layer.identity, lineage.identity) && layer.parent == NULL);
    CHECK(layer.virtual_size == 8 << 20 && layer.format == HOL_FORMAT_QCOW2);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "there are 2", hol_disk_layer(target, 2, &layer));
    CHECK_CODE(HOL_ERR_NULL, "layer", hol_disk_layer(target, 0, NULL));
    OK(hol_disk_close(target));
    hol_job_free(increment);
    hol_job_free(full);

    /* A disk that is no backup. */
    OK(hol_disk_info(disk, &details));
    CHECK(details.identity == NULL && details.parent == NULL);
    CHECK(back_up(disk, "two.qcow2", "full.qcow2", HOL_ERR_WRONG_STATE) == NULL);
}

/* By a bitmap that counts from nothing known the increment is made, and a note tells that. */
static void notes(hol_disk *disk)
{
    char command[4096];
    snprintf(command, sizeof command, "qemu-img convert -O qcow2 '%s' '%s'", path_in(work, "one.qcow2"),
             path_in(work, "other.qcow2"));
    CHECK(system(command) == 0);
    OK(hol_bitmap_clear(disk, "nightly"));
    CHECK(nightly(disk).base == NULL);
    hol_job *job = back_up(disk, "over.qcow2", "other.qcow2", HOL_OK);
    hol_lineage lineage = HOL_OPTIONS_INIT(hol_lineage);
    OK(hol_job_lineage(job, &lineage));
    CHECK(lineage.notes == 1);
    const char *note = NULL;
    OK(hol_job_note(job, 0, &note));
    CHECK(strstr(note, "nightly") != NULL);
    const char *again = NULL;
    OK(hol_job_note(job, 0, &again));
    CHECK(note == again);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "there are 1", hol_job_note(job, 1, &note));
    CHECK_CODE(HOL_ERR_NULL, "note", hol_job_note(job, 0, NULL));
    CHECK_CODE(HOL_ERR_NULL, "lineage", hol_job_lineage(job, NULL));
    hol_job_free(job);
}

static uint32_t verdict_on(const char *name, size_t images, uint32_t link)
{
    hol_chain *chain = NULL;
    OK(hol_disk_check_chain(path_in(work, name), NULL, &chain));
    size_t number = 0;
    uint32_t verdict = 0;
    OK(hol_chain_summary(chain, &number, &verdict));
    OK(hol_chain_summary(chain, NULL, NULL));
    CHECK(number == images);
    hol_layer layer = HOL_OPTIONS_INIT(hol_layer);
    OK(hol_chain_layer(chain, 0, &layer));
    CHECK(layer.link == link && layer.verdict == HOL_VERDICT_CONSISTENT);
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "there are", hol_chain_layer(chain, images, &layer));
    hol_chain_free(chain);
    return verdict;
}

static void chains(void)
{
    CHECK(verdict_on("one.qcow2", 2, HOL_LINK_PROVEN) == HOL_VERDICT_CONSISTENT);
    CHECK(verdict_on("over.qcow2", 2, HOL_LINK_UNKNOWN) == HOL_VERDICT_CONSISTENT);
    /* Another backup lies below. */
    char command[4096];
    snprintf(command, sizeof command, "cp '%s' '%s'", path_in(work, "stranger.qcow2"), path_in(work, "full.qcow2"));
    CHECK(system(command) == 0);
    CHECK(verdict_on("one.qcow2", 2, HOL_LINK_BROKEN) == HOL_VERDICT_CORRUPT);

    hol_chain *chain = (hol_chain *)&chain;
    CHECK_CODE(HOL_ERR_NOT_FOUND, "absent", hol_disk_check_chain(path_in(work, "absent"), NULL, &chain));
    CHECK(chain == NULL);
    CHECK_CODE(HOL_ERR_NULL, "path", hol_disk_check_chain(NULL, NULL, &chain));
    CHECK_CODE(HOL_ERR_NULL, "chain", hol_chain_summary(NULL, NULL, NULL));
    hol_chain_free(NULL);
}

/* The process dies when a file is to get its name: behind the decision. */
static void die_at_rename(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_rename
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rename, 3, 0),
#else
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 3, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_linkat, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int bitmaps_told, targets_told;

static int tell(const hol_recovered *recovered, void *opaque)
{
    CHECK(opaque == &bitmaps_told);
    if (recovered->kind == HOL_RECOVERED_BITMAPS_CHANGED)
        bitmaps_told += strstr(recovered->path, "/source.qcow2") != NULL;
    if (recovered->kind == HOL_RECOVERED_TARGET_PUBLISHED)
        targets_told += strstr(recovered->path, "/three.qcow2") != NULL;
    return 0;
}

static void a_start_that_a_recovery_stops(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        hol_disk *disk = open_to_write(work, "source.qcow2");
        die_at_rename();
        back_up(disk, "three.qcow2", "over.qcow2", HOL_OK);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));

    hol_disk *disk = open_to_write(work, "source.qcow2");
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.bitmap = "nightly";
    options.sync = HOL_SYNC_INCREMENTAL;
    options.backing = "over.qcow2";
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "four.qcow2"), &options)));
    hol_recover_report report = HOL_OPTIONS_INIT(hol_recover_report);
    OK(hol_txn_recovery(txn, &report, tell, &bitmaps_told));
    CHECK(report.targets == 0 && report.bitmaps == 0 && bitmaps_told == 0);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "three.qcow2", hol_txn_start(txn));
    OK(hol_txn_recovery(txn, &report, tell, &bitmaps_told));
    CHECK(report.targets == 1 && report.bitmaps == 1 && report.unfinished == 0);
    CHECK(bitmaps_told == 1 && targets_told == 1);
    OK(hol_txn_recovery(txn, NULL, NULL, NULL));
    CHECK_CODE(HOL_ERR_NULL, "txn", hol_txn_recovery(NULL, &report, NULL, NULL));
    hol_txn_free(txn);
    hol_disk *three = open_disk(work, "three.qcow2");
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(three, &details));
    CHECK(is(nightly(disk).base, details.identity));
    OK(hol_disk_close(three));
    OK(hol_disk_close(disk));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    work = argv[2];
    copy(argv[1], "disk.qcow2", work, "source.qcow2");
    copy(argv[1], "disk.qcow2", work, "another.qcow2");
    hol_disk *another = open_to_write(work, "another.qcow2");
    hol_job_free(back_up(another, "stranger.qcow2", NULL, HOL_OK));
    OK(hol_disk_close(another));

    hol_disk *disk = open_to_write(work, "source.qcow2");
    identities(disk);
    notes(disk);
    OK(hol_disk_close(disk));
    a_start_that_a_recovery_stops();
    chains();
    return 0;
}
