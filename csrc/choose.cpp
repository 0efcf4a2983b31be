// Tokens in descending order of probability lie in buckets of 1/64 of a nat: of all the tokens only those of the few buckets
// where a filter or the draw ends are sorted.
#include "choose.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "random.h"
#include "simd.h"

namespace wf {
namespace {

constexpr int64_t BLOCK = 1024;  // tokens whose weights are summed at once
constexpr double PER_NAT = 64;

// e^z for z <= 0, and 0 below -708: a polynomial on [-ln 2 / 2, ln 2 / 2], the exponent by bits. Within 2e-16, in plain
// operations, so that every width of vectors gives the same bits.
inline double exp_below(double z) {
    constexpr double SHIFT = 6755399441055744.0;  // 1.5 * 2^52: the sum's low bits are a whole number
    const double x = z < -708.0 ? -708.0 : z;
    const double shifted = x * 1.4426950408889634 + SHIFT, whole = shifted - SHIFT;
    const double r = (x - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10;
    double sum = 1.0 / 6227020800;
    constexpr double INVERSE[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
    for (const double next : INVERSE) sum = sum * r + next;
    uint64_t bits;
    std::memcpy(&bits, &shifted, 8);
    bits = (bits + 1023) << 52;
    double scale;
    std::memcpy(&scale, &bits, 8);
    return z < -708.0 ? 0.0 : sum * scale;
}

// The largest of n values. `usable` is false if one of them is NaN or +inf.
WF_CLONES float largest(const float *row, int64_t n, bool &usable) {
    constexpr int L = 16;
    float most[L];
    uint32_t wrong[L] = {};
    for (int l = 0; l < L; l++) most[l] = -INFINITY;
    int64_t k = 0;
    for (; k + L <= n; k += L)
        for (int l = 0; l < L; l++) {
            const float value = row[k + l];
            most[l] = value > most[l] ? value : most[l];
            wrong[l] |= value < INFINITY ? 0u : 1u;
        }
    for (int l = 0; k < n; k++, l++) {
        most[l] = row[k] > most[l] ? row[k] : most[l];
        wrong[l] |= row[k] < INFINITY ? 0u : 1u;
    }
    usable = std::count(wrong, wrong + L, 0u) == L;
    return *std::max_element(most, most + L);
}

// Weights e^((row - most) / temperature) of n tokens. Returns their sum, in 8 lanes.
WF_CLONES double weigh(const float *row, int64_t n, float most, double temperature, double *weights) {
    constexpr int L = 8;
    double sums[L] = {};
    int64_t k = 0;
    for (; k + L <= n; k += L)
        for (int l = 0; l < L; l++) {
            const double weight = exp_below(double(row[k + l] - most) / temperature);
            weights[k + l] = weight, sums[l] += weight;
        }
    for (int l = 0; k < n; k++, l++) {
        weights[k] = exp_below(double(row[k] - most) / temperature);
        sums[l] += weights[k];
    }
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum;
}

// The bucket of each of n tokens, the most likely in the first.
WF_CLONES void sort_into(const float *row, int64_t n, float most, double temperature, uint16_t *buckets) {
    for (int64_t k = 0; k < n; k++) {
        const double place = double(most - row[k]) / temperature * PER_NAT;
        buckets[k] = uint16_t(int32_t(place < Space::BUCKETS - 1 ? place : Space::BUCKETS - 1));
    }
}

WF_CLONES int64_t count_from(const double *weights, int64_t n, double least) {
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) count += weights[k] >= least;
    return count;
}

// The tokens of a row in descending order of probability, lower ids first where they are equal.
class Ordered {
  public:
    Ordered(const float *row, int64_t n, float most, double temperature, Space &space)
        : row_(row), n_(n), space_(space) {
        weigh(row, n, most, temperature, space.weights);
        sort_into(row, n, most, temperature, space.buckets);
        std::fill(space.masses, space.masses + Space::BUCKETS, 0.0);
        std::fill(space.counts, space.counts + Space::BUCKETS, 0);
        for (int64_t k = 0; k < n; k++) {
            space.masses[space.buckets[k]] += space.weights[k];
            space.counts[space.buckets[k]]++;
        }
    }

    // The sum of the weights of the first `count` tokens.
    double mass(int64_t count) {
        double sum = 0;
        int64_t bucket = 0;
        for (; bucket < Space::BUCKETS && space_.counts[bucket] <= count; bucket++)
            sum += space_.masses[bucket], count -= space_.counts[bucket];
        if (count > 0) {
            sort(bucket);
            for (int64_t i = 0; i < count; i++) sum += space_.weights[space_.ids[i]];
        }
        return sum;
    }

    struct Place {
        int64_t before;  // tokens before it
        int32_t id;
    };

    // The first token up to which the weights sum to more than `mass`, or, unless `beyond`, to as much. Rounding may leave
    // none: then the last one of some weight.
    Place find(double mass, bool beyond) {
        const auto reached = [&](double sum) { return beyond ? sum > mass : sum >= mass; };
        double sum = 0;
        int64_t before = 0, bucket = 0, last = 0, last_before = 0;
        for (; bucket < Space::BUCKETS; bucket++) {
            if (space_.masses[bucket] > 0) {
                if (reached(sum + space_.masses[bucket])) break;
                last = bucket, last_before = before;
            }
            sum += space_.masses[bucket], before += space_.counts[bucket];
        }
        if (bucket == Space::BUCKETS) bucket = last, before = last_before, sum = INFINITY;
        sort(bucket);
        int64_t i = 0, weighty = 0;
        for (; i < space_.counts[bucket]; i++) {
            const double weight = space_.weights[space_.ids[i]];
            if (weight > 0) weighty = i;
            if (std::isfinite(sum) && weight > 0 && reached(sum += weight)) break;
        }
        return {before + weighty, space_.ids[weighty]};
    }

  private:
    // Writes the ids of a bucket, in order.
    void sort(int64_t bucket) {
        int64_t count = 0;
        for (int64_t k = 0; count < space_.counts[bucket]; k++)
            if (space_.buckets[k] == bucket) space_.ids[count++] = int32_t(k);
        std::stable_sort(space_.ids, space_.ids + count, [this](int32_t a, int32_t b) { return row_[a] > row_[b]; });
    }

    const float *row_;
    const int64_t n_;
    Space &space_;
};

int64_t drawn(const float *row, int64_t n, float most, const wf_choice &choice, Space &space) {
    double sums[64], total = 0;
    const int64_t block = std::max<int64_t>(BLOCK, (n + 63) / 64);
    int64_t blocks = 0;
    for (int64_t first = 0; first < n; first += block, blocks++) {
        sums[blocks] = weigh(row + first, std::min(block, n - first), most, choice.temperature, space.weights + first);
        total += sums[blocks];
    }
    const double point = uniform(choice.seed, choice.position, choice.answer) * total;
    double sum = 0;
    int64_t weighty = 0;
    for (int64_t b = 0; b < blocks; b++) {
        if (sums[b] > 0 && sum + sums[b] > point) {
            for (int64_t k = b * block, end = std::min(n, k + block); k < end; k++) {
                if (space.weights[k] > 0) weighty = k;
                if ((sum += space.weights[k]) > point) return k;
            }
            return weighty;
        }
        sum += sums[b];
    }
    for (int64_t k = 0; k < n; k++)  // rounding left none
        if (space.weights[k] > 0) weighty = k;
    return weighty;
}

int64_t drawn_filtered(const float *row, int64_t n, float most, const wf_choice &choice, Space &space) {
    Ordered tokens(row, n, most, choice.temperature, space);
    int64_t kept = choice.top_k > 0 ? std::min(n, choice.top_k) : n;
    if (choice.top_p < 1) {
        const double share = choice.top_p * tokens.mass(kept);
        kept = std::min(kept, tokens.find(share, false).before + 1);
    }
    if (choice.min_p > 0) kept = std::min(kept, std::max<int64_t>(1, count_from(space.weights, n, choice.min_p)));
    const double point = uniform(choice.seed, choice.position, choice.answer) * tokens.mass(kept);
    const Ordered::Place place = tokens.find(point, true);
    return place.id;
}

bool changes(const wf_choice &choice) {
    return choice.repetition != 1 || choice.presence != 0 || choice.frequency != 0 || choice.biases || choice.mask;
}

// The row with penalties, biases and mask, as a copy.
void adjust(const float *logits, int64_t n, const wf_choice &choice, Space &space) {
    float *row = space.row;
    std::copy(logits, logits + n, row);
    if (choice.repetition != 1 || choice.presence != 0 || choice.frequency != 0) {
        int32_t *came = space.ids;  // in the answer; -1: in the prompt alone
        std::fill(came, came + n, 0);
        for (int64_t i = 0; i < choice.output_tokens; i++) came[choice.output[i]]++;
        for (int64_t i = 0; i < choice.prompt_tokens; i++)
            if (!came[choice.prompt[i]]) came[choice.prompt[i]] = -1;
        for (int64_t k = 0; k < n; k++) {
            if (!came[k]) continue;
            row[k] = row[k] < 0 ? row[k] * choice.repetition : row[k] / choice.repetition;
            if (came[k] > 0) row[k] = row[k] - choice.frequency * float(came[k]) - choice.presence;
        }
    }
    for (int64_t i = 0; i < choice.biases; i++) row[choice.bias_ids[i]] += choice.bias[i];
    for (int64_t k = 0; choice.mask && k < n; k++)
        if (!(choice.mask[k / 32] >> (k % 32) & 1)) row[k] = -INFINITY;
}

}  // namespace

int64_t Space::bytes(int64_t vocabulary) {
    const int64_t padded = (vocabulary + 63) / 64 * 64;
    return padded * int64_t(sizeof(double) + sizeof(float) + sizeof(int32_t) + sizeof(uint16_t)) +
           BUCKETS * int64_t(sizeof(double) + sizeof(int64_t));
}

Space::Space(uint8_t *scratch, int64_t vocabulary) {
    const int64_t padded = (vocabulary + 63) / 64 * 64;
    weights = reinterpret_cast<double *>(scratch);
    masses = weights + padded;
    counts = reinterpret_cast<int64_t *>(masses + BUCKETS);
    row = reinterpret_cast<float *>(counts + BUCKETS);
    ids = reinterpret_cast<int32_t *>(row + padded);
    buckets = reinterpret_cast<uint16_t *>(ids + padded);
}

int64_t choose(const float *logits, int64_t vocabulary, const wf_choice &choice, Space &space) {
    bool usable;
    float most = largest(logits, vocabulary, usable);
    if (!usable) return -1;
    const float *row = logits;
    if (changes(choice)) {
        adjust(logits, vocabulary, choice, space);
        row = space.row;
        most = largest(row, vocabulary, usable);
    }
    if (!usable || most == -INFINITY) return -1;
    if (choice.temperature == 0) return std::find(row, row + vocabulary, most) - row;
    const bool filtered = choice.top_p < 1 || choice.top_k > 0 || choice.min_p > 0;
    return (filtered ? drawn_filtered : drawn)(row, vocabulary, most, choice, space);
}

}  // namespace wf
