// One level of the periodic orthonormal wavelet transform. One thread for each pair of coefficients.

#define EACH(i, count)                                                                                                      \
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < (count);                     \
         i += gridDim.x * (unsigned long long)blockDim.x)

// `part` samples of each row of `n` become part/2 approximations and part/2 details.
extern "C" __global__ void analyse(const double *x, double *out, const double *low, const double *high, unsigned taps,
                                   unsigned long long n, unsigned long long part, unsigned long long count) {
    unsigned long long half = part / 2;
    EACH(i, count) {
        unsigned long long row = i / half, k = i % half;
        double a = 0.0, d = 0.0;
        for (unsigned j = 0; j < taps; j++) {
            double sample = x[row * n + (2 * k + j) % part];
            a += low[j] * sample;
            d += high[j] * sample;
        }
        out[row * n + k] = a;
        out[row * n + half + k] = d;
    }
}

// The inverse, gathering: sample m is the sum over all k and j with 2k + j = m modulo `part`.
extern "C" __global__ void synthesise(const double *x, double *out, const double *low, const double *high, unsigned taps,
                                      unsigned long long n, unsigned long long part, unsigned long long count) {
    unsigned long long half = part / 2;
    EACH(i, count) {
        unsigned long long row = i / part, m = i % part;
        double sum = 0.0;
        for (unsigned j = (unsigned)(m % 2); j < taps; j += 2) {
            // part divides part * taps, which keeps the difference positive.
            unsigned long long k = ((m + part * taps - j) % part) / 2;
            sum += low[j] * x[row * n + k] + high[j] * x[row * n + half + k];
        }
        out[row * n + m] = sum;
    }
}
