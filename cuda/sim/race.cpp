//@ top: Decide which accesses are ordered
/* race.cpp - two accesses to the same place, at least one of them a write and
 * not both atomic, are a race unless one is known to come before the other.
 *
 * Known means: by the same thread; in the same block with a __syncthreads
 * between; in the same warp with a __syncwarp of both lanes between; or across
 * blocks through the pattern "write, __threadfence, atomic" on one side and
 * "atomic on the same address" on the other, with barriers at either end.
 * Launches follow each other. Shuffles and votes exchange registers and order
 * no memory: the programming guide says so, and so do we. */
#include "state.h"

#include <algorithm>

namespace sim {

//@ ordered: Ask whether an earlier access is known to be over
static bool covers(const Acquired &known, const Record &r) {
    auto p = known.find(r.block);
    if (p == known.end())
        return false;
    const Published &s = p->second;
    return r.epoch < s.epoch || (r.thread == s.thread && r.tick <= s.tick);
}

bool ordered(const Record &r, const Lane &lane) {
    const Block &b = *lane.block;
    if (r.launch != now.number)
        return true;
    if (r.block != b.number)
        return covers(lane.acquired, r) || covers(b.acquired, r);
    if (r.thread == lane.id || r.epoch < b.epoch)
        return true;
    if (r.thread / warp_size != lane.id / warp_size)
        return false;
    const Warp &w = b.warps[lane.id / warp_size];
    return w.seen[lane.id % warp_size][r.thread % warp_size] >= r.tick;
}

//@ meet: Let lanes learn what the others have done
/* Each of the lanes in mask now knows what any of them knew, and that all of
 * them have come this far. */
void meet(Warp &w, unsigned mask) {
    uint32_t all[warp_size] = {0};
    for (int a = 0; a < w.lanes; a++) {
        if (!(mask >> a & 1))
            continue;
        for (int b = 0; b < warp_size; b++)
            all[b] = std::max(all[b], w.seen[a][b]);
        all[a] = std::max(all[a], w.lane[a].tick);
    }
    for (int a = 0; a < w.lanes; a++)
        if (mask >> a & 1) {
            std::copy(all, all + warp_size, w.seen[a]);
            w.lane[a].tick++;
        }
}

//@ publish: Hand knowledge across blocks through an atomic
static void learn(Acquired &to, const Acquired &from) {
    for (const auto &item : from) {
        auto p = to.find(item.first);
        if (p == to.end() || p->second.epoch < item.second.epoch)
            to[item.first] = item.second;
    }
}

/* The thread learns what was published at this address; if it has passed a
 * fence, it publishes what it did before that fence, and what its block did
 * before the barrier ahead of the fence, or the one right after it (where, as
 * is usual, all threads of the block have passed the same fence). */
void publish(const void *address) {
    auto p = now.published.find(address);
    if (p != now.published.end())
        learn(me->acquired, p->second);
    if (!me->fence_tick)
        return;
    Acquired &to = now.published[address];
    const Block &b = *me->block;
    learn(to, me->acquired);
    learn(to, b.acquired);
    uint32_t epoch = std::min(b.epoch, me->fence_epoch + 1);
    to[b.number] = Published{epoch, me->id, me->fence_tick};
}

//@ fences: Remember fences, and share at barriers
void fence() {
    count_event(FENCES);
    me->fence_tick = me->tick++;
    me->fence_epoch = me->block->epoch;
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
