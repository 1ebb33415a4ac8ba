/* Entries that are known from the answer before: read again or not, the list is the same. A story is
   a list that changes from answer to answer; each answer is decoded by one who knows the last one
   and by one who knows nothing. */

enum { KNOWN_MAX = 40, KNOWN_LINE = 100 };

typedef struct known_list {
    char lines[KNOWN_MAX][KNOWN_LINE];      /* what each instance is */
    uint64_t prints[KNOWN_MAX];
    size_t num;
} known_list;

typedef struct known_reader {
    sdc_entries *entries;
    known_list list, before;
    uint64_t num_known;
    bool refuses;                   /* the last instance */
} known_reader;

typedef struct known_story {
    uint64_t state;
    unsigned ids[KNOWN_MAX], versions[KNOWN_MAX];
    size_t num;
    char body[KNOWN_MAX * 2000];
    size_t len;
} known_story;

static uint64_t known_upto(known_story *s, uint64_t n)
{
    s->state += 0x9E3779B97F4A7C15u;
    uint64_t z = s->state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

static void known_add(known_reader *r, const char *line, uint64_t print)
{
    if (r->list.num < KNOWN_MAX) {
        memcpy(r->list.lines[r->list.num], line, KNOWN_LINE);
        r->list.prints[r->list.num] = print;
        r->list.num++;
    }
}

/* Goes on behind the one that it was before, as a list does. */
static sdc_err known_on_instance(void *user, const sdc_instance *i)
{
    known_reader *r = (known_reader *)user;
    char line[KNOWN_LINE] = { 0 };

    (void)snprintf(line, sizeof line, "%s %s %s %u", i->id, i->addr,
                   i->num_tags > 0 ? i->tags[0] : "-", i->weight);
    known_add(r, line, r->entries->print);
    for (size_t k = r->entries->known.next; k < r->before.num; k++) {
        if (strcmp(line, r->before.lines[k]) == 0) {
            r->entries->known.next = k + 1;
            break;
        }
    }
    return r->refuses && strncmp(line, "web-7 ", 6) == 0 ? SDC_ERR_USER : SDC_OK;
}

static sdc_err known_on_known(void *user, size_t nth)
{
    known_reader *r = (known_reader *)user;

    r->num_known++;
    known_add(r, r->before.lines[nth], r->before.prints[nth]);
    r->entries->known.next = nth + 1;
    return r->refuses && strncmp(r->before.lines[nth], "web-7 ", 6) == 0 ? SDC_ERR_USER : SDC_OK;
}

/* Reads the body in pieces that the story's chance makes. */
static sdc_err known_read(known_reader *r, known_story *s, bool knows, uint64_t piece)
{
    memset(&r->list, 0, sizeof r->list);
    sdc_entries_reset(r->entries);
    memset(&r->entries->known, 0, sizeof r->entries->known);
    if (knows) {
        r->entries->known.fn = known_on_known;
        r->entries->known.prints = r->before.prints;
        r->entries->known.num = r->before.num;
        r->entries->known.seed = 12345;
    }
    for (size_t at = 0; at < s->len;) {
        size_t n = (size_t)(1 + known_upto(s, piece));
        n = n < s->len - at ? n : s->len - at;
        if (sdc_entries_feed(r->entries, s->body + at, n) != SDC_OK) {
            break;
        }
        at += n;
    }
    return sdc_entries_finish(r->entries);
}

static void known_put(known_story *s, const char *format, unsigned a, unsigned b)
{
    s->len += (size_t)snprintf(s->body + s->len, sizeof s->body - s->len, format, a, b);
}

static void known_put_entry(known_story *s, unsigned id, unsigned version)
{
    if (version % 11 == 5) {
        known_put(s, "{\"Node\":{},\"Service\":{\"ID\":\"bad-%u\",\"x\":%u}}", id, version);
        return;
    }
    known_put(s, "{\"Node\":{\"Address\":\"10.0.0.%u\",\"Node\":\"n%u\"},", id, id);
    known_put(s, "\"Service\":{\"ID\":\"web-%u\",\"Port\":80,\"Tags\":[\"v%u\"],", id, version);
    known_put(s, "\"Weights\":{\"Passing\":%u,\"Warning\":1},\"X\":[{},%u]},", 1 + version % 3, id);
    known_put(s, "\"Checks\":[{\"Output\":\"\\\"%u\\\" \\u003c%u\",\"Status\":\"passing\"}]}",
              id, version % 4);
    if (id % 5 == 0) {
        s->len -= 2;
        known_put(s, ",{\"Output\":\"%0700u%0300u\"}]}", id, id);
    }
}

static void known_write(known_story *s)
{
    s->len = 0;
    known_put(s, "[", 0, 0);
    for (size_t i = 0; i < s->num; i++) {
        known_put(s, i == 0 ? "" : s->versions[i] % 7 == 6 ? " ,\n" : ",", 0, 0);
        known_put(s, s->versions[i] % 13 == 4 ? "null,[%u]," : "", s->ids[i], 0);
        known_put_entry(s, s->ids[i], s->versions[i]);
    }
    known_put(s, "]", 0, 0);
    if (known_upto(s, 6) == 0) {
        s->body[known_upto(s, s->len)] = "x,{}\"["[known_upto(s, 6)];
    }
}

/* One thing or some happen to the list; mostly nothing. */
static void known_go_on(known_story *s)
{
    for (uint64_t n = known_upto(s, 4); n > 0; n--) {
        size_t at = (size_t)known_upto(s, s->num + 1);
        uint64_t what = known_upto(s, 4);
        if (what == 0 && s->num < KNOWN_MAX - 1) {
            memmove(&s->ids[at + 1], &s->ids[at], (s->num - at) * sizeof s->ids[0]);
            memmove(&s->versions[at + 1], &s->versions[at], (s->num - at) * sizeof s->ids[0]);
            s->ids[at] = (unsigned)known_upto(s, 60);
            s->versions[at] = (unsigned)known_upto(s, 20);
            s->num++;
        } else if (what == 1 && at < s->num && s->num > 5) {
            s->num--;
            memmove(&s->ids[at], &s->ids[at + 1], (s->num - at) * sizeof s->ids[0]);
            memmove(&s->versions[at], &s->versions[at + 1], (s->num - at) * sizeof s->ids[0]);
        } else if (at < s->num) {
            s->versions[at]++;
        }
    }
}

static void test_known_entries_are_as_if_read(void)
{
    static known_story s;
    static known_reader knows, reads;
    REQUIRE(sdc_entries_create(NULL, known_on_instance, &knows, &knows.entries) == SDC_OK);
    REQUIRE(sdc_entries_create(NULL, known_on_instance, &reads, &reads.entries) == SDC_OK);
    memset(&s, 0, sizeof s);
    s.state = 7;
    for (unsigned n = 0; n < 10000; n++) {
        known_go_on(&s);
        known_write(&s);
        knows.refuses = reads.refuses = n % 50 == 0;
        uint64_t piece = n % 3 == 0 ? 40 : n % 3 == 1 ? 3000 : sizeof s.body;
        sdc_err err = known_read(&knows, &s, true, piece);
        sdc_err wanted = known_read(&reads, &s, false, piece);
        test_note("answer %u", n);
        CHECK_ERR(err, wanted);
        CHECK_INT(knows.entries->fault.at, reads.entries->fault.at);
        CHECK_INT(sdc_entries_skipped(knows.entries), sdc_entries_skipped(reads.entries));
        CHECK_INT(knows.list.num, reads.list.num);
        CHECK(memcmp(knows.list.lines, reads.list.lines, sizeof knows.list.lines) == 0);
        if (err == SDC_OK) {
            knows.before = knows.list;
        }
    }
    CHECK_BETWEEN(knows.num_known, 50000, 10000 * KNOWN_MAX);
    sdc_entries_destroy(knows.entries);
    sdc_entries_destroy(reads.entries);
}

/* What stood behind a comma is nothing that a list can begin with, and the other way round. */
static void test_known_entry_moves_to_the_front(void)
{
    static const char entry[] = "{\"Service\":{\"Address\":\"1.1.1.1\",\"Port\":1}}";
    static const struct { const char *first, *second; sdc_err err; } cases[] = {
        { "[{},%s]", "[,%s]", SDC_ERR_JSON },
        { "[{},%s]", "[%s]", SDC_OK },
        { "[%s]", "[{}%s]", SDC_ERR_JSON },
        { "[%s]", "[{},%s]", SDC_OK },
    };
    static known_story s;
    static known_reader r;
    REQUIRE(sdc_entries_create(NULL, known_on_instance, &r, &r.entries) == SDC_OK);
    for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
        memset(&r.before, 0, sizeof r.before);
        s.len = (size_t)snprintf(s.body, sizeof s.body, cases[n].first, entry);
        CHECK_ERR(known_read(&r, &s, true, sizeof s.body), SDC_OK);
        r.before = r.list;
        CHECK(r.before.prints[0] != 0);
        s.len = (size_t)snprintf(s.body, sizeof s.body, cases[n].second, entry);
        CHECK_ERR(known_read(&r, &s, true, sizeof s.body), cases[n].err);
    }
    sdc_entries_destroy(r.entries);
}

