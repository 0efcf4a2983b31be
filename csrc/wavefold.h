/* The C interface of the CPU kernels: plain types, no exceptions, an error code from everything that can fail.
 *
 * Source of the formats: OCP MX specification 1.0; the packing of the official checkpoint (wavefold/quant).
 * Matrices are row-major [rows, columns], as they lie on disk:
 *
 *   WF_FP4   two e2m1 codes a byte, the low nibble first; one e8m0 scale for 32 columns of a row
 *   WF_FP8   e4m3 codes; one e8m0 scale for 128 x 128
 *   WF_BF16, WF_FP32, WF_F16   values, no scales
 *   WF_Q8_0 .. WF_MXFP4        the blocks of a GGUF file as they lie in it, scales inside; columns are whole blocks: 32 of
 *                              WF_Q8_0 and WF_MXFP4, 256 of the others
 */
#ifndef WAVEFOLD_H
#define WAVEFOLD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define WF_API __declspec(dllexport)
#else
#define WF_API __attribute__((visibility("default")))
#endif

#define WF_ABI 18

enum {
    WF_FP4 = 0,
    WF_FP8 = 1,
    WF_BF16 = 2,
    WF_FP32 = 3,
    WF_Q8_0 = 4,
    WF_Q6_K = 5,
    WF_Q5_K = 6,
    WF_Q4_K = 7,
    WF_Q3_K = 8,
    WF_Q2_K = 9,
    WF_IQ4_XS = 10,
    WF_IQ3_XXS = 11,
    WF_IQ2_XS = 12,
    WF_IQ2_XXS = 13,
    WF_MXFP4 = 14,
    WF_F16 = 15
};

enum {
    WF_OK = 0,
    WF_ERROR_NULL = 1,    /* a pointer is null */
    WF_ERROR_SHAPE = 2,   /* a size is negative, zero or too large */
    WF_ERROR_BYTES = 3,   /* a buffer has another size than its shape needs */
    WF_ERROR_FORM = 4,    /* no such form */
    WF_ERROR_THREADS = 5, /* a thread count out of range, or threads that could not be started */
    WF_ERROR_MEMORY = 6,  /* no memory for scratch */
    WF_ERROR_ISA = 7,     /* an instruction set that is unknown, or that this processor lacks */
    WF_ERROR_TUNING = 8   /* a value of wf_tuning out of range */
};

typedef struct {
    int32_t form;
    int64_t rows, columns;
    const void *codes;
    int64_t codes_bytes;
    const void *scales; /* null but for WF_FP4 and WF_FP8 */
    int64_t scales_bytes;
} wf_matrix;

/* Cached rows where they lie. With a table, row n is row n % in_block of block table[n / in_block], and blocks begin `stride`
 * bytes apart; without, row n modulo their number (a ring; or a tensor, when n stays below).
 *
 *   WF_ROWS_BF16    values
 *   WF_ROWS_KV      e4m3 codes of the first dim - rope_dim values | the last rope_dim in bfloat16 | an e8m0 scale for 64
 *                   codes | 0 up to a multiple of 8 bytes
 *   WF_ROWS_INDEX   dim / 2 bytes of e2m1 codes, low nibble first | an e8m0 scale for 32 codes
 */
enum { WF_ROWS_BF16 = 0, WF_ROWS_KV = 1, WF_ROWS_INDEX = 2 };

typedef struct {
    int32_t form;
    int64_t dim, rope_dim;
    void *base;
    int64_t bytes; /* from the first row to the end of the last */
    const int64_t *table;
    int64_t table_blocks, in_block, stride;
} wf_rows;

typedef struct wf_runtime wf_runtime;

WF_API int wf_abi(void);

/* Instruction sets compiled in that this processor has, best first, separated by blanks. */
WF_API const char *wf_isas(void);

/* Sorts `count` processors, given by number, so that one of each physical core comes first. `folder` holds
 * cpuN/topology/thread_siblings_list; null for the machine's. Returns the number of cores. */
WF_API int32_t wf_order_processors(const char *folder, int32_t *processors, int32_t count);

