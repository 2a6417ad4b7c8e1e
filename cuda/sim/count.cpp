//@ top: Count what the memory is asked for
/* count.cpp - requests, sectors and wavefronts.
 *
 * A request is one load or store of a warp. Our threads run one after the
 * other, so a request is put together afterwards: the n-th execution of a
 * place in the code by each lane, since the warp last stopped, is taken to be
 * the same instruction. (Lanes whose loops run apart are thereby counted as if
 * together; the totals of bytes and lanes are right all the same.)
 *
 * Global memory is fetched in sectors of 32 bytes, shared memory has 32 banks
 * of 4 bytes. Both serve 128 bytes at a time: a warp's 4-byte access at once,
 * an 8-byte access by half warps, a 16-byte access by quarters. Of shared
 * memory each such phase takes as many wavefronts as the busiest bank has
 * different words to give. No cache is assumed: a sector asked for twice is
 * counted twice. */
#include "state.h"

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>

namespace sim {

//@ rows: Keep a row of figures for each place and array
struct Row {
    uint64_t requests, lanes, bytes, sectors, wavefronts, phases;
};

struct Key {
    uint32_t site;
    Use use;
    int label;
    bool shared;
    bool operator<(const Key &o) const {
        return std::tie(shared, label, site, use) <
               std::tie(o.shared, o.label, o.site, o.use);
    }
};

struct Kernel {
    std::string name;
    uint64_t launches, blocks, threads, events[EVENTS];
    std::map<Key, Row> rows;
};

//@ labels: Number the names of arrays
bool counting = true;
static std::vector<Kernel> kernels;
static Kernel *kernel;
static std::vector<std::string> labels;

int label_of(const std::string &name) {
    static std::map<std::string, int> known;
    auto p = known.insert({name, int(labels.size())});
    if (p.second)
        labels.push_back(name);
    return p.first->second;
}

//@ launches: Count launches, and what is no access
void count_launch() {
    size_t i = 0;
    while (i < kernels.size() && kernels[i].name != now.kernel)
        i++;
    if (i == kernels.size()) {
        kernels.push_back(Kernel());
        kernels[i].name = now.kernel;
    }
    kernel = &kernels[i];
    kernel->launches += counting;
    kernel->blocks += counting ? now.blocks : 0;
    kernel->threads = now.threads;
}

void forget_counts() { kernels.clear(); }

void count_event(Event e) { kernel->events[e] += counting; }

//@ gather: Note each lane's accesses until the warp stops
struct Touch {
    uintptr_t address;
    uint32_t bytes;
    int label;
    bool shared;
};

struct Place {
    std::vector<Touch> lane[warp_size];
    bool touched;
};

static std::vector<Place> places; /* by site and use */
static std::vector<uint32_t> touched; /* of them, since the warp's last stop */

void count_access(uint32_t site, Use use, const void *p, size_t bytes,
                  const Array &a) {
    if (!counting)
        return;
    size_t i = site * 3 + size_t(use);
    if (i >= places.size())
        places.resize(i + 1, Place());
    Place &place = places[i];
    if (!place.touched)
        touched.push_back(uint32_t(i));
    place.touched = true;
    place.lane[me->id % warp_size].push_back(
        Touch{uintptr_t(p), uint32_t(bytes), a.label, a.shared});
}

//@ sectors: Count the sectors of one phase, and the bytes used of them
static void count_sectors(Row &row, const Touch *t, int n) {
    static std::vector<std::pair<uintptr_t, uint32_t>> sector;
    sector.clear();
    for (int i = 0; i < n; i++)
        for (uint32_t b = 0; b < t[i].bytes; b++) {
            uintptr_t at = (t[i].address + b) / 32;
            auto s = sector.end();
            while (s != sector.begin() && s[-1].first != at)
                --s;
            if (s == sector.begin()) {
                sector.push_back({at, 0});
                s = sector.end();
            }
            s[-1].second |= 1u << (t[i].address + b) % 32;
        }
    row.sectors += sector.size();
    for (auto &s : sector)
        row.bytes += uint64_t(__builtin_popcount(s.second));
}

//@ wavefronts: Count the wavefronts of one phase
static void count_wavefronts(Row &row, const Touch *t, int n) {
    static std::vector<uintptr_t> bank[32];
    size_t most = 0;
    for (auto &b : bank)
        b.clear();
    for (int i = 0; i < n; i++) {
        uintptr_t last = (t[i].address + t[i].bytes - 1) / 4;
        for (uintptr_t w = t[i].address / 4; w <= last; w++) {
            auto &b = bank[w % 32];
            if (std::find(b.begin(), b.end(), w) == b.end())
                b.push_back(w);
            most = std::max(most, b.size());
        }
        row.bytes += t[i].bytes;
    }
    row.wavefronts += most;
}

//@ phases: Serve lanes by the whole, half or quarter warp
static int lanes_at_once(const Touch &t) {
    return t.bytes <= 4 ? 32 : t.bytes == 8 ? 16 : 8;
}

static void count_phase(Row &row, const Touch *t, int n) {
    if (!n)
        return;
    if (t->shared)
        count_wavefronts(row, t, n);
    else
        count_sectors(row, t, n);
    row.phases++;
}

//@ request: Count one request
/* The n-th access of each lane at a place; the first lane's says how wide. */
static void count_request(const Place &place, size_t n, size_t index) {
    Touch phase[warp_size];
    Row *row = nullptr;
    int filled = 0, at_once = 32;
    for (int i = 0; i < warp_size; i++) {
        if (row && i % at_once == 0) {
            count_phase(*row, phase, filled);
            filled = 0;
        }
        if (n >= place.lane[i].size())
            continue;
        const Touch &t = place.lane[i][n];
        if (!row) {
            at_once = lanes_at_once(t);
            row = &kernel->rows[Key{uint32_t(index / 3), Use(index % 3),
                                    t.label, t.shared}];
            row->requests++;
        }
        row->lanes++;
        phase[filled++] = t;
    }
    if (row)
        count_phase(*row, phase, filled);
}

//@ flush: Count all requests once the warp has stopped
void flush_requests() {
    for (uint32_t i : touched) {
        Place &place = places[i];
        size_t most = 0;
        for (auto &lane : place.lane)
            most = std::max(most, lane.size());
        for (size_t n = 0; n < most; n++)
            count_request(place, n, i);
        for (auto &lane : place.lane)
            lane.clear();
        place.touched = false;
    }
    touched.clear();
}

//@ totals: Add up the rows of an array
struct Total {
    Row use[3];
};

static std::map<std::pair<bool, int>, Total> totals(const Kernel &k) {
    std::map<std::pair<bool, int>, Total> sum;
    for (const auto &item : k.rows) {
        const Key &key = item.first;
        const Row &r = item.second;
        Row &s = sum[{key.shared, key.label}].use[key.use];
        s.requests += r.requests;
        s.lanes += r.lanes;
        s.bytes += r.bytes;
        s.sectors += r.sectors;
        s.wavefronts += r.wavefronts;
        s.phases += r.phases;
    }
    return sum;
}

//@ all-uses: Add up loads, stores and atomics
static Row all(const Total &t) {
    Row s = t.use[0];
    for (int i = 1; i < 3; i++) {
        s.requests += t.use[i].requests;
        s.bytes += t.use[i].bytes;
        s.sectors += t.use[i].sectors;
        s.wavefronts += t.use[i].wavefronts;
        s.phases += t.use[i].phases;
    }
    return s;
}

//@ sectors-of: Tell a program what an array cost so far
extern "C" uint64_t sim_sectors(const char *array, int stores) {
    uint64_t sum = 0;
    for (const Kernel &k : kernels)
        for (const auto &item : k.rows) {
            const Key &key = item.first;
            bool wanted = !array || labels[size_t(key.label)] == array;
            if (wanted && !key.shared && (key.use != LOAD) == (stores != 0))
                sum += item.second.sectors;
        }
    return sum;
}

//@ print: Append a formatted line
static void print(std::string &out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void print(std::string &out, const char *format, ...) {
    char line[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    out += line;
}

//@ table: Write the figures of a kernel as a table
static double per(uint64_t a, uint64_t b) {
    return b ? double(a) / double(b) : 0;
}

static void table_line(std::string &out, const std::string &label,
                       const Total &t, bool shared) {
    Row s = all(t);
    uint64_t cost = shared ? s.wavefronts : s.sectors;
    print(out, "    %-14s %9" PRIu64 " %9" PRIu64 " %8" PRIu64 " %12" PRIu64
          " %10" PRIu64 " %9.2f", label.c_str(), t.use[0].requests,
          t.use[1].requests, t.use[2].requests, s.bytes, cost,
          per(cost, s.requests));
    if (shared)
        print(out, " %6" PRIu64 "\n", s.wavefronts - s.phases);
    else
        print(out, " %5.1f%%\n", 100 * per(s.bytes, 32 * s.sectors));
}

//@ kernel-table: Put a heading above and the events below
static void table(std::string &out, const Kernel &k) {
    print(out, "%s: %" PRIu64 " launch%s, %" PRIu64 " blocks of %" PRIu64
          "\n", k.name.c_str(), k.launches, k.launches == 1 ? "" : "es",
          k.blocks, k.threads);
    int seen = -1;
    for (const auto &item : totals(k)) {
        bool shared = item.first.first;
        if (seen != int(shared))
            print(out, "  %-16s %9s %9s %8s %12s %s\n",
                  shared ? "shared" : "global", "loads", "stores", "atomics",
                  "bytes", shared ? "wavefronts  /request  extra"
                                  : "   sectors  /request   used");
        seen = shared;
        table_line(out, labels[size_t(item.first.second)], item.second,
                   shared);
    }
    print(out, "  shuffles %" PRIu64 ", votes %" PRIu64 ", barriers %" PRIu64
          ", warp barriers %" PRIu64 ", fences %" PRIu64,
          k.events[SHUFFLES], k.events[VOTES], k.events[BARRIERS],
          k.events[WARP_BARRIERS], k.events[FENCES]);
    if (k.events[MATRICES])
        print(out, ", matrix operations %" PRIu64, k.events[MATRICES]);
    out += "\n\n";
}

//@ json: Write them as JSON, line by line of the source
static void json_row(std::string &out, const Key &key, const Row &r) {
    const char *use[] = {"load", "store", "atomic"};
    const Line &at = line_of(key.site);
    print(out, "{\"file\": \"%s\", \"line\": %d, \"use\": \"%s\", "
          "\"space\": \"%s\", \"array\": \"%s\",\n     \"requests\": %"
          PRIu64 ", \"lanes\": %" PRIu64 ", \"bytes\": %" PRIu64
          ", \"sectors\": %" PRIu64 ", \"wavefronts\": %" PRIu64
          ", \"extra_wavefronts\": %" PRIu64 "}",
          at.file.c_str(), at.line, use[key.use],
          key.shared ? "shared" : "global", labels[size_t(key.label)].c_str(),
          r.requests, r.lanes, r.bytes, r.sectors, r.wavefronts,
          key.shared ? r.wavefronts - r.phases : 0);
}

//@ json-kernel: And their sums
static void json(std::string &out, const Kernel &k) {
    print(out, "  {\"name\": \"%s\", \"launches\": %" PRIu64
          ", \"blocks\": %" PRIu64 ", \"threads\": %" PRIu64 ",\n"
          "   \"shuffles\": %" PRIu64 ", \"votes\": %" PRIu64
          ", \"barriers\": %" PRIu64 ", \"warp_barriers\": %" PRIu64
          ", \"fences\": %" PRIu64 ", \"matrices\": %" PRIu64
          ",\n   \"requests\": [",
          k.name.c_str(), k.launches, k.blocks, k.threads, k.events[SHUFFLES],
          k.events[VOTES], k.events[BARRIERS], k.events[WARP_BARRIERS],
          k.events[FENCES], k.events[MATRICES]);
    const char *comma = "\n    ";
    for (const auto &item : k.rows) {
        out += comma;
        json_row(out, item.first, item.second);
        comma = ",\n    ";
    }
    out += "]}";
}

//@ tables: Write all kernels, one way or the other
std::string tables(bool as_json) {
    std::string out;
    for (const Kernel &k : kernels) {
        if (as_json && &k != &kernels[0])
            out += ",\n";
        if (as_json)
            json(out, k);
        else
            table(out, k);
    }
    return out;
}

} // namespace sim
