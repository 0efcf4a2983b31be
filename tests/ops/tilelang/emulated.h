// A CPU that behaves as a Hopper GPU where our kernels touch one: runs the CUDA source that TileLang generates.
//
// Each thread is a fiber; blocks take turns in a random order. Asynchronous copies land only when they are waited for, shared
// memory is full of NaN bytes at first, a matrix product reads its operands through descriptors and the 128-byte swizzle as the
// PTX manual lays them out (sections "Shared memory matrix layout", "wgmma register fragments"). A block that passes a barrier
// with one thread missing, or blocks that wait for each other for ever, are errors.
// Not emulated: timing, the weakness of memory order between blocks, the tensor cores' rounding (sums are float64 here).
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#define WF_EMULATED
#define WF_DEVICE static inline
#undef __forceinline__
#define __forceinline__ inline
#undef __device__
#define __device__
#undef __global__
#define __global__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __restrict__
#define __restrict__

typedef unsigned char uchar;

namespace emulated {

constexpr size_t STACK = 128 << 10, SHARED = 256 << 10;

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool real;
};

struct Block;
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int thread = 0, waits = 0;  // barriers passed
  bool done = false, at_barrier = false;
  std::vector<Copy> fresh;
  std::deque<std::vector<Copy>> groups;
  float value = 0;
};

struct Block {
  int x = 0, y = 0, threads = 0, arrived = 0, alive = 0;
  std::vector<Fiber> fibers;
  std::unique_ptr<char[]> memory;
  char* shared = nullptr;  // aligned; dynamic first, then the static arrays
  void (*kernel)(void**) = nullptr;
  void** arguments = nullptr;
};

inline Block* block = nullptr;
inline Fiber* fiber = nullptr;
inline ucontext_t scheduler;
inline bool progress = false;
inline const char* failure = nullptr;

inline void yield() { swapcontext(&fiber->context, &scheduler); }
inline void fail(const char* what) {
  if (!failure) failure = what;
  fiber->done = true;
  setcontext(&scheduler);
}

inline void barrier() {
  progress = true;
  fiber->at_barrier = true;
  ++block->arrived;
  yield();
}

inline void start() {
  block->kernel(block->arguments);
  if (!fiber->fresh.empty()) failure = "a thread ends with copies that it did not commit";
  fiber->done = true;
  progress = true;
  setcontext(&scheduler);
}

inline char* dynamic_shared() { return block->shared; }
inline char* static_shared(size_t offset) { return block->shared + (232 << 10) + offset; }

struct Dim {
  int x, y, z;
};
}  // namespace emulated

#define threadIdx (emulated::Dim{emulated::fiber->thread, 0, 0})
#define blockIdx (emulated::Dim{emulated::block->x, emulated::block->y, 0})
#define blockDim (emulated::Dim{emulated::block->threads, 1, 1})

static inline void emulated_sync() { emulated::barrier(); }
#define __syncthreads emulated_sync

static inline int atomicAdd_(int* p, int v) {
  int before = *p;
  *p += v;
  return before;
}
#define atomicAdd atomicAdd_
static inline float int_as_float_(int x) {
  float f;
  std::memcpy(&f, &x, 4);
  return f;
}
static inline int float_as_int_(float x) {
  int i;
  std::memcpy(&i, &x, 4);
  return i;
}
#define __int_as_float int_as_float_
#define __float_as_int float_as_int_
static inline unsigned byte_perm_(unsigned a, unsigned b, unsigned selector) {
  uint64_t bytes = (uint64_t)b << 32 | a;
  unsigned out = 0;
  for (int k = 0; k < 4; ++k) {
    unsigned s = selector >> 4 * k & 15, byte = bytes >> 8 * (s & 7) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << 8 * k;
  }
  return out;
}
#define __byte_perm byte_perm_
template <class A, class B>
static inline auto max(A a, B b) {
  return a > b ? a : b;
}
template <class A, class B>
static inline auto min(A a, B b) {
  return a < b ? a : b;
}

