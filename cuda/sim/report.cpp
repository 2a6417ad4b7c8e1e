//@ top: Tell what was found, and where
/* report.cpp - findings, and the lines of source they belong to.
 *
 * A place in the code is known by a return address. The program addr2line (of
 * the package binutils, which every installed compiler brings along) turns
 * addresses into lines with the help of the debug information; it knows about
 * functions that were inlined, so that an access inside a helper of kv.cuh is
 * reported at the line that called the helper. It is asked once, for all
 * addresses together, when the first line is wanted. */
#include "state.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>
#include <unordered_map>

namespace sim {

//@ sites: Number the places of the code
static std::vector<const char *> sites;
static std::vector<Line> lines;

uint32_t site_of(const void *return_address) {
    constexpr size_t slots = 1 << 14;
    static struct {
        const void *address;
        uint32_t site;
    } cache[slots];
    static std::unordered_map<const void *, uint32_t> known;
    auto &slot = cache[(uintptr_t(return_address) >> 1) % slots];
    if (slot.address == return_address)
        return slot.site;
    auto p = known.insert({return_address, uint32_t(sites.size())});
    if (p.second)
        sites.push_back(static_cast<const char *>(return_address));
    slot = {return_address, p.first->second};
    return p.first->second;
}

//@ ours: Prefer a line of the kernel to one of its helpers
static std::string shorten(const char *path) {
    char here[4096];
    size_t n = getcwd(here, sizeof here) ? strlen(here) : 0;
    if (n && !strncmp(path, here, n) && path[n] == '/')
        path += n + 1;
    return path;
}

static bool is_helper(const std::string &file) {
    size_t n = file.size();
    return (n >= 6 && file.compare(n - 6, 6, "kv.cuh") == 0) ||
           (n >= 5 && file.compare(n - 5, 5, "sim.h") == 0) ||
           file.find("/c++/") != std::string::npos;
}

/* Frames come innermost first; take the first that is no helper's. */
static void take_frame(Line &line, char *text) {
    char *colon = strrchr(text, ':');
    if (!colon)
        return;
    *colon = 0;
    std::string file = shorten(text);
    if (line.file.empty() || is_helper(line.file)) {
        line.file = file;
        line.line = atoi(colon + 1);
    }
}

//@ look-up: Ask addr2line for the lines of many addresses
/* Of a position-independent program it wants offsets from the beginning. The
 * call ends one byte before the return address. */
static unsigned long offset_of(const char *address, std::string &module) {
    Dl_info info;
    if (!dladdr(address, &info))
        return 0;
    const Elf64_Ehdr *h = static_cast<const Elf64_Ehdr *>(info.dli_fbase);
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    bool is_program = !strchr(info.dli_fname, '/') ||
                      ::access(info.dli_fname, R_OK) != 0;
    module = is_program && n > 0 ? std::string(self, size_t(n))
                                 : info.dli_fname;
    const char *base = static_cast<const char *>(info.dli_fbase);
    return (unsigned long)(address - 1 - (h->e_type == ET_EXEC ? 0 : base));
}

//@ ask: Run it and read its answer
static void look_up(const std::string &module,
                    const std::vector<std::pair<unsigned long, uint32_t>> &v) {
    std::string command = "addr2line -a -i -e '" + module + "'";
    char text[4200];
    for (auto &item : v) {
        snprintf(text, sizeof text, " 0x%lx", item.first);
        command += text;
    }
    FILE *f = popen((command + " 2>/dev/null").c_str(), "r");
    size_t i = 0;
    while (f && fgets(text, sizeof text, f)) {
        text[strcspn(text, "\n")] = 0;
        if (!strncmp(text, "0x", 2))
            i++;
        else if (i && i <= v.size())
            take_frame(lines[v[i - 1].second], text);
    }
    if (f)
        pclose(f);
}

//@ line-of: Find a line, and all that are not yet known with it
const Line &line_of(uint32_t site) {
    if (site < lines.size())
        return lines[site];
    size_t from = lines.size();
    lines.resize(sites.size(), Line{"", 0});
    std::map<std::string, std::vector<std::pair<unsigned long, uint32_t>>> ask;
    for (size_t i = from; i < sites.size(); i++) {
        std::string module;
        unsigned long offset = offset_of(sites[i], module);
        auto &v = ask[module];
        v.push_back({offset, uint32_t(i)});
        if (v.size() == 1000) {
            look_up(module, v);
            v.clear();
        }
    }
    for (auto &item : ask)
        if (!item.second.empty())
            look_up(item.first, item.second);
    return lines[site];
}

//@ find: Keep each finding once, with the number of times
struct Finding {
    Kind kind;
    std::string kernel, array;
    uint32_t site, other_site;
    bool wrote, other_wrote, freed;
    bool by_type;
    long long index;
    uint3 thread, block, other_thread, other_block;
    uint64_t times;
    unsigned orders; /* in which of them, one bit each */
};

static std::vector<Finding> found;
static std::map<std::tuple<Kind, uint32_t, uint32_t, int, std::string>, size_t>
    known;
static int current; /* order */

//@ find-once: Note a finding
static uint3 unfold(uint32_t i, dim3 d) {
    return uint3{i % d.x, i / d.x % d.y, i / d.x / d.y};
}

static void note(Finding &f, const Lane *lane, const Record *other) {
    f.kernel = now.kernel;
    f.thread = lane->index;
    f.block = lane->block->index;
    if (other) {
        f.other_thread = unfold(other->thread, now.c.block);
        f.other_block = unfold(other->block, now.c.grid);
    }
    found.push_back(f);
}

//@ find-again: Or count it once more
/* The same two places and the same array make the same mistake. */
void find(Kind kind, uint32_t site, const Array *array, long long index,
          const Lane *lane, const Record *other, bool wrote,
          bool other_wrote) {
    uint32_t site2 = other ? other->site : site;
    int label = array ? array->label : -1;
    auto p = known.insert({{kind, std::min(site, site2),
                            std::max(site, site2), label, now.kernel},
                           found.size()});
    if (p.second) {
        Finding f = {};
        f.kind = kind;
        f.array = array ? array->name : "";
        f.freed = array && array->freed;
        f.by_type = array && array->by_type;
        f.site = site;
        f.other_site = site2;
        f.wrote = wrote;
        f.other_wrote = other_wrote;
        f.index = index;
        note(f, lane, other);
    }
    found[p.first->second].times++;
    found[p.first->second].orders |= 1u << current;
}

//@ refused: Keep launches and copies that were refused, each once
static std::vector<std::string> refusals;

bool any_findings() { return !found.empty(); }

void refused(const char *what, const char *why) {
    std::string text = std::string(what) + ": " + why;
    if (std::find(refusals.begin(), refusals.end(), text) == refusals.end())
        refusals.push_back(text);
}

//@ say: Write a finding as a line
static const char *kinds[] = {"out-of-bounds", "misaligned", "race",
                              "divergent-barrier", "absent-lane",
                              "uninitialised", "stuck"};

static std::string at(uint3 v) {
    char text[64];
    if (v.y || v.z)
        snprintf(text, sizeof text, "(%u,%u,%u)", v.x, v.y, v.z);
    else
        snprintf(text, sizeof text, "%u", v.x);
    return text;
}

//@ what: Say what was touched, or who was missing
static std::string what(const Finding &f) {
    char text[256];
    if (f.kind == DIVERGENT_BARRIER)
        snprintf(text, sizeof text, "reached by %lld threads", f.index);
    else if (f.kind == ABSENT_LANE)
        snprintf(text, sizeof text, "lane %lld", f.index);
    else if (f.kind == STUCK)
        snprintf(text, sizeof text, "waits for ever");
    else if (f.freed)
        snprintf(text, sizeof text, "%.200s, freed", f.array.c_str());
    else if (f.array.empty())
        snprintf(text, sizeof text, "address 0x%llx of no array", f.index);
    else
        snprintf(text, sizeof text, "%.200s[%lld]", f.array.c_str(), f.index);
    return text;
}

static std::string place(uint32_t site) {
    const Line &l = line_of(site);
    return l.file + ":" + std::to_string(l.line);
}

//@ say-line: Put its parts together
static void say(const Finding &f) {
    const char *did[] = {"read", "write"};
    printf("%-17s %s", kinds[f.kind], place(f.site).c_str());
    if (f.kind == RACE)
        printf(" (%s) and %s (%s)", did[f.wrote], place(f.other_site).c_str(),
               did[f.other_wrote]);
    else if ((f.kind == OUT_OF_BOUNDS && !f.by_type) || f.kind == MISALIGNED)
        printf(" (%s)", did[f.wrote]);
    printf("  %s  thread %s, block %s", what(f).c_str(), at(f.thread).c_str(),
           at(f.block).c_str());
    if (f.kind == RACE)
        printf(" and thread %s, block %s", at(f.other_thread).c_str(),
               at(f.other_block).c_str());
    printf("  in %s", f.kernel.c_str());
    if (f.times > 1)
        printf("  (%llu times)", (unsigned long long)f.times);
    printf("\n");
}

//@ say-json: Write a finding as JSON
static void say_json(const Finding &f) {
    const Line a = line_of(f.site), b = line_of(f.other_site);
    printf("  {\"kind\": \"%s\", \"kernel\": \"%s\", \"file\": \"%s\", "
           "\"line\": %d, \"other_file\": \"%s\", \"other_line\": %d,\n"
           "   \"array\": \"%s\", \"index\": %lld, \"wrote\": %s, "
           "\"other_wrote\": %s,\n",
           kinds[f.kind], f.kernel.c_str(), a.file.c_str(), a.line,
           b.file.c_str(), b.line, f.array.c_str(), f.index,
           f.wrote ? "true" : "false", f.other_wrote ? "true" : "false");
    printf("   \"thread\": [%u, %u, %u], \"block\": [%u, %u, %u], "
           "\"other_thread\": [%u, %u, %u], \"other_block\": [%u, %u, %u], "
           "\"times\": %llu, \"orders\": %u}",
           f.thread.x, f.thread.y, f.thread.z, f.block.x, f.block.y, f.block.z,
           f.other_thread.x, f.other_thread.y, f.other_thread.z,
           f.other_block.x, f.other_block.y, f.other_block.z,
           (unsigned long long)f.times, f.orders);
}

//@ options: Read the command line
static std::vector<std::pair<Order, uint64_t>> chosen;
static bool as_json, quiet;

static bool add_order(const char *text) {
    const char *names[] = {"ascending", "descending", "strided", "shuffled"};
    for (int i = 0; i < 4; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(text, names[i], n) || (text[n] && text[n] != ':'))
            continue;
        uint64_t seed = text[n] ? strtoull(text + n + 1, nullptr, 10) : 1;
        chosen.push_back({Order(i), seed});
        return true;
    }
    if (strcmp(text, "all"))
        return false;
    for (int i = 0; i < 4; i++)
        chosen.push_back({Order(i), 1});
    return true;
}

