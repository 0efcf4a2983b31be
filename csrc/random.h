// Random numbers that are functions of what they are for: Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as
// 1, 2, 3, 2011), as wavefold/engine/uniform.py.
#pragma once

#include <cstdint>

namespace wf {

// In [0, 1), a multiple of 2^-53. `seed` and `position` are not negative, `answer` is below 2^32.
inline double uniform(int64_t seed, int64_t position, int64_t answer) {
    uint32_t a = uint32_t(position), b = uint32_t(position >> 32), c = uint32_t(answer), d = 0;
    uint32_t first = uint32_t(seed), second = uint32_t(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t left = uint64_t(a) * 0xD2511F53u, right = uint64_t(c) * 0xCD9E8D57u;
        a = uint32_t(right >> 32) ^ b ^ first, b = uint32_t(right);
        c = uint32_t(left >> 32) ^ d ^ second, d = uint32_t(left);
        first += 0x9E3779B9u, second += 0xBB67AE85u;
    }
    return double((uint64_t(a >> 5) << 26) + (b >> 6)) * 0x1p-53;
}

}  // namespace wf
