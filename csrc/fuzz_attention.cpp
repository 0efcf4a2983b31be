// Attention and the indexer for fuzz.cpp: random shapes and contents in buffers of exactly the stated size.
//
// Half of the calls get tame values where a query may look and NaN elsewhere: the best instruction set is then held
// against the generic one (attention) or a sum in double (indexer), and two threads against one, byte for byte. The
// others get random bytes: nothing may fault. Every call is repeated with one argument spoiled and must be refused.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "fuzz.h"

namespace {

using Random = std::mt19937_64;

int64_t below(Random &random, int64_t count) { return int64_t(random() % uint64_t(count)); }

template <int N>
int64_t one_of(Random &random, const int64_t (&values)[N]) {
    return values[random() % N];
}

// Heap memory of exactly `count` values.
template <class T>
std::unique_ptr<T[]> exactly(int64_t count) {
    return std::unique_ptr<T[]>(new T[size_t(count)]);
}

// Between 2^-6 and 2^1 with either sign; or any bits.
uint16_t bf16(Random &random, bool tame) {
    return tame ? uint16_t((random() % 2 << 15) | (0x3C80 + random() % 0x0380)) : uint16_t(random());
}

std::unique_ptr<uint16_t[]> bf16s(Random &random, int64_t count, bool tame) {
    auto values = exactly<uint16_t>(count);
    for (int64_t i = 0; i < count; i++) values[size_t(i)] = bf16(random, tame);
    return values;
}

double value(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float result;
    std::memcpy(&result, &wide, 4);
    return result;
}

int64_t up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// Rows with what they point into.
struct Source {
    wf_rows rows;
    std::unique_ptr<uint8_t[]> storage;
    std::unique_ptr<int64_t[]> table;
    int64_t row_bytes;

    int64_t blocks = 0;

    uint8_t *at(int64_t n) const {
        const int64_t in = rows.in_block;
        if (!table) return storage.get() + n % (rows.bytes / row_bytes) * row_bytes;
        return storage.get() + table[size_t(n / in)] * rows.stride + n % in * row_bytes;
    }

    // Random rows first .. end, NaN in the others; or random bytes.
    void fill(Random &random, int64_t first, int64_t end, bool tame) {
        const int64_t dim = rows.dim, nope = dim - rows.rope_dim;
        for (int64_t i = 0; i < rows.bytes; i++) storage[size_t(i)] = tame ? 0xFF : uint8_t(random());
        for (int64_t n = first; tame && n < end; n++) {
            uint8_t *row = at(n);
            auto values = [&](uint8_t *to, int64_t count) {
                for (int64_t k = 0; k < count; k++) {
                    const uint16_t one = bf16(random, true);
                    std::memcpy(to + 2 * k, &one, 2);
                }
            };
            auto bytes = [&](uint8_t *to, int64_t count, int least, int number) {
                for (int64_t k = 0; k < count; k++) to[k] = uint8_t(least + int(random() % unsigned(number)));
            };
            if (rows.form == WF_ROWS_BF16) values(row, dim);
            if (rows.form == WF_ROWS_INDEX) bytes(row, dim / 2, 0, 256), bytes(row + dim / 2, up(dim, 32), 124, 4);
            if (rows.form == WF_ROWS_KV) {
                bytes(row, nope, 0, 127);
                for (int64_t k = 0; k < nope; k++) row[k] = uint8_t(row[k] | (random() % 2 << 7));
                values(row + nope, rows.rope_dim);
                bytes(row + nope + 2 * rows.rope_dim, up(nope, 64), 118, 4);
            }
        }
    }

