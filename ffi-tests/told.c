/* What a caller is told: names, constants, errno of a job, permission, and texts that do not pile up. */
#include "changing.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *images, *work;

static void pause_a_moment(void)
{
    struct timespec moment = { 0, 1000000 };
    nanosleep(&moment, NULL);
}

static void names(void)
{
    CHECK(strcmp(hol_error_name(HOL_ERR_NO_SPACE), "no-space") == 0);
    CHECK(strcmp(hol_error_name(HOL_OK), "ok") == 0);
    CHECK(strcmp(hol_error_name(-1000), "unknown") == 0);
    CHECK(strcmp(hol_status_name(HOL_JOB_CONCLUDED), "concluded") == 0);
    CHECK(strcmp(hol_event_name(HOL_EVENT_FINISHED), "finished") == 0);
    CHECK(strcmp(hol_recovered_name(HOL_RECOVERED_AT_WORK), "at-work") == 0);
    CHECK(strcmp(hol_status_name(0), "unknown") == 0 && strcmp(hol_event_name(UINT32_MAX), "unknown") == 0);
}

static void constants(void)
{
    int64_t value = 0;
    OK(hol_constant("HOL_ERR_NO_MEMORY", &value));
    CHECK(value == HOL_ERR_NO_MEMORY);
    OK(hol_constant("HOL_CREATE_FLAGS_MASK", &value));
    CHECK(value == (HOL_DISK_LAZY_REFCOUNTS | HOL_DISK_EXTENDED_L2 | HOL_DISK_DATA_FILE_RAW));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "HOL_NOTHING", hol_constant("HOL_NOTHING", &value));
    CHECK_CODE(HOL_ERR_NULL, "constant_name", hol_constant(NULL, &value));
    CHECK_CODE(HOL_ERR_NULL, "value", hol_constant("HOL_OK", NULL));
#if !defined(HOL_HAVE_CONSTANT) || !defined(HOL_HAVE_JOB_ERROR_DETAILS) || !defined(HOL_HAVE_DISK_OPEN)
#error "the header tells which functions it declares"
#endif
}

/* The function does what the macro does, and nothing behind the size that the caller says. */
#define INIT(type)                                                                       \
    do {                                                                                 \
        struct {                                                                         \
            hol_##type value;                                                            \
            uint64_t behind;                                                             \
        } here;                                                                          \
        memset(&here, 0xa5, sizeof here);                                                \
        OK(hol_##type##_init(&here.value, sizeof here.value));                           \
        const hol_##type expected = HOL_OPTIONS_INIT(hol_##type);                        \
        CHECK(memcmp(&here.value, &expected, sizeof expected) == 0);                     \
        CHECK(here.behind == UINT64_C(0xa5a5a5a5a5a5a5a5));                              \
        CHECK_CODE(HOL_ERR_NULL, "cannot be NULL", hol_##type##_init(NULL, sizeof here.value)); \
        CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", hol_##type##_init(&here.value, 4)); \
    } while (0)

static void structures(void)
{
    INIT(disk_options);
    INIT(backup_options);
    INIT(create_options);
    INIT(bitmap_options);
    INIT(bitmap_change);
    INIT(merge_source);
    INIT(overlay_options);
}

static void flags_that_nobody_knows(void)
{
    hol_create_options options = HOL_OPTIONS_INIT(hol_create_options);
    options.flags = HOL_DISK_LAZY_REFCOUNTS | 64;
    hol_disk *disk = NULL;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "0x40", hol_disk_create(path_in(work, "x"), 512, &options, &disk));
}

/* The error number of a job that failed is told by the job and by its event. */
static void number_of_a_job(void)
{
    struct rlimit old, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    hol_disk *disk = open_disk(images, "disk.qcow2");
    hol_txn *txn = hol_txn_new();
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.on_target_error = HOL_ON_ERROR_STOP;
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "target.qcow2"), &options)));
    small = old;
    small.rlim_cur = 256 * 1024;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    OK(hol_txn_start(txn));
    hol_job *job = NULL;
    OK(hol_txn_job(txn, 0, &job));
    hol_error_details details = HOL_OPTIONS_INIT(hol_error_details);
    for (int i = 0; details.code == HOL_OK; i++, pause_a_moment()) {
        CHECK(i < 60 * 1000);
        OK(hol_job_stop_error_details(job, &details));
    }
    CHECK(details.code == HOL_ERR_IO && details.os_error == EFBIG && strstr(details.message, "target.qcow2"));
    OK(hol_job_error_details(job, &details));
    CHECK(details.code == HOL_OK && details.os_error == 0 && details.message == NULL);
    OK(hol_job_cancel(job));
    CHECK_CODE(HOL_ERR_CANCELLED, "", hol_txn_wait(txn, -1));
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    int told = 0;
    while (hol_txn_next_event(txn, &event) == 1)
        told += event.kind == HOL_EVENT_ERROR && event.code == HOL_ERR_IO && event.os_error == EFBIG;
    CHECK(told == 1);
    hol_job_free(job);
    hol_txn_free(txn);

    txn = hol_txn_new();
    options.on_target_error = HOL_ON_ERROR_REPORT;
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "target.qcow2"), &options)));
    CHECK_CODE(HOL_ERR_IO, "target.qcow2", hol_txn_commit(txn));
    CHECK(hol_last_error_errno() == EFBIG);
    OK(hol_txn_job(txn, 0, &job));
    OK(hol_job_error_details(job, &details));
    CHECK(details.code == HOL_ERR_IO && details.os_error == EFBIG && strstr(details.message, "target.qcow2"));
    told = 0;
    while (hol_txn_next_event(txn, &event) == 1)
        told += event.kind == HOL_EVENT_FAILED && event.os_error == EFBIG;
    CHECK(told == 1);
    hol_job_free(job);
    hol_txn_free(txn);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    OK(hol_disk_close(disk));
}

/* In a process of its own, which gives up the rights of a superuser. */
static void no_permission(void)
{
    const char *path = path_in(work, "secret.qcow2");
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fclose(file) == 0 && chmod(path, 0) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (geteuid() == 0 && (chdir(work) != 0 || setuid(65534) != 0))
            _exit(2);
        hol_disk *disk = NULL;
        int code = hol_disk_open("secret.qcow2", NULL, &disk);
        if (code == HOL_ERR_NOT_FOUND)
            code = hol_disk_open(path, NULL, &disk);
        _exit(code == HOL_ERR_PERMISSION && hol_last_error_errno() == EACCES ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    remove(path);
}

/* Whoever asks again after each change is given the same text, not one more. */
static void texts_do_not_pile_up(void)
{
    copy(images, "disk.qcow2", work, "polled.qcow2");
    hol_disk *disk = open_to_write(work, "polled.qcow2");
    const char *name = NULL;
    for (int round = 0; round < 20; round++) {
        hol_bitmap_details details = HOL_OPTIONS_INIT(hol_bitmap_details);
        OK(hol_bitmap_info(disk, "nightly", &details));
        CHECK(name == NULL || name == details.name);
        name = details.name;
        OK(round % 2 == 0 ? hol_bitmap_add(disk, "other", NULL) : hol_bitmap_remove(disk, "other"));
    }
    OK(hol_disk_close(disk));
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    images = arguments[1], work = arguments[2];
    names();
    constants();
    structures();
    flags_that_nobody_knows();
    number_of_a_job();
    no_permission();
    texts_do_not_pile_up();
    return 0;
}
