/* One disk of two cannot be read: grouped, neither target appears; individually, the good one does. */
#include "check.h"

static hol_txn *transaction(const char *images, const char *work)
{
    hol_disk *good = open_disk(images, "second.qcow2"), *torn = open_disk(images, "torn.qcow2");
    hol_txn *txn = hol_txn_new();
    CHECK(txn != NULL);
    OK(hol_txn_add(txn, hol_action_backup(good, path_in(work, "good.qcow2"), NULL)));
    OK(hol_txn_add(txn, hol_action_backup(torn, path_in(work, "torn.qcow2"), NULL)));
    OK(hol_disk_close(good));
    OK(hol_disk_close(torn));
    return txn;
}

static int job_code(hol_txn *txn, size_t index, const char *part)
{
    hol_job *job = NULL;
    int code = 0;
    const char *message = NULL;
    OK(hol_txn_job(txn, index, &job));
    OK(hol_job_error(job, &code, &message));
    CHECK(code == HOL_OK ? !message : strstr(message, part) != NULL);
    hol_job_free(job);
    return code;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_txn *txn = transaction(argv[1], argv[2]);
    CHECK_CODE(HOL_ERR_CORRUPT, "torn.qcow2", hol_txn_commit(txn));
    CHECK(job_code(txn, 0, "") == HOL_ERR_CANCELLED);
    CHECK(job_code(txn, 1, "torn.qcow2") == HOL_ERR_CORRUPT);
    CHECK(files_in(argv[2]) == 0);
    hol_txn_free(txn);

    txn = transaction(argv[1], argv[2]);
    OK(hol_txn_set_completion(txn, HOL_COMPLETION_INDIVIDUAL));
    CHECK_CODE(HOL_ERR_CORRUPT, "torn.qcow2", hol_txn_commit(txn));
    CHECK(job_code(txn, 0, "") == HOL_OK);
    CHECK(job_code(txn, 1, "torn.qcow2") == HOL_ERR_CORRUPT);
    CHECK(files_in(argv[2]) == 1);
    hol_txn_free(txn);
    OK(hol_disk_close(open_disk(argv[2], "good.qcow2")));
    return 0;
}
