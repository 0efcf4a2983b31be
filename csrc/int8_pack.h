// 64 rows of a weight and 128 columns of it in int8: the panel that rows of x meet (int8_gemm.h).
#pragma once

#include "int8_vector.h"

namespace wf {

// A word holds four columns of a row, those that a word of x's record has.
struct Int8Panel {
    alignas(64) uint32_t words[CHUNK / 4 * INT8_TILE];    // [32][rows]
    alignas(64) float scales[INT8_TILE];                  // of a row's sums, without `ratios`' share
    alignas(64) float ratios[INT8_GROUPS * INT8_TILE];    // [groups][rows], if `apart`
    alignas(64) uint32_t scale_bytes[INT8_TILE];          // FP4: of a row's four groups
    alignas(64) uint32_t shifts[INT8_GROUPS * INT8_TILE];
    bool apart;  // groups of a row have scales that lie too far apart for their codes to be shifted
};

template <class S>
struct Int8Pack {
    using F = typename S::F;
    using U = typename S::U;
    using B = typename S::B;
    static constexpr int L = S::LANES;
    static constexpr int64_t T = INT8_TILE;
    static constexpr int SPREAD = 3;  // powers of two that a code of FP4 can be shifted by: 12 << 3 is one

    // Rows beyond `count` are zero, as are columns beyond the matrix.
    static void pack(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        if (task.weight->form == WF_FP4) fp4(task, chunk, panel);
        else fp8(task, chunk, panel);
    }

  private:
    static void fp4(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t row_bytes = m.row_bytes(), at = chunk * CHUNK / 2;
        const bool whole = at + CHUNK / 2 <= row_bytes && row_bytes % 4 == 0;
        fp4_scales(task, chunk, panel);
        for (int64_t n = 0; n < T; n += L) {
            const uint8_t *from = m.codes + (task.first + n) * row_bytes + at;
            int64_t stride = row_bytes / 4;
            alignas(64) uint32_t rows[L * CHUNK / 8], words[L * CHUNK / 8];
            if (!whole || n + L > task.count) {
                std::memset(rows, 0, sizeof rows);
                const int64_t bytes = row_bytes - at < CHUNK / 2 ? row_bytes - at : CHUNK / 2;
                for (int64_t i = 0; i < L && n + i < task.count; i++)
                    std::memcpy(rows + i * CHUNK / 8, from + i * row_bytes, size_t(bytes));
                from = reinterpret_cast<const uint8_t *>(rows), stride = CHUNK / 8;
            } else if (task.ahead) {
                for (int64_t i = 0; i < L; i++) __builtin_prefetch(from + i * row_bytes + task.ahead, 0, 2);
            }
            for (int64_t k = 0; k < CHUNK / 8; k += L)
                S::transpose(reinterpret_cast<const uint32_t *>(from) + k, stride, words + k * L, L);
#pragma GCC unroll 4
            for (int64_t g = 0; g < INT8_GROUPS; g++) {
                const U shift = S::SHIFTS ? S::pairs(panel.shifts + g * T + n) : U{};
#pragma GCC unroll 4
                for (int64_t k = 4 * g; k < 4 * g + 4; k++) {
                    B low, high;
                    S::e2m1(S::pairs(words + k * L), shift, low, high);
                    S::write(panel.words + k * T + n, low);
                    S::write(panel.words + (CHUNK / 8 + k) * T + n, high);
                }
            }
        }
    }

    // The largest of a row's four scales, halved as codes are doubled, and what the others are to it.
    static void fp4_scales(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t row_scales = m.row_scales(), left = row_scales - chunk * INT8_GROUPS;
        const uint8_t *from = m.scales_of(task.first) + chunk * INT8_GROUPS;
        for (int64_t n = 0; n < T; n++) {
            uint8_t four[INT8_GROUPS] = {};
            if (n < task.count) {
                if (left >= INT8_GROUPS) std::memcpy(four, from + n * row_scales, sizeof four);
                else
                    for (int64_t g = 0; g < INT8_GROUPS; g++) four[g] = from[n * row_scales + (g < left ? g : 0)];
            }
            std::memcpy(panel.scale_bytes + n, four, sizeof four);
        }
        U far = {};
        for (int64_t n = 0; n < T; n += L) {
            const U four = S::pairs(panel.scale_bytes + n);
            U top = {};
            for (int g = 0; g < INT8_GROUPS; g++) top = larger(top, four >> (8 * g) & 255);
            const int down = 1 + (S::SHIFTS ? SPREAD : 0);
            const U normal = (top - uint32_t(down)) << 23, small = S::all_pairs(1u << (22 - down)) << top;
            const U bits = top > uint32_t(down) ? normal : small;
            S::write(panel.scales + n, top == 255 ? S::all_pairs(0x7FC00000) : bits);
            for (int g = 0; g < INT8_GROUPS; g++) {
                const U below = top - (four >> (8 * g) & 255);
                const U ratio = below < 127u ? (S::all_pairs(127) - below) << 23 : U{};  // or nothing beside the largest
                S::write(panel.ratios + g * T + n, ratio);
                S::write(panel.shifts + g * T + n, S::all_pairs(SPREAD) - below);
                far = larger(far, below);
            }
        }
        panel.apart = false;
        for (int l = 0; l < L; l++) panel.apart |= far[l] > (S::SHIFTS ? SPREAD : 0);
        if (!S::SHIFTS || !panel.apart) return;
        for (int64_t i = 0; i < INT8_GROUPS * T; i++) panel.ratios[i] *= 1 << SPREAD, panel.shifts[i] = 0;
    }
    static WF_INLINE U larger(U a, U b) { return a > b ? a : b; }

    static void fp8(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t columns = m.columns - chunk * CHUNK < CHUNK ? m.columns - chunk * CHUNK : CHUNK;
        panel.apart = false;
        for (int64_t n = 0; n < T; n += L) {
            alignas(64) uint8_t rows[L * CHUNK], padded[CHUNK] = {};
            for (int64_t i = 0; i < L; i++) {
                const int64_t row = task.first + (n + i < task.count ? n + i : 0);  // what is not stored may be anything
                const uint8_t *from = m.codes + row * m.columns + chunk * CHUNK;
                if (columns < CHUNK) from = static_cast<uint8_t *>(std::memcpy(padded, from, size_t(columns)));
                const uint8_t highest = S::highest(from);
                const int top = highest < 32 ? 4 : highest >> 3;
                S::e4m3(from, int8_of_e4m3(top), rows + i * CHUNK);
                const float unit = bits_to_float(highest == 127 ? 0x7FC00000 : uint32_t(127 + top - 13) << 23);
                panel.scales[n + i] = e8m0_to_float(m.scales_of(row)[chunk]) * unit;
            }
            const uint32_t *words = reinterpret_cast<const uint32_t *>(rows);
            for (int64_t k = 0; k < CHUNK / 4; k += L)
                S::transpose(words + k, CHUNK / 4, panel.words + k * T + n, T);
        }
    }
};

}  // namespace wf
