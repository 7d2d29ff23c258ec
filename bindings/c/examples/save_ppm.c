/* Save frames as PPM pictures: the next one, or as many as asked for.
 *     cc -O2 save_ppm.c -o save_ppm -lzmq && ./save_ppm tcp://127.0.0.1:5555 live frame 10
 * For pictures that are published raw or in shared memory, 8 bits (encoding = "raw" or "shm"). */
#define AFTERIMAGE_IMPLEMENTATION
#include "../afterimage.h"

static int save(const char *path, const aft_header *h, const unsigned char *data) {
    int chw = h->layout == AFT_CHW;
    size_t height = h->shape[h->rank - (chw ? 2 : 3)], width = h->shape[h->rank - (chw ? 1 : 2)], plane = height * width, at;
    int channel, good = 1;
    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    fprintf(file, "P6\n%lu %lu\n255\n", (unsigned long)width, (unsigned long)height);
    for (at = 0; at < plane && good; at++)
        for (channel = 0; channel < 3; channel++) {
            size_t c = (size_t)(h->order == AFT_BGR ? 2 - channel : channel);
            good = good && fputc(data[chw ? c * plane + at : 3 * at + c], file) != EOF;
        }
    return fclose(file) == 0 && good;
}

int main(int argc, char **argv) {
    aft_options options = {0};
    aft_frame frame = AFT_FRAME_INIT;
    aft_error error;
    aft_subscriber *frames;
    unsigned char *data = NULL;
    size_t room = 0;
    int code, count = 0, most;
    if (argc < 4) {
        fprintf(stderr, "usage: %s ENDPOINT STREAM NAME [COUNT]\n", argv[0]);
        return 2;
    }
    most = argc > 4 ? atoi(argv[4]) : 1;
    options.stream = argv[2];
    frames = aft_subscribe(argv[1], &options, &error);
    if (!frames) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    while (count < most && (code = aft_next(frames, &frame, 10000)) == AFT_OK) {
        char path[512];
        if (frame.header.type != AFT_IMAGE || (frame.header.enc != AFT_RAW && frame.header.enc != AFT_SHM) || frame.header.dtype != AFT_UINT8) {
            fprintf(stderr, "%s %s as %s: this example takes pictures of 8 bits, raw or in shared memory\n", aft_type_name(frame.header.type), aft_dtype_name(frame.header.dtype),
                    aft_enc_name(frame.header.enc));
            break;
        }
        if (frame.header.bytes > room) { /* once, unless pictures grow */
            free(data);
            room = (size_t)frame.header.bytes;
            data = (unsigned char *)malloc(room);
            if (!data) break;
        }
        code = aft_copy(frames, &frame, data, room);
        if (code == AFT_EOVERWRITTEN) continue; /* we were too slow: the next one */
        if (code != AFT_OK) {
            fprintf(stderr, "%s\n", aft_subscriber_error(frames)->message);
            break;
        }
        snprintf(path, sizeof path, "%s_%06llu.ppm", argv[3], (unsigned long long)frame.header.seq);
        if (!save(path, &frame.header, data)) {
            fprintf(stderr, "%s cannot be written\n", path);
            break;
        }
        printf("%s\n", path);
        count++;
    }
    if (count < most) fprintf(stderr, "%d of %d frames\n", count, most);
    free(data);
    aft_frame_clear(&frame);
    aft_unsubscribe(frames);
    return count == most ? 0 : 1;
}
