/* Drives a tuner plugin as NCCL does, through its tables v4, v5 and v6, for benchmarks/plugin.py:
 *
 *   fuzz PLUGIN          frames on standard input, a line of answers for each
 *   time PLUGIN FILE     nanoseconds of a decision
 *   threads PLUGIN FILE  four threads on communicators that they share and that they make (for -fsanitize=thread)
 *
 * It declares the tables itself, from NCCL's interface, and not from the plugin's header: a mistake there is seen here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ALGOS = 7, PROTOS = 3, CONSTANTS = 21 + 63 + 5 * 12, LARGEST = 8 << 20, PROBES = 64 };

typedef void (*logger_t)(int level, unsigned long flags, const char *file, int line, const char *format, ...);
typedef int (*choose_t)(void *, int, size_t, int, float **, int, int, int, int *);
typedef struct {
    const char *name;
    int (*init)(size_t, size_t, logger_t, void **);
    choose_t choose;
    int (*end)(void *);
} v4_t;
typedef struct {
    const char *name;
    int (*init)(void **, uint64_t, size_t, size_t, logger_t, int *, double *);
    choose_t choose;
    int (*end)(void *);
    int (*chunk)(void *, int, size_t, int, int, int, size_t *); /* v6 alone */
} v6_t;

typedef struct {
    float before[8], costs[ALGOS][PROTOS], behind[8];
} guarded_t;

typedef struct {
    int32_t collective, pipe_ops, registered;
    uint32_t ignored; /* a bit for each entry that NCCL does not allow */
    uint64_t nbytes;
} probe_t;

static const v4_t *v4;
static const v6_t *v5, *v6;
static int warnings; /* rows refused, as told */

static void die(const char *why)
{
    fprintf(stderr, "plugin_driver: %s\n", why);
    exit(99);
}

static void hear(int level, unsigned long flags, const char *file, int line, const char *format, ...)
{
    char text[1024]; /* NCCL's own buffer has this size */
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (level < 2 || level > 3 || flags != 64 || !file || line <= 0) die("a message that NCCL does not know");
    if (length < 0 || length >= (int)sizeof text) die("a message that NCCL cuts");
    for (int k = 0; k < length; k++)
        if (text[k] < ' ' || text[k] > '~') die("a message that a terminal should not see");
    if (strstr(text, "row refused")) warnings++;
}

static void silent(int level, unsigned long flags, const char *file, int line, const char *format, ...)
{
    (void)level, (void)flags, (void)file, (void)line, (void)format;
}

static void load(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) die(dlerror());
    v4 = dlsym(lib, "ncclTunerPlugin_v4");
    v5 = dlsym(lib, "ncclTunerPlugin_v5");
    v6 = dlsym(lib, "ncclTunerPlugin_v6");
    if (!v4 || !v5 || !v6) die("a table is missing");
    if (v6->chunk) die("getChunkSize is there and nothing was said of chunks");
}

static double *constants(void)
{
    double *made = malloc(CONSTANTS * sizeof *made);
    for (int k = 0; k < CONSTANTS; k++) made[k] = k + 0.5;
    return made;
}

static int begin(int version, void **context, size_t ranks, size_t nodes, logger_t logger)
{
    if (version == 4) return v4->init(ranks, nodes, logger, context);
    int domains[3] = {1, (int)ranks, (int)ranks};
    double *given = constants(), *kept = constants();
    int result = (version == 5 ? v5 : v6)->init(context, 42, ranks, nodes, logger, domains, given);
    if (memcmp(given, kept, CONSTANTS * sizeof *given)) die("a constant was overwritten");
    free(given);
    free(kept);
    return result;
}

static choose_t choose_of(int version) { return version == 4 ? v4->choose : version == 5 ? v5->choose : v6->choose; }
static int end_of(int version, void *context)
{
    return version == 4 ? v4->end(context) : (version == 5 ? v5 : v6)->end(context);
}

static guarded_t costs_of(uint32_t ignored)
{
    guarded_t made;
    for (int k = 0; k < 8; k++) made.before[k] = made.behind[k] = 1234.5f;
    for (int k = 0; k < ALGOS * PROTOS; k++) (&made.costs[0][0])[k] = ignored >> k & 1 ? -1.0f : 10.0f + (float)k;
    return made;
}

/* algorithm * 3 + protocol, and channels; -1 where nothing was changed. */
static void answer(int version, void *context, const probe_t *probe, int *entry, int *channels)
{
    guarded_t given = costs_of(probe->ignored), kept = given;
    *channels = 0;
    *entry = -1;
    int result = choose_of(version)(context, probe->collective, probe->nbytes, probe->pipe_ops,
                                    (float **)given.costs, ALGOS, PROTOS, probe->registered, channels);
    if (result) die("a decision that is an error");
    for (int k = 0; k < ALGOS * PROTOS; k++) {
        float *now = &given.costs[0][0] + k, *then = &kept.costs[0][0] + k;
        if (*now == *then) continue;
        if (*then < 0) die("an entry that NCCL ignores was enabled");
        if (*now != 0 || *entry >= 0) die("more than one entry, or another cost than 0");
        *entry = k;
        *then = 0;
    }
    if (memcmp(&given, &kept, sizeof given)) die("written beside the table");
    if (*channels < 0 || *channels > 64 || (*entry < 0 && *channels)) die("channels that nobody asked for");
}

