/* wanted: does not compile: */
The first forty rows sum to one.