/* How a processor likes to be fed, and what it multiplies fastest (`wavefold bench tune` measures it).
 *
 *   hint        the kind of hint that asks for weights before their use
 *   ahead       bytes from a weight in use to the one that is asked for, for one row of x: 0 to 1 MiB
 *   few_rows    rows of x up to which a weight is decoded in registers for a few of them at a time; more meet tiles of
 *               decoded weights: 1 to 256
 *   float_rows  rows of x from which products are float32 multiply-adds on a processor that has products of bfloat16:
 *               1 to 1024, or 0 for never. A batch-invariant runtime takes them for all rows (1) or none.
 *   plain_hint  `hint` for weights that are not decoded (WF_BF16, WF_FP32) and one row of x
 */
enum { WF_HINT_NONE = 0, WF_HINT_STREAM = 1, WF_HINT_L1 = 2, WF_HINT_L2 = 3, WF_HINT_L3 = 4 };

typedef struct {
    int32_t hint, ahead, few_rows, float_rows, plain_hint;
} wf_tuning;

/* What calls run on: `threads` threads, the calling one among them (the others are pinned to a core each and sleep between
 * calls), and the kernels of `isa` (null: the best). Unless `batch_invariant`, many rows are multiplied faster in another
 * order than few; with it, row i of a batch has the same bytes whatever the batch.
 *
 * With WF_ACTIVATIONS_INT8 products with GGUF's blocks round their input to int8, one scale for 256 columns of a row: of
 * few rows, and of many where a form has tiles for it (products_int8.cpp). Products with WF_FP4 and WF_FP8 matrices round
 * their input to int8, one scale for 32 columns of a row, in place of the rounding to e4m3 (x_fp8). Unless
 * batch_invariant, a few rows are multiplied as without it.
 *
 * A runtime may be called from several threads: one call runs at a time. It begins with one holder and is freed by the
 * last release; who calls must hold it. */
enum { WF_ACTIVATIONS_BF16 = 0, WF_ACTIVATIONS_INT8 = 1 };
WF_API int wf_runtime_create(int32_t threads, const char *isa, int32_t batch_invariant, int32_t activations,
                             const wf_tuning *tuning, wf_runtime **runtime);
/* The tuning of an instruction set (null: the best) for this processor where nobody has measured. */
WF_API int wf_usual_tuning(const char *isa, wf_tuning *tuning);
WF_API void wf_runtime_share(wf_runtime *runtime);
WF_API void wf_runtime_release(wf_runtime *runtime);
WF_API const char *wf_runtime_isa(const wf_runtime *runtime);
/* Nanoseconds that calls have spent inside. */
WF_API int64_t wf_runtime_inside_ns(const wf_runtime *runtime);

/* y = x W^T: x bfloat16 [x_rows, columns], y float32 or (y_bf16) bfloat16 [x_rows, rows], both contiguous.
 * With x_fp8, x goes through e4m3 first, one scale for 128 columns of a row, as the released code quantizes the input of
 * a quantized weight. */
WF_API int wf_linear(wf_runtime *runtime, const wf_matrix *weight, const uint16_t *x, int64_t x_rows, int32_t x_fp8,
                     void *y, int32_t y_bf16);

/* bfloat16 values [rows, columns] through e4m3 and back, one scale for `block` columns (the last may be shorter):
 * 2^ceil(log2(max(amax, 1e-4) / 448)). A value that is not finite makes its block NaN. */
WF_API int wf_fp8_sim(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, int64_t block,
                      uint16_t *out);

/* Rows first .. first + count of a matrix in bfloat16 [count, columns]; values that bfloat16 does not hold are rounded
 * to nearest, ties to even. */
WF_API int wf_decode(wf_runtime *runtime, const wf_matrix *weight, int64_t first, int64_t count, uint16_t *out,
                     int64_t out_bytes);

/* Hyper-connections of `tokens` tokens with `streams` (at most 8) residual streams of `hidden` bfloat16 values:
 *
 *   split      mixes [tokens, 2 J + J J], base [2 J + J J], scale [3] -> pre, post [tokens, J], comb [tokens, J, J]
 *   collapse   x [tokens, J, hidden], pre -> sum_j pre_j x_j [tokens, hidden]
 *   expand     f [tokens, hidden], x, post, comb -> post_k f + sum_j comb[j, k] x_j [tokens, J, hidden]
 */
WF_API int wf_hc_split(wf_runtime *runtime, const float *mixes, const float *base, const float *scale, int64_t tokens,
                       int32_t streams, int32_t iters, float eps, float *pre, float *post, float *comb);
