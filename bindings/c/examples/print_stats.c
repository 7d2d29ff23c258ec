/* What a stream delivers, once a second: frames, gaps, age and latency.
 *     cc -O2 print_stats.c -o print_stats -lzmq && ./print_stats tcp://127.0.0.1:5555 live */
#define AFTERIMAGE_IMPLEMENTATION
#include "../afterimage.h"

#include <signal.h>

static volatile sig_atomic_t stopped;
static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

int main(int argc, char **argv) {
    aft_options options = {0};
    aft_frame frame = AFT_FRAME_INIT;
    aft_status status;
    aft_error error;
    aft_subscriber *frames;
    double age = 0, latency = 0;
    int64_t since = aft_now();
    long count = 0;
    int code;
    if (argc < 2) {
        fprintf(stderr, "usage: %s ENDPOINT [STREAM]\n", argv[0]);
        return 2;
    }
    options.stream = argc > 2 ? argv[2] : NULL;
    options.follow = 1;
    frames = aft_subscribe(argv[1], &options, &error);
    if (!frames) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    signal(SIGINT, stop);
    while (!stopped) {
        code = aft_next(frames, &frame, 250); /* comes back often enough to see the signal */
        if (code < 0) {
            fprintf(stderr, "%s\n", aft_subscriber_error(frames)->message);
            break;
        }
        if (code == AFT_OK) {
            count++;
            age += aft_age_ms(&frame);
            latency += aft_latency_ms(&frame);
            if (frame.restarted) printf("the publisher was restarted: run %s\n", frame.header.run);
        }
        if (aft_now() - since < 1000000000) continue;
        aft_get_status(frames, &status);
        printf("%-9s %3ld fps  age %6.1f ms  latency %6.1f ms  seq %llu  lost %llu  dropped %llu  passed over %llu  malformed %llu\n",
               !status.alive ? "silent" : status.state ? aft_state_name(status.state) : "alive", count, count ? age / (double)count : 0, count ? latency / (double)count : 0,
               (unsigned long long)frame.header.seq, (unsigned long long)status.lost, (unsigned long long)status.dropped, (unsigned long long)status.skipped,
               (unsigned long long)status.malformed);
        fflush(stdout);
        since = aft_now();
        count = 0;
        age = latency = 0;
    }
    aft_frame_clear(&frame);
    aft_unsubscribe(frames);
    return stopped ? 0 : 1;
}
