/* The entries decoder beside fuzz/model.h, on bodies that nobody wrote by hand: answers like those
   of Consul, mutated, and fed in random pieces to one decoder that keeps what it has learned.

   Bodies come in stories. Those of one story have the same members in the same order, so that the
   decoder learns what stands between their values; a body of it may differ here and there, and most
   are mutated where it hurts: at the first byte of a value, behind digits, at brackets and quotes.
   Instances, the number left out, the error and its byte must be those of the model.

       DIFFERENTIAL_SEED=7         another run than the one of `make test`, and each seed again
       DIFFERENTIAL_BODIES=1000    how many bodies a test takes */
#ifndef SDCONSUL_IMPLEMENTATION
#define SDCONSUL_IMPLEMENTATION
#endif
#include "../sdconsul.h"
#include "support/test.h"
#include "../fuzz/feed.h"
#include "../fuzz/model.h"

/* For each of the two tests. */
#ifndef DIFFERENTIAL_BODIES
#define DIFFERENTIAL_BODIES 50000
#endif

enum { DIFF_STORY = 250, DIFF_DECODER = 1000, DIFF_BODY_MAX = 6000, DIFF_BEHIND = 160 };

typedef struct diff_random { uint64_t state; } diff_random;

/* What a body is made by. The structure is drawn from `shape`, which begins anew with each entry,
   so that entries are alike; what stands in it from `value`. */
typedef struct diff_writer {
    diff_random shape, value;
    uint64_t    shape_seed;
    feed_log    body;
    unsigned    depth;
    unsigned    spaces;         /* 0: none, 1: a few, 2: as in a pretty answer, 3: any       */
} diff_writer;