WF_API int wf_hc_collapse(wf_runtime *runtime, const uint16_t *x, const float *pre, int64_t tokens, int32_t streams,
                          int64_t hidden, uint16_t *out);
WF_API int wf_hc_expand(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                        int64_t tokens, int32_t streams, int64_t hidden, uint16_t *out);

/* The last collapse, before the final norm: streams x -> sum_j pre_j x_j bfloat16 [tokens, hidden], with pre = sigmoid(scale
 * (fn x) / rms(x) + base) + eps; fn [J, J hidden], base [J], one scale. */
WF_API int wf_hc_head(wf_runtime *runtime, const wf_matrix *fn, const float *base, const float *scale,
                      const uint16_t *x, int64_t tokens, int32_t streams, int64_t hidden, float eps, float norm_eps,
                      uint16_t *out);

/* x / rms(x) * weight: bfloat16 [rows, columns], weight [columns], in float32 and rounded once. */
WF_API int wf_rms_norm(wf_runtime *runtime, const uint16_t *x, const uint16_t *weight, int64_t rows, int64_t columns,
                       float eps, uint16_t *out);

/* Attention of `queries` consecutive tokens of one sequence, the first at position `first`: each over the last `window`
 * tokens (its own among them), then over compressed entries. Token t < first is row t of `past`; the queries' own rows are
 * `fresh` bfloat16 [queries, dim]. q and out bfloat16 [queries, heads, dim], sink float32 [heads].
 *
 * ratio 0: no entries. Else query i sees the first (first + i + 1) / ratio of them: all, where `chosen` is null, or those
 * of chosen int32 [queries, most_chosen], ended by -1. */
WF_API int wf_attend(wf_runtime *runtime, int64_t queries, int64_t heads, const uint16_t *q, const float *sink,
                     int64_t first, int64_t window, const wf_rows *past, const uint16_t *fresh, const wf_rows *entries,
                     int64_t ratio, const int32_t *chosen, int64_t most_chosen, uint16_t *out);

/* The indexer: for each query, as above, the k best of the entries that it sees by sum_h weights_h relu(q_h . key), best
 * first, ties to the earlier, then -1: out int32 [queries, k]. q bfloat16 [queries, heads, dim], weights bfloat16
 * [queries, heads]. `released` rounds dots, products and sum to bfloat16. */
WF_API int wf_index(wf_runtime *runtime, int64_t queries, int64_t heads, const uint16_t *q, const uint16_t *weights,
                    const wf_rows *keys, int64_t first, int64_t ratio, int64_t k, int32_t released, int32_t *out);

/* A block of the model (wavefold/model/block.py) for new tokens of some sequences: a decode step or a pass of a prompt. */

typedef struct {
    wf_matrix fn; /* WF_FP32 [2 J + J J, J hidden] */
    const float *base, *scale;
    const uint16_t *norm; /* bfloat16 [hidden]: of the sublayer's input */
} wf_mixer;

typedef struct {
    int64_t dim;
    wf_matrix wkv, wgate; /* [width, hidden]; width is 2 dim with overlap, else dim */
    const float *ape;     /* [ratio, width] */
    const uint16_t *norm; /* [dim] */
} wf_compressor;

typedef struct {
    int32_t released; /* the arithmetic; else exact, in bfloat16 */
    int64_t hidden, streams;
    int32_t iters;
    float hc_eps, norm_eps;
    wf_mixer attention, experts;

    int64_t heads, head_dim, rope_dim, groups, window;
    int64_t ratio, overlap;   /* 0: the window alone; overlap: entries read the block before theirs too */
    const float *sink;        /* [heads] */
    const float *frequencies; /* [rope_dim / 2] radians a token */
    wf_matrix wq_a, wq_b, wkv, wo_a, wo_b;
    const uint16_t *q_norm, *kv_norm;
    wf_compressor entries;
    int64_t index_heads, index_topk; /* 0 heads: all entries are attended */
    wf_compressor keys;
    wf_matrix index_wq_b, index_weights;

    int64_t num_experts, topk;
    wf_matrix gate;
    const float *gate_bias;    /* [num_experts]; or null, and */
    const int64_t *gate_table; /* [vocabulary, topk] */
    int64_t vocabulary;
    float route_scale;
} wf_block;