    // An index key or bfloat16.
    double decoded(int64_t n, int64_t k) const {
        const uint8_t *row = at(n);
        if (rows.form == WF_ROWS_BF16) {
            uint16_t bits;
            std::memcpy(&bits, row + 2 * k, 2);
            return value(bits);
        }
        static const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
        const int code = row[k / 2] >> 4 * (k & 1) & 15;
        return std::ldexp(code & 8 ? -magnitudes[code & 7] : magnitudes[code & 7], row[rows.dim / 2 + k / 32] - 127);
    }
};

// Storage for `most` rows: without a table at least `most` of them, or shuffled blocks.
Source source_of(Random &random, int form, int64_t dim, int64_t rope_dim, int64_t most, bool paged) {
    Source source = {};
    const int64_t nope = dim - rope_dim;
    source.row_bytes = form == WF_ROWS_BF16 ? 2 * dim
                       : form == WF_ROWS_KV ? up(nope + 2 * rope_dim + up(nope, 64), 8) * 8
                                            : dim / 2 + up(dim, 32);
    const int64_t num_rows = most + below(random, 3);
    wf_rows &rows = source.rows;
    rows = {form, dim, rope_dim, nullptr, 0, nullptr, 0, 1, 0};
    rows.bytes = std::max<int64_t>(num_rows, 1) * source.row_bytes;
    if (paged) {
        static const int64_t sizes[] = {1, 2, 3, 16, 64, 100};
        rows.in_block = one_of(random, sizes);
        rows.table_blocks = up(most, rows.in_block) + below(random, 2);
        const int64_t blocks = source.blocks = rows.table_blocks + 1 + below(random, 4);
        rows.stride = rows.in_block * source.row_bytes + (random() % 2 ? below(random, 100) : 0);
        rows.bytes = (blocks - 1) * rows.stride + rows.in_block * source.row_bytes;
        if (random() % 2) rows.bytes += below(random, rows.stride);  // a part of a block
        source.table = exactly<int64_t>(rows.table_blocks);
        std::vector<int64_t> order(static_cast<size_t>(blocks));
        for (int64_t i = 0; i < blocks; i++) order[size_t(i)] = i;
        std::shuffle(order.begin(), order.end(), random);
        std::copy_n(order.begin(), rows.table_blocks, source.table.get());
        rows.table = source.table.get();
        if (!rows.table_blocks) {
            source.table.reset(), rows.table = nullptr;
            rows.bytes = std::max<int64_t>(num_rows, 1) * source.row_bytes;
        }
    }
    source.storage = exactly<uint8_t>(rows.bytes);
    rows.base = source.storage.get();
    return source;
}

int64_t dim_of(Random &random) {
    static const int64_t edges[] = {2, 30, 32, 34, 62, 64, 66, 96, 126, 128, 160, 256, 512};
    return random() % 8 ? one_of(random, edges) : 2 + 2 * below(random, 150);
}

int64_t bad_size(Random &random) {
    static const int64_t sizes[] = {0, -1, int64_t(1) << 40, int64_t(1) << 62, INT64_MIN};
    return one_of(random, sizes);
}

// One field of rows that are read, up to `most`, made wrong. False where the chosen one cannot be.
bool spoil(Random &random, Source &source, wf_rows &rows, int64_t most) {
    switch (random() % 8) {
        case 0: return rows.base = nullptr, true;
        case 1: return rows.form = random() % 2 ? 3 + int(random() % 100) : -1, true;
        case 2: return rows.dim = bad_size(random), true;
        case 3: return rows.rope_dim = random() % 2 ? -1 : rows.dim + 1, true;
        case 4:
            if (source.table && random() % 2)
                return rows.stride = below(random, rows.in_block * source.row_bytes), true;
            return rows.bytes = random() % 2 && !source.table ? rows.bytes + 1 : -below(random, 2) * source.row_bytes,
                   true;
        case 5:
            if (source.table) return rows.in_block = bad_size(random), true;
            if (most < 2) return false;
            return rows.bytes = (most - 1) * source.row_bytes, true;
        case 6:
            if (!source.table || !most) return false;
            return rows.table_blocks = below(random, up(most, rows.in_block)), true;
        default: {
            if (!source.table || !most) return false;
            int64_t &block = source.table[size_t(below(random, up(most, rows.in_block)))];
            block = random() % 2 ? -1 - below(random, 2) : source.blocks + below(random, 2) * (int64_t(1) << 40);
            return true;
        }
    }
}

struct Call {
    int64_t queries, heads, first, ratio;
    std::unique_ptr<uint16_t[]> q;

    int64_t visible(int64_t query) const { return ratio ? (first + query + 1) / ratio : 0; }
};

struct AttendCall : Call {
    int64_t window, most_chosen;
    wf_rows past, entries;
    bool no_entries;
    const uint16_t *query, *fresh;
    const float *sink;
    const int32_t *chosen;

