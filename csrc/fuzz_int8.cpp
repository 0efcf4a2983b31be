// Products with int8 activations: every instruction set against plain C++, and each row alone against all together.
#include <cfloat>
#include <cmath>
#include <sstream>

#include "fuzz.h"

namespace {

// A matrix that is multiplied in int8, in buffers of exactly its size.
struct Weight {
    int64_t rows, columns;
    std::unique_ptr<uint8_t[]> codes, scales;
    wf_matrix matrix;

    explicit Weight(Fuzz &fuzz) {
        static const int64_t edges[] = {1, 2, 30, 32, 34, 64, 96, 126, 128, 130, 256, 258, 384, 512, 2048, 2080};
        static const int forms[] = {WF_FP4, WF_FP8, WF_Q8_0, WF_MXFP4};
        const int form = forms[fuzz.below(4)];
        rows = fuzz.below(2) ? edges[fuzz.below(11)] : 1 + fuzz.below(200);
        columns = fuzz.below(2) ? edges[fuzz.below(sizeof edges / sizeof *edges)] : 1 + fuzz.below(700);
        if (form >= WF_Q8_0) {
            blocks(fuzz, form);
            return;
        }
        if (form == WF_FP4) columns += columns % 2;
        const int64_t bytes = form == WF_FP4 ? rows * columns / 2 : rows * columns;
        const int64_t count =
            form == WF_FP4 ? rows * ((columns + 31) / 32) : (rows + 127) / 128 * ((columns + 127) / 128);
        codes = fuzz.values<uint8_t>(bytes), scales = fuzz.values<uint8_t>(count);
        const int64_t spread = fuzz.below(2) ? 3 : 40;
        for (int64_t i = 0; i < count; i++)
            if (fuzz.below(500)) scales[size_t(i)] = uint8_t(110 + scales[size_t(i)] % spread);
        const bool small = fuzz.below(3) == 0, nan = fuzz.below(4) == 0;
        for (int64_t i = 0; form == WF_FP8 && i < bytes; i++) {
            if (small) codes[size_t(i)] &= 0x8F | uint8_t(fuzz.below(3) << 4);
            if (!nan && (codes[size_t(i)] & 127) == 127) codes[size_t(i)] = 0;
        }
        matrix = {form, rows, columns, codes.get(), bytes, scales.get(), count};
    }

    // Half of the time with scales as they are in a model.
    void blocks(Fuzz &fuzz, int form) {
        const int64_t size = form == WF_Q8_0 ? 34 : 17;
        columns = (columns + 31) / 32 * 32;
        const int64_t bytes = rows * columns / 32 * size;
        codes = fuzz.values<uint8_t>(bytes);
        if (fuzz.below(2))
            for (int64_t i = 0; i < bytes; i += size)
                codes[size_t(form == WF_Q8_0 ? i + 1 : i)] = uint8_t(form == WF_Q8_0 ? 0x18 : 110 + fuzz.below(30));
        matrix = {form, rows, columns, codes.get(), bytes, nullptr, 0};
    }
};

// Of a value that is not NaN.
uint16_t nearest_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace

bool fuzz_int8(Fuzz &fuzz) {
    const Weight weight(fuzz);
    const int64_t rows = weight.rows, columns = weight.columns;
    const int64_t x_rows = fuzz.below(16) ? 1 + fuzz.below(20) : 380 + fuzz.below(10);
    auto x = fuzz.bf16(x_rows * columns);
    if (fuzz.below(4) == 0) x[size_t(fuzz.below(x_rows * columns))] = fuzz.below(2) ? 0x7F80 : 0x7FC0;
    const size_t count = size_t(x_rows * rows);
    std::unique_ptr<float[]> y(new float[count]), plain(new float[count]), alone(new float[size_t(rows)]);
    std::unique_ptr<uint16_t[]> rounded(new uint16_t[count]), values(new uint16_t[size_t(rows * columns)]);
    fuzz.int8 = fuzz.batch_invariant = true;
    std::ostringstream problem;
    const auto wrong = [&] { return fuzz.message = problem.str(), false; };
    fuzz.use("generic");
    if (wf_linear(fuzz.runtime(), &weight.matrix, x.get(), x_rows, 0, plain.get(), 0) ||
        wf_decode(fuzz.runtime(), &weight.matrix, 0, rows, values.get(), 2 * rows * columns))
        return problem << "an error", wrong();
    for (const std::string &isa : fuzz.isas) {
        fuzz.use(isa);
        problem.str("");
        problem << "int8, form " << weight.matrix.form << ", " << rows << " x " << columns << ", " << isa << ": ";
        if (wf_linear(fuzz.runtime(), &weight.matrix, x.get(), x_rows, 1, y.get(), 0) ||
            wf_linear(fuzz.runtime(), &weight.matrix, x.get(), x_rows, 0, rounded.get(), 1))
            return problem << "an error", wrong();
        const int64_t r = fuzz.below(x_rows);
        wf_linear(fuzz.runtime(), &weight.matrix, x.get() + r * columns, 1, 0, alone.get(), 0);
        for (size_t i = 0; i < count; i++) {
            const int64_t n = int64_t(i) % rows, row = int64_t(i) / rows;
            const float a = y[i], b = plain[i], c = bf16_value(rounded[i]);
            if (std::isnan(a) || std::isnan(b)) {
                if (!std::isnan(a) || !std::isnan(b) || !std::isnan(c)) return problem << "NaN at " << i, wrong();
                continue;
            }
            if (rounded[i] != nearest_bf16(a)) return problem << "product " << i << ": " << a << " as " << c, wrong();
            double size = 0;  // of the terms, as x is at most 2 (NaN is no value of this y)
            for (int64_t k = 0; k < columns; k++)
                size += 2 * std::fabs(double(bf16_value(values[size_t(n * columns + k)])));
            if (size < FLT_MAX && a != b && !(std::fabs(double(a) - b) <= 1e-5 * size))  // (both may be infinite)
                return problem << "product " << i << ": " << a << ", " << b, wrong();
            if (row == r && a != alone[size_t(n)]) return problem << "row " << r << " alone differs at " << n, wrong();
        }
    }
    return true;
}