static uint64_t diff_draw(diff_random *r)
{
    r->state += 0x9E3779B97F4A7C15u;
    uint64_t x = r->state;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* From 0 to n - 1. */
static size_t diff_roll(diff_random *r, size_t n)
{
    return (size_t)((diff_draw(r) >> 16) % n);
}

static bool diff_once_in(diff_random *r, size_t n)
{
    return diff_roll(r, n) == 0;
}

static const char *diff_pick(diff_random *r, const char *const *texts, size_t num)
{
    return texts[diff_roll(r, num)];
}

#define DIFF_PICK(r, texts) diff_pick((r), (texts), sizeof(texts) / sizeof((texts)[0]))

/* -- Scalars -- */

static void diff_put_letters(diff_writer *w, size_t len)
{
    char text[320];

    for (size_t i = 0; i < len; i++) {
        text[i] = (char)('a' + (i * 7 + len) % 26);
    }
    feed_put(&w->body, text, len);
}

static void diff_put_string(diff_writer *w)
{
    static const char *const odd[] = {
        "\\n", "\\\"", "\\\\", "\\/", "\\u0041", "\\u00e9", "\\ud83d\\ude00", "\\u0000", "\xC3\xA9",
        "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xED\x9F\xBF", "\x7F", " ", "\\uD800", "\\x",
        "\xC0\x80", "\t", "\xE2\x82"
    };
    static const char *const usual[] = {
        "10.0.0.1", "10.0.12.255", "::1", "fe80::1", "web", "web-1", "dc1", "", "a b", "http",
        "passing", "/run/web.sock", "}]},{\\\"", "0123456789abcde", "0123456789abcdef",
        "0123456789abcdef0", "0123456789abcdef0123456789abcde"
    };
    diff_random *r = &w->value;

    feed_puts(&w->body, "\"");
    if (!diff_once_in(r, 3)) {
        feed_puts(&w->body, DIFF_PICK(r, usual));
    } else {
        diff_put_letters(w, diff_once_in(r, 8) ? diff_roll(r, 300) : diff_roll(r, 40));
        if (diff_once_in(r, 3)) {
            size_t num = sizeof odd / sizeof odd[0];
            size_t num_good = num - 5;
            feed_puts(&w->body, odd[diff_roll(r, diff_once_in(r, 20) ? num : num_good)]);
            diff_put_letters(w, diff_roll(r, 20));
        }
    }
    feed_puts(&w->body, "\"");
}

static void diff_put_number(diff_writer *w)
{
    static const char *const odd[] = {
        "0", "65535", "65536", "-1", "-0", "1.5", "80.0", "8e1", "1E+2", "0e0", "0.0",
        "18446744073709551615", "99999999999999999999999", "123456789012345", "1234567890123456",
        "12345678901234567", "00", "01", "1.", "1e", "-", ".5", "+1", "1-", "0x1"
    };
    size_t num = sizeof odd / sizeof odd[0];
    size_t num_good = num - 9;

    if (diff_once_in(&w->value, 12)) {
        feed_puts(&w->body, odd[diff_roll(&w->value, diff_once_in(&w->value, 8) ? num : num_good)]);
    } else {
        feed_put_u64(&w->body, 1 + diff_roll(&w->value, diff_once_in(&w->value, 2) ? 9 : 65535));
    }
}

static void diff_put_check_text(diff_writer *w)
{
    static const char *const texts[] = {
        "\"passing\"", "\"passing\"", "\"passing\"", "\"warning\"", "\"critical\"", "\"\"",
        "\"serfHealth\"", "\"_node_maintenance\"", "\"_service_maintenance:web\"",
        "\"p\\u0061ssing\"", "\"passing\\u0000\""
    };

    feed_puts(&w->body, DIFF_PICK(&w->value, texts));
}

static void diff_put_literal(diff_writer *w)
{
    static const char *const literals[] = { "true", "false", "null" };

    feed_puts(&w->body, DIFF_PICK(&w->value, literals));
}

/* -- Containers -- */

static void diff_put_space(diff_writer *w, bool is_line)
{
    static const char *const any[] = { " ", "\n", "\t", "\r\n", "", "  \n\t ", "" };

    if (w->spaces == 3) {
        feed_puts(&w->body, DIFF_PICK(&w->value, any));
    } else if (w->spaces == 1 || (w->spaces == 2 && !is_line)) {
        feed_puts(&w->body, " ");
    } else if (w->spaces == 2) {
        feed_puts(&w->body, "\n");
        for (unsigned i = 0; i < w->depth; i++) {
            feed_puts(&w->body, "    ");
        }
    }
}

static void diff_open(diff_writer *w, char bracket)
{
    feed_put(&w->body, &bracket, 1);
    w->depth++;
}

static void diff_close(diff_writer *w, char bracket)
{
    w->depth--;
    diff_put_space(w, true);
    feed_put(&w->body, &bracket, 1);
}

/* The comma before it, unless it is the first one; of a member also its name. */
static void diff_put_item(diff_writer *w, bool *is_first, bool is_object, const char *name)
{
    feed_puts(&w->body, *is_first ? "" : ",");
    *is_first = false;
    diff_put_space(w, true);
    if (is_object) {
        feed_puts(&w->body, "\"");
        feed_puts(&w->body, name);
        feed_puts(&w->body, "\":");
        diff_put_space(w, false);
    }
}

/* Many are the same in every entry of a story, and differ only now and then. */
static void diff_put_unknown_scalar(diff_writer *w, size_t kind)
{
    diff_random value = w->value;
    uint64_t constant = diff_draw(&w->shape);
    bool is_constant = (constant & 1) != 0 && !diff_once_in(&value, 40);

    w->value.state = is_constant ? constant : value.state;
    if (kind == 0) {
        diff_put_number(w);
    } else if (kind == 1) {
        diff_put_literal(w);
    } else {
        diff_put_string(w);
    }
    w->value = is_constant ? value : w->value;
}

/* Something that nobody wants, or that stands where something else is wanted. */
static void diff_put_unknown(diff_writer *w, unsigned levels)
{
    static const char *const names[] = { "x", "y", "Port", "Service", "n\\u0041me",
                                         "A-name-of-more-than-31-bytes-in-it" };
    size_t kind = diff_roll(&w->shape, levels > 0 ? 7 : 4);
    bool is_object = kind < 6;
    bool is_first = true;

    if (kind < 4) {
        diff_put_unknown_scalar(w, kind);
        return;
    }
    diff_open(w, is_object ? '{' : '[');
    for (size_t i = diff_roll(&w->shape, 4); i > 0; i--) {
        diff_put_item(w, &is_first, is_object, DIFF_PICK(&w->shape, names));
        diff_put_unknown(w, levels - 1);
    }
    diff_close(w, is_object ? '}' : ']');
}

/* Brackets in brackets up to and beyond the depth that is allowed. */
static void diff_put_deep(diff_writer *w)
{
    size_t num = 55 + diff_roll(&w->value, 12);
    uint64_t objects = diff_once_in(&w->value, 2) ? diff_draw(&w->value) : 0;

    for (size_t i = 0; i < num; i++) {
        feed_puts(&w->body, (objects >> i % 64 & 1) != 0 ? "{\"k\":" : "[");
    }
    feed_puts(&w->body, "0");
    for (size_t i = num; i > 0; i--) {
        feed_puts(&w->body, (objects >> (i - 1) % 64 & 1) != 0 ? "}" : "]");
    }
}

static void diff_put_container(diff_writer *w, char type);

static void diff_put_value(diff_writer *w, char type)
{
    if (diff_once_in(&w->value, 60)) {
        feed_puts(&w->body, "null");
    } else if (diff_once_in(&w->value, 120)) {
        diff_put_unknown(w, 2);
    } else if (type == 's') {
        diff_put_string(w);
    } else if (type == 't') {
        diff_put_check_text(w);
    } else if (type == 'n') {
        diff_put_number(w);
    } else if (type == 'b') {
        diff_put_literal(w);
    } else {
        diff_put_container(w, type);
    }
}

static void diff_put_unknown_member(diff_writer *w, bool *is_first)
{
    static const char *const names[] = { "CreateIndex", "Notes", "Definition", "Proxy", "Kind",
                                         "port", "Output", "RaftIndex" };

    diff_put_item(w, is_first, true, DIFF_PICK(&w->shape, names));
    if (diff_once_in(&w->value, 200)) {
        diff_put_deep(w);
    } else {
        diff_put_unknown(w, 3);
    }
}

/* The items of a list, or the members of a map. */
static void diff_put_items(diff_writer *w, const model_rule *rule, bool is_object)
{
    static const char *const names[] = { "lan", "wan", "version", "zone", "", "a\\u0062",
                                         "\xC3\xBC" };
    bool is_first = true;
    size_t num = diff_once_in(&w->value, 10) ? diff_roll(&w->value, 6) : diff_roll(&w->shape, 4);

    for (size_t i = 0; i < num; i++) {
        diff_put_item(w, &is_first, is_object, DIFF_PICK(&w->shape, names));
        diff_put_value(w, rule->type);
    }
}

/* The members of an object that are wanted, in another order in each story. */
static void diff_put_members(diff_writer *w, char where)
{
    size_t num = 0;
    const model_rule *rules = model_rules(&num);
    size_t first = diff_roll(&w->shape, num);
    bool is_first = true;

    for (size_t i = 0; i < num; i++) {
        const model_rule *rule = &rules[(first + i) % num];
        if (rule->in != where) {
            continue;
        }
        bool is_needed = strcmp(rule->name, "Port") == 0 || strcmp(rule->name, "Address") == 0 ||
                         strcmp(rule->name, "Service") == 0;
        bool is_rare = strcmp(rule->name, "SocketPath") == 0 || strcmp(rule->name, "Ports") == 0;
        size_t roll = diff_roll(&w->shape, 10);
        if (roll < 3) {
            diff_put_unknown_member(w, &is_first);
        }
        if (is_needed || (roll % 5 != 0 && !is_rare) || roll == 9) {
            diff_put_item(w, &is_first, true, rule->name);
            diff_put_value(w, rule->type);
        }
        if (diff_once_in(&w->value, 150)) {
            diff_put_item(w, &is_first, true, rule->name);
            diff_put_value(w, rule->type);
        }
    }
}

/* The same table that the model checks types by says what stands where. */
static void diff_put_container(diff_writer *w, char type)
{
    bool is_object = type >= 'A' && type <= 'Z';
    size_t num = 0;
    const model_rule *rules = model_rules(&num);
    const model_rule *any = NULL;

    for (size_t i = 0; i < num; i++) {
        any = rules[i].in == type && rules[i].name[0] == '\0' ? &rules[i] : any;
    }
    diff_open(w, is_object ? '{' : '[');
    if (any != NULL) {
        diff_put_items(w, any, is_object);
    } else {
        diff_put_members(w, type);
    }
    diff_close(w, is_object ? '}' : ']');
}

static void diff_put_body(diff_writer *w)
{
    bool is_first = true;
    size_t num = 1 + diff_roll(&w->value, 3);

    w->body.len = 0;
    w->depth = 0;
    diff_open(w, '[');
    for (size_t i = 0; i < num && w->body.len < 700; i++) {
        uint64_t is_other = diff_once_in(&w->value, 12) ? diff_roll(&w->value, 3) : 0;
        w->shape.state = w->shape_seed + is_other;
        diff_put_item(w, &is_first, false, "");
        diff_put_container(w, 'E');
    }
    if (diff_once_in(&w->value, 50)) {
        diff_put_item(w, &is_first, false, "");
        diff_put_unknown(w, 2);
    }
    diff_close(w, ']');
}

/* -- Mutations -- */

/* Puts `len` bytes in the place of `num` bytes at `at`. */
static void diff_replace(feed_log *body, size_t at, size_t num, const char *bytes, size_t len)
{
    char copy[512];

    len = len < sizeof copy ? len : sizeof copy;
    num = num < body->len - at ? num : body->len - at;
    memcpy(copy, bytes, len);
    if (len > num) {
        for (size_t i = num; i < len; i++) {
            feed_put(body, "", 1);          /* room */
        }
        memmove(body->text + at + len, body->text + at + num, body->len - at - len);
    } else {
        memmove(body->text + at + len, body->text + at + num, body->len - at - num);
        body->len -= num - len;
    }
    memcpy(body->text + at, copy, len);
    body->text[body->len] = '\0';
}

/* From a random place on the first byte of `set`, or that place. */
static size_t diff_find(diff_random *r, const feed_log *body, const char *set)
{
    size_t from = diff_roll(r, body->len);

    for (size_t i = from; i < body->len && i < from + 200; i++) {
        if (body->text[i] != '\0' && strchr(set, body->text[i]) != NULL) {
            return i;
        }
    }
    return from;
}

/* What a scalar or word at `at` has in bytes. */
static size_t diff_scalar_len(const feed_log *body, size_t at)
{
    size_t end = at;

    if (body->text[at] == '"') {
        end++;
        while (end < body->len && body->text[end] != '"') {
            end += body->text[end] == '\\' ? 2 : 1;
        }
        return (end < body->len ? end + 1 : body->len) - at;
    }
    while (end < body->len && memchr(",:{}[] \n\"", body->text[end], 9) == NULL) {
        end++;
    }
    return end - at;
}

/* Another byte, most often one that means something. */
static void diff_change_byte(diff_random *r, feed_log *body, size_t at)
{
    static const char bytes[] = "\"\"\"{}[],:\\0019-.eEtfnu \n\0\x1F\x7F\x80\xC3\xE2\xF0\xFF/";

    body->text[at] = diff_once_in(r, 4) ? (char)diff_roll(r, 256)
                                        : bytes[diff_roll(r, sizeof bytes - 1)];
}

/* A whole value becomes another one. */
static void diff_change_value(diff_random *r, feed_log *body)
{
    static const char long_text[] =
        "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"";
    static const char *const values[] = {
        "true", "false", "null", "0", "7", "-1", "65536", "1.5", "1e3", "\"\"", "\"s\"", "{}", "[]",
        "", "tru", "nul", "falsy", "truer", "[1,[2]]", "{\"a\":{\"b\":[]}}", "\"\\u0000\"",
        "\"\\ud800\"", "00", "01", "1.", "2E", "-", "80.0", "1234567890123456",
        "12345678901234567", "nulll", "\"", "1.e5", "txue", "folse", long_text
    };
    size_t at = diff_find(r, body, ":[,");
    const char *value = DIFF_PICK(r, values);

    at = at + 1 < body->len ? at + 1 : at;
    while (at + 1 < body->len && (body->text[at] == ' ' || body->text[at] == '\n')) {
        at++;
    }
    diff_replace(body, at, diff_scalar_len(body, at), value, strlen(value));
}

/* Something behind digits, or before them. */
static void diff_change_number(diff_random *r, feed_log *body)
{
    static const char *const pieces[] = { ".", "e", "E", ".5", "e3", "E-1", "0", "0000000000", "-",
                                          ".e1", "x", " ", "\"", ":", "00", ".0e", "5 5",
                                          "\xC3\xA9" };
    size_t at = diff_find(r, body, "0123456789");

    while (!diff_once_in(r, 4) && at < body->len && plain_is_digit(body->text[at])) {
        at++;
    }
    const char *piece = DIFF_PICK(r, pieces);
    diff_replace(body, at, 0, piece, strlen(piece));
}

/* What stands between two marks comes again somewhere else, or is taken out. */
static void diff_move_piece(diff_random *r, feed_log *body)
{
    size_t from = diff_find(r, body, "\"{}[],:");
    size_t len = 1 + diff_roll(r, diff_once_in(r, 2) ? 8 : 200);
    char piece[200];

    len = len < body->len - from ? len : body->len - from;
    memcpy(piece, body->text + from, len);
    if (diff_once_in(r, 2)) {
        diff_replace(body, from, len, "", 0);
    }
    if (body->len > 0 && diff_once_in(r, 2)) {
        diff_replace(body, diff_find(r, body, "\"{}[],:"), 0, piece, len);
    }
}

/* A bracket becomes another one, or has one more beside it. */
static void diff_change_bracket(diff_random *r, feed_log *body)
{
    static const char *const pieces[] = { "{", "}", "[", "]", "]]", "}}", "{\"k\":", "{}", ",", "",
                                          "}]", "]}", "},{", "[[" };
    const char *piece = DIFF_PICK(r, pieces);

    diff_replace(body, diff_find(r, body, "{}[]"), diff_roll(r, 2), piece, strlen(piece));
}

static void diff_mutate(diff_random *r, feed_log *body)
{
    switch (body->len > 0 ? diff_roll(r, 12) : 99) {
    case 0: diff_change_byte(r, body, diff_roll(r, body->len)); break;
    case 1: diff_change_byte(r, body, diff_find(r, body, "\"{}[],:\\")); break;
    case 2: diff_change_byte(r, body, diff_find(r, body, "0123456789tfn")); break;
    case 3:
    case 4:
    case 5: diff_change_value(r, body); break;
    case 6:
    case 7: diff_change_number(r, body); break;
    case 8: diff_move_piece(r, body); break;
    case 9: diff_change_bracket(r, body); break;
    case 10: diff_replace(body, diff_find(r, body, "\"{}[],:"), 1 + diff_roll(r, 3), "", 0); break;
    case 11: body->len = diff_once_in(r, 4) ? diff_roll(r, body->len) : body->len; break;
    default: break;
    }
}

/* -- Feeding -- */

/* In pieces of random length, each with other bytes behind it than the body has there: a decoder
   that looks beyond its piece sees what is not so. `cuts` takes note of where they end. */
static const char *diff_feed(feed *f, diff_random *r, const feed_log *body, feed_log *cuts)
{
    static const char behind[] = "\"5]}\\,x0";
    static char piece[DIFF_BODY_MAX + DIFF_BEHIND];
    static const size_t steps[] = { 2, 8, 40, 140, 300, 700, 2000 };
    bool goes_on = true;

    size_t step = diff_once_in(r, 3) ? body->len : steps[diff_roll(r, 7)];
    feed_begin(f);
    cuts->len = 0;
    feed_puts(cuts, "");
    for (size_t at = 0; goes_on && at < body->len;) {
        size_t len = step == body->len ? step : 1 + diff_roll(r, step);
        len = len < body->len - at ? len : body->len - at;
        memset(piece + len, behind[diff_roll(r, sizeof behind - 1)], DIFF_BEHIND);
        memcpy(piece, body->text + at, len);
        goes_on = feed_piece(f, piece, len);
        at += len;
        feed_put_u64(cuts, at);
        feed_puts(cuts, " ");
    }
    return feed_end(f, body->len);
}

/* Leaves a body in its middle; what was begun must not show in the next one. */
static void diff_abandon(feed *f, diff_random *r, const feed_log *body)
{
    feed_begin(f);
    (void)feed_piece(f, body->text, diff_roll(r, body->len + 1));
}

static void diff_report(const feed *f, const feed_log *body, const feed_log *want,
                        const feed_log *cuts)
{
    feed_log shown = { NULL, 0, 0 };
    feed fresh;

    feed_init(&fresh, FEED_ENTRIES, NULL);
    fresh.omits_reasons = true;
    const char *again = feed_whole(&fresh, body->text, body->len);
    feed_put_escaped(&shown, body->text, body->len, "");
    FAIL("%s\n  a new decoder, fed whole: %s\n  pieces end at: %.300s\n  body: %s\n  got:  %s\n"
         "  want: %s", f->why, strcmp(again, want->text) == 0 ? "right" : "wrong too", cuts->text,
         shown.text, f->log.text, want->text);
    feed_deinit(&fresh);
    free(shown.text);
}

static void diff_compare(feed *f, diff_random *r, const feed_log *body, feed_log *cuts)
{
    feed_log want = model_log(body->text, body->len);

    (void)diff_feed(f, r, body, cuts);
    f->first.len = 0;
    feed_put(&f->first, want.text, want.len);
    if (!feed_same(f, "the model and the decoder differ, body of", body->len)) {
        diff_report(f, body, &want, cuts);
    }
    if (!CHECK(f->each_instance_is_sane)) {
        diff_report(f, body, &want, cuts);
    }
    free(want.text);
}

static uint64_t diff_setting(const char *name, uint64_t usual)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : usual;
}

