/* Rows of a tuning file, and how they are read. */
#ifndef COMMBENCH_RULES_H
#define COMMBENCH_RULES_H

#include <stdatomic.h>
#include <stdbool.h>

#include "nccl_tuner.h"

typedef struct {
    int low, high; /* both included */
} Span;

typedef struct {
    uint64_t min_bytes, max_bytes; /* both included */
    Span nodes, ranks, pipe_ops;
    int line;                      /* in the file, from 1 */
    signed char collective, algorithm, protocol;
    signed char registered;        /* -1: either */
    unsigned char channels;        /* 0: NCCL's own choice */
    atomic_bool told;              /* that NCCL does not allow this one here */
} Rule;

typedef struct {
    const char *path;
    Logger logger;   /* may be NULL */
    Rule *rules;     /* those for this communicator, in the order of the file */
    size_t count, room;
    size_t rows, refused;
    uint64_t checksum;
} Rules;

/* Reads `into->path` and keeps the rows for that many ranks and nodes. A row that is not understood is told and
 * refused. ncclInvalidUsage: the file cannot be read; ncclSystemError: no memory. Either way the sentence was logged,
 * and nothing is left to free. */
ncclResult_t read_rules(Rules *into, size_t ranks, size_t nodes);

const char *algorithm_name(int algorithm);
const char *protocol_name(int protocol);

#define SAY(logger, level, ...) \
    do { \
        if (logger) (logger)(level, LOG_TUNING, "commbench", __LINE__, "TUNER/commbench: " __VA_ARGS__); \
    } while (0)

#endif
