// Ptx: the machine of kernels/cuda/device.h on a GPU, sm_80 and later. Each function is one
// instruction. -fmad=false: what is fused says so.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"

namespace nibble {

struct Ptx {
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int block() { return static_cast<int>(blockIdx.x); }
  __device__ static int blocks() { return static_cast<int>(gridDim.x); }
  __device__ static std::byte* shared() {
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<std::byte*>(memory);
  }

  __device__ static Words4 load(const Words4* p) {
    Words4 v;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
        : "l"(p));
    return v;
  }
  __device__ static uint8_t load(const uint8_t* p) { return __ldg(p); }
  __device__ static int8_t load(const int8_t* p) {
    return static_cast<int8_t>(__ldg(reinterpret_cast<const signed char*>(p)));
  }
  __device__ static uint32_t load(const uint32_t* p) { return __ldg(p); }
  __device__ static uint64_t load(const uint64_t* p) {
    return __ldg(reinterpret_cast<const unsigned long long*>(p));
  }
  __device__ static float load(const float* p) { return __ldg(p); }
  __device__ static F16 load(const F16* p) { return {__ldg(&p->bits)}; }
  __device__ static BF16 load(const BF16* p) { return {__ldg(&p->bits)}; }
  __device__ static int32_t load(const int32_t* p) { return __ldg(p); }
  __device__ static Floats4 load(const Floats4* p) {
    Floats4 v;
    asm("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(v.value[0]), "=f"(v.value[1]), "=f"(v.value[2]), "=f"(v.value[3])
        : "l"(p));
    return v;
  }
  __device__ static Words4 load_once(const Words4* p) {
    Words4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
        : "l"(p));
    return v;
  }
  template <typename T>
  __device__ static T load_coherent(const T* p) {
    return __ldcg(p);
  }
  __device__ static F16 load_coherent(const F16* p) { return {__ldcg(&p->bits)}; }
  __device__ static BF16 load_coherent(const BF16* p) { return {__ldcg(&p->bits)}; }
  template <typename T>
  requires(sizeof(T) == 16) __device__ static T load_coherent(const T* p) {
    Floats4 v;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.value[0]), "=f"(v.value[1]), "=f"(v.value[2]), "=f"(v.value[3])
                 : "l"(p)
                 : "memory");
    return __builtin_bit_cast(T, v);
  }
  template <typename T>
  __device__ static void store(T* p, const T& value) {
    *p = value;
  }
  template <typename T>
  __device__ static T load_shared(const T* p) {
    return *p;
  }
  template <typename T>
  __device__ static void store_shared(T* p, const T& value) {
    *p = value;
  }

  __device__ static void copy_async(void* shared, const void* global, int bytes) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(address),
                 "l"(global), "r"(bytes)
                 : "memory");
  }
  __device__ static void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int kPending>
  __device__ static void wait_copies(Constant<kPending>) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  }

  __device__ static void sync() { __syncthreads(); }
  __device__ static void sync_warp() { __syncwarp(); }
  __device__ static void fence() { __threadfence(); }
  __device__ static uint32_t atomic_add(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }
  __device__ static float shuffle_xor(float value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }

  __device__ static void mma(F16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  __device__ static void mma(BF16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  __device__ static void mma(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  template <int kTable>
  __device__ static uint32_t lop3(Constant<kTable>, uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(kTable));
    return d;
  }
  __device__ static uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
  }

  __device__ static float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  __device__ static uint32_t fma2(F16, uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  __device__ static uint32_t fma2(BF16, uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  __device__ static float to_float(F16 value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
  }
  __device__ static float to_float(BF16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
  }
  __device__ static float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
  __device__ static F16 round(F16, float value) {
    F16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
  }
  __device__ static BF16 round(BF16, float value) {
    BF16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
  }
  // low in the low half.
  __device__ static uint32_t round2(F16, float low, float high) {
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
  }
  __device__ static uint32_t round2(BF16, float low, float high) {
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
  }
  __device__ static float sqrt(float value) { return __fsqrt_rn(value); }
  __device__ static float exp2(float value) {
    float result;
    asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
  }
  __device__ static int round_to_integer(float value) { return __float2int_rn(value); }
};

}  // namespace nibble
