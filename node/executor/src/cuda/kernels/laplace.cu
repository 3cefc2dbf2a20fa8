// Talbot's inversion of the Laplace transform, one thread for each value or time.

#define EACH(i, count)                                                                                                           \
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < (count);                     \
         i += gridDim.x * (unsigned long long)blockDim.x)

__device__ double2 polynomial(const double *coefficients, unsigned long long terms, double2 s) {
    double2 sum = make_double2(0.0, 0.0);
    for (unsigned long long k = 0; k < terms; k++)
        sum = make_double2(sum.x * s.x - sum.y * s.y + coefficients[k], sum.x * s.y + sum.y * s.x);
    return sum;
}

// F at each node: the quotient of two polynomials, the coefficient of the highest power first.
extern "C" __global__ void rational(const double2 *nodes, const double *above, const double *below, double2 *out,
                                    unsigned long long terms_above, unsigned long long terms_below, unsigned long long count) {
    EACH(i, count) {
        double2 p = polynomial(above, terms_above, nodes[i]), q = polynomial(below, terms_below, nodes[i]);
        double norm = q.x * q.x + q.y * q.y;
        out[i] = make_double2((p.x * q.x + p.y * q.y) / norm, (p.y * q.x - p.x * q.y) / norm);
    }
}

// f at each time from F at its `terms` nodes.
extern "C" __global__ void talbot(const double *times, const double2 *values, double *out, unsigned long long terms,
                                  double abscissa, unsigned long long count) {
    const double pi = 3.14159265358979323846;
    EACH(i, count) {
        double t = times[i], m = (double)terms, r = 2.0 * m / (5.0 * t);
        double sum = 0.5 * exp(r * t) * values[i * terms].x;
        for (unsigned long long k = 1; k < terms; k++) {
            double theta = (double)k * pi / m, cot = 1.0 / tan(theta);
            double sigma = theta + (theta * cot - 1.0) * cot;
            double size = exp(t * r * theta * cot), phase = t * r * theta;
            double2 e = make_double2(size * cos(phase), size * sin(phase)), f = values[i * terms + k];
            sum += (e.x * f.x - e.y * f.y) - (e.x * f.y + e.y * f.x) * sigma;
        }
        out[i] = exp(abscissa * t) * (r / m * sum);
    }
}
