// Tiles of sixteen by sixteen 32-bit words, transposed.
#pragma once

#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

// Halves of 64 and of 32 bits of two vectors, interleaved within every 128 bits.
#if defined(__AVX512F__)
typedef __m512i Tile;
static inline Tile low_words(Tile a, Tile b) { return _mm512_unpacklo_epi32(a, b); }
static inline Tile high_words(Tile a, Tile b) { return _mm512_unpackhi_epi32(a, b); }
static inline Tile low_pairs(Tile a, Tile b) { return _mm512_unpacklo_epi64(a, b); }
static inline Tile high_pairs(Tile a, Tile b) { return _mm512_unpackhi_epi64(a, b); }
#elif defined(__AVX2__)
typedef __m256i Tile;
static inline Tile low_words(Tile a, Tile b) { return _mm256_unpacklo_epi32(a, b); }
static inline Tile high_words(Tile a, Tile b) { return _mm256_unpackhi_epi32(a, b); }
static inline Tile low_pairs(Tile a, Tile b) { return _mm256_unpacklo_epi64(a, b); }
static inline Tile high_pairs(Tile a, Tile b) { return _mm256_unpackhi_epi64(a, b); }
#else
typedef Words Tile;
static inline Tile low_words(Tile a, Tile b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
static inline Tile high_words(Tile a, Tile b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
static inline Tile low_pairs(Tile a, Tile b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
static inline Tile high_pairs(Tile a, Tile b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#endif

// 16 bytes of each of the rows in[0], in[4], ... , as many as a vector holds.
static inline Tile every_fourth(const uint8_t* const* in, int64_t offset) {
#if defined(__AVX512F__)
  const auto part = [=](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in[row] + offset)); };
  Tile rows = _mm512_castsi128_si512(part(0));
  rows = _mm512_inserti32x4(rows, part(4), 1);
  rows = _mm512_inserti32x4(rows, part(8), 2);
  return _mm512_inserti32x4(rows, part(12), 3);
#elif defined(__AVX2__)
  const auto part = [=](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in[row] + offset)); };
  return _mm256_inserti128_si256(_mm256_castsi128_si256(part(0)), part(4), 1);
#else
  Tile row;
  __builtin_memcpy(&row, in[0] + offset, sizeof row);
  return row;
#endif
}

// Word i of in[j] becomes word j of out[i], with the bits of `flip` inverted.
static inline void transpose(const uint8_t* const* in, uint32_t flip, uint8_t* const* out) {
  const Tile flips = reinterpret_cast<Tile>(Words{} + flip);
  for (int first = 0; first < 16; first += kWidth) {
    for (int column = 0; column < 16; column += 4) {
      const Tile a = every_fourth(in + first, column * 4), b = every_fourth(in + first + 1, column * 4);
      const Tile c = every_fourth(in + first + 2, column * 4), d = every_fourth(in + first + 3, column * 4);
      const Tile ab = low_words(a, b), cd = low_words(c, d), ab_high = high_words(a, b), cd_high = high_words(c, d);
      const Tile columns[4] = {low_pairs(ab, cd) ^ flips, high_pairs(ab, cd) ^ flips,
                               low_pairs(ab_high, cd_high) ^ flips, high_pairs(ab_high, cd_high) ^ flips};
      for (int i = 0; i < 4; ++i) __builtin_memcpy(out[column + i] + first * 4, &columns[i], sizeof columns[i]);
    }
  }
}

// Four planes of sixteen bytes become one row of four channels, and back.
static inline void interleave(const uint8_t* const* planes, uint32_t flip, uint8_t* row) {
#if defined(__AVX512F__)
  const auto plane = [=](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(planes[i])); };
  const __m128i ab = _mm_unpacklo_epi8(plane(0), plane(1)), ab_high = _mm_unpackhi_epi8(plane(0), plane(1));
  const __m128i cd = _mm_unpacklo_epi8(plane(2), plane(3)), cd_high = _mm_unpackhi_epi8(plane(2), plane(3));
  __m512i words = _mm512_castsi128_si512(_mm_unpacklo_epi16(ab, cd));
  words = _mm512_inserti32x4(words, _mm_unpackhi_epi16(ab, cd), 1);
  words = _mm512_inserti32x4(words, _mm_unpacklo_epi16(ab_high, cd_high), 2);
  words = _mm512_inserti32x4(words, _mm_unpackhi_epi16(ab_high, cd_high), 3);
  _mm512_storeu_si512(row, words ^ reinterpret_cast<__m512i>(Words{} + flip));
#else
  uint32_t words[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    words[lane] = (static_cast<uint32_t>(planes[0][lane]) | static_cast<uint32_t>(planes[1][lane]) << 8 |
                   static_cast<uint32_t>(planes[2][lane]) << 16 | static_cast<uint32_t>(planes[3][lane]) << 24) ^
                  flip;
  }
  __builtin_memcpy(row, words, sizeof words);
#endif
}

static inline void separate(const uint8_t* row, uint32_t flip, uint8_t* const* planes) {
#if defined(__AVX512F__)
  const __m512i words = _mm512_loadu_si512(row) ^ reinterpret_cast<__m512i>(Words{} + flip);
  for (int i = 0; i < 4; ++i) {
    const __m128i plane = _mm512_cvtepi32_epi8(_mm512_srli_epi32(words, static_cast<unsigned>(8 * i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(planes[i]), plane);
  }
#else
  uint32_t words[kLanes];
  __builtin_memcpy(words, row, sizeof words);
  for (int i = 0; i < 4; ++i) {
    uint8_t plane[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) plane[lane] = static_cast<uint8_t>((words[lane] ^ flip) >> (8 * i));
    __builtin_memcpy(planes[i], plane, sizeof plane);
  }
#endif
}

}  // namespace SPARSE_ISA
}  // namespace sparse
