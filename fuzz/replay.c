/* Runs a fuzz target over files, without a fuzzer: each argument is a file, or a folder whose files
   are taken. For any C compiler, as `make test` does for the corpora:

       cc -std=gnu99 fuzz/fuzz_json.c fuzz/replay.c examples/sdconsul.c -o replay_json
       ./replay_json fuzz/corpus/json crash-0123abcd

   A target aborts on what it finds wrong, after naming it; the file is the last one named. */
#include "files.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void replay_one(void *user, const char *path, const unsigned char *bytes, size_t len)
{
    bool is_verbose = *(const bool *)user;

    if (is_verbose) {
        printf("%s\n", path);
    }
    (void)LLVMFuzzerTestOneInput(bytes, len);
}

int main(int argc, char **argv)
{
    bool is_verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    int first = is_verbose ? 2 : 1;
    unsigned num_failed = 0;
    size_t num = 0;

    setvbuf(stdout, NULL, _IONBF, 0);
    if (first >= argc) {
        fprintf(stderr, "usage: %s [-v] FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    for (int i = first; i < argc; i++) {
        size_t found = files_each(argv[i], replay_one, &is_verbose);
        if (found == 0) {
            printf("%s: nothing to read\n", argv[i]);
            num_failed++;
        }
        num += found;
    }
    printf("%lu inputs\n", (unsigned long)num);
    printf("%d passed, %u failed, 0 skipped\n", argc - first - (int)num_failed, num_failed);
    return num_failed > 0 ? 1 : 0;
}
