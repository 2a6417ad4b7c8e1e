/* confine SECONDS MEGABYTES FILE-MEGABYTES [--closed] -- PROGRAM ARGUMENT...: run what a stranger wrote.
 *
 * Limits on processor time, memory (0: none) and the size of files hold in any case. With --closed, a
 * filter in the kernel lets pass only the system calls of a program that computes: memory, reading and
 * writing files that are already open, and the end. Opening files, starting processes, sending
 * signals and the network are answered with "operation not permitted". So nobody can read another's
 * answers, nor the expected ones, nor disturb the grader, whoever the grader runs as. The program must
 * be linked statically, as it cannot open libraries.
 *
 * Exit status 125: the limits could not be set; else the program's. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#endif

/* What a program that computes asks of the system. execve starts it, and later starts nothing that
 * would not be bound by the same filter. */
static const int allowed[] = {
    SYS_execve, SYS_exit, SYS_exit_group, SYS_read, SYS_write, SYS_writev, SYS_lseek, SYS_close, SYS_dup,
    SYS_fstat, SYS_brk, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_getpid, SYS_gettid,
    SYS_futex, SYS_set_tid_address, SYS_set_robust_list, SYS_getrandom, SYS_clock_gettime,
    SYS_newfstatat, SYS_dup3, SYS_uname, SYS_sysinfo, SYS_sched_yield, SYS_sched_getaffinity,
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_arch_prctl
    SYS_arch_prctl,
#endif
#ifdef SYS_dup2
    SYS_dup2,
#endif
};
enum { ALLOWED = sizeof allowed / sizeof *allowed };

static int fail(const char *what)
{
    fprintf(stderr, "confine: %s: %s\n", what, strerror(errno));
    return 125;
}

static int limit(int kind, unsigned long most)
{
    struct rlimit r = {most, most};
    return setrlimit(kind, &r);
}

#ifdef MACHINE
/* One filter instruction: what to do, with what, and how far to jump if it is so or not. */
static struct sock_filter step(int code, unsigned k, int yes, int no)
{
    return (struct sock_filter){(unsigned short)code, (unsigned char)yes, (unsigned char)no, k};
}

/* abort() sends a signal to its own process: tgkill may do that and no more. Limits may be asked for,
 * by prlimit64, but only its own (process 0). */
static int close_doors(void)
{
    struct sock_filter f[ALLOWED + 12];
    int n = 0;
    unsigned number = offsetof(struct seccomp_data, nr), machine = offsetof(struct seccomp_data, arch);
    unsigned first = offsetof(struct seccomp_data, args);
    f[n++] = step(BPF_LD | BPF_W | BPF_ABS, machine, 0, 0);
    f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0);
    f[n++] = step(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
    f[n++] = step(BPF_LD | BPF_W | BPF_ABS, number, 0, 0);
    for (int i = 0; i < ALLOWED; i++) /* jump to the last instruction */
        f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], ALLOWED - i - 1 + 7, 0);
    f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 2);
    f[n++] = step(BPF_LD | BPF_W | BPF_ABS, first, 0, 0);
    f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)getpid(), 4, 3);
    f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 2);
    f[n++] = step(BPF_LD | BPF_W | BPF_ABS, first, 0, 0);
    f[n++] = step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    f[n++] = step(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
    f[n++] = step(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog program = {(unsigned short)n, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}
#else
static int close_doors(void)
{
    errno = ENOSYS;
    return -1;
}
#endif

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: confine SECONDS MEGABYTES FILE-MEGABYTES [--closed] -- PROGRAM ...\n");
        return 125;
    }
    unsigned long seconds = strtoul(argv[1], NULL, 10), megabytes = strtoul(argv[2], NULL, 10);
    unsigned long file = strtoul(argv[3], NULL, 10);
    int closed = !strcmp(argv[4], "--closed");
    char **program = argv + (closed ? 6 : 5);
    if (limit(RLIMIT_CPU, seconds) || limit(RLIMIT_FSIZE, file << 20) || limit(RLIMIT_CORE, 0) ||
        (megabytes && limit(RLIMIT_AS, megabytes << 20)))
        return fail("limits");
    if (closed && close_doors())
        return fail("this system lets no program be closed in (seccomp)");
    execvp(program[0], program);
    return fail(program[0]);
}