static inline int wf_load_acquire(const int* flag) { return *(volatile const int*)flag; }
static inline void wf_store_release(int* flag, int value) {
  emulated::progress = true;
  *flag = value;
}
static inline void wf_fence() {}
static inline void wf_pause() { emulated::yield(); }
static inline long long wf_nanoseconds() { return 0; }

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float f) {
    __nv_bfloat16 b = __float2bfloat16_rn(f);
    std::memcpy(&bits, &b, 2);
  }
  operator float() const { return int_as_float_((int)bits << 16); }
};
static inline unsigned __pack_nv_bfloat162(bfloat16_t a, bfloat16_t b) { return (unsigned)b.bits << 16 | a.bits; }

struct fp8_e4_t {
  uint8_t bits;
  fp8_e4_t() = default;
  explicit fp8_e4_t(float f) : bits(__nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3)) {}
  operator float() const {
    int e = bits >> 3 & 15, m = bits & 7;
    float v = (bits & 127) == 127 ? NAN : e ? std::ldexp(8 + m, e - 10) : std::ldexp(m, -9);
    return bits & 128 ? -v : v;
  }
};
template <int N>
struct alignas(N) Fp8Vector {
  fp8_e4_t v[N];
  Fp8Vector() = default;
  explicit Fp8Vector(fp8_e4_t one) {
    for (auto& x : v) x = one;
  }
};
using fp8_e4_2_t = Fp8Vector<2>;
using fp8_e4_4_t = Fp8Vector<4>;
using fp8_e4_8_t = Fp8Vector<8>;
using fp8_e4_16_t = Fp8Vector<16>;

namespace tl {
enum class DataType { kFloat8_e4m3, kFloat32 };

template <int N>
inline void cp_async_gs_conditional(void* to, const void* from, bool real) {
  emulated::fiber->fresh.push_back({to, from, N, real});
}
template <int N>
inline void cp_async_gs(void* to, const void* from) {
  cp_async_gs_conditional<N>(to, from, true);
}
inline void cp_async_commit() { emulated::fiber->groups.push_back(std::move(emulated::fiber->fresh)); emulated::fiber->fresh.clear(); }
template <int N>
inline void cp_async_wait() {
  auto& groups = emulated::fiber->groups;
  while ((int)groups.size() > N) {
    for (auto& c : groups.front()) {
      if (c.real) std::memcpy(c.to, c.from, c.bytes);
      else std::memset(c.to, 0, c.bytes);
    }
    groups.pop_front();
  }
}

inline void fence_proxy_async() {}
inline void warpgroup_arrive() {}
inline void warpgroup_commit_batch() {}
template <int N>
inline void warpgroup_wait() {}
template <class T>
inline void warpgroup_fence_operand(T*, int) {}

struct GmmaDescriptor {
  uint64_t bits = 0;  // as on the chip: address >> 4 in 14 bits, strides >> 4 from bits 16 and 32, the layout from bit 62
  operator uint64_t() const { return bits; }
};
inline uint64_t operator+(GmmaDescriptor d, int64_t more) { return d.bits + more; }
template <int layout, int leading, int stride>
inline void initialize_wgmma_descriptor(GmmaDescriptor& d, const void* p) {
  static_assert(layout == 1, "128-byte swizzle");
  uint64_t offset = (const char*)p - emulated::block->shared;
  if (offset % 1024 || offset >> 18) emulated::fail("an operand's tile does not begin at a multiple of 1024 bytes");
  d.bits = (offset >> 4 & 0x3fff) | (uint64_t)leading << 16 | (uint64_t)stride << 32 | (uint64_t)layout << 62;
}
template <class T>
inline void increase_descriptor_offset(GmmaDescriptor& d, T bytes) {
  d.bits += bytes >> 4;
}

// Value k of row r of an operand in K-major order.
inline fp8_e4_t operand(uint64_t d, int r, int k) {
  uint64_t at = ((d & 0x3fff) << 4) + (r / 8) * ((d >> 32 & 0x3fff) << 4) + (r % 8) * 128 + k;
  at ^= (at >> 7 & 7) << 4;
  return ((fp8_e4_t*)emulated::block->shared)[at];
}

template <DataType A, DataType B, DataType C, int M, int N, int K, bool, bool, int, int>
inline void wgmma_ss(uint64_t a, uint64_t b, uint32_t* out, int accumulate) {
  static_assert(M == 64 && K == 32 && A == DataType::kFloat8_e4m3, "");
  static float values[256];
  if (values[1] == 0)
    for (int i = 0; i < 256; ++i) {
      fp8_e4_t code;
      code.bits = i;
      values[i] = code;
    }
  int t = emulated::fiber->thread % 128;
  float* c = (float*)out;
  for (int i = 0; i < N / 2; ++i) {
    int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + t % 4 * 2 + i % 2;
    double sum = accumulate ? c[i] : 0;
    for (int k = 0; k < K; ++k) sum += (double)values[operand(a, row, k).bits] * values[operand(b, column, k).bits];
    c[i] = (float)sum;
  }
}

struct MaxOp {
  float operator()(float a, float b) const { return a > b ? a : b; }
};
template <int N>
struct NamedBarrier {};
template <class Op, int threads, int scale, int offset, class Barrier>
struct AllReduce {
  static_assert(offset == 0, "");
  static float run(float x) {
    emulated::fiber->value = x;
    emulated::barrier();
    for (int m = scale; m < threads; m += scale) x = Op()(x, emulated::block->fibers[emulated::fiber->thread ^ m].value);
    emulated::barrier();
    return x;
  }
};
template <class V>
inline V broadcast(fp8_e4_t one) {
  return V(one);
}
}  // namespace tl

