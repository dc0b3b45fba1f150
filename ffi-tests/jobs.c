/* Jobs: verbs in each state, how groups end, and a log whose callback calls back. */
#include "check.h"

#include <time.h>

static const char *names[2] = { "first.qcow2", "second.qcow2" };

typedef struct {
    hol_txn *txn;
    hol_job *jobs[2];
} run;

static void pause_a_moment(void)
{
    struct timespec moment = { 0, 1000000 };
    nanosleep(&moment, NULL);
}

static uint32_t status_of(hol_job *job)
{
    uint32_t status = 0;
    OK(hol_job_status(job, &status));
    return status;
}

static void reaches(hol_job *job, uint32_t status)
{
    for (int i = 0; status_of(job) != status; i++, pause_a_moment())
        CHECK(i < 60 * 1000);
}

/* Two backups; with a speed of 1 a job copies until it is told to be faster. */
static run start(hol_disk *const *disks, const char *work, uint32_t mode, hol_backup_options *const *options)
{
    run run = { hol_txn_new(), { NULL, NULL } };
    CHECK(run.txn != NULL);
    OK(hol_txn_set_completion(run.txn, mode));
    for (int i = 0; i < 2; i++)
        OK(hol_txn_add(run.txn, hol_action_backup(disks[i], path_in(work, names[i]), options[i])));
    OK(hol_txn_start(run.txn));
    for (size_t i = 0; i < 2; i++)
        OK(hol_txn_job(run.txn, i, &run.jobs[i]));
    return run;
}

static void end(run *run)
{
    hol_job_free(run->jobs[0]);
    hol_job_free(run->jobs[1]);
    hol_txn_free(run->txn);
}

static void has_ended(hol_job *job, int expected, const char *part)
{
    int code = 1;
    const char *message = NULL;
    OK(hol_job_error(job, &code, &message));
    CHECK(code == expected && (code == HOL_OK ? message == NULL : strstr(message, part) != NULL));
    CHECK(status_of(job) == HOL_JOB_CONCLUDED || status_of(job) == HOL_JOB_DISMISSED);
}

static void remove_targets(const char *work)
{
    for (int i = 0; i < 2; i++)
        CHECK(remove(path_in(work, names[i])) == 0);
    CHECK(files_in(work) == 0);
}

static void verbs(hol_disk *const *disks, const char *work)
{
    hol_backup_options slow = HOL_OPTIONS_INIT(hol_backup_options), manual = slow;
    slow.speed = 1;
    manual.speed = 1;
    manual.finalize = HOL_LAST_STEP_MANUAL;
    manual.dismiss = HOL_LAST_STEP_MANUAL;
    run run = start(disks, work, HOL_COMPLETION_GROUPED, (hol_backup_options *[]){ &manual, &slow });
    hol_job *job = run.jobs[0];
    reaches(job, HOL_JOB_RUNNING);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is not paused", hol_job_resume(job));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is running and cannot be told to finalize", hol_job_finalize(job));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is running and cannot be told to dismiss", hol_job_dismiss(job));
    OK(hol_job_pause(job));
    reaches(job, HOL_JOB_PAUSED);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is already paused", hol_job_pause(job));
    OK(hol_job_set_speed(job, 0));
    OK(hol_job_resume(job));
    reaches(job, HOL_JOB_WAITING);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is waiting and cannot be told to pause", hol_job_pause(job));
    OK(hol_job_set_speed(run.jobs[1], 0));
    reaches(job, HOL_JOB_PENDING);
    reaches(run.jobs[1], HOL_JOB_PENDING);
    CHECK_CODE(HOL_TIMED_OUT, "", hol_txn_wait(run.txn, 10));
    OK(hol_job_finalize(run.jobs[1]));
    reaches(job, HOL_JOB_CONCLUDED);
    reaches(run.jobs[1], HOL_JOB_CONCLUDED);
    CHECK_CODE(HOL_TIMED_OUT, "", hol_txn_wait(run.txn, 10));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "is concluded and cannot be told to cancel", hol_job_cancel(job));
    OK(hol_job_dismiss(job));
    CHECK(status_of(job) == HOL_JOB_DISMISSED);
    OK(hol_txn_wait(run.txn, -1));
    has_ended(job, HOL_OK, "");
    int code = 1;
    const char *message = "";
    OK(hol_job_stop_error(job, &code, &message));
    CHECK(code == HOL_OK && message == NULL);
    end(&run);
    remove_targets(work);
}

