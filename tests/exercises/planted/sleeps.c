/* wanted: waits for something that never comes, in case 'one key' */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    int word = 0;
    (void)p, (void)s, (void)n, (void)pinned, (void)window;
    syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
}
