// Sparse rows times panels: for each output a pass over its nonzeros, its sums in registers for several blocks at once.
#include "kernels/compressed_rows.h"

#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

constexpr int kParts = static_cast<int>(kLanes) / kWidth;  // vectors of a row
constexpr int kPartBytes = 4 * kWidth;

// As many blocks as keep eight sums in registers: enough to hide the latency of a multiply-add, and few enough to leave
// registers for the rest.
constexpr int kMostBlocks = 8 / kParts;

namespace {

// How an element multiplies. Weight: what the blocks share of a nonzero.
struct Multiply {
  typedef Floats Sum;
  struct Weight {
    Floats value;
  };
  static Weight weight(uint32_t word) {
    float value;
    __builtin_memcpy(&value, &word, sizeof value);
    return {all(value)};
  }
  static Floats add(Floats sum, const std::byte* part, const Weight& weight) {
    return sum + weight.value * load_floats(part);
  }
  static Floats load(const std::byte* part) { return load_floats(part); }
  static Floats start(const CompressedCall& call, int64_t output) { return all(call.bias ? call.bias[output] : 0.0f); }
  static void store_sum(std::byte* part, Floats sum) { store(part, sum); }
};

// Four unsigned bytes times four signed ones, added up, in every lane.
struct DotBase {
  typedef Ints Sum;
  static Ints load(const std::byte* part) { return load_ints(part); }
  static Ints start(const CompressedCall&, int64_t) { return Ints{}; }
  static void store_sum(std::byte* part, Ints sum) { store(part, reinterpret_cast<Words>(sum)); }
  static Ints all_quads(uint32_t word) { return static_cast<int32_t>(word) - Ints{}; }
};

#if defined(__AVX2__)

struct Dot : DotBase {
  struct Weight {
    Ints quads;
  };
  static Weight weight(uint32_t word) { return {all_quads(word)}; }
  static Ints add(Ints sum, const std::byte* part, const Weight& weight) {
#if defined(__AVX512F__)
    const __m512i pairs =
        _mm512_maddubs_epi16(reinterpret_cast<__m512i>(load_ints(part)), reinterpret_cast<__m512i>(weight.quads));
    return sum + reinterpret_cast<Ints>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#else
    const __m256i pairs =
        _mm256_maddubs_epi16(reinterpret_cast<__m256i>(load_ints(part)), reinterpret_cast<__m256i>(weight.quads));
    return sum + reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
  }
};

// Assemblers older than these compilers do not know AVX-VNNI.
#if defined(__AVX512F__) || defined(__clang__) || __GNUC__ >= 11
#define HAS_DOT_VNNI

// An intrinsic would ask that all of this file may use VNNI.
struct DotVnni : Dot {
  static Ints add(Ints sum, const std::byte* part, const Weight& weight) {
#if defined(__AVX512F__)
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(load_ints(part)), "v"(weight.quads));
#else
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(load_ints(part)), "x"(weight.quads));
#endif
    return sum;
  }
};

#endif

#else

typedef int16_t Shorts __attribute__((vector_size(4 * kWidth)));

// Even and odd channels apart, as 16-bit numbers.
struct Dot : DotBase {
  struct Weight {
    Shorts even, odd;
  };
  static Weight weight(uint32_t word) {
    const Shorts pairs = reinterpret_cast<Shorts>(all_quads(word));
    return {pairs << 8 >> 8, pairs >> 8};
  }
  static Ints multiply_pairs(Shorts a, Shorts b) {
#if defined(__SSE2__)
    return reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    Ints sums;
    for (int i = 0; i < kWidth; ++i) sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sums;
#endif
  }
  static Ints add(Ints sum, const std::byte* part, const Weight& weight) {
    const Words quads = load_words(part);
    const Shorts even = reinterpret_cast<Shorts>(quads & 0x00FF00FFu);
    const Shorts odd = reinterpret_cast<Shorts>(quads >> 8 & 0x00FF00FFu);
    return sum + multiply_pairs(even, weight.even) + multiply_pairs(odd, weight.odd);
  }
};

#endif

// All outputs of `kBlocks` blocks.
template <class Operation, int kBlocks>
static void run_blocks(const CompressedRows& rows, const CompressedCall& call, int64_t first_block) {
  const void* const* taps = call.taps + first_block * rows.taps;
  std::byte* out = call.out + first_block * call.out_stride;
  const RowRun* run = rows.runs;
  const int32_t* offset = rows.offsets;
  const uint32_t* word = rows.weights;

  for (int64_t output = 0; output < rows.outputs; ++output, out += kRowBytes) {
    typename Operation::Sum sums[kBlocks][kParts];
    for (int block = 0; block < kBlocks; ++block) {
      for (int part = 0; part < kParts; ++part) {
        sums[block][part] = call.first ? Operation::start(call, output)
                                       : Operation::load(out + block * call.out_stride + part * kPartBytes);
      }
    }
    for (const RowRun* last_run = run + rows.runs_of[output]; run != last_run; ++run) {
      const std::byte* panels[kBlocks];
      for (int block = 0; block < kBlocks; ++block) {
        panels[block] = static_cast<const std::byte*>(taps[block * rows.taps + run->tap]);
      }
      for (const int32_t* last = offset + run->nonzeros; offset != last; ++offset, ++word) {
        const typename Operation::Weight weight = Operation::weight(*word);
        for (int block = 0; block < kBlocks; ++block) {
          for (int part = 0; part < kParts; ++part) {
            sums[block][part] = Operation::add(sums[block][part], panels[block] + *offset + part * kPartBytes, weight);
          }
        }
      }
    }
    for (int block = 0; block < kBlocks; ++block) {
      for (int part = 0; part < kParts; ++part) {
        Operation::store_sum(out + block * call.out_stride + part * kPartBytes, sums[block][part]);
      }
    }
  }
}

template <class Operation>
static void run(const CompressedRows& rows, const CompressedCall& call) {
  int64_t block = 0;
  for (; call.count - block >= kMostBlocks; block += kMostBlocks) run_blocks<Operation, kMostBlocks>(rows, call, block);
  if (kMostBlocks > 4 && call.count - block >= 4) {
    run_blocks<Operation, 4>(rows, call, block);
    block += 4;
  }
  if (kMostBlocks > 2 && call.count - block >= 2) {
    run_blocks<Operation, 2>(rows, call, block);
    block += 2;
  }
  if (call.count > block) run_blocks<Operation, 1>(rows, call, block);
}

}  // namespace

const CompressedOps compressed_ops = {
    run<Multiply>,
    run<Dot>,
#ifdef HAS_DOT_VNNI
    run<DotVnni>,
#else
    nullptr,
#endif
};

}  // namespace SPARSE_ISA
}  // namespace sparse
