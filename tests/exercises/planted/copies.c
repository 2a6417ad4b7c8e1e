/* wanted: copies.c includes chapters/01-softmax-sinks/exercises/4-window/solution.c, which an answer may not */
#include "../../../chapters/01-softmax-sinks/exercises/4-window/solution.c"
