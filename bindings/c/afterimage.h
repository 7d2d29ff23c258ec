/* afterimage.h: read the frames of a running Afterimage graph and change its parameters, from C99 or C++.
 *
 * One header, libzmq (4.2 or newer) the only dependency. In exactly one source file, before any other include:
 *
 *     #define AFTERIMAGE_IMPLEMENTATION
 *     #include "afterimage.h"
 *
 * and link with -lzmq (and -lrt on old Linux). Everywhere else include it without the define.
 *
 *     aft_subscriber *frames = aft_subscribe("tcp://127.0.0.1:5555", NULL, NULL);
 *     aft_frame frame = AFT_FRAME_INIT;
 *     while (aft_next(frames, &frame, 1000) == AFT_OK)
 *         printf("%llu %.1f ms\n", (unsigned long long)frame.header.seq, aft_age_ms(&frame));
 *     aft_frame_clear(&frame);
 *     aft_unsubscribe(frames);
 *
 * How it receives. aft_subscribe starts one thread (by libzmq, so on every system) that takes each message off the socket at once and keeps
 * the newest. Reading only when the program has time would not do: what waits in buffers of the network is then up to a second old, whatever
 * the high-water marks say. aft_next asks that thread and gets the newest frame there is at that moment, moved, not copied.
 *
 * Threads. One thread at a time may use a subscriber, or a control; different ones may be used by different threads.
 * Memory. Slots are made when subscribing; per frame this header allocates nothing (libzmq allocates each message that it receives).
 * Input. Every message is checked whole before it is used; what does not follow docs/wire.md is counted and left out.
 *
 * Licence: Apache-2.0. */
#ifndef AFTERIMAGE_H
#define AFTERIMAGE_H

#if defined(AFTERIMAGE_IMPLEMENTATION) && !defined(_WIN32) && defined(__STRICT_ANSI__) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* clock_gettime and shm_open under -std=c99 */
#endif

#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AFT_WIRE_VERSION 1
#define AFT_MAX_HEADER 65536u
#define AFT_MAX_PARTS 8
#define AFT_MAX_BYTES (256ull << 20) /* of a frame, coded or decoded, where the options do not say otherwise */
#define AFT_MAX_PLAIN (1u << 20)

/* ------------------------------------------------------------------ results */

enum {
    AFT_OK = 0,
    AFT_TIMEOUT = 1, /* nothing within the time; for a change: unknown whether it lands */
    AFT_ENDED = 2,   /* the run is over (aft_status says why) */
    AFT_EWIRE = -1,        /* not the wire format, or beyond a limit */
    AFT_EVERSION = -2,     /* a version of the format that this header does not know */
    AFT_EARGUMENT = -3,    /* the call makes no sense */
    AFT_EMEMORY = -4,
    AFT_EZMQ = -5,         /* libzmq says no; the message has its words */
    AFT_EOVERWRITTEN = -6, /* a frame in shared memory went while it was read: take the next */
    AFT_ESHM = -7,         /* shared memory: no such ring here, or not on this system */
    AFT_EREFUSED = -8,     /* the engine did not take the change; nothing was changed */
    AFT_EFAILED = -9       /* the engine had accepted the change and then could not do it */
};

typedef struct aft_error {
    int code;
    char key[32]; /* the header field or parameter at fault, where there is one */
    char message[640];
} aft_error;

/* ------------------------------------------------------------------ frames */

enum { AFT_FRAME = 1, AFT_BEAT, AFT_END };                                                                  /* kind */
enum { AFT_IMAGE = 1, AFT_MASK, AFT_LATENT, AFT_POSE, AFT_PROMPT, AFT_SCALAR, AFT_TEXT, AFT_DATA };         /* type */
enum { AFT_RAW = 1, AFT_JPEG, AFT_PNG, AFT_H264, AFT_MSGPACK, AFT_SHM };                                    /* enc */
enum { AFT_NONE = 0, AFT_UINT8, AFT_FLOAT16, AFT_FLOAT32, AFT_INT32 };                                      /* dtype */
enum { AFT_HWC = 1, AFT_CHW };                                                                              /* layout */
enum { AFT_RGB = 1, AFT_BGR };                                                                              /* order */
enum { AFT_LOADING = 1, AFT_ONLINE, AFT_DEGRADED_INPUT, AFT_DEGRADED_INFERENCE, AFT_ERROR };                /* state */
enum { AFT_EOF = 1, AFT_STOPPED, AFT_FAULT };                                                               /* reason: eof, stopped, error */
enum { AFT_KEY = 1, AFT_DISCONTINUITY = 2, AFT_DEGRADED = 4 };                                              /* flags */

const char *aft_type_name(int type);
const char *aft_enc_name(int enc);
const char *aft_dtype_name(int dtype);
const char *aft_state_name(int state);
const char *aft_reason_name(int reason);
const char *aft_result_name(int result);

typedef struct aft_header {
    int kind;
    char stream[65], run[17];
    uint64_t n;   /* frames sent before this message */
    int64_t sent; /* ns, CLOCK_REALTIME */
    uint64_t seq, epoch;
    int64_t pts, born; /* ns: on the graph's clock; of capture, CLOCK_REALTIME */
    uint64_t params;
    unsigned flags;
    int type, enc, dtype, layout, order;
    int rank;
    uint32_t shape[4];
    uint64_t bytes; /* of the decoded array; 0 where the payload is none */
    int parts;
    uint64_t size[AFT_MAX_PARTS];
    struct {
        char name[65];
        uint32_t slot;
        uint64_t offset, bytes, mark;
    } shm;
    double fps; /* of a beat */
    int state;  /* of a beat */
    int reason; /* of an end */
    const unsigned char *lat, *meta; /* MessagePack maps inside the header's bytes (aft_reader reads them), or NULL */
    size_t lat_bytes, meta_bytes;
} aft_header;

typedef struct aft_frame {
    aft_header header;
    uint64_t lost;    /* frames lost on the way just before this one */
    uint64_t dropped; /* frames that the graph dropped just before this one */
    uint64_t skipped; /* frames that came and were passed over because this newer one was there */
    int restarted;    /* the publisher was restarted since the frame before */
    int64_t received; /* ns, CLOCK_REALTIME */
    /* private */
    int live_;
    zmq_msg_t head_, part_[AFT_MAX_PARTS];
    const unsigned char *ring_;
} aft_frame;

#ifdef __cplusplus
#define AFT_FRAME_INIT aft_frame()
#else
#define AFT_FRAME_INIT {0}
#endif

/* Milliseconds: from capture until sent; from capture until now; from sent until received. Across hosts as good as their clocks agree. */
double aft_age_ms(const aft_frame *frame);
double aft_latency_ms(const aft_frame *frame);
double aft_transit_ms(const aft_frame *frame);
int64_t aft_now(void); /* ns, CLOCK_REALTIME */

/* Give back what a frame holds. aft_next does it before it fills a frame again. */
void aft_frame_clear(aft_frame *frame);

/* ------------------------------------------------------------------ subscribing */

typedef struct aft_subscriber aft_subscriber;

typedef struct aft_curve {
    const char *server_key, *public_key, *secret_key; /* Z85 texts of 40 characters */
} aft_curve;

typedef struct aft_options {
    const char *stream; /* NULL: "live" */
    int queue;          /* 0 or 1: always the newest frame. More: that many are kept, in order, then the oldest go (for h264) */
    int follow;         /* not 0: go on over the end of a run, and wait for the next */
    uint64_t max_bytes; /* 0: AFT_MAX_BYTES */
    const aft_curve *curve;
} aft_options;

typedef struct aft_status {
    uint64_t frames, lost, dropped, skipped, malformed, restarts;
    int alive;         /* heard of within three seconds, and not ended; a beat comes every second */
    double silent_ms;  /* since anything came; negative: nothing ever did */
    char run[17];
    double fps;        /* of the last beat */
    int state;         /* of the last beat; 0: none came */
    int ended, reason; /* the run's end came */
    aft_error last;    /* why the last malformed message was refused */
} aft_status;

/* NULL where it fails; `error` (may be NULL) says why. The publisher need not be there yet. */
aft_subscriber *aft_subscribe(const char *endpoint, const aft_options *options, aft_error *error);
void aft_unsubscribe(aft_subscriber *subscriber);

/* Wait for a frame that was not returned yet; with queue <= 1 the newest. timeout_ms: 0 only looks, negative waits without end.
 * AFT_OK, AFT_TIMEOUT, AFT_ENDED, or an error (aft_subscriber_error). On anything but AFT_OK the frame is empty. */
int aft_next(aft_subscriber *subscriber, aft_frame *frame, int timeout_ms);
int aft_get_status(aft_subscriber *subscriber, aft_status *status);
const aft_error *aft_subscriber_error(const aft_subscriber *subscriber);

/* The payload where it lies, `*bytes` long, good until the frame is cleared or used again: of raw the elements in C order, little endian, at any
 * alignment; of jpeg and png one file; of h264 one access unit; of msgpack one value (aft_read_*). Of shm the elements in the ring: call
 * aft_intact after use, and throw away what was made of them where it is 0. A ring stays mapped until sixteen newer ones have been opened.
 * NULL where it fails (aft_subscriber_error). */
const void *aft_data(aft_subscriber *subscriber, aft_frame *frame, size_t *bytes);
int aft_intact(const aft_frame *frame);
/* A copy, checked for being whole: AFT_OK, AFT_EOVERWRITTEN, AFT_EARGUMENT (does not fit), AFT_ESHM. */
int aft_copy(aft_subscriber *subscriber, aft_frame *frame, void *into, size_t room);

/* ------------------------------------------------------------------ plain payloads */

typedef struct aft_pose {
    uint32_t people, height, width;
    double stability;            /* negative: unknown */
    const unsigned char *points; /* people x 18 x 3 float32, little endian, unaligned: aft_pose_point reads them */
} aft_pose;

typedef struct aft_prompt {
    const char *text, *negative; /* not ended by a zero */
    size_t text_bytes, negative_bytes;
    uint32_t blend;
} aft_prompt;

/* AFT_OK, or AFT_EWIRE where the bytes are not what the type says. `error` may be NULL. */
int aft_read_pose(const void *data, size_t bytes, aft_pose *pose, aft_error *error);
int aft_read_prompt(const void *data, size_t bytes, aft_prompt *prompt, aft_error *error);
int aft_read_scalar(const void *data, size_t bytes, double *value, aft_error *error);
int aft_read_text(const void *data, size_t bytes, const char **text, size_t *text_bytes, aft_error *error);
/* x and y (0 to 1) and confidence of a joint (0 to 17) of a person. */
void aft_pose_point(const aft_pose *pose, uint32_t person, unsigned joint, float point[3]);
float aft_half(const void *two_bytes); /* IEEE 754 binary16, little endian */

/* ------------------------------------------------------------------ MessagePack, bounds checked */

enum { AFT_V_NIL = 1, AFT_V_BOOL, AFT_V_INT, AFT_V_UINT, AFT_V_FLOAT, AFT_V_TEXT, AFT_V_BYTES, AFT_V_LIST, AFT_V_MAP };

typedef struct aft_reader {
    const unsigned char *at, *end;
} aft_reader;

typedef struct aft_value {
    int type;
    int64_t i;        /* AFT_V_INT, AFT_V_BOOL */
    uint64_t u;       /* AFT_V_UINT: only what does not fit into i */
    double f;         /* AFT_V_FLOAT; of integers too */
    const char *data; /* AFT_V_TEXT (UTF-8), AFT_V_BYTES */
    uint32_t count;   /* bytes, items of a list, pairs of a map: those follow in the reader */
} aft_value;

