//@ top: Put threads aside and take them up again
/* fiber.cpp - the switch between threads, and their stacks.
 *
 * On x86-64 a switch takes about 8 ns: push six registers, exchange the stack
 * pointer, pop six. Elsewhere (or with -DSIM_UCONTEXT) POSIX contexts do it;
 * they save the signal mask as well, by a call of the kernel, and take 200 ns.
 * Exceptions do not cross a switch, and the floating-point control word is
 * taken to be the same everywhere. */
#include "fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

//@ stack: Cut stacks from a large piece, each with a wall below
namespace sim {

static std::vector<char *> unused;

void old_stack(char *stack) { unused.push_back(stack); }

static char *cut_stack() {
    constexpr size_t each = stack_bytes, batch = 64;
    static char *piece = nullptr;
    static size_t used = batch;
    size_t page = size_t(sysconf(_SC_PAGESIZE));
    if (used == batch) {
        void *p = mmap(nullptr, batch * (each + page), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "cusim: no memory for the threads' stacks\n");
            exit(2);
        }
        piece = static_cast<char *>(p);
        used = 0;
    }
    char *wall = piece + used++ * (each + page);
    mprotect(wall, page, PROT_NONE);
    return wall + page;
}

//@ reuse: Take a used stack before a new one
char *new_stack() {
    if (unused.empty())
        return cut_stack();
    char *stack = unused.back();
    unused.pop_back();
    return stack;
}

/* Were all stacks to begin at the same place of a page, threads would push one
 * another out of the processor's first cache, which finds lines by that. */
static size_t usable(const Fiber *fiber) {
    size_t number = uintptr_t(fiber->stack) / stack_bytes;
    return stack_bytes - number % 31 * 128;
}

#ifndef SIM_PORTABLE
//@ switch: Exchange the stack under a running function
/* The System V convention: a call may destroy all registers but rbx, rbp,
 * r12 to r15 and the stack pointer. So these six are all there is to save;
 * "ret" then takes the place to go on from the new stack. */
extern "C" void sim_change(void **from, void *to);
asm(R"(
    .text
    .globl sim_change
    .type sim_change, @function
sim_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size sim_change, .-sim_change
)");

void change(Fiber *from, Fiber *to) { sim_change(&from->top, to->top); }

//@ prepare: Lay out a stack as if the thread had been put aside at its start
/* From the top: a return address of nobody (entry never returns), entry,
 * six registers. A function begins with its stack pointer 8 below a multiple
 * of 16, and so does entry. */
void prepare(Fiber *fiber, void (*entry)()) {
    void **top = reinterpret_cast<void **>(fiber->stack + usable(fiber));
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    fiber->top = top;
}

#else
//@ portable: Do the same with POSIX contexts
void change(Fiber *from, Fiber *to) {
    swapcontext(&from->context, &to->context);
}

void prepare(Fiber *fiber, void (*entry)()) {
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = usable(fiber);
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, entry, 0);
}
#endif

} // namespace sim
