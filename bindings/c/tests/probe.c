/* What the tests run: decode recorded messages, mutate them, observe a stream, change parameters. One JSON object a line on stdout.
 *
 *   probe decode FILE...                        each recorded message, decoded or refused
 *   probe verdicts FILE                         many recorded messages behind each other: 1 for each that is taken, else 0
 *   probe fuzz SEED COUNT FILE...               COUNT mutations of each; ends with 0 where nothing was undefined (built with sanitizers)
 *   probe observe ENDPOINT STREAM QUEUE COUNT   frames, until the end of the run or COUNT (0: no limit)
 *   probe control ENDPOINT PATH VALUE           get, set, wait, ramp, get
 *   probe refused ENDPOINT PATH                 a set that must be refused
 *   probe last ENDPOINT PATH COUNT              so many sets without waiting for an answer, then the end
 *   probe release ENDPOINT PATH                 a knob given back, then all of them
 * AFT_SERVER_KEY, AFT_PUBLIC_KEY and AFT_SECRET_KEY in the environment are used where they are there; AFT_PATIENCE is how many ms observe waits. */
#define AFTERIMAGE_IMPLEMENTATION
static unsigned long allocations;
#define AFT_MALLOC(size) (allocations++, malloc(size))
#define AFT_REALLOC(at, size) (allocations++, realloc(at, size))
#define AFT_FREE free
#include "../afterimage.h"

typedef struct message {
    unsigned char *data, *part[12];
    size_t size[12], bytes;
    int parts;
} message;

static int split(message *m, size_t *next) { /* count, then length and bytes of each part; little endian */
    size_t at = 4;
    int i;
    if (m->bytes < 4) return 0;
    m->parts = (int)aft_little_(m->data);
    if (m->parts < 0 || m->parts > 12) return 0;
    for (i = 0; i < m->parts; i++) {
        if (m->bytes - at < 4) return 0;
        m->size[i] = aft_little_(m->data + at);
        at += 4;
        if (m->bytes - at < m->size[i]) return 0;
        m->part[i] = m->data + at;
        at += m->size[i];
    }
    *next = at;
    return 1;
}

static int load(const char *path, message *m) {
    FILE *file = fopen(path, "rb");
    size_t next;
    long size;
    memset(m, 0, sizeof *m);
    if (!file) return 0;
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    m->data = (unsigned char *)malloc((size_t)size);
    m->bytes = fread(m->data, 1, (size_t)size, file);
    fclose(file);
    return split(m, &next);
}

static void text(const char *at, size_t bytes) {
    size_t i;
    putchar('"');
    for (i = 0; i < bytes; i++)
        if (at[i] == '"' || at[i] == '\\' || (unsigned char)at[i] < 32) printf("\\u%04x", (unsigned)(unsigned char)at[i]);
        else putchar(at[i]);
    putchar('"');
}

static void value(aft_reader *reader) { /* a MessagePack value as JSON; the tests' own data is shallow */
    aft_value v;
    uint32_t i;
    if (aft_read(reader, &v)) {
        printf("null");
        return;
    }
    if (v.type == AFT_V_NIL) printf("null");
    else if (v.type == AFT_V_BOOL) printf(v.i ? "true" : "false");
    else if (v.type == AFT_V_INT) printf("%lld", (long long)v.i);
    else if (v.type == AFT_V_FLOAT) printf("%.17g", v.f);
    else if (v.type == AFT_V_TEXT) text(v.data, v.count);
    else if (v.type == AFT_V_LIST) {
        printf("[");
        for (i = 0; i < v.count; i++) printf(i ? ", " : ""), value(reader);
        printf("]");
    } else if (v.type == AFT_V_MAP) {
        printf("{");
        for (i = 0; i < v.count; i++) printf(i ? ", " : ""), value(reader), printf(": "), value(reader);
        printf("}");
    } else printf("\"?\"");
}

