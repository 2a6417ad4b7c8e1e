//@ top: Run blocks, warps and threads
/* sched.cpp - the scheduler. It takes the place of the hardware's.
 *
 * Several blocks are in flight. In turn each of their warps takes a step: each
 * of its threads runs until it stops at an operation of the warp, at a barrier
 * of the block, at an atomic, or at its end. Since all threads have stopped
 * before anything is resolved, the scheduler sees who is absent.
 *
 * Which thread of a warp goes first, which warp, which block: a real device
 * promises nothing. So there are four orders to try, and a kernel that is
 * right must be right in each. */
#include "state.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace sim {

Launch now;
Lane *me;
Order order = ASCENDING;

static Fiber home; /* the scheduler's own */
static uint64_t seed = 1, idle, turned;
static const char *error;

//@ orders: Put the numbers below n in the chosen order
static uint32_t random_below(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return uint32_t((seed >> 33) % n);
}

void set_order(Order o, uint64_t s) {
    order = o;
    seed = s;
}

static const std::vector<uint32_t> &in_order(uint32_t n) {
    static std::vector<uint32_t> v;
    v.resize(n);
    uint32_t step = 7;
    while (std::gcd(step, n) != 1)
        step++;
    for (uint32_t i = 0; i < n; i++)
        v[i] = order == DESCENDING ? n - 1 - i
               : order == STRIDED  ? uint32_t(uint64_t(i) * step % n)
                                   : i;
    for (uint32_t i = n; order == SHUFFLED && i > 1; i--)
        std::swap(v[i - 1], v[random_below(i)]);
    return v;
}

//@ stop: Stop a thread, and go on with it
void stop(Stop why) {
    Lane *self = me;
    self->stop = why;
    change(&self->fiber, &home);
}

/* A thread may be waiting for what another one will do. If for very long all
 * do nothing else, they wait for each other. */
void let_others(uint32_t site, uint64_t effort) {
    idle += effort;
    if (idle > uint64_t(1) << 28) {
        find(STUCK, site, nullptr, 0, me, nullptr, false, false);
        give_up("no thread gets any further");
    }
    stop(READY);
}

void give_up(const char *why) {
    now.given_up = true;
    error = why;
    stop(DONE);
    abort(); /* nobody goes on with a thread whose launch was given up */
}

//@ thread: Begin a thread, and go on with it
static void thread_main() {
    now.call.run(now.call.self);
    land(*me, ~0u);
    stop(DONE);
}

uint64_t turns() { return turned; }

static void go_on(Lane &lane) {
    turned++;
    me = &lane;
    threadIdx = lane.index;
    blockIdx = lane.block->index;
    change(&home, &lane.fiber);
    me = nullptr;
    if (lane.stop != READY)
        idle = 0;
    if (lane.stop == DONE)
        lane.block->alive--;
}

//@ warp-stop: Stop at an operation of the warp
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int argument,
              int width) {
    me->site = site_of(__builtin_return_address(0));
    me->op = op;
    me->mask = mask;
    me->value = me->result = value;
    me->argument = argument;
    me->width = width;
    stop(AT_WARP_OP);
    return me->result;
}

//@ gather: Stop where each lane needs something of all
void gather(Gathered *g) {
    me->site = site_of(__builtin_return_address(0));
    me->op = GATHER;
    me->mask = ~0u;
    me->value = me->result = uint64_t(uintptr_t(g));
    me->argument = 0;
    me->width = warp_size;
    stop(AT_WARP_OP);
}

static Gathered *gathered(const Lane &lane) {
    return reinterpret_cast<Gathered *>(uintptr_t(lane.value));
}

static void hand_out(const Warp &w, unsigned group) {
    for (int i = 0; i < w.lanes; i++)
        for (int j = 0; j < w.lanes; j++)
            if ((group >> i & 1) && (group >> j & 1))
                memcpy(gathered(w.lane[i])->all[j], gathered(w.lane[j])->mine,
                       sizeof gathered(w.lane[j])->mine);
}

//@ source: Find the lane that a shuffle reads from
/* Lanes form segments of `width`. Up, down and xor leave the value alone where
 * they would leave the segment (xor only upwards). */