/* A sequence's cache in one layer. The rings (window; tails of rows [2, width]) hold earlier tokens' rows. */
typedef struct {
    wf_rows window, entries, keys;
    float *tail, *key_tail;
    int64_t tail_rows, key_tail_rows;
} wf_view;

/* Where a layer's rings take a pass's new rows for now: the last that each holds, oldest first. */
typedef struct {
    uint8_t *window;
    float *tail, *key_tail;
} wf_staged;

/* What is added to a product with a matrix W [rows, columns]: y = W x + scale * up^T (down x), down [rank, columns], up [rank,
 * rows], in WF_BF16 or WF_FP32. x is not rounded first. W x is rounded to bfloat16, the addition is float32 up to the sum,
 * which is rounded again. Rank 0: nothing is added. */
typedef struct {
    int32_t form;
    int64_t rank; /* at most 512 */
    float scale;
    const void *down, *up;
    int64_t down_bytes, up_bytes;
} wf_low_rank;

/* An adapter in one layer: beside attention's matrices, those of the shared expert and, unless null, w1, w2 and w3 of each
 * routed expert, by number. */
typedef struct {
    wf_low_rank wq_a, wq_b, wkv, wo_b, w1, w2, w3;
    const wf_low_rank *experts;
} wf_adapter;

/* Rows first .. first + rows of a pass, and what their adapter is in the layer at hand. */
typedef struct {
    int64_t first, rows;
    const wf_adapter *adapter;
} wf_adapted;

/* The `tokens` new tokens of a sequence, the first at `position`, and its cache by layer. Entries that they complete are
 * written to it; rows of the rings go to `staged` or, where it is null, into the rings. `marked`, unless null, takes what
 * `staged` would if the first `mark` tokens were all: a sequence can go on there. `adapter`, by layer; null: the model alone. */
typedef struct {
    int64_t position, tokens;
    const wf_view *views;
    const wf_staged *staged;
    const wf_staged *marked;
    int64_t mark;
    const wf_adapter *adapter;
} wf_span;

/* Bytes that a call to come reads first. A hint: threads that wait ask for them in advance, whatever is there. */
typedef struct {
    const void *at;
    int64_t bytes;
} wf_range;

/* The attention half of layer `layer`: streams bfloat16 [tokens, J, hidden] of the spans' tokens, one span after another,
 * with ids int64 [tokens] -> out, the same after attention; and for the experts their input h bfloat16 [tokens, hidden], post
 * float32 [tokens, J], comb [tokens, J, J], route float32 [tokens, topk], chosen int64 [tokens, topk]. `next` may be null,
 * with num_next 0. */
WF_API int wf_block_attention(wf_runtime *runtime, const wf_block *block, int64_t layer, int64_t spans,
                              const wf_span *span, const int64_t *ids, const uint16_t *streams, uint16_t *out,
                              uint16_t *h, float *post, float *comb, float *route, int64_t *chosen,
                              const wf_range *next, int64_t num_next);

/* An expert's weights: w1 gate and w3 up [inter, hidden], w2 down [hidden, inter]. */
typedef struct {
    int64_t id; /* -1: shared, every token goes through it */
    wf_matrix w1, w2, w3;
} wf_expert;

/* out = the sum over experts of what they make of h, in the order given, in float32, then rounded: bfloat16 [tokens,
 * hidden]. A token goes through the experts of its row of chosen, route [tokens, topk]. gate <= limit, |up| <= limit.
 * With `sum`, float32 [tokens, hidden], these experts are added to it, and out, unless it is null, takes it rounded: several
 * calls, one after the other, have the bits of one. `adapted`: rows with adapters, ascending; may be null with num_adapted 0. */
WF_API int wf_experts(wf_runtime *runtime, int64_t tokens, int64_t hidden, const uint16_t *h, int64_t topk,
                      const int64_t *chosen, const float *route, const wf_expert *experts, int64_t count, float limit,
                      int32_t released, float *sum, uint16_t *out, const wf_range *next, int64_t num_next,
                      const wf_adapted *adapted, int64_t num_adapted);