static void header(const aft_header *h) {
    static const char *const kinds[] = {"", "frame", "beat", "end"};
    int i;
    printf("\"kind\": \"%s\", \"stream\": \"%s\", \"run\": \"%s\", \"n\": %llu, \"sent\": %lld", kinds[h->kind], h->stream, h->run, (unsigned long long)h->n, (long long)h->sent);
    if (h->kind == AFT_BEAT) printf(", \"fps\": %.17g, \"state\": \"%s\"", h->fps, aft_state_name(h->state));
    if (h->kind == AFT_END) printf(", \"reason\": \"%s\"", aft_reason_name(h->reason));
    if (h->meta) {
        aft_reader reader = aft_reader_of(h->meta, h->meta_bytes);
        printf(", \"meta\": ");
        value(&reader);
    }
    if (h->kind != AFT_FRAME) return;
    printf(", \"seq\": %llu, \"epoch\": %llu, \"pts\": %lld, \"born\": %lld, \"params\": %llu, \"flags\": %u, \"type\": \"%s\", \"enc\": \"%s\"", (unsigned long long)h->seq,
           (unsigned long long)h->epoch, (long long)h->pts, (long long)h->born, (unsigned long long)h->params, h->flags, aft_type_name(h->type), aft_enc_name(h->enc));
    if (h->dtype) {
        printf(", \"dtype\": \"%s\", \"shape\": [", aft_dtype_name(h->dtype));
        for (i = 0; i < h->rank; i++) printf(i ? ", %u" : "%u", h->shape[i]);
        printf("]");
    }
    if (h->layout) printf(", \"layout\": \"%s\", \"order\": \"%s\"", h->layout == AFT_HWC ? "hwc" : "chw", h->order == AFT_RGB ? "rgb" : "bgr");
    printf(", \"size\": [");
    for (i = 0; i < h->parts; i++) printf(i ? ", %llu" : "%llu", (unsigned long long)h->size[i]);
    printf("]");
    if (h->enc == AFT_SHM)
        printf(", \"shm\": {\"name\": \"%s\", \"slot\": %u, \"offset\": %llu, \"bytes\": %llu, \"mark\": %llu}", h->shm.name, h->shm.slot, (unsigned long long)h->shm.offset,
               (unsigned long long)h->shm.bytes, (unsigned long long)h->shm.mark);
    if (h->lat) {
        aft_reader reader = aft_reader_of(h->lat, h->lat_bytes);
        printf(", \"lat\": ");
        value(&reader);
    }
}

/* Elements as numbers, and plain values, as far as a C program would read them. Returns a code. */
static int payload(const aft_header *h, const unsigned char *data, size_t bytes, int print, aft_error *error) {
    size_t i;
    int code = AFT_OK;
    if (h->type == AFT_POSE) {
        aft_pose pose;
        float point[3] = {0, 0, 0};
        code = aft_read_pose(data, bytes, &pose, error);
        if (code) return code;
        if (print) printf(", \"value\": {\"n\": %u, \"size\": [%u, %u], \"stability\": %.17g, \"people\": [", pose.people, pose.height, pose.width, pose.stability);
        for (i = 0; i < (size_t)pose.people * 18; i++) {
            aft_pose_point(&pose, (uint32_t)(i / 18), (unsigned)(i % 18), point);
            if (print) printf("%s%.9g, %.9g, %.9g", i ? ", " : "", (double)point[0], (double)point[1], (double)point[2]);
        }
        if (print) printf("]}");
    } else if (h->type == AFT_PROMPT) {
        aft_prompt prompt;
        code = aft_read_prompt(data, bytes, &prompt, error);
        if (code || !print) return code;
        printf(", \"value\": {\"text\": ");
        text(prompt.text, prompt.text_bytes);
        printf(", \"negative\": ");
        text(prompt.negative, prompt.negative_bytes);
        printf(", \"blend\": %u}", prompt.blend);
    } else if (h->type == AFT_SCALAR) {
        double found = 0;
        code = aft_read_scalar(data, bytes, &found, error);
        if (!code && print) printf(", \"value\": %.17g", found);
    } else if (h->type == AFT_TEXT) {
        const char *found = "";
        size_t length = 0;
        code = aft_read_text(data, bytes, &found, &length, error);
        if (code || !print) return code;
        printf(", \"value\": ");
        text(found, length);
    } else if (h->type == AFT_DATA) {
        aft_reader reader;
        code = aft_read_data(data, bytes, &reader, error);
        if (code) return code;
        if (print) printf(", \"value\": "), value(&reader);
    } else if (print) {
        printf(", \"hex\": \"");
        for (i = 0; i < bytes; i++) printf("%02x", data[i]);
        printf("\"");
        if (h->dtype == AFT_FLOAT16 && bytes >= 16) {
            printf(", \"first\": [");
            for (i = 0; i < 8; i++) printf(i ? ", %.9g" : "%.9g", (double)aft_half(data + 2 * i));
            printf("]");
        }
    }
    return code;
}

