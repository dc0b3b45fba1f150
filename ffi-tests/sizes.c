/* The layout is the ABI: sizes and offsets on 64-bit machines, as numbers, and the library's own word for them. */
#include "check.h"

_Static_assert(sizeof(hol_disk_options) == 56, "hol_disk_options");
_Static_assert(sizeof(hol_backup_options) == 104, "hol_backup_options");
_Static_assert(sizeof(hol_create_options) == 72, "hol_create_options");
_Static_assert(sizeof(hol_disk_details) == 128, "hol_disk_details");
_Static_assert(sizeof(hol_bitmap_details) == 64, "hol_bitmap_details");
_Static_assert(sizeof(hol_snapshot_details) == 72, "hol_snapshot_details");
_Static_assert(sizeof(hol_check_report) == 176, "hol_check_report");
_Static_assert(sizeof(hol_problem) == 40, "hol_problem");
_Static_assert(sizeof(hol_layer) == 56, "hol_layer");
_Static_assert(sizeof(hol_lineage) == 32, "hol_lineage");
_Static_assert(sizeof(hol_bitmap_options) == 24, "hol_bitmap_options");
_Static_assert(sizeof(hol_bitmap_change) == 64, "hol_bitmap_change");
_Static_assert(sizeof(hol_merge_source) == 32, "hol_merge_source");
_Static_assert(sizeof(hol_overlay_options) == 24, "hol_overlay_options");
_Static_assert(sizeof(hol_extent) == 40, "hol_extent");
_Static_assert(sizeof(hol_event) == 64, "hol_event");
_Static_assert(sizeof(hol_error_details) == 24, "hol_error_details");
_Static_assert(sizeof(hol_recovered) == 32, "hol_recovered");
_Static_assert(sizeof(hol_recover_report) == 56, "hol_recover_report");
_Static_assert(sizeof(hol_report) == 48, "hol_report");
_Static_assert(offsetof(hol_disk_options, layers) == 36, "before access there was nothing behind");
_Static_assert(offsetof(hol_disk_options, chain_limit) == 44, "before thread_limit there was nothing behind");
_Static_assert(offsetof(hol_disk_options, reserved) == 52, "the last field ends the structure");
_Static_assert(offsetof(hol_backup_options, zero_detection) == 60, "before speed there was nothing behind");
_Static_assert(offsetof(hol_backup_options, dismiss) == 84, "a field keeps its place");
_Static_assert(offsetof(hol_backup_options, reflink) == 92, "a field keeps its place");
_Static_assert(offsetof(hol_backup_options, reserved) == 100, "the last field ends the structure");
_Static_assert(offsetof(hol_create_options, reserved) == 68, "the last field ends the structure");
_Static_assert(offsetof(hol_disk_details, layers) == 108, "before identity there was nothing behind");
_Static_assert(offsetof(hol_bitmap_details, reserved) == 44, "before base there was nothing behind");
_Static_assert(offsetof(hol_bitmap_options, reserved) == 20, "the last field ends the structure");
_Static_assert(offsetof(hol_bitmap_change, recording) == 60, "the last field ends the structure");
_Static_assert(offsetof(hol_extent, flags) == 36, "the last field ends the structure");
_Static_assert(offsetof(hol_event, reserved) == 44, "before side there was nothing behind");
_Static_assert(offsetof(hol_event, action) == 52, "before os_error there was nothing behind");
_Static_assert(offsetof(hol_event, reserved2) == 60, "the last field ends the structure");
_Static_assert(offsetof(hol_error_details, os_error) == 20, "the last field ends the structure");
_Static_assert(offsetof(hol_report, partial_end) == 32, "a field keeps its place");
_Static_assert(offsetof(hol_report, shared_bytes) == 40, "the last field ends the structure");

