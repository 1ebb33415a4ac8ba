/* count BODY: decodes the body once to learn, and once inside of `counted`, for
   callgrind to count the instructions of that alone. */
#include "peer.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) bool counted(const peer *p, void *state, const char *body, size_t len,
                                       sum *s);

bool counted(const peer *p, void *state, const char *body, size_t len, sum *s)
{
    return p->run(state, body, len, 65536, s);
}

int main(int argc, char **argv)
{
    static char body[4 << 20];
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    size_t len = f != NULL ? fread(body, 1, sizeof body - 64, f) : 0;
    const peer *p = bench_peer();
    void *state = p->open(len);
    sum first = { 1, 0, false }, second = { 1, 0, false };

    if (len == 0 || state == NULL || !p->run(state, body, len, 65536, &first) ||
        !counted(p, state, body, len, &second) || first.value != second.value) {
        fprintf(stderr, "count: the decoder failed\n");
        return 1;
    }
    printf("%zu\n", len);
    p->close(state);
    return 0;
}
