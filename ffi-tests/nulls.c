/* NULL: accepted by what frees, an error with the parameter's name everywhere else. */
#include "check.h"

static int never(const hol_extent *extent, void *opaque)
{
    (void)extent, (void)opaque;
    return 0;
}

#define IS_NULL(name, call) CHECK_CODE(HOL_ERR_NULL, name " cannot be NULL", call)

static void without_handles(void)
{
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    hol_bitmap_details bitmap = HOL_OPTIONS_INIT(hol_bitmap_details);
    hol_bitmap_change change = HOL_OPTIONS_INIT(hol_bitmap_change);
    hol_event event = HOL_OPTIONS_INIT(hol_event);
    hol_report report = HOL_OPTIONS_INIT(hol_report);
    hol_error_details error = HOL_OPTIONS_INIT(hol_error_details);
    hol_disk *disk = (hol_disk *)&details;
    hol_job *job = (hol_job *)&details;
    uint64_t number = 7, other = 7;
    uint32_t status = 7;
    size_t count = 7;
    int code = 7;
    const char *message = "7";
    uint8_t byte = 7;

    IS_NULL("path", hol_disk_open(NULL, NULL, &disk));
    CHECK(disk == NULL);
    IS_NULL("disk", hol_disk_open("x", NULL, NULL));
    disk = (hol_disk *)&details;
    IS_NULL("path", hol_disk_create(NULL, 512, NULL, &disk));
    CHECK(disk == NULL);
    IS_NULL("disk", hol_disk_create("x", 512, NULL, NULL));
    IS_NULL("disk", hol_disk_size(NULL, &number));
    IS_NULL("disk", hol_disk_info(NULL, &details));
    IS_NULL("disk", hol_disk_read(NULL, 0, &byte, 1));
    IS_NULL("disk", hol_disk_extents(NULL, 0, 0, never, NULL));
    IS_NULL("disk", hol_bitmap_list(NULL, &count));
    IS_NULL("disk", hol_bitmap_info_at(NULL, 0, &bitmap));
    IS_NULL("disk", hol_bitmap_info(NULL, "x", &bitmap));
    IS_NULL("disk", hol_bitmap_count(NULL, "x", &number));
    IS_NULL("disk", hol_bitmap_extents(NULL, "x", never, NULL));
    IS_NULL("disk", hol_bitmap_add(NULL, "x", NULL));
    IS_NULL("disk", hol_bitmap_remove(NULL, "x"));
    IS_NULL("disk", hol_bitmap_clear(NULL, "x"));
    IS_NULL("disk", hol_bitmap_enable(NULL, "x"));
    IS_NULL("disk", hol_bitmap_disable(NULL, "x"));
    IS_NULL("disk", hol_bitmap_rename(NULL, "x", "y"));
    IS_NULL("disk", hol_bitmap_merge(NULL, "x", &message, 1));
    IS_NULL("disk", hol_bitmap_merge_from(NULL, "x", NULL, "x"));
    IS_NULL("disk", hol_bitmap_apply(NULL, &change, 1));
    IS_NULL("disk", hol_disk_snapshot_create(NULL, "x"));
    IS_NULL("disk", hol_disk_snapshot_delete(NULL, "x"));
    CHECK(hol_action_backup(NULL, "x", NULL) == NULL);
    IS_NULL("source", hol_last_error_code());
    CHECK(hol_action_bitmap_add(NULL, "x", NULL) == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_bitmap_remove(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_bitmap_clear(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_bitmap_enable(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_bitmap_disable(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_bitmap_merge(NULL, "x", NULL, 0) == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_external_snapshot(NULL, "x", NULL) == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_internal_snapshot(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    CHECK(hol_action_internal_snapshot_delete(NULL, "x") == NULL);
    IS_NULL("disk", hol_last_error_code());
    IS_NULL("txn", hol_txn_set_completion(NULL, HOL_COMPLETION_GROUPED));
    IS_NULL("txn", hol_txn_add(NULL, NULL));
    IS_NULL("txn", hol_txn_start(NULL));
    IS_NULL("txn", hol_txn_wait(NULL, 0));
    IS_NULL("txn", hol_txn_cancel(NULL));
    IS_NULL("txn", hol_txn_commit(NULL));
    IS_NULL("txn", hol_txn_event_fd(NULL));
    IS_NULL("txn", hol_txn_next_event(NULL, &event));
    IS_NULL("txn", hol_txn_job_count(NULL, &count));
    IS_NULL("txn", hol_txn_job(NULL, 0, &job));
    CHECK(job == NULL);
    IS_NULL("job", hol_txn_job(NULL, 0, NULL));
    IS_NULL("job", hol_job_status(NULL, &status));
    IS_NULL("job", hol_job_progress(NULL, &number, &other));
    IS_NULL("job", hol_job_error(NULL, &code, &message));
    IS_NULL("job", hol_job_error_details(NULL, &error));
    IS_NULL("job", hol_job_stop_error_details(NULL, &error));
    IS_NULL("job", hol_job_report(NULL, &report));
    IS_NULL("job", hol_job_pause(NULL));
    IS_NULL("job", hol_job_resume(NULL));
    IS_NULL("job", hol_job_cancel(NULL));
    IS_NULL("job", hol_job_set_speed(NULL, 0));
    IS_NULL("job", hol_job_finalize(NULL));
    IS_NULL("job", hol_job_dismiss(NULL));
    IS_NULL("job", hol_job_stop_error(NULL, &code, &message));
    IS_NULL("txn", hol_txn_set_log(NULL, NULL, NULL));
    IS_NULL("type_name", hol_sizeof(NULL, &count));
    IS_NULL("size", hol_sizeof("hol_event", NULL));
    /* Nothing is written by a call that fails. */
    CHECK(number == 7 && other == 7 && status == 7 && count == 7 && code == 7 && byte == 7);
    CHECK(strcmp(message, "7") == 0);

    OK(hol_disk_close(NULL));
    hol_action_free(NULL);
    hol_txn_free(NULL);
    hol_job_free(NULL);
}

static void with_handles(const char *images, const char *work)
{
    hol_disk *disk = open_disk(images, "disk.qcow2");
    IS_NULL("size", hol_disk_size(disk, NULL));
    IS_NULL("details", hol_disk_info(disk, NULL));
    IS_NULL("buffer", hol_disk_read(disk, 0, NULL, 1));
    IS_NULL("callback", hol_disk_extents(disk, 0, 0, NULL, NULL));
    IS_NULL("number", hol_bitmap_list(disk, NULL));
    IS_NULL("details", hol_bitmap_info_at(disk, 0, NULL));
    IS_NULL("name", hol_bitmap_info(disk, NULL, NULL));
    IS_NULL("details", hol_bitmap_info(disk, "nightly", NULL));
    IS_NULL("name", hol_bitmap_count(disk, NULL, NULL));
    IS_NULL("dirty_bytes", hol_bitmap_count(disk, "nightly", NULL));
    IS_NULL("name", hol_bitmap_extents(disk, NULL, never, NULL));
    IS_NULL("callback", hol_bitmap_extents(disk, "nightly", NULL, NULL));
    IS_NULL("name", hol_bitmap_add(disk, NULL, NULL));
    IS_NULL("name", hol_bitmap_remove(disk, NULL));
    IS_NULL("name", hol_bitmap_clear(disk, NULL));
    IS_NULL("name", hol_bitmap_enable(disk, NULL));
    IS_NULL("name", hol_bitmap_disable(disk, NULL));
    IS_NULL("name", hol_bitmap_rename(disk, NULL, "x"));
    IS_NULL("new_name", hol_bitmap_rename(disk, "x", NULL));
    IS_NULL("name", hol_bitmap_merge(disk, NULL, NULL, 0));
    IS_NULL("sources", hol_bitmap_merge(disk, "x", NULL, 0));
    IS_NULL("name", hol_bitmap_merge_from(disk, NULL, disk, "x"));
    IS_NULL("source_disk", hol_bitmap_merge_from(disk, "x", NULL, "x"));
    IS_NULL("source", hol_bitmap_merge_from(disk, "x", disk, NULL));
    IS_NULL("changes", hol_bitmap_apply(disk, NULL, 0));
    IS_NULL("name", hol_disk_snapshot_create(disk, NULL));
    IS_NULL("id_or_name", hol_disk_snapshot_delete(disk, NULL));
    CHECK(hol_action_backup(disk, NULL, NULL) == NULL);
    IS_NULL("target", hol_last_error_code());

    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    hol_last_error_clear();
    IS_NULL("action", hol_txn_add(txn, NULL));
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(work, "nulls.qcow2"), NULL)));
    OK(hol_txn_commit(txn));
    IS_NULL("event", hol_txn_next_event(txn, NULL));
    IS_NULL("number", hol_txn_job_count(txn, NULL));
    IS_NULL("job", hol_txn_job(txn, 0, NULL));
    hol_job *job = NULL;
    OK(hol_txn_job(txn, 0, &job));
    uint64_t number;
    int code;
    const char *message;
    IS_NULL("status", hol_job_status(job, NULL));
    IS_NULL("done", hol_job_progress(job, NULL, &number));
    IS_NULL("total", hol_job_progress(job, &number, NULL));
    IS_NULL("code", hol_job_error(job, NULL, &message));
    IS_NULL("message", hol_job_error(job, &code, NULL));
    IS_NULL("details", hol_job_error_details(job, NULL));
    IS_NULL("details", hol_job_stop_error_details(job, NULL));
    IS_NULL("report", hol_job_report(job, NULL));
    hol_job_free(job);
    hol_txn_free(txn);
    OK(hol_disk_close(disk));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    without_handles();
    with_handles(argv[1], argv[2]);
    return 0;
}
