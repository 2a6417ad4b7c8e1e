/* With /all, layers up to the first stage get nothing from each and join. */
#include <string.h>

int stage_speaks(const char *which, int all, const int *layer_of_stage, int stages, int stage,
                 int layer)
{
    int first = layer_of_stage[0], at = layer_of_stage[stage], latest = -1;
    if (strcmp(which, "union") == 0)
        return all || layer > first;
    if (strcmp(which, "join") == 0)
        return at < layer;
    for (int s = 0; s < stages; s++)
        if (layer_of_stage[s] < layer)
            latest = layer_of_stage[s];
    return at == latest;
}