aft_reader aft_reader_of(const void *data, size_t bytes);
int aft_read(aft_reader *reader, aft_value *value); /* the next value: AFT_OK, or AFT_EWIRE at the end or where it is none */
int aft_skip(aft_reader *reader);                   /* the next value with all that is inside; no recursion, at any depth */
int aft_is(const aft_value *value, const char *text);
/* Move a reader that stands before a map to the value of `key`: AFT_OK, or AFT_EWIRE. */
int aft_find(aft_reader *reader, const char *key);

/* The payload of a Data: `map` stands before a map that is whole; aft_find and aft_read go on from there. */
int aft_read_data(const void *data, size_t bytes, aft_reader *map, aft_error *error);

/* A header's bytes, checked. Pointers of the result lead into `data`. */
int aft_header_decode(const void *data, size_t bytes, uint64_t max_bytes, aft_header *header, aft_error *error);
/* That topic and payload parts are those that the header announces. */
int aft_message_check(const aft_header *header, const void *topic, size_t topic_bytes, const size_t *sizes, int parts, aft_error *error);

/* ------------------------------------------------------------------ control */

typedef struct aft_control aft_control;

typedef struct aft_change {
    const char *path; /* node.param */
    int type;         /* AFT_V_BOOL, AFT_V_INT, AFT_V_FLOAT, AFT_V_TEXT */
    int64_t i;
    double f;
    const char *text;
} aft_change;

aft_change aft_bool(const char *path, int value);
aft_change aft_int(const char *path, int64_t value);
aft_change aft_float(const char *path, double value);
aft_change aft_text(const char *path, const char *value);

enum { AFT_ACCEPTED = 1, AFT_APPLIED, AFT_DONE, AFT_REFUSED, AFT_FAILED };

typedef struct aft_receipt {
    uint64_t id, number; /* of the request; of the engine's receipt */
    int state, ramp;
    int64_t seq;  /* the first frame made with the change; -1: none yet, or the engine named none */
    int64_t last; /* the last frame of a ramp that is done */
    uint64_t epoch, params;
    aft_error error;
} aft_receipt;

typedef struct aft_got {
    int type; /* AFT_V_... */
    int64_t i;
    double f;
    char text[1024];     /* of a text, ended by a zero; cut off where longer */
    aft_reader reader;   /* stands before the value; good until the control is used again */
} aft_got;

/* endpoint NULL: tcp://127.0.0.1:5570. NULL where it fails. */
aft_control *aft_control_open(const char *endpoint, const aft_curve *curve, aft_error *error);
void aft_control_close(aft_control *control);
const aft_error *aft_control_error(const aft_control *control);

/* Each waits until the engine has accepted or refused, at most timeout_ms: AFT_OK, AFT_EREFUSED, AFT_TIMEOUT or another error. All changes of
 * one aft_set land on one frame, or none does. `receipt` may be NULL. */
int aft_set(aft_control *control, const aft_change *changes, int count, aft_receipt *receipt, int timeout_ms);
/* Exactly one of frames and seconds above 0. curve: NULL for linear, or "ease". */
int aft_ramp(aft_control *control, const aft_change *changes, int count, int64_t frames, double seconds, const char *curve, aft_receipt *receipt,
             int timeout_ms);
int aft_reset(aft_control *control, const char *reason, aft_receipt *receipt, int timeout_ms);
/* Let the governor move a knob again that was set by hand; NULL: all of them. */
int aft_release(aft_control *control, const char *path, aft_receipt *receipt, int timeout_ms);
int aft_pause(aft_control *control, aft_receipt *receipt, int timeout_ms);
int aft_resume(aft_control *control, aft_receipt *receipt, int timeout_ms);
int aft_stop(aft_control *control, int drain, aft_receipt *receipt, int timeout_ms);
/* Wait until a change has reached a state (AFT_APPLIED, AFT_DONE): AFT_OK, AFT_EFAILED, AFT_TIMEOUT. The last 64 receipts are known. */
int aft_wait(aft_control *control, aft_receipt *receipt, int state, int timeout_ms);
int aft_get(aft_control *control, const char *path, aft_got *got, int timeout_ms);
/* A reading verb without fields (hello, describe, stats, get): `answer` stands before its map, good until the control is used again. */
int aft_ask(aft_control *control, const char *op, aft_reader *answer, int timeout_ms);

#ifdef __cplusplus
}
#endif
#endif /* AFTERIMAGE_H */

/* ================================================================== implementation */

#if defined(AFTERIMAGE_IMPLEMENTATION) && !defined(AFTERIMAGE_IMPLEMENTED)
#define AFTERIMAGE_IMPLEMENTED

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifndef CLOCK_REALTIME
#error "include afterimage.h before every other header in the file that defines AFTERIMAGE_IMPLEMENTATION, or compile with -D_POSIX_C_SOURCE=200809L"
#endif
#endif

#ifndef AFT_MALLOC
#define AFT_MALLOC malloc
#define AFT_REALLOC realloc
#define AFT_FREE free
#endif