//@ option-words: Read the other options
void options(int argc, char **argv) {
    bool good = true;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--order") && i + 1 < argc)
            good &= add_order(argv[++i]);
        else if (!strcmp(argv[i], "--json"))
            as_json = true;
        else if (!strcmp(argv[i], "--quiet"))
            quiet = true;
        else
            good = false;
    if (!good) {
        fprintf(stderr, "options: --json, --quiet, --order ascending, "
                        "descending, strided, shuffled[:SEED] or all\n");
        exit(2);
    }
    if (chosen.empty())
        add_order("all");
    watch();
}

//@ environment: Read them from a variable instead
void options_from_environment() {
    const char *words = getenv("CUSIM");
    std::vector<std::string> list(1, "cusim");
    for (const char *p = words ? words : ""; *p; p++)
        if (*p == ' ')
            list.push_back("");
        else if (*p != '\'')
            list.back() += *p;
    std::vector<char *> argv;
    for (std::string &word : list)
        argv.push_back(&word[0]);
    options(int(argv.size()), argv.data());
    use_order(0);
}

//@ use-order: Switch to the next order
int orders() { return int(chosen.size()); }

void use_order(int i) {
    if (i)
        reset_variables();
    counting = i == 0;
    current = i;
    set_order(chosen[size_t(i)].first, chosen[size_t(i)].second);
}