static int fuzz(void)
{
    struct { uint32_t length, ranks, nodes, probes; } head;
    static char bytes[LARGEST];
    static probe_t probe[PROBES];
    char path[64];
    int file = memfd_create("tuning", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    setenv("NCCL_TUNER_CONFIG_FILE", path, 1);
    while (fread(&head, sizeof head, 1, stdin) == 1) {
        if (head.length > LARGEST || head.probes > PROBES) die("a frame that is none");
        if (fread(bytes, 1, head.length, stdin) != head.length) die("half a frame");
        if (fread(probe, sizeof *probe, head.probes, stdin) != head.probes) die("half a frame");
        if (ftruncate(file, 0) || pwrite(file, bytes, head.length, 0) != (ssize_t)head.length) die("no memory file");
        int first[PROBES][2], result = 0, told = 0;
        for (int version = 4; version <= 6; version++) {
            void *context = (void *)1;
            warnings = 0;
            int now = begin(version, &context, head.ranks, head.nodes, version == 6 ? NULL : hear);
            if (version == 4) result = now, told = warnings;
            if (now != result || (version == 5 && told != warnings)) die("the versions differ");
            if (now) {
                if (context) die("a context after an error");
                continue;
            }
            for (uint32_t k = 0; k < head.probes; k++) {
                int entry, channels;
                answer(version, context, &probe[k], &entry, &channels);
                if (version == 4) first[k][0] = entry, first[k][1] = channels;
                else if (entry != first[k][0] || channels != first[k][1]) die("the versions differ");
            }
            if (end_of(version, context)) die("an end that is an error");
        }
        printf("%d %d", result, told);
        for (uint32_t k = 0; k < head.probes && !result; k++) printf(" %d:%d", first[k][0], first[k][1]);
        printf("\n");
        fflush(stdout); /* the line that is missing names the file that broke it */
    }
    return 0;
}

/* The processor's time of this thread: what other programs take from it is not the decision's. */
static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All-reduces of 8 B to 8 GiB. Only tree and ring/simple are allowed, as on many machines. What it takes to write
 * NCCL's table anew before every decision is part of the figure. */
static int clock_decisions(void)
{
    enum { SIZES = 4096, BATCHES = 400 };
    static size_t sizes[SIZES];
    static double taken[BATCHES];
    uint64_t state = 88172645463325252u;
    for (int k = 0; k < SIZES; k++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        sizes[k] = (size_t)(8 + (state >> 8) % (1ull << (4 + state % 30)));
    }
    const guarded_t kept = costs_of(0x1fffffu & ~0x27u); /* tree/ll, tree/ll128, tree/simple, ring/simple */
    for (int version = 4; version <= 6; version++) {
        void *context;
        double began = now_ns();
        if (begin(version, &context, 16, 2, silent)) die("the file cannot be read");
        double init = now_ns() - began;
        choose_t choose = choose_of(version);
        for (int batch = -20; batch < BATCHES; batch++) {
            began = now_ns();
            for (int k = 0; k < SIZES; k++) {
                guarded_t given = kept;
                int channels = 0;
                choose(context, 4, sizes[k], 1, (float **)given.costs, ALGOS, PROTOS, 0, &channels);
                __asm__ volatile("" : : "r"(&given), "r"(channels) : "memory");
            }
            if (batch >= 0) taken[batch] = (now_ns() - began) / SIZES;
        }
        qsort(taken, BATCHES, sizeof *taken, ascending);
        printf("%d %.1f %.1f %.3f\n", version, taken[BATCHES / 2], taken[BATCHES * 9 / 10], init / 1e6);
        end_of(version, context);
    }
    return 0;
}

static void *ask(void *shared)
{
    for (int round = 0; round < 200; round++) {
        void *own;
        if (begin(4 + round % 3, &own, 16, 2, silent)) die("the file cannot be read");
        for (int k = 0; k < 64; k++) {
            probe_t probe = {k % 5, 1, k & 1, k % 3 ? 0 : 0x1fffff, (uint64_t)1 << (k % 40)};
            int entry[2], channels[2];
            answer(6, shared, &probe, &entry[0], &channels[0]);
            answer(4 + round % 3, own, &probe, &entry[1], &channels[1]);
            if (entry[0] != entry[1] || channels[0] != channels[1]) die("threads differ");
        }
        end_of(4 + round % 3, own);
    }
    return NULL;
}

static int threads(void)
{
    pthread_t thread[4];
    void *shared;
    if (begin(6, &shared, 16, 2, silent)) die("the file cannot be read");
    for (int k = 0; k < 4; k++) pthread_create(&thread[k], NULL, ask, shared);
    for (int k = 0; k < 4; k++) pthread_join(thread[k], NULL);
    return end_of(6, shared);
}

int main(int count, char **arguments)
{
    if (count < 3) die("fuzz|time|threads PLUGIN [FILE]");
    load(arguments[2]);
    if (!strcmp(arguments[1], "fuzz")) return fuzz();
    if (count < 4) die("FILE is missing");
    setenv("NCCL_TUNER_CONFIG_FILE", arguments[3], 1);
    return strcmp(arguments[1], "time") ? threads() : clock_decisions();
}
