/* Prints what the device is: the name under which results are stored. */
#include <stdio.h>

#include "kv_cuda.h"

int main(void)
{
    char text[256];
    puts(kv_cuda_device(text, sizeof text));
    return 0;
}
