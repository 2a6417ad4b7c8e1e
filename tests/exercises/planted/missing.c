/* wanted: undefined reference to `window_softmax' */
void another(void);
void another(void) {}
