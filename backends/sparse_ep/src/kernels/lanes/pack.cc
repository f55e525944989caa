// Panels for windows: lanes gathered from one or more blocks. Runs once for nearly every tap of every block, so that a
// row should cost no more than the store of a register.
#include "kernels/lanes/lanes.h"
#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

// Where the lanes come from, no lane twice. Every source has lanes: there are sixteen at most.
struct Gather {
  int count = 0;
  uint32_t filled = 0;  // lanes that some source sets
  const uint8_t* block[kLanes];
  uint32_t mask[kLanes];
  const uint8_t* lane[kLanes];
};

Gather gather_of(const uint8_t* blocks, int64_t block_bytes, const PackSource* sources, int64_t count) {
  Gather gather;
  for (int64_t i = count - 1; i >= 0; --i) {
    const uint32_t mask = sources[i].mask & ~gather.filled;
    if (mask == 0) continue;
    gather.filled |= mask;
    gather.block[gather.count] = blocks + sources[i].block * block_bytes;
    gather.mask[gather.count] = mask;
    gather.lane[gather.count] = sources[i].lane;
    ++gather.count;
  }
  return gather;
}

#if defined(__AVX512F__)

// One block, and where its lanes go.
struct Source {
  const uint8_t* block;
  __m512i index;
  __mmask16 mask;
};

inline __m512i merge(__m512i row, const Source& source, int64_t offset) {
  return _mm512_mask_permutexvar_epi32(row, source.mask, source.index, _mm512_load_si512(source.block + offset));
}

void pack_rows(const Gather& gather, int64_t rows, uint32_t fill, uint8_t* panel) {
  Source sources[kLanes];
  for (int i = 0; i < gather.count; ++i) {
    sources[i].block = gather.block[i];
    sources[i].index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(gather.lane[i])));
    sources[i].mask = static_cast<__mmask16>(gather.mask[i]);
  }
  const __m512i filled = _mm512_set1_epi32(static_cast<int>(fill));
  for (int i = gather.count; i < 4; ++i) sources[i] = Source{panel, filled, 0};
  const int64_t bytes = rows * kRowBytes;
  const Source a = sources[0], b = sources[1], c = sources[2], d = sources[3];
  if (gather.count == 0) {
    for (int64_t i = 0; i < bytes; i += kRowBytes) _mm512_store_si512(panel + i, filled);
  } else if (gather.count == 1) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < bytes; i += kRowBytes) _mm512_store_si512(panel + i, merge(filled, a, i));
  } else if (gather.count == 2) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < bytes; i += kRowBytes) _mm512_store_si512(panel + i, merge(merge(filled, a, i), b, i));
  } else if (gather.count == 3) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < bytes; i += kRowBytes) {
      _mm512_store_si512(panel + i, merge(merge(merge(filled, a, i), b, i), c, i));
    }
  } else {
    for (int64_t i = 0; i < bytes; i += kRowBytes) {
      __m512i row = merge(merge(merge(merge(filled, a, i), b, i), c, i), d, i);
      for (int j = 4; j < gather.count; ++j) row = merge(row, sources[j], i);
      _mm512_store_si512(panel + i, row);
    }
  }
}

#elif defined(__AVX2__)

// Half a block that one permutation reads for half a panel.
struct Half {
  const uint8_t* from;
  __m256i index, mask;
};

// The halves that lanes [first, first + 8) of the panel need, and how many.
int halves_of(const Gather& gather, int first, Half* halves) {
  int count = 0;
  for (int i = 0; i < gather.count; ++i) {
    for (int half = 0; half < 2; ++half) {
      int32_t index[8] = {}, mask[8] = {}, any = 0;
      for (int lane = 0; lane < 8; ++lane) {
        const int from = gather.lane[i][first + lane];
        if (!(gather.mask[i] >> (first + lane) & 1) || from / 8 != half) continue;
        index[lane] = from % 8;
        mask[lane] = any = -1;
      }
      if (!any) continue;
      halves[count].from = gather.block[i] + half * 32;
      halves[count].index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
      halves[count].mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
      ++count;
    }
  }
  return count;
}

inline __m256i merge(__m256i row, const Half& half, int64_t offset) {
  const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(half.from + offset));
  return _mm256_blendv_epi8(row, _mm256_permutevar8x32_epi32(from, half.index), half.mask);
}

void pack_rows(const Gather& gather, int64_t rows, uint32_t fill, uint8_t* panel) {
  const __m256i filled = _mm256_set1_epi32(static_cast<int>(fill));
  const auto put = [](uint8_t* to, __m256i row) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), row); };
  for (int first = 0; first < kLanes; first += 8) {
    Half halves[8] = {};  // each has a lane of its own
    const int count = halves_of(gather, first, halves);
    uint8_t* out = panel + first * 4;
    const Half a = halves[0], b = halves[1];
    if (count == 0) {
      for (int64_t i = 0; i < rows; ++i) put(out + i * kRowBytes, filled);
    } else if (count == 1) {
      for (int64_t i = 0; i < rows; ++i) put(out + i * kRowBytes, merge(filled, a, i * kRowBytes));
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        __m256i row = merge(merge(filled, a, i * kRowBytes), b, i * kRowBytes);
        for (int j = 2; j < count; ++j) row = merge(row, halves[j], i * kRowBytes);
        put(out + i * kRowBytes, row);
      }
    }
  }
}

#else

void pack_rows(const Gather& gather, int64_t rows, uint32_t fill, uint8_t* panel) {
  const uint8_t* from[kLanes];
  int64_t step[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    from[lane] = reinterpret_cast<const uint8_t*>(&fill);
    step[lane] = 0;
    for (int i = 0; i < gather.count; ++i) {
      if (!(gather.mask[i] >> lane & 1)) continue;
      from[lane] = gather.block[i] + gather.lane[i][lane] * 4;
      step[lane] = kRowBytes;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int lane = 0; lane < kLanes; ++lane) {
      __builtin_memcpy(panel + row * kRowBytes + lane * 4, from[lane] + row * step[lane], 4);
    }
  }
}

#endif

}  // namespace

void pack(const void* blocks, int64_t block_bytes, int64_t rows, const PackSource* sources, int64_t count,
          uint32_t fill, void* panel) {
  const Gather gather = gather_of(static_cast<const uint8_t*>(blocks), block_bytes, sources, count);
  pack_rows(gather, rows, fill, static_cast<uint8_t*>(panel));
}

}  // namespace SPARSE_ISA
}  // namespace sparse
