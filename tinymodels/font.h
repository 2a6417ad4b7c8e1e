/* Font: the shapes of the printable ASCII characters, drawn by us, for pictures without font
 * files. */
#ifndef TM_FONT_H
#define TM_FONT_H

/* Rows of five characters, '#' or '.', separated by '/', from the top: seven rows down to the
 * baseline, then up to two below it. Rows that are missing at the end are empty. Anything but
 * printable ASCII gives an empty frame. */
const char *tm_glyph(char c);

#endif
