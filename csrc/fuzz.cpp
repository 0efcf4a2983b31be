// Random shapes and contents through the C interface, in buffers of exactly the stated size: for the sanitizers. Every
// instruction set that the processor has against the plain one.
//
//     fuzz [CALLS] [SEED] [PART ..]     exit code 0, or a message and 1; every call also with one argument spoiled
//
// With names of parts, these alone are drawn: `fuzz 1000 3 products rounding`.
#include "fuzz.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace {

// A positive size: mostly small, at times around the kernels' block sizes.
int64_t size_of(Fuzz &fuzz) {
    static const int64_t edges[] = {1, 2, 31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 384, 512};
    return fuzz.below(2) ? edges[fuzz.below(sizeof edges / sizeof *edges)] : 1 + fuzz.below(300);
}

// `exact`: nothing overflows on the way, so that NaN is NaN in both.
bool close(float a, float b, double size, bool exact, double share = 1e-5) {
    const bool finite = std::isfinite(a) && std::isfinite(b);
    if (!finite) return !exact || std::isnan(a) == std::isnan(b);
    return std::fabs(double(a) - b) <= share * size + 1e-30;
}

bool fuzz_product(Fuzz &fuzz) {
    // half of the time a form of GGUF: values and bytes of its blocks, from WF_Q8_0 on
    static const int64_t blocks[][2] = {{32, 34},   {256, 210}, {256, 176}, {256, 144}, {256, 110}, {256, 84},
                                        {256, 136}, {256, 98},  {256, 74},  {256, 66},  {32, 17},   {1, 2}};
    const int form = int(fuzz.below(2) ? fuzz.below(4) : 4 + fuzz.below(12));
    const bool in_blocks = form >= WF_Q8_0;
    if (in_blocks && fuzz.below(2)) fuzz.int8 = true, fuzz.batch_invariant = fuzz.below(2);
    int64_t rows = size_of(fuzz), columns = size_of(fuzz);
    if (fuzz.below(8) == 0) rows = 1 + fuzz.below(9), columns = 1000 + fuzz.below(4000);  // longer than a tile
    const int64_t x_rows = 1 + fuzz.below(fuzz.below(3) ? 9 : 40);
    if (form == WF_FP4) columns += columns % 2;
    const int64_t *block = in_blocks ? blocks[form - WF_Q8_0] : nullptr;
    if (block) columns = (columns + block[0] - 1) / block[0] * block[0];
    const int64_t row_bytes = block            ? columns / block[0] * block[1]
                              : form == WF_FP4 ? columns / 2
                                               : columns << (form - 1);
    const int64_t scales = form == WF_FP4   ? rows * ((columns + 31) / 32)
                           : form == WF_FP8 ? (rows + 127) / 128 * ((columns + 127) / 128)
                                            : 0;
    auto codes = fuzz.values<uint8_t>(rows * row_bytes), scale = fuzz.values<uint8_t>(scales);
    const bool usual = fuzz.below(2);
    if (usual)  // half of the time, scales as they are in a model
        for (int64_t i = 0; i < scales; i++) scale[size_t(i)] = uint8_t(100 + scale[size_t(i)] % 50);
    if (form == WF_FP8 && fuzz.below(2))  // rows without NaN
        for (int64_t i = 0; i < rows * row_bytes; i++)
            if ((codes[size_t(i)] & 127) == 127) codes[size_t(i)] = 0;
    std::unique_ptr<uint16_t[]> x(new uint16_t[size_t(x_rows * columns)]);
    for (int64_t i = 0; i < x_rows * columns; i++) x[size_t(i)] = uint16_t(0x3F00 + fuzz.below(256));
    std::unique_ptr<float[]> y(new float[size_t(x_rows * rows)]), z(new float[size_t(x_rows * rows)]);
    std::unique_ptr<uint16_t[]> out(new uint16_t[size_t(rows * columns)]);
    std::unique_ptr<uint16_t[]> plain(new uint16_t[size_t(rows * columns)]);
    wf_matrix matrix = {form, rows, columns, codes.get(), rows * row_bytes, scales ? scale.get() : nullptr, scales};
    const auto call = [&](const std::string &isa, float *products, uint16_t *decoded) {
        fuzz.use(isa);
        const int error = wf_linear(fuzz.runtime(), &matrix, x.get(), x_rows, 0, products, 0);
        return error | wf_decode(fuzz.runtime(), &matrix, 0, rows, decoded, 2 * rows * columns);
    };
    std::ostringstream problem;
    const auto wrong = [&] { return fuzz.message = problem.str(), false; };
    if (const int error = call("generic", z.get(), plain.get())) return problem << "error " << error, wrong();
    const bool plain_order = fuzz.same_order(x_rows);
    std::vector<double> sizes(size_t(rows), 0);  // of the terms of a row's products, as x is about 1
    for (int64_t i = 0; i < rows * columns; i++)
        sizes[size_t(i / columns)] += 2 * std::fabs(double(bf16_value(plain[size_t(i)])));
    for (const std::string &isa : fuzz.isas) {
        problem.str("");
        problem << "form " << form << ", " << rows << " x " << columns << ", " << isa << ": ";
        if (const int error = call(isa, y.get(), out.get())) return problem << "error " << error, wrong();
        for (int64_t i = 0; i < rows * columns; i++) {
            const bool nan = (out[size_t(i)] & 0x7FFF) > 0x7F80 && (plain[size_t(i)] & 0x7FFF) > 0x7F80;
            if (out[size_t(i)] != plain[size_t(i)] && !nan)
                return problem << "decoded value " << i << " differs", wrong();
        }
        const bool same_order =
            fuzz.same_order(x_rows) && (!in_blocks || fuzz.batch_invariant || x_rows <= (fuzz.int8 ? 8 : 16));
        // tiles of many rows may round what is decoded to bfloat16
        const bool rounds =
            in_blocks && !(plain_order && same_order && x_rows <= 24) && !(fuzz.int8 && block[0] == 256);
        const double share = rounds ? 1e-2 : 1e-5;
        for (int64_t i = 0; i < x_rows * rows; i++)
            if (!close(y[size_t(i)], z[size_t(i)], sizes[size_t(i % rows)], usual && form <= WF_FP8, share))
                return problem << "product " << i << ": " << y[size_t(i)] << ", " << z[size_t(i)], wrong();
        if (!same_order) continue;
        std::unique_ptr<float[]> alone(new float[size_t(rows)]);  // a row of x by itself: the same bytes
        const int64_t r = fuzz.below(x_rows);
        wf_linear(fuzz.runtime(), &matrix, x.get() + r * columns, 1, 0, alone.get(), 0);
        for (int64_t n = 0; n < rows; n++) {
            const float one = alone[size_t(n)], together = y[size_t(r * rows + n)];
            if (one != together && !(std::isnan(one) && std::isnan(together)))
                return problem << "row " << r << " alone differs at " << n, wrong();
        }
    }
    wf_matrix bad = matrix;
    switch (fuzz.below(6)) {
        case 0: bad.codes_bytes += fuzz.below(2) ? 1 : -1; break;
        case 1: bad.rows = -fuzz.below(3); break;
        case 2: bad.columns = int64_t(fuzz.random() >> 1) | int64_t(1) << 40; break;
        case 3: bad.form = 16 + int(fuzz.below(100)); break;
        case 4: bad.codes = nullptr; break;
        default: bad.scales_bytes += 1, bad.codes_bytes -= form > WF_FP8; break;
    }
    if (!wf_linear(fuzz.runtime(), &bad, x.get(), x_rows, 0, y.get(), 0) ||
        !wf_decode(fuzz.runtime(), &bad, 0, 1, out.get(), 2 * columns))
        return problem << "a bad matrix was taken", wrong();
    return true;
}

}  // namespace