static void diff_begin_story(diff_writer *w)
{
    w->shape_seed = diff_draw(&w->value);
    w->spaces = diff_once_in(&w->value, 2) ? 0 : (unsigned)diff_roll(&w->value, 4);
}

static void diff_run(uint64_t part)
{
    uint64_t seed = diff_setting("DIFFERENTIAL_SEED", 1);
    uint64_t num = diff_setting("DIFFERENTIAL_BODIES", DIFFERENTIAL_BODIES);
    feed_log cuts = { NULL, 0, 0 };
    diff_writer w;
    feed f;

    memset(&w, 0, sizeof w);
    w.value.state = seed * 2 + part;
    feed_init(&f, FEED_ENTRIES, NULL);
    for (uint64_t i = 0; i < num && test_num_failures() == 0; i++) {
        test_note("DIFFERENTIAL_SEED=%llu, body %llu", (unsigned long long)seed,
                  (unsigned long long)i);
        if (i % DIFF_DECODER == 0) {
            feed_deinit(&f);
            feed_init(&f, FEED_ENTRIES, NULL);
            f.omits_reasons = true;
        }
        if (i % DIFF_STORY == 0) {
            diff_begin_story(&w);
        }
        diff_put_body(&w);
        for (size_t n = diff_roll(&w.value, 4) * diff_roll(&w.value, 2); n > 0; n--) {
            diff_mutate(&w.value, &w.body);
        }
        w.body.len = w.body.len < DIFF_BODY_MAX ? w.body.len : DIFF_BODY_MAX;
        if (diff_once_in(&w.value, 20)) {
            diff_abandon(&f, &w.value, &w.body);
        }
        diff_compare(&f, &w.value, &w.body, &cuts);
    }
    feed_deinit(&f);
    free(w.body.text);
    free(cuts.text);
}

static void test_61_differential_first_half(void)
{
    diff_run(0);
}

static void test_61_differential_second_half(void)
{
    diff_run(1);
}

static const test_case cases_differential[] = {
    TEST(test_61_differential_first_half),
    TEST(test_61_differential_second_half)
};
