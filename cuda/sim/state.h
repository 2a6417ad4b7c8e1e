//@ top: Describe the machine that the simulator keeps
/* state.h - what the files of the simulator share, and kernels never see.
 *
 * sched.cpp runs the threads, memory.cpp judges each access, global.cpp knows
 * the program's variables, race.cpp decides what is ordered, fault.cpp catches
 * what is no access, count.cpp counts requests, report.cpp tells. One launch is
 * under way at a time, on one thread of the computer. */
#ifndef SIM_STATE_H
#define SIM_STATE_H

#include "fiber.h"
#include "sim.h"

#include <map>
#include <string>
#include <vector>

namespace sim {

constexpr int warp_size = 32;

//@ record: Remember one access to a piece of memory
/* epoch counts the block's barriers, tick the thread's own meetings with
 * others. Together they say what came before what. launch 0: no access. */
struct Record {
    uint32_t launch, block, thread, epoch, tick, site;
};

/* What is known about `grain` bytes: the last write, the last that was not
 * atomic, and two reads by threads as far from each other as could be. */
struct Cell {
    Record write, plain, read[2];
    uint8_t initialised;
    uint8_t atomic;  /* the write was one */
    uint8_t pending; /* the write is an asynchronous copy under way */
};

//@ array: Describe a piece of memory with bounds and a name
struct Array {
    char *base;
    size_t bytes;
    size_t element; /* bytes; 1 until somebody said more */
    std::string name;
    size_t grain; /* bytes to a cell: 4, or 1 after a smaller access */
    Cell *cells;
    bool shared, freed;
    bool constant;  /* read through a cache that we do not count */
    bool by_type;   /* only the compiler knows its bounds */
    int label;      /* number of the name, for counting */
};

//@ lane: Describe a thread
enum Stop { READY, AT_WARP_OP, AT_BARRIER, DONE };

struct Copy {
    char *to;
    const char *from;
    int bytes, zeros;
    unsigned group;
    uint32_t site;
};

//@ published: Say what others may rely on
/* By block and thread: what that thread did up to this tick is over. By block
 * and everybody: what the block did before this epoch is. */
constexpr uint32_t everybody = ~0u;
typedef std::map<std::pair<uint32_t, uint32_t>, uint32_t> Acquired;

/* When a thread passed its last fence, and what it knew of its warp then, if
 * it has met the others since the block's last barrier. epoch 0: no fence. */
struct Fence {
    uint32_t epoch, tick, seen[warp_size];
};

struct Block;

struct Lane {
    Fiber fiber;
    Stop stop;
    uint3 index;
    uint32_t id; /* within the block; id % 32 is its place in the warp */
    Block *block;
    /* why it stopped */
    uint32_t site;
    WarpOp op;
    unsigned mask;
    uint64_t value, result;
    int argument, width;
    /* what it knows */
    uint32_t tick;       /* starts at 1 */
    uint32_t met_epoch;  /* of its last __syncwarp */
    Fence fence, near;   /* for all, and for its block */
    Acquired acquired;
    std::vector<Copy> copies;
    unsigned group; /* of copies not yet committed */
    uint64_t accesses;
};

//@ block: Describe a block under way
struct Warp {
    Lane *lane; /* the first of them */
    int lanes;
    uint32_t seen[warp_size][warp_size]; /* [a][b]: b's tick known to a */
};

struct Block {
    uint3 index;
    uint32_t number;
    uint32_t epoch; /* starts at 1 */
    int alive;
    int slot; /* its window of shared memory */
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    std::vector<Array> arrays; /* shared; [0] the dynamic one, if any */
    std::map<const void *, int> known; /* static array -> index in arrays */
    size_t window_used;
    Acquired acquired;
};

//@ launch-state: Describe the launch under way
struct Launch {
    const char *kernel;
    uint32_t number; /* counts launches from 1 */
    Config c;
    uint32_t blocks, threads; /* threads in a block */
    Call call;
    bool given_up;
    /* by the atomic's address: for all, and with the block that may know */
    std::map<const void *, Acquired> published;
    std::map<std::pair<const void *, uint32_t>, Acquired> near;
};

extern Launch now;
extern Lane *me;     /* the running thread, NULL on the host */
extern bool counting; /* requests are counted in the first order only */
[[noreturn]] void give_up(const char *why);
void stop(Stop why);
void let_others(uint32_t site, uint64_t effort);
void watch();        /* for threads that break off or go round for ever */
uint64_t progress(); /* grows while they do not */
uint64_t turns();    /* how often a thread was taken up */

//@ kinds: Name the mistakes
enum Kind {
    OUT_OF_BOUNDS, MISALIGNED, RACE, DIVERGENT_BARRIER, ABSENT_LANE,
    UNINITIALISED, STUCK
};

/* other: the earlier access of a race, else NULL. site: index of a place. */
void find(Kind kind, uint32_t site, const Array *array, long long index,
          const Lane *lane, const Record *other, bool wrote, bool other_wrote);
void refused(const char *what, const char *why); /* a launch, a copy */
bool any_findings();

//@ places: Turn return addresses into lines
uint32_t site_of(const void *return_address);
struct Line {
    std::string file;
    int line;
};
const Line &line_of(uint32_t site);
bool same_line(uint32_t a, uint32_t b);

//@ seeing: Judge an access, and know what is ordered
enum Access { READ, WRITE, ATOMIC, COPY_FROM, COPY_TO, ARRIVE };

void access(const void *p, size_t bytes, Access kind, uint32_t site);
Cell *cell_at(const Array &a, size_t offset);
bool ordered(const Record &r, const Lane &lane);
void check_race(Array &a, Cell &cell, size_t offset, Access kind,
                uint32_t site);
void meet(Warp &w, unsigned mask);
void publish(const void *address);
void block_met(Block &b);
Array *array_of(const void *p);
Array *variable_at(const void *p, size_t bytes);
void know_all(Array &a);
void reset_variables(); /* of the program, to what they held at first */
void open_window(Block &b);
void close_window(Block &b);
void name_arguments(const char *names, const Argument *list, int count);
void land(Lane &lane, unsigned groups);

//@ counting: Count what a launch asks of the memory
enum Use { LOAD, STORE, ATOMIC_USE };
enum Event {
    SHUFFLES, VOTES, BARRIERS, WARP_BARRIERS, FENCES, MATRICES, EVENTS
};

void count_launch();
void count_access(uint32_t site, Use use, const void *p, size_t bytes,
                  const Array &a);
void count_event(Event e);
void flush_requests(); /* the warp has stopped: its requests are complete */
int label_of(const std::string &name);
void forget_counts();
std::string tables(bool json);

} // namespace sim

#endif
