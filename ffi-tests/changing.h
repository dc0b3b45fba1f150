/* What the tests share that change images. */
#ifndef CHANGING_H
#define CHANGING_H

#include "check.h"

#define KIB UINT64_C(1024)

/* Copies an image from the shared folder, to be changed. */
static inline void copy(const char *images, const char *name, const char *work, const char *to)
{
    static char bytes[1 << 16];
    FILE *in = fopen(path_in(images, name), "rb"), *out = fopen(path_in(work, to), "wb");
    CHECK(in != NULL && out != NULL);
    for (size_t length; (length = fread(bytes, 1, sizeof bytes, in)) > 0;)
        CHECK(fwrite(bytes, 1, length, out) == length);
    CHECK(fclose(out) == 0 && fclose(in) == 0);
}

static inline hol_disk *open_to_write(const char *work, const char *name)
{
    hol_disk_options options = HOL_OPTIONS_INIT(hol_disk_options);
    options.access = HOL_ACCESS_WRITE;
    hol_disk *disk = NULL;
    OK(hol_disk_open(path_in(work, name), &options, &disk));
    return disk;
}

/* QEMU finds no fault with the image. */
static inline void check_image(const char *work, const char *name)
{
    char command[2048];
    snprintf(command, sizeof command, "qemu-img check -q '%s'", path_in(work, name));
    CHECK(system(command) == 0);
}

static inline uint64_t dirty(hol_disk *disk, const char *name)
{
    uint64_t bytes = UINT64_MAX;
    OK(hol_bitmap_count(disk, name, &bytes));
    return bytes;
}

#endif