Fuzz::Fuzz(uint64_t seed) : random(seed) {
    std::istringstream names(wf_isas());
    for (std::string name; names >> name;)
        if (name != "generic") isas.push_back(name);
}

// The usual tuning half of the time, else any.
bool Fuzz::draw_tuning(const char *isa) {
    wf_tuning tuning;
    if (wf_usual_tuning(isa, &tuning)) return false;
    if (below(2)) {
        tuning.hint = int32_t(below(5)), tuning.plain_hint = int32_t(below(5));
        tuning.ahead = int32_t(below(2) ? below(1 << 14) : below((1 << 20) + 1));
        tuning.few_rows = int32_t(1 + below(below(2) ? 16 : 256));
        tuning.float_rows = int32_t(below(below(2) ? 16 : 1025));
    }
    tunings_.push_back(tuning);
    return true;
}

bool Fuzz::renew() {
    release();
    for (size_t i = 0; i <= isas.size(); i++) {
        for (int kind = 0; kind < 8; kind++) {
            wf_runtime *runtime;
            const char *isa = i < isas.size() ? isas[i].c_str() : "generic";
            if (kind == 0 && !draw_tuning(isa)) return false;
            if (wf_runtime_create(1 + kind / 4, isa, kind / 2 % 2, kind % 2, &tunings_.back(), &runtime)) return false;
            runtimes_.push_back(runtime);
        }
    }
    return true;
}

void Fuzz::release() {
    for (wf_runtime *runtime : runtimes_) wf_runtime_release(runtime);
    runtimes_.clear();
    tunings_.clear();
}

struct Part {
    const char *name;
    bool (*call)(Fuzz &);
};

const Part PARTS[] = {{"product", fuzz_product},   {"attention", fuzz_attention}, {"block", fuzz_block},
                      {"experts", fuzz_experts},   {"forward", fuzz_forward},     {"marks", fuzz_marks},
                      {"mtp", fuzz_mtp},           {"training", fuzz_training},   {"int8", fuzz_int8},
                      {"products", fuzz_products}, {"rounding", fuzz_rounding},   {"choose", fuzz_choose}};

int main(int count, char **arguments) {
    const long calls = count > 1 ? std::atol(arguments[1]) : 10000;
    Fuzz fuzz(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0);
    std::vector<Part> parts;
    for (const Part &part : PARTS)
        if (count <= 3 || std::find(arguments + 3, arguments + count, std::string(part.name)) != arguments + count)
            parts.push_back(part);
    if (parts.size() < (count > 3 ? size_t(count - 3) : 1)) return std::puts("no such part"), 1;
    if (!fuzz.renew()) return std::puts("no runtime"), 1;
    long call = 0;
    for (; call < calls; call++) {
        fuzz.isa();
        fuzz.batch_invariant = fuzz.below(4) == 0, fuzz.int8 = false;
        if (fuzz.below(64) == 0 && !fuzz.renew()) return std::puts("no runtime"), 1;
        if (!parts[size_t(fuzz.below(int64_t(parts.size())))].call(fuzz)) break;
    }
    if (call < calls) return std::printf("call %ld: %s\n", call, fuzz.message.c_str()), 1;
    std::printf("%ld calls, %s: no difference\n", calls, wf_isas());
    return 0;
}