/* Defaults are ABI: a zeroed structure means these. */
_Static_assert(HOL_FORMAT_QCOW2 == 0 && HOL_BACKING_BESIDE == 0 && HOL_SHARING_LOCKED == 0, "disk");
_Static_assert(HOL_LAYERS_CHAIN == 0 && HOL_ACCESS_READ == 0, "disk");
_Static_assert(HOL_RECORDING_ENABLED == 0, "bitmap");
_Static_assert(HOL_SYNC_DEFAULT == 0 && HOL_BITMAP_MODE_DEFAULT == 0 && HOL_COMPRESSION_NONE == 0, "backup");
_Static_assert(HOL_EXISTING_REFUSE == 0 && HOL_ZERO_DETECTION_ON == 0, "backup");
_Static_assert(HOL_ON_ERROR_REPORT == 0 && HOL_LAST_STEP_AUTO == 0, "backup");
_Static_assert(HOL_COMPAT_1_1 == 0 && HOL_PREALLOCATION_OFF == 0, "create");
_Static_assert(HOL_LAYER_TOP == 0, "merge");
_Static_assert(HOL_COMPLETION_GROUPED == 0, "all or none unless asked otherwise");

/* Numbers are never given anew. */
_Static_assert(HOL_CHANGE_ADD == 1 && HOL_CHANGE_REMOVE == 2 && HOL_CHANGE_CLEAR == 3, "changes");
_Static_assert(HOL_CHANGE_ENABLE == 4 && HOL_CHANGE_DISABLE == 5 && HOL_CHANGE_RENAME == 6, "changes");
_Static_assert(HOL_CHANGE_MERGE == 7, "changes");
_Static_assert(HOL_RECOVERED_TEMPORARY_REMOVED == 1 && HOL_RECOVERED_TARGET_PUBLISHED == 2, "recovery");
_Static_assert(HOL_RECOVERED_TARGET_WAS_PUBLISHED == 3 && HOL_RECOVERED_TARGET_MISSING == 4, "recovery");
_Static_assert(HOL_RECOVERED_BITMAPS_CHANGED == 5 && HOL_RECOVERED_BITMAPS_WERE_CHANGED == 6, "recovery");
_Static_assert(HOL_RECOVERED_BITMAPS_LEFT == 7 && HOL_RECOVERED_BITMAPS_GIVEN_UP == 8, "recovery");
_Static_assert(HOL_RECOVERED_UNFINISHED == 9 && HOL_RECOVERED_AT_WORK == 10, "recovery");
_Static_assert(HOL_JOB_CREATED == 1 && HOL_JOB_RUNNING == 2 && HOL_JOB_WAITING == 3, "jobs");
_Static_assert(HOL_JOB_ABORTING == 4 && HOL_JOB_CONCLUDED == 5 && HOL_JOB_PAUSED == 6, "jobs");
_Static_assert(HOL_JOB_PENDING == 7 && HOL_JOB_DISMISSED == 8, "jobs");
_Static_assert(HOL_EVENT_STATUS == 1 && HOL_EVENT_PROGRESS == 2 && HOL_EVENT_FAILED == 3, "events");
_Static_assert(HOL_EVENT_CANCELLED == 4 && HOL_EVENT_COMPLETED == 5 && HOL_EVENT_FINISHED == 6, "events");
_Static_assert(HOL_EVENT_ERROR == 7 && HOL_SIDE_SOURCE == 1 && HOL_SIDE_TARGET == 2, "events");
_Static_assert(HOL_ACTION_REPORT == 1 && HOL_ACTION_IGNORE == 2 && HOL_ACTION_STOP == 3, "events");
_Static_assert(HOL_ON_ERROR_IGNORE == 1 && HOL_ON_ERROR_ENOSPC == 2 && HOL_ON_ERROR_STOP == 3, "policies");
_Static_assert(HOL_LAST_STEP_MANUAL == 1, "last steps");
_Static_assert(HOL_PAGE_CACHE_DROP == 0 && HOL_PAGE_CACHE_KEEP == 1, "page caches");
_Static_assert(HOL_REFLINK_AUTO == 0 && HOL_REFLINK_ALWAYS == 1 && HOL_REFLINK_NEVER == 2, "reflinks");
_Static_assert(HOL_LINEAGE_STRICT == 0 && HOL_LINEAGE_IGNORE == 1, "lineage");
_Static_assert(HOL_REPAIR_LEAKS == 1 && HOL_REPAIR_ALL == 2, "repairs");
_Static_assert(HOL_PROBLEM_REFCOUNT_TOO_LOW == 1 && HOL_PROBLEM_SNAPSHOT == 11, "problems");
_Static_assert(HOL_SEVERITY_CORRUPTION == 1 && HOL_SEVERITY_NOTE == 4, "severities");
_Static_assert(HOL_LINK_BOTTOM == 1 && HOL_LINK_PROVEN == 2 && HOL_LINK_UNKNOWN == 3, "links");
_Static_assert(HOL_LINK_BROKEN == 4 && HOL_VERDICT_NONE == 0 && HOL_VERDICT_CONSISTENT == 1, "verdicts");
_Static_assert(HOL_VERDICT_LEAKS == 2 && HOL_VERDICT_CORRUPT == 3 && HOL_VERDICT_INCOMPLETE == 4, "verdicts");
_Static_assert(HOL_LOG_ERROR == 1 && HOL_LOG_WARNING == 2 && HOL_LOG_INFO == 3, "log");
_Static_assert(HOL_OK == 0 && HOL_ERR_NULL == -1 && HOL_ERR_PANIC == -2, "errors");
_Static_assert(HOL_ERR_INVALID_ARGUMENT == -3 && HOL_ERR_NOT_FOUND == -4 && HOL_ERR_EXISTS == -5, "errors");
_Static_assert(HOL_ERR_LOCKED == -6 && HOL_ERR_IO == -7 && HOL_ERR_NO_SPACE == -8, "errors");
_Static_assert(HOL_ERR_CORRUPT == -9 && HOL_ERR_UNSUPPORTED == -10 && HOL_ERR_ENCRYPTED == -11, "errors");
_Static_assert(HOL_ERR_POLICY_DENIED == -12 && HOL_ERR_LIMIT == -13, "errors");
_Static_assert(HOL_ERR_BITMAP_NOT_FOUND == -14 && HOL_ERR_BITMAP_UNUSABLE == -15, "errors");
_Static_assert(HOL_ERR_PERMISSION == -19 && HOL_ERR_NO_MEMORY == -20, "errors");
_Static_assert(HOL_ERR_CANCELLED == -16 && HOL_ERR_WRONG_STATE == -17 && HOL_ERR_INTERNAL == -18, "errors");

