// A tensor in the model's own storage, and where the lanes of a block lie in it.
#pragma once

#include "kernels/lanes/lanes.h"
#include "kernels/lanes/vector.h"

namespace sparse {
namespace SPARSE_ISA {

// Lanes fetch so many bytes ahead: they are more streams than a processor follows by itself.
constexpr int64_t kAhead = 2 * kRowBytes;

// Sizes and strides in bytes.
struct Outer {
  bool bytes;    // rather than floats
  bool tiles;    // lanes go through tiles of images, of pixels that are neighbours; else lanes are pixels
  int64_t size;  // of an element
  int64_t images, pixels, channels, rows;
  int64_t image, channel, position;  // strides
  uint32_t flip;                     // what int8 differs by
  uint32_t fill;                     // for lanes and channels that are not there; before the flip
  int64_t h, w, tile_h, tile_w;      // of tiles
  Layout::Grid grid;
};

static inline Outer outer_of(const Layout& layout, const Strides& strides, bool is_signed, uint32_t fill) {
  Outer outer;
  outer.bytes = layout.element == Element::Q8;
  outer.size = outer.bytes ? 1 : 4;
  outer.tiles = layout.lanes == Layout::Tiles;
  outer.images = layout.n;
  outer.pixels = layout.h * layout.w;
  outer.channels = layout.channels;
  outer.rows = rows_of(layout);
  outer.image = strides.image * outer.size;
  outer.channel = strides.channel * outer.size;
  outer.position = strides.position * outer.size;
  if (outer.pixels == 1 && !outer.tiles) {  // images of one pixel lie like the pixels of one image
    outer.pixels = layout.n;
    outer.images = 1;
    outer.position = outer.image;
  }
  outer.flip = outer.bytes && is_signed ? 0x80808080u : 0;
  outer.fill = fill ^ outer.flip;
  outer.h = layout.h;
  outer.w = layout.w;
  outer.grid = layout.grid;
  outer.tile_h = (layout.h + layout.grid.down - 1) / layout.grid.down;
  outer.tile_w = (layout.w + layout.grid.across - 1) / layout.grid.across;
  return outer;
}

// Blocks of tiles whose pixels are neighbours in the model's storage too.
struct Stretch {
  int64_t count;           // of blocks
  int64_t offset[kLanes];  // of each lane in the model's storage, at the first block
  int64_t live[kLanes];    // of how many blocks a lane holds something, at most `count`
};

// The one that starts at `block`, and ends before `last` at the latest.
static inline Stretch stretch_of(const Outer& outer, int64_t block, int64_t last) {
  const Layout::Grid& grid = outer.grid;
  const int64_t blocks = outer.tile_h * outer.tile_w, group = block / blocks, at = block % blocks;
  // Tiles as wide as the image are in one piece.
  const int64_t width = grid.across == 1 ? blocks : outer.tile_w;
  const int64_t y = at / outer.tile_w, end = (at / width + 1) * width;
  Stretch stretch;
  stretch.count = end - at < last - block ? end - at : last - block;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int64_t tile = lane % (grid.down * grid.across),
                  image = group * grid.images + lane / (grid.down * grid.across);
    const int64_t tile_y = tile / grid.across * outer.tile_h, x = tile % grid.across * outer.tile_w;
    const int64_t right = x + outer.tile_w < outer.w ? x + outer.tile_w : outer.w;
    const int64_t bottom = tile_y + outer.tile_h < outer.h ? tile_y + outer.tile_h : outer.h;
    const int64_t pixel = (tile_y + y) * outer.w + x + at % outer.tile_w;
    int64_t live = (grid.across == 1 ? bottom * outer.w : (tile_y + y) * outer.w + right) - pixel;
    if (tile_y + y >= bottom || image >= outer.images || lane >= grid.images * grid.down * grid.across) live = 0;
    stretch.offset[lane] = image * outer.image + pixel * outer.position;
    stretch.live[lane] = live < 0 ? 0 : live < stretch.count ? live : stretch.count;
  }
  return stretch;
}

// Up to sixteen blocks of a stretch.
struct Piece {
  int64_t count;
  int64_t offset[kLanes], width[kLanes];  // as in the stretch
};

static inline Piece piece_of(const Outer& outer, const Stretch& stretch, int64_t begin) {
  Piece piece;
  piece.count = stretch.count - begin < kLanes ? stretch.count - begin : kLanes;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t live = stretch.live[lane] - begin;
    piece.offset[lane] = stretch.offset[lane] + begin * outer.size;
    piece.width[lane] = live < 0 ? 0 : live < piece.count ? live : piece.count;
  }
  return piece;
}

struct Lanes {
  int count = 0;
  int64_t offset[kLanes];
  int run[kLanes];  // how many lanes from this one on are neighbours

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
  int64_t image = block * kLanes / outer.pixels, pixel = block * kLanes % outer.pixels;
  for (; lanes.count < kLanes && image < outer.images; ++image) {
    lanes.add(image * outer.image + pixel * outer.position, outer.position, outer.size, outer.pixels - pixel);
    pixel = 0;
  }
  return lanes;
}

// How many blocks from `block` on, but not from `last` on, hold sixteen pixels each that are neighbours in one image.
static inline int64_t whole_blocks(const Outer& outer, int64_t block, int64_t last) {
  constexpr int64_t kMost = 8;
  const int64_t image = block * kLanes / outer.pixels;
  if (outer.position != outer.size || image >= outer.images) return 0;
  const int64_t blocks = ((image + 1) * outer.pixels - block * kLanes) / kLanes;
  const int64_t count = blocks < last - block ? blocks : last - block;
  return count < kMost ? count : kMost;
}

// Blocks [first, last), in one direction or the other.
template <class Conversion>
static inline void convert(const Outer& outer, int64_t first, int64_t last, Conversion& conversion) {
  if (outer.tiles) {
    for (int64_t block = first; block < last;) {
      const Stretch stretch = stretch_of(outer, block, last);
      for (int64_t begin = 0; begin < stretch.count; begin += kLanes) {
        // Rather than a narrow piece, one that overlaps with the piece before.
        if (stretch.count - begin < kLanes && stretch.count >= kLanes) begin = stretch.count - kLanes;
        conversion.tiles(block + begin, piece_of(outer, stretch, begin));
      }
      block += stretch.count;
    }
  } else if (outer.channel == outer.size) {
    for (int64_t block = first; block < last; ++block) conversion.channels_side_by_side(block);
  } else {
    for (int64_t block = first; block < last;) block += conversion.planes(block, last);
  }
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

}  // namespace SPARSE_ISA
}  // namespace sparse