//@ sift: Leave out what is said twice
/* Where an access outside of an array was seen, the compiler's word that the
 * index is wrong adds nothing. */
static void sift() {
    std::vector<Finding> kept;
    for (const Finding &f : found) {
        bool again = false;
        for (const Finding &g : found)
            again |= f.by_type && !g.by_type && g.kind == OUT_OF_BOUNDS &&
                     same_line(f.site, g.site) && f.kernel == g.kernel;
        if (!again)
            kept.push_back(f);
    }
    found = kept;
}

//@ report: Print everything
int report() {
    sift();
    if (as_json) {
        printf("{\"kernels\": [\n%s],\n \"findings\": [\n",
               tables(true).c_str());
        for (size_t i = 0; i < found.size(); i++) {
            say_json(found[i]);
            printf("%s\n", i + 1 < found.size() ? "," : "");
        }
        printf("], \"refused\": [");
        for (const std::string &text : refusals)
            printf("%s\"%s\"", &text == &refusals[0] ? "" : ", ",
                   text.c_str());
        printf("]}\n");
    } else {
        if (!quiet)
            fputs(tables(false).c_str(), stdout);
        for (const Finding &f : found)
            say(f);
        for (const std::string &text : refusals)
            printf("refused           %s\n", text.c_str());
        if (found.empty() && refusals.empty())
            printf("nothing to complain about\n");
    }
    return !found.empty() ? 1 : !refusals.empty() ? 2 : 0;
}

