// Blocks to the model's own storage: to_blocks.cc the other way round.
#include "kernels/lanes/outer.h"
#include "kernels/lanes/tile.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

class Export {
 public:
  Export(const Outer& outer, const uint8_t* blocks, uint8_t* model) : outer_(outer), blocks_(blocks), model_(model) {}

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
  const uint8_t* row_at(int64_t block, int64_t row) const { return blocks_ + (block * outer_.rows + row) * kRowBytes; }

  void channels_side_by_side(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    const int64_t bytes = outer_.channels * outer_.size;
    const uint8_t* rows[kLanes];
    uint8_t* out[kLanes];
    for (int64_t begin = 0; begin < bytes; begin += kRowBytes) {
      const int64_t row = begin / 4, count = outer_.rows - row < kLanes ? outer_.rows - row : kLanes;
      for (int i = 0; i < count; ++i) rows[i] = row_at(block, row + i);
      for (int i = 0; i < lanes.count; ++i) out[i] = model_ + lanes.offset[i] + begin;
      tile(rows, count, out, lanes.count, bytes - begin < kRowBytes ? bytes - begin : kRowBytes);
    }
  }

  void images_side_by_side(int64_t first, int64_t last) {
    const int64_t image = first / outer_.pixels * kLanes;
    const int count = static_cast<int>(outer_.images - image < kLanes ? outer_.images - image : kLanes);
    const uint8_t* rows[kLanes];
    uint8_t* out[kLanes];
    for (int64_t block = first; block < last; block += kLanes) {
      if (last - block < kLanes && last - first >= kLanes) block = last - kLanes;
      Lanes pixels;
      pixels.add(0, outer_.size, outer_.size, last - block);
      uint8_t* corner = model_ + image * outer_.image + block % outer_.pixels * outer_.position;
      for (int64_t row = 0; row < outer_.rows; ++row) {
        for (int i = 0; i < pixels.count; ++i) rows[i] = row_at(block + i, row);
        if (outer_.bytes) {
          alignas(64) uint8_t words[kLanes][kRowBytes];
          for (int i = 0; i < count; ++i) out[i] = words[i];
          tile(rows, pixels.count, out, count, kRowBytes);
          for (int i = 0; i < count; ++i) four_planes(words[i], row, pixels, 0, corner + i * outer_.image);
        } else {
          for (int i = 0; i < count; ++i) out[i] = corner + i * outer_.image + row * outer_.channel;
          tile(rows, pixels.count, out, count, pixels.count * 4);
        }
      }
    }
  }

  void float_planes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
      const uint8_t* from = row_at(block, 0) + lane * 4;
      uint8_t* to = model_ + lanes.offset[lane];
      for (int64_t channel = 0; channel < outer_.channels; ++channel) {
        copy_words(to + channel * outer_.channel, from + channel * kRowBytes, lanes.run[lane]);
      }
    }
  }

  void byte_planes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    for (int64_t row = 0; row < outer_.rows; ++row) four_planes(row_at(block, row), row, lanes, outer_.flip, model_);
  }

  void four_planes(const uint8_t* from, int64_t row, const Lanes& lanes, uint32_t flip, uint8_t* to) {
    uint8_t* planes[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t channel = row * 4 + i;
      const bool direct = lanes.whole() && channel < outer_.channels;
      planes[i] = direct ? to + channel * outer_.channel + lanes.offset[0] : buffer_[i];
    }
    separate(from, flip, planes);
    if (lanes.whole()) return;
    for (int i = 0; i < 4 && row * 4 + i < outer_.channels; ++i) {
      uint8_t* plane = to + (row * 4 + i) * outer_.channel;
      for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
        copy_bytes(plane + lanes.offset[lane], buffer_[i] + lane, lanes.run[lane]);
      }
    }
  }

  // `row_count` rows of blocks become `count` rows of `width` bytes in the model's storage.
  void tile(const uint8_t* const* rows, int64_t row_count, uint8_t* const* out, int count, int64_t width) {
    const uint8_t* from[kLanes];
    uint8_t* to[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      from[i] = rows[i < row_count ? i : 0];
      to[i] = i < count && width == kRowBytes ? out[i] : buffer_[i];
    }
    transpose(from, outer_.flip, to);
    for (int i = 0; i < count && width < kRowBytes; ++i) copy_part(out[i], buffer_[i], width);
  }

  const Outer& outer_;
  const uint8_t* blocks_;
  uint8_t* model_;
  alignas(64) uint8_t buffer_[kLanes][kRowBytes];
};

}  // namespace

void from_blocks(const Layout& layout, const Strides& strides, const void* blocks, bool is_signed, int64_t first,
                 int64_t last, void* outer) {
  const Outer tensor = outer_of(layout, strides, is_signed, 0);
  Export(tensor, static_cast<const uint8_t*>(blocks), static_cast<uint8_t*>(outer)).run(first, last);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
