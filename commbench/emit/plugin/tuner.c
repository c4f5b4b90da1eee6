/* A tuner plugin for NCCL that does what its file says and nothing else.
 *
 * NCCL asks before every collective, with the costs that it predicts. The first row of the file that fits and that NCCL
 * allows gets cost 0 and so is taken; where there is none, nothing is touched. Everything known when a communicator is
 * made (ranks, nodes) is decided then; what is left is a binary search among the sizes at which the first fitting row
 * changes. A context is read only from then on, so any number of threads may ask, and nothing is shared between
 * communicators.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "rules.h"

#define NONE UINT32_MAX

typedef struct {
    Rule *rules;     /* of this collective, in the order of the file */
    size_t count;
    uint64_t *edges; /* ascending, from 0 on: between two of them the first row that covers a size is the same */
    uint32_t *first; /* that row, or NONE */
    size_t edge_count;
} Index;

typedef struct {
    Rule *rules;
    Index of[COLLECTIVES];
    Logger logger;
    char path[512];
} Context;

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Of the edges at or below `nbytes` the last. There is one: 0. */
static size_t place(const uint64_t *edges, size_t count, uint64_t nbytes)
{
    size_t low = 0;
    while (count > 1) {
        size_t half = count / 2;
        low += edges[low + half] <= nbytes ? half : 0;
        count -= half;
    }
    return low;
}

/* The next piece at or behind k that has no row yet; paths are halved on the way. */
static size_t open_piece(uint32_t *next, size_t k)
{
    while (next[k] != k) {
        next[k] = next[next[k]];
        k = next[k];
    }
    return k;
}

/* Rows take, in their order, the pieces that no earlier row took: O(n log n). False: no memory. */
static bool index_rules(Index *index)
{
    size_t most = 2 * index->count + 1, edges = 0;
    index->edges = malloc(most * sizeof *index->edges);
    index->first = malloc(most * sizeof *index->first);
    uint32_t *next = malloc((most + 1) * sizeof *next);
    if (index->edges && index->first && next) {
        index->edges[edges++] = 0;
        for (size_t r = 0; r < index->count; r++) {
            index->edges[edges++] = index->rules[r].min_bytes;
            if (index->rules[r].max_bytes < UINT64_MAX) index->edges[edges++] = index->rules[r].max_bytes + 1;
        }
        qsort(index->edges, edges, sizeof *index->edges, ascending);
        size_t kept = 1;
        for (size_t k = 1; k < edges; k++)
            if (index->edges[k] != index->edges[kept - 1]) index->edges[kept++] = index->edges[k];
        index->edge_count = edges = kept;
        for (size_t k = 0; k <= edges; k++) next[k] = (uint32_t)k;
        for (size_t k = 0; k < edges; k++) index->first[k] = NONE;
        for (size_t r = 0; r < index->count; r++) {
            size_t last = place(index->edges, edges, index->rules[r].max_bytes);
            size_t k = open_piece(next, place(index->edges, edges, index->rules[r].min_bytes));
            for (; k <= last; k = open_piece(next, k)) {
                index->first[k] = (uint32_t)r;
                next[k] = (uint32_t)k + 1;
            }
        }
    }
    free(next);
    return index->edge_count > 0;
}

static ncclResult_t finish(void *context)
{
    Context *c = context;
    if (!c) return ncclSuccess;
    for (int k = 0; k < COLLECTIVES; k++) {
        free(c->of[k].edges);
        free(c->of[k].first);
    }
    free(c->rules);
    free(c);
    return ncclSuccess;
}

/* Sorts the rows by collective, else in the order of the file, and indexes each part. False: no memory. */
static bool arrange(Context *c, const Rules *found)
{
    size_t at = 0;
    if (!found->count) return true;
    if (!(c->rules = malloc(found->count * sizeof *c->rules))) return false;
    for (int k = 0; k < COLLECTIVES; k++) {
        Index *index = &c->of[k];
        index->rules = c->rules + at;
        for (size_t r = 0; r < found->count; r++)
            if (found->rules[r].collective == k) c->rules[at + index->count++] = found->rules[r];
        at += index->count;
        if (index->count && !index_rules(index)) return false;
    }
    return true;
}

