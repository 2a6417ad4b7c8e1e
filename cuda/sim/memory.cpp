//@ top: Judge every access to memory
/* memory.cpp - the arrays of the device, and the callbacks through which the
 * simulator sees each read and write of a kernel.
 *
 * The compiler's thread sanitizer (-fsanitize=thread) puts a call in front of
 * each access: __tsan_read4(address) and so on. Its own library is not linked;
 * these functions are defined here instead. An access to the thread's own
 * stack, to the launch's arguments or to a constant of the program is no
 * business of the memory system. All else must lie in an array.
 *
 * Device memory is one large reservation of addresses, cut into pages of
 * 64 KiB. An array owns its pages and as many before and after it, so that an
 * index somewhat out of bounds is still recognised as that array's. */
#include "state.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <link.h>
#include <sys/mman.h>

namespace sim {

//@ reserve: Reserve addresses for the device
constexpr size_t page = 64 * 1024, heap_pages = size_t(1) << 21;
constexpr size_t window = 4 * 1024 * 1024; /* shared memory of one block */
constexpr int windows = 64;
constexpr size_t gap = 4096; /* between shared arrays */

static char *heap, *windows_base;
static size_t pages_used;
static std::deque<Array> arrays;
static std::vector<Array *> owner; /* of each page */

static char *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "cusim: cannot reserve %zu bytes of addresses\n",
                bytes);
        exit(2);
    }
    return static_cast<char *>(p);
}

static void start() {
    if (heap)
        return;
    char *p = reserve((heap_pages + 1) * page);
    heap = p + (page - uintptr_t(p) % page) % page;
    p = reserve(size_t(windows + 1) * window);
    windows_base = p + (page - uintptr_t(p) % page) % page;
}

//@ cells: Keep a cell for each grain of an array
static void new_cells(Array &a) {
    size_t n = (a.bytes + a.grain - 1) / a.grain;
    a.cells = reinterpret_cast<Cell *>(reserve(n * sizeof(Cell) + 1));
}

static void drop_cells(Array &a) {
    size_t n = (a.bytes + a.grain - 1) / a.grain;
    munmap(a.cells, n * sizeof(Cell) + 1);
}

/* An access smaller than a cell, or across two: single bytes from now on. */
static void refine(Array &a) {
    Array fine = a;
    fine.grain = 1;
    new_cells(fine);
    for (size_t i = 0; i < a.bytes; i++)
        fine.cells[i] = a.cells[i / a.grain];
    drop_cells(a);
    a = fine;
}

//@ marks: Mark what is initialised
Cell *cell_at(const Array &a, size_t offset) {
    return a.cells + offset / a.grain;
}

static void mark(Array &a, size_t offset, size_t bytes, uint8_t known) {
    if (bytes && a.grain > 1 && (offset % 4 || bytes % 4) &&
        offset + bytes != a.bytes)
        refine(a);
    for (size_t i = offset; i < offset + bytes; i += a.grain)
        cell_at(a, i)->initialised = known;
}

/* A variable of the program: all of it holds something from the start. */
void know_all(Array &a) {
    new_cells(a);
    mark(a, 0, a.bytes, 1);
}

//@ allocate: Make an array of the device
void *allocate(size_t bytes, const char *label) {
    start();
    size_t own = (bytes + page) / page, around = std::min(own, size_t(1024));
    if (pages_used + own + 2 * around > heap_pages)
        return nullptr;
    Array a = {};
    a.base = heap + (pages_used + around) * page;
    a.bytes = bytes;
    a.element = 1;
    a.grain = 4;
    a.name = label ? label : "array" + std::to_string(arrays.size());
    a.label = label_of(a.name);
    new_cells(a);
    arrays.push_back(a);
    pages_used += own + 2 * around;
    owner.resize(pages_used);
    for (size_t i = pages_used - own - 2 * around; i < pages_used; i++)
        owner[i] = &arrays.back();
    memset(a.base, 0xff, bytes); /* NaN, or -1: not what anybody expects */
    return a.base;
}

//@ release: Find an array by its address, and free it
static Array *in_heap(const void *p) {
    size_t i = size_t(static_cast<const char *>(p) - heap) / page;
    return heap && p >= heap && i < owner.size() ? owner[i] : nullptr;
}