static int source(const Lane &lane, int self) {
    int width = lane.width, first = self & ~(width - 1);
    int a = lane.argument;
    switch (lane.op) {
    case SHUFFLE_INDEX: return first + (a & (width - 1));
    case SHUFFLE_UP: return self - a < first ? self : self - a;
    case SHUFFLE_DOWN: return self + a >= first + width ? self : self + a;
    case SHUFFLE_XOR: return (self ^ a) >= first + width ? self : self ^ a;
    default: return self;
    }
}

//@ answer: Give a lane what it receives
static void absent(const Lane &lane, int who) {
    find(ABSENT_LANE, lane.site, nullptr, who, &lane, nullptr, false, false);
}

static void answer(const Warp &w, unsigned group, int self, unsigned ballot) {
    Lane &lane = w.lane[self];
    int from = source(lane, self);
    if (!(lane.mask >> self & 1))
        absent(lane, self);
    else if (!(group >> from & 1))
        absent(lane, from);
    else if (lane.op == GATHER && ~group)
        absent(lane, __builtin_ctz(~group));
    else if (lane.op == BALLOT || lane.op == ACTIVE)
        lane.result = lane.op == BALLOT ? ballot : group;
    else if (lane.op == MATCH) {
        lane.result = 0;
        for (int j = 0; j < w.lanes; j++)
            if ((group >> j & 1) && w.lane[j].value == lane.value)
                lane.result |= 1u << j;
    } else
        lane.result = w.lane[from].value;
    lane.stop = READY;
}

//@ exchange: Carry out an operation of the warp
static void exchange(Warp &w, unsigned group) {
    unsigned ballot = 0;
    WarpOp op = SYNC;
    for (int i = 0; i < w.lanes; i++)
        if (group >> i & 1) {
            op = w.lane[i].op;
            if (w.lane[i].value)
                ballot |= 1u << i;
        }
    if (op == GATHER)
        hand_out(w, group);
    for (int i = 0; i < w.lanes; i++)
        if (group >> i & 1)
            answer(w, group, i, ballot);
    count_event(op == SYNC ? WARP_BARRIERS
                : op == GATHER ? MATRICES
                : op == BALLOT || op == MATCH || op == ACTIVE ? VOTES
                                                              : SHUFFLES);
    if (op == SYNC)
        meet(w, group);
}

//@ resolve: See which lanes of an operation have come
/* Lanes that have ended count as having come; reading from them does not
 * work. If nobody can go on, the missing lane is named and the others do. */
static unsigned group_of(const Warp &w, const Lane &lane, int *missing) {
    unsigned group = 0;
    *missing = -1;
    for (int i = 0; i < w.lanes; i++) {
        const Lane &l = w.lane[i];
        if (lane.op == ACTIVE)
            group |= unsigned(l.stop == AT_WARP_OP && l.op == ACTIVE &&
                              l.site == lane.site) << i;
        else if (l.stop == AT_WARP_OP && l.op == lane.op && l.mask == lane.mask)
            group |= 1u << i;
        else if ((lane.mask >> i & 1) && l.stop != DONE && *missing < 0)
            *missing = i;
    }
    return group;
}

//@ resolve-all: Let complete groups go on
static void resolve(Warp &w) {
    int missing, waiting = -1;
    bool ready = false;
    for (int i = 0; i < w.lanes; i++) {
        Lane &lane = w.lane[i];
        if (lane.stop == AT_WARP_OP) {
            unsigned group = group_of(w, lane, &missing);
            if (missing < 0)
                exchange(w, group);
            else
                waiting = i;
        }
        ready |= lane.stop == READY;
    }
    if (waiting < 0 || ready)
        return;
    unsigned group = group_of(w, w.lane[waiting], &missing);
    absent(w.lane[waiting], missing);
    exchange(w, group);
}

//@ barriers: Stop at a barrier, and let a block pass
static int at_barrier(int condition, const void *from) {
    me->site = site_of(from);
    me->value = uint64_t(condition != 0);
    stop(AT_BARRIER);
    return int(me->result);
}

//@ pass-barrier: Open a barrier, and say so if it is divergent
/* All or none: a thread that has ended, or waits elsewhere, makes it
 * divergent. */
bool same_line(uint32_t a, uint32_t b) {
    return a == b || (line_of(a).line == line_of(b).line &&
                      line_of(a).file == line_of(b).file);
}

static void divergent(const Lane &lane, uint32_t came) {
    find(DIVERGENT_BARRIER, lane.site, nullptr, came, &lane, nullptr, false,
         false);
}

