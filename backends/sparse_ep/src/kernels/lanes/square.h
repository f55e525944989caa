// Squares of sixteen by sixteen 32-bit words, transposed.
#pragma once

#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

// Rows of sixteen words on their way: registers where sixteen of them fit, memory elsewhere. `width`: how many words
// of a row, or bytes of each of its planes, there are; the others are not touched, and read as `fill`.
#if defined(__AVX512F__)

typedef __m512i Row;

static inline __mmask16 first_of(int64_t width) { return static_cast<__mmask16>((1u << width) - 1); }

static inline Row row_of(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
static inline Row row_at(const uint8_t* from, int64_t width, Row fill) {
  return _mm512_mask_loadu_epi32(fill, first_of(width), from);
}
static inline void put(Row row, uint8_t* to, int64_t width) { _mm512_mask_storeu_epi32(to, first_of(width), row); }

// Four planes of sixteen bytes are one row of four channels.
static inline Row planes_at(const uint8_t* const* planes, int64_t width, Row fill) {
  const __m128i fills = _mm512_castsi512_si128(fill);
  const auto plane = [=](int i) { return _mm_mask_loadu_epi8(fills, first_of(width), planes[i]); };
  const __m128i a = plane(0), b = plane(1), c = plane(2), d = plane(3);
  const __m128i ab = _mm_unpacklo_epi8(a, b), ab_high = _mm_unpackhi_epi8(a, b);
  const __m128i cd = _mm_unpacklo_epi8(c, d), cd_high = _mm_unpackhi_epi8(c, d);
  __m512i words = _mm512_castsi128_si512(_mm_unpacklo_epi16(ab, cd));
  words = _mm512_inserti32x4(words, _mm_unpackhi_epi16(ab, cd), 1);
  words = _mm512_inserti32x4(words, _mm_unpacklo_epi16(ab_high, cd_high), 2);
  return _mm512_inserti32x4(words, _mm_unpackhi_epi16(ab_high, cd_high), 3);
}
static inline void put_planes(Row row, uint8_t* const* planes, int64_t channels, int64_t width) {
  for (int i = 0; i < channels; ++i) {
    const __m128i plane = _mm512_cvtepi32_epi8(_mm512_srli_epi32(row, static_cast<unsigned>(8 * i)));
    _mm_mask_storeu_epi8(planes[i], first_of(width), plane);
  }
}

static inline void flip_bits(Row& row, Row bits) { row = _mm512_xor_si512(row, bits); }

static inline void transpose(Row (&rows)[kLanes]) {
  Row pairs[kLanes], fours[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // fours[4g + c]: of rows 4g to 4g + 3, columns c, 4 + c, 8 + c and 12 + c.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const Row even = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
    const Row odd = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xDD);
    const Row even_below = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    const Row odd_below = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xDD);
    rows[c] = _mm512_shuffle_i32x4(even, even_below, 0x88);
    rows[4 + c] = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(even, even_below, 0xDD);
    rows[12 + c] = _mm512_shuffle_i32x4(odd, odd_below, 0xDD);
  }
}

#else

struct alignas(kRowBytes) Row {
  uint32_t words[kLanes];
};

static inline Row row_of(uint32_t word) {
  Row row;
  for (int i = 0; i < kLanes; ++i) row.words[i] = word;
  return row;
}
static inline Row row_at(const uint8_t* from, int64_t width, const Row& fill) {
  Row row = fill;
  if (width == kLanes) {
    __builtin_memcpy(&row, from, sizeof row);
  } else {
    for (int64_t i = 0; i < width; ++i) __builtin_memcpy(&row.words[i], from + i * 4, 4);
  }
  return row;
}
static inline void put(const Row& row, uint8_t* to, int64_t width) {
  if (width == kLanes) {
    __builtin_memcpy(to, &row, sizeof row);
  } else {
    for (int64_t i = 0; i < width; ++i) __builtin_memcpy(to + i * 4, &row.words[i], 4);
  }
}

static inline Row planes_at(const uint8_t* const* planes, int64_t width, const Row& fill) {
  Row row = fill;
  for (int64_t i = 0; i < width; ++i) {
    row.words[i] = static_cast<uint32_t>(planes[0][i]) | static_cast<uint32_t>(planes[1][i]) << 8 |
                   static_cast<uint32_t>(planes[2][i]) << 16 | static_cast<uint32_t>(planes[3][i]) << 24;
  }
  return row;
}
static inline void put_planes(const Row& row, uint8_t* const* planes, int64_t channels, int64_t width) {
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t lane = 0; lane < width; ++lane) planes[i][lane] = static_cast<uint8_t>(row.words[lane] >> (8 * i));
  }
}

static inline void flip_bits(Row& row, const Row& bits) {
  for (int i = 0; i < kLanes; ++i) row.words[i] ^= bits.words[i];
}

// Halves of 64 and of 32 bits of two vectors, interleaved within every 128 bits.
#if defined(__AVX2__)
typedef __m256i Part;
static inline Part low_words(Part a, Part b) { return _mm256_unpacklo_epi32(a, b); }
static inline Part high_words(Part a, Part b) { return _mm256_unpackhi_epi32(a, b); }
static inline Part low_pairs(Part a, Part b) { return _mm256_unpacklo_epi64(a, b); }
static inline Part high_pairs(Part a, Part b) { return _mm256_unpackhi_epi64(a, b); }
#else
typedef Words Part;
static inline Part low_words(Part a, Part b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
static inline Part high_words(Part a, Part b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
static inline Part low_pairs(Part a, Part b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
static inline Part high_pairs(Part a, Part b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#endif

// Four words of a row, and of the one four rows further, if a vector holds as many.
static inline Part every_fourth(const Row* rows, int column) {
#if defined(__AVX2__)
  const auto part = [=](int row) { return _mm_load_si128(reinterpret_cast<const __m128i*>(rows[row].words + column)); };
  return _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(4), 1);
#else
  Part part;
  __builtin_memcpy(&part, rows[0].words + column, sizeof part);
  return part;
#endif
}

static inline void transpose(Row (&rows)[kLanes]) {
  Row result[kLanes];
  for (int first = 0; first < kLanes; first += kWidth) {
    for (int column = 0; column < kLanes; column += 4) {
      const Part a = every_fourth(rows + first, column), b = every_fourth(rows + first + 1, column);
      const Part c = every_fourth(rows + first + 2, column), d = every_fourth(rows + first + 3, column);
      const Part ab = low_words(a, b), cd = low_words(c, d), ab_high = high_words(a, b), cd_high = high_words(c, d);
      const Part columns[4] = {low_pairs(ab, cd), high_pairs(ab, cd), low_pairs(ab_high, cd_high),
                               high_pairs(ab_high, cd_high)};
      for (int i = 0; i < 4; ++i) __builtin_memcpy(result[column + i].words + first, &columns[i], sizeof columns[i]);
    }
  }
  __builtin_memcpy(rows, result, sizeof result);
}

#endif

}  // namespace SPARSE_ISA
}  // namespace sparse
