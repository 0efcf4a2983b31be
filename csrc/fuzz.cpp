// Random shapes and contents through the C interface, in buffers of exactly the stated size: for the sanitizers.
//
//     fuzz [CALLS] [SEED]     exit code 0, or a message and 1; every call also with one argument spoiled
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "wavefold.h"

namespace {

// Heap memory of exactly `bytes`, filled at random.
std::unique_ptr<uint8_t[]> bytes_of(int64_t bytes, std::mt19937_64 &random) {
    std::unique_ptr<uint8_t[]> data(new uint8_t[size_t(bytes)]);
    for (int64_t i = 0; i < bytes; i++) data[size_t(i)] = uint8_t(random());
    return data;
}

// A positive size: mostly small, at times around the kernels' block sizes.
int64_t size_of(std::mt19937_64 &random) {
    static const int64_t edges[] = {1, 2, 31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 384, 512};
    return random() % 2 ? edges[random() % (sizeof edges / sizeof *edges)] : 1 + int64_t(random() % 300);
}

bool close(float a, float b, double size) {
    if (std::isnan(a) || std::isnan(b) || std::isinf(a) || std::isinf(b)) return true;  // an overflow on the way
    return std::fabs(double(a) - b) <= 1e-5 * size + 1e-30;
}

}  // namespace

int main(int count, char **arguments) {
    const long calls = count > 1 ? std::atol(arguments[1]) : 10000;
    std::mt19937_64 random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0);
    wf_pool *pools[2] = {};
    for (int threads = 1; threads <= 2; threads++)
        if (wf_pool_create(threads, &pools[threads - 1])) return std::puts("no pool"), 1;
    const char *best = wf_isa();
    for (long call = 0; call < calls; call++) {
        const int form = int(random() % 4);
        int64_t rows = size_of(random), columns = size_of(random);
        const int64_t x_rows = 1 + int64_t(random() % 9);
        if (form == WF_FP4) columns += columns % 2;
        const int64_t row_bytes = form == WF_FP4 ? columns / 2 : columns << (form - 1);
        const int64_t scales = form == WF_FP4   ? rows * ((columns + 31) / 32)
                               : form == WF_FP8 ? (rows + 127) / 128 * ((columns + 127) / 128)
                                                : 0;
        auto codes = bytes_of(rows * row_bytes, random), scale = bytes_of(scales, random);
        if (random() % 2)  // half of the time, scales as they are in a model
            for (int64_t i = 0; i < scales; i++) scale[size_t(i)] = uint8_t(100 + scale[size_t(i)] % 50);
        std::unique_ptr<uint16_t[]> x(new uint16_t[size_t(x_rows * columns)]);
        for (int64_t i = 0; i < x_rows * columns; i++) x[size_t(i)] = uint16_t(0x3F00 + random() % 256);
        std::unique_ptr<float[]> y(new float[size_t(x_rows * rows)]), z(new float[size_t(x_rows * rows)]);
        std::unique_ptr<uint16_t[]> out(new uint16_t[size_t(rows * columns)]), plain(new uint16_t[size_t(rows * columns)]);
        wf_matrix matrix = {form, rows, columns, codes.get(), rows * row_bytes, scales ? scale.get() : nullptr, scales};
        wf_pool *pool = pools[random() % 2];
        wf_use_isa(best);
        int error = wf_linear(pool, &matrix, x.get(), x_rows, 0, y.get(), 0);
        error |= wf_decode(pool, &matrix, 0, rows, out.get(), 2 * rows * columns);
        wf_use_isa("generic");
        error |= wf_linear(pool, &matrix, x.get(), x_rows, 0, z.get(), 0);
        error |= wf_decode(pool, &matrix, 0, rows, plain.get(), 2 * rows * columns);
        wf_use_isa(best);
        if (error) return std::printf("call %ld: error %d\n", call, error), 1;
        double size = 0;
        for (int64_t i = 0; i < x_rows * rows; i++) size = std::fmax(size, std::fabs(double(z[size_t(i)])));
        for (int64_t i = 0; i < rows * columns; i++) {
            const bool nan = (out[size_t(i)] & 0x7FFF) > 0x7F80 && (plain[size_t(i)] & 0x7FFF) > 0x7F80;
            if (out[size_t(i)] != plain[size_t(i)] && !nan)
                return std::printf("call %ld: form %d, decoded value %lld differs\n", call, form, (long long)i), 1;
        }
        if (form == WF_FP4)  // products of the other forms cancel among values of any size
            for (int64_t i = 0; i < x_rows * rows; i++)
                if (!close(y[size_t(i)], z[size_t(i)], size))
                    return std::printf("call %ld: product %lld: %g, %g\n", call, (long long)i, y[size_t(i)], z[size_t(i)]), 1;
        wf_matrix bad = matrix;
        switch (random() % 6) {
            case 0: bad.codes_bytes += random() % 2 ? 1 : -1; break;
            case 1: bad.rows = -int64_t(random() % 3); break;
            case 2: bad.columns = int64_t(random() >> 1) | int64_t(1) << 40; break;
            case 3: bad.form = 4 + int(random() % 100); break;
            case 4: bad.codes = nullptr; break;
            default: bad.scales_bytes += 1, bad.codes_bytes -= form > WF_FP8; break;
        }
        if (!wf_linear(pool, &bad, x.get(), x_rows, 0, y.get(), 0) || !wf_decode(pool, &bad, 0, 1, out.get(), 2 * columns))
            return std::printf("call %ld: a bad matrix was taken\n", call), 1;
    }
    for (wf_pool *pool : pools) wf_pool_destroy(pool);
    std::printf("%ld calls, %s against generic: no difference\n", calls, best);
    return 0;
}