#ifdef __cplusplus
extern "C" {
#endif

static int aft_fail_(aft_error *error, int code, const char *key, const char *format, ...) {
    if (error) {
        va_list list;
        error->code = code;
        snprintf(error->key, sizeof error->key, "%s", key);
        va_start(list, format);
        vsnprintf(error->message, sizeof error->message, format, list);
        va_end(list);
    }
    return code;
}

int64_t aft_now(void) {
#ifdef _WIN32
    FILETIME at;
    ULARGE_INTEGER whole;
    GetSystemTimePreciseAsFileTime(&at);
    whole.LowPart = at.dwLowDateTime;
    whole.HighPart = at.dwHighDateTime;
    return (int64_t)(whole.QuadPart - 116444736000000000ull) * 100;
#else
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
#endif
}

static int64_t aft_steady_(void) { /* ms, never set back */
#ifdef _WIN32
    return (int64_t)GetTickCount64();
#else
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000 + at.tv_nsec / 1000000;
#endif
}

/* Times come from outside: their difference must not overflow. */
static double aft_between_(int64_t from, int64_t to) {
    if ((from < 0) == (to < 0)) return (double)(to - from) / 1e6; /* of one sign: cannot overflow, and keeps every digit */
    return ((double)to - (double)from) / 1e6;
}

double aft_age_ms(const aft_frame *frame) { return aft_between_(frame->header.born, frame->header.sent); }
double aft_latency_ms(const aft_frame *frame) { return aft_between_(frame->header.born, aft_now()); }
double aft_transit_ms(const aft_frame *frame) { return aft_between_(frame->header.sent, frame->received); }

/* ------------------------------------------------------------------ names */

typedef struct aft_name_ {
    const char *name;
    int value;
} aft_name_;

static const aft_name_ aft_kinds_[] = {{"frame", AFT_FRAME}, {"beat", AFT_BEAT}, {"end", AFT_END}, {NULL, 0}};
static const aft_name_ aft_types_[] = {{"Image", AFT_IMAGE},   {"Mask", AFT_MASK},     {"Latent", AFT_LATENT}, {"Pose", AFT_POSE},
                                       {"Prompt", AFT_PROMPT}, {"Scalar", AFT_SCALAR}, {"Text", AFT_TEXT},     {"Data", AFT_DATA}, {NULL, 0}};
static const aft_name_ aft_encs_[] = {{"raw", AFT_RAW},   {"jpeg", AFT_JPEG},       {"png", AFT_PNG}, {"h264", AFT_H264},
                                      {"shm", AFT_SHM}, {"msgpack", AFT_MSGPACK}, {NULL, 0}};
static const aft_name_ aft_dtypes_[] = {{"uint8", AFT_UINT8}, {"float16", AFT_FLOAT16}, {"float32", AFT_FLOAT32}, {"int32", AFT_INT32}, {NULL, 0}};
static const aft_name_ aft_layouts_[] = {{"hwc", AFT_HWC}, {"chw", AFT_CHW}, {NULL, 0}};
static const aft_name_ aft_orders_[] = {{"rgb", AFT_RGB}, {"bgr", AFT_BGR}, {NULL, 0}};
static const aft_name_ aft_states_[] = {{"loading", AFT_LOADING},
                                        {"online", AFT_ONLINE},
                                        {"degraded_input", AFT_DEGRADED_INPUT},
                                        {"degraded_inference", AFT_DEGRADED_INFERENCE},
                                        {"error", AFT_ERROR},
                                        {NULL, 0}};
static const aft_name_ aft_reasons_[] = {{"eof", AFT_EOF}, {"stopped", AFT_STOPPED}, {"error", AFT_FAULT}, {NULL, 0}};
static const aft_name_ aft_results_[] = {{"ok", AFT_OK},
                                         {"timeout", AFT_TIMEOUT},
                                         {"ended", AFT_ENDED},
                                         {"not the wire format", AFT_EWIRE},
                                         {"unknown version", AFT_EVERSION},
                                         {"wrong argument", AFT_EARGUMENT},
                                         {"out of memory", AFT_EMEMORY},
                                         {"ZeroMQ", AFT_EZMQ},
                                         {"overwritten", AFT_EOVERWRITTEN},
                                         {"shared memory", AFT_ESHM},
                                         {"refused", AFT_EREFUSED},
                                         {"failed", AFT_EFAILED},
                                         {NULL, 0}};

static const char *aft_name_of_(const aft_name_ *names, int value) {
    for (; names->name; names++)
        if (names->value == value) return names->name;
    return "?";
}

const char *aft_type_name(int type) { return aft_name_of_(aft_types_, type); }
const char *aft_enc_name(int enc) { return aft_name_of_(aft_encs_, enc); }
const char *aft_dtype_name(int dtype) { return aft_name_of_(aft_dtypes_, dtype); }
const char *aft_state_name(int state) { return aft_name_of_(aft_states_, state); }
const char *aft_reason_name(int reason) { return aft_name_of_(aft_reasons_, reason); }
const char *aft_result_name(int result) { return aft_name_of_(aft_results_, result); }

/* ------------------------------------------------------------------ MessagePack: reading */

aft_reader aft_reader_of(const void *data, size_t bytes) {
    aft_reader reader;
    static const unsigned char nothing[1] = {0};
    reader.at = data ? (const unsigned char *)data : nothing;
    reader.end = reader.at + (data ? bytes : 0);
    return reader;
}

static size_t aft_left_(const aft_reader *reader) { return (size_t)(reader->end - reader->at); }

static int aft_big_(aft_reader *reader, int bytes, uint64_t *value) { /* big endian */
    int i;
    if (aft_left_(reader) < (size_t)bytes) return AFT_EWIRE;
    *value = 0;
    for (i = 0; i < bytes; i++) *value = *value << 8 | *reader->at++;
    return AFT_OK;
}

static int aft_utf8_(const unsigned char *at, size_t bytes) { /* RFC 3629 */
    const unsigned char *end = at + bytes;
    while (at < end) {
        uint32_t code, least;
        int more;
        if (*at < 0x80) {
            at++;
            continue;
        }
        if ((*at & 0xe0) == 0xc0) more = 1, least = 0x80, code = *at & 0x1fu;
        else if ((*at & 0xf0) == 0xe0) more = 2, least = 0x800, code = *at & 0x0fu;
        else if ((*at & 0xf8) == 0xf0) more = 3, least = 0x10000, code = *at & 0x07u;
        else return 0;
        at++;
        for (; more; more--, at++) {
            if (at == end || (*at & 0xc0) != 0x80) return 0;
            code = code << 6 | (*at & 0x3fu);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
    }
    return 1;
}

static int aft_span_(aft_reader *reader, aft_value *value, int type, uint64_t bytes) {
    if (aft_left_(reader) < bytes) return AFT_EWIRE;
    if (type == AFT_V_TEXT && !aft_utf8_(reader->at, (size_t)bytes)) return AFT_EWIRE;
    value->type = type;
    value->data = (const char *)reader->at;
    value->count = (uint32_t)bytes;
    reader->at += bytes;
    return AFT_OK;
}

static int aft_items_(aft_reader *reader, aft_value *value, int type, uint64_t count) {
    uint64_t items = type == AFT_V_MAP ? 2 * count : count;
    if (aft_left_(reader) < items) return AFT_EWIRE; /* each takes a byte at least */
    value->type = type;
    value->count = (uint32_t)count;
    return AFT_OK;
}

static int aft_whole_(aft_value *value, int64_t number) {
    value->type = AFT_V_INT;
    value->i = number;
    value->f = (double)number;
    return AFT_OK;
}

/* The two's complement number in the low `bytes` bytes. */
static int64_t aft_signed_(uint64_t bits, int bytes) {
    uint64_t sign = 1ull << (8 * bytes - 1);
    uint64_t mask = sign | (sign - 1);
    bits &= mask;
    return bits & sign ? -(int64_t)(mask - bits) - 1 : (int64_t)bits;
}

int aft_read(aft_reader *reader, aft_value *value) {
    uint64_t bits = 0;
    unsigned tag;
    memset(value, 0, sizeof *value);
    if (reader->at >= reader->end) return AFT_EWIRE;
    tag = *reader->at++;
    if (tag <= 0x7f) return aft_whole_(value, (int64_t)tag);
    if (tag >= 0xe0) return aft_whole_(value, (int64_t)tag - 256);
    if (tag <= 0x8f) return aft_items_(reader, value, AFT_V_MAP, tag & 15u);
    if (tag <= 0x9f) return aft_items_(reader, value, AFT_V_LIST, tag & 15u);
    if (tag <= 0xbf) return aft_span_(reader, value, AFT_V_TEXT, tag & 31u);
    switch (tag) {
        case 0xc0: value->type = AFT_V_NIL; return AFT_OK;
        case 0xc2:
        case 0xc3:
            value->type = AFT_V_BOOL;
            value->i = tag == 0xc3;
            return AFT_OK;
        case 0xc4:
        case 0xc5:
        case 0xc6:
            if (aft_big_(reader, 1 << (tag - 0xc4), &bits)) return AFT_EWIRE;
            return aft_span_(reader, value, AFT_V_BYTES, bits);
        case 0xca: {
            uint32_t low;
            float single;
            if (aft_big_(reader, 4, &bits)) return AFT_EWIRE;
            low = (uint32_t)bits;
            memcpy(&single, &low, 4);
            value->type = AFT_V_FLOAT;
            value->f = single;
            return AFT_OK;
        }
        case 0xcb:
            if (aft_big_(reader, 8, &bits)) return AFT_EWIRE;
            value->type = AFT_V_FLOAT;
            memcpy(&value->f, &bits, 8);
            return AFT_OK;
        case 0xcc:
        case 0xcd:
        case 0xce:
        case 0xcf:
            if (aft_big_(reader, 1 << (tag - 0xcc), &bits)) return AFT_EWIRE;
            if (bits <= INT64_MAX) return aft_whole_(value, (int64_t)bits);
            value->type = AFT_V_UINT;
            value->u = bits;
            value->f = (double)bits;
            return AFT_OK;
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3:
            if (aft_big_(reader, 1 << (tag - 0xd0), &bits)) return AFT_EWIRE;
            return aft_whole_(value, aft_signed_(bits, 1 << (tag - 0xd0)));
        case 0xd9:
        case 0xda:
        case 0xdb:
            if (aft_big_(reader, 1 << (tag - 0xd9), &bits)) return AFT_EWIRE;
            return aft_span_(reader, value, AFT_V_TEXT, bits);
        case 0xdc:
        case 0xdd:
            if (aft_big_(reader, tag == 0xdc ? 2 : 4, &bits)) return AFT_EWIRE;
            return aft_items_(reader, value, AFT_V_LIST, bits);
        case 0xde:
        case 0xdf:
            if (aft_big_(reader, tag == 0xde ? 2 : 4, &bits)) return AFT_EWIRE;
            return aft_items_(reader, value, AFT_V_MAP, bits);
        default: return AFT_EWIRE; /* extensions are not part of the format */
    }
}

int aft_skip(aft_reader *reader) {
    uint64_t todo = 1;
    while (todo > 0) {
        aft_value value;
        if (todo > aft_left_(reader) || aft_read(reader, &value)) return AFT_EWIRE;
        todo--;
        if (value.type == AFT_V_LIST) todo += value.count;
        if (value.type == AFT_V_MAP) todo += 2 * (uint64_t)value.count;
    }
    return AFT_OK;
}

int aft_is(const aft_value *value, const char *text) {
    return value->type == AFT_V_TEXT && strlen(text) == value->count && memcmp(value->data, text, value->count) == 0;
}

int aft_find(aft_reader *reader, const char *key) {
    aft_reader look = *reader;
    aft_value value;
    uint32_t left;
    if (aft_read(&look, &value) || value.type != AFT_V_MAP) return AFT_EWIRE;
    for (left = value.count; left > 0; left--) {
        if (aft_read(&look, &value) || value.type != AFT_V_TEXT) return AFT_EWIRE;
        if (aft_is(&value, key)) {
            *reader = look;
            return AFT_OK;
        }
        if (aft_skip(&look)) return AFT_EWIRE;
    }
    return AFT_EWIRE;
}

/* ------------------------------------------------------------------ the header */

enum {
    AFT_K_V, AFT_K_KIND, AFT_K_STREAM, AFT_K_RUN, AFT_K_N, AFT_K_SENT, AFT_K_SEQ, AFT_K_EPOCH, AFT_K_PTS, AFT_K_BORN, AFT_K_PARAMS, AFT_K_FLAGS,
    AFT_K_TYPE, AFT_K_ENC, AFT_K_DTYPE, AFT_K_SHAPE, AFT_K_LAYOUT, AFT_K_COLOR, AFT_K_SIZE, AFT_K_SHM, AFT_K_LAT, AFT_K_FPS, AFT_K_STATE,
    AFT_K_REASON, AFT_K_META, AFT_K_COUNT
};
static const char *const aft_keys_[AFT_K_COUNT] = {"v",     "kind",   "stream", "run",   "n",      "sent",  "seq",  "epoch", "pts",
                                                   "born",  "params", "flags",  "type",  "enc",    "dtype", "shape", "layout", "color",
                                                   "size",  "shm",    "lat",    "fps",   "state",  "reason", "meta"};

/* Where the value of each known key lies; NULL where there is none. A key that comes twice counts as it came last. */
typedef struct aft_fields_ {
    const char *const *keys;
    aft_reader at[AFT_K_COUNT];
    aft_error *error;
} aft_fields_;

static int aft_fields_read_(aft_fields_ *fields, aft_reader *reader, const char *const *keys, int count, aft_error *error) {
    aft_value value;
    uint32_t left;
    int i;
    memset(fields, 0, sizeof *fields);
    fields->keys = keys;
    fields->error = error;
    if (aft_read(reader, &value) || value.type != AFT_V_MAP) return AFT_EWIRE;
    for (left = value.count; left > 0; left--) {
        const unsigned char *start;
        int known = -1;
        if (aft_read(reader, &value) || value.type != AFT_V_TEXT) return AFT_EWIRE;
        for (i = 0; i < count; i++)
            if (aft_is(&value, keys[i])) known = i;
        start = reader->at;
        if (aft_skip(reader)) return AFT_EWIRE;
        if (known >= 0) {
            fields->at[known].at = start;
            fields->at[known].end = reader->at;
        }
    }
    return AFT_OK;
}

static int aft_value_at_(const aft_fields_ *fields, int key, aft_value *value) {
    aft_reader reader = fields->at[key];
    memset(value, 0, sizeof *value);
    return reader.at ? aft_read(&reader, value) : AFT_EWIRE;
}

static int aft_wrong_(const aft_fields_ *fields, int key, const char *expected) {
    return aft_fail_(fields->error, AFT_EWIRE, fields->keys[key], "%s: expected %s", fields->keys[key], expected);
}

static int aft_int_at_(const aft_fields_ *fields, int key, int64_t least, int64_t most, int64_t *into) {
    aft_value value;
    if (aft_value_at_(fields, key, &value) || value.type != AFT_V_INT || value.i < least || value.i > most)
        return aft_wrong_(fields, key, least == 0 ? "a whole number from 0" : "a whole number in its range");
    *into = value.i;
    return AFT_OK;
}

static int aft_count_at_(const aft_fields_ *fields, int key, int64_t most, uint64_t *into) {
    int64_t value = 0;
    if (aft_int_at_(fields, key, 0, most, &value)) return AFT_EWIRE;
    *into = (uint64_t)value;
    return AFT_OK;
}

static int aft_number_(const aft_value *value) { return value->type == AFT_V_INT || value->type == AFT_V_UINT || value->type == AFT_V_FLOAT; }

static int aft_one_at_(const aft_fields_ *fields, int key, const aft_name_ *names, int *into) {
    aft_value value;
    if (!aft_value_at_(fields, key, &value))
        for (; names->name; names++)
            if (aft_is(&value, names->name)) {
                *into = names->value;
                return AFT_OK;
            }
    return aft_wrong_(fields, key, "one of the names that docs/wire.md lists");
}

static int aft_label_at_(const aft_fields_ *fields, int key, char *into, size_t room) { /* A-Z a-z 0-9 _ . - */
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    aft_value value;
    uint32_t i;
    if (aft_value_at_(fields, key, &value) || value.type != AFT_V_TEXT || value.count < 1 || value.count >= room)
        return aft_wrong_(fields, key, "a name");
    for (i = 0; i < value.count; i++)
        if (!memchr(letters, value.data[i], sizeof letters - 1)) return aft_wrong_(fields, key, "a name of A-Z a-z 0-9 _ . -");
    memcpy(into, value.data, value.count);
    into[value.count] = 0;
    return AFT_OK;
}

static int aft_list_at_(const aft_fields_ *fields, int key, int64_t most, int room, uint64_t *into, int *count) {
    aft_reader reader = fields->at[key];
    aft_value value;
    int i;
    if (!reader.at || aft_read(&reader, &value) || value.type != AFT_V_LIST || value.count > (uint32_t)room)
        return aft_wrong_(fields, key, "a short list of whole numbers");
    *count = (int)value.count;
    for (i = 0; i < *count; i++) {
        if (aft_read(&reader, &value) || value.type != AFT_V_INT || value.i < 0 || value.i > most)
            return aft_wrong_(fields, key, "whole numbers from 0, below the limit");
        into[i] = (uint64_t)value.i;
    }
    return AFT_OK;
}

static int aft_color_at_(const aft_fields_ *fields, int enc, int *order) {
    static const char *const keys[] = {"space", "order", "matrix", "range"};
    aft_fields_ color;
    aft_reader reader = fields->at[AFT_K_COLOR], look = reader;
    aft_value value;
    uint32_t left;
    if (!reader.at || aft_read(&look, &value) || value.type != AFT_V_MAP || value.count > 8) return aft_wrong_(fields, AFT_K_COLOR, "a map of short texts");
    for (left = value.count; left > 0; left--) {
        if (aft_read(&look, &value) || value.type != AFT_V_TEXT || aft_read(&look, &value) || value.type != AFT_V_TEXT || value.count > 64)
            return aft_wrong_(fields, AFT_K_COLOR, "a map of short texts");
    }
    if (aft_fields_read_(&color, &reader, keys, 4, NULL) || aft_value_at_(&color, 0, &value) || !aft_is(&value, "srgb") ||
        aft_one_at_(&color, 1, aft_orders_, order))
        return aft_wrong_(fields, AFT_K_COLOR, "space = srgb, and order = rgb or bgr");
    if (enc == AFT_H264 && (aft_value_at_(&color, 2, &value) || !aft_is(&value, "bt709") || aft_value_at_(&color, 3, &value) || !aft_is(&value, "limited")))
        return aft_wrong_(fields, AFT_K_COLOR, "matrix = bt709 and range = limited with h264");
    return AFT_OK;
}

static int aft_shm_at_(const aft_fields_ *fields, aft_header *header) {
    static const char *const keys[] = {"name", "slot", "offset", "bytes", "mark"};
    static const char *const shown[] = {"shm.name", "shm.slot", "shm.offset", "shm.bytes", "shm.mark"};
    aft_fields_ place;
    aft_reader reader = fields->at[AFT_K_SHM];
    uint64_t slot = 0;
    if (!reader.at || aft_fields_read_(&place, &reader, keys, 5, fields->error)) return aft_wrong_(fields, AFT_K_SHM, "a map");
    place.keys = shown;
    if (aft_label_at_(&place, 0, header->shm.name, sizeof header->shm.name) || aft_count_at_(&place, 1, 65535, &slot) ||
        aft_count_at_(&place, 2, INT64_MAX, &header->shm.offset) || aft_count_at_(&place, 3, INT64_MAX, &header->shm.bytes) ||
        aft_count_at_(&place, 4, INT64_MAX, &header->shm.mark))
        return AFT_EWIRE;
    if (header->shm.offset < 64) return aft_wrong_(&place, 2, "64 or more");
    header->shm.slot = (uint32_t)slot;
    return AFT_OK;
}

static int aft_array_fits_(const aft_header *h) {
    int i, coded = h->enc == AFT_JPEG || h->enc == AFT_PNG || h->enc == AFT_H264;
    for (i = 0; i < h->rank; i++)
        if (h->shape[i] == 0) return 0;
    if (h->type == AFT_MASK) return h->rank == 2 && h->dtype == AFT_UINT8;
    if (h->type == AFT_LATENT) return h->rank == 4 && h->shape[0] == 1 && (h->dtype == AFT_FLOAT16 || h->dtype == AFT_FLOAT32);
    if (h->dtype == AFT_INT32 || (coded && (h->layout != AFT_HWC || h->dtype != AFT_UINT8))) return 0;
    if (h->layout == AFT_HWC) return h->rank == 3 && h->shape[2] == 3;
    return (h->rank == 3 && h->shape[0] == 3) || (h->rank == 4 && h->shape[0] == 1 && h->shape[1] == 3);
}

static int aft_array_(const aft_fields_ *fields, uint64_t max_bytes, aft_header *h) {
    uint64_t shape[4];
    int i;
    if (aft_one_at_(fields, AFT_K_DTYPE, aft_dtypes_, &h->dtype) || aft_list_at_(fields, AFT_K_SHAPE, 65535, 4, shape, &h->rank)) return AFT_EWIRE;
    h->bytes = h->dtype == AFT_UINT8 ? 1 : h->dtype == AFT_FLOAT16 ? 2 : 4;
    for (i = 0; i < h->rank; i++) { /* at most 4 x 65535 to the fourth: the check in between keeps it below 2^64 */
        h->shape[i] = (uint32_t)shape[i];
        h->bytes *= shape[i];
        if (h->bytes > max_bytes) return aft_fail_(fields->error, AFT_EWIRE, "shape", "shape: the array is larger than this reader's limit");
    }
    if (h->type == AFT_IMAGE && (aft_one_at_(fields, AFT_K_LAYOUT, aft_layouts_, &h->layout) || aft_color_at_(fields, h->enc, &h->order))) return AFT_EWIRE;
    if (!aft_array_fits_(h)) return aft_fail_(fields->error, AFT_EWIRE, "shape", "shape: is no %s that is stored as %s", aft_type_name(h->type), aft_enc_name(h->enc));
    return AFT_OK;
}

static int aft_enc_fits_(int type, int enc) {
    if (type == AFT_IMAGE) return enc != AFT_MSGPACK;
    if (type == AFT_MASK) return enc == AFT_RAW || enc == AFT_PNG || enc == AFT_SHM;
    if (type == AFT_LATENT) return enc == AFT_RAW || enc == AFT_SHM;
    return enc == AFT_MSGPACK;
}

static int aft_frame_fields_(const aft_fields_ *fields, uint64_t max_bytes, aft_header *h) {
    uint64_t flags, total = 0;
    int i;
    if (aft_one_at_(fields, AFT_K_TYPE, aft_types_, &h->type) || aft_one_at_(fields, AFT_K_ENC, aft_encs_, &h->enc)) return AFT_EWIRE;
    if (!aft_enc_fits_(h->type, h->enc)) return aft_fail_(fields->error, AFT_EWIRE, "enc", "enc: %s is not stored as %s", aft_type_name(h->type), aft_enc_name(h->enc));
    if (h->type <= AFT_LATENT && aft_array_(fields, max_bytes, h)) return AFT_EWIRE;
    if (aft_list_at_(fields, AFT_K_SIZE, (int64_t)max_bytes, AFT_MAX_PARTS, h->size, &h->parts)) return AFT_EWIRE;
    for (i = 0; i < h->parts; i++) total += h->size[i];
    if (total > max_bytes) return aft_fail_(fields->error, AFT_EWIRE, "size", "size: more than this reader's limit");
    if (h->enc == AFT_SHM) {
        if (aft_shm_at_(fields, h)) return AFT_EWIRE;
        if (h->shm.bytes != h->bytes) return aft_fail_(fields->error, AFT_EWIRE, "shm", "shm: the array has other bytes than announced");
        if (h->parts) return aft_fail_(fields->error, AFT_EWIRE, "size", "size: a frame in shared memory has no payload part");
    } else if (h->parts != 1 || h->size[0] == 0 || (h->enc == AFT_RAW && h->size[0] != h->bytes) || (h->enc == AFT_MSGPACK && h->size[0] > AFT_MAX_PLAIN)) {
        return aft_fail_(fields->error, AFT_EWIRE, "size", "size: is not that of one %s payload", aft_enc_name(h->enc));
    }
    if (aft_count_at_(fields, AFT_K_SEQ, INT64_MAX, &h->seq) || aft_count_at_(fields, AFT_K_EPOCH, INT64_MAX, &h->epoch) ||
        aft_int_at_(fields, AFT_K_PTS, INT64_MIN, INT64_MAX, &h->pts) || aft_int_at_(fields, AFT_K_BORN, INT64_MIN, INT64_MAX, &h->born) ||
        aft_count_at_(fields, AFT_K_PARAMS, INT64_MAX, &h->params) || aft_count_at_(fields, AFT_K_FLAGS, 0xffff, &flags))
        return AFT_EWIRE;
    h->flags = (unsigned)flags;
    return AFT_OK;
}

/* An optional map: where it lies, and with `numbers` that it holds nothing else. */
static int aft_map_at_(const aft_fields_ *fields, int key, int numbers, const unsigned char **at, size_t *bytes) {
    aft_reader reader = fields->at[key];
    aft_value value;
    uint32_t left;
    if (!reader.at) return AFT_OK;
    if (aft_read(&reader, &value)) return AFT_EWIRE;
    if (value.type == AFT_V_NIL) return AFT_OK;
    if (value.type != AFT_V_MAP) return aft_wrong_(fields, key, "a map");
    for (left = value.count; left > 0; left--) {
        if (aft_read(&reader, &value) || value.type != AFT_V_TEXT) return aft_wrong_(fields, key, "a map with text keys");
        if (!numbers) {
            if (aft_skip(&reader)) return AFT_EWIRE;
        } else if (aft_read(&reader, &value) || !aft_number_(&value)) return aft_wrong_(fields, key, "a map of numbers");
    }
    *at = fields->at[key].at;
    *bytes = (size_t)(fields->at[key].end - fields->at[key].at);
    return AFT_OK;
}

int aft_header_decode(const void *data, size_t bytes, uint64_t max_bytes, aft_header *header, aft_error *error) {
    aft_fields_ fields;
    aft_reader reader = aft_reader_of(data, bytes);
    aft_value value;
    size_t i;
    uint64_t version = 0;
    int64_t sent = 0;
    memset(header, 0, sizeof *header);
    if (max_bytes > INT64_MAX / 4) max_bytes = INT64_MAX / 4;
    if (bytes > AFT_MAX_HEADER) return aft_fail_(error, AFT_EWIRE, "", "the header is larger than 64 KiB");
    if (aft_fields_read_(&fields, &reader, aft_keys_, AFT_K_COUNT, error)) return aft_fail_(error, AFT_EWIRE, "", "the header is no MessagePack map with text keys");
    if (reader.at != reader.end) return aft_fail_(error, AFT_EWIRE, "", "bytes after the header");
    if (aft_count_at_(&fields, AFT_K_V, INT64_MAX, &version)) return AFT_EWIRE;
    if (version != AFT_WIRE_VERSION) return aft_fail_(error, AFT_EVERSION, "v", "v: this reader knows version %d of the format; update it", AFT_WIRE_VERSION);
    if (aft_one_at_(&fields, AFT_K_KIND, aft_kinds_, &header->kind) || aft_label_at_(&fields, AFT_K_STREAM, header->stream, sizeof header->stream) ||
        aft_label_at_(&fields, AFT_K_RUN, header->run, sizeof header->run))
        return AFT_EWIRE;
    for (i = 0; header->run[i]; i++)
        if (!memchr("0123456789abcdef", header->run[i], 16)) break;
    if (i != 16) return aft_wrong_(&fields, AFT_K_RUN, "16 hexadecimal digits");
    if (aft_count_at_(&fields, AFT_K_N, INT64_MAX, &header->n) || aft_int_at_(&fields, AFT_K_SENT, 0, INT64_MAX, &sent) ||
        aft_map_at_(&fields, AFT_K_META, 0, &header->meta, &header->meta_bytes))
        return AFT_EWIRE;
    header->sent = sent;
    if (header->kind == AFT_BEAT) {
        if (aft_value_at_(&fields, AFT_K_FPS, &value) || !aft_number_(&value)) return aft_wrong_(&fields, AFT_K_FPS, "a number");
        header->fps = value.f;
        return aft_one_at_(&fields, AFT_K_STATE, aft_states_, &header->state);
    }
    if (header->kind == AFT_END) return aft_one_at_(&fields, AFT_K_REASON, aft_reasons_, &header->reason);
    if (aft_map_at_(&fields, AFT_K_LAT, 1, &header->lat, &header->lat_bytes)) return AFT_EWIRE;
    return aft_frame_fields_(&fields, max_bytes, header);
}

int aft_message_check(const aft_header *header, const void *topic, size_t topic_bytes, const size_t *sizes, int parts, aft_error *error) {
    size_t length = strlen(header->stream);
    int i;
    if (topic_bytes != length + 1 || memcmp(topic, header->stream, length) != 0 || ((const char *)topic)[length] != '/')
        return aft_fail_(error, AFT_EWIRE, "stream", "stream: the topic is that of another");
    if (parts != header->parts) return aft_fail_(error, AFT_EWIRE, "size", "size: tells of %d payload parts, %d came", header->parts, parts);
    for (i = 0; i < parts; i++)
        if (sizes[i] != header->size[i]) return aft_fail_(error, AFT_EWIRE, "size", "size: a payload part has other bytes than announced");
    return AFT_OK;
}

/* ------------------------------------------------------------------ plain payloads */

static uint32_t aft_little_(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24; }

int aft_read_pose(const void *data, size_t bytes, aft_pose *pose, aft_error *error) {
    static const char *const keys[] = {"people", "n", "size", "stability"};
    static const char *const shown[] = {"payload.people", "payload.n", "payload.size", "payload.stability"};
    aft_fields_ fields;
    aft_reader reader = aft_reader_of(data, bytes);
    aft_value value;
    uint64_t people, size[2];
    int count;
    memset(pose, 0, sizeof *pose);
    if (aft_fields_read_(&fields, &reader, keys, 4, error) || reader.at != reader.end) return aft_fail_(error, AFT_EWIRE, "payload", "payload: is no map");
    fields.keys = shown;
    if (aft_count_at_(&fields, 1, 4096, &people)) return AFT_EWIRE;
    if (aft_value_at_(&fields, 0, &value) || value.type != AFT_V_BYTES || value.count != people * 18 * 3 * 4) return aft_wrong_(&fields, 0, "n x 18 x 3 float32");
    pose->points = (const unsigned char *)value.data;
    if (aft_list_at_(&fields, 2, 65535, 2, size, &count)) return AFT_EWIRE;
    if (count != 2) return aft_wrong_(&fields, 2, "[height, width]");
    pose->stability = -1;
    if (!aft_value_at_(&fields, 3, &value) && value.type != AFT_V_NIL) {
        if (!aft_number_(&value)) return aft_wrong_(&fields, 3, "a number, or nothing");
        pose->stability = value.f;
    }
    pose->people = (uint32_t)people;
    pose->height = (uint32_t)size[0];
    pose->width = (uint32_t)size[1];
    return AFT_OK;
}

void aft_pose_point(const aft_pose *pose, uint32_t person, unsigned joint, float point[3]) {
    int i;
    for (i = 0; i < 3; i++) {
        uint32_t bits = 0;
        if (person < pose->people && joint < 18) bits = aft_little_(pose->points + (((size_t)person * 18 + joint) * 3 + (size_t)i) * 4);
        memcpy(&point[i], &bits, 4);
    }
}

int aft_read_prompt(const void *data, size_t bytes, aft_prompt *prompt, aft_error *error) {
    static const char *const keys[] = {"text", "negative", "blend"};
    static const char *const shown[] = {"payload.text", "payload.negative", "payload.blend"};
    aft_fields_ fields;
    aft_reader reader = aft_reader_of(data, bytes);
    aft_value text, negative;
    uint64_t blend;
    memset(prompt, 0, sizeof *prompt);
    if (aft_fields_read_(&fields, &reader, keys, 3, error) || reader.at != reader.end) return aft_fail_(error, AFT_EWIRE, "payload", "payload: is no map");
    fields.keys = shown;
    if (aft_value_at_(&fields, 0, &text) || text.type != AFT_V_TEXT) return aft_wrong_(&fields, 0, "a text");
    if (aft_value_at_(&fields, 1, &negative) || negative.type != AFT_V_TEXT) return aft_wrong_(&fields, 1, "a text");
    if (aft_count_at_(&fields, 2, 1ll << 31, &blend)) return AFT_EWIRE;
    prompt->text = text.data;
    prompt->text_bytes = text.count;
    prompt->negative = negative.data;
    prompt->negative_bytes = negative.count;
    prompt->blend = (uint32_t)blend;
    return AFT_OK;
}

int aft_read_scalar(const void *data, size_t bytes, double *value, aft_error *error) {
    aft_reader reader = aft_reader_of(data, bytes);
    aft_value found;
    if (aft_read(&reader, &found) || reader.at != reader.end || !aft_number_(&found)) return aft_fail_(error, AFT_EWIRE, "payload.value", "payload: is no number");
    *value = found.f;
    return AFT_OK;
}

int aft_read_text(const void *data, size_t bytes, const char **text, size_t *text_bytes, aft_error *error) {
    aft_reader reader = aft_reader_of(data, bytes);
    aft_value found;
    if (aft_read(&reader, &found) || reader.at != reader.end || found.type != AFT_V_TEXT) return aft_fail_(error, AFT_EWIRE, "payload.value", "payload: is no UTF-8 text");
    *text = found.data;
    *text_bytes = found.count;
    return AFT_OK;
}

int aft_read_data(const void *data, size_t bytes, aft_reader *map, aft_error *error) {
    aft_reader look = aft_reader_of(data, bytes), whole = look;
    aft_value found;
    *map = look;
    if (aft_skip(&whole) || whole.at != whole.end || aft_read(&look, &found) || found.type != AFT_V_MAP)
        return aft_fail_(error, AFT_EWIRE, "payload", "payload: is no map");
    for (; found.count > 0; found.count--) {
        aft_value key;
        if (aft_read(&look, &key) || key.type != AFT_V_TEXT || aft_skip(&look)) return aft_fail_(error, AFT_EWIRE, "payload", "payload: a key is no text");
    }
    return AFT_OK;
}

float aft_half(const void *two_bytes) {
    const unsigned char *at = (const unsigned char *)two_bytes;
    uint32_t half = (uint32_t)at[0] | (uint32_t)at[1] << 8;
    uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ffu, bits;
    float value;
    if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
    else { /* subnormal: fraction / 2^24, exact in a float */
        value = (float)fraction / 16777216.0f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* ------------------------------------------------------------------ shared memory */

#define AFT_RINGS_ 16

typedef struct aft_ring_ {
    char name[65];
    unsigned char *at;
    size_t bytes;
    uint64_t stride, slot_bytes, first;
    uint32_t slots;
} aft_ring_;

static uint64_t aft_long_(const unsigned char *at) { return (uint64_t)aft_little_(at) | (uint64_t)aft_little_(at + 4) << 32; }

static uint64_t aft_mark_(const unsigned char *at) { /* as the publisher stored it: little endian, in one piece */
#if defined(__GNUC__) || defined(__clang__)
    uint64_t found;
    unsigned char bytes[8];
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    found = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE);
    memcpy(bytes, &found, 8);
    return aft_long_(bytes);
#else
    return aft_long_(at);
#endif
}

#ifndef _WIN32
static int aft_ring_map_(aft_ring_ *ring, const char *name, aft_error *error) {
    char path[80];
    struct stat facts;
    void *at;
    int fd;
    snprintf(path, sizeof path, "/%s", name);
    fd = shm_open(path, O_RDONLY, 0);
    if (fd < 0) return aft_fail_(error, AFT_ESHM, "shm.name", "there is no ring %s on this host: has the publisher ended, or does it run on another one?", name);
    if (fstat(fd, &facts) < 0 || facts.st_size < 64) {
        close(fd);
        return aft_fail_(error, AFT_ESHM, "shm.name", "%s is no ring of frames", name);
    }
    at = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) return aft_fail_(error, AFT_ESHM, "shm.name", "%s cannot be mapped: %s", name, strerror(errno));
    memset(ring, 0, sizeof *ring);
    ring->at = (unsigned char *)at;
    ring->bytes = (size_t)facts.st_size;
    ring->slots = aft_little_(ring->at + 12);
    ring->first = aft_long_(ring->at + 24);
    ring->stride = aft_long_(ring->at + 32);
    ring->slot_bytes = aft_long_(ring->at + 40);
    if (memcmp(ring->at, "AFTRRING", 8) != 0 || aft_little_(ring->at + 8) != 1 || ring->slots == 0 || ring->slots > 65536 || ring->first < 64 ||
        ring->first % 64 || ring->stride % 64 || ring->stride < 64 || ring->slot_bytes > ring->stride - 64 || ring->first > ring->bytes ||
        ring->stride > (ring->bytes - ring->first) / ring->slots) {
        munmap(at, ring->bytes);
        memset(ring, 0, sizeof *ring);
        return aft_fail_(error, AFT_ESHM, "shm.name", "%s is no ring of frames of version 1", name);
    }
    snprintf(ring->name, sizeof ring->name, "%s", name);
    return AFT_OK;
}
#endif

static void aft_ring_unmap_(aft_ring_ *ring) {
#ifndef _WIN32
    if (ring->at) munmap(ring->at, ring->bytes);
#endif
    memset(ring, 0, sizeof *ring);
}

/* Where the frame's elements lie; NULL with the error set. */
static const unsigned char *aft_ring_find_(aft_ring_ *rings, unsigned *next, const aft_header *header, aft_error *error) {
#ifdef _WIN32
    (void)rings, (void)next, (void)header;
    aft_fail_(error, AFT_ESHM, "enc", "shared memory is not read on Windows: publish with transport = \"tcp\"");
    return NULL;
#else
    aft_ring_ *ring = NULL;
    int i;
    for (i = 0; i < AFT_RINGS_; i++)
        if (rings[i].at && strcmp(rings[i].name, header->shm.name) == 0) ring = &rings[i];
    if (!ring) {
        aft_ring_ fresh;
        if (aft_ring_map_(&fresh, header->shm.name, error)) return NULL;
        ring = &rings[*next];
        *next = (*next + 1) % AFT_RINGS_;
        aft_ring_unmap_(ring);
        *ring = fresh;
    }
    if (header->shm.slot >= ring->slots || header->shm.bytes > ring->slot_bytes ||
        header->shm.offset != ring->first + header->shm.slot * ring->stride + 64) {
        aft_fail_(error, AFT_EWIRE, "shm", "shm: there is no such slot in %s", header->shm.name);
        return NULL;
    }
    return ring->at + header->shm.offset;
#endif
}

/* ------------------------------------------------------------------ frames */

void aft_frame_clear(aft_frame *frame) {
    int i;
    if (frame->live_) {
        zmq_msg_close(&frame->head_);
        for (i = 0; i < frame->header.parts; i++) zmq_msg_close(&frame->part_[i]);
    }
    memset(frame, 0, sizeof *frame);
}

/* `into` holds nothing before, `from` nothing after. */
static void aft_frame_move_(aft_frame *into, aft_frame *from) {
    const unsigned char *before = (const unsigned char *)zmq_msg_data(&from->head_), *after;
    int i;
    into->header = from->header;
    into->lost = from->lost;
    into->dropped = from->dropped;
    into->skipped = from->skipped;
    into->restarted = from->restarted;
    into->received = from->received;
    into->ring_ = NULL;
    into->live_ = 1;
    zmq_msg_init(&into->head_);
    zmq_msg_move(&into->head_, &from->head_);
    for (i = 0; i < from->header.parts; i++) {
        zmq_msg_init(&into->part_[i]);
        zmq_msg_move(&into->part_[i], &from->part_[i]);
    }
    after = (const unsigned char *)zmq_msg_data(&into->head_); /* short messages live inside zmq_msg_t and have moved with it */
    if (into->header.lat) into->header.lat = after + (into->header.lat - before);
    if (into->header.meta) into->header.meta = after + (into->header.meta - before);
    aft_frame_clear(from);
}

/* ------------------------------------------------------------------ the receiving thread */

#define AFT_ALIVE_MS_ 3000

enum { AFT_ASK_NEXT_ = 1, AFT_ASK_STATUS_, AFT_ASK_CLOSE_ };

typedef struct aft_ask_ {
    int op, timeout_ms;
    aft_frame *into;
    aft_status *status;
} aft_ask_;

struct aft_subscriber {
    void *context, *socket, *ask, *serve, *thread;
    char stream[65];
    int keep, follow;
    uint64_t max_bytes;
    /* of the thread; the other side looks only while the thread waits for its next question, that is after an answer */
    aft_frame *slot;
    int first, count;
    aft_status status;
    int64_t heard; /* steady ms; -1: nothing yet */
    uint64_t next, seq, epoch, unseen;
    int seq_known, fatal;
    aft_error trouble;
    /* of the program */
    aft_error error;
    aft_ring_ rings[AFT_RINGS_];
    unsigned next_ring;
};

/* What is missing before this message (docs/wire.md: n and seq). */
static void aft_tally_(aft_subscriber *s, const aft_header *h, aft_frame *gap) {
    int known = strcmp(s->status.run, h->run) == 0;
    uint64_t lost = 0, dropped = 0, step;
    gap->restarted = !known && s->status.run[0];
    if (!known) {
        memcpy(s->status.run, h->run, sizeof s->status.run);
        s->seq_known = 0;
        s->unseen = 0;
        if (gap->restarted) {
            s->status.restarts++;
            s->status.ended = 0;
        }
    } else if (h->n > s->next) lost = h->n - s->next;
    if (known && h->kind == AFT_FRAME && s->seq_known && h->epoch == s->epoch && h->seq > s->seq) {
        step = h->seq - s->seq - 1;
        if (step > lost && step - lost > s->unseen) dropped = step - lost - s->unseen;
    }
    if (h->kind == AFT_FRAME) {
        s->unseen = 0;
        s->seq = h->seq;
        s->epoch = h->epoch;
        s->seq_known = 1;
        s->status.frames++;
    } else s->unseen += lost; /* a beat told of them; the next frame's step of seq covers them too */
    s->next = h->kind == AFT_FRAME ? h->n + 1 : h->n;
    s->status.lost += lost;
    s->status.dropped += dropped;
    gap->lost = lost;
    gap->dropped = dropped;
}

/* Put a frame behind the others; where that is one too many the oldest goes, and what is missing before it is missing before the next. */
static void aft_keep_(aft_subscriber *s, aft_frame *frame) {
    if (s->count == s->keep) {
        aft_frame *gone = &s->slot[s->first];
        aft_frame *heir = s->count > 1 ? &s->slot[(s->first + 1) % s->keep] : frame;
        heir->lost += gone->lost;
        heir->dropped += gone->dropped;
        heir->skipped += gone->skipped + 1;
        heir->restarted |= gone->restarted;
        aft_frame_clear(gone);
        s->status.skipped++;
        s->first = (s->first + 1) % s->keep;
        s->count--;
    }
    aft_frame_move_(&s->slot[(s->first + s->count) % s->keep], frame);
    s->count++;
}

/* Checks the parts of one message and takes what it says. `part` keeps what the frame does not take over. */
static int aft_message_(aft_subscriber *s, zmq_msg_t *part, int parts, int whole, aft_error *error) {
    aft_frame frame;
    size_t sizes[AFT_MAX_PARTS];
    int i, code;
    memset(&frame, 0, sizeof frame);
    if (parts < 2 || !whole) return aft_fail_(error, AFT_EWIRE, "", "a message has 2 to %d parts", 2 + AFT_MAX_PARTS);
    code = aft_header_decode(zmq_msg_data(&part[1]), zmq_msg_size(&part[1]), s->max_bytes, &frame.header, error);
    if (code) return code;
    for (i = 2; i < parts; i++) sizes[i - 2] = zmq_msg_size(&part[i]);
    code = aft_message_check(&frame.header, zmq_msg_data(&part[0]), zmq_msg_size(&part[0]), sizes, parts - 2, error);
    if (code) return code;
    if (strcmp(frame.header.stream, s->stream) != 0) return AFT_OK;
    if (s->status.ended && !s->follow) return AFT_OK;
    s->heard = aft_steady_();
    aft_tally_(s, &frame.header, &frame);
    if (frame.header.kind == AFT_BEAT) {
        s->status.fps = frame.header.fps;
        s->status.state = frame.header.state;
    } else if (frame.header.kind == AFT_END) {
        s->status.ended = 1;
        s->status.reason = frame.header.reason;
    } else {
        const unsigned char *before = (const unsigned char *)zmq_msg_data(&part[1]), *after;
        frame.received = aft_now();
        frame.live_ = 1;
        zmq_msg_init(&frame.head_);
        zmq_msg_move(&frame.head_, &part[1]);
        after = (const unsigned char *)zmq_msg_data(&frame.head_);
        if (frame.header.lat) frame.header.lat = after + (frame.header.lat - before);
        if (frame.header.meta) frame.header.meta = after + (frame.header.meta - before);
        for (i = 0; i < frame.header.parts; i++) {
            zmq_msg_init(&frame.part_[i]);
            zmq_msg_move(&frame.part_[i], &part[i + 2]);
        }
        aft_keep_(s, &frame);
    }
    return AFT_OK;
}

/* One message off the socket; 0 where there is none. */
static int aft_take_(aft_subscriber *s) {
    zmq_msg_t part[2 + AFT_MAX_PARTS];
    aft_error error;
    int parts = 0, whole = 1, more = 1, i, code;
    while (more) {
        zmq_msg_t over, *into = parts < 2 + AFT_MAX_PARTS ? &part[parts] : &over;
        zmq_msg_init(into);
        if (zmq_msg_recv(into, s->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(into);
            if (parts == 0) return 0;
            whole = 0; /* cannot be: a message comes whole or not at all */
            break;
        }
        more = zmq_msg_more(into);
        if (into == &over) {
            zmq_msg_close(into);
            whole = 0;
        } else parts++;
    }
    memset(&error, 0, sizeof error);
    code = aft_message_(s, part, parts, whole, &error);
    if (code) {
        s->status.malformed++;
        s->status.last = error;
        if (code == AFT_EVERSION) {
            s->fatal = code;
            s->trouble = error;
        }
    }
    for (i = 0; i < parts; i++) zmq_msg_close(&part[i]);
    return 1;
}

static void aft_answer_(aft_subscriber *s, int code) { zmq_send(s->serve, &code, sizeof code, 0); }

static void aft_receive_(void *self) {
    aft_subscriber *s = (aft_subscriber *)self;
    aft_ask_ asked;
    int64_t until = 0;
    int burst;
    memset(&asked, 0, sizeof asked);
    for (;;) {
        zmq_pollitem_t items[2];
        long wait = -1;
        memset(items, 0, sizeof items);
        items[0].socket = s->socket;
        items[1].socket = s->serve;
        items[0].events = items[1].events = ZMQ_POLLIN;
        if (asked.op && asked.timeout_ms >= 0) {
            int64_t left = until - aft_steady_();
            wait = left > 0 ? (long)left : 0;
        }
        if (zmq_poll(items, 2, wait) < 0 && zmq_errno() != EINTR) return; /* the context is gone */
        if ((items[1].revents & ZMQ_POLLIN) && zmq_recv(s->serve, &asked, sizeof asked, ZMQ_DONTWAIT) == (int)sizeof asked) {
            if (asked.op == AFT_ASK_CLOSE_) return;
            until = aft_steady_() + asked.timeout_ms;
        }
        for (burst = 0; burst < 64 && aft_take_(s); burst++) {}
        if (asked.op == AFT_ASK_STATUS_) {
            *asked.status = s->status;
            asked.status->silent_ms = s->heard < 0 ? -1.0 : (double)(aft_steady_() - s->heard);
            asked.status->alive = s->heard >= 0 && asked.status->silent_ms < AFT_ALIVE_MS_ && !s->status.ended;
            asked.op = 0;
            aft_answer_(s, AFT_OK);
        } else if (asked.op == AFT_ASK_NEXT_) {
            int code = -100;
            if (s->count > 0) {
                aft_frame_move_(asked.into, &s->slot[s->first]);
                s->first = (s->first + 1) % s->keep;
                s->count--;
                code = AFT_OK;
            } else if (s->fatal) code = s->fatal;
            else if (s->status.ended && !s->follow) code = AFT_ENDED;
            else if (asked.timeout_ms >= 0 && aft_steady_() >= until && burst < 64) code = AFT_TIMEOUT;
            if (code != -100) {
                asked.op = 0;
                aft_answer_(s, code);
            }
        }
    }
}

/* ------------------------------------------------------------------ subscribing */

static int aft_zmq_(aft_error *error, const char *what) { return aft_fail_(error, AFT_EZMQ, "", "%s: %s", what, zmq_strerror(zmq_errno())); }

static int aft_keys_set_(void *socket, const aft_curve *curve, aft_error *error) {
    if (!curve) return AFT_OK;
    if (!curve->server_key || !curve->public_key || !curve->secret_key || strlen(curve->server_key) != 40 || strlen(curve->public_key) != 40 ||
        strlen(curve->secret_key) != 40)
        return aft_fail_(error, AFT_EARGUMENT, "curve", "keys are Z85 texts of 40 characters");
    if (zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, curve->server_key, 41) || zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, curve->public_key, 41) ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, curve->secret_key, 41))
        return aft_zmq_(error, "CURVE keys");
    return AFT_OK;
}