/* A whole model whose experts are all in memory. */
typedef struct {
    int64_t layers;
    const wf_block *const *blocks;
    const wf_expert *const *experts; /* each layer's, by number: as many as its block says */
    const wf_expert *shared;         /* each layer's, with id -1 */
    float limit;
    wf_matrix embedding; /* neither WF_FP4 nor WF_FP8 [vocabulary, hidden] */
    wf_matrix head_fn;   /* the last collapse: [J, J hidden], base [J], one scale */
    const float *head_base, *head_scale;
    const uint16_t *norm; /* [hidden] */
    wf_matrix head;       /* [vocabulary, hidden] */
} wf_model;

/* What a pass is wanted for: logits float32 [num_logits, vocabulary] of the tokens `logits_of`, the streams after the last
 * layer, bfloat16 [num_streams, J, hidden], of the tokens `streams_of`, and unless it is null hidden bfloat16 [tokens, hidden]
 * of all tokens. */
typedef struct {
    int64_t num_logits;
    const int64_t *logits_of;
    float *logits;
    int64_t num_streams;
    const int64_t *streams_of;
    uint16_t *streams;
    uint16_t *hidden;
} wf_wanted;

/* A pass over ids int64 of all spans' tokens. Everything but the experts that tokens turn out to choose is checked before a
 * cache is written to. */
WF_API int wf_forward(wf_runtime *runtime, const wf_model *model, int64_t spans, const wf_span *span,
                      const int64_t *ids, const wf_wanted *wanted);

/* An MTP module: a model of one layer, with embedding and head of the main model, behind two projections. */
typedef struct {
    wf_model model;
    wf_matrix e_proj, h_proj;      /* [hidden, hidden] */
    const uint16_t *enorm, *hnorm; /* [hidden] */
} wf_mtp_module;

/* A pass of an MTP module: streams bfloat16 [tokens, J, hidden] of all spans' tokens and `following`, the id after each of
 * them, are the layer's input e_proj(enorm(embedding)) + h_proj(hnorm(streams)). Logits are of the token after `following`. */
WF_API int wf_mtp(wf_runtime *runtime, const wf_mtp_module *module, int64_t spans, const wf_span *span,
                  const int64_t *following, const uint16_t *streams, const wf_wanted *wanted);

/* Training: forward passes whose parameters are float32, and gradients (wavefold/ops/native). Activations and their
 * gradients are bfloat16, sums float32; a parameter's gradient has the same bits on any number of threads. */

/* Hyper-connections of 4 streams, before a sublayer or (`last`) before the final norm: fn [outputs, 4 hidden], base
 * [outputs], scale [scales] with 24 outputs and 3 scales, `last` 4 and 1. */
typedef struct {
    const float *fn, *base, *scale;
    int64_t hidden;
    int32_t streams, iters, last;
    float eps, norm_eps;
} wf_hc;

/* x [tokens, 4, hidden] -> out [tokens, hidden] and, unless `last`, post [tokens, 4], comb [tokens, 4, 4]; for the
 * gradient, mixes [tokens, outputs + 1]. */
WF_API int wf_hc_read(wf_runtime *runtime, const wf_hc *hc, const uint16_t *x, int64_t tokens, float *mixes,
                      uint16_t *out, float *post, float *comb);
/* grad_past (or null) is added to grad_x: the gradient of the same streams from elsewhere. */
WF_API int wf_hc_read_grad(wf_runtime *runtime, const wf_hc *hc, const uint16_t *x, int64_t tokens, const float *mixes,
                           const uint16_t *grad_out, const float *grad_post, const float *grad_comb,
                           const uint16_t *grad_past, uint16_t *grad_x, float *grad_fn, float *grad_base,
                           float *grad_scale);

/* wf_hc_expand for training: y [tokens, 4, hidden]. */
WF_API int wf_hc_return(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                        int64_t tokens, int32_t streams, int64_t hidden, uint16_t *y);
WF_API int wf_hc_return_grad(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post,
                             const float *comb, const uint16_t *grad_y, int64_t tokens, int32_t streams, int64_t hidden,
                             uint16_t *grad_f, uint16_t *grad_x, float *grad_post, float *grad_comb);

/* Rows' last 2 pairs values turn by the angles of a table [rows / heads, pairs], back when `inverse`. */
typedef struct {
    const float *cosine, *sine;
    int64_t pairs, heads;
    int32_t inverse;
} wf_turn;

