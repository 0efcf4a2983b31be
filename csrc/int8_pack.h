// 64 rows of a weight and 128 columns of it in int8: the panel that rows of x meet (int8_gemm.h).
#pragma once

#include "gguf.h"
#include "int8_vector.h"

namespace wf {

// A word holds four columns of a row, those that a word of x's record has.
struct Int8Panel {
    alignas(64) uint32_t words[CHUNK / 4 * INT8_TILE];  // [32][rows]
    alignas(64) float scales[INT8_TILE];                // of a row's sums, without `ratios`' share
    alignas(64) float ratios[INT8_GROUPS * INT8_TILE];  // [groups][rows], if `apart`
    alignas(64) uint32_t scale_bytes[16 * INT8_TILE];   // FP4: [chunks][rows], of the four groups
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
    static constexpr int SPREAD =
        S::SHIFTS ? 3 : 0;  // powers of two that FP4's codes are shifted by at most: 12 << 3 is one
    static constexpr int HALVES = 1 + SPREAD;

    // Rows beyond `count` are zero, as are columns beyond the matrix.
    static void pack(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        switch (task.weight->form) {
            case WF_FP4: return fp4(task, chunk, panel);
            case WF_FP8: return fp8(task, chunk, panel);
            case WF_Q8_0: return blocks<WF_Q8_0>(task, chunk, panel);
            default: return blocks<WF_MXFP4>(task, chunk, panel);
        }
    }