/* Success, and a cancel of either job while the other one copies or waits already. */
static void groups(hol_disk *const *disks, const char *work)
{
    hol_backup_options slow = HOL_OPTIONS_INIT(hol_backup_options);
    slow.speed = 1;
    run run = start(disks, work, HOL_COMPLETION_GROUPED, (hol_backup_options *[]){ NULL, NULL });
    OK(hol_txn_wait(run.txn, -1));
    has_ended(run.jobs[0], HOL_OK, "");
    has_ended(run.jobs[1], HOL_OK, "");
    end(&run);
    remove_targets(work);

    for (int cancelled = 0; cancelled < 2; cancelled++) {
        for (int fast = -1; fast < 2; fast++) {
            hol_backup_options *options[2] = { fast == 0 ? NULL : &slow, fast == 1 ? NULL : &slow };
            run = start(disks, work, HOL_COMPLETION_GROUPED, options);
            if (fast >= 0)
                reaches(run.jobs[fast], HOL_JOB_WAITING);
            OK(hol_job_cancel(run.jobs[cancelled]));
            CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(run.txn, -1));
            has_ended(run.jobs[cancelled], HOL_ERR_CANCELLED, "the backup was cancelled");
            has_ended(run.jobs[1 - cancelled], HOL_ERR_CANCELLED, "cancelled because the backup to '");
            end(&run);
            CHECK(files_in(work) == 0);
        }
    }
    run = start(disks, work, HOL_COMPLETION_INDIVIDUAL, (hol_backup_options *[]){ &slow, NULL });
    reaches(run.jobs[1], HOL_JOB_CONCLUDED);
    OK(hol_job_cancel(run.jobs[0]));
    CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(run.txn, -1));
    has_ended(run.jobs[0], HOL_ERR_CANCELLED, "the backup was cancelled");
    has_ended(run.jobs[1], HOL_OK, "");
    end(&run);
    CHECK(files_in(work) == 1 && remove(path_in(work, names[1])) == 0);
}

/* One source has a damaged cluster: it fails by itself, the other because of it. Twice, for nothing is left. */
static void failure(hol_disk *const *disks, const char *images, const char *work)
{
    hol_disk *with_torn[2] = { disks[0], open_disk(images, "torn.qcow2") };
    for (int round = 0; round < 2; round++) {
        hol_backup_options stop = HOL_OPTIONS_INIT(hol_backup_options);
        stop.on_source_error = HOL_ON_ERROR_STOP;
        run run = start(with_torn, work, HOL_COMPLETION_GROUPED, (hol_backup_options *[]){ &stop, &stop });
        CHECK_CODE(HOL_ERR_CORRUPT, "", hol_txn_wait(run.txn, -1));
        has_ended(run.jobs[1], HOL_ERR_CORRUPT, "torn.qcow2");
        has_ended(run.jobs[0], HOL_ERR_CANCELLED, "cancelled because the backup to '");
        end(&run);
        CHECK(files_in(work) == 0);
    }
    OK(hol_disk_close(with_torn[1]));
}

typedef struct {
    hol_txn *txn;
    int lines, errors, inside, cancels;
} log_state;

static void log_line(uint32_t level, int64_t job, const char *message, void *opaque)
{
    log_state *state = opaque;
    CHECK(state->inside++ == 0);
    CHECK(level >= HOL_LOG_ERROR && level <= HOL_LOG_INFO && job >= -1 && job < 2 && message[0]);
    state->lines++;
    state->errors += level != HOL_LOG_INFO;
    if (job >= 0) {
        hol_job *handle = NULL;
        uint64_t done = 0, total = 0;
        uint32_t status = 0;
        if (hol_txn_job(state->txn, (size_t)job, &handle) == HOL_OK) {
            OK(hol_job_status(handle, &status));
            OK(hol_job_progress(handle, &done, &total));
            int code = hol_job_set_speed(handle, 1);
            CHECK(code == HOL_OK || code == HOL_ERR_WRONG_STATE);
            hol_job_free(handle);
        }
        /* The transaction may not be known as started yet. */
        if (strstr(message, "is running") && hol_txn_cancel(state->txn) == HOL_OK)
            state->cancels++;
    } else {
        CHECK(strcmp(message, "the transaction has ended") == 0);
    }
    state->inside--;
}

