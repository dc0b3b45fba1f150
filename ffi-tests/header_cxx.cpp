// The header, its initializer and its linkage from C++.
#include <holstein.h>

#include <cstring>

static int ignore(const hol_extent *, void *)
{
    return 0;
}

int main()
{
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    static hol_backup_options backup = HOL_OPTIONS_INIT(hol_backup_options);
    hol_extent_cb callback = ignore;
    hol_disk *disk = nullptr;
    if (options.struct_size != sizeof options || backup.struct_size != sizeof backup || backup.bitmap)
        return 1;
    if (hol_disk_open("", &options, &disk) >= 0 || disk || hol_last_error_code() >= 0)
        return 2;
    if (hol_disk_extents(disk, 0, 0, callback, nullptr) != HOL_ERR_NULL)
        return 3;
    return std::strcmp(hol_version(), HOL_VERSION) != 0;
}
