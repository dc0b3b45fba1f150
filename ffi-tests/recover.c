/* A backup that dies leaves a journal and temporary files; a recovery removes them, once, and tells of it. */
#include "changing.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int told;
static char last_path[4096];

static int tell(const hol_recovered *recovered, void *opaque)
{
    CHECK(opaque == &told && recovered->path != NULL);
    CHECK(recovered->kind == HOL_RECOVERED_TEMPORARY_REMOVED && recovered->reason == NULL);
    snprintf(last_path, sizeof last_path, "%s", recovered->path);
    told++;
    return 0;
}

/* Copies a disk that takes a while, in a process of its own. */
static void back_up(const char *images, const char *work, const char *journal)
{
    hol_disk *disk = open_disk(images, "slow.qcow2");
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.compression = HOL_COMPRESSION_ZLIB;
    options.compression_level = 9;
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_set_journal(txn, journal));
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "slow.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    OK(hol_disk_close(disk));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *work = argv[2], *targets = path_in(work, "targets"), *journal = path_in(work, "journal");
    char command[4096];
    snprintf(command, sizeof command, "mkdir '%s' '%s'", targets, journal);
    CHECK(system(command) == 0);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        back_up(argv[1], targets, journal);
        _exit(0);
    }
    /* It is at work as soon as its file is there, and then nobody may touch that. */
    struct timespec moment = {0, 1000000};
    while (files_in(targets) == 0)
        nanosleep(&moment, NULL);
    hol_recover_report report = HOL_OPTIONS_INIT(hol_recover_report);
    OK(hol_recover(journal, &report, NULL, NULL));
    CHECK(report.at_work == 1 && report.removed == 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    CHECK(files_in(targets) == 1 && files_in(journal) == 1);

    OK(hol_recover(journal, &report, tell, &told));
    CHECK(told == 1 && strstr(last_path, ".tmp") != NULL);
    CHECK(report.removed == 1 && report.at_work == 0 && report.targets == 0 && report.unfinished == 0);
    CHECK(files_in(targets) == 0 && files_in(journal) == 0);
    OK(hol_recover(journal, NULL, tell, &told));
    CHECK(told == 1);

    CHECK_CODE(HOL_ERR_NOT_FOUND, "absent", hol_recover(path_in(work, "absent"), NULL, NULL, NULL));
    CHECK_CODE(HOL_ERR_NULL, "journal_dir", hol_recover(NULL, NULL, NULL, NULL));
    return 0;
}