static int decode(const message *m, int print) {
    aft_header h;
    aft_error error;
    size_t i;
    int code;
    memset(&error, 0, sizeof error);
    if (m->parts < 2 || m->parts > 2 + AFT_MAX_PARTS) code = aft_fail_(&error, AFT_EWIRE, "", "parts");
    else code = aft_header_decode(m->part[1], m->size[1], AFT_MAX_BYTES, &h, &error);
    if (!code) code = aft_message_check(&h, m->part[0], m->size[0], m->size + 2, m->parts - 2, &error);
    if (print && !code) header(&h);
    if (!code && h.kind == AFT_FRAME && h.parts) code = payload(&h, m->part[2], m->size[2], print, &error);
    for (i = 0; !code && h.kind == AFT_FRAME && i < 2; i++) { /* the maps are whole */
        aft_reader reader = i ? aft_reader_of(h.meta, h.meta_bytes) : aft_reader_of(h.lat, h.lat_bytes);
        if (reader.at != reader.end && (aft_skip(&reader) || reader.at != reader.end)) abort();
    }
    if (print && code) printf("\"refused\": %d, \"key\": \"%s\", \"message\": ", code, error.key), text(error.message, strlen(error.message));
    return code;
}

static int verdicts(const char *path) {
    message all, one;
    size_t at = 0, next = 0;
    load(path, &all);
    memset(&one, 0, sizeof one);
    while (at < all.bytes) {
        one.data = all.data + at;
        one.bytes = all.bytes - at;
        if (!split(&one, &next)) return 1;
        putchar(decode(&one, 0) == AFT_OK ? '1' : '0');
        at += next;
    }
    putchar('\n');
    free(all.data);
    return 0;
}

static uint64_t dice;
static uint64_t roll(uint64_t sides) { /* xorshift64* */
    dice ^= dice >> 12, dice ^= dice << 25, dice ^= dice >> 27;
    return (dice * 2685821657736338717ull >> 11) % sides;
}

static int fuzz(int count, const char *seed, char **files) {
    long rounds = atol(files[0]), good = 0, bad = 0, round;
    int i;
    for (i = 1; i < count; i++) {
        message m;
        if (!load(files[i], &m) || m.parts < 2) {
            free(m.data);
            continue;
        }
        dice = 0x9e3779b97f4a7c15ull ^ strtoull(seed, NULL, 10) * 1000003u ^ (uint64_t)i << 32;
        for (round = 0; round < rounds; round++) {
            message n = m;
            int hits = 1 + (int)roll(4), which = m.parts > 2 && roll(4) == 0 ? 2 : 1;
            size_t size = m.size[which], most = m.size[which] + 64;
            unsigned char *copy;
            if (size > AFT_MAX_HEADER) size = most = AFT_MAX_HEADER;
            /* exactly as long as the data: a sanitizer sees every byte read beyond */
            if (roll(4) == 0 && size) size = roll(size);
            else if (roll(8) == 0) size = size + roll(most - size + 1);
            copy = (unsigned char *)calloc(1, size ? size : 1);
            memcpy(copy, m.part[which], size < m.size[which] ? size : m.size[which]);
            while (hits-- > 0 && size) {
                static const unsigned char nasty[] = {0x00, 0x7f, 0x80, 0x8f, 0xc0, 0xc1, 0xc4, 0xc6, 0xc7, 0xcb, 0xcf, 0xd3, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff};
                size_t at = roll(size);
                uint64_t way = roll(3);
                unsigned byte = way == 0 ? (unsigned)roll(256) : way == 1 ? nasty[roll(sizeof nasty)] : copy[at] ^ (1u << roll(8));
                copy[at] = (unsigned char)byte;
            }
            n.part[which] = copy;
            n.size[which] = size;
            if (decode(&n, 0)) bad++;
            else good++;
            free(copy);
        }
        free(m.data);
    }
    printf("{\"taken\": %ld, \"refused\": %ld}\n", good, bad);
    return 0;
}

