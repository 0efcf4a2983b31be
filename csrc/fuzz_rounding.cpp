// Weights that are seen rounded, and the Hadamard transform, held to their definitions: the nearest of all values of a
// format, and a sum of signed values. On every instruction set, on one thread and two, and with one argument spoiled.
#include "fuzz_trial.h"

namespace {

// The magnitudes of e2m1 or e4m3, ascending by their codes.
std::vector<double> magnitudes(int form) {
    if (form == WF_FP4) return {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    std::vector<double> all;
    for (int code = 0; code < 127; code++) {
        const int exponent = code / 8, mantissa = code % 8;
        all.push_back(exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9));
    }
    return all;
}

// The nearest of them, of two as near the one with an even code, with the sign of the value.
double nearest(const std::vector<double> &all, double value) {
    const double magnitude = std::fabs(value);
    size_t best = 0;
    for (size_t code = 1; code < all.size(); code++) {
        const double now = std::fabs(all[code] - magnitude), before = std::fabs(all[best] - magnitude);
        if (now < before || (now == before && code % 2 == 0)) best = code;
    }
    return std::copysign(all[best], value);
}

// The byte of the least power of two, from 2^-126 on, under which `top` is at most the format's largest value.
int scale_byte(double top, double largest) {
    int exponent;
    const double fraction = std::frexp(top / largest, &exponent);
    return std::max(top == 0 ? 1 : exponent - (fraction == 0.5) + 127, 1);
}

// Bits of what bfloat16 holds; any NaN is one.
uint16_t bits_of(double value) {
    if (std::isnan(value)) return 0x7FC0;
    const float narrow = float(rounded_to_bf16(value));
    uint32_t bits;
    std::memcpy(&bits, &narrow, 4);
    return uint16_t(bits >> 16);
}

struct Weights {
    int64_t rows, columns, count;
    int form;
    std::unique_ptr<float[]> values;
    std::unique_ptr<uint16_t[]> out;
    std::vector<uint16_t> expected;
    int32_t least = 255, largest = 0;

    explicit Weights(Fuzz &fuzz) {
        static const int64_t edges[] = {1, 31, 32, 33, 64, 127, 128, 129, 160, 257};
        const auto size = [&] { return fuzz.below(2) ? edges[fuzz.below(10)] : 1 + fuzz.below(70); };
        rows = size(), columns = size(), count = rows * columns, form = int(fuzz.below(3));
        values.reset(new float[size_t(count)]), out = fuzz.values<uint16_t>(count), expected.resize(size_t(count));
        draw(fuzz);
        round();
    }

    // Stretches of like size: usual ones, any that float32 holds, zeros; at times halves of steps, where ties are. One in
    // four has a value that is not finite.
    void draw(Fuzz &fuzz) {
        const bool ties = fuzz.below(2);
        for (int64_t i = 0, length; i < count; i += length) {
            length = std::min(1 + fuzz.below(300), count - i);
            const int kind = int(fuzz.below(6)), exponent = int(kind ? fuzz.below(30) - 20 : fuzz.below(270) - 145);
            for (int64_t k = i; k < i + length; k++) {
                const double fraction =
                    ties ? double(fuzz.below(97) - 48) / 8 : double(fuzz.below(1 << 24)) / (1 << 23) - 1;
                values[size_t(k)] =
                    kind == 1
                        ? 0
                        : float(std::max(-0x1.fffffep127, std::min(0x1.fffffep127, std::ldexp(fraction, exponent))));
            }
        }
        const float special[] = {INFINITY, -INFINITY, NAN};
        if (fuzz.below(4) == 0) values[size_t(fuzz.below(count))] = special[fuzz.below(3)];
    }

    void round() {
        if (form == WF_BF16) {
            for (int64_t i = 0; i < count; i++) expected[size_t(i)] = bits_of(values[size_t(i)]);
            return;
        }
        const std::vector<double> all = magnitudes(form);
        const int64_t high = form == WF_FP4 ? 1 : 128, wide = form == WF_FP4 ? 32 : 128;
        for (int64_t row = 0; row < rows; row += high)
            for (int64_t column = 0; column < columns; column += wide)
                round_block(all, row, std::min(row + high, rows), column, std::min(column + wide, columns));
    }