/* Any other byte makes another print, and so does any other length or seed. */
static void test_known_prints_differ(void)
{
    char text[200];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char)('a' + i % 26);
    }
    for (size_t len = 1; len <= sizeof text; len++) {
        uint64_t print = sdci_print(text, len, 1);
        CHECK_INT(print & 0xFFFF, len);
        CHECK(print != sdci_print(text, len, 2));
        for (size_t i = 0; i < len; i++) {
            text[i] ^= 1;
            CHECK(print >> 16 != sdci_print(text, len, 1) >> 16);
            text[i] ^= 1;
        }
        CHECK(print == sdci_print(text, len, 1));
    }
    CHECK(sdci_print("aaaaaaaaaaaaaaaab", 16, 1) >> 16 != sdci_print("aaaaaaaaaaaaaaaab", 17, 1) >> 16);
}

/* A product folded by words is the product folded at once. */
static void test_known_fold(void)
{
    CHECK(sdci_fold(0, 5) == 0);
    CHECK(sdci_fold(3, 5) == 15);
    CHECK(sdci_fold((uint64_t)1 << 32, (uint64_t)1 << 32) == 1);
    CHECK(sdci_fold(UINT64_MAX, UINT64_MAX) == (((uint64_t)1) ^ (UINT64_MAX - 1)));
    CHECK(sdci_fold(0x0123456789ABCDEFu, 0xFEDCBA9876543210u) ==
          (0x0121FA00AD77D742u ^ 0x2236D88FE5618CF0u));
}

static const test_case cases_known[] = {
    TEST(test_known_entries_are_as_if_read),
    TEST(test_known_entry_moves_to_the_front),
    TEST(test_known_prints_differ),
    TEST(test_known_fold)
};