static const aft_curve *keys(void) {
    static aft_curve curve;
    curve.server_key = getenv("AFT_SERVER_KEY");
    curve.public_key = getenv("AFT_PUBLIC_KEY");
    curve.secret_key = getenv("AFT_SECRET_KEY");
    return curve.server_key ? &curve : NULL;
}

static int observe(const char *endpoint, const char *stream, int queue, long most) {
    aft_options options = {0};
    aft_error error;
    aft_frame frame = AFT_FRAME_INIT;
    aft_status status;
    unsigned long settled = 0;
    long count = 0;
    int code;
    aft_subscriber *s;
    options.stream = stream;
    options.queue = queue;
    options.curve = keys();
    s = aft_subscribe(endpoint, &options, &error);
    if (!s) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    while ((code = aft_next(s, &frame, getenv("AFT_PATIENCE") ? atoi(getenv("AFT_PATIENCE")) : 60000)) == AFT_OK) {
        size_t bytes = 0;
        const unsigned char *data = (const unsigned char *)aft_data(s, &frame, &bytes);
        if (!settled) settled = allocations;
        printf("{");
        header(&frame.header);
        printf(", \"lost\": %llu, \"dropped\": %llu, \"skipped\": %llu, \"restarted\": %s, \"age_ms\": %.6f, \"latency_ms\": %.6f", (unsigned long long)frame.lost,
               (unsigned long long)frame.dropped, (unsigned long long)frame.skipped, frame.restarted ? "true" : "false", aft_age_ms(&frame), aft_latency_ms(&frame));
        if (!data) printf(", \"error\": \"%s\"", aft_result_name(aft_subscriber_error(s)->code));
        else {
            unsigned char *copy = (unsigned char *)malloc(bytes);
            uint64_t hash = 14695981039346656037ull; /* FNV-1a of the payload */
            size_t i;
            if (aft_copy(s, &frame, copy, bytes) == AFT_OK) {
                for (i = 0; i < bytes; i++) hash = (hash ^ copy[i]) * 1099511628211ull;
                printf(", \"bytes\": %lu, \"fnv\": \"%016llx\"", (unsigned long)bytes, (unsigned long long)hash);
            }
            free(copy);
        }
        printf("}\n");
        fflush(stdout);
        if (++count == most) break;
    }
    aft_get_status(s, &status);
    printf("{\"code\": %d, \"frames\": %llu, \"lost\": %llu, \"dropped\": %llu, \"skipped\": %llu, \"malformed\": %llu, \"restarts\": %llu, \"alive\": %s, "
           "\"reason\": \"%s\", \"state\": \"%s\", \"allocated\": %lu}\n",
           code, (unsigned long long)status.frames, (unsigned long long)status.lost, (unsigned long long)status.dropped, (unsigned long long)status.skipped,
           (unsigned long long)status.malformed, (unsigned long long)status.restarts, status.alive ? "true" : "false", aft_reason_name(status.reason), aft_state_name(status.state),
           settled ? allocations - settled : 0);
    aft_frame_clear(&frame);
    aft_unsubscribe(s);
    return 0;
}

static void told(const char *what, int code, const aft_receipt *r) {
    printf("{\"what\": \"%s\", \"code\": %d, \"state\": %d, \"seq\": %lld, \"last\": %lld, \"epoch\": %llu, \"params\": %llu, \"key\": \"%s\", \"message\": ", what, code, r->state,
           (long long)r->seq, (long long)r->last, (unsigned long long)r->epoch, (unsigned long long)r->params, r->error.key);
    text(r->error.message, strlen(r->error.message));
    printf("}\n");
    fflush(stdout);
}

static aft_change change_of(const char *path, const char *given) {
    char *end;
    long whole = strtol(given, &end, 10);
    double number;
    if (!*end) return aft_int(path, whole);
    number = strtod(given, &end);
    if (!*end) return aft_float(path, number);
    if (!strcmp(given, "true") || !strcmp(given, "false")) return aft_bool(path, given[0] == 't');
    return aft_text(path, given);
}