  private:
    static void fp4(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t row_bytes = m.row_bytes(), at = chunk * CHUNK / 2;
        const bool whole = at + CHUNK / 2 <= row_bytes && row_bytes % 4 == 0;
        fp4_scales(task, chunk, panel);
        const auto table = S::e2m1_table();
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
            }
            for (int64_t i = 0; i < L && task.next; i++)  // a line for each row, from the first on
                __builtin_prefetch(task.next + (chunk * T + n + i) * 64, 0, 2);
            for (int64_t k = 0; k < CHUNK / 8; k += L)
                S::transpose(reinterpret_cast<const uint32_t *>(from) + k, stride, words + k * L, L);
#pragma GCC unroll 4
            for (int64_t g = 0; g < INT8_GROUPS; g++) {
                const U shift = S::SHIFTS ? S::pairs(panel.shifts + g * T + n) : U{};
#pragma GCC unroll 4
                for (int64_t k = 4 * g; k < 4 * g + 4; k += 2) {
                    B low[2], high[2];
                    for (int i = 0; i < 2; i++) S::e2m1(table, S::pairs(words + (k + i) * L), shift, low[i], high[i]);
                    S::put(panel.words + k * T, n, low);
                    S::put(panel.words + (CHUNK / 8 + k) * T, n, high);
                }
            }
        }
    }

    // The largest of a row's four scales, halved as codes are doubled, and what the others are to it.
    static void fp4_scales(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        if (chunk % L == 0) scale_bytes(task, chunk, panel);
        const uint32_t *bytes = panel.scale_bytes + chunk % L * T;
        U far = {};
        for (int64_t n = 0; n < T; n += L) {
            const U four = S::pairs(bytes + n);
            U top = {};
#pragma GCC unroll 4
            for (int g = 0; g < INT8_GROUPS; g++) top = larger(top, four >> (8 * g) & 255);
            const U normal = (top - uint32_t(HALVES)) << 23, small = S::all_pairs(1u << (22 - HALVES)) << top;
            const U bits = top > uint32_t(HALVES) ? normal : small;
            S::write(panel.scales + n, top == 255 ? S::all_pairs(0x7FC00000) : bits);
#pragma GCC unroll 4
            for (int g = 0; g < INT8_GROUPS; g++) {
                const U below = top - (four >> (8 * g) & 255);
                S::write(panel.shifts + g * T + n, uint32_t(SPREAD) - below);
                far = larger(far, below);
            }
        }
        uint32_t farthest[L];
        S::write(farthest, far);
        panel.apart = false;
        for (int l = 0; l < L; l++) panel.apart |= farthest[l] > uint32_t(SPREAD);
        if (panel.apart) ratios(panel);
    }

    // 2^shift as a factor, or nothing beside the largest; codes are not shifted.
    static void ratios(Int8Panel &panel) {
        for (int64_t n = 0; n < INT8_GROUPS * T; n += L) {
            const U shift = S::pairs(panel.shifts + n), exponent = shift + 127;
            S::write(panel.ratios + n, exponent < 255u ? exponent << 23 : U{});
            S::write(panel.shifts + n, U{});
        }
    }

    // The scale bytes of the next L chunks, a word for a row and chunk; beyond the matrix, the first ones of the word.
    static void scale_bytes(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t row_scales = m.row_scales(), left = row_scales - chunk * INT8_GROUPS;
        const uint8_t *from = m.scales_of(task.first) + chunk * INT8_GROUPS;
        if (task.count == T && row_scales % 4 == 0 && left >= 4 * L) {
            const uint32_t *words = reinterpret_cast<const uint32_t *>(from);
            for (int64_t n = 0; n < T; n += L)
                S::transpose(words + n * row_scales / 4, row_scales / 4, panel.scale_bytes + n, T);
            return;
        }
        std::memset(panel.scale_bytes, 0, sizeof panel.scale_bytes);
        for (int64_t n = 0; n < task.count; n++)
            for (int64_t c = 0; c < L && c * INT8_GROUPS < left; c++) {
                uint8_t four[INT8_GROUPS];
                for (int64_t g = 0; g < INT8_GROUPS; g++)
                    four[g] = from[n * row_scales + c * INT8_GROUPS + (c * INT8_GROUPS + g < left ? g : 0)];
                std::memcpy(panel.scale_bytes + c * T + n, four, sizeof four);
            }
    }
    static WF_INLINE U larger(U a, U b) { return a > b ? a : b; }

    static void fp8(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        const Matrix &m = *task.weight;
        const int64_t left = m.columns - chunk * CHUNK, columns = left < CHUNK ? left : CHUNK;
        const bool whole = columns == CHUNK && m.columns % 4 == 0;
        const float block_scale = e8m0_to_float(m.scales_of(task.first)[chunk]);  // of 128 rows, these 64 among them
        const auto table = S::e4m3_table();
        panel.apart = false;
        for (int64_t n = 0; n < T; n += L) {
            const uint8_t *from = m.codes + (task.first + n) * m.columns + chunk * CHUNK;
            int64_t stride = m.columns / 4;
            alignas(64) uint32_t rows[L * CHUNK / 4], words[L * CHUNK / 4];
            if (!whole || n + L > task.count) {
                std::memset(rows, 0, sizeof rows);
                for (int64_t i = 0; i < L && n + i < task.count; i++)
                    std::memcpy(rows + i * CHUNK / 4, from + i * m.columns, size_t(columns));
                from = reinterpret_cast<const uint8_t *>(rows), stride = CHUNK / 4;
            }
            for (int64_t i = 0; i < 2 * L && task.next; i++)
                __builtin_prefetch(task.next + (chunk * T + n) * CHUNK + i * 64, 0, 2);
            for (int64_t k = 0; k < CHUNK / 4; k += L)
                S::transpose(reinterpret_cast<const uint32_t *>(from) + k, stride, words + k * L, L);
            B highest = {};
            for (int64_t k = 0; k < CHUNK / 4; k++) {
                const B magnitude = (B)S::pairs(words + k * L) & 127;
                highest = magnitude > highest ? magnitude : highest;
            }
            U code = S::all_pairs(32);  // exponents are 4 at least
            for (int g = 0; g < 4; g++) code = larger(code, (U)highest >> (8 * g) & 255);
            const F unit = S::bits(code == 127u ? S::all_pairs(0x7FC00000) : ((code >> 3) + (127 - 13)) << 23);
            S::store(panel.scales + n, unit * block_scale);
            uint32_t tops[L];
            S::write(tops, code >> 3);
            bool small = false;
            for (int l = 0; l < L; l++) small |= tops[l] < 8;
            if (small) {
                fp8_small(words, tops, n, panel);
                continue;
            }
            const B most = (B)((code | 7) * 0x01010101);
            for (int64_t k = 0; k < CHUNK / 4; k += 2) {
                const B first = (B)S::pairs(words + k * L), second = (B)S::pairs(words + (k + 1) * L);
                S::put(panel.words + k * T, n, {S::e4m3(table, first, most), S::e4m3(table, second, most)});
            }
        }
    }

    // Any exponents: where the largest is below 8, codes that are subnormal count.
    static void fp8_small(const uint32_t *words, const uint32_t (&tops)[L], int64_t n, Int8Panel &panel) {
        for (int64_t k = 0; k < CHUNK / 4; k += 2) {
            uint8_t in[8 * L], out[8 * L];
            std::memcpy(in, words + k * L, sizeof in);
            for (int i = 0; i < 8 * L; i++) {
                const int magnitude = int8_of_e4m3(int(tops[i / 4 % L]))[in[i] & 127];
                out[i] = uint8_t((in[i] & 128 ? -magnitude : magnitude) + S::OFFSET);
            }
            S::put(panel.words + k * T, n, {S::template read<B>(out), S::template read<B>(out + 4 * L)});
        }
    }

    // Blocks of 32 columns, behind a scale that is the group's ratio.
    template <int FORM>
    static void blocks(const Int8Task &task, int64_t chunk, Int8Panel &panel) {
        constexpr int64_t SIZE = block_size(FORM).bytes, WORDS = FORM == WF_Q8_0 ? 8 : 4, HEAD = SIZE - 4 * WORDS;
        constexpr int64_t ROW = INT8_GROUPS * WORDS;
        static_assert(block_size(FORM).values == INT8_GROUP, "a block is a group");
        const Matrix &m = *task.weight;
        const int64_t row_bytes = m.row_bytes(), left = m.columns / INT8_GROUP - chunk * INT8_GROUPS;
        const uint8_t *first = m.codes + task.first * row_bytes + chunk * INT8_GROUPS * SIZE;
        panel.apart = true;
        for (int64_t n = 0; n < T; n += L) {
            alignas(64) uint32_t rows[L * ROW], words[L * ROW];
            std::memset(rows, 0, sizeof rows);
            for (int64_t i = 0; i < L; i++)
                for (int64_t g = 0; g < INT8_GROUPS; g++) {
                    const uint8_t *block = first + (n + i) * row_bytes + g * SIZE;
                    float &ratio = panel.ratios[g * T + n + i] = 0;
                    if (n + i >= task.count || g >= left) continue;
                    ratio = FORM == WF_Q8_0 ? read_half(block) : half_of_e8m0(*block);
                    std::memcpy(rows + i * ROW + g * WORDS, block + HEAD, size_t(4 * WORDS));
                }
            for (int64_t line = 0; line < L * INT8_GROUPS * SIZE && task.next; line += 64)
                __builtin_prefetch(task.next + (chunk * T + n) * INT8_GROUPS * SIZE + line, 0, 2);
            for (int64_t k = 0; k < ROW; k += L) S::transpose(rows + k, ROW, words + k * L, L);
            for (int64_t k = 0; k < ROW; k += 2) put<FORM>(words + k * L, k, n, panel);
            S::store(panel.scales + n, S::all(1.0f));
        }
    }

    // Words k and k + 1 of L rows. Of MXFP4 the low nibbles are a group's first half.
    template <int FORM>
    static WF_INLINE void put(const uint32_t *words, int64_t k, int64_t n, Int8Panel &panel) {
        if constexpr (FORM == WF_Q8_0) {
            const B first = (B)S::pairs(words) + uint8_t(S::OFFSET),
                    second = (B)S::pairs(words + L) + uint8_t(S::OFFSET);
            S::put(panel.words + k * T, n, {first, second});
        } else {
            const auto table = S::e2m1_table();
            B low[2], high[2];
            for (int i = 0; i < 2; i++) S::e2m1(table, S::pairs(words + i * L), U{}, low[i], high[i]);
            const int64_t at = k / 4 * 8 + k % 4;
            S::put(panel.words + at * T, n, low);
            S::put(panel.words + (at + 4) * T, n, high);
        }
    }
};

}  // namespace wf
