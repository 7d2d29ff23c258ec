/* Set parameters of a running graph, all on one frame, and say on which.
 *     cc -O2 set_param.c -o set_param -lzmq && ./set_param tcp://127.0.0.1:5570 paint.steps=4 paint.hold=0.6
 * With --over FRAMES the values are led there. */
#define AFTERIMAGE_IMPLEMENTATION
#include "../afterimage.h"

static aft_change change_of(char *given) { /* whole number, number, true or false, else text */
    char *value = strchr(given, '='), *end;
    long long whole;
    double number;
    *value++ = 0;
    whole = strtoll(value, &end, 10);
    if (*value && !*end) return aft_int(given, whole);
    number = strtod(value, &end);
    if (*value && !*end) return aft_float(given, number);
    if (!strcmp(value, "true") || !strcmp(value, "false")) return aft_bool(given, value[0] == 't');
    return aft_text(given, value);
}

int main(int argc, char **argv) {
    aft_change changes[64];
    aft_receipt receipt;
    aft_error error;
    aft_control *control;
    long over = 0;
    int count = 0, code, i;
    for (i = 2; i < argc && count < 64; i++) {
        if (!strcmp(argv[i], "--over") && i + 1 < argc) over = atol(argv[++i]);
        else if (strchr(argv[i], '=')) changes[count++] = change_of(argv[i]);
    }
    if (count == 0) {
        fprintf(stderr, "usage: %s ENDPOINT [--over FRAMES] NODE.PARAM=VALUE...\n", argv[0]);
        return 2;
    }
    control = aft_control_open(argv[1], NULL, &error);
    if (!control) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    if (over > 0) code = aft_ramp(control, changes, count, over, 0, NULL, &receipt, 5000);
    else code = aft_set(control, changes, count, &receipt, 5000);
    if (code == AFT_OK) code = aft_wait(control, &receipt, AFT_APPLIED, 10000);
    if (code == AFT_OK) {
        printf("from frame %lld on (epoch %llu, parameters %llu)\n", (long long)receipt.seq, (unsigned long long)receipt.epoch, (unsigned long long)receipt.params);
        if (over > 0) {
            code = aft_wait(control, &receipt, AFT_DONE, 60000);
            if (code == AFT_OK) printf("there at frame %lld\n", (long long)receipt.last);
        }
    }
    if (code != AFT_OK) fprintf(stderr, "%s\n", aft_control_error(control)->message);
    aft_control_close(control);
    return code == AFT_OK ? 0 : 1;
}
