// What surrounds cuFFT. Complex numbers are double2. One thread for each element, striding over the grid.

#define EACH(i, count)                                                                                                      \
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < (count);                     \
         i += gridDim.x * (unsigned long long)blockDim.x)

__device__ double2 times(double2 a, double2 b) {
    return make_double2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

extern "C" __global__ void scale(double *x, double factor, unsigned long long count) {
    EACH(i, count) x[i] *= factor;
}

// Real numbers to complex ones.
extern "C" __global__ void lift(const double *x, double2 *out, unsigned long long count) {
    EACH(i, count) out[i] = make_double2(x[i], 0.0);
}

// The spectrum of the analytic signal: positive frequencies twice, negative ones not at all, everything divided by n.
extern "C" __global__ void analytic(double2 *spectrum, unsigned long long n, unsigned long long count) {
    EACH(i, count) {
        unsigned long long k = i % n;
        double factor = (k == 0 || 2 * k == n) ? 1.0 : (2 * k < n ? 2.0 : 0.0);
        spectrum[i].x *= factor / (double)n;
        spectrum[i].y *= factor / (double)n;
    }
}

// The real part back to what the signal is.
extern "C" __global__ void restore_real(const double *x, double2 *analytic_signal, unsigned long long count) {
    EACH(i, count) analytic_signal[i].x = x[i];
}

// Spectra of real rows without their redundant half.
extern "C" __global__ void half_of(const double2 *spectrum, double2 *out, unsigned long long n, unsigned long long bins,
                                   unsigned long long count) {
    EACH(i, count) out[i] = spectrum[i / bins * n + i % bins];
}

// Back: the other half is the mirror's conjugate; what a real row cannot have is left out.
extern "C" __global__ void whole_of(const double2 *half, double2 *out, unsigned long long n, unsigned long long bins,
                                    unsigned long long count) {
    EACH(i, count) {
        unsigned long long row = i / n, k = i % n;
        double2 bin = half[row * bins + (k < bins ? k : n - k)];
        double sign = (k == 0 || 2 * k == n) ? 0.0 : (k < bins ? 1.0 : -1.0);
        out[i] = make_double2(bin.x, sign * bin.y);
    }
}

// Complex numbers to their real parts.
extern "C" __global__ void real_parts(const double2 *x, double *out, unsigned long long count) {
    EACH(i, count) out[i] = x[i].x;
}

// Chirp-z, first step: rows of n times `before`, into rows of `padded` filled with zeros.
extern "C" __global__ void chirp_pad(const double2 *x, const double2 *before, double2 *out, unsigned long long n,
                                     unsigned long long padded, unsigned long long count) {
    EACH(i, count) {
        unsigned long long row = i / padded, at = i % padded;
        out[i] = at < n ? times(x[row * n + at], before[at]) : make_double2(0.0, 0.0);
    }
}

// Chirp-z, second step: every row of `padded` times the transformed chirp.
extern "C" __global__ void chirp_multiply(double2 *x, const double2 *kernel, unsigned long long padded,
                                          unsigned long long count) {
    EACH(i, count) x[i] = times(x[i], kernel[i % padded]);
}

// Chirp-z, last step: the first `points` of every row, times `after`.
extern "C" __global__ void chirp_take(const double2 *x, const double2 *after, double2 *out, unsigned long long points,
                                      unsigned long long padded, unsigned long long count) {
    EACH(i, count) {
        unsigned long long row = i / points, at = i % points;
        out[i] = times(x[row * padded + at], after[at]);
    }
}

// Short-time transform: frame m of a row covers its samples m hop - length/2 ... and is weighted with the window.
extern "C" __global__ void frames(const double *x, const double *window, double *out, unsigned long long samples,
                                  unsigned long long length, unsigned long long hop, unsigned long long frames_per_row,
                                  unsigned long long count) {
    EACH(i, count) {
        unsigned long long frame = i / length, j = i % length;
        unsigned long long row = frame / frames_per_row, m = frame % frames_per_row;
        long long at = (long long)(m * hop + j) - (long long)(length / 2);
        out[i] = at >= 0 && at < (long long)samples ? window[j] * x[row * samples + at] : 0.0;
    }
}

// Overlap-add, one thread for each sample of the result, so that sums have a fixed order and need no atomics.
extern "C" __global__ void overlap_add(const double *frame_samples, const double *window, const double *weights, double *out,
                                       unsigned long long samples, unsigned long long length, unsigned long long hop,
                                       unsigned long long frames_per_row, unsigned long long count) {
    EACH(i, count) {
        unsigned long long row = i / samples, at = i % samples;
        unsigned long long place = at + length / 2;
        unsigned long long first = place < length ? 0 : (place - length) / hop + 1;
        double sum = 0.0;
        for (unsigned long long m = first; m < frames_per_row && m * hop <= place; m++) {
            unsigned long long j = place - m * hop;
            sum += window[j] * frame_samples[(row * frames_per_row + m) * length + j];
        }
        out[i] = sum / (weights[at] * (double)length);
    }
}
