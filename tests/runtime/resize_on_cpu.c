/* The kernels of resize.cu, the very source, run by the CPU: for the fake GPU of fake_cuda.c. Each
   thread of the grid has its turn, those beyond the picture's edge as well. */

#include "resize.cu"

typedef void (*kernel)(void **arguments);

static void walk(const unsigned *grid, const unsigned *block, kernel one, void **arguments)
{
    int columns = (int)(grid[0] * block[0]), rows = (int)(grid[1] * block[1]);
    for (at_row = 0; at_row < rows; at_row++)
        for (at_column = 0; at_column < columns; at_column++)
            one(arguments);
}

#define PICTURES(a) *(const byte **)a[0], *(int *)a[1], *(int *)a[2], \
    *(byte **)a[3], *(int *)a[4], *(int *)a[5]

static void one_halve(void **a) { halve(PICTURES(a)); }
static void one_linear(void **a) { linear(PICTURES(a), *(double *)a[6], *(double *)a[7]); }

void fake_halve(const unsigned *grid, const unsigned *block, void **arguments)
{
    walk(grid, block, one_halve, arguments);
}

void fake_linear(const unsigned *grid, const unsigned *block, void **arguments)
{
    walk(grid, block, one_linear, arguments);
}
