// What the files of the fuzzer share.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "wavefold.h"

struct Fuzz {
    std::mt19937_64 random;
    wf_pool *pools[2] = {};
    std::vector<std::string> isas;  // all but "generic"
    std::string message;            // of what went wrong

    explicit Fuzz(uint64_t seed) : random(seed) {}

    int64_t below(int64_t count) { return int64_t(random() % uint64_t(count)); }
    wf_pool *pool() { return pools[random() % 2]; }
    // The name of one of them, "generic" among them, which is in use from now on.
    std::string isa() {
        const size_t number = size_t(below(int64_t(isas.size()) + 1));
        const std::string name = number < isas.size() ? isas[number] : "generic";
        wf_use_isa(name.c_str());
        return name;
    }

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
};

// One call each; false with a message.
bool fuzz_attention(Fuzz &fuzz);
bool fuzz_block(Fuzz &fuzz);
bool fuzz_experts(Fuzz &fuzz);
bool fuzz_training(Fuzz &fuzz);
