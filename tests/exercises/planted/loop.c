/* wanted: of computing: an endless loop?, in case 'one key' */
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)s, (void)n, (void)pinned, (void)window;
    for (volatile int i = 0; i >= 0; i ^= 1)
        p[0] = 0;
}
