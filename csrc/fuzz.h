// What the files of the fuzzer share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "wavefold.h"

struct Fuzz {
    std::mt19937_64 random;
    std::vector<std::string> isas;               // all but "generic"
    std::string message;                         // of what went wrong
    bool batch_invariant = false, int8 = false;  // what the runtimes in use are

    explicit Fuzz(uint64_t seed);
    ~Fuzz() { release(); }
    Fuzz(const Fuzz &) = delete;
    Fuzz &operator=(const Fuzz &) = delete;

    int64_t below(int64_t count) { return int64_t(random() % uint64_t(count)); }

    // A runtime of the instruction set in use, on one thread or two.
    wf_runtime *runtime() { return runtime(1 + int(below(2))); }
    wf_runtime *runtime(int threads) {
        return runtimes_[in_use_ * 8 + size_t(threads - 1) * 4 + batch_invariant * 2 + int8];
    }
    // From now on that instruction set is in use; "generic" is one.
    void use(const std::string &isa) {
        in_use_ = 0;
        while (in_use_ < isas.size() && isas[in_use_] != isa) in_use_++;
    }
    // True if so many rows are summed in the order of one row: the same kernels, no tiles.
    bool same_order(int64_t rows) const {
        const wf_tuning &tuning = tunings_[in_use_];
        return batch_invariant || (rows <= tuning.few_rows && (tuning.float_rows < 2 || rows < tuning.float_rows));
    }
    // The name of one of them, "generic" among them, which is in use from now on.
    std::string isa() {
        in_use_ = size_t(below(int64_t(isas.size()) + 1));
        return in_use_ < isas.size() ? isas[in_use_] : "generic";
    }
    // Other runtimes in place of these: their scratch is then as small as it may be. False when there are none.
    bool renew();

    // Heap memory of exactly `count` values, filled at random.
    template <class T>
    std::unique_ptr<T[]> values(int64_t count) {
        std::unique_ptr<T[]> data(new T[size_t(count)]);
        uint8_t *bytes = reinterpret_cast<uint8_t *>(data.get());
        for (int64_t i = 0; i < count * int64_t(sizeof(T)); i++) bytes[i] = uint8_t(random());
        return data;
    }
    // bfloat16 values of both signs between 2^-3 and 2.
    std::unique_ptr<uint16_t[]> bf16(int64_t count) {
        std::unique_ptr<uint16_t[]> data(new uint16_t[size_t(count)]);
        for (int64_t i = 0; i < count; i++)
            data[size_t(i)] = uint16_t((random() & 0x8000) | (0x3E00 + random() % 0x200));
        return data;
    }
    // float32 values of both signs up to `size`.
    std::unique_ptr<float[]> floats(int64_t count, float size) {
        std::unique_ptr<float[]> data(new float[size_t(count)]);
        for (int64_t i = 0; i < count; i++) data[size_t(i)] = size * (float(below(2001)) / 1000 - 1);
        return data;
    }

    // True if a bad call came back as an error; else `message` says that it was taken.
    bool refused(const char *name, int error) {
        if (!error) message = std::string(name) + ": a bad call was taken";
        return error != 0;
    }

  private:
    void release();
    bool draw_tuning(const char *isa);

    size_t in_use_ = 0;               // in `isas`; their number is "generic"
    std::vector<wf_tuning> tunings_;  // of each instruction set
    // for each instruction set: one thread, two; as they are, batch-invariant; in int8
    std::vector<wf_runtime *> runtimes_;
};

inline float bf16_value(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

// The nearest value that bfloat16 holds, ties to even: a way of its own, not the kernels'.
inline double rounded_to_bf16(double value) {
    if (value == 0) return value;
    int exponent;
    std::frexp(value, &exponent);
    const double unit = std::ldexp(1.0, std::max(exponent, -125) - 8), nearest = std::nearbyint(value / unit) * unit;
    return std::fabs(nearest) < 0x1p128 ? nearest : std::copysign(INFINITY, value);
}

// One call each; false with a message.
bool fuzz_attention(Fuzz &fuzz);
bool fuzz_block(Fuzz &fuzz);
bool fuzz_choose(Fuzz &fuzz);
bool fuzz_experts(Fuzz &fuzz);
bool fuzz_forward(Fuzz &fuzz);
bool fuzz_marks(Fuzz &fuzz);
bool fuzz_mtp(Fuzz &fuzz);
bool fuzz_int8(Fuzz &fuzz);
bool fuzz_products(Fuzz &fuzz);
bool fuzz_rounding(Fuzz &fuzz);
bool fuzz_training(Fuzz &fuzz);
