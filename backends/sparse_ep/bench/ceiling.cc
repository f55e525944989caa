// What one core of this machine can do at most: multiply-adds, and bytes read from each level of its memory.
// Prints one JSON object. Compiled and run by bench/ceiling.py.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kAccumulators = 12;  // more than latency times ports, so that no instruction waits for another
constexpr int64_t kLoops = 1'000'000;

template <class Body>
double best_seconds(const Body& body) {
  double best = 1e9;
  for (int repeat = 0; repeat < 25; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// Every kernel runs `loops` times over kAccumulators instructions.

__attribute__((target("avx512f"))) void fma_512(int64_t loops, const float*) {
  __m512 sums[kAccumulators] = {}, x = _mm512_set1_ps(0.5f), w = x;
  for (int64_t i = 0; i < loops; ++i) {
#pragma GCC unroll 12
    for (int a = 0; a < kAccumulators; ++a) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sums[a]) : "v"(x), "v"(w));
  }
}

__attribute__((target("avx512f"))) void fma_broadcast_512(int64_t loops, const float* weights) {
  __m512 sums[kAccumulators] = {}, x = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < loops; ++i) {
#pragma GCC unroll 12
    for (int a = 0; a < kAccumulators; ++a)
      asm volatile("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sums[a]) : "v"(x), "m"(weights[a]));
  }
}

__attribute__((target("avx512f,avx512vnni"))) void dot_broadcast_512(int64_t loops, const float* weights) {
  __m512i sums[kAccumulators] = {}, x = _mm512_set1_epi32(0x01010101);
  for (int64_t i = 0; i < loops; ++i) {
#pragma GCC unroll 12
    for (int a = 0; a < kAccumulators; ++a)
      asm volatile("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[a]) : "v"(x), "m"(weights[a]));
  }
}

__attribute__((target("avx2,fma"))) void fma_256(int64_t loops, const float*) {
  __m256 sums[kAccumulators] = {}, x = _mm256_set1_ps(0.5f), w = x;
  for (int64_t i = 0; i < loops; ++i) {
#pragma GCC unroll 12
    for (int a = 0; a < kAccumulators; ++a) asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sums[a]) : "x"(x), "x"(w));
  }
}

// AVX2 has no embedded broadcast: each weight costs a load as well.
__attribute__((target("avx2,fma"))) void fma_broadcast_256(int64_t loops, const float* weights) {
  __m256 sums[kAccumulators] = {}, x = _mm256_set1_ps(0.5f), w;
  for (int64_t i = 0; i < loops; ++i) {
#pragma GCC unroll 12
    for (int a = 0; a < kAccumulators; ++a)
      asm volatile("vbroadcastss %3, %1\n\tvfmadd231ps %1, %2, %0" : "+x"(sums[a]), "=&x"(w) : "x"(x), "m"(weights[a]));
  }
}

__attribute__((target("avx512f"))) void read_512(const char* begin, const char* end) {
  for (const char* p = begin; p < end; p += 512) {
    __m512 r;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      asm volatile("vmovaps %1, %0" : "=v"(r) : "m"(*reinterpret_cast<const __m512*>(p + 64 * i)));
  }
}

__attribute__((target("avx2"))) void read_256(const char* begin, const char* end) {
  for (const char* p = begin; p < end; p += 512) {
    __m256 r;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
      asm volatile("vmovaps %1, %0" : "=x"(r) : "m"(*reinterpret_cast<const __m256*>(p + 32 * i)));
  }
}

double giga_per_second(void (*kernel)(int64_t, const float*), double work_of_instruction) {
  static const float weights[kAccumulators] = {};
  const double seconds = best_seconds([&] { kernel(kLoops, weights); });
  return static_cast<double>(kLoops) * kAccumulators * work_of_instruction / seconds / 1e9;
}

double read_rate(void (*read)(const char*, const char*), size_t bytes) {
  char* buffer = static_cast<char*>(std::aligned_alloc(4096, bytes));
  if (buffer == nullptr) return 0;
  std::fill(buffer, buffer + bytes, 1);
  const int64_t passes = std::max<int64_t>(1, static_cast<int64_t>((size_t{1} << 27) / bytes));
  const double seconds = best_seconds([&] {
    for (int64_t pass = 0; pass < passes; ++pass) read(buffer, buffer + bytes);
  });
  std::free(buffer);
  return static_cast<double>(passes) * static_cast<double>(bytes) / seconds / 1e9;
}

}  // namespace

int main() {
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
    std::fprintf(stderr, "needs AVX2 and FMA\n");
    return 1;
  }
  const double flops = wide ? 32 : 16;  // of one instruction
  const auto read = wide ? read_512 : read_256;
  std::printf("{\"lanes\": %d, \"fma_gflops\": %.1f", wide ? 16 : 8, giga_per_second(wide ? fma_512 : fma_256, flops));
  std::printf(", \"fma_broadcast_gflops\": %.1f", giga_per_second(wide ? fma_broadcast_512 : fma_broadcast_256, flops));
  if (wide && __builtin_cpu_supports("avx512vnni"))
    std::printf(", \"int8_broadcast_gops\": %.1f", giga_per_second(dot_broadcast_512, 128));
  std::printf(", \"l1_gbytes\": %.1f, \"l2_gbytes\": %.1f, \"l3_gbytes\": %.1f, \"dram_gbytes\": %.1f}\n",
              read_rate(read, size_t{24} << 10), read_rate(read, size_t{400} << 10), read_rate(read, size_t{6} << 20),
              read_rate(read, size_t{384} << 20));
}