bool release(void *pointer) {
    Array *a = in_heap(pointer);
    if (!pointer)
        return true;
    if (!a || a->base != pointer || a->freed)
        return false;
    a->freed = true;
    drop_cells(*a);
    madvise(a->base, a->bytes, MADV_DONTNEED);
    return true;
}

//@ host: Copy and fill from the host, and name arrays
static Array *whole(const void *p, size_t bytes, size_t *offset) {
    Array *a = in_heap(p);
    *offset = a ? size_t(static_cast<const char *>(p) - a->base) : 0;
    return a && !a->freed && *offset + bytes <= a->bytes ? a : nullptr;
}

static bool on_device(const void *p) {
    const char *c = static_cast<const char *>(p);
    return heap && c >= heap && c < heap + heap_pages * page;
}

bool copy(void *to, const void *from, size_t bytes) {
    size_t at, source;
    Array *a = whole(to, bytes, &at), *b = whole(from, bytes, &source);
    if (!bytes)
        return true;
    if (!to || !from || (!a && on_device(to)) || (!b && on_device(from))) {
        refused("cudaMemcpy", to && from
                                  ? "more bytes than the array has, or freed"
                                  : "a null pointer");
        return false;
    }
    memmove(to, from, bytes);
    if (!a)
        return true;
    mark(*a, at, bytes, 1);
    for (size_t i = 0; b && i < bytes; i += a->grain)
        cell_at(*a, at + i)->initialised =
            cell_at(*b, source + i)->initialised;
    return true;
}

//@ fill: Fill an array from the host
bool fill(void *to, int byte, size_t bytes) {
    size_t at;
    Array *a = whole(to, bytes, &at);
    if (!bytes)
        return true;
    if (!a) {
        refused("cudaMemset", "more bytes than the array has, or freed");
        return false;
    }
    memset(to, byte, bytes);
    mark(*a, at, bytes, 1);
    return true;
}

//@ names: Name arrays after parameters
void name(const void *pointer, const char *label, size_t element) {
    Array *a = in_heap(pointer);
    if (!a || a->freed)
        return;
    if (label) {
        a->name = label;
        a->label = label_of(label);
    }
    a->element = element;
}

/* A launch names arrays after the parameters that point to them. */
void name_arguments(const char *names, const Argument *list, int count) {
    for (int i = 0; i < count && *names; i++) {
        size_t n = strcspn(names, ",");
        if (list[i].pointer)
            name(list[i].pointer, std::string(names, n).c_str(),
                 list[i].element);
        names += n + (names[n] == ',');
    }
}

//@ window: Give a block its shared memory
static void new_shared(Block &b, const char *label, size_t bytes,
                       size_t element) {
    Array a = {};
    a.base = windows_base + size_t(b.slot) * window + b.window_used;
    a.bytes = bytes;
    a.element = element;
    a.grain = 4;
    a.name = label;
    a.label = label_of(label);
    a.shared = true;
    new_cells(a);
    memset(a.base, 0xff, bytes);
    b.window_used += (bytes + 127) / 128 * 128 + gap;
    b.arrays.push_back(a);
}

void open_window(Block &b) {
    start();
    b.window_used = gap;
    new_shared(b, "shared", now.c.shared, 1);
}

void close_window(Block &b) {
    for (Array &a : b.arrays)
        drop_cells(a);
    b.arrays.clear();
    b.known.clear();
}

//@ shared: Find a shared array by its key
void *dynamic(const char *label, size_t element) {
    Array &a = me->block->arrays[0];
    a.name = label;
    a.label = label_of(label);
    a.element = element;
    return a.base;
}

/* nvcc takes no more than 48 KiB of arrays with a fixed size, and a device no
 * more than 227 KiB in all. */
static void check_room(const Block &b, size_t bytes) {
    for (size_t i = 1; i < b.arrays.size(); i++)
        bytes += b.arrays[i].bytes;
    const char *why = bytes > 48 * 1024
                          ? "more than 48 KiB of shared arrays of fixed size"
                      : bytes + now.c.shared > 227 * 1024
                          ? "more than 227 KiB of shared memory"
                          : nullptr;
    if (!why)
        return;
    refused(now.kernel, why);
    give_up(why);
}

