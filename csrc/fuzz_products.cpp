// Products of training and Muon's matrices, held to sums in double: on every instruction set, on one thread and two, and
// with one argument spoiled.
#include "fuzz_trial.h"

namespace {

int64_t short_size(Fuzz &fuzz) { return 1 + fuzz.below(fuzz.below(2) ? 20 : 70); }

// Around the sizes of the kernel's blocks: 48 rows of the least task, 192 of the largest, 256 columns and of the depth.
int64_t long_size(Fuzz &fuzz) {
    static const int64_t edges[] = {47, 48, 49, 64, 65, 95, 97, 191, 192, 193, 255, 256, 257, 258, 384, 512, 514};
    return fuzz.below(2) ? edges[fuzz.below(sizeof edges / sizeof *edges)] : 1 + fuzz.below(600);
}

// A matrix of `rows` rows in memory of exactly its size; one in four begins where no pair of values is aligned.
struct Lying {
    std::unique_ptr<uint16_t[]> memory;
    const uint16_t *at;
    int64_t stride;

    Lying(Fuzz &fuzz, int64_t rows, int64_t columns, bool even) : stride(columns + fuzz.below(2) * fuzz.below(40)) {
        if (even) stride += stride % 2;
        const int64_t shift = fuzz.below(4) == 0;
        memory = fuzz.bf16(shift + (rows - 1) * stride + columns);
        at = memory.get() + shift;
    }
};

struct Product {
    int64_t rows, columns, stride, terms = 1;
    bool rounds, adds;
    std::vector<Lying> lying;
    std::vector<wf_factor> factors;
    std::unique_ptr<uint16_t[]> out;
    std::unique_ptr<float[]> wide;
    std::vector<double> sums, sizes;  // of each element, and of the magnitudes of its terms

    explicit Product(Fuzz &fuzz) : rounds(fuzz.below(2)), adds(fuzz.below(2)) {
        const int64_t large = fuzz.below(4);  // which of the three sizes, if any
        rows = large == 0 ? long_size(fuzz) : short_size(fuzz);
        columns = large == 1 ? long_size(fuzz) : short_size(fuzz);
        if (fuzz.below(8) == 0) rows = 190 + fuzz.below(70), columns = 250 + fuzz.below(70);  // several tasks each way
        stride = columns + fuzz.below(2) * fuzz.below(40);
        const int64_t size = (rows - 1) * stride + columns;
        if (rounds) out = fuzz.values<uint16_t>(size);
        else wide = fuzz.floats(size, 8);
        sums.resize(size_t(rows * columns)), sizes.resize(sums.size());
        for (int64_t row = 0; wide && adds && row < rows; row++)
            for (int64_t column = 0; column < columns; column++)
                add(row * columns + column, double(wide[size_t(row * stride + column)]));
        for (int64_t f = 1 + fuzz.below(3) * fuzz.below(2); f > 0; f--)
            multiply(fuzz, large == 2 && rows < 100 ? long_size(fuzz) : short_size(fuzz));
    }

    void multiply(Fuzz &fuzz, int64_t depth) {
        const bool a_turned = fuzz.below(2), b_turned = fuzz.below(2);
        if (!a_turned || b_turned) depth += depth % 2;
        lying.emplace_back(fuzz, a_turned ? depth : rows, a_turned ? rows : depth, !a_turned);
        lying.emplace_back(fuzz, b_turned ? columns : depth, b_turned ? depth : columns, b_turned);
        const Lying &a = lying[lying.size() - 2], &b = lying.back();
        factors.push_back({a.at, b.at, a.stride, b.stride, depth, a_turned, b_turned});
        for (int64_t row = 0; row < rows; row++)
            for (int64_t k = 0; k < depth; k++) {
                const double left = bf16_value(a.at[a_turned ? k * a.stride + row : row * a.stride + k]);
                for (int64_t column = 0; column < columns; column++)
                    add(row * columns + column,
                        left * bf16_value(b.at[b_turned ? column * b.stride + k : k * b.stride + column]));
            }
        terms += depth;
    }
    void add(int64_t i, double term) { sums[size_t(i)] += term, sizes[size_t(i)] += std::fabs(term); }

    wf_product given() const {
        return {factors.data(), int64_t(factors.size()), rows, columns, out.get(), wide.get(), stride, adds};
    }