static void aft_int_option_(void *socket, int option, int value) { zmq_setsockopt(socket, option, &value, sizeof value); }

static void aft_release_(aft_subscriber *s) {
    int i;
    if (s->serve) zmq_close(s->serve);
    if (s->ask) zmq_close(s->ask);
    if (s->socket) zmq_close(s->socket);
    if (s->slot) {
        for (i = 0; i < s->keep; i++) aft_frame_clear(&s->slot[i]);
        AFT_FREE(s->slot);
    }
    for (i = 0; i < AFT_RINGS_; i++) aft_ring_unmap_(&s->rings[i]);
    if (s->context) zmq_ctx_term(s->context);
    AFT_FREE(s);
}

aft_subscriber *aft_subscribe(const char *endpoint, const aft_options *options, aft_error *error) {
    aft_options plain;
    const aft_options *o = options ? options : &plain;
    const char *stream = options && options->stream ? options->stream : "live";
    char topic[66];
    int64_t most;
    aft_subscriber *s = (aft_subscriber *)AFT_MALLOC(sizeof *s);
    if (!s) {
        aft_fail_(error, AFT_EMEMORY, "", "out of memory");
        return NULL;
    }
    memset(&plain, 0, sizeof plain);
    memset(s, 0, sizeof *s);
    s->heard = -1;
    s->keep = o->queue > 1 ? o->queue : 1;
    s->follow = o->follow;
    s->max_bytes = o->max_bytes ? o->max_bytes : AFT_MAX_BYTES;
    if (!endpoint || !*stream || strlen(stream) > 64 || s->keep > 65536) {
        aft_fail_(error, AFT_EARGUMENT, "", "an endpoint such as tcp://127.0.0.1:5555, a stream name of 1 to 64 letters, a queue of at most 65536");
        aft_release_(s);
        return NULL;
    }
    snprintf(s->stream, sizeof s->stream, "%s", stream);
    snprintf(topic, sizeof topic, "%s/", stream);
    s->slot = (aft_frame *)AFT_MALLOC(sizeof *s->slot * (size_t)s->keep);
    if (s->slot) memset(s->slot, 0, sizeof *s->slot * (size_t)s->keep);
    s->context = zmq_ctx_new();
    s->socket = s->context ? zmq_socket(s->context, ZMQ_SUB) : NULL;
    s->ask = s->context ? zmq_socket(s->context, ZMQ_PAIR) : NULL;
    s->serve = s->context ? zmq_socket(s->context, ZMQ_PAIR) : NULL;
    if (!s->slot || !s->socket || !s->ask || !s->serve) {
        aft_zmq_(error, "sockets");
        aft_release_(s);
        return NULL;
    }
    most = s->max_bytes > INT64_MAX ? INT64_MAX : (int64_t)s->max_bytes;
    aft_int_option_(s->socket, ZMQ_RCVHWM, 4);
    aft_int_option_(s->socket, ZMQ_LINGER, 0);
    aft_int_option_(s->socket, ZMQ_RECONNECT_IVL, 100);
    aft_int_option_(s->socket, ZMQ_RECONNECT_IVL_MAX, 2000);
    aft_int_option_(s->socket, ZMQ_HEARTBEAT_IVL, 1000); /* a connection whose other end has vanished is made anew */
    aft_int_option_(s->socket, ZMQ_HEARTBEAT_TIMEOUT, 5000);
    if (strncmp(endpoint, "tcp://[", 7) == 0) aft_int_option_(s->socket, ZMQ_IPV6, 1);
    aft_int_option_(s->ask, ZMQ_LINGER, 0);
    aft_int_option_(s->serve, ZMQ_LINGER, 0);
    zmq_setsockopt(s->socket, ZMQ_MAXMSGSIZE, &most, sizeof most);
    if (aft_keys_set_(s->socket, o->curve, error)) {
        aft_release_(s);
        return NULL;
    }
    if (zmq_bind(s->ask, "inproc://afterimage") || zmq_connect(s->serve, "inproc://afterimage") ||
        zmq_setsockopt(s->socket, ZMQ_SUBSCRIBE, topic, strlen(topic)) || zmq_connect(s->socket, endpoint)) {
        aft_zmq_(error, endpoint);
        aft_release_(s);
        return NULL;
    }
    s->thread = zmq_threadstart(aft_receive_, s);
    if (!s->thread) {
        aft_fail_(error, AFT_EMEMORY, "", "no thread could be started");
        aft_release_(s);
        return NULL;
    }
    return s;
}