void *shared(const void *key, const char *label, size_t bytes,
             size_t element) {
    Block &b = *me->block;
    auto p = b.known.find(key);
    if (p != b.known.end())
        return b.arrays[size_t(p->second)].base;
    check_room(b, bytes);
    b.known[key] = int(b.arrays.size());
    new_shared(b, label, bytes, element);
    return b.arrays.back().base;
}

//@ array-of: Find the array that an address belongs to
/* In a block's window: the array that is nearest. */
Array *array_of(const void *p) {
    const char *c = static_cast<const char *>(p);
    if (c < windows_base || c >= windows_base + windows * window)
        return in_heap(p);
    Block &b = *me->block;
    if (size_t(c - windows_base) / window != size_t(b.slot))
        return nullptr; /* another block's */
    Array *best = nullptr;
    ptrdiff_t least = 0;
    for (Array &a : b.arrays) {
        ptrdiff_t far = std::max(a.base - c, c - (a.base + a.bytes) + 1);
        if (!best || far < least) {
            best = &a;
            least = far;
        }
    }
    return best;
}

//@ harmless: Tell addresses that are nobody's business
/* The loaded program's own pages hold its constants, and threadIdx; its
 * variables are looked up in global.cpp. */
struct Range {
    const char *from, *to;
};

static int add_module(dl_phdr_info *info, size_t, void *data) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &h = info->dlpi_phdr[i];
        const char *at =
            reinterpret_cast<const char *>(info->dlpi_addr + h.p_vaddr);
        if (h.p_type == PT_LOAD)
            static_cast<std::vector<Range> *>(data)->push_back(
                Range{at, at + h.p_memsz});
    }
    return 0;
}

//@ harmless-address: Look an address up among them
static bool harmless(const void *p) {
    static std::vector<Range> modules;
    const char *c = static_cast<const char *>(p);
    const char *args = static_cast<const char *>(now.call.self);
    if (modules.empty())
        dl_iterate_phdr(add_module, &modules);
    if (c >= args && c < args + now.call.size)
        return true;
    for (const Range &r : modules)
        if (c >= r.from && c < r.to)
            return true;
    return false;
}

//@ bounds: Refuse what lies outside
/* True if the access may go on to be judged. An address that is no array's
 * would be the end of the kernel on a device too. */
static bool inside(const void *p, size_t bytes, uint32_t site, Array *a,
                   bool wrote) {
    if (!a || a->freed) {
        find(OUT_OF_BOUNDS, site, a, (long long)(uintptr_t(p)), me, nullptr,
             wrote, false);
        give_up("an access outside of all arrays");
    }
    ptrdiff_t offset = static_cast<const char *>(p) - a->base;
    ptrdiff_t size = ptrdiff_t(a->bytes), each = ptrdiff_t(a->element);
    if (offset < 0 || offset + ptrdiff_t(bytes) > size) {
        ptrdiff_t first = offset >= 0 && offset < size ? size : offset;
        long long index = first / each;
        if (first < 0)
            index = -((-first - 1) / each) - 1;
        find(OUT_OF_BOUNDS, site, a, index, me, nullptr, wrote, false);
        return false;
    }
    return true;
}

//@ alignment: Refuse a misaligned access
static void check_aligned(const void *p, size_t bytes, uint32_t site,
                          Array *a, bool wrote) {
    if (bytes > 16 || (bytes & (bytes - 1)) || uintptr_t(p) % bytes == 0)
        return;
    ptrdiff_t offset = static_cast<const char *>(p) - a->base;
    find(MISALIGNED, site, a, offset / ptrdiff_t(a->element), me, nullptr,
         wrote, false);
    if (bytes == 16)
        give_up("a misaligned access");
}

//@ known: Ask whether somebody has written what is read
/* A struct that is copied whole may have gaps that nobody writes; of an access
 * that can only be such a copy, some bytes must be known. */
static bool is_known(const Array &a, size_t offset, size_t bytes) {
    if (bytes <= 16 && (bytes & (bytes - 1)) == 0)
        return false;
    for (size_t i = offset; i < offset + bytes; i += a.grain)
        if (cell_at(a, i)->initialised)
            return true;
    return false;
}

