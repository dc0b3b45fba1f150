/* The library is found and works. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    hol_disk *disk = open_disk(argv[1], "disk.qcow2");
    uint64_t size = 0;
    OK(hol_disk_size(disk, &size));
    CHECK(size == 8 << 20);
    OK(hol_disk_close(disk));
    return 0;
}
