/* Internal snapshots: taken, deleted, refused, and QEMU's word on the image. */
#include "changing.h"

static const char *images, *work;

static uint64_t number_of(hol_disk *disk)
{
    hol_disk_details details = HOL_OPTIONS_INIT(hol_disk_details);
    OK(hol_disk_info(disk, &details));
    return details.snapshots;
}

/* What QEMU finds in a snapshot. */
static void holds(const char *name, const char *snapshot, const char *read)
{
    char command[4096];
    snprintf(command, sizeof command,
             "cd '%s' && qemu-img convert -l 'snapshot.name=%s' -O raw '%s' out.raw && "
             "qemu-io -f raw -c '%s' out.raw | grep -q '^read' && ! qemu-io -f raw -c '%s' out.raw | grep -q failed",
             work, snapshot, name, read, read);
    CHECK(system(command) == 0);
}

static void taken_and_deleted(void)
{
    static uint8_t data[4096];
    memset(data, 0x77, sizeof data);
    copy(images, "disk.qcow2", work, "disk.qcow2");
    hol_disk *disk = open_to_write(work, "disk.qcow2");
    uint64_t before = dirty(disk, "nightly");
    OK(hol_disk_snapshot_create(disk, "first"));
    OK(hol_disk_write(disk, 4 * KIB, data, sizeof data));
    /* What was not flushed is in it too. */
    OK(hol_disk_snapshot_create(disk, "second one"));
    memset(data, 0x78, sizeof data);
    OK(hol_disk_write(disk, 4 * KIB, data, sizeof data));
    CHECK(number_of(disk) == 2);
    OK(hol_disk_close(disk));
    check_image(work, "disk.qcow2");
    holds("disk.qcow2", "first", "read -P 0x11 4k 4k");
    holds("disk.qcow2", "second one", "read -P 0x77 4k 4k");

    disk = open_to_write(work, "disk.qcow2");
    OK(hol_disk_snapshot_delete(disk, "1"));
    CHECK(number_of(disk) == 1);
    OK(hol_disk_snapshot_delete(disk, "second one"));
    CHECK(number_of(disk) == 0);
    uint8_t byte = 0;
    OK(hol_disk_read(disk, 5 * KIB, &byte, 1));
    CHECK(byte == 0x78 && dirty(disk, "nightly") >= before);
    OK(hol_disk_close(disk));
    check_image(work, "disk.qcow2");
}

static void refusals(void)
{
    static char name[257];
    memset(name, 'x', 256);
    copy(images, "disk.qcow2", work, "refused.qcow2");
    hol_disk *disk = open_to_write(work, "refused.qcow2");
    OK(hol_disk_snapshot_create(disk, "\xff fine"));
    CHECK_CODE(HOL_ERR_EXISTS, "already", hol_disk_snapshot_create(disk, "\xff fine"));
    CHECK_CODE(HOL_ERR_EXISTS, "'1' already", hol_disk_snapshot_create(disk, "1"));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "1 to 255 bytes", hol_disk_snapshot_create(disk, ""));
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "1 to 255 bytes", hol_disk_snapshot_create(disk, name));
    CHECK_CODE(HOL_ERR_NOT_FOUND, "no snapshot 'absent'", hol_disk_snapshot_delete(disk, "absent"));
    CHECK(number_of(disk) == 1);
    OK(hol_disk_close(disk));
    check_image(work, "refused.qcow2");

    disk = open_disk(images, "disk.qcow2");
    CHECK_CODE(HOL_ERR_WRONG_STATE, "opened for reading", hol_disk_snapshot_create(disk, "x"));
    CHECK_CODE(HOL_ERR_WRONG_STATE, "opened for reading", hol_disk_snapshot_delete(disk, "x"));
    OK(hol_disk_close(disk));
}

static void listed(void)
{
    copy(images, "disk.qcow2", work, "listed.qcow2");
    hol_disk *disk = open_to_write(work, "listed.qcow2");
    size_t number = 7;
    OK(hol_snapshot_list(disk, &number));
    CHECK(number == 0);
    hol_snapshot_details made = HOL_OPTIONS_INIT(hol_snapshot_details), details = made;
    OK(hol_disk_snapshot_create_details(disk, "first", &made));
    CHECK(strcmp(made.id, "1") == 0 && strcmp(made.name, "first") == 0);
    CHECK((made.flags & HOL_SNAPSHOT_DISK_SIZE) && made.disk_size == 8 << 20);
    CHECK(made.date_sec > 1700000000 && made.date_nsec < 1000000000 && made.vm_state_size == 0);
    OK(hol_disk_snapshot_create_details(disk, "second", &details));
    CHECK(strcmp(details.id, "2") == 0);
    OK(hol_snapshot_list(disk, &number));
    CHECK(number == 2);
    OK(hol_snapshot_info_at(disk, 0, &details));
    CHECK(strcmp(details.id, made.id) == 0 && strcmp(details.name, made.name) == 0);
    CHECK(details.date_sec == made.date_sec && details.date_nsec == made.date_nsec);
    OK(hol_disk_snapshot_delete(disk, made.id));
    OK(hol_snapshot_list(disk, &number));
    CHECK(number == 1);
    OK(hol_snapshot_info_at(disk, 0, &details));
    CHECK(strcmp(details.name, "second") == 0);
    /* What was told before stays. */
    CHECK(strcmp(made.name, "first") == 0);

    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "no snapshot 1", hol_snapshot_info_at(disk, 1, &details));
    CHECK_CODE(HOL_ERR_NULL, "details", hol_disk_snapshot_create_details(disk, "third", NULL));
    details.struct_size = 3;
    CHECK_CODE(HOL_ERR_INVALID_ARGUMENT, "struct_size", hol_disk_snapshot_create_details(disk, "third", &details));
    CHECK(number_of(disk) == 1);
    OK(hol_disk_close(disk));
    check_image(work, "listed.qcow2");
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    images = argv[1];
    work = argv[2];
    taken_and_deleted();
    refusals();
    listed();
    return 0;
}
