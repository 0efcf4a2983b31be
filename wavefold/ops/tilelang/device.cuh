// What the TileLang kernels call and TileLang has no word for: decoding FP4, flags between processors, the clock of a link.
// Imported into the generated source (`kernels.py`). The primitives of the first part have another form where the tests
// run the generated code on a CPU, which defines WF_EMULATED.

#ifndef WF_EMULATED
#define WF_DEVICE __device__ __forceinline__

WF_DEVICE int wf_load_acquire(const int* flag) {
  int value;
  asm volatile("ld.acquire.sys.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
WF_DEVICE void wf_store_release(int* flag, int value) {
  asm volatile("st.release.sys.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
WF_DEVICE void wf_fence() { __threadfence_system(); }
WF_DEVICE void wf_pause() { __nanosleep(64); }
WF_DEVICE long long wf_nanoseconds() {
  long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
#endif

// -- numbers

// 2^(e - 127), e as in e8m0, and 0 below the smallest normal number.
WF_DEVICE float wf_power(int e) { return __int_as_float((e < 1 ? 0 : e > 254 ? 255 : e) << 23); }

// The largest of four e8m0 scales, those of 128 values of a row: what the decoded codes are relative to.
WF_DEVICE int wf_largest_scale(unsigned scales) {
  int a = max(scales & 255, scales >> 8 & 255), b = max(scales >> 16 & 255, scales >> 24);
  return max(a, b);
}

// e2m1 codes, the eight of a word, low nibble first -> e4m3 codes of value * 2^(6 - below), below 0 to 14: all exact.
WF_DEVICE void wf_e2m1_to_e4m3(unsigned word, int below, unsigned* out) {
  unsigned low, high;  // the e4m3 codes of magnitudes 0 to 3 and 4 to 7
  if (below < 12) {    // normal numbers: 0.5 << 6 has exponent field 12, each code above adds half an exponent
    unsigned first = 12 - below << 3;
    low = (first << 8) + (first + 8 << 16) + (first + 12 << 24);
    high = first * 0x01010101u + 0x1c181410u;
  } else {
    low = below == 12 ? 0x0c080400u : below == 13 ? 0x06040200u : 0x03020100u;
    high = below == 12 ? 0x1c181410u : below == 13 ? 0x14100c08u : 0x0c080604u;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half, word >>= 16) {
    unsigned sign = __byte_perm(0x8000u, 0u, word >> 3 & 0x1111u);
    out[half] = __byte_perm(low, high, word & 0x7777u) | sign;
  }
}

// 16 weights, 8 bytes of one block of 32: `scales` are those of the row's 128 values, `block` is 0 to 3.
WF_DEVICE void wf_decode(const void* packed, unsigned scales, int block, void* out) {
  int below = wf_largest_scale(scales) - int(scales >> 8 * block & 255);
  uint2 words = *(const uint2*)packed;
  uint4 codes;
  wf_e2m1_to_e4m3(words.x, min(below, 14), (unsigned*)&codes);
  wf_e2m1_to_e4m3(words.y, min(below, 14), (unsigned*)&codes + 2);
  *(uint4*)out = codes;
}

// The e8m0 scale of 128 values of which `amax` is the largest magnitude: 2^ceil(log2(max(amax, 1e-4) / 448)).
WF_DEVICE int wf_scale(float amax) {
  return __float_as_int(fmaxf(amax, 1e-4f) * (1.0f / 448.0f)) + 0x7fffff >> 23;
}

WF_DEVICE float wf_silu(float x) { return x / (1.0f + expf(-x)); }

// -- flags

// The next task's number, the same in every thread of the block.
WF_DEVICE int wf_ticket(int* counter, int* room) {
  if (threadIdx.x == 0) *room = atomicAdd(counter, 1);
  __syncthreads();
  int ticket = *room;
  __syncthreads();
  return ticket;
}

// Until each of flags [first, end) is at least what it needs.
WF_DEVICE void wf_wait(const int* flags, const int* need, int first, int end) {
  for (int f = first + threadIdx.x; f < end; f += blockDim.x)
    while (wf_load_acquire(flags + f) < need[f]) wf_pause();
  __syncthreads();
}

// What the block wrote is done: one more for flag `done`. Whoever makes it full tells all ranks, if there is a flag to tell.
WF_DEVICE void wf_signal(int* flags, const int* need, int done, const int64_t* peers, int num_ranks, int told, int value) {
  __syncthreads();
  if (threadIdx.x == 0) {
    wf_fence();
    int before = atomicAdd(flags + done, 1);
    if (told >= 0 && before + 1 == need[done]) {
      wf_fence();
      for (int rank = 0; rank < num_ranks; ++rank) wf_store_release((int*)peers[rank] + told, value);
    }
  }
}

// -- a paced link: bytes are there no earlier than the link's rate allows

WF_DEVICE void wf_link_begin(int64_t* free_at, int picoseconds, int bytes) {
  if (picoseconds && threadIdx.x == 0) {
    long long now = wf_nanoseconds();
    *free_at = (*free_at > now ? *free_at : now) + (long long)picoseconds * bytes / 1000;
  }
}
WF_DEVICE void wf_link_end(const int64_t* free_at, int picoseconds) {
  if (picoseconds && threadIdx.x == 0)
    while (wf_nanoseconds() < *free_at) wf_pause();
}
