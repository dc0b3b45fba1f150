/* A transaction of all kinds of actions: in the order of its list, all or none. */
#include "changing.h"

static const char *images, *work;

static hol_txn *list(hol_action **actions, size_t number)
{
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    for (size_t i = 0; i < number; i++)
        OK(hol_txn_add(txn, actions[i]));
    return txn;
}

static size_t bitmaps(hol_disk *disk)
{
    size_t number = SIZE_MAX;
    OK(hol_bitmap_list(disk, &number));
    return number;
}

static void bitmaps_of_two_disks(void)
{
    copy(images, "disk.qcow2", work, "a.qcow2");
    copy(images, "disk.qcow2", work, "b.qcow2");
    hol_disk *a = open_to_write(work, "a.qcow2"), *b = open_to_write(work, "b.qcow2");
    hol_bitmap_options options = HOL_OPTIONS_INIT(hol_bitmap_options);
    options.granularity = 4096;
    options.recording = HOL_RECORDING_DISABLED;
    hol_merge_source sources[] = { HOL_OPTIONS_INIT(hol_merge_source), HOL_OPTIONS_INIT(hol_merge_source) };
    sources[0].name = "nightly";
    sources[1].name = "nightly";
    sources[1].disk = b;
    hol_action *actions[] = {
        hol_action_bitmap_add(a, "union", &options),
        hol_action_bitmap_merge(a, "union", sources, 2),
        hol_action_bitmap_clear(a, "nightly"),
        hol_action_bitmap_disable(b, "nightly"),
        hol_action_bitmap_enable(b, "nightly"),
        hol_action_bitmap_add(b, "gone", NULL),
        hol_action_bitmap_remove(b, "gone"),
        hol_action_backup(b, path_in(work, "t.qcow2"), NULL),
    };
    hol_txn *txn = list(actions, sizeof actions / sizeof *actions);
    OK(hol_txn_commit(txn));
    size_t jobs = 0;
    OK(hol_txn_job_count(txn, &jobs));
    CHECK(jobs == 1);
    hol_txn_free(txn);
    CHECK(dirty(a, "union") == 192 * KIB && dirty(a, "nightly") == 0 && bitmaps(b) == 1);
    OK(hol_disk_close(a));
    OK(hol_disk_close(b));
    check_image(work, "a.qcow2");
    check_image(work, "b.qcow2");
    check_image(work, "t.qcow2");
}

static void a_bitmap_moves_to_the_overlay(void)
{
    copy(images, "disk.qcow2", work, "below.qcow2");
    hol_disk *disk = open_to_write(work, "below.qcow2");
    hol_overlay_options options = HOL_OPTIONS_INIT(hol_overlay_options);
    options.cluster_size = 4096;
    options.backing_name = "./below.qcow2";
    hol_merge_source source = HOL_OPTIONS_INIT(hol_merge_source);
    source.name = "nightly";
    source.layer = HOL_LAYER_BELOW;
    hol_action *actions[] = {
        hol_action_external_snapshot(disk, path_in(work, "over.qcow2"), &options),
        hol_action_bitmap_add(disk, "nightly", NULL),
        hol_action_bitmap_merge(disk, "nightly", &source, 1),
    };
    hol_txn *txn = list(actions, 3);
    /* Without a backup all is done when the start returns. */
    OK(hol_txn_start(txn));
    OK(hol_txn_wait(txn, 0));
    hol_txn_free(txn);
    unsigned char byte = 1;
    CHECK_CODE(HOL_ERR_WRONG_STATE, "over.qcow2", hol_disk_write(disk, 0, &byte, 1));
    OK(hol_disk_close(disk));
    disk = open_to_write(work, "over.qcow2");
    CHECK(dirty(disk, "nightly") == 192 * KIB);
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(disk, &details));
    CHECK(strcmp(details.backing, "./below.qcow2") == 0 && details.cluster_size == 4096);
    OK(hol_disk_close(disk));
    check_image(work, "over.qcow2");
}

static void snapshots_of_both_kinds(void)
{
    copy(images, "disk.qcow2", work, "s.qcow2");
    hol_disk *disk = open_to_write(work, "s.qcow2");
    hol_action *actions[] = {
        hol_action_internal_snapshot(disk, "below"),
        hol_action_external_snapshot(disk, path_in(work, "s1.qcow2"), NULL),
        hol_action_internal_snapshot(disk, "above"),
        hol_action_internal_snapshot(disk, "gone"),
        hol_action_internal_snapshot_delete(disk, "gone"),
    };
    hol_txn *txn = list(actions, 5);
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    OK(hol_disk_close(disk));
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "s1.qcow2" : "s.qcow2";
        check_image(work, name);
        disk = open_to_write(work, name);
        hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
        OK(hol_disk_info(disk, &details));
        CHECK(details.snapshots == 1);
        OK(hol_disk_close(disk));
    }
}

static void one_bad_action(void)
{
    int before = files_in(work);
    hol_disk *disk = open_to_write(work, "b.qcow2");
    hol_action *actions[] = {
        hol_action_bitmap_clear(disk, "nightly"),
        hol_action_external_snapshot(disk, path_in(work, "o.qcow2"), NULL),
        hol_action_backup(disk, path_in(work, "u.qcow2"), NULL),
        hol_action_abort(),
    };
    hol_txn *txn = list(actions, 4);
    CHECK_CODE(HOL_ERR_CANCELLED, "action 4 (abort)", hol_txn_commit(txn));
    hol_txn_free(txn);
    CHECK(dirty(disk, "nightly") == 192 * KIB && files_in(work) == before);

    hol_merge_source source = HOL_OPTIONS_INIT(hol_merge_source);
    txn = hol_txn_new();
    CHECK_CODE(HOL_ERR_NULL, "source->name", hol_txn_add(txn, hol_action_bitmap_merge(disk, "nightly", &source, 1)));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "nothing to merge",
               hol_txn_add(txn, hol_action_bitmap_merge(disk, "nightly", &source, 0)));
    CHECK_CODE(HOL_ERR_NULL, "sources", hol_txn_add(txn, hol_action_bitmap_merge(disk, "nightly", NULL, 1)));
    source.name = "nightly";
    source.layer = 2;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "source->layer",
               hol_txn_add(txn, hol_action_bitmap_merge(disk, "nightly", &source, 1)));
    source.layer = HOL_LAYER_BELOW;
    source.disk = disk;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "HOL_LAYER_TOP with another disk",
               hol_txn_add(txn, hol_action_bitmap_merge(disk, "nightly", &source, 1)));
    hol_txn_free(txn);
    OK(hol_disk_close(disk));
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1], work = argv[2];
    bitmaps_of_two_disks();
    a_bitmap_moves_to_the_overlay();
    snapshots_of_both_kinds();
    one_bad_action();
    return 0;
}
