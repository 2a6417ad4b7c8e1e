/* wanted: wrote more than */
#include <stdio.h>
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)p, (void)s, (void)n, (void)pinned, (void)window;
    for (;;)
        puts("a line that is printed again and again, until somebody stops it");
}
