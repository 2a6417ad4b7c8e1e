//@ top: Catch what no access to an array shows
/* fault.cpp - three mistakes that happen outside of all arrays.
 *
 * An array that is local to a thread lies on its stack, where nobody looks on.
 * But the compiler knows how long it is, and can test each index
 * (-fsanitize=bounds); so it can for a row of a matrix, which ends although
 * the matrix goes on. Its own library is not linked: the function that is told
 * of a wrong index is defined here. Second, a thread may break off: divide an
 * integer by zero, or use up its stack. Third, it may go round for ever
 * without touching memory. The operating system tells us of both. */
#include "state.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

namespace sim {

//@ wrong-index: Understand what the compiler says
struct Type {
    uint16_t kind, info; /* of integers: is signed; 2 * log2 of the bits */
    char name[1];
};

struct WrongIndex {
    const char *file;
    uint32_t line, column; /* of the ] */
    const Type *array, *index;
};

static long long value_of(const Type &type, void *bits) {
    int unused = 64 - (1 << (type.info >> 1));
    uint64_t v = uint64_t(uintptr_t(bits)) << unused;
    return type.info & 1 ? int64_t(v) >> unused : (long long)(v >> unused);
}

//@ expression: Find in the source what was indexed
/* Back from the ] over its bracket, then over words, dots, arrows and further
 * brackets: of "s += p->row[i][j];" that is p->row[i]. */
static std::string expression(const std::string &line, size_t end) {
    int depth = 0;
    size_t i = end;
    for (;; i--) {
        depth += line[i] == ']' ? 1 : line[i] == '[' ? -1 : 0;
        if (depth == 0 || i == 0)
            break;
    }
    size_t stop = i;
    for (; i > 0; i--) {
        char c = line[i - 1];
        depth += c == ']' ? 1 : c == '[' ? -1 : 0;
        bool arrow = c == '>' && i > 1 && line[i - 2] == '-';
        bool word = isalnum((unsigned char)c) || strchr("_.[]", c);
        if (depth < 0 || (depth == 0 && !word && !arrow))
            break;
        i -= arrow;
    }
    return line.substr(i, stop - i);
}

//@ array-name: Name the array, or at least its type
static std::string name_of(const WrongIndex &w) {
    std::ifstream in(w.file);
    std::string line, name;
    for (uint32_t i = 0; i < w.line; i++)
        std::getline(in, line);
    size_t end = w.column - 1;
    if (in && end < line.size() && line[end] == ']')
        name = expression(line, end);
    if (name.empty())
        return std::string("an array ") + w.array->name + " ";
    return name;
}

//@ shared-or-not: Go on only if no harm can come of it
/* A wrong index of a shared array harms nobody but other shared arrays. */
static bool is_shared(const std::string &name) {
    for (const Array &a : me->block->arrays)
        if (a.name == name.substr(0, a.name.size()))
            return true;
    return false;
}

static void wrong_index(const WrongIndex &w, void *index, const void *from) {
    if (!me)
        return;
    Array a = {};
    a.name = name_of(w);
    a.label = label_of(a.name);
    a.by_type = true;
    find(OUT_OF_BOUNDS, site_of(from), &a, value_of(*w.index, index), me,
         nullptr, false, false);
    if (!is_shared(a.name))
        give_up("an index outside of a local array");
}

//@ broken-off: Say why a thread broke off
static const char *reason(int signal, const char *at) {
    const char *bottom = me->fiber.stack;
    if (signal == SIGFPE)
        return "an integer was divided by zero";
    if (signal == SIGABRT)
        return "stopped by assert or abort";
    if (at >= bottom - 4096 && at < bottom + 4096)
        return "its local arrays and calls take more than 64 KiB";
    return strsignal(signal);
}

static const void *program_counter(void *context) {
    (void)context;
#if defined(__x86_64__)
    auto &c = static_cast<ucontext_t *>(context)->uc_mcontext;
    return reinterpret_cast<const char *>(c.gregs[REG_RIP]) + 1;
#elif defined(__aarch64__)
    auto &c = static_cast<ucontext_t *>(context)->uc_mcontext;
    return reinterpret_cast<const char *>(c.pc) + 1;
#else
    return nullptr;
#endif
}

//@ break-off: End the program with what was found so far
static void broken(int number, siginfo_t *info, void *context) {
    signal(number, SIG_DFL);
    if (!me) { /* not a kernel's doing: let it happen again */
        if (number == SIGABRT)
            raise(number);
        return;
    }
    const char *why = reason(number, static_cast<char *>(info->si_addr));
    Line at = line_of(site_of(program_counter(context)));
    std::string place = at.file + ":" + std::to_string(at.line) + ": ";
    if (any_findings())
        report();
    fflush(stdout);
    fprintf(stderr, "cusim: %skernel %s broke off in thread (%u,%u,%u) of "
            "block (%u,%u,%u): %s\n", number == SIGABRT ? "" : place.c_str(),
            now.kernel, me->index.x, me->index.y, me->index.z,
            me->block->index.x, me->block->index.y, me->block->index.z, why);
    _exit(2);
}

//@ clock: Look now and then whether anything happens
/* Five seconds of work in which a thread neither touches memory nor stops. */
static void look(int, siginfo_t *, void *context) {
    static uint64_t last, same;
    uint64_t now_done = progress();
    same = me && now_done == last ? same + 1 : 0;
    last = now_done;
    if (same < 5)
        return;
    find(STUCK, site_of(program_counter(context)), nullptr, 0, me, nullptr,
         false, false);
    int code = report();
    fflush(stdout);
    _exit(code);
}

//@ watch: Ask the operating system to tell us
void watch() {
    static char own_stack[256 * 1024];
    stack_t stack = {};
    stack.ss_sp = own_stack;
    stack.ss_size = sizeof own_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction a = {};
    a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    a.sa_sigaction = broken;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
        sigaction(number, &a, nullptr);
    a.sa_sigaction = look;
    sigaction(SIGVTALRM, &a, nullptr);
    itimerval each = {{1, 0}, {1, 0}};
    setitimer(ITIMER_VIRTUAL, &each, nullptr);
}

} // namespace sim

//@ told: Be told of a wrong index
extern "C" void __ubsan_handle_out_of_bounds(void *what, void *index) {
    sim::wrong_index(*static_cast<sim::WrongIndex *>(what), index,
                     __builtin_return_address(0));
}
