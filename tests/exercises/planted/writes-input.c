/* wanted: (SIGSEGV), in case 'one key' */
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    (void)p, (void)n, (void)pinned, (void)window;
    *(float *)(unsigned long)s = 1;
}