/* x / rms(x) * weight (null: none), then turned (null: not): x [rows, columns] -> out. */
WF_API int wf_norm(wf_runtime *runtime, const uint16_t *x, const float *weight, int64_t rows, int64_t columns,
                   float eps, const wf_turn *turn, uint16_t *out);
WF_API int wf_norm_grad(wf_runtime *runtime, const uint16_t *x, const float *weight, int64_t rows, int64_t columns,
                        float eps, const wf_turn *turn, const uint16_t *grad, uint16_t *grad_x, float *grad_weight);
WF_API int wf_rotate(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, const wf_turn *turn,
                     uint16_t *out);

/* silu(min(gate, limit)) clamp(up, -limit, limit) route: [rows, inter]; route [rows], null: 1. */
WF_API int wf_swiglu(wf_runtime *runtime, const uint16_t *gate, const uint16_t *up, const float *route, int64_t rows,
                     int64_t inter, float limit, uint16_t *inner);
WF_API int wf_swiglu_grad(wf_runtime *runtime, const uint16_t *gate, const uint16_t *up, const float *route,
                          const uint16_t *grad, int64_t rows, int64_t inter, float limit, uint16_t *grad_gate,
                          uint16_t *grad_up, float *grad_route);

/* Compression of whole sequences, one after another: kv, score [tokens, width] with ape [ratio, width]; width is 2 dim with
 * overlap, else dim. Each complete block of `ratio` tokens becomes an entry [dim]: at least one there must be. */
typedef struct {
    const uint16_t *kv, *score;
    const float *ape;
    const int64_t *lengths; /* [sequences], of sum `tokens` */
    int64_t sequences, tokens, ratio, dim;
    int32_t overlap;
} wf_compression;

WF_API int wf_compress(wf_runtime *runtime, const wf_compression *compression, uint16_t *out);
WF_API int wf_compress_grad(wf_runtime *runtime, const wf_compression *compression, const uint16_t *grad,
                            uint16_t *grad_kv, uint16_t *grad_score, float *grad_ape);

/* out [count, dim]: the sum of the `each` rows of [num_rows, dim] that index [count, each] names and, unless it is null, of
 * added [count, dim], in float32 and rounded once. */
WF_API int wf_combine_rows(wf_runtime *runtime, const uint16_t *rows, int64_t num_rows, const int64_t *index,
                           int64_t count, int64_t each, int64_t dim, const uint16_t *added, uint16_t *out);

/* A factor of a product: A [rows, depth], or turned [depth, rows]; B [depth, columns], or turned [columns, depth]; their rows
 * are `stride` values apart. The depth, and the stride, of an A that is not turned and of a B that is are even. */
typedef struct {
    const uint16_t *a, *b; /* bfloat16 */
    int64_t a_stride, b_stride, depth;
    int32_t a_turned, b_turned;
} wf_factor;

/* The sum of A B over the factors: bfloat16 in `out` or, where that is null, float32 in `wide` (added to it if `more` is not
 * 0); [rows, columns], rows `out_stride` apart. */
typedef struct {
    const wf_factor *factors;
    int64_t num_factors, rows, columns;
    uint16_t *out;
    float *wide;
    int64_t out_stride;
    int32_t more;
} wf_product;

WF_API int wf_multiply(wf_runtime *runtime, const wf_product *products, int64_t count);

/* Muon's matrix: momentum <- mu momentum + grad; o, the nearest (semi-)orthogonal matrix to mu momentum + grad, by steps
 * x <- a x + b (x xT) x + c (x xT)^2 x in bfloat16 from x / |x|; values <- keep values - rate o. Where there is no momentum,
 * values <- o of the values. A matrix of zeros stays one. coefficients [steps, 3]. */
typedef struct {
    float *values; /* [rows, columns], and so are the others */
    float *momentum;
    const float *grad;
    int64_t rows, columns;
    float keep, rate;
} wf_orthogonal;

WF_API int wf_orthogonalize(wf_runtime *runtime, const wf_orthogonal *matrices, int64_t count,
                            const float *coefficients, int64_t steps, float mu);

/* The orthonormal Hadamard transform of rows of bfloat16, of a power of two values up to 1,024; `rounded`: through e2m1 and
 * back, a scale for 32 columns. */
WF_API int wf_hadamard(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, int32_t rounded,
                       uint16_t *out);