    int run(wf_runtime *runtime, uint16_t *out) const {
        return wf_attend(runtime, queries, heads, query, sink, first, window, &past, fresh,
                         no_entries ? nullptr : &entries, ratio, chosen, most_chosen, out);
    }
};

bool differ(Fuzz &fuzz, const std::string &what) {
    fuzz.message = what;
    return false;
}

bool fuzz_attend(Fuzz &fuzz, const std::string &isa) {
    Random &random = fuzz.random;
    static const int64_t windows[] = {1, 2, 7, 63, 64, 65, 127, 128, 129};
    static const int64_t head_counts[] = {1, 2, 3, 5, 6, 7, 12, 13};
    static const int64_t ratios[] = {1, 2, 4, 4, 128};
    const bool tame = random() % 2;
    AttendCall call = {};
    call.queries = 1 + below(random, random() % 4 ? 4 : 20);
    call.heads = one_of(random, head_counts);
    call.window = one_of(random, windows);
    call.ratio = random() % 3 ? one_of(random, ratios) : 0;
    const int64_t some = random() % 3 ? 200 : 10;
    call.first = below(random, some);
    int64_t dim = dim_of(random);
    if (call.ratio && random() % 8 == 0) {  // some spans
        dim = 2 + 2 * below(random, 32), call.heads = 1 + below(random, 3);
        call.first = call.ratio * (1020 + below(random, random() % 2 ? 10 : 1100));
    }
    const int64_t before = std::min(call.first, call.window - 1);
    auto form = [&] { return random() % 2 ? WF_ROWS_BF16 : WF_ROWS_KV; };
    auto rope = [&] { return random() % 2 ? 0 : below(random, dim + 1); };
    Source past = source_of(random, form(), dim, rope(), before, false);
    past.fill(random, call.first - before, call.first, tame);
    const int64_t most = call.visible(call.queries - 1);
    Source entries = source_of(random, form(), dim, rope(), most, random() % 4);
    entries.fill(random, 0, most, tame);
    call.q = bf16s(random, call.queries * call.heads * dim, tame);
    auto fresh = bf16s(random, call.queries * dim, tame);
    auto sink = exactly<float>(call.heads);
    for (int64_t h = 0; h < call.heads; h++) {
        const uint32_t bits = uint32_t(random());
        if (tame) sink[size_t(h)] = float(below(random, 9)) - 4;
        else std::memcpy(&sink[size_t(h)], &bits, 4);
    }
    std::unique_ptr<int32_t[]> chosen;
    if (call.ratio && random() % 2) {
        call.most_chosen = 1 + below(random, most > 1024 && random() % 2 ? 2200 : 140);
        chosen = exactly<int32_t>(call.queries * call.most_chosen);
        for (int64_t i = 0; i < call.queries; i++) {
            const int64_t count = call.visible(i) ? below(random, call.most_chosen + 1) : 0;
            for (int64_t j = 0; j < call.most_chosen; j++)
                chosen[size_t(i * call.most_chosen + j)] = j < count ? int32_t(below(random, call.visible(i))) : -1;
        }
        call.chosen = chosen.get();
    }
    call.past = past.rows, call.entries = entries.rows, call.no_entries = !call.ratio && random() % 2;
    call.query = call.q.get(), call.fresh = fresh.get(), call.sink = sink.get();

    const int64_t size = call.queries * call.heads * dim;
    auto out = exactly<uint16_t>(size), again = exactly<uint16_t>(size), plain = exactly<uint16_t>(size);
    int error = call.run(fuzz.runtime(1), out.get());
    error |= call.run(fuzz.runtime(2), again.get());
    fuzz.use("generic");
    error |= call.run(fuzz.runtime(), plain.get());
    fuzz.use(isa);
    if (error) return differ(fuzz, "attend: error " + std::to_string(error));
    if (tame) {
        if (std::memcmp(out.get(), again.get(), size_t(2 * size)))
            return differ(fuzz, "attend: two threads differ from one");
        for (int64_t row = 0; row < call.queries * call.heads; row++) {
            double square = 0, apart = 0, largest = 0;
            for (int64_t k = row * dim; k < (row + 1) * dim; k++) {
                const double a = value(out[size_t(k)]), b = value(plain[size_t(k)]);
                square += b * b, apart += (a - b) * (a - b), largest = std::max(largest, b * b);
            }
            const double step = largest / (1 << 14);  // one bfloat16 step of one value, squared: rows of two values
            if (!(apart <= std::max(2.5e-5 * square, step))) {  // bfloat16: 0.5 %
                std::ostringstream what;
                what << "attend: instruction sets differ, " << isa << " row " << row << " of " << call.queries << " x "
                     << call.heads << " x " << dim << ": " << std::sqrt(apart) << " beside " << std::sqrt(square);
                return differ(fuzz, what.str());
            }
        }
    }

    AttendCall bad = {};
    for (bool spoiled = false; !spoiled;) {
        static_cast<Call &>(bad) = {call.queries, call.heads, call.first, call.ratio, nullptr};
        bad.window = call.window, bad.most_chosen = call.most_chosen, bad.past = call.past, bad.entries = call.entries;
        bad.no_entries = call.no_entries, bad.query = call.query, bad.fresh = call.fresh, bad.sink = call.sink;
        bad.chosen = call.chosen;
        spoiled = true;
        switch (random() % 12) {
            case 0: bad.queries = bad_size(random); break;
            case 1: bad.heads = bad_size(random); break;
            case 2: bad.window = bad_size(random); break;
            case 3: bad.first = random() % 2 ? -1 - below(random, 9) : int64_t(1) << 40; break;
            case 4: bad.ratio = random() % 2 ? -1 : int64_t(1) << 20; break;
            case 5: (random() % 2 ? bad.query : bad.fresh) = nullptr; break;
            case 6: bad.sink = nullptr; break;
            case 7: spoiled = spoil(random, past, bad.past, before); break;
            case 8: spoiled = call.ratio && spoil(random, entries, bad.entries, most); break;
            case 9:
                if (random() % 2) bad.past.table = &bad.first;
                else if (call.ratio) bad.no_entries = true;
                else spoiled = false;
                break;
            case 10:
                if ((spoiled = call.chosen)) {
                    const int64_t at = below(random, call.queries * call.most_chosen);
                    chosen[size_t(at)] = int32_t(call.visible(at / call.most_chosen)) + int32_t(below(random, 5));
                }
                break;
            default:
                if ((spoiled = call.ratio && call.past.dim > 2)) bad.entries.dim -= 2, bad.entries.rope_dim = 0;
        }
    }
    return bad.run(fuzz.runtime(), out.get()) ? true : differ(fuzz, "attend: a bad call was taken");
}

struct IndexCall : Call {
    int64_t k;
    int32_t released;
    wf_rows keys;
    const uint16_t *query, *weights;

