//@ top: Decide which accesses are ordered
/* race.cpp - two accesses to the same place, at least one of them a write and
 * not both atomic, are a race unless one is known to come before the other.
 *
 * Known means: by the same thread; in the same block with a __syncthreads
 * between; in the same warp with a __syncwarp of both lanes between; or through
 * the pattern "write, __threadfence, atomic" on one side and "atomic on the
 * same address" on the other, with barriers at either end. Within a block
 * __threadfence_block does as well.
 * Launches follow each other. Shuffles and votes exchange registers and order
 * no memory: the programming guide says so, and so do we. */
#include "state.h"

#include <algorithm>

namespace sim {

//@ ordered: Ask whether an earlier access is known to be over
static bool covers(const Acquired &known, const Record &r) {
    auto all = known.find({r.block, everybody});
    auto one = known.find({r.block, r.thread});
    return (all != known.end() && r.epoch < all->second) ||
           (one != known.end() && r.tick <= one->second);
}

bool ordered(const Record &r, const Lane &lane) {
    const Block &b = *lane.block;
    if (r.launch != now.number)
        return true;
    if (r.block == b.number && (r.thread == lane.id || r.epoch < b.epoch))
        return true;
    if (covers(lane.acquired, r) || covers(b.acquired, r))
        return true;
    if (r.block != b.number || r.thread / warp_size != lane.id / warp_size)
        return false;
    const Warp &w = b.warps[lane.id / warp_size];
    return w.seen[lane.id % warp_size][r.thread % warp_size] >= r.tick;
}

//@ learn: Add to what is known
static void learn(Acquired &to, const Acquired &from) {
    for (const auto &item : from) {
        uint32_t &known = to[item.first];
        known = std::max(known, item.second);
    }
}

//@ meet: Let lanes learn what the others have done
/* Each of the lanes in mask now knows what any of them knew, and that all of
 * them have come this far. */
void meet(Warp &w, unsigned mask) {
    uint32_t all[warp_size] = {0};
    Acquired acquired;
    for (int a = 0; a < w.lanes; a++) {
        if (!(mask >> a & 1))
            continue;
        for (int b = 0; b < warp_size; b++)
            all[b] = std::max(all[b], w.seen[a][b]);
        all[a] = std::max(all[a], w.lane[a].tick);
        learn(acquired, w.lane[a].acquired);
    }
    for (int a = 0; a < w.lanes; a++)
        if (mask >> a & 1) {
            std::copy(all, all + warp_size, w.seen[a]);
            w.lane[a].acquired = acquired;
            w.lane[a].met_epoch = w.lane[a].block->epoch;
            w.lane[a].tick++;
        }
}

//@ publish: Hand knowledge over through an atomic
/* What a thread did before its fence, what it had learnt of its warp, and what
 * its block did before the barrier ahead of the fence, or the one right after
 * it (where, as is usual, all threads of the block have passed the fence). */
static void tell(Acquired &to, const Fence &fence) {
    const Block &b = *me->block;
    learn(to, me->acquired);
    learn(to, b.acquired);
    Acquired own;
    own[{b.number, everybody}] = std::min(b.epoch, fence.epoch + 1);
    own[{b.number, me->id}] = fence.tick;
    uint32_t first = me->id / warp_size * warp_size;
    for (uint32_t i = 0; i < warp_size; i++)
        if (fence.seen[i])
            own[{b.number, first + i}] =
                std::max(fence.seen[i], own[{b.number, first + i}]);
    learn(to, own);
}

/* The thread learns what was published at this address, then publishes. What
 * is in shared memory, or after a fence for the block, is for the block. */
void publish(const void *address) {
    const Array *a = array_of(address);
    auto n = now.near.find({address, me->block->number});
    if (n != now.near.end())
        learn(me->acquired, n->second);
    if (me->near.epoch)
        tell(now.near[{address, me->block->number}], me->near);
    if (a && a->shared)
        return;
    auto p = now.published.find(address);
    if (p != now.published.end())
        learn(me->acquired, p->second);
    if (me->fence.epoch)
        tell(now.published[address], me->fence);
}

//@ fences: Remember fences, and share at barriers
static Fence passed() {
    Fence f = {me->block->epoch, me->tick++, {0}};
    const Warp &w = me->block->warps[me->id / warp_size];
    if (me->met_epoch == me->block->epoch)
        std::copy(w.seen[me->id % warp_size],
                  w.seen[me->id % warp_size] + warp_size, f.seen);
    return f;
}

void fence() {
    count_event(FENCES);
    me->fence = me->near = passed();
}

void fence_block() {
    count_event(FENCES);
    me->near = passed();
}

/* A barrier of the block: what one thread has learnt, all know. */
void block_met(Block &b) {
    for (Lane &lane : b.lanes) {
        learn(b.acquired, lane.acquired);
        lane.acquired.clear();
    }
    b.epoch++;
}

//@ reads: Keep two reads that are far apart
/* A later write must be ordered after every read, but only two are kept. A
 * read from an earlier epoch of our block is over and gives way; else the
 * pair stays that is most foreign: other blocks before other warps before
 * other lanes. */
static int distance(const Record &a, const Record &b) {
    if (a.launch != b.launch)
        return 0;
    return a.block != b.block                            ? 3
           : a.thread / warp_size != b.thread / warp_size ? 2
           : a.thread != b.thread                         ? 1
                                                          : 0;
}

static void keep_read(Cell &cell, const Record &r) {
    Record *old = cell.read;
    for (int i = 0; i < 2; i++)
        if (ordered(old[i], *me)) {
            old[i] = r;
            return;
        }
    if (distance(old[0], r) >= distance(old[0], old[1]))
        old[1] = r;
    else if (distance(old[1], r) > distance(old[0], old[1]))
        old[0] = r;
}

//@ check-race: Judge an access by those before it
static void race(Array &a, size_t offset, uint32_t site, const Record &other,
                 bool wrote, bool other_wrote) {
    find(RACE, site, &a, (long long)(offset / a.element), me, &other, wrote,
         other_wrote);
}

//@ check-access: Judge an access by those before it
/* Reading and writing an atomic's operand is one access. */
void check_race(Array &a, Cell &cell, size_t offset, Access kind,
                uint32_t site) {
    Record r = {now.number, me->block->number, me->id, me->block->epoch,
                me->tick, site};
    bool wrote = kind != READ && kind != COPY_FROM;
    bool over = ordered(cell.write, *me);
    bool both_atomic = kind == ATOMIC && cell.atomic;
    if (kind != ARRIVE && cell.pending && cell.write.launch == now.number)
        race(a, offset, site, cell.write, wrote, true);
    else if (!over && !both_atomic)
        race(a, offset, site, cell.write, wrote, true);
    else if (cell.atomic && !ordered(cell.plain, *me))
        race(a, offset, site, cell.plain, wrote, true);
    if (!wrote) {
        keep_read(cell, r);
        return;
    }
    for (Record &read : cell.read)
        if (!ordered(read, *me))
            race(a, offset, site, read, true, false);
    cell.write = r;
    if (kind != ATOMIC)
        cell.plain = r;
    cell.atomic = kind == ATOMIC;
    cell.pending = kind == COPY_TO;
    if (kind != COPY_TO)
        cell.initialised = 1;
}

} // namespace sim