struct Launch {
  void (*kernel)(void**);
  void** arguments;
  int x, y, threads;
};

// All blocks of all launches at once. Returns nullptr, or what went wrong.
extern "C" const char* wf_emulate(Launch* launches, int n, unsigned seed) {
  using namespace emulated;
  failure = nullptr;
  std::mt19937 random(seed);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int l = 0; l < n; ++l)
    for (int y = 0; y < launches[l].y; ++y)
      for (int x = 0; x < launches[l].x; ++x) {
        auto b = std::make_unique<Block>();
        b->x = x, b->y = y, b->threads = b->alive = launches[l].threads;
        b->kernel = launches[l].kernel, b->arguments = launches[l].arguments;
        b->memory.reset(new char[SHARED + 1024]);
        b->shared = (char*)(((uintptr_t)b->memory.get() + 1023) & ~(uintptr_t)1023);
        std::memset(b->shared, 0xff, SHARED);
        b->fibers.resize(b->threads);
        for (int t = 0; t < b->threads; ++t) {
          Fiber& f = b->fibers[t];
          f.thread = t;
          f.stack.reset(new char[STACK]);
          getcontext(&f.context);
          f.context.uc_stack.ss_sp = f.stack.get();
          f.context.uc_stack.ss_size = STACK;
          makecontext(&f.context, start, 0);
        }
        blocks.push_back(std::move(b));
      }
  for (int idle = 0; !blocks.empty() && !failure;) {
    progress = false;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (auto& b : blocks) {
      block = b.get();
      for (auto& f : b->fibers)
        if (!f.done && !f.at_barrier && !failure) {
          fiber = &f;
          swapcontext(&scheduler, &f.context);
          if (f.done) --b->alive;
        }
      if (b->alive && b->arrived == b->alive) {
        if (b->alive != b->threads) failure = "a block passes a barrier without all of its threads";
        b->arrived = 0;
        for (auto& f : b->fibers) f.at_barrier = false;
      }
    }
    for (size_t i = 0; i < blocks.size();)
      if (blocks[i]->alive) ++i;
      else blocks[i].swap(blocks.back()), blocks.pop_back();
    idle = progress ? 0 : idle + 1;
    if (idle > 3) failure = "blocks wait for each other for ever";
  }
  return failure;
}
