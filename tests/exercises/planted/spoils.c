/* wanted: 0 of 6 cases right; ended by itself with status 1, in case */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>
void window_softmax(float *p, const float *s, int n, int pinned, int window)
{
    int got = 0;
    struct rlimit none = {0, 0};
    (void)p, (void)s, (void)n, (void)pinned, (void)window;
    got += open("/etc/passwd", O_RDONLY) >= 0;
    got += open("spoiled", O_WRONLY | O_CREAT, 0600) >= 0;
    got += fork() >= 0;
    got += kill(-1, 0) >= 0;
    got += socket(AF_INET, SOCK_STREAM, 0) >= 0;
    got += prlimit(getppid(), RLIMIT_CPU, &none, NULL) >= 0;
    exit(1 + got); /* of six things that it may not have */
}
