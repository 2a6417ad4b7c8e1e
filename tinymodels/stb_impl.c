/* The one file that owns the implementations of the stb libraries (public domain, packaged by
 * Debian as libstb-dev). They are included as system headers, so that their warnings are not ours. */
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

/* Reading is for the tests: they decode the pictures that were written. */
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#include <stb/stb_image.h>