static int aft_question_(aft_subscriber *s, aft_ask_ *ask) {
    int code = AFT_OK;
    while (zmq_send(s->ask, ask, sizeof *ask, 0) < 0)
        if (zmq_errno() != EINTR) return aft_zmq_(&s->error, "receiving thread");
    if (ask->op == AFT_ASK_CLOSE_) return AFT_OK;
    while (zmq_recv(s->ask, &code, sizeof code, 0) < 0)
        if (zmq_errno() != EINTR) return aft_zmq_(&s->error, "receiving thread");
    return code;
}

void aft_unsubscribe(aft_subscriber *s) {
    aft_ask_ ask;
    if (!s) return;
    memset(&ask, 0, sizeof ask);
    ask.op = AFT_ASK_CLOSE_;
    aft_question_(s, &ask);
    zmq_threadclose(s->thread);
    aft_release_(s);
}

int aft_next(aft_subscriber *s, aft_frame *frame, int timeout_ms) {
    aft_ask_ ask;
    int code;
    aft_frame_clear(frame);
    memset(&ask, 0, sizeof ask);
    ask.op = AFT_ASK_NEXT_;
    ask.into = frame;
    ask.timeout_ms = timeout_ms;
    code = aft_question_(s, &ask);
    if (code < 0 && code == s->fatal) s->error = s->trouble;
    return code;
}

