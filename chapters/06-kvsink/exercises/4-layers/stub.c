/* Exercise 06.4: 1 if a stage's set is kept in a layer, else 0. Stages are in ascending order of
 * layer_of_stage (0 .. stages-1), and a stage at layer l is read after that layer. which is "each",
 * "join" or "union"; all is 1 if layers up to the first stage are protected too (/all), 0 if not (/after).
 * The table in the chapter has the answers for stages at layers 2 and 11. */
#include <string.h>

int stage_speaks(const char *which, int all, const int *layer_of_stage, int stages, int stage,
                 int layer)
{
    (void)which, (void)all, (void)layer_of_stage, (void)stages, (void)stage, (void)layer; /* yours */
    return 1;
}