//@ release: Let all that wait go on
/* result is how many handed in a true condition, with the number of threads
 * above it. */
static void pass_barrier(Block &b) {
    Lane *first = nullptr, *odd = nullptr;
    uint32_t n = 0, yes = 0;
    for (Lane &lane : b.lanes) {
        if (lane.stop != AT_BARRIER)
            continue;
        if (!first)
            first = &lane;
        if (!same_line(lane.site, first->site))
            odd = &lane;
        n++;
        yes += lane.value != 0;
    }
    if (odd || n < now.threads)
        divergent(*first, n);
    if (odd)
        divergent(*odd, n);
    for (Lane &lane : b.lanes)
        if (lane.stop == AT_BARRIER) {
            lane.result = yes | uint64_t(n) << 16;
            lane.stop = READY;
        }
    count_event(BARRIERS);
    block_met(b);
}

//@ step: Let every warp of a block take a step
static void step(Block &b) {
    uint32_t warps = uint32_t(b.warps.size());
    bool ready = false;
    std::vector<uint32_t> turn = in_order(warps);
    for (uint32_t t : turn) {
        Warp &w = b.warps[t];
        std::vector<uint32_t> lanes = in_order(uint32_t(w.lanes));
        for (uint32_t i : lanes)
            if (w.lane[i].stop == READY && !now.given_up)
                go_on(w.lane[i]);
        flush_requests();
        if (now.given_up)
            return;
        resolve(w);
        for (int i = 0; i < w.lanes; i++)
            ready |= w.lane[i].stop == READY;
    }
    if (!ready && b.alive)
        pass_barrier(b);
}

//@ start: Bring a block into flight
static void start_block(Block &b, uint32_t number) {
    dim3 g = now.c.grid, s = now.c.block;
    b.index = uint3{number % g.x, number / g.x % g.y, number / g.x / g.y};
    b.number = number;
    b.epoch = 1;
    b.alive = int(now.threads);
    b.acquired.clear();
    for (size_t i = now.threads; i < b.lanes.size(); i++)
        old_stack(b.lanes[i].fiber.stack);
    b.lanes.resize(now.threads);
    b.warps.resize((now.threads + 31) / 32);
    for (uint32_t i = 0; i < now.threads; i++) {
        char *stack = b.lanes[i].fiber.stack;
        Lane &lane = b.lanes[i] = Lane();
        lane.fiber.stack = stack ? stack : new_stack();
        lane.index = uint3{i % s.x, i / s.x % s.y, i / s.x / s.y};
        lane.id = i;
        lane.block = &b;
        lane.tick = 1;
        prepare(&lane.fiber, thread_main);
    }
    for (uint32_t i = 0; i < b.warps.size(); i++) {
        Warp &w = b.warps[i];
        w.lane = &b.lanes[i * 32];
        w.lanes = int(std::min(now.threads - i * 32, 32u));
        memset(w.seen, 0, sizeof w.seen);
    }
    open_window(b);
}

//@ flight: Keep blocks in flight until the grid is done
static Block *slots() {
    static Block kept[8];
    return kept;
}

//@ fly: Let blocks follow each other
static void fly() {
    std::vector<uint32_t> queue = in_order(now.blocks);
    uint32_t most = std::max(2u, std::min(8u, 2048 / now.threads));
    uint32_t n = std::min(most, now.blocks), next = 0, left = now.blocks;
    for (uint32_t i = 0; i < n; i++) {
        slots()[i].slot = int(i);
        start_block(slots()[i], queue[next++]);
    }
    while (left && !now.given_up) {
        std::vector<uint32_t> turn = in_order(n);
        for (uint32_t i : turn) {
            Block &b = slots()[i];
            if (!b.alive || now.given_up)
                continue;
            step(b);
            if (b.alive || now.given_up)
                continue;
            close_window(b);
            left--;
            if (next < now.blocks)
                start_block(b, queue[next++]);
        }
    }
    for (uint32_t i = 0; now.given_up && i < n; i++)
        close_window(slots()[i]);
}

