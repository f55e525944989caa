// Averages over whole images, with lanes that may be pixels or images.
#include "kernels/lanes/doubles.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

constexpr int64_t kGroup = 16;    // channels summed up together
constexpr int64_t kPartial = 16;  // blocks summed as floats before they join the doubles
constexpr int kParts = kLanes / kWidth;

// Consecutive blocks of which the same lanes count; anything may lie in the others.
struct Span {
  const uint8_t* first;
  int64_t block_bytes, count;
  uint32_t lanes;  // a bit for each
};

// Bits to keep.
Words mask_of(uint32_t lanes, int part) {
  Words mask;
  for (int i = 0; i < kWidth; ++i) mask[i] = lanes >> (part * kWidth + i) & 1u ? 0xFFFFFFFFu : 0u;
  return mask;
}

// Lanes of one channel.
Floats value_at(Element element, const uint8_t* block, int64_t channel, int part, Words mask) {
  if (element == Element::F32) {
    return reinterpret_cast<Floats>(load_words(block + channel * kRowBytes + part * 4 * kWidth) & mask);
  }
  const Words words = load_words(block + channel / 4 * kRowBytes + part * 4 * kWidth);
  return floats(reinterpret_cast<Ints>(words >> static_cast<uint32_t>(channel % 4 * 8) & 255u & mask));
}

// Adds the sum of channel first + i over each lane's positions to totals[i][lane]. `kElement` is that of the span.
template <Element kElement>
void add_up(const Span& span, int64_t first, int64_t channels, double (*totals)[kLanes]) {
  for (int part = 0; part < kParts; ++part) {
    const Words mask = mask_of(span.lanes, part);
    for (int64_t i = 0; i < channels; ++i) {
      Doubles sum;
      __builtin_memcpy(&sum, totals[i] + part * kWidth, sizeof sum);
      for (int64_t block = 0; block < span.count;) {
        const int64_t stop = span.count - block < kPartial ? span.count : block + kPartial;
        Floats partial = Floats{};
        for (; block < stop; ++block) {
          partial += value_at(kElement, span.first + block * span.block_bytes, first + i, part, mask);
        }
        sum = sum + doubles(partial);
      }
      __builtin_memcpy(totals[i] + part * kWidth, &sum, sizeof sum);
    }
  }
}

// The spans of one image whose lanes are pixels, or of all images whose tiles go side by side.
class Spans {
 public:
  Spans(const Layout& in, const void* blocks)
      : in_(in), blocks_(static_cast<const uint8_t*>(blocks)), block_bytes_(rows_of(in) * kRowBytes) {}

  template <class Body>
  void of_image(int64_t image, const Body& body) const {
    const int64_t begin = image * in_.h * in_.w, end = begin + in_.h * in_.w;
    const int64_t first = begin / kLanes, last = (end - 1) / kLanes;
    const uint32_t from = kAll << (begin - first * kLanes), upto = kAll >> (last * kLanes + kLanes - end);
    if (first == last) {
      body(span(first, 1, from & upto));
      return;
    }
    body(span(first, 1, from & kAll));
    if (last - first > 1) body(span(first + 1, last - first - 1, kAll));
    body(span(last, 1, upto));
  }

  template <class Body>
  void of_group(int64_t group, const Body& body) const {
    const Layout::Grid& grid = in_.grid;
    const int64_t tile_h = (in_.h + grid.down - 1) / grid.down, tile_w = (in_.w + grid.across - 1) / grid.across;
    if (tile_h * grid.down == in_.h && tile_w * grid.across == in_.w) {
      body(span(group * tile_h * tile_w, tile_h * tile_w, kAll));
      return;
    }
    for (int64_t y = 0; y < tile_h; ++y) {
      for (int64_t x = 0; x < tile_w; ++x) {
        uint32_t lanes = 0;
        for (int64_t tile = 0; tile < grid.down * grid.across; ++tile) {
          const bool inside = tile / grid.across * tile_h + y < in_.h && tile % grid.across * tile_w + x < in_.w;
          lanes |= inside ? 1u << tile : 0u;
        }
        for (int64_t image = 1; image < grid.images; ++image) lanes |= lanes << (grid.down * grid.across);
        body(span((group * tile_h + y) * tile_w + x, 1, lanes & kAll));
      }
    }
  }

