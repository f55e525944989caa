// How activations are stored between layers: in blocks of sixteen positions.
//
// A position is a pixel of an image, or a token. A tensor is [blocks][rows][64 bytes]: a row is one channel (F32) or
// four channels (Q8, channel 4r+j of lane l at byte 4l+j) of the sixteen positions of a block. So a row is one AVX-512
// register whatever the element, and one nonzero weight (or one quad of eight-bit weights) is one instruction on it.
#pragma once

#include <cstdint>

#include "core/element.h"

namespace sparse {

constexpr int64_t kLanes = 16;
constexpr int64_t kRowBytes = 64;

struct Layout {
  // Pixels: position p = (n*h + y)*w + x is lane p%16 of block p/16; one image after the other.
  // Tiles: every lane goes through a tile of an image, all in step, so that a window's neighbours are other blocks'
  // same lanes. images * down * across lanes are in use: images side by side, each cut into down * across tiles.
  enum Lanes : uint8_t { Pixels, Tiles } lanes = Pixels;
  Element element = Element::F32;
  int64_t n = 1, h = 1, w = 1;  // tokens: n = h = 1, w = number of tokens
  int64_t channels = 0;
  struct Grid {
    int64_t images = 16, down = 1, across = 1;
    int64_t lanes() const { return images * down * across; }
    bool operator==(const Grid& other) const {
      return images == other.images && down == other.down && across == other.across;
    }
  } grid;  // of Tiles

  int64_t rows() const { return element == Element::F32 ? channels : (channels + 3) / 4; }
  int64_t tile_h() const { return (h + grid.down - 1) / grid.down; }
  int64_t tile_w() const { return (w + grid.across - 1) / grid.across; }
  int64_t tile_blocks() const { return tile_h() * tile_w(); }  // of images side by side, one after the other
  int64_t blocks() const {
    if (lanes == Pixels) return (n * h * w + kLanes - 1) / kLanes;
    return (n + grid.images - 1) / grid.images * tile_blocks();
  }
  int64_t block_bytes() const { return rows() * kRowBytes; }
  int64_t bytes() const { return blocks() * block_bytes(); }
};

// Where the model keeps the same tensor: NCHW images (channel_stride = h*w, position_stride = 1) or tokens by rows
// (channel_stride = 1, position_stride = channels). Strides are in elements.
struct Strides {
  int64_t image = 0, channel = 0, position = 0;
};

}  // namespace sparse
