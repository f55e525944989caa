// Averages over whole images, with lanes that may be pixels or images.
#include "kernels/lanes/doubles.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

constexpr int64_t kGroup = 16;    // channels summed up together
constexpr int64_t kPartial = 16;  // blocks summed as floats before they join the doubles
constexpr int kParts = kLanes / kWidth;

// Positions [begin, end) of consecutive blocks, sixteen to a block; anything may lie in the others.
struct Span {
  const uint8_t* blocks;
  int64_t block_bytes, begin, end;
};

// Bits to keep of lanes [begin, end).
Words lanes_between(int64_t begin, int64_t end, int part) {
  Words mask;
  for (int i = 0; i < kWidth; ++i) {
    const int lane = part * kWidth + i;
    mask[i] = lane >= begin && lane < end ? 0xFFFFFFFFu : 0u;
  }
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

// totals[i][lane]: sum of channel first + i over the lane's positions. `kElement` is that of the span.
template <Element kElement>
void add_up(const Span& span, int64_t first, int64_t channels, double (*totals)[kLanes]) {
  const int64_t begin = span.begin / kLanes, last = (span.end - 1) / kLanes;
  for (int part = 0; part < kParts; ++part) {
    const Words first_mask = lanes_between(span.begin - begin * kLanes, span.end - begin * kLanes, part);
    const Words last_mask = lanes_between(0, span.end - last * kLanes, part);
    for (int64_t i = 0; i < channels; ++i) {
      const auto at = [&](int64_t block, Words mask) {
        return value_at(kElement, span.blocks + block * span.block_bytes, first + i, part, mask);
      };
      Doubles sum = doubles(at(begin, first_mask));
      if (last > begin) sum = sum + doubles(at(last, last_mask));
      for (int64_t block = begin + 1; block < last;) {
        const int64_t stop = last - block < kPartial ? last : block + kPartial;
        Floats partial = Floats{};
        for (; block < stop; ++block) partial += at(block, ~Words{});
        sum = sum + doubles(partial);
      }
      __builtin_memcpy(totals[i] + part * kWidth, &sum, sizeof sum);
    }
  }
}

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
  const bool side_by_side = in.lanes == Layout::Images;
  const int64_t rows = rows_of(in), pixels = in.h * in.w;
  const int64_t channels = in.element == Element::F32 ? rows : rows * 4;
  const double share = 1.0 / static_cast<double>(pixels);
  const auto* bytes = static_cast<const uint8_t*>(blocks);
  double totals[kGroup][kLanes];
  for (int64_t image = first_image; image < last_image;) {
    const int64_t group = image / kLanes;
    Span span{bytes, rows * kRowBytes, image * pixels, (image + 1) * pixels};
    int64_t next = image + 1;
    if (side_by_side) {
      span.begin = group * pixels * kLanes;
      span.end = span.begin + pixels * kLanes;
      next = (group + 1) * kLanes < last_image ? (group + 1) * kLanes : last_image;
    }
    for (int64_t first = 0; first < channels; first += kGroup) {
      const int64_t count = channels - first < kGroup ? channels - first : kGroup;
      if (in.element == Element::F32) {
        add_up<Element::F32>(span, first, count, totals);
      } else {
        add_up<Element::Q8>(span, first, count, totals);
      }
      for (int64_t i = 0; i < count; ++i) {
        if (side_by_side) {
          for (int64_t n = image; n < next; ++n) target.put(n, first + i, totals[i][n % kLanes] * share);
        } else {
          for (int64_t half = kLanes / 2; half > 0; half /= 2) {
            for (int64_t lane = 0; lane < half; ++lane) totals[i][lane] += totals[i][lane + half];
          }
          target.put(image, first + i, totals[i][0] * share);
        }
      }
    }
    image = next;
  }
  if (last_image == in.n) target.clear(last_image);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
