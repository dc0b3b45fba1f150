/* What a caller gets who asks for nothing: a change here breaks programs that exist. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *images = argv[1], *target = path_in(argv[2], "full.qcow2");
    hol_disk *disk = open_disk(images, "disk.qcow2"), *none = NULL;

    /* A format is not guessed: a raw image is not opened as one. */
    CHECK_CODE(HOL_ERR_CORRUPT, "raw.img", hol_disk_open(path_in(images, "raw.img"), NULL, &none));
    /* Files beside the image are opened, others not. */
    OK(hol_disk_close(open_disk(images, "top.qcow2")));
    CHECK_CODE(HOL_ERR_POLICY_DENIED, "denied",
               hol_disk_open(path_in(images, "sub/denied.qcow2"), NULL, &none));

    /* A disk is opened for reading. */
    CHECK_CODE(HOL_ERR_WRONG_STATE, "disk.qcow2", hol_bitmap_clear(disk, "nightly"));

    /* A backup is a full copy in qcow2, uncompressed, without backing file, in the source's cluster size. */
    hol_txn *txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, target, NULL)));
    OK(hol_txn_commit(txn));
    hol_txn_free(txn);
    hol_disk *copy = open_disk(argv[2], "full.qcow2");
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(copy, &details));
    CHECK(details.version == 3 && details.cluster_size == 65536 && !details.backing && details.bitmaps == 0);
    CHECK(details.compression == HOL_COMPRESSION_ZLIB && details.flags == 0);
    check_same(disk, copy);
    OK(hol_disk_close(copy));

    /* An existing target is refused, and stays. */
    txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, target, NULL)));
    CHECK_CODE(HOL_ERR_EXISTS, "full.qcow2", hol_txn_commit(txn));
    hol_txn_free(txn);
    OK(hol_disk_close(open_disk(argv[2], "full.qcow2")));

    /* With a bitmap, its dirty parts are copied. */
    hol_backup_options options = HOL_OPTIONS_INIT(hol_backup_options);
    options.bitmap = "nightly";
    options.bitmap_mode = HOL_BITMAP_MODE_NEVER;
    options.backing = "full.qcow2";
    txn = hol_txn_new();
    OK(hol_txn_add(txn, hol_action_backup(disk, path_in(argv[2], "inc.qcow2"), &options)));
    OK(hol_txn_commit(txn));
    hol_job *job = NULL;
    hol_report report = HOL_OPTIONS_INIT(hol_report);
    OK(hol_txn_job(txn, 0, &job));
    OK(hol_job_report(job, &report));
    CHECK(report.data_bytes == 128 << 10 && report.zero_bytes == 64 << 10);
    CHECK(report.stored_bytes >= report.data_bytes);
    hol_job_free(job);
    hol_txn_free(txn);
    hol_disk *increment = open_disk(argv[2], "inc.qcow2");
    check_same(disk, increment);
    OK(hol_disk_close(increment));
    OK(hol_disk_close(disk));
    CHECK(files_in(argv[2]) == 2);
    return 0;
}