static void log_lines(hol_disk *disk, const char *work)
{
    log_state state = { hol_txn_new(), 0, 0, 0, 0 };
    hol_backup_options slow = HOL_OPTIONS_INIT(hol_backup_options);
    slow.speed = 1;
    OK(hol_txn_set_log(state.txn, NULL, NULL));
    OK(hol_txn_set_log(state.txn, log_line, &state));
    OK(hol_txn_add(state.txn, hol_action_backup(disk, path_in(work, names[0]), &slow)));
    OK(hol_txn_start(state.txn));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started already", hol_txn_set_log(state.txn, log_line, &state));
    OK(hol_txn_cancel(state.txn));
    CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(state.txn, -1));
    hol_txn_free(state.txn);
    /* running, aborting, concluded, was cancelled, the transaction has ended; running may not have come to pass. */
    CHECK((state.lines == 5 || state.lines == 4) && state.errors == 1 && state.inside == 0);
    CHECK(files_in(work) == 0);
}

static int ended;

static void let_go(void *opaque)
{
    CHECK(*(int *)opaque >= 0);
    free(opaque);
    ended++;
}

static void count_line(uint32_t level, int64_t job, const char *message, void *opaque)
{
    (void)level, (void)job, (void)message;
    ++*(int *)opaque;
}

static int *owned(void)
{
    int *lines = calloc(1, sizeof *lines);
    CHECK(lines != NULL);
    return lines;
}

/* What a log was given ends once: replaced, refused, left out, or with the transaction; a job may outlive it. */
static void an_owned_log(hol_disk *disk, const char *work)
{
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_set_log_owned(txn, count_line, owned(), let_go));
    CHECK(ended == 0);
    OK(hol_txn_set_log_owned(txn, count_line, owned(), let_go));
    CHECK(ended == 1);
    OK(hol_txn_set_log_owned(txn, NULL, owned(), let_go));
    CHECK(ended == 3);
    OK(hol_txn_set_log_owned(txn, count_line, owned(), let_go));
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, names[0]), NULL)));
    OK(hol_txn_commit(txn));
    CHECK(ended == 3);
    CHECK_CODE(HOL_ERR_WRONG_STATE, "started", hol_txn_set_log_owned(txn, count_line, owned(), let_go));
    CHECK(ended == 4);
    CHECK_CODE(HOL_ERR_NULL, "txn", hol_txn_set_log_owned(NULL, count_line, owned(), let_go));
    CHECK(ended == 5);
    hol_job *job = NULL;
    OK(hol_txn_job(txn, 0, &job));
    hol_txn_free(txn);
    CHECK(ended == 6);
    hol_job_free(job);
    CHECK(ended == 6);
    CHECK(remove(path_in(work, names[0])) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_disk *disks[2] = { open_disk(argv[1], "disk.qcow2"), open_disk(argv[1], "second.qcow2") };
    verbs(disks, argv[2]);
    groups(disks, argv[2]);
    failure(disks, argv[1], argv[2]);
    log_lines(disks[0], argv[2]);
    an_owned_log(disks[0], argv[2]);
    hol_backup_options wrong = HOL_OPTIONS_INIT(hol_backup_options);
    wrong.on_target_error = 4;
    CHECK(hol_action_backup(disks[0], "x", &wrong) == NULL);
    CHECK(strstr(hol_last_error_message(), "options->on_target_error cannot be 4"));
    wrong.on_target_error = 0;
    wrong.finalize = 2;
    CHECK(hol_action_backup(disks[0], "x", &wrong) == NULL);
    CHECK(strstr(hol_last_error_message(), "options->finalize cannot be 2"));
    OK(hol_disk_close(disks[0]));
    OK(hol_disk_close(disks[1]));
    return 0;
}
