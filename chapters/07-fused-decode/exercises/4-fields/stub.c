/* Exercise 07.4: 16 bits hold 16 / bits codes of 2, 4 or 8 bits, one above the other, field 0 lowest.
 *   field_of  a binary16 number that stands for the code of a field times a power of two. Codes of the lower
 *             byte stay where they lie; those of the upper byte are moved down by 8 first. Nothing else moves.
 *   power_of  what that number is to be multiplied with to give the code */
#include <math.h>
#include <stdint.h>

uint16_t field_of(uint16_t w, int bits, int field)
{
    (void)bits, (void)field; /* yours */
    return w;
}

float power_of(int bits, int field)
{
    (void)bits, (void)field; /* yours */
    return 1;
}
