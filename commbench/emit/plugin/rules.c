/* The strict reader of tuning files:
 *
 *   collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks[,numPipeOps[,regBuff]]
 *
 * The file is whatever lies at a path: every byte is looked at by its length, nothing is taken for a string, and of
 * what is logged only printable characters are left.
 */
#include "rules.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 4 << 20, MOST_TOLD = 8, SHOWN = 40 };
enum { FEWEST_FIELDS = 8, MOST_FIELDS = 10 };

/* The place of a name is NCCL's number for it. */
static const char *const COLLECTIVE_NAMES[] = {"broadcast", "reduce", "allgather", "reducescatter", "allreduce", NULL};
static const char *const ALGORITHM_NAMES[] = {"tree", "ring", "collnet_direct", "collnet_chain",
                                              "nvls", "nvls_tree", "pat", NULL};
static const char *const PROTOCOL_NAMES[] = {"ll", "ll128", "simple", NULL};

const char *algorithm_name(int algorithm) { return ALGORITHM_NAMES[algorithm]; }
const char *protocol_name(int protocol) { return PROTOCOL_NAMES[protocol]; }

typedef struct {
    const char *at;
    size_t length;
} Text;

typedef struct {
    char is[SHOWN + 4];
} Shown;

/* A piece of the file that a terminal may see. */
static Shown shown(Text text)
{
    Shown out;
    size_t length = text.length > SHOWN ? SHOWN : text.length;
    for (size_t k = 0; k < length; k++) out.is[k] = text.at[k] >= ' ' && text.at[k] <= '~' ? text.at[k] : '?';
    strcpy(out.is + length, text.length > SHOWN ? "..." : "");
    return out;
}

static Text trimmed(const char *from, const char *to)
{
    while (from < to && (*from == ' ' || *from == '\t')) from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t')) to--;
    return (Text){from, (size_t)(to - from)};
}

/* Its place among the names; -1 where it is none of them. */
static int named(Text text, const char *const *names)
{
    for (int k = 0; names[k]; k++)
        if (strlen(names[k]) == text.length && !memcmp(names[k], text.at, text.length)) return k;
    return -1;
}