 private:
  static constexpr uint32_t kAll = 0xFFFF;

  Span span(int64_t first, int64_t count, uint32_t lanes) const {
    return {blocks_ + first * block_bytes_, block_bytes_, count, lanes};
  }

  const Layout& in_;
  const uint8_t* blocks_;
  int64_t block_bytes_;
};

// Where averages go: one lane of one block.
class Target {
 public:
  Target(const Layout& out, const Quantization& from, const Quantization& to, void* result)
      : element_(out.element), from_(from), to_(to), rows_(rows_of(out)), result_(static_cast<uint8_t*>(result)) {}

  void put(int64_t image, int64_t channel, double average) const {
    uint8_t* block = result_ + image / kLanes * rows_ * kRowBytes + image % kLanes * 4;
    if (element_ == Element::F32) {
      const float value = static_cast<float>(average);
      __builtin_memcpy(block + channel * kRowBytes, &value, sizeof value);
    } else {
      block[channel / 4 * kRowBytes + channel % 4] = quantized(average);
    }
  }

  // The lanes behind the last image: nobody reads them, but what is computed from them should take no odd paths.
  void clear(int64_t image) const {
    const auto zero = static_cast<uint32_t>(element_ == Element::F32 ? 0 : to_.zero_point) * 0x01010101u;
    for (; image % kLanes != 0; ++image) {
      uint8_t* lane = result_ + image / kLanes * rows_ * kRowBytes + image % kLanes * 4;
      for (int64_t row = 0; row < rows_; ++row) __builtin_memcpy(lane + row * kRowBytes, &zero, sizeof zero);
    }
  }

 private:
  uint8_t quantized(double average) const {
    const double real = static_cast<double>(from_.scale) * (average - from_.zero_point);
    double steps = real / static_cast<double>(to_.scale);
    if (!(steps > -to_.zero_point)) steps = -to_.zero_point;
    if (steps > 255 - to_.zero_point) steps = 255 - to_.zero_point;
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: half to even
    return static_cast<uint8_t>(static_cast<int>((steps + kRound) - kRound) + to_.zero_point);
  }

  Element element_;
  Quantization from_, to_;
  int64_t rows_;
  uint8_t* result_;
};

}  // namespace

void global_average(const Layout& in, const void* blocks, const Quantization& from, const Quantization& to,
                    const Layout& out, int64_t first_image, int64_t last_image, void* result) {
  const Target target(out, from, to, result);
  const Spans spans(in, blocks);
  const bool tiles = in.lanes == Layout::Tiles;
  const int64_t side_by_side = tiles ? in.grid.images : 1, lanes = tiles ? in.grid.down * in.grid.across : kLanes;
  const int64_t rows = rows_of(in), channels = in.element == Element::F32 ? rows : rows * 4;
  const double share = 1.0 / static_cast<double>(in.h * in.w);
  double totals[kGroup][kLanes];
  for (int64_t image = first_image; image < last_image;) {
    const int64_t group = image / side_by_side, all = (group + 1) * side_by_side;
    const int64_t next = all < last_image ? all : last_image;
    for (int64_t first = 0; first < channels; first += kGroup) {
      const int64_t count = channels - first < kGroup ? channels - first : kGroup;
      __builtin_memset(totals, 0, sizeof totals);
      const auto add = [&](const Span& span) {
        if (in.element == Element::F32) {
          add_up<Element::F32>(span, first, count, totals);
        } else {
          add_up<Element::Q8>(span, first, count, totals);
        }
      };
      if (tiles) {
        spans.of_group(group, add);
      } else {
        spans.of_image(image, add);
      }
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t n = image; n < next; ++n) {
          double total = 0.0;
          for (int64_t lane = 0; lane < lanes; ++lane) total += totals[i][n % side_by_side * lanes + lane];
          target.put(n, first + i, total * share);
        }
      }
    }
    image = next;
  }
  if (last_image == in.n) target.clear(last_image);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