//@ refuse: Refuse a launch that no device would take
static const char *impossible(const Config &c) {
    uint64_t threads = uint64_t(c.block.x) * c.block.y * c.block.z;
    uint64_t blocks = uint64_t(c.grid.x) * c.grid.y * c.grid.z;
    if (c.block.x > 1024 || c.block.y > 1024 || c.block.z > 64 ||
        threads > 1024)
        return "a block of more than 1024 threads, or 64 in z";
    if (c.grid.x > 0x7fffffff || c.grid.y > 65535 || c.grid.z > 65535)
        return "a grid of more than 2^31-1 by 65535 by 65535 blocks";
    if (!threads || !blocks)
        return "a launch of no blocks or no threads";
    if (c.shared > 227 * 1024)
        return "more than 227 KiB of shared memory";
    if (blocks > 1 << 24)
        return "more than 2^24 blocks: that would take the simulator for ever";
    return nullptr;
}

//@ run: Run a launch from beginning to end
void run(const char *kernel, const char *names, const Config &c, Call call,
         const Argument *arguments, int count) {
    uint32_t number = now.number + 1;
    if (const char *why = me ? "a kernel cannot launch another one here"
                             : impossible(c)) {
        error = why;
        refused(kernel, why);
        return;
    }
    now = Launch();
    now.kernel = kernel;
    now.number = number;
    now.c = c;
    now.blocks = c.grid.x * c.grid.y * c.grid.z;
    now.threads = c.block.x * c.block.y * c.block.z;
    now.call = call;
    gridDim = c.grid;
    blockDim = c.block;
    idle = 0;
    name_arguments(names, arguments, count);
    count_launch();
    fly();
}

const char *last_error(bool forget) {
    const char *e = error;
    if (forget)
        error = nullptr;
    return e;
}

//@ atomic: Do an atomic, and let others go first
template <class T> static T changed(AtomicOp op, T old, T value, T compare) {
    switch (op) {
    case ADD: return T(old + value);
    case SUBTRACT: return T(old - value);
    case MINIMUM: return value < old ? value : old;
    case MAXIMUM: return value > old ? value : old;
    case EXCHANGE: return value;
    case COMPARE: return old == compare ? value : old;
    case INCREMENT: return old >= value ? T(0) : T(old + 1);
    case DECREMENT: return old == 0 || old > value ? value : T(old - 1);
    default: return old;
    }
}

//@ update: Apply it to the bits in memory
template <class T>
static uint64_t update(AtomicOp op, void *address, uint64_t value,
                       uint64_t compare) {
    T old, v, c;
    memcpy(&old, address, sizeof old);
    memcpy(&v, &value, sizeof v);
    memcpy(&c, &compare, sizeof c);
    T next = changed(op, old, v, c);
    uint64_t a = 0, result = 0;
    memcpy(&a, &old, sizeof old);
    if (op == AND || op == OR || op == XOR) {
        a = op == AND ? a & value : op == OR ? a | value : a ^ value;
        memcpy(&next, &a, sizeof next);
    }
    memcpy(address, &next, sizeof next);
    memcpy(&result, &old, sizeof old);
    return result;
}

//@ atomic-stop: Count as an access, and let others go first
uint64_t atomic(AtomicOp op, Number type, void *address, uint64_t value,
                uint64_t compare) {
    bool wide = type == UINT64 || type == FLOAT64;
    uint32_t site = site_of(__builtin_return_address(0));
    access(address, wide ? 8 : 4, ATOMIC, site);
    publish(address);
    uint64_t old;
    switch (type) {
    case INT32: old = update<int32_t>(op, address, value, compare); break;
    case UINT32: old = update<uint32_t>(op, address, value, compare); break;
    case UINT64: old = update<uint64_t>(op, address, value, compare); break;
    case FLOAT32: old = update<float>(op, address, value, compare); break;
    default: old = update<double>(op, address, value, compare); break;
    }
    let_others(site, 64);
    return old;
}

} // namespace sim

//@ syncthreads: Offer barriers under CUDA's names
void __syncthreads() { sim::at_barrier(0, __builtin_return_address(0)); }

int __syncthreads_count(int condition) {
    int r = sim::at_barrier(condition, __builtin_return_address(0));
    return r & 0xffff;
}

int __syncthreads_and(int condition) {
    int r = sim::at_barrier(condition, __builtin_return_address(0));
    return (r & 0xffff) == r >> 16;
}

int __syncthreads_or(int condition) {
    int r = sim::at_barrier(condition, __builtin_return_address(0));
    return (r & 0xffff) != 0;
}
