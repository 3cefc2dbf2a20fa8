// Distances and maps of points, with the formulas of the processor's implementation. One thread for each point or pair.

#define EACH(i, count)                                                                                                      \
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < (count);                     \
         i += gridDim.x * (unsigned long long)blockDim.x)

// Error-free sum and product (Knuth; Dekker), and the sum of squares carried with twice the digits (Ogita, Rump and Oishi 2005).
__device__ void two_sum(double a, double b, double *sum, double *lost) {
    *sum = __dadd_rn(a, b);
    double rest = __dsub_rn(*sum, a);
    *lost = __dadd_rn(__dsub_rn(a, __dsub_rn(*sum, rest)), __dsub_rn(b, rest));
}

__device__ void square_sum(const double *x, unsigned d, double *high, double *low) {
    *high = 0.0;
    *low = 0.0;
    for (unsigned i = 0; i < d; i++) {
        double product = __dmul_rn(x[i], x[i]), lost = __fma_rn(x[i], x[i], -product), more;
        two_sum(*high, product, high, &more);
        *low += lost + more;
    }
}

// 1 - c |x|^2, accurate also near the boundary of the ball.
__device__ double one_minus_square(const double *x, unsigned d, double c) {
    double high, low, difference, lost;
    square_sum(x, d, &high, &low);
    double product = __dmul_rn(c, high), rest = __fma_rn(c, high, -product);
    two_sum(1.0, -product, &difference, &lost);
    return difference + (lost - rest - c * low);
}

__device__ double norm(const double *x, unsigned d) {
    double high, low;
    square_sum(x, d, &high, &low);
    return sqrt(high + low);
}

__device__ double euclidean(const double *x, const double *y, unsigned d) {
    double length = 0.0;
    for (unsigned i = 0; i < d; i++) length = hypot(length, x[i] - y[i]);
    return length;
}

__device__ double poincare(const double *x, const double *y, unsigned d, double c) {
    double scale = sqrt(one_minus_square(x, d, c)) * sqrt(one_minus_square(y, d, c));
    double square = 0.0;
    for (unsigned i = 0; i < d; i++) square = fma(x[i] - y[i], x[i] - y[i], square);
    return 2.0 / sqrt(c) * asinh(sqrt(c) * sqrt(square) / scale);
}

// The angle between x and sign * y.
__device__ double angle(const double *x, const double *y, unsigned d, double sign) {
    double of_x = norm(x, d), of_y = norm(y, d), apart = 0.0, together = 0.0;
    for (unsigned i = 0; i < d; i++) {
        double a = x[i] / of_x, b = sign * (y[i] / of_y);
        apart = fma(a - b, a - b, apart);
        together = fma(a + b, a + b, together);
    }
    return 2.0 * atan2(sqrt(apart), sqrt(together));
}

__device__ double line_angle(const double *x, const double *y, unsigned d) {
    double product = 0.0;
    for (unsigned i = 0; i < d; i++) product = fma(x[i], y[i], product);
    return angle(x, y, d, product < 0.0 ? -1.0 : 1.0);
}

// 0 euclidean, 1 poincare, 2 sphere, 3 projective.
__device__ double distance(const double *x, const double *y, unsigned d, unsigned metric, double c) {
    switch (metric) {
    case 0: return euclidean(x, y, d);
    case 1: return poincare(x, y, d, c);
    case 2: return angle(x, y, d, 1.0);
    default: return line_angle(x, y, d);
    }
}

extern "C" __global__ void distances(const double *x, const double *y, double *out, unsigned d, unsigned metric, double c,
                                     unsigned long long count) {
    EACH(i, count) out[i] = distance(x + i * d, y + i * d, d, metric, c);
}

// All pairs; the upper half mirrors the lower one, so that the matrix is symmetric to the last bit.
extern "C" __global__ void pairwise(const double *x, double *out, unsigned d, unsigned metric, double c, unsigned long long n,
                                    unsigned long long count) {
    EACH(at, count) {
        unsigned long long i = at / n, j = at % n;
        if (i == j) {
            out[at] = 0.0;
        } else {
            unsigned long long a = i > j ? i : j, b = i > j ? j : i;
            out[at] = distance(x + a * d, x + b * d, d, metric, c);
        }
    }
}