    // Products of bfloat16 values are exact in float32, and each addition rounds by 2^-24 of a sum that is no larger than
    // the magnitudes of the terms. What is rounded to bfloat16 then lies between the ends of that interval, rounded.
    std::string check() const {
        for (int64_t i = 0; i < rows * columns; i++) {
            const double sum = sums[size_t(i)], error = double(terms) * 0x1p-24 * sizes[size_t(i)];
            const size_t at = size_t(i / columns * stride + i % columns);
            const double value = rounds ? bf16_value(out[at]) : wide[at];
            const double low = sum - error, high = sum + error;
            if (!(value >= (rounds ? rounded_to_bf16(low) : low) && value <= (rounds ? rounded_to_bf16(high) : high)))
                return "element " + std::to_string(i) + " of " + std::to_string(rows) + " x " +
                       std::to_string(columns) + " is " + std::to_string(value) + ", not " + std::to_string(sum);
        }
        return "";
    }
};

void spoil(Fuzz &fuzz, wf_product &product, wf_factor &factor) {
    const int64_t sizes[] = {0, -1 - fuzz.below(1000), int64_t(1) << (32 + fuzz.below(31)), INT64_MIN, INT64_MAX};
    const int64_t size = sizes[fuzz.below(5)];
    switch (fuzz.below(15)) {
        case 0: product.factors = nullptr; break;
        case 1: product.num_factors = size; break;
        case 2: product.rows = size; break;
        case 3: product.columns = size; break;
        case 4: product.out_stride = size; break;
        case 5: product.out_stride = product.columns - 1; break;
        case 6: product.out = nullptr, product.wide = nullptr; break;
        case 7: factor.a = nullptr; break;
        case 8: factor.b = nullptr; break;
        case 9: factor.depth = size; break;
        case 10: factor.a_stride = size; break;
        case 11: factor.b_stride = size; break;
        case 12: factor.a_stride = (factor.a_turned ? product.rows : factor.depth) - 1; break;
        case 13: factor.b_stride = (factor.b_turned ? factor.depth : product.columns) - 1; break;
        default:  // a pair would reach past its row
            if (!factor.a_turned) factor.a_stride |= 1;
            else if (factor.b_turned) factor.b_stride |= 1;
            else factor.a_turned = 0, factor.depth |= 1, factor.a_stride = factor.depth + 1;
    }
}

bool fuzz_multiply(Fuzz &fuzz) {
    std::vector<Product> products;
    for (int64_t i = 1 + fuzz.below(2) * fuzz.below(3); i > 0; i--) products.emplace_back(fuzz);
    std::vector<wf_product> given;
    for (Product &product : products) given.push_back(product.given());
    int64_t count = int64_t(given.size());
    Trial trial(fuzz, "multiply", [&](wf_runtime *runtime) {
        return wf_multiply(runtime, given.empty() ? nullptr : given.data(), count);
    });
    const auto watch = [&](const Product &product, auto *at) {
        trial.writes(at, (product.rows - 1) * product.stride + product.columns);
        for (int64_t row = 1; row < product.rows; row++)
            trial.leaves(at + row * product.stride - (product.stride - product.columns),
                         product.stride - product.columns);
    };
    for (const Product &product : products)
        product.rounds ? watch(product, product.out.get()) : watch(product, product.wide.get());
    if (!trial.agrees([&] {
            for (const Product &product : products)
                if (const std::string problem = product.check(); !problem.empty()) return problem;
            return std::string();
        }))
        return false;
    const int64_t way = fuzz.below(17);
    const size_t last = given.size() - 1;
    if (way == 0) given.clear();
    else if (way == 1) count = fuzz.below(2) ? -fuzz.below(3) : int64_t(1) << 40;
    else spoil(fuzz, given[last], products[last].factors[size_t(fuzz.below(given[last].num_factors))]);
    return trial.refuses();
}

// Muon's coefficients (train/newton_schulz.py).
constexpr float GROWS[] = {3.4445f, -4.7750f, 2.0315f}, PULLS[] = {2.0f, -1.5f, 0.5f};

// X <- a X + b (X Xt) X + c (X Xt)^2 X from X / |X|, in double, without any rounding on the way.
void orthogonal(std::vector<double> &x, int64_t m, int64_t n, const std::vector<float> &coefficients) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    if (squares == 0) return;
    for (double &value : x) value /= std::sqrt(squares);
    std::vector<double> gram(size_t(m * m)), poly(gram.size()), made(x.size());
    // out = a b, or a bt
    const auto multiply = [m](const std::vector<double> &a, const std::vector<double> &b, int64_t depth,
                              int64_t columns, bool turned, std::vector<double> &out) {
        std::fill(out.begin(), out.end(), 0.0);
        for (int64_t i = 0; i < m; i++)
            for (int64_t k = 0; k < depth; k++)
                for (int64_t j = 0; j < columns; j++)
                    out[size_t(i * columns + j)] +=
                        a[size_t(i * depth + k)] * b[size_t(turned ? j * depth + k : k * columns + j)];
    };
    for (size_t step = 0; step < coefficients.size(); step += 3) {
        const double a = coefficients[step], b = coefficients[step + 1], c = coefficients[step + 2];
        multiply(x, x, n, m, true, gram);
        multiply(gram, gram, m, m, false, poly);
        for (size_t i = 0; i < gram.size(); i++) poly[i] = b * gram[i] + c * poly[i];
        multiply(poly, x, m, n, false, made);
        for (size_t i = 0; i < x.size(); i++) x[i] = a * x[i] + made[i];
    }
}

