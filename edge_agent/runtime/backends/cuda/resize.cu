/* RGB pictures to another size, byte for byte as OpenCV does it on x86-64 (4.8 and 5.0 measured):
   `halve` as INTER_AREA, `linear` as INTER_LINEAR; then `lay_out` as NumPy. One thread makes one
   pixel; pictures are uint8 (height, width, 3), rows without padding. Source of the arithmetic:
   OpenCV's resize.cpp, and vision/preprocess.py.

   What isn't asked to be CUDA is plain C, so that tests run these very lines: whoever does that sets
   `at_column` and `at_row` for each pixel. Products must not be fused with sums (NVRTC: --fmad=false,
   cc: -ffp-contract=off). resize.ptx is made of this by scripts/ptx. */

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define INSIDE __device__ static
#define COLUMN ((int)(blockIdx.x * blockDim.x + threadIdx.x))
#define ROW ((int)(blockIdx.y * blockDim.y + threadIdx.y))
#else
#include <math.h>
#define KERNEL static void
#define INSIDE static
static int at_column, at_row;
#define COLUMN at_column
#define ROW at_row
#endif

typedef unsigned char byte;

/* How much of its mean the pixel at `index` of an axis gets from each of the up to three that it
   covers: an axis has `from` pixels, and keeps them or gets from / 2. Of an odd number, a pixel
   covers a bit more than two; OpenCV leaves out what is a thousandth of a pixel. */
INSIDE void shares(int from, int to, int index, float share[3])
{
    int i, part[3];
    part[0] = from == 2 * to || from == to ? to : to - index;
    part[1] = from == to ? 0 : to;
    part[2] = from == 2 * to || from == to ? 0 : index + 1;
    for (i = 0; i < 3; i++)
        share[i] = part[i] * 1000 > to ? (float)part[i] / (float)from : 0.0f;
}

/* Means of what each pixel covers; to_width is width or width / 2, to_height likewise. Whole 2x2
   means are rounded half up, all others half to even. */
KERNEL halve(const byte *source, int width, int height, byte *target, int to_width, int to_height)
{
    int column = COLUMN, row = ROW, channel, x, y;
    int left = column * (width / to_width), top = row * (height / to_height);
    float across[3], down[3];
    if (column >= to_width || row >= to_height)
        return;
    shares(width, to_width, column, across);
    shares(height, to_height, row, down);
    for (channel = 0; channel < 3; channel++) {
        float mean = 0.0f;
        for (y = 0; y < 3; y++) {
            float part = 0.0f;
            if (down[y] == 0.0f)
                continue;
            for (x = 0; x < 3; x++)
                if (across[x] != 0.0f)
                    part += across[x] * (float)source[((top + y) * width + left + x) * 3 + channel];
            mean += down[y] * part;
        }
        mean = width == 2 * to_width && height == 2 * to_height ? floorf(mean + 0.5f) : rintf(mean);
        target[(row * to_width + column) * 3 + channel] = (byte)mean;
    }
}

INSIDE int clamped(int value, int limit)
{
    return value < 0 ? 0 : value < limit ? value : limit - 1;
}

/* Between the two nearest pixels each way, in steps of 1 / 2048; `across` and `down` are source
   pixels a target pixel. Beyond an edge both are the one there. */
KERNEL linear(const byte *source, int width, int height, byte *target, int to_width, int to_height,
              double across, double down)
{
    int column = COLUMN, row = ROW, channel;
    float x = (float)((column + 0.5) * across - 0.5), y = (float)((row + 0.5) * down - 0.5);
    int left = (int)floorf(x), top = (int)floorf(y);
    float right_share = x - (float)left, low_share = y - (float)top;
    int rights = (int)rintf(right_share * 2048.0f), lefts = (int)rintf((1.0f - right_share) * 2048.0f);
    int lows = (int)rintf(low_share * 2048.0f), highs = (int)rintf((1.0f - low_share) * 2048.0f);
    const byte *high = source + clamped(top, height) * width * 3;
    const byte *low = source + clamped(top + 1, height) * width * 3;
    int first = clamped(left, width) * 3, second = clamped(left + 1, width) * 3;
    if (column >= to_width || row >= to_height)
        return;
    for (channel = 0; channel < 3; channel++, first++, second++) {
        int upper = (high[first] * lefts + high[second] * rights) >> 4;
        int lower = (low[first] * lefts + low[second] * rights) >> 4;
        int value = ((highs * upper) >> 16) + ((lows * lower) >> 16);
        target[(row * to_width + column) * 3 + channel] = (byte)((value + 2) >> 2);
    }
}

/* What models take that don't take pictures: planes one after the other, or numbers, each pixel
   times `factor` less `offset` of its channel. */
KERNEL lay_out(const byte *source, int width, int height, void *target, int is_planar, int is_float,
               float factor0, float factor1, float factor2,
               float offset0, float offset1, float offset2)
{
    int column = COLUMN, row = ROW, channel;
    const float factor[3] = {factor0, factor1, factor2}, offset[3] = {offset0, offset1, offset2};
    if (column >= width || row >= height)
        return;
    for (channel = 0; channel < 3; channel++) {
        byte pixel = source[(row * width + column) * 3 + channel];
        int place = is_planar ? (channel * height + row) * width + column
                              : (row * width + column) * 3 + channel;
        if (is_float)
            ((float *)target)[place] = (float)pixel * factor[channel] - offset[channel];
        else
            ((byte *)target)[place] = pixel;
    }
}