#define SAME_SIZE(type)                     \
    do {                                    \
        size_t size = 0;                    \
        OK(hol_sizeof(#type, &size));       \
        CHECK(size == sizeof(type));        \
        type value = HOL_OPTIONS_INIT(type); \
        CHECK(value.struct_size == size);   \
    } while (0)

int main(void)
{
    SAME_SIZE(hol_disk_options);
    SAME_SIZE(hol_backup_options);
    SAME_SIZE(hol_create_options);
    SAME_SIZE(hol_disk_details);
    SAME_SIZE(hol_bitmap_details);
    SAME_SIZE(hol_bitmap_options);
    SAME_SIZE(hol_bitmap_change);
    SAME_SIZE(hol_merge_source);
    SAME_SIZE(hol_overlay_options);
    SAME_SIZE(hol_snapshot_details);
    SAME_SIZE(hol_check_report);
    SAME_SIZE(hol_problem);
    SAME_SIZE(hol_layer);
    SAME_SIZE(hol_lineage);
    SAME_SIZE(hol_extent);
    SAME_SIZE(hol_error_details);
    SAME_SIZE(hol_event);
    SAME_SIZE(hol_report);
    SAME_SIZE(hol_recovered);
    SAME_SIZE(hol_recover_report);
    size_t size = 7;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "hol_disk", hol_sizeof("hol_disk", &size));
    CHECK(size == 7);
    CHECK(strcmp(hol_version(), HOL_VERSION) == 0);
    CHECK(hol_version_number() == HOL_VERSION_NUMBER);
    return 0;
}