struct Muon {
    int64_t rows, columns, count;
    bool moves, zero, steady;  // has momentum; is zero; has no small singular value
    float keep = 1, rate = 0.5f, mu;
    std::unique_ptr<float[]> values, momentum, grad;
    std::vector<double> start, moved, size, nearest;  // values; momentum and its terms' size; the result o

    Muon(Fuzz &fuzz, float by, const std::vector<float> &coefficients)
        : moves(fuzz.below(2)), zero(fuzz.below(8) == 0), steady(fuzz.below(4)), mu(by) {
        static const int64_t edges[] = {1, 2, 31, 32, 33, 63, 64, 65};
        rows = fuzz.below(2) ? edges[fuzz.below(8)] : 1 + fuzz.below(40), columns = 1 + fuzz.below(100);
        // A random matrix three times as long as it is wide has singular values within a factor of 4.
        if (steady) columns = 3 * rows + 8 + fuzz.below(40);
        if (fuzz.below(2)) std::swap(rows, columns);
        count = rows * columns;
        const float scale = std::ldexp(1.0f, int(fuzz.below(2) * (fuzz.below(120) - 60)));
        values = fuzz.floats(count, moves ? 1 : zero ? 0 : scale);
        if (moves) {
            momentum = fuzz.floats(count, zero ? 0 : scale), grad = fuzz.floats(count, zero ? 0 : scale);
            keep = 1 - float(fuzz.below(100)) / 1000, rate = float(1 + fuzz.below(100)) / 100;
        }
        start.assign(values.get(), values.get() + count), nearest = start;
        for (int64_t i = 0; moves && i < count; i++) {
            const double old = double(mu) * momentum[size_t(i)], slope = grad[size_t(i)];
            moved.push_back(old + slope), size.push_back(std::fabs(old) + std::fabs(slope));
            nearest[size_t(i)] = double(mu) * moved.back() + slope;
        }
        if (steady) solve(coefficients);
    }

    // `nearest` lies turned while its rows are the longer side.
    void solve(const std::vector<float> &coefficients) {
        const bool tall = rows > columns;
        std::vector<double> x = nearest;
        for (int64_t i = 0; tall && i < count; i++) x[size_t(i % columns * rows + i / columns)] = nearest[size_t(i)];
        orthogonal(x, tall ? columns : rows, tall ? rows : columns, coefficients);
        for (int64_t i = 0; i < count; i++)
            nearest[size_t(i)] = tall ? x[size_t(i % columns * rows + i / columns)] : x[size_t(i)];
    }

    wf_orthogonal given() const { return {values.get(), momentum.get(), grad.get(), rows, columns, keep, rate}; }