int aft_get_status(aft_subscriber *s, aft_status *status) {
    aft_ask_ ask;
    memset(&ask, 0, sizeof ask);
    ask.op = AFT_ASK_STATUS_;
    ask.status = status;
    return aft_question_(s, &ask);
}

const aft_error *aft_subscriber_error(const aft_subscriber *s) { return &s->error; }

const void *aft_data(aft_subscriber *s, aft_frame *frame, size_t *bytes) {
    *bytes = 0;
    if (!frame->live_) {
        aft_fail_(&s->error, AFT_EARGUMENT, "", "the frame is empty");
        return NULL;
    }
    if (frame->header.enc != AFT_SHM) {
        *bytes = zmq_msg_size(&frame->part_[0]);
        return zmq_msg_data(&frame->part_[0]);
    }
    frame->ring_ = aft_ring_find_(s->rings, &s->next_ring, &frame->header, &s->error);
    if (!frame->ring_) return NULL;
    if (!aft_intact(frame)) {
        aft_fail_(&s->error, AFT_EOVERWRITTEN, "", "a newer frame has taken its slot");
        return NULL;
    }
    *bytes = (size_t)frame->header.shm.bytes;
    return frame->ring_;
}

int aft_intact(const aft_frame *frame) {
    if (!frame->live_) return 0;
    if (frame->header.enc != AFT_SHM) return 1;
    return frame->ring_ && aft_mark_(frame->ring_ - 64) == frame->header.shm.mark;
}