//@ library: Answer a C program
extern "C" {
void sim_order(int order, uint64_t seed) { set_order(Order(order), seed); }

long sim_findings(void) { return long(found.size()); }

void sim_report(int with_tables) {
    if (with_tables)
        fputs(tables(false).c_str(), stdout);
    for (const Finding &f : found)
        say(f);
    fflush(stdout);
}

void sim_forget(void) {
    found.clear();
    known.clear();
    forget_counts();
}
}

//@ new-array: Make the array of a launch line
void cannot(const char *label, const char *why) {
    fprintf(stderr, "cusim: the array %s %s\n", label, why);
    exit(2);
}

void *new_array(const char *label, long long count, size_t element) {
    void *p = nullptr;
    if (count >= 0 && count < (1ll << 40) / (long long)element)
        p = allocate(size_t(count) * element, label);
    if (!p)
        cannot(label, count < 0 ? "has a negative length"
                                : "does not fit: arrays may have 128 GiB");
    name(p, label, element);
    return p;
}

bool is_zero(const char *how) {
    return !strcmp(how, "zero") || !strcmp(how, "0");
}

//@ initial: Give arrays their first content
/* What "=..." of a launch line means for element i. */
double initial(const char *how, size_t i) {
    static uint64_t state = 1;
    if (!strcmp(how, "index"))
        return double(i);
    if (strcmp(how, "random"))
        return atof(how);
    state = state * 6364136223846793005u + 1442695040888963407u;
    return double(state >> 33) / double(1u << 30) - 1;
}

} // namespace sim