/* Digits alone, up to `most`. */
static bool whole(Text text, uint64_t most, uint64_t *out)
{
    uint64_t value = 0;
    for (size_t k = 0; k < text.length; k++) {
        if (text.at[k] < '0' || text.at[k] > '9') return false;
        uint64_t digit = (uint64_t)(text.at[k] - '0');
        if (digit > most || value > (most - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *out = value;
    return text.length > 0;
}

static bool is_any(Text text) { return text.length == 2 && !memcmp(text.at, "-1", 2); }

/* `-1` (any), `8`, or `2-8`. */
static bool span(Text text, Span *out)
{
    *out = (Span){0, INT_MAX};
    if (is_any(text)) return true;
    const char *dash = text.length ? memchr(text.at, '-', text.length) : NULL;
    Text first = {text.at, dash ? (size_t)(dash - text.at) : text.length}, last = first;
    if (dash) last = (Text){dash + 1, text.length - first.length - 1};
    uint64_t low, high;
    if (!whole(first, INT_MAX, &low) || !whole(last, INT_MAX, &high) || low > high) return false;
    *out = (Span){(int)low, (int)high};
    return true;
}

/* Why the fields are no row, with the place of the one that is wrong; NULL where they are. */
static const char *parse(const Text *field, size_t fields, Rule *rule, size_t *at)
{
    uint64_t channels = 0, registered = 0;
    int collective = named(field[*at = 0], COLLECTIVE_NAMES);
    if (collective < 0) return "unknown collective; known: broadcast reduce allgather reducescatter allreduce";
    if (!whole(field[*at = 1], UINT64_MAX, &rule->min_bytes)) return "min_bytes must be a whole number";
    if (!whole(field[*at = 2], UINT64_MAX, &rule->max_bytes)) return "max_bytes must be a whole number";
    if (rule->max_bytes < rule->min_bytes) return "max_bytes is below min_bytes";
    int algorithm = named(field[*at = 3], ALGORITHM_NAMES);
    if (algorithm < 0) return "unknown algorithm; known: tree ring collnet_direct collnet_chain nvls nvls_tree pat";
    int protocol = named(field[*at = 4], PROTOCOL_NAMES);
    if (protocol < 0) return "unknown protocol; known: ll ll128 simple";
    if (!is_any(field[*at = 5]) && !whole(field[5], MOST_CHANNELS, &channels))
        return "channels must be 1 to 64, or 0 or -1 for NCCL's own choice";
    if (!span(field[*at = 6], &rule->nodes)) return "nNodes must be a number, a range such as 2-8, or -1";
    if (!span(field[*at = 7], &rule->ranks)) return "nRanks must be a number, a range such as 2-8, or -1";
    rule->pipe_ops = (Span){0, INT_MAX};
    if (fields > 8 && !span(field[*at = 8], &rule->pipe_ops))
        return "numPipeOps must be a number, a range such as 2-8, or -1";
    bool either = fields <= 9 || is_any(field[*at = 9]);
    if (!either && !whole(field[9], 1, &registered)) return "regBuff must be 0, 1 or -1";
    rule->collective = (signed char)collective;
    rule->algorithm = (signed char)algorithm;
    rule->protocol = (signed char)protocol;
    rule->channels = (unsigned char)channels;
    rule->registered = either ? -1 : (signed char)registered;
    return NULL;
}

static bool within(Span span, size_t value) { return value >= (size_t)span.low && value <= (size_t)span.high; }

static bool keep(Rules *into, const Rule *rule)
{
    if (into->count == into->room) {
        size_t room = into->room ? 2 * into->room : 16;
        Rule *more = realloc(into->rules, room * sizeof *more);
        if (!more) return false;
        into->rules = more;
        into->room = room;
    }
    into->rules[into->count++] = *rule;
    return true;
}

/* Fields without the blanks around them; the number of them, of which the first MOST_FIELDS are kept. */
static size_t split(Text line, Text *field)
{
    const char *from = line.at, *end = line.at + line.length;
    for (size_t count = 0;; count++) {
        const char *comma = memchr(from, ',', (size_t)(end - from));
        if (count < MOST_FIELDS) field[count] = trimmed(from, comma ? comma : end);
        if (!comma) return count + 1;
        from = comma + 1;
    }
}

/* One line of the file. False: no memory. */
static bool row(Rules *into, Text line, int number, size_t ranks, size_t nodes)
{
    if (!line.length || *line.at == '#') return true;
    into->rows++;
    Text field[MOST_FIELDS];
    size_t fields = split(line, field), at = 0;
    Rule rule = {.line = number};
    bool few_or_many = fields < FEWEST_FIELDS || fields > MOST_FIELDS;
    const char *why = few_or_many ? "a row has 8 to 10 fields" : parse(field, fields, &rule, &at);
    if (!why) return !within(rule.nodes, nodes) || !within(rule.ranks, ranks) || keep(into, &rule);
    if (into->refused++ < MOST_TOLD)
        SAY(into->logger, LOG_WARN, "%.500s:%d: row refused: %s: '%s'", into->path, number, why,
            shown(few_or_many ? line : field[at]).is);
    return true;
}

/* The file's bytes, to be freed; NULL with errno. EFBIG where it has too many, EINVAL where it is no plain file. */
static char *contents(const char *path, size_t *length)
{
    struct stat about;
    char *bytes = NULL;
    /* not blocking: a pipe in the file's place must not hold the communicator */
    int error = 0, file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return NULL;
    if (fstat(file, &about)) error = errno;
    else if (!S_ISREG(about.st_mode)) error = EINVAL;
    else if (about.st_size > MOST_BYTES) error = EFBIG;
    else if (!(bytes = malloc((size_t)about.st_size + 1))) error = ENOMEM;
    *length = 0;
    while (!error && *length < (size_t)about.st_size) {
        ssize_t got = read(file, bytes + *length, (size_t)about.st_size - *length);
        if (got == 0) break; /* it became shorter */
        if (got > 0) *length += (size_t)got;
        else if (errno != EINTR) error = errno;
    }
    close(file);
    if (error) {
        free(bytes);
        bytes = NULL;
        errno = error;
    }
    return bytes;
}

static const char *unreadable(int error)
{
    switch (error) {
    case ENOENT: return "there is no such file";
    case EACCES: return "it may not be read";
    case EINVAL: return "it is not a plain file";
    case EFBIG: return "it is larger than 4 MiB";
    default: return "reading it failed";
    }
}

ncclResult_t read_rules(Rules *into, size_t ranks, size_t nodes)
{
    size_t length;
    char *bytes = contents(into->path, &length);
    if (!bytes) {
        int error = errno;
        SAY(into->logger, LOG_WARN, "NCCL_TUNER_CONFIG_FILE=%.500s: %s (errno %d)", into->path, unreadable(error),
            error);
        return error == ENOMEM ? ncclSystemError : ncclInvalidUsage;
    }
    into->checksum = 14695981039346656037u; /* FNV-1a */
    for (size_t k = 0; k < length; k++) into->checksum = (into->checksum ^ (unsigned char)bytes[k]) * 1099511628211u;
    const char *from = bytes, *end = bytes + length;
    if (length >= 3 && !memcmp(from, "\xef\xbb\xbf", 3)) from += 3; /* spreadsheets begin UTF-8 with it */
    bool ok = true;
    for (int number = 1; ok && from < end; number++) {
        const char *newline = memchr(from, '\n', (size_t)(end - from));
        const char *stop = newline ? newline : end;
        bool carriage = stop > from && stop[-1] == '\r';
        ok = row(into, trimmed(from, carriage ? stop - 1 : stop), number, ranks, nodes);
        from = newline ? newline + 1 : end;
    }
    free(bytes);
    if (ok) return ncclSuccess;
    free(into->rules);
    into->rules = NULL;
    SAY(into->logger, LOG_WARN, "%.500s: no memory for its rows", into->path);
    return ncclSystemError;
}
