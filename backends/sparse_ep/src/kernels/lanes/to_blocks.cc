// Blocks from the model's own storage.
//
// Where the model keeps channels side by side (tokens), or pixels that become different blocks (images as lanes), words
// go through 16 x 16 transposition; where sixteen pixels are a row already, they are copied, or interleaved if bytes.
// What does not fill a tile goes through a buffer of the tile's size.
#include "kernels/lanes/outer.h"
#include "kernels/lanes/tile.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

class Import {
 public:
  Import(const Outer& outer, const uint8_t* model, uint8_t* blocks) : outer_(outer), model_(model), blocks_(blocks) {
    set_words(fill_, kRowBytes, outer.fill);
  }

  void run(int64_t first, int64_t last) {
    if (outer_.channel == outer_.size) {
      for (int64_t block = first; block < last; ++block) channels_side_by_side(block);
    } else if (outer_.position == outer_.size && outer_.side_by_side) {
      for (int64_t block = first; block < last;) {
        const int64_t end = (block / outer_.pixels + 1) * outer_.pixels;
        images_side_by_side(block, end < last ? end : last);
        block = end;
      }
    } else if (outer_.bytes) {
      for (int64_t block = first; block < last; ++block) byte_planes(block);
    } else {
      for (int64_t block = first; block < last; ++block) float_planes(block);
    }
  }

 private:
  uint8_t* row_at(int64_t block, int64_t row) const { return blocks_ + (block * outer_.rows + row) * kRowBytes; }

  // Tokens: tiles of sixteen lanes by sixty-four bytes of channels.
  void channels_side_by_side(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    const int64_t bytes = outer_.channels * outer_.size;
    const uint8_t* in[kLanes];
    uint8_t* rows[kLanes];
    for (int64_t begin = 0; begin < bytes; begin += kRowBytes) {
      const int64_t row = begin / 4, count = outer_.rows - row < kLanes ? outer_.rows - row : kLanes;
      for (int i = 0; i < lanes.count; ++i) in[i] = model_ + lanes.offset[i] + begin;
      for (int i = 0; i < count; ++i) rows[i] = row_at(block, row + i);
      tile(in, lanes.count, bytes - begin < kRowBytes ? bytes - begin : kRowBytes, rows, count);
    }
  }

  // Images as lanes, blocks of one group of sixteen images: tiles of sixteen images by sixteen pixels.
  void images_side_by_side(int64_t first, int64_t last) {
    const int64_t image = first / outer_.pixels * kLanes;
    const int count = static_cast<int>(outer_.images - image < kLanes ? outer_.images - image : kLanes);
    const uint8_t* in[kLanes];
    uint8_t* rows[kLanes];
    for (int64_t block = first; block < last; block += kLanes) {
      // Rather than a narrow tile, one that overlaps with the tile before.
      if (last - block < kLanes && last - first >= kLanes) block = last - kLanes;
      Lanes pixels;
      pixels.add(0, outer_.size, outer_.size, last - block);
      const uint8_t* corner = model_ + image * outer_.image + block % outer_.pixels * outer_.position;
      for (int64_t row = 0; row < outer_.rows; ++row) {
        for (int i = 0; i < pixels.count; ++i) rows[i] = row_at(block + i, row);
        if (outer_.bytes) {
          alignas(64) uint8_t words[kLanes][kRowBytes];  // sixteen pixels of four channels of each image
          for (int i = 0; i < count; ++i) {
            four_planes(corner + i * outer_.image, row, pixels, 0, words[i]);
            in[i] = words[i];
          }
          tile(in, count, kRowBytes, rows, pixels.count);
        } else {
          for (int i = 0; i < count; ++i) in[i] = corner + i * outer_.image + row * outer_.channel;
          tile(in, count, pixels.count * 4, rows, pixels.count);
        }
      }
    }
  }

  // Pixels as lanes: rows of floats are pieces of planes.
  void float_planes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    if (lanes.count < kLanes) set_words(row_at(block, 0), outer_.rows * kRowBytes, outer_.fill);
    for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
      const uint8_t* from = model_ + lanes.offset[lane];
      uint8_t* to = row_at(block, 0) + lane * 4;
      for (int64_t channel = 0; channel < outer_.channels; ++channel) {
        copy_words(to + channel * kRowBytes, from + channel * outer_.channel, lanes.run[lane]);
      }
    }
  }

  void byte_planes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    int64_t row = 0;
    if (lanes.whole()) {
      const int64_t stride = outer_.channel, rows = outer_.channels / 4;
      const uint32_t flip = outer_.flip;
      const uint8_t* from = model_ + lanes.offset[0];
      uint8_t* to = row_at(block, 0);
      for (; row < rows; ++row) {
        const uint8_t* planes[4] = {from, from + stride, from + 2 * stride, from + 3 * stride};
        interleave(planes, flip, to);
        from += 4 * stride;
        to += kRowBytes;
      }
    }
    for (; row < outer_.rows; ++row) four_planes(model_, row, lanes, outer_.flip, row_at(block, row));
  }

  // One row of four channels; `lanes` are relative to `from`.
  void four_planes(const uint8_t* from, int64_t row, const Lanes& lanes, uint32_t flip, uint8_t* to) {
    const uint8_t* planes[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t channel = row * 4 + i;
      const uint8_t* plane = from + channel * outer_.channel;
      if (channel >= outer_.channels) {
        planes[i] = fill_;
      } else if (lanes.whole()) {
        planes[i] = plane + lanes.offset[0];
      } else {
        planes[i] = buffer_[i];
        set_words(buffer_[i], kLanes, outer_.fill);
        for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
          copy_bytes(buffer_[i] + lane, plane + lanes.offset[lane], lanes.run[lane]);
        }
      }
    }
    interleave(planes, flip, to);
  }

  // `count` rows of `width` bytes in the model's storage become `row_count` rows of blocks.
  void tile(const uint8_t* const* in, int count, int64_t width, uint8_t* const* rows, int64_t row_count) {
    const uint8_t* from[kLanes];
    uint8_t* to[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      from[i] = i < count ? in[i] : fill_;
      to[i] = i < row_count ? rows[i] : unwanted_;
      if (width == kRowBytes || i >= count) continue;
      __builtin_memcpy(buffer_[i], fill_, kRowBytes);
      copy_part(buffer_[i], in[i], width);
      from[i] = buffer_[i];
    }
    transpose(from, outer_.flip, to);
  }

  const Outer& outer_;
  const uint8_t* model_;
  uint8_t* blocks_;
  alignas(64) uint8_t fill_[kRowBytes];
  alignas(64) uint8_t unwanted_[kRowBytes];
  alignas(64) uint8_t buffer_[kLanes][kRowBytes];
};

}  // namespace

void to_blocks(const Layout& layout, const Strides& strides, const void* outer, bool is_signed, uint32_t fill,
               int64_t first, int64_t last, void* blocks) {
  const Outer tensor = outer_of(layout, strides, is_signed, fill);
  Import(tensor, static_cast<const uint8_t*>(outer), static_cast<uint8_t*>(blocks)).run(first, last);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
