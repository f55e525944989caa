// A tensor in the model's own storage, and where the lanes of a block lie in it.
#pragma once

#include "kernels/lanes/lanes.h"
#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

// Sizes and strides in bytes.
struct Outer {
  bool bytes;         // rather than floats
  bool side_by_side;  // images as lanes
  int64_t size;       // of an element
  int64_t images, pixels, channels, rows;
  int64_t image, channel, position;  // strides
  uint32_t flip;                     // what int8 differs by
  uint32_t fill;                     // for lanes and channels that are not there; before the flip
};

static inline Outer outer_of(const Layout& layout, const Strides& strides, bool is_signed, uint32_t fill) {
  Outer outer;
  outer.bytes = layout.element == Element::Q8;
  outer.size = outer.bytes ? 1 : 4;
  outer.side_by_side = layout.lanes == Layout::Images;
  outer.images = layout.n;
  outer.pixels = layout.h * layout.w;
  outer.channels = layout.channels;
  outer.rows = rows_of(layout);
  outer.image = strides.image * outer.size;
  outer.channel = strides.channel * outer.size;
  outer.position = strides.position * outer.size;
  if (outer.pixels == 1) {  // images of one pixel lie like the pixels of one image, whichever the lanes are
    outer.side_by_side = false;
    outer.pixels = layout.n;
    outer.images = 1;
    outer.position = outer.image;
  }
  outer.flip = outer.bytes && is_signed ? 0x80808080u : 0;
  outer.fill = fill ^ outer.flip;
  return outer;
}

struct Lanes {
  int count = 0;
  int64_t offset[kLanes];
  int run[kLanes];  // how many lanes from this one on are neighbours

  bool whole() const { return count == kLanes && run[0] == kLanes; }
  void add(int64_t start, int64_t stride, int64_t size, int64_t more) {
    const int lanes = static_cast<int>(more < kLanes - count ? more : kLanes - count);
    for (int i = 0; i < lanes; ++i) {
      offset[count + i] = start + i * stride;
      run[count + i] = stride == size ? lanes - i : 1;
    }
    count += lanes;
  }
};

static inline Lanes lanes_of(const Outer& outer, int64_t block) {
  Lanes lanes;
  if (outer.side_by_side) {
    const int64_t first = block / outer.pixels * kLanes, pixel = block % outer.pixels;
    lanes.add(first * outer.image + pixel * outer.position, outer.image, outer.size, outer.images - first);
    return lanes;
  }
  int64_t image = block * kLanes / outer.pixels, pixel = block * kLanes % outer.pixels;
  for (; lanes.count < kLanes && image < outer.images; ++image) {
    lanes.add(image * outer.image + pixel * outer.position, outer.position, outer.size, outer.pixels - pixel);
    pixel = 0;
  }
  return lanes;
}

static inline void set_words(uint8_t* to, int64_t bytes, uint32_t word) {
  for (int64_t i = 0; i < bytes; i += 4) __builtin_memcpy(to + i, &word, 4);
}

// Up to sixteen words, or bytes.
static inline void copy_words(uint8_t* to, const uint8_t* from, int64_t count) {
  if (count == kLanes) {
    __builtin_memcpy(to, from, kRowBytes);
    return;
  }
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_epi32(to, mask, _mm512_maskz_loadu_epi32(mask, from));
#else
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i * 4, from + i * 4, 4);
#endif
}

static inline void copy_bytes(uint8_t* to, const uint8_t* from, int64_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  _mm_mask_storeu_epi8(to, mask, _mm_maskz_loadu_epi8(mask, from));
#else
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
#endif
}

// Up to sixty-four bytes.
static inline void copy_part(uint8_t* to, const uint8_t* from, int64_t bytes) {
  copy_words(to, from, bytes / 4);
  copy_bytes(to + bytes / 4 * 4, from + bytes / 4 * 4, bytes % 4);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
