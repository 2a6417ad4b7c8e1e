/* Large blocks of memory, zeroed, on huge pages where the system grants them.
 *
 * Reading half a gigabyte of weights through pages of 4 KiB spends a good part of the time on
 * address translation; with pages of 2 MiB reading is up to 1.4 times as fast. Where the system's
 * setting is "madvise" (Debian's default) a program has to ask. */
#ifndef TM_PAGES_H
#define TM_PAGES_H

#include <stddef.h>

/* size bytes aligned to 2 MiB, or NULL. Physical memory is used up as it is written to. */
void *tm_pages(size_t size);
void tm_pages_free(void *p, size_t size); /* the same size; NULL is harmless */

#endif
