/* What the tests share: a check that says where it failed, and paths. Arguments of every test: IMAGES WORK. */
#ifndef CHECK_H
#define CHECK_H

#include <holstein.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: not so: %s\n    last error: %d %s\n", __FILE__, __LINE__, \
                    #condition, hol_last_error_code(), hol_last_error_message());             \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)

/* The call gives this code, and with an error the message holds `part`. */
#define CHECK_CODE(expected, part, call)                                                                 \
    do {                                                                                                 \
        int code_ = (call);                                                                              \
        if (code_ != (expected) || (code_ < 0 && !strstr(hol_last_error_message(), part))) {             \
            fprintf(stderr, "%s:%d: %s\n    gives %d, not %d with '%s'\n    last error: %s\n", __FILE__, \
                    __LINE__, #call, code_, (expected), part, hol_last_error_message());                 \
            exit(1);                                                                                     \
        }                                                                                                \
    } while (0)

#define OK(call) CHECK_CODE(HOL_OK, "", call)

/* FOLDER/NAME, never freed before the end of the program; `paths` keeps it reachable. */
static inline const char *path_in(const char *folder, const char *name)
{
    static char paths[64][1024];
    static int used;
    CHECK(used < 64);
    snprintf(paths[used], sizeof paths[used], "%s/%s", folder, name);
    return paths[used++];
}

static inline hol_disk *open_disk(const char *folder, const char *name)
{
    hol_disk *disk = NULL;
    OK(hol_disk_open(path_in(folder, name), NULL, &disk));
    CHECK(disk != NULL);
    return disk;
}

/* Number of files in a folder. */
static inline int files_in(const char *folder)
{
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    int files = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        files += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return files;
}

/* Both disks read the same. */
static inline void check_same(hol_disk *a, hol_disk *b)
{
    enum { STEP = 1 << 20 };
    static unsigned char of_a[STEP], of_b[STEP];
    uint64_t size = 0, other = 0;
    OK(hol_disk_size(a, &size));
    OK(hol_disk_size(b, &other));
    CHECK(size == other);
    for (uint64_t at = 0; at < size; at += STEP) {
        size_t length = size - at < STEP ? (size_t)(size - at) : STEP;
        OK(hol_disk_read(a, at, of_a, length));
        OK(hol_disk_read(b, at, of_b, length));
        CHECK(memcmp(of_a, of_b, length) == 0);
    }
}

#endif