    void round_block(const std::vector<double> &all, int64_t row, int64_t end, int64_t column, int64_t last) {
        double top = 0;
        bool whole = true;
        for (int64_t r = row; r < end; r++)
            for (int64_t k = column; k < last; k++) {
                const double value = values[size_t(r * columns + k)];
                whole = whole && std::isfinite(value), top = std::max(top, std::fabs(value));
            }
        const int byte = whole ? scale_byte(top, all.back()) : 255;
        if (byte > 1) least = std::min(least, byte);
        largest = std::max(largest, byte);
        for (int64_t r = row; r < end; r++)
            for (int64_t k = column; k < last; k++) {
                const double value = values[size_t(r * columns + k)];
                expected[size_t(r * columns + k)] =
                    bits_of(whole ? std::ldexp(nearest(all, std::ldexp(value, 127 - byte)), byte - 127) : NAN);
            }
    }

    std::string check(const wf_rounding &given) const {
        for (int64_t i = 0; i < count; i++) {
            const uint16_t bits = out[size_t(i)], wanted = expected[size_t(i)];
            const bool nan = form == WF_BF16 && std::isnan(bf16_value(bits)) && std::isnan(bf16_value(wanted));
            if (bits != wanted && !nan)
                return "form " + std::to_string(form) + ", value " + std::to_string(i) + " of " + std::to_string(rows) +
                       " x " + std::to_string(columns) + ", " + std::to_string(values[size_t(i)]) + ", became " +
                       std::to_string(bits) + ", not " + std::to_string(wanted);
        }
        return given.least == least && given.largest == largest ? "" : "least or largest of the scales is wrong";
    }
};

void spoil(Fuzz &fuzz, wf_rounding &weights) {
    const int64_t sizes[] = {0, -1 - fuzz.below(1000), int64_t(1) << (32 + fuzz.below(31)), INT64_MIN, INT64_MAX};
    const int32_t forms[] = {-1, WF_FP32, WF_Q8_0, 1 << 30};
    switch (fuzz.below(5)) {
        case 0: weights.values = nullptr; break;
        case 1: weights.out = nullptr; break;
        case 2: weights.rows = sizes[fuzz.below(5)]; break;
        case 3: weights.columns = sizes[fuzz.below(5)]; break;
        default: weights.form = forms[fuzz.below(4)];
    }
}

bool fuzz_weights(Fuzz &fuzz) {
    std::vector<Weights> weights;
    for (int64_t i = 1 + fuzz.below(2) * fuzz.below(4); i > 0; i--) weights.emplace_back(fuzz);
    std::vector<wf_rounding> given;
    for (const Weights &w : weights) given.push_back({w.values.get(), w.rows, w.columns, w.form, w.out.get(), -1, -1});
    int64_t count = int64_t(given.size());
    bool there = true;
    Trial trial(fuzz, "round weights",
                [&](wf_runtime *runtime) { return wf_round_weights(runtime, there ? given.data() : nullptr, count); });
    for (size_t i = 0; i < weights.size(); i++) {
        trial.writes(weights[i].out.get(), weights[i].count);
        trial.writes(&given[i].least, 1), trial.writes(&given[i].largest, 1);
    }
    if (!trial.agrees([&] {
            for (size_t i = 0; i < weights.size(); i++)
                if (const std::string problem = weights[i].check(given[i]); !problem.empty()) return problem;
            return std::string();
        }))
        return false;
    const int64_t way = fuzz.below(8);
    if (way == 0) there = false;
    else if (way == 1) count = fuzz.below(2) ? -fuzz.below(3) : int64_t(1) << 40;
    else spoil(fuzz, given.back());
    return trial.refuses();
}

// Through e2m1 and back, a scale for 32 columns of a row.
void round_row(uint16_t *row, int64_t columns) {
    const std::vector<double> all = magnitudes(WF_FP4);
    for (int64_t first = 0; first < columns; first += 32) {
        const int64_t end = std::min(first + 32, columns);
        double top = 0;
        for (int64_t k = first; k < end; k++) top = std::max(top, std::fabs(double(bf16_value(row[k]))));
        const int exponent = scale_byte(top, all.back()) - 127;
        for (int64_t k = first; k < end; k++)
            row[k] = bits_of(std::ldexp(nearest(all, std::ldexp(bf16_value(row[k]), -exponent)), exponent));
    }
}

bool fuzz_hadamard(Fuzz &fuzz) {
    static const int64_t most[] = {300, 300, 300, 300, 300, 300, 140, 70, 40, 20, 10};
    const int64_t log = fuzz.below(11);
    int64_t columns = int64_t(1) << log, rows = 1 + fuzz.below(most[log]);
    const int64_t num_rows = rows, n = columns;
    auto given = fuzz.bf16(rows * n), out = fuzz.values<uint16_t>(rows * n);
    for (int64_t row = 0; row < rows; row++)  // rows of any size, some of zeros
        for (int64_t k = 0, shift = fuzz.below(121) - 60, zero = fuzz.below(9) == 0; k < n; k++)
            given[size_t(row * n + k)] = zero ? 0 : uint16_t(given[size_t(row * n + k)] + shift * 128);
    const uint16_t *x = given.get();
    uint16_t *to = out.get();
    int32_t rounded = 0;
    Trial trial(fuzz, "hadamard",
                [&](wf_runtime *runtime) { return wf_hadamard(runtime, x, rows, columns, rounded, to); });
    trial.writes(to, rows * n);
    // log2(n) additions and a product, each rounded by 2^-24 of what is at most the sum of the magnitudes; the factor is
    // rounded too. Then the result lies between the ends of that interval, rounded to bfloat16.
    std::vector<double> low, high;
    const double unit = 1 / std::sqrt(double(n));
    for (int64_t row = 0; row < num_rows; row++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < n; k++) {
                const double term = unit * bf16_value(x[row * n + k]);
                sum += __builtin_parityll(uint64_t(i & k)) ? -term : term, size += std::fabs(term);
            }
            const double error = double(log + 2) * 0x1p-24 * size;
            low.push_back(rounded_to_bf16(sum - error)), high.push_back(rounded_to_bf16(sum + error));
        }
    const auto check = [&]() -> std::string {
        for (int64_t i = 0; i < num_rows * n; i++) {
            const double value = bf16_value(to[i]);
            if (!(value >= low[size_t(i)] && value <= high[size_t(i)]))
                return "value " + std::to_string(i) + " in rows of " + std::to_string(n) + " is off";
        }
        return "";
    };
    if (!trial.agrees(check)) return false;
    std::vector<uint16_t> expected(to, to + num_rows * n);
    for (int64_t row = 0; row < num_rows; row++) round_row(&expected[size_t(row * n)], n);
    rounded = int32_t(1 + fuzz.below(2) * fuzz.below(1000));
    const bool agrees = trial.agrees([&] {
        const bool same = !std::memcmp(to, expected.data(), size_t(2 * num_rows * n));
        return std::string(same ? "" : "rounded values are not the nearest");
    });
    if (!agrees) return false;
    const int64_t widths[] = {0, -n, n + 1 + (n == 1), 2048, int64_t(1) << 40, INT64_MIN};
    switch (fuzz.below(4)) {
        case 0: x = nullptr; break;
        case 1: to = nullptr; break;
        case 2: rows = fuzz.below(2) ? -fuzz.below(3) : int64_t(1) << (32 + fuzz.below(31)); break;
        default: columns = widths[fuzz.below(6)];
    }
    return trial.refuses();
}

}  // namespace

bool fuzz_rounding(Fuzz &fuzz) { return fuzz.below(2) ? fuzz_weights(fuzz) : fuzz_hadamard(fuzz); }