/* Weights as a form holds them, WF_FP4, WF_FP8 or WF_BF16, back in bfloat16. Of FP4 and FP8, least and largest become the
 * smallest scale but those of zeros (255: there is none), and the largest. */
typedef struct {
    const float *values; /* [rows, columns] */
    int64_t rows, columns;
    int32_t form;
    uint16_t *out;
    int32_t least, largest;
} wf_rounding;

WF_API int wf_round_weights(wf_runtime *runtime, wf_rounding *weights, int64_t count);

/* Cross-entropy: logits [rows, vocabulary] become their own gradient, nats [rows] the losses; a row whose target is negative
 * counts nothing. */
WF_API int wf_cross_entropy(wf_runtime *runtime, uint16_t *logits, const int64_t *targets, int64_t rows,
                            int64_t vocabulary, float *nats);

/* What the indexer learns, for queries of one sequence, the first at token `first`: dots [queries, heads, entries] of its
 * queries and keys, weights [queries, heads], mass and chosen (or null: all) [queries, entries] -> loss [queries], and the
 * gradients of dots and weights. `rounded`: dots, their products with the weights and the sums go through bfloat16. */
WF_API int wf_index_loss(wf_runtime *runtime, const float *dots, const uint16_t *weights, const float *mass,
                         const uint8_t *chosen, int64_t first, int64_t queries, int64_t heads, int64_t entries,
                         int64_t ratio, int32_t rounded, float *loss, uint16_t *grad_dots, float *grad_weights);

/* Attention of whole sequences, one after another: q [tokens, heads, dim], kv [tokens, dim], sink [heads]; dim a multiple
 * of 32. A token sees the last `window` ones, itself among them, and of its sequence's length / ratio entries (ratio 0:
 * none) those that are complete at it and, unless `chosen` is null, chosen: entries [all entries, dim]; chosen, 0 or 1, for
 * one sequence after another [length, length / ratio]. */
typedef struct {
    const uint16_t *q, *kv, *entries;
    const float *sink;
    const uint8_t *chosen;
    const int64_t *lengths; /* [sequences], of sum `tokens` */
    int64_t sequences, tokens, heads, dim, window, ratio;
} wf_joint;

/* o [tokens, heads, dim], lse [tokens, heads], and unless null mass, as `chosen`: what fell on an entry, all heads. */
WF_API int wf_joint_attention(wf_runtime *runtime, const wf_joint *joint, uint16_t *o, float *lse, float *mass);
/* From lse and the gradient of o: those of q, kv and entries; of the sink it is minus the sum of exp(sink - lse) delta, delta
 * [tokens, heads]. */
WF_API int wf_joint_attention_grad(wf_runtime *runtime, const wf_joint *joint, const float *lse, const uint16_t *grad_o,
                                   uint16_t *grad_q, uint16_t *grad_kv, uint16_t *grad_entries, float *delta);

/* How a token is chosen from a row of logits, in this order: penalties (`repetition` for tokens of prompt and answer,
 * `presence` and `frequency` for those of the answer), biases, the mask; then the largest value, the first of equal ones
 * (`temperature` 0), or a draw from softmax(x / temperature) after top-k (0: all), top-p (1: all) and min-p (0: all), each of
 * what the one before kept. The random number is a function of seed, position and answer: Philox4x32-10.
 *
 * 1, 0 and 0 are no penalties, and without penalties `prompt` and `output` are not read. Bit i of the words of `mask` allows
 * token i; null allows all. `answer` is below 2^32. */
typedef struct {
    int64_t row; /* of the logits */
    int64_t seed, position, answer, top_k;
    double temperature, top_p, min_p;
    float repetition, presence, frequency;
    const int64_t *prompt, *output; /* token ids */
    int64_t prompt_tokens, output_tokens;
    const int64_t *bias_ids;
    const float *bias;
    int64_t biases;
    const uint32_t *mask;
    int64_t mask_bytes;
} wf_choice;

/* logits [rows, vocabulary] -> ids [count] of the choices, -1 where a row has NaN or +inf, or no token is allowed. The logits
 * stay as they are. */
WF_API int wf_choose(wf_runtime *runtime, const float *logits, int64_t rows, int64_t vocabulary,
                     const wf_choice *choices, int64_t count, int64_t *ids);

#ifdef __cplusplus
}
#endif
#endif
