/* union waits until a stage has been read, as join does. */
#include <string.h>

int stage_speaks(const char *which, int all, const int *layer_of_stage, int stages, int stage,
                 int layer)
{
    int first = layer_of_stage[0], at = layer_of_stage[stage], latest = first;
    if (layer <= first)
        return all && at == first;
    if (strcmp(which, "each") != 0)
        return at < layer;
    for (int s = 0; s < stages; s++)
        if (layer_of_stage[s] < layer)
            latest = layer_of_stage[s];
    return at == latest;
}
