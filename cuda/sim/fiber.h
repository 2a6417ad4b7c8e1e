//@ top: Declare a thread that can be put aside
/* fiber.h - a stack and a place in a program, to be left and come back to.
 *
 * A GPU keeps tens of thousands of threads, each with its registers. We keep
 * one stack for each; switching means saving the registers that a called
 * function must preserve, and taking up another stack. */
#ifndef SIM_FIBER_H
#define SIM_FIBER_H

#include <cstddef>
#if !defined(__x86_64__) || defined(SIM_UCONTEXT)
#define SIM_PORTABLE 1
#include <ucontext.h>
#endif

//@ fiber: Hold a place to come back to
namespace sim {

constexpr size_t stack_bytes = 64 * 1024;

struct Fiber {
#ifdef SIM_PORTABLE
    ucontext_t context;
#else
    void *top; /* of the stack, where the registers lie */
#endif
    char *stack; /* lowest byte; NULL for the scheduler, who has its own */
};

/* Stacks from a pool; the page below each is out of bounds for everybody. */
char *new_stack();
void old_stack(char *stack); /* for the next who wants one */
void prepare(Fiber *fiber, void (*entry)());
void change(Fiber *from, Fiber *to);

} // namespace sim

#endif
