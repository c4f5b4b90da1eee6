/* What a tuner plugin and NCCL say to each other, for the tables v4, v5 and v6.
 *
 * Written from the facts of NCCL's interface: order and types of the members, and the values of the names. The
 * constants that init of v5 and v6 may overwrite are only declared: this plugin neither reads nor writes them.
 */
#ifndef COMMBENCH_NCCL_TUNER_H
#define COMMBENCH_NCCL_TUNER_H

#include <stddef.h>
#include <stdint.h>

typedef enum { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidUsage = 5 } ncclResult_t;

typedef enum { LOG_WARN = 2, LOG_INFO = 3 } LogLevel;
enum { LOG_TUNING = 64 }; /* the subsystem, a bit */
typedef void (*Logger)(LogLevel level, unsigned long subsystems, const char *file, int line, const char *format, ...);

enum { COLLECTIVES = 5 };                       /* broadcast reduce allgather reducescatter allreduce: 0 to 4 */
enum { ALGORITHMS = 7 };                        /* tree ring collnet_direct collnet_chain nvls nvls_tree pat */
enum { PROTOCOLS = 3 };                         /* ll ll128 simple */
enum { MOST_CHANNELS = 64 };                    /* NCCL's MAXCHANNELS */

struct NvlDomains;
struct Constants;

/* `costs` is typed float** and is a flat array [algorithms][protocols] of microseconds. An entry of -1 is one that NCCL
 * cannot or must not run; the smallest of the others is taken. *channels is 0 when NCCL calls: 0 means its own choice.
 * NCCL hands an error of any of these functions to the caller of the collective. */
typedef ncclResult_t (*Choose)(void *context, int collective, size_t nbytes, int pipe_ops, float **costs,
                               int algorithms, int protocols, int registered, int *channels);
typedef ncclResult_t (*Start)(void **context, uint64_t communicator, size_t ranks, size_t nodes, Logger logger,
                              struct NvlDomains *domains, struct Constants *constants);

typedef struct {
    const char *name;
    ncclResult_t (*init)(size_t ranks, size_t nodes, Logger logger, void **context);
    Choose getCollInfo;
    ncclResult_t (*destroy)(void *context);
} TunerV4; /* NCCL 2.24 to 2.27 */

typedef struct {
    const char *name;
    Start init;
    Choose getCollInfo;
    ncclResult_t (*finalize)(void *context);
} TunerV5; /* 2.28 and 2.29 */

typedef struct {
    const char *name;
    Start init;
    Choose getCollInfo;
    ncclResult_t (*finalize)(void *context);
    /* NULL: NCCL keeps the chunk size that it computed */
    ncclResult_t (*getChunkSize)(void *context, int collective, size_t nbytes, int algorithm, int protocol,
                                 int channels, size_t *chunk);
} TunerV6; /* 2.30 and later */

#endif