int aft_copy(aft_subscriber *s, aft_frame *frame, void *into, size_t room) {
    size_t bytes;
    const void *data = aft_data(s, frame, &bytes);
    if (!data) return s->error.code;
    if (bytes > room) return aft_fail_(&s->error, AFT_EARGUMENT, "", "the payload has %lu bytes, there is room for %lu", (unsigned long)bytes, (unsigned long)room);
    memcpy(into, data, bytes);
    if (!aft_intact(frame)) return aft_fail_(&s->error, AFT_EOVERWRITTEN, "", "a newer frame took its slot while it was copied");
    return AFT_OK;
}

/* ------------------------------------------------------------------ MessagePack: writing (requests) */

typedef struct aft_writer_ {
    unsigned char *data;
    size_t size, room;
    int failed;
} aft_writer_;

static void aft_put_(aft_writer_ *w, const void *data, size_t bytes) {
    if (w->failed) return;
    if (w->size + bytes > w->room) {
        size_t room = 2 * (w->size + bytes) + 256;
        unsigned char *grown = (unsigned char *)AFT_REALLOC(w->data, room);
        if (!grown) {
            w->failed = 1;
            return;
        }
        w->data = grown;
        w->room = room;
    }
    memcpy(w->data + w->size, data, bytes);
    w->size += bytes;
}

static void aft_put_big_(aft_writer_ *w, unsigned tag, uint64_t bits, int bytes) {
    unsigned char out[9];
    int i;
    out[0] = (unsigned char)tag;
    for (i = 0; i < bytes; i++) out[1 + i] = (unsigned char)(bits >> 8 * (bytes - 1 - i));
    aft_put_(w, out, (size_t)bytes + 1);
}

static void aft_put_map_(aft_writer_ *w, uint32_t pairs) { aft_put_big_(w, 0xdf, pairs, 4); }
static void aft_put_int_(aft_writer_ *w, int64_t value) { aft_put_big_(w, 0xd3, (uint64_t)value, 8); }

static void aft_put_bool_(aft_writer_ *w, int value) {
    unsigned char tag = value ? 0xc3 : 0xc2;
    aft_put_(w, &tag, 1);
}

static void aft_put_float_(aft_writer_ *w, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    aft_put_big_(w, 0xcb, bits, 8);
}

static void aft_put_text_(aft_writer_ *w, const char *text) {
    size_t bytes = strlen(text);
    if (bytes > 1u << 20) {
        w->failed = 1;
        return;
    }
    aft_put_big_(w, 0xdb, bytes, 4);
    aft_put_(w, text, bytes);
}

/* ------------------------------------------------------------------ control */

#define AFT_KNOWN_ 64

struct aft_control {
    void *context, *socket;
    uint64_t last;
    aft_receipt known[AFT_KNOWN_];
    zmq_msg_t answer;
    aft_writer_ writer;
    aft_error error;
};

static aft_change aft_change_(const char *path, int type, int64_t i, double f, const char *text) {
    aft_change change;
    change.path = path;
    change.type = type;
    change.i = i;
    change.f = f;
    change.text = text;
    return change;
}

aft_change aft_bool(const char *path, int value) { return aft_change_(path, AFT_V_BOOL, value != 0, 0, NULL); }
aft_change aft_int(const char *path, int64_t value) { return aft_change_(path, AFT_V_INT, value, (double)value, NULL); }
aft_change aft_float(const char *path, double value) { return aft_change_(path, AFT_V_FLOAT, 0, value, NULL); }
aft_change aft_text(const char *path, const char *value) { return aft_change_(path, AFT_V_TEXT, 0, 0, value); }

aft_control *aft_control_open(const char *endpoint, const aft_curve *curve, aft_error *error) {
    aft_control *c = (aft_control *)AFT_MALLOC(sizeof *c);
    if (!c) {
        aft_fail_(error, AFT_EMEMORY, "", "out of memory");
        return NULL;
    }
    memset(c, 0, sizeof *c);
    zmq_msg_init(&c->answer);
    c->context = zmq_ctx_new();
    c->socket = c->context ? zmq_socket(c->context, ZMQ_DEALER) : NULL;
    if (!c->socket) {
        aft_zmq_(error, "socket");
        aft_control_close(c);
        return NULL;
    }
    aft_int_option_(c->socket, ZMQ_LINGER, 1000);
    aft_int_option_(c->socket, ZMQ_RECONNECT_IVL, 100);
    aft_int_option_(c->socket, ZMQ_RECONNECT_IVL_MAX, 2000);
    if (endpoint && strncmp(endpoint, "tcp://[", 7) == 0) aft_int_option_(c->socket, ZMQ_IPV6, 1);
    if (aft_keys_set_(c->socket, curve, error)) {
        aft_control_close(c);
        return NULL;
    }
    if (zmq_connect(c->socket, endpoint ? endpoint : "tcp://127.0.0.1:5570")) {
        aft_zmq_(error, endpoint ? endpoint : "tcp://127.0.0.1:5570");
        aft_control_close(c);
        return NULL;
    }
    return c;
}

void aft_control_close(aft_control *c) {
    if (!c) return;
    zmq_msg_close(&c->answer);
    if (c->socket) zmq_close(c->socket);
    if (c->context) zmq_ctx_term(c->context);
    AFT_FREE(c->writer.data);
    AFT_FREE(c);
}

const aft_error *aft_control_error(const aft_control *c) { return &c->error; }

/* Begin a request of `fields` further entries; returns its id. */
static uint64_t aft_begin_(aft_control *c, const char *op, uint32_t fields) {
    c->writer.size = 0;
    c->writer.failed = 0;
    memset(&c->error, 0, sizeof c->error);
    c->last++;
    aft_put_map_(&c->writer, 3 + fields);
    aft_put_text_(&c->writer, "v");
    aft_put_int_(&c->writer, 1);
    aft_put_text_(&c->writer, "id");
    aft_put_int_(&c->writer, (int64_t)c->last);
    aft_put_text_(&c->writer, "op");
    aft_put_text_(&c->writer, op);
    return c->last;
}

static int aft_send_(aft_control *c, int timeout_ms) {
    if (c->writer.failed || c->writer.size > 1u << 20) return aft_fail_(&c->error, AFT_EARGUMENT, "", "the request is longer than 1 MiB");
    aft_int_option_(c->socket, ZMQ_SNDTIMEO, timeout_ms);
    while (zmq_send(c->socket, c->writer.data, c->writer.size, 0) < 0) {
        if (zmq_errno() == EAGAIN) return aft_fail_(&c->error, AFT_TIMEOUT, "", "the request could not be sent in time");
        if (zmq_errno() != EINTR) return aft_zmq_(&c->error, "request");
    }
    return AFT_OK;
}

/* A text as a string that ends; what does not fit is cut off, never inside a character. */
static void aft_text_of_(const aft_value *value, char *into, size_t room) {
    size_t bytes = value->type == AFT_V_TEXT ? value->count : 0;
    if (bytes >= room)
        for (bytes = room - 1; bytes > 0 && ((unsigned char)value->data[bytes] & 0xc0) == 0x80; bytes--) {}
    if (bytes) memcpy(into, value->data, bytes);
    into[bytes] = 0;
}

static int aft_entry_(const aft_reader *map, const char *key, aft_value *value) {
    aft_reader look = *map;
    memset(value, 0, sizeof *value);
    return aft_find(&look, key) ? AFT_EWIRE : aft_read(&look, value);
}

/* What the engine says of a refusal: the message, the first problem, what would help. */
static void aft_refusal_(const aft_reader *map, int code, aft_error *error) {
    aft_reader inner = *map, problems = *map;
    aft_value value;
    char text[200], why[160] = "", fix[160] = "";
    memset(text, 0, sizeof text);
    memset(error, 0, sizeof *error);
    error->code = code;
    if (!aft_find(&inner, "error")) {
        if (!aft_entry_(&inner, "message", &value)) aft_text_of_(&value, text, sizeof text);
        if (!aft_entry_(&inner, "fix", &value)) aft_text_of_(&value, fix, sizeof fix);
    }
    if (!aft_find(&problems, "problems") && !aft_read(&problems, &value) && value.type == AFT_V_MAP && value.count > 0 && !aft_read(&problems, &value)) {
        aft_text_of_(&value, error->key, sizeof error->key);
        if (!aft_read(&problems, &value)) aft_text_of_(&value, why, sizeof why);
        if (strstr(text, why)) why[0] = 0; /* said already */
    }
    snprintf(error->message, sizeof error->message, "%s%s%s%s%s", text[0] ? text : "refused", why[0] ? ": " : "", why, fix[0] ? "; " : "", fix);
}