static ncclResult_t start(void **context, size_t ranks, size_t nodes, Logger logger)
{
    *context = NULL;
    Context *c = calloc(1, sizeof *c);
    if (!c) return ncclSystemError;
    c->logger = logger;
    const char *path = getenv("NCCL_TUNER_CONFIG_FILE");
    if (!path || !*path) {
        SAY(logger, LOG_WARN, "NCCL_TUNER_CONFIG_FILE is not set: every choice stays NCCL's own");
        *context = c;
        return ncclSuccess;
    }
    strncpy(c->path, path, sizeof c->path - 1);
    Rules found = {.path = path, .logger = logger};
    /* An error here ends the job with a sentence. To go on would leave this rank with other choices than ranks that
     * could read the file, and ranks that choose differently wait for each other for ever. */
    ncclResult_t result = read_rules(&found, ranks, nodes);
    if (result == ncclSuccess && !arrange(c, &found)) {
        SAY(logger, LOG_WARN, "%.500s: no memory for its rows", path);
        result = ncclSystemError;
    }
    free(found.rules);
    if (result != ncclSuccess) {
        finish(c);
        return result;
    }
    SAY(logger, found.refused ? LOG_WARN : LOG_INFO,
        "%.500s (FNV-1a %016llx): %zu rows, %zu refused, %zu for %zu ranks on %zu nodes", path,
        (unsigned long long)found.checksum, found.rows, found.refused, found.count, ranks, nodes);
    *context = c;
    return ncclSuccess;
}

static ncclResult_t start_v4(size_t ranks, size_t nodes, Logger logger, void **context)
{
    return start(context, ranks, nodes, logger);
}

static ncclResult_t start_v5(void **context, uint64_t communicator, size_t ranks, size_t nodes, Logger logger,
                             struct NvlDomains *domains, struct Constants *constants)
{
    (void)communicator, (void)domains, (void)constants;
    return start(context, ranks, nodes, logger);
}

static bool fits(const Rule *rule, size_t nbytes, int pipe_ops, int registered)
{
    return nbytes >= rule->min_bytes && nbytes <= rule->max_bytes && pipe_ops >= rule->pipe_ops.low &&
           pipe_ops <= rule->pipe_ops.high && (rule->registered < 0 || rule->registered == registered);
}

/* Once a row and communicator: a setting that does nothing must not do so in silence. */
static void not_allowed(const Context *c, Rule *rule)
{
    if (atomic_load_explicit(&rule->told, memory_order_relaxed) || atomic_exchange(&rule->told, true)) return;
    SAY(c->logger, LOG_INFO, "%s:%d: NCCL does not allow %s/%s here; the row is passed over", c->path, rule->line,
        algorithm_name(rule->algorithm), protocol_name(rule->protocol));
}

static ncclResult_t choose(void *context, int collective, size_t nbytes, int pipe_ops, float **costs, int algorithms,
                           int protocols, int registered, int *channels)
{
    Context *c = context;
    if (!c || !costs || collective < 0 || collective >= COLLECTIVES) return ncclSuccess;
    const Index *index = &c->of[collective];
    if (!index->count) return ncclSuccess;
    uint32_t first = index->first[place(index->edges, index->edge_count, nbytes)];
    if (first == NONE) return ncclSuccess;
    float *table = (float *)costs;
    for (size_t r = first; r < index->count; r++) {
        Rule *rule = &index->rules[r];
        if (!fits(rule, nbytes, pipe_ops, registered)) continue;
        bool there = rule->algorithm < algorithms && rule->protocol < protocols;
        float *cost = there ? table + rule->algorithm * protocols + rule->protocol : NULL;
        if (!cost || !(*cost >= 0)) {
            not_allowed(c, rule);
            continue;
        }
        *cost = 0;
        if (rule->channels && channels) *channels = rule->channels;
        break;
    }
    return ncclSuccess;
}

#define EXPORTED __attribute__((visibility("default")))
EXPORTED extern const TunerV4 ncclTunerPlugin_v4;
EXPORTED extern const TunerV5 ncclTunerPlugin_v5;
EXPORTED extern const TunerV6 ncclTunerPlugin_v6;

const TunerV4 ncclTunerPlugin_v4 = {"commbench", start_v4, choose, finish};
const TunerV5 ncclTunerPlugin_v5 = {"commbench", start_v5, choose, finish};
const TunerV6 ncclTunerPlugin_v6 = {"commbench", start_v5, choose, finish, NULL};
