/* The kernels of resize.cu, the very source, run by the CPU: for the fake GPU of fake_cuda.c. The
   threads of the grid have their turns from the last to the first, those beyond the picture's edge
   as well: a kernel that overwrote what it has still to read would do harm. */

#include "resize.cu"

typedef void (*kernel)(void **arguments);

static void walk(const unsigned *grid, const unsigned *block, kernel one, void **arguments)
{
    int columns = (int)(grid[0] * block[0]), rows = (int)(grid[1] * block[1]);
    for (at_row = rows - 1; at_row >= 0; at_row--)
        for (at_column = columns - 1; at_column >= 0; at_column--)
            one(arguments);
}

#define PICTURES(a) *(const byte **)a[0], *(int *)a[1], *(int *)a[2], \
    *(byte **)a[3], *(int *)a[4], *(int *)a[5]

static void one_halve(void **a) { halve(PICTURES(a)); }
static void one_linear(void **a) { linear(PICTURES(a), *(double *)a[6], *(double *)a[7]); }
static void one_lay_out(void **a)
{
    lay_out(*(const byte **)a[0], *(int *)a[1], *(int *)a[2], *(void **)a[3], *(int *)a[4],
            *(int *)a[5], *(float *)a[6], *(float *)a[7], *(float *)a[8], *(float *)a[9],
            *(float *)a[10], *(float *)a[11]);
}

void fake_halve(const unsigned *grid, const unsigned *block, void **arguments)
{
    walk(grid, block, one_halve, arguments);
}

void fake_linear(const unsigned *grid, const unsigned *block, void **arguments)
{
    walk(grid, block, one_linear, arguments);
}

void fake_lay_out(const unsigned *grid, const unsigned *block, void **arguments)
{
    walk(grid, block, one_lay_out, arguments);
}
