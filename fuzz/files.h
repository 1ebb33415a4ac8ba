/* Inputs that are files: for the tests that read tests/data, and for the replay programs. */
#ifndef FILES_H
#define FILES_H

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef void (*files_fn)(void *user, const char *path, const unsigned char *bytes, size_t len);

/* The whole file in memory of its exact size, so that a sanitizer sees a read beyond it; free it.
   NULL: it cannot be read. */
static inline unsigned char *files_read(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    struct stat info;

    *len = 0;
    if (file == NULL) {
        return NULL;
    }
    if (fstat(fileno(file), &info) == 0 && info.st_size >= 0) {
        size_t size = (size_t)info.st_size;
        bytes = (unsigned char *)malloc(size > 0 ? size : 1);
        *len = bytes != NULL ? fread(bytes, 1, size, file) : 0;
    }
    fclose(file);
    return bytes;
}

static inline bool files_is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static inline int files_is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static inline size_t files_one(const char *path, files_fn fn, void *user)
{
    size_t len = 0;
    unsigned char *bytes = files_read(path, &len);

    if (bytes == NULL) {
        return 0;
    }
    fn(user, path, bytes, len);
    free(bytes);
    return 1;
}

/* Calls fn for a file, or for each file of a folder in the order of their names; not for those of
   folders in it. Answers how many there were. */
static inline size_t files_each(const char *path, files_fn fn, void *user)
{
    struct dirent **entries = NULL;
    size_t num = 0;
    char inner[1024];

    if (!files_is_folder(path)) {
        return files_one(path, fn, user);
    }
    int found = scandir(path, &entries, files_is_visible, alphasort);
    for (int i = 0; i < found; i++) {
        snprintf(inner, sizeof inner, "%s/%s", path, entries[i]->d_name);
        num += files_is_folder(inner) ? 0 : files_one(inner, fn, user);
        free(entries[i]);
    }
    free(entries);
    return num;
}

static inline const char *files_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

/* What stands beside a source file: its folder, a slash and `rest`. */
static inline void files_beside(const char *source, const char *rest, char *out, size_t size)
{
    snprintf(out, size, "%.*s%s", (int)(files_name(source) - source), source, rest);
}

#endif