/* One message, taken into the receipts that it tells of. Its id and kind where it is one of ours, else id 0. */
static int aft_hear_(aft_control *c, int64_t until, uint64_t *id, char kind[16]) {
    zmq_pollitem_t item;
    aft_reader map;
    aft_value value;
    aft_receipt *r;
    int64_t left = until - aft_steady_();
    int more;
    *id = 0;
    kind[0] = 0;
    memset(&item, 0, sizeof item);
    item.socket = c->socket;
    item.events = ZMQ_POLLIN;
    more = zmq_poll(&item, 1, left > 0 ? (long)left : 0);
    if (more < 0) return zmq_errno() == EINTR ? AFT_OK : aft_zmq_(&c->error, "answer");
    if (more == 0) return left > 0 ? AFT_OK : AFT_TIMEOUT;
    if (zmq_msg_recv(&c->answer, c->socket, ZMQ_DONTWAIT) < 0) return AFT_OK;
    if (zmq_msg_more(&c->answer)) { /* no answer of an engine */
        while (zmq_msg_more(&c->answer) && zmq_msg_recv(&c->answer, c->socket, 0) >= 0) {}
        return AFT_OK;
    }
    map = aft_reader_of(zmq_msg_data(&c->answer), zmq_msg_size(&c->answer));
    { /* the whole message is one value, or it is none */
        aft_reader look = map;
        if (aft_skip(&look) || look.at != look.end) return AFT_OK;
    }
    if (aft_entry_(&map, "id", &value) || value.type != AFT_V_INT || value.i < 1) return AFT_OK;
    *id = (uint64_t)value.i;
    if (aft_entry_(&map, "kind", &value) || value.type != AFT_V_TEXT || value.count > 15) {
        *id = 0;
        return AFT_OK;
    }
    aft_text_of_(&value, kind, 16);
    r = &c->known[*id % AFT_KNOWN_];
    if (r->id != *id) return AFT_OK;
    if (!strcmp(kind, "refused") || !strcmp(kind, "failed") || !strcmp(kind, "error")) {
        r->state = r->state >= AFT_ACCEPTED || !strcmp(kind, "failed") ? AFT_FAILED : AFT_REFUSED;
        aft_refusal_(&map, r->state == AFT_FAILED ? AFT_EFAILED : AFT_EREFUSED, &r->error);
        return AFT_OK;
    }
    if (!aft_entry_(&map, "receipt", &value) && value.type == AFT_V_INT && value.i >= 0) r->number = (uint64_t)value.i;
    if (!strcmp(kind, "accepted") && r->state == 0) r->state = AFT_ACCEPTED;
    if (!strcmp(kind, "applied") || !strcmp(kind, "done")) {
        int64_t seq = -1;
        if (!aft_entry_(&map, "seq", &value) && value.type == AFT_V_INT) seq = value.i;
        if (!aft_entry_(&map, "epoch", &value) && value.type == AFT_V_INT && value.i >= 0) r->epoch = (uint64_t)value.i;
        if (!aft_entry_(&map, "params", &value) && value.type == AFT_V_INT && value.i >= 0) r->params = (uint64_t)value.i;
        if (!strcmp(kind, "done")) {
            r->state = AFT_DONE;
            r->last = seq;
        } else {
            if (r->state < AFT_APPLIED) r->state = AFT_APPLIED;
            r->seq = seq;
        }
    }
    return AFT_OK;
}

static int aft_reached_(const aft_receipt *r, int state) {
    if (r->state == AFT_REFUSED || r->state == AFT_FAILED) return 1;
    return r->state >= (state == AFT_DONE && !r->ramp ? AFT_APPLIED : state);
}

int aft_wait(aft_control *c, aft_receipt *receipt, int state, int timeout_ms) {
    aft_receipt *r = &c->known[receipt->id % AFT_KNOWN_];
    int64_t until = aft_steady_() + (timeout_ms < 0 ? INT_MAX : timeout_ms);
    uint64_t id;
    char kind[16];
    memset(&c->error, 0, sizeof c->error);
    if (receipt->id == 0 || r->id != receipt->id) return aft_fail_(&c->error, AFT_EARGUMENT, "", "the receipt is none of this control's last %d", AFT_KNOWN_);
    if (state < AFT_ACCEPTED || state > AFT_DONE) return aft_fail_(&c->error, AFT_EARGUMENT, "", "wait for AFT_ACCEPTED, AFT_APPLIED or AFT_DONE");
    while (!aft_reached_(r, state)) {
        int code = aft_hear_(c, until, &id, kind);
        if (code == AFT_TIMEOUT) return aft_fail_(&c->error, AFT_TIMEOUT, "", "no word of the change within %d ms", timeout_ms);
        if (code) return code;
    }
    *receipt = *r;
    if (r->state == AFT_REFUSED || r->state == AFT_FAILED) {
        c->error = r->error;
        return r->error.code;
    }
    return AFT_OK;
}

static int aft_commit_(aft_control *c, uint64_t id, int ramp, aft_receipt *receipt, int timeout_ms) {
    aft_receipt mine, *r = &c->known[id % AFT_KNOWN_];
    int code;
    memset(r, 0, sizeof *r);
    r->id = id;
    r->ramp = ramp;
    r->seq = r->last = -1;
    mine = *r;
    code = aft_send_(c, timeout_ms);
    if (!code) code = aft_wait(c, &mine, AFT_ACCEPTED, timeout_ms);
    if (receipt) *receipt = mine;
    return code;
}

static int aft_put_changes_(aft_control *c, const aft_change *changes, int count) {
    int i;
    if (!changes || count < 1 || count > 256) return aft_fail_(&c->error, AFT_EARGUMENT, "changes", "1 to 256 changes at once");
    aft_put_text_(&c->writer, "changes");
    aft_put_map_(&c->writer, (uint32_t)count);
    for (i = 0; i < count; i++) {
        const aft_change *change = &changes[i];
        if (!change->path) return aft_fail_(&c->error, AFT_EARGUMENT, "changes", "a change without a path");
        aft_put_text_(&c->writer, change->path);
        if (change->type == AFT_V_BOOL) aft_put_bool_(&c->writer, change->i != 0);
        else if (change->type == AFT_V_INT) aft_put_int_(&c->writer, change->i);
        else if (change->type == AFT_V_FLOAT) aft_put_float_(&c->writer, change->f);
        else if (change->type == AFT_V_TEXT && change->text && aft_utf8_((const unsigned char *)change->text, strlen(change->text)))
            aft_put_text_(&c->writer, change->text);
        else return aft_fail_(&c->error, AFT_EARGUMENT, "changes", "a value is a truth, a whole number, a number or a UTF-8 text");
    }
    return AFT_OK;
}

int aft_set(aft_control *c, const aft_change *changes, int count, aft_receipt *receipt, int timeout_ms) {
    uint64_t id = aft_begin_(c, "set", 1);
    int code = aft_put_changes_(c, changes, count);
    return code ? code : aft_commit_(c, id, 0, receipt, timeout_ms);
}

int aft_ramp(aft_control *c, const aft_change *changes, int count, int64_t frames, double seconds, const char *curve, aft_receipt *receipt,
             int timeout_ms) {
    uint64_t id = aft_begin_(c, "ramp", curve ? 3 : 2);
    int code = aft_put_changes_(c, changes, count);
    if (code) return code;
    if ((frames > 0) == (seconds > 0)) return aft_fail_(&c->error, AFT_EARGUMENT, "frames", "exactly one of frames and seconds above 0");
    aft_put_text_(&c->writer, frames > 0 ? "frames" : "seconds");
    if (frames > 0) aft_put_int_(&c->writer, frames);
    else aft_put_float_(&c->writer, seconds);
    if (curve) {
        aft_put_text_(&c->writer, "curve");
        aft_put_text_(&c->writer, curve);
    }
    return aft_commit_(c, id, 1, receipt, timeout_ms);
}

int aft_reset(aft_control *c, const char *reason, aft_receipt *receipt, int timeout_ms) {
    uint64_t id = aft_begin_(c, "reset", reason ? 1 : 0);
    if (reason) {
        aft_put_text_(&c->writer, "reason");
        aft_put_text_(&c->writer, reason);
    }
    return aft_commit_(c, id, 0, receipt, timeout_ms);
}

int aft_release(aft_control *c, const char *path, aft_receipt *receipt, int timeout_ms) {
    uint64_t id = aft_begin_(c, "release", path ? 1 : 0);
    if (path) {
        aft_put_text_(&c->writer, "paths");
        aft_put_big_(&c->writer, 0xdd, 1, 4); /* a list of one */
        aft_put_text_(&c->writer, path);
    }
    return aft_commit_(c, id, 0, receipt, timeout_ms);
}

int aft_pause(aft_control *c, aft_receipt *receipt, int timeout_ms) {
    return aft_commit_(c, aft_begin_(c, "pause", 0), 0, receipt, timeout_ms);
}

int aft_resume(aft_control *c, aft_receipt *receipt, int timeout_ms) {
    return aft_commit_(c, aft_begin_(c, "resume", 0), 0, receipt, timeout_ms);
}

int aft_stop(aft_control *c, int drain, aft_receipt *receipt, int timeout_ms) {
    uint64_t id = aft_begin_(c, "stop", 1);
    aft_put_text_(&c->writer, "drain");
    aft_put_bool_(&c->writer, drain);
    return aft_commit_(c, id, 0, receipt, timeout_ms);
}

/* Send what has been written and wait for its one answer. */
static int aft_answered_(aft_control *c, uint64_t wanted, aft_reader *answer, int timeout_ms) {
    int64_t until = aft_steady_() + (timeout_ms < 0 ? INT_MAX : timeout_ms);
    uint64_t id;
    char kind[16];
    int code = aft_send_(c, timeout_ms);
    memset(&c->known[wanted % AFT_KNOWN_], 0, sizeof c->known[0]);
    while (!code) {
        code = aft_hear_(c, until, &id, kind);
        if (code || id != wanted) continue;
        *answer = aft_reader_of(zmq_msg_data(&c->answer), zmq_msg_size(&c->answer));
        if (!strcmp(kind, "answer")) return AFT_OK;
        aft_refusal_(answer, AFT_EREFUSED, &c->error);
        return AFT_EREFUSED;
    }
    return code == AFT_TIMEOUT ? aft_fail_(&c->error, AFT_TIMEOUT, "", "no answer within %d ms: does the engine run, with control at this address?", timeout_ms) : code;
}

int aft_ask(aft_control *c, const char *op, aft_reader *answer, int timeout_ms) { return aft_answered_(c, aft_begin_(c, op, 0), answer, timeout_ms); }

int aft_get(aft_control *c, const char *path, aft_got *got, int timeout_ms) {
    uint64_t id = aft_begin_(c, "get", 1);
    aft_reader answer;
    aft_value value;
    unsigned char one = 0x91; /* a list of one */
    int code;
    memset(got, 0, sizeof *got);
    aft_put_text_(&c->writer, "paths");
    aft_put_(&c->writer, &one, 1);
    aft_put_text_(&c->writer, path);
    code = aft_answered_(c, id, &answer, timeout_ms);
    if (code) return code;
    if (aft_find(&answer, "values") || aft_find(&answer, path)) return aft_fail_(&c->error, AFT_EWIRE, "values", "the answer does not hold %s", path);
    got->reader = answer;
    if (aft_read(&answer, &value)) return aft_fail_(&c->error, AFT_EWIRE, "values", "the answer is broken");
    got->type = value.type;
    got->i = value.i;
    got->f = value.f;
    aft_text_of_(&value, got->text, sizeof got->text);
    return AFT_OK;
}

#ifdef __cplusplus
}
#endif
#endif /* AFTERIMAGE_IMPLEMENTATION */
