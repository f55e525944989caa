// What turns the sums of eight-bit products into values, and floats into bytes and back.
#include "kernels/lanes/activation.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

// Real numbers of the vector of sums at (channel, lane), before the activation.
class Reals {
 public:
  Reals(const int32_t* sums, const Finish& how)
      : sums_(sums),
        how_(how),
        rounding_(how.rounding ? *how.rounding : Quantization()),
        step_(how.rounding ? how.rounding->scale : 1.0f),
        residual_(how.residual_from) {}

  Floats operator()(int64_t channel, int64_t lane) const {
    Floats value = floats(load_ints(sums_ + channel * kLanes + lane)) * how_.multiplier[channel] + how_.bias[channel];
    if (how_.rounding) value = rounding_(value) * step_ + how_.shift[channel];
    if (!how_.residual) return value;
    if (how_.residual_element == Element::F32) {
      return value + load_floats(static_cast<const float*>(how_.residual) + channel * kLanes + lane);
    }
    const uint8_t* row = static_cast<const uint8_t*>(how_.residual) + channel / 4 * kRowBytes;
    return value + residual_(load_words(row + lane * 4), static_cast<int>(channel % 4));
  }

 private:
  const int32_t* sums_;
  const Finish how_;  // of its own, so that what is stored cannot change it
  Rounding rounding_;
  float step_;
  Dequantizer residual_;
};

// Q8 rows of value(channel, lane).
template <class Value>
void quantize_channels(int64_t channels, const Quantization& to, const Value& value, uint8_t* out) {
  const Quantizer quantized(to);
  const Words zero_point = Words{} + static_cast<uint32_t>(to.zero_point);
  for (int64_t channel = 0; channel < channels; channel += 4) {
    for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
      Words words = Words{};
      for (int i = 0; i < 4; ++i) {
        words |= (channel + i < channels ? quantized(value(channel + i, lane)) : zero_point) << (8 * i);
      }
      store(out + channel / 4 * kRowBytes + lane * 4, words);
    }
  }
}

// Functions that do not fit into the registers together with what comes before and behind them.
template <class Function>
constexpr bool kIsLong = false;
template <>
constexpr bool kIsLong<Sigmoid> = true;
template <>
constexpr bool kIsLong<Gelu> = true;
template <>
constexpr bool kIsLong<GeluTanh> = true;

constexpr int64_t kStretch = 16;  // channels

template <class Function>
void store_numbers(const Reals& real, const Function& function, int64_t first, int64_t count, float* out) {
  for (int64_t channel = 0; channel < count; ++channel) {
    for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
      store(out + channel * kLanes + lane, function(real(first + channel, lane)));
    }
  }
}

}  // namespace

void finish(const int32_t* sums, int64_t outputs, const Finish& how, float* out) {
  const Reals real(sums, how);
  with_function(how.activation, [&](auto function) { store_numbers(real, function, 0, outputs, out); });
}

void finish_q8(const int32_t* sums, int64_t outputs, const Finish& how, const Quantization& to, uint8_t* out) {
  const Reals real(sums, how);
  with_function(how.activation, [&](auto function) {
    if constexpr (kIsLong<decltype(function)>) {
      alignas(64) float numbers[kStretch * kLanes];
      for (int64_t first = 0; first < outputs; first += kStretch) {
        const int64_t count = outputs - first < kStretch ? outputs - first : kStretch;
        store_numbers(real, function, first, count, numbers);
        quantize(numbers, count, to, out + first / 4 * kRowBytes);
      }
    } else {
      quantize_channels(outputs, to, [&](int64_t channel, int64_t lane) { return function(real(channel, lane)); }, out);
    }
  });
}

void quantize(const float* in, int64_t channels, const Quantization& to, uint8_t* out) {
  quantize_channels(
      channels, to, [=](int64_t channel, int64_t lane) { return load_floats(in + channel * kLanes + lane); }, out);
}

void dequantize(const uint8_t* in, const Quantization& from, int64_t channels, float* out) {
  const Dequantizer real(from);
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
      const Words words = load_words(in + channel / 4 * kRowBytes + lane * 4);
      store(out + channel * kLanes + lane, real(words, static_cast<int>(channel % 4)));
    }
  }
}

}  // namespace SPARSE_ISA
}  // namespace sparse
