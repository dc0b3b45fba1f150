/* A fork that uses or frees handles of its parent is refused, and does the parent no harm: not to its locks, its transaction,
 * its events. */
#define _GNU_SOURCE
#include "changing.h"

#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define REFUSED(call) CHECK_CODE(HOL_ERR_WRONG_STATE, "belongs to the process that made it", call)

static void be_a_child(hol_disk *disk, hol_txn *txn, hol_job *job, hol_action *action)
{
    uint8_t byte;
    uint64_t size;
    REFUSED(hol_disk_read(disk, 0, &byte, 1));
    REFUSED(hol_disk_size(disk, &size));
    REFUSED(hol_disk_write(disk, 0, &byte, 1));
    REFUSED(hol_bitmap_add(disk, "child", NULL));
    REFUSED(hol_txn_wait(txn, -1));
    REFUSED(hol_txn_cancel(txn));
    REFUSED(hol_job_pause(job));
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    REFUSED(hol_txn_next_event(txn, &event));
    hol_txn *own = hol_txn_new();
    REFUSED(hol_txn_add(own, action));
    hol_txn_free(own);
    hol_action_free(action);
    hol_job_free(job);
    hol_txn_free(txn);
    REFUSED(hol_disk_close(disk));
    /* What the parent's threads had allocated is lost in a fork, and a checker of memory would tell: no exit. */
    raise(SIGKILL);
}

/* In a name space of its own for numbers of processes, where the system allows that: the child becomes number 1. Gives the
 * child's exit status; -1: not allowed. */
static int in_own_space(int flags, int (*body)(const char *), const char *argument)
{
    fflush(NULL);
    pid_t outer = fork();
    CHECK(outer >= 0);
    if (outer == 0) {
        if (unshare(flags) != 0)
            _exit(77);
        pid_t inner = fork();
        if (inner < 0)
            _exit(77);
        if (inner == 0)
            _exit(body(argument));
        int status;
        CHECK(waitpid(inner, &status, 0) == inner);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    }
    int status;
    CHECK(waitpid(outer, &status, 0) == outer && WIFEXITED(status));
    return WEXITSTATUS(status) == 77 ? -1 : WEXITSTATUS(status);
}

static hol_disk *inherited;

static int be_a_namesake(const char *unused)
{
    (void)unused;
    uint64_t size;
    CHECK(getpid() == 1);
    REFUSED(hol_disk_size(inherited, &size));
    REFUSED(hol_disk_close(inherited));
    return 0;
}

static int have_a_namesake(const char *image)
{
    CHECK(getpid() == 1);
    OK(hol_disk_open(image, NULL, &inherited));
    int result = in_own_space(CLONE_NEWPID, be_a_namesake, NULL);
    OK(hol_disk_close(inherited));
    return result == -1 ? 77 : result;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *work = argv[2];
    copy(argv[1], "slow.qcow2", work, "slow.qcow2");
    /* A fork with the number of its parent, as in a container of a container. */
    int namesakes = in_own_space(CLONE_NEWUSER | CLONE_NEWPID, have_a_namesake, path_in(work, "slow.qcow2"));
    CHECK(namesakes == 0 || namesakes == -1);

    hol_disk *disk = open_to_write(work, "slow.qcow2");
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.compression = HOL_COMPRESSION_ZLIB;
    options.compression_level = 9;
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "target.qcow2"), &options)));
    hol_action *action = hol_action_backup(disk, path_in(work, "other.qcow2"), &options);
    CHECK(action != NULL);
    OK(hol_txn_start(txn));
    hol_job *job = NULL;
    OK(hol_txn_job(txn, 0, &job));
    OK(hol_job_pause(job));

    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        be_a_child(disk, txn, job, action);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

    /* Still locked: the child's closing and its end have not unlocked it. */
    char command[4096];
    snprintf(command, sizeof command, "qemu-img info '%s' > '%s' 2>&1", path_in(work, "slow.qcow2"),
             path_in(work, "said"));
    CHECK(system(command) != 0);
    OK(hol_job_resume(job));
    OK(hol_txn_wait(txn, -1));
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    int events = 0;
    while (hol_txn_next_event(txn, &event) == 1 && event.kind != HOL_EVENT_FINISHED)
        events++;
    CHECK(events > 0);
    hol_job_free(job);
    hol_txn_free(txn);
    hol_action_free(action);
    OK(hol_disk_close(disk));
    check_image(work, "target.qcow2");
    return 0;
}
