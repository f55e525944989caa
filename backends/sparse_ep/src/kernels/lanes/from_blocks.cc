// Blocks to the model's own storage: to_blocks.cc the other way round.
#include "kernels/lanes/outer.h"
#include "kernels/lanes/square.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

class Export {
 public:
  Export(const Outer& outer, const uint8_t* blocks, uint8_t* model)
      : outer_(outer), blocks_(blocks), model_(model), nothing_(row_of(0)), flip_(row_of(outer.flip)) {}

  void channels_side_by_side(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    const int64_t bytes = outer_.channels * outer_.size;
    Row square[kLanes];
    for (int64_t begin = 0; begin < bytes; begin += kRowBytes) {
      const int64_t width = bytes - begin < kRowBytes ? bytes - begin : kRowBytes;
      take_square(block_at(block) + begin / 4 * kRowBytes, kRowBytes, (width + 3) / 4, square);
      for (int i = 0; i < lanes.count; ++i) {
        uint8_t* to = model_ + lanes.offset[i] + begin;
        put(square[i], to, width / 4);
        if (width % 4 == 0) continue;
        put(square[i], buffer_, kLanes);
        copy_bytes(to + width / 4 * 4, buffer_ + width / 4 * 4, width % 4);
      }
    }
  }

  void tiles(int64_t block, const Piece& piece) {
    const int64_t stride = outer_.rows * kRowBytes;
    Row square[kLanes];
    for (int64_t row = 0; row < outer_.rows; ++row) {
      take_square(block_at(block) + row * kRowBytes, stride, piece.count, square);
      if (outer_.bytes) {
        for (int i = 0; i < kLanes; ++i) {
          uint8_t* planes[4];
          const int64_t channels = set_planes(model_ + row * 4 * outer_.channel + piece.offset[i], row, planes);
          put_planes(square[i], planes, channels, piece.width[i]);
        }
      } else {
        uint8_t* first = model_ + row * outer_.channel;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          put(square[i], first + piece.offset[i], piece.width[i]);
          __builtin_prefetch(first + piece.offset[i] + kAhead, 1);
        }
      }
    }
  }

  int64_t planes(int64_t block, int64_t last) {
    const int64_t whole = whole_blocks(outer_, block, last);
    if (whole == 0) {
      outer_.bytes ? pieces_of_bytes(block) : pieces_of_floats(block);
      return 1;
    }
    const int64_t pixel = block * kLanes, step = outer_.rows * kRowBytes;
    uint8_t* to = model_ + pixel / outer_.pixels * outer_.image + pixel % outer_.pixels * outer_.size;
    for (int64_t row = 0; row < outer_.rows; ++row) {
      const uint8_t* from = block_at(block) + row * kRowBytes;
      if (outer_.bytes) {
        uint8_t* planes[4];
        const int64_t channels = set_planes(to + row * 4 * outer_.channel, row, planes);
        for (int64_t i = 0; i < whole; ++i) {
          Row words = row_at(from + i * step, kLanes, nothing_);
          flip_bits(words, flip_);
          put_planes(words, planes, channels, kLanes);
          for (int64_t j = 0; j < channels; ++j) planes[j] += kLanes;
        }
      } else {
        uint8_t* plane = to + row * outer_.channel;
        for (int64_t i = 0; i < whole; ++i) copy_words(plane + i * kRowBytes, from + i * step, kLanes);
      }
    }
    return whole;
  }

 private:
  const uint8_t* block_at(int64_t block) const { return blocks_ + block * outer_.rows * kRowBytes; }

  void pieces_of_floats(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
      const uint8_t* from = block_at(block) + lane * 4;
      uint8_t* to = model_ + lanes.offset[lane];
      for (int64_t channel = 0; channel < outer_.channels; ++channel) {
        copy_words(to + channel * outer_.channel, from + channel * kRowBytes, lanes.run[lane]);
      }
    }
  }

  void pieces_of_bytes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    alignas(64) uint8_t pieces[4][kLanes];
    uint8_t* const all[4] = {pieces[0], pieces[1], pieces[2], pieces[3]};
    for (int64_t row = 0; row < outer_.rows; ++row) {
      uint8_t* planes[4];
      const int64_t channels = set_planes(model_ + row * 4 * outer_.channel, row, planes);
      Row words = row_at(block_at(block) + row * kRowBytes, kLanes, nothing_);
      flip_bits(words, flip_);
      put_planes(words, all, channels, kLanes);
      for (int64_t i = 0; i < channels; ++i) {
        for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
          copy_bytes(planes[i] + lanes.offset[lane], pieces[i] + lane, lanes.run[lane]);
        }
      }
    }
  }

  // The planes of the channels of a row, and how many there are.
  int64_t set_planes(uint8_t* first, int64_t row, uint8_t** planes) const {
    const int64_t left = outer_.channels - row * 4, channels = left < 4 ? left : 4;
    for (int64_t i = 0; i < channels; ++i) planes[i] = first + i * outer_.channel;
    return channels;
  }

  // `count` rows, `stride` apart, become sixteen lanes of as many words.
  void take_square(const uint8_t* from, int64_t stride, int64_t count, Row (&square)[kLanes]) const {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      square[i] = i < count ? row_at(from + i * stride, kLanes, nothing_) : nothing_;
      flip_bits(square[i], flip_);
    }
    transpose(square);
  }

  const Outer& outer_;
  const uint8_t* blocks_;
  uint8_t* model_;
  const Row nothing_, flip_;
  alignas(64) uint8_t buffer_[kRowBytes];
};

}  // namespace

void from_blocks(const Layout& layout, const Strides& strides, const void* blocks, bool is_signed, int64_t first,
                 int64_t last, void* outer) {
  const Outer tensor = outer_of(layout, strides, is_signed, 0);
  Export result(tensor, static_cast<const uint8_t*>(blocks), static_cast<uint8_t*>(outer));
  convert(tensor, first, last, result);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