    int run(wf_runtime *runtime, int32_t *out) const {
        return wf_index(runtime, queries, heads, query, weights, &keys, first, ratio, k, released, out);
    }
};

// A query's choice against scores in double: `off` is how far the kernel's may lie from them.
bool chosen_well(const IndexCall &call, const Source &keys, int64_t query, const int32_t *out) {
    const int64_t visible = call.visible(query), dim = keys.rows.dim, count = std::min(call.k, visible);
    std::vector<double> score(static_cast<size_t>(visible)), off(static_cast<size_t>(visible));
    for (int64_t n = 0; n < visible; n++) {
        std::vector<double> key(static_cast<size_t>(dim));
        for (int64_t k = 0; k < dim; k++) key[size_t(k)] = keys.decoded(n, k);
        for (int64_t h = 0; h < call.heads; h++) {
            const uint16_t *q = call.query + (query * call.heads + h) * dim;
            double dot = 0, size = 0;
            for (int64_t k = 0; k < dim; k++) {
                const double product = value(q[k]) * key[size_t(k)];
                dot += product, size += std::fabs(product);
            }
            const double weight = value(call.weights[query * call.heads + h]);
            score[size_t(n)] += weight * std::max(dot, 0.0);
            off[size_t(n)] += std::fabs(weight) * (1e-5 * size + (call.released ? std::fabs(dot) / 64 : 0));
        }
    }
    std::vector<char> taken(static_cast<size_t>(visible));
    double worst = INFINITY;
    for (int64_t j = 0; j < call.k; j++) {
        if (j >= count) {
            if (out[j] != -1) return false;
            continue;
        }
        const int64_t n = out[j];
        if (n < 0 || n >= visible || taken[size_t(n)]) return false;
        taken[size_t(n)] = 1;
        if (score[size_t(n)] - off[size_t(n)] > worst) return false;  // after a worse one
        worst = std::min(worst, score[size_t(n)] + off[size_t(n)]);
    }
    for (int64_t n = 0; n < visible && count; n++)
        if (!taken[size_t(n)] && score[size_t(n)] - off[size_t(n)] > worst) return false;
    return true;
}

bool fuzz_index(Fuzz &fuzz, const std::string &isa) {
    Random &random = fuzz.random;
    static const int64_t head_counts[] = {1, 2, 5, 6, 7, 12, 13};
    static const int64_t ks[] = {1, 2, 31, 63, 64, 65, 512, 3000};
    const bool tame = random() % 2;
    IndexCall call = {};
    call.queries = 1 + below(random, random() % 8 ? 5 : 70);
    call.heads = one_of(random, head_counts);
    call.ratio = 1 + below(random, 5);
    call.k = random() % 2 ? one_of(random, ks) : 1 + below(random, 300);
    call.first = call.ratio * below(random, random() % 8 ? 200 : call.queries < 6 ? 2500 : 600) + below(random, 5);
    call.released = random() % 2;
    const int64_t dim = call.first > 1000 || call.queries > 5 ? 2 + 2 * below(random, 34) : dim_of(random);
    const int64_t most = call.visible(call.queries - 1);
    Source keys = source_of(random, random() % 3 ? WF_ROWS_INDEX : WF_ROWS_BF16, dim, 0, most, random() % 4);
    keys.fill(random, 0, most, tame);
    call.q = bf16s(random, call.queries * call.heads * dim, tame);
    auto weights = bf16s(random, call.queries * call.heads, tame);
    call.keys = keys.rows, call.query = call.q.get(), call.weights = weights.get();

    const int64_t size = call.queries * call.k;
    auto out = exactly<int32_t>(size), again = exactly<int32_t>(size), plain = exactly<int32_t>(size);
    int error = call.run(fuzz.runtime(1), out.get());
    error |= call.run(fuzz.runtime(2), again.get());
    fuzz.use("generic");
    error |= call.run(fuzz.runtime(), plain.get());
    fuzz.use(isa);
    if (error) return differ(fuzz, "index: error " + std::to_string(error));
    if (tame) {
        if (std::memcmp(out.get(), again.get(), size_t(4 * size)))
            return differ(fuzz, "index: two threads differ from one");
        const int64_t query = below(random, call.queries);
        if (!chosen_well(call, keys, query, out.get() + query * call.k)) return differ(fuzz, "index: a bad choice");
        if (!chosen_well(call, keys, query, plain.get() + query * call.k))
            return differ(fuzz, "index: a bad generic choice");
    }
    for (int64_t i = 0; i < size; i++)
        if (out[size_t(i)] < -1 || out[size_t(i)] >= call.visible(i / call.k))
            return differ(fuzz, "index: no such entry");

    IndexCall bad = {};
    for (bool spoiled = false; !spoiled;) {
        static_cast<Call &>(bad) = {call.queries, call.heads, call.first, call.ratio, nullptr};
        bad.k = call.k, bad.released = call.released, bad.keys = call.keys;
        bad.query = call.query, bad.weights = call.weights;
        spoiled = true;
        switch (random() % 8) {
            case 0: bad.queries = bad_size(random); break;
            case 1: bad.heads = bad_size(random); break;
            case 2: bad.k = bad_size(random); break;
            case 3: bad.ratio = bad_size(random); break;
            case 4: bad.first = random() % 2 ? -1 : int64_t(1) << 40; break;
            case 5: (random() % 2 ? bad.query : bad.weights) = nullptr; break;
            case 6: bad.keys.form = WF_ROWS_KV; break;
            default: spoiled = spoil(random, keys, bad.keys, most);
        }
    }
    return bad.run(fuzz.runtime(), out.get()) ? true : differ(fuzz, "index: a bad call was taken");
}

}  // namespace

// At times on new runtimes.
bool fuzz_attention(Fuzz &fuzz) {
    if (fuzz.below(8) == 0 && !fuzz.renew()) return differ(fuzz, "no runtime");
    const std::string isa = fuzz.isa();
    return fuzz.below(2) ? fuzz_attend(fuzz, isa) : fuzz_index(fuzz, isa);
}