    std::string check() const {
        for (int64_t i = 0; moves && i < count; i++)  // a product and a sum, each rounded by 2^-24
            if (!(std::fabs(momentum[size_t(i)] - moved[size_t(i)]) <= 0x1p-23 * size[size_t(i)] + 1e-37))
                return "momentum " + std::to_string(i) + " is off";
        double error = 0, norm = 0, found = 0;
        for (int64_t i = 0; i < count; i++) {
            const double value = values[size_t(i)], o = moves ? (keep * start[size_t(i)] - value) / rate : value;
            if (zero && (moves ? float(start[size_t(i)]) * keep : 0) != values[size_t(i)]) return "zeros became others";
            const double off = o - nearest[size_t(i)];
            error += off * off, norm += nearest[size_t(i)] * nearest[size_t(i)], found += o * o;
        }
        // GROWS leaves singular values below 1.21, PULLS then below 1.06; there is one for each of the shorter side.
        if (!(found <= 1.25 * double(std::min(rows, columns)))) return "the result is too large or not finite";
        const double share = steady && !zero ? std::sqrt(error / norm) : 0;
        if (share < TOLERANCE) return "";
        return std::to_string(rows) + " x " + std::to_string(columns) + " is off by " + std::to_string(share);
    }

    // Of the RMS. A value that is rounded to bfloat16 is off by 0.16 % of itself on average (half a step, 2^-9 to 2^-8 of it,
    // over the root of 3). The last step, whose coefficients are 2, -1.5 and 0.5, meets what was rounded of X Xt 1.5 + 2 * 0.5
    // times, of the polynomial and of X once: 0.7 % if all of it adds up. What came before is pulled onto 1, but where a
    // direction that was the smaller one grew: as much again.
    static constexpr double TOLERANCE = 0.015;
};

void spoil(Fuzz &fuzz, wf_orthogonal &matrix) {
    const int64_t sizes[] = {0, -1 - fuzz.below(1000), (int64_t(1) << (20 + fuzz.below(43))) + 1, INT64_MIN, INT64_MAX};
    const int64_t size = sizes[fuzz.below(5)];
    switch (fuzz.below(4)) {
        case 0: matrix.values = nullptr; break;
        case 1: matrix.rows = size; break;
        case 2: matrix.columns = size; break;
        default:
            if (matrix.momentum) matrix.grad = nullptr;
            else matrix.rows = size;
    }
}

bool fuzz_orthogonalize(Fuzz &fuzz) {
    std::vector<float> coefficients;
    for (int64_t i = fuzz.below(9); i > 0; i--) coefficients.insert(coefficients.end(), GROWS, GROWS + 3);
    for (int i = 0; i < 2; i++) coefficients.insert(coefficients.end(), PULLS, PULLS + 3);
    int64_t steps = int64_t(coefficients.size() / 3);
    const std::unique_ptr<float[]> held(new float[coefficients.size()]);  // of exactly its size
    std::copy(coefficients.begin(), coefficients.end(), held.get());
    const float *first = held.get(), mu = float(fuzz.below(100)) / 100;
    std::vector<Muon> matrices;
    for (int64_t i = 1 + fuzz.below(2) * fuzz.below(4); i > 0; i--) matrices.emplace_back(fuzz, mu, coefficients);
    std::vector<wf_orthogonal> given;
    for (const Muon &matrix : matrices) given.push_back(matrix.given());
    int64_t count = int64_t(given.size());
    Trial trial(fuzz, "orthogonalize", [&](wf_runtime *runtime) {
        return wf_orthogonalize(runtime, given.empty() ? nullptr : given.data(), count, first, steps, mu);
    });
    for (const Muon &matrix : matrices) {
        trial.writes(matrix.values.get(), matrix.count);
        if (matrix.moves) trial.writes(matrix.momentum.get(), matrix.count);
    }
    if (!trial.agrees([&] {
            for (const Muon &matrix : matrices)
                if (const std::string problem = matrix.check(); !problem.empty()) return problem;
            return std::string();
        }))
        return false;
    switch (fuzz.below(8)) {
        case 0: given.clear(); break;
        case 1: count = fuzz.below(2) ? -fuzz.below(3) : int64_t(1) << 40; break;
        case 2: steps = fuzz.below(2) ? -fuzz.below(3) : int64_t(1) << 40; break;
        case 3: first = nullptr; break;
        default: spoil(fuzz, given.back());
    }
    return trial.refuses();
}

}  // namespace

bool fuzz_products(Fuzz &fuzz) { return fuzz.below(2) ? fuzz_multiply(fuzz) : fuzz_orthogonalize(fuzz); }