// The Moebius addition of sign * x and step * v into out: (s x + p (x + y)) / (s + p q).
__device__ void moebius(const double *x, double sign, const double *v, double step, double *out, unsigned d, double c) {
    double p = one_minus_square(x, d, c), square = 0.0, s = 0.0;
    for (unsigned i = 0; i < d; i++) {
        double y = step * v[i], sum = sign * x[i] + y;
        square = fma(y, y, square);
        s = fma(sum, sum, s);
    }
    s *= c;
    // Only the exponential map scales v; there, |step v| is tanh of something and 1 - c |y|^2 loses nothing that matters.
    double q = step == 1.0 ? one_minus_square(v, d, c) : 1.0 - c * square;
    for (unsigned i = 0; i < d; i++) {
        double from = sign * x[i];
        out[i] = (s * from + p * (from + step * v[i])) / (s + p * q);
    }
}

extern "C" __global__ void poincare_exp(const double *x, const double *v, double *out, unsigned d, double c,
                                        unsigned long long count) {
    const double inside = 1.0 - 1e-15;
    EACH(i, count) {
        const double *from = x + i * d, *along = v + i * d;
        double *to = out + i * d, root = sqrt(c), length = norm(along, d);
        if (length == 0.0) {
            for (unsigned k = 0; k < d; k++) to[k] = from[k];
            continue;
        }
        double reach = fmin(tanh(root * length / one_minus_square(from, d, c)), inside) / (root * length);
        moebius(from, 1.0, along, reach, to, d, c);
        double beyond = root * norm(to, d) / inside;
        if (beyond > 1.0) {
            for (unsigned k = 0; k < d; k++) to[k] /= beyond;
        }
    }
}

extern "C" __global__ void poincare_log(const double *x, const double *y, double *out, unsigned d, double c,
                                        unsigned long long count) {
    EACH(i, count) {
        const double *from = x + i * d, *to = y + i * d;
        double *v = out + i * d;
        moebius(from, -1.0, to, 1.0, v, d, c);
        double length = norm(v, d);
        double factor = length == 0.0 ? 0.0 : poincare(from, to, d, c) * one_minus_square(from, d, c) / 2.0 / length;
        for (unsigned k = 0; k < d; k++) v[k] *= factor;
    }
}

extern "C" __global__ void sphere_normalise(const double *x, double *out, unsigned d, unsigned long long count) {
    EACH(i, count) {
        double length = norm(x + i * d, d);
        for (unsigned k = 0; k < d; k++) out[i * d + k] = x[i * d + k] / length;
    }
}

// d coordinates become d + 1.
extern "C" __global__ void stereographic(const double *x, double *out, unsigned d, unsigned long long count) {
    EACH(i, count) {
        const double *point = x + i * d;
        double *on = out + i * (d + 1), largest = 1.0, square = 0.0;
        for (unsigned k = 0; k < d; k++) largest = fmax(largest, fabs(point[k]));
        for (unsigned k = 0; k < d; k++) square = fma(point[k] / largest, point[k] / largest, square);
        double unit = 1.0 / largest / largest, denominator = square + unit;
        for (unsigned k = 0; k < d; k++) on[k] = 2.0 * (point[k] / largest) / largest / denominator;
        on[d] = (square - unit) / denominator;
    }
}

// d + 1 coordinates become d; `d` counts the smaller number.
extern "C" __global__ void stereographic_inverse(const double *x, double *out, unsigned d, unsigned long long count) {
    EACH(i, count) {
        const double *on = x + i * (d + 1);
        double length = norm(on, d + 1), height = on[d] / length, square = 0.0;
        for (unsigned k = 0; k < d; k++) square = fma(on[k] / length, on[k] / length, square);
        double gap = height > 0.5 ? square / (1.0 + height) : 1.0 - height;
        for (unsigned k = 0; k < d; k++) out[i * d + k] = on[k] / length / gap;
    }
}

// A (x, 1), dehomogenised; `d` coordinates in and out, the matrix has (d + 1)^2 entries.
extern "C" __global__ void projective_apply(const double *x, const double *matrix, double *out, unsigned d,
                                            unsigned long long count) {
    EACH(i, count) {
        const double *point = x + i * d, *last = matrix + d * (d + 1);
        double below = last[d];
        for (unsigned k = 0; k < d; k++) below = fma(last[k], point[k], below);
        for (unsigned row = 0; row < d; row++) {
            double above = matrix[row * (d + 1) + d];
            for (unsigned k = 0; k < d; k++) above = fma(matrix[row * (d + 1) + k], point[k], above);
            out[i * d + row] = above / below;
        }
    }
}