//@ access: Judge one access
void access(const void *p, size_t bytes, Access kind, uint32_t site) {
    bool wrote = kind != READ && kind != COPY_FROM;
    Array *a = array_of(p);
    if (!a && kind != COPY_TO && harmless(p)) {
        a = variable_at(p, bytes);
        if (!a)
            return;
    }
    if (kind != ARRIVE && a && !a->freed && !a->constant) {
        bool read = kind == READ || kind == COPY_FROM;
        count_access(site, kind == ATOMIC ? ATOMIC_USE : read ? LOAD : STORE,
                     p, bytes, *a);
    }
    if (!inside(p, bytes, site, a, wrote))
        return;
    check_aligned(p, bytes, site, a, wrote);
    size_t offset = size_t(static_cast<const char *>(p) - a->base);
    if (a->grain > 1 && (offset % a->grain || bytes % a->grain))
        refine(*a);
    bool reads = kind == READ || kind == COPY_FROM || kind == ATOMIC;
    reads = reads && !is_known(*a, offset, bytes);
    for (size_t i = offset; i < offset + bytes; i += a->grain) {
        Cell &cell = *cell_at(*a, i);
        bool raced = cell.pending && cell.write.launch == now.number;
        if (reads && !cell.initialised && !raced)
            find(UNINITIALISED, site, a, (long long)(i / a->element), me,
                 nullptr, wrote, false);
        check_race(*a, cell, i, kind, site);
    }
}

//@ copies: Let asynchronous copies arrive at their wait
void copy_async(void *to, const void *from, int bytes, int zeros) {
    uint32_t site = site_of(__builtin_return_address(0));
    if (zeros < bytes)
        access(from, size_t(bytes - zeros), COPY_FROM, site);
    access(to, size_t(bytes), COPY_TO, site);
    me->copies.push_back(Copy{static_cast<char *>(to),
                              static_cast<const char *>(from), bytes, zeros,
                              me->group, site});
}

void copy_commit() { me->group++; }

void copy_wait(int pending) {
    unsigned n = unsigned(pending);
    land(*me, me->group > n ? me->group - n : 0);
}

//@ landing: Let the bytes arrive
/* Copies of groups below `groups` arrive. */
void land(Lane &lane, unsigned groups) {
    size_t left = 0;
    for (const Copy &c : lane.copies) {
        if (c.group >= groups) {
            lane.copies[left++] = c;
            continue;
        }
        memcpy(c.to, c.from, size_t(c.bytes - c.zeros));
        memset(c.to + c.bytes - c.zeros, 0, size_t(c.zeros));
        access(c.to, size_t(c.bytes), ARRIVE, c.site);
    }
    lane.copies.resize(left);
}

//@ host-touches: Notice a host that reads what is not its own
static void host_touches(const void *from) {
    const Line &at = line_of(site_of(from));
    refused((at.file + ":" + std::to_string(at.line)).c_str(),
            "the host touches memory of the device: use cudaMemcpy");
}

//@ callback: Take the compiler's word for each access
/* A thread that has made very many accesses without stopping may be waiting
 * for another: let that one run. */
static uint64_t accesses; /* of all threads */

static inline void seen(const void *p, size_t bytes, Access kind,
                        const void *from) {
    const char *c = static_cast<const char *>(p);
    if (!me && on_device(p))
        host_touches(from);
    if (!me || (c >= me->fiber.stack && c < me->fiber.stack + stack_bytes))
        return;
    if (p >= &threadIdx && p < &threadIdx + 1)
        return; /* asked for most often */
    uint32_t site = site_of(from);
    access(p, bytes, kind, site);
    if (++me->accesses % (1 << 20) == 0)
        let_others(site, 1 << 20);
    accesses++;
}

uint64_t progress() { return accesses + turns(); }

} // namespace sim

#define SEEN(bytes, kind) \
    sim::seen(p, bytes, sim::kind, __builtin_return_address(0))
#define CALLBACKS(n) \
    void __tsan_read##n(void *p) { SEEN(n, READ); } \
    void __tsan_write##n(void *p) { SEEN(n, WRITE); } \
    void __tsan_unaligned_read##n(void *p) { SEEN(n, READ); } \
    void __tsan_unaligned_write##n(void *p) { SEEN(n, WRITE); }

//@ callbacks: Define what the sanitizer calls
extern "C" {
CALLBACKS(1)
CALLBACKS(2)
CALLBACKS(4)
CALLBACKS(8)
CALLBACKS(16)
void __tsan_read_range(void *p, unsigned long n) { SEEN(n, READ); }
void __tsan_write_range(void *p, unsigned long n) { SEEN(n, WRITE); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
