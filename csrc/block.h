// The checked forms of wf_block, wf_span and wf_expert: every size fits, every row that will be read is there.
#pragma once

#include <vector>

#include "kernels.h"
#include "rows.h"

namespace wf {

constexpr int64_t MOST_SPANS = 1 << 12, MOST_TOKENS = 1 << 16, MOST_LAYERS = 1 << 12;  // of a pass

struct Mixer {
    Matrix fn;
    const wf_mixer *given;
};

struct Compressor {
    int64_t dim, width;
    Matrix wkv, wgate;
    const float *ape;
    const uint16_t *norm;
};

struct Block {
    const wf_block *given;
    Mixer attention, experts;
    Matrix wq_a, wq_b, wkv, wo_a, wo_b, index_wq_b, index_weights, gate;
    Compressor entries, keys;
};

// A sequence's new tokens and its cache in one layer.
struct Span {
    int64_t position, tokens, first;  // first: its row among the tokens of all spans
    Rows window, entries, keys;
    const wf_view *view;
    wf_staged staged;  // null: rows go into the rings
    wf_staged marked;  // of the first `mark` tokens, where there are any
    int64_t mark;

    int64_t end() const { return position + tokens; }
};

struct Expert {
    int64_t id;
    Matrix w1, w2, w3;
};

// WF_OK and the checked form, or an error code.
int check_block(const wf_block &given, Block &block);
int check_span(const wf_span &given, const wf_block &block, int64_t layer, int64_t first, Span &span);
// All spans of a pass in one layer, and the number of their tokens.
int check_spans(const wf_span *given, int64_t count, const wf_block &block, int64_t layer, std::vector<Span> &spans,
                int64_t &tokens);
int check_expert(const wf_expert &given, int64_t hidden, Expert &expert);
int check_ranges(const wf_range *given, int64_t count);

// Memory of one call, handed out piece by piece; over a null base it only counts.
class Arena {
  public:
    explicit Arena(void *base) : base_(static_cast<uint8_t *>(base)) {}
    template <class T>
    T *take(int64_t count) {
        T *at =
            base_ ? reinterpret_cast<T *>(base_ + used_) : nullptr;  // counting alone adds nothing to a null pointer
        used_ += padded(count * int64_t(sizeof(T)), 64);
        return at;
    }
    int64_t used() const { return used_; }

  private:
    uint8_t *base_;
    int64_t used_ = 0;
};

}  // namespace wf
