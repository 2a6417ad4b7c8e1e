/* Huge-page memory, see pages.h. Anonymous mappings start at any multiple of
 * 4 KiB, so one huge page more is mapped and the ends are given back. */
#define _GNU_SOURCE
#include "pages.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

static size_t rounded(size_t size)
{
    return (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

void *tm_pages(size_t size)
{
    if (size > SIZE_MAX - 2 * HUGE_PAGE)
        return NULL;
    size_t whole = rounded(size ? size : 1);
    char *raw = mmap(NULL, whole + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t front = (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
    if (front)
        munmap(raw, front);
    if (front < HUGE_PAGE)
        munmap(raw + front + whole, HUGE_PAGE - front);
#ifdef MADV_HUGEPAGE
    madvise(raw + front, whole, MADV_HUGEPAGE); /* a wish; ordinary pages will do */
#endif
    return raw + front;
}

void tm_pages_free(void *p, size_t size)
{
    if (p)
        munmap(p, rounded(size ? size : 1));
}