static void got(aft_control *c, const char *path) {
    aft_got found;
    int code = aft_get(c, path, &found, 5000);
    printf("{\"what\": \"get\", \"code\": %d, \"value\": ", code);
    if (code) printf("null");
    else value(&found.reader);
    printf("}\n");
    fflush(stdout);
}

static int control(const char *endpoint, const char *path, const char *given) {
    aft_error error;
    aft_control *c = aft_control_open(endpoint, keys(), &error);
    aft_receipt set, ramp, reset;
    aft_change change = change_of(path, given);
    aft_reader hello;
    if (!c) return 1;
    printf("{\"what\": \"hello\", \"code\": %d", aft_ask(c, "hello", &hello, 5000));
    printf(", \"value\": "), value(&hello), printf("}\n");
    got(c, path);
    told("accepted", aft_set(c, &change, 1, &set, 5000), &set);
    told("reset", aft_reset(c, "probe", &reset, 5000), &reset); /* two under way at once */
    told("applied", aft_wait(c, &set, AFT_APPLIED, 10000), &set);
    told("reset applied", aft_wait(c, &reset, AFT_APPLIED, 10000), &reset);
    got(c, path);
    if (change.type == AFT_V_INT || change.type == AFT_V_FLOAT) {
        change = change.type == AFT_V_INT ? aft_int(path, change.i + 1) : aft_float(path, change.f / 2);
        told("ramp", aft_ramp(c, &change, 1, 5, 0, NULL, &ramp, 5000), &ramp);
        told("done", aft_wait(c, &ramp, AFT_DONE, 10000), &ramp);
        got(c, path);
    }
    aft_control_close(c);
    return 0;
}

static int refused(const char *endpoint, const char *path) {
    aft_control *c = aft_control_open(endpoint, NULL, NULL);
    aft_receipt receipt;
    aft_change changes[2];
    if (!c) return 1;
    memset(&receipt, 0, sizeof receipt);
    changes[0] = aft_text(path, "not what it takes");
    changes[1] = aft_int("no.such", 1);
    told("set", aft_set(c, changes, 2, &receipt, 5000), &receipt);
    aft_control_close(c);
    return 0;
}

static int last(const char *endpoint, const char *path, int count) {
    aft_control *c = aft_control_open(endpoint, keys(), NULL);
    int i;
    if (!c) return 1;
    for (i = 0; i < count; i++) {
        aft_change change = aft_int(path, i);
        aft_set(c, &change, 1, NULL, 0);
    }
    aft_control_close(c);
    return 0;
}

static int release(const char *endpoint, const char *path) {
    aft_control *c = aft_control_open(endpoint, keys(), NULL);
    aft_receipt receipt;
    if (!c) return 1;
    told("one", aft_release(c, path, &receipt, 5000), &receipt);
    told("all", aft_release(c, NULL, &receipt, 5000), &receipt);
    aft_control_close(c);
    return 0;
}

int main(int argc, char **argv) {
    int i;
    if (argc >= 3 && !strcmp(argv[1], "decode")) {
        for (i = 2; i < argc; i++) {
            message m;
            printf("{");
            if (!load(argv[i], &m)) return 1;
            decode(&m, 1);
            printf("}\n");
            free(m.data);
        }
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "verdicts")) return verdicts(argv[2]);
    if (argc >= 5 && !strcmp(argv[1], "fuzz")) return fuzz(argc - 3, argv[2], argv + 3);
    if (argc == 6 && !strcmp(argv[1], "observe")) return observe(argv[2], argv[3], atoi(argv[4]), atol(argv[5]));
    if (argc == 5 && !strcmp(argv[1], "control")) return control(argv[2], argv[3], argv[4]);
    if (argc == 4 && !strcmp(argv[1], "refused")) return refused(argv[2], argv[3]);
    if (argc == 5 && !strcmp(argv[1], "last")) return last(argv[2], argv[3], atoi(argv[4]));
    if (argc == 4 && !strcmp(argv[1], "release")) return release(argv[2], argv[3]);
    fprintf(stderr, "see the top of probe.c\n");
    return 2;
}
