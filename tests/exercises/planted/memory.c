/* wanted: wants more memory than the limit of */
#include <stdlib.h>
#include <string.h>
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)p, (void)s, (void)n, (void)pinned, (void)window;
    for (;;)
        memset(malloc(1 << 24), 1, 1 << 24);
}
