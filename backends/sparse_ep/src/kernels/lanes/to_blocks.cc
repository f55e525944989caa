// Blocks from the model's own storage.
//
// Where the model keeps channels side by side (tokens), or pixels that become different blocks (lanes that go through
// tiles of images), words go through 16 x 16 transposition; where sixteen pixels are a row already, they are copied, or
// interleaved if bytes.
#include "kernels/lanes/outer.h"
#include "kernels/lanes/square.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

class Import {
 public:
  Import(const Outer& outer, const uint8_t* model, uint8_t* blocks)
      : outer_(outer), model_(model), blocks_(blocks), fill_(row_of(outer.fill)), flip_(row_of(outer.flip)) {
    put(fill_, fills_, kLanes);
  }

  // Tokens: squares of sixteen lanes by sixty-four bytes of channels.
  void channels_side_by_side(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    const int64_t bytes = outer_.channels * outer_.size;
    Row square[kLanes];
    for (int64_t begin = 0; begin < bytes; begin += kRowBytes) {
      const int64_t width = bytes - begin < kRowBytes ? bytes - begin : kRowBytes;
      for (int i = 0; i < kLanes; ++i) {
        const uint8_t* from = i < lanes.count ? model_ + lanes.offset[i] + begin : fills_;
        if (i < lanes.count && width < kRowBytes) {
          put(fill_, buffer_, kLanes);
          copy_words(buffer_, from, width / 4);
          copy_bytes(buffer_ + width / 4 * 4, from + width / 4 * 4, width % 4);
          from = buffer_;
        }
        square[i] = row_at(from, kLanes, fill_);
      }
      put_square(square, block_at(block) + begin / 4 * kRowBytes, kRowBytes, (width + 3) / 4);
    }
  }

  // Lanes that go through tiles: squares of sixteen lanes by sixteen pixels.
  void tiles(int64_t block, const Piece& piece) {
    const int64_t stride = outer_.rows * kRowBytes;
    Row square[kLanes];
    for (int64_t row = 0; row < outer_.rows; ++row) {
      if (outer_.bytes) {
        for (int i = 0; i < kLanes; ++i) {
          const uint8_t* planes[4];
          set_planes(model_ + row * 4 * outer_.channel + piece.offset[i], row, planes);
          square[i] = planes_at(planes, piece.width[i], fill_);
        }
      } else {
        const uint8_t* first = model_ + row * outer_.channel;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          square[i] = row_at(first + piece.offset[i], piece.width[i], fill_);
          __builtin_prefetch(first + piece.offset[i] + kAhead);
        }
      }
      put_square(square, block_at(block) + row * kRowBytes, stride, piece.count);
    }
  }

  // Pixels as lanes: rows are pieces of planes. How many blocks were made.
  int64_t planes(int64_t block, int64_t last) {
    const int64_t whole = whole_blocks(outer_, block, last);
    if (whole == 0) {
      outer_.bytes ? pieces_of_bytes(block) : pieces_of_floats(block);
      return 1;
    }
    // Blocks of a plane one after the other, so that the planes are read in longer pieces.
    const int64_t pixel = block * kLanes, step = outer_.rows * kRowBytes;
    const uint8_t* from = model_ + pixel / outer_.pixels * outer_.image + pixel % outer_.pixels * outer_.size;
    for (int64_t row = 0; row < outer_.rows; ++row) {
      uint8_t* to = block_at(block) + row * kRowBytes;
      if (outer_.bytes) {
        const uint8_t* planes[4];
        set_planes(from + row * 4 * outer_.channel, row, planes);
        for (int64_t i = 0; i < whole; ++i) {
          Row words = planes_at(planes, kLanes, fill_);
          flip_bits(words, flip_);
          put(words, to + i * step, kLanes);
          for (int j = 0; j < 4; ++j) planes[j] += planes[j] == fills_ ? 0 : kLanes;
        }
      } else {
        const uint8_t* plane = from + row * outer_.channel;
        for (int64_t i = 0; i < whole; ++i) copy_words(to + i * step, plane + i * kRowBytes, kLanes);
      }
    }
    return whole;
  }

 private:
  uint8_t* block_at(int64_t block) const { return blocks_ + block * outer_.rows * kRowBytes; }

  void pieces_of_floats(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    for (int64_t row = 0; row < outer_.rows && lanes.count < kLanes; ++row) {
      put(fill_, block_at(block) + row * kRowBytes, kLanes);
    }
    for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
      const uint8_t* from = model_ + lanes.offset[lane];
      uint8_t* to = block_at(block) + lane * 4;
      for (int64_t channel = 0; channel < outer_.channels; ++channel) {
        copy_words(to + channel * kRowBytes, from + channel * outer_.channel, lanes.run[lane]);
      }
    }
  }

  void pieces_of_bytes(int64_t block) {
    const Lanes lanes = lanes_of(outer_, block);
    alignas(64) uint8_t pieces[4][kLanes];
    for (int64_t row = 0; row < outer_.rows; ++row) {
      const uint8_t* planes[4];
      set_planes(model_ + row * 4 * outer_.channel, row, planes);
      for (int i = 0; i < 4; ++i) {
        if (planes[i] == fills_) continue;
        copy_bytes(pieces[i], fills_, kLanes);
        for (int lane = 0; lane < lanes.count; lane += lanes.run[lane]) {
          copy_bytes(pieces[i] + lane, planes[i] + lanes.offset[lane], lanes.run[lane]);
        }
        planes[i] = pieces[i];
      }
      Row words = planes_at(planes, kLanes, fill_);
      flip_bits(words, flip_);
      put(words, block_at(block) + row * kRowBytes, kLanes);
    }
  }

  // The planes of four channels, or the fill where there is no channel.
  void set_planes(const uint8_t* first, int64_t row, const uint8_t** planes) const {
    for (int i = 0; i < 4; ++i) planes[i] = row * 4 + i < outer_.channels ? first + i * outer_.channel : fills_;
  }

  // Sixteen lanes of `count` words become as many rows, `stride` apart.
  void put_square(Row (&square)[kLanes], uint8_t* to, int64_t stride, int64_t count) const {
    transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i >= count) break;
      flip_bits(square[i], flip_);
      put(square[i], to + i * stride, kLanes);
    }
  }

  const Outer& outer_;
  const uint8_t* model_;
  uint8_t* blocks_;
  const Row fill_, flip_;
  alignas(64) uint8_t fills_[kRowBytes];
  alignas(64) uint8_t buffer_[kRowBytes];
};

}  // namespace

void to_blocks(const Layout& layout, const Strides& strides, const void* outer, bool is_signed, uint32_t fill,
               int64_t first, int64_t last, void* blocks) {
  const Outer tensor = outer_of(layout, strides, is_signed, fill);
  Import import(tensor, static_cast<const uint8_t*>(outer), static_cast<uint8_t*>(blocks));
  convert(tensor, first, last, import);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
