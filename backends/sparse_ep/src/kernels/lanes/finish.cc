// What turns the sums of eight-bit products into values, and floats into bytes and back.
#include "kernels/lanes/activation.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

// What is added to a vector of channel `part` of four in a row of them, from `lane` on.
struct NoResidual {
  Floats operator()(Floats value, int64_t, int, int64_t) const { return value; }
};

struct FloatResidual {
  const float* rows;
  Floats operator()(Floats value, int64_t row, int part, int64_t lane) const {
    return value + load_floats(rows + (row * 4 + part) * kLanes + lane);
  }
};

struct ByteResidual {
  const uint8_t* rows;
  Dequantizer real;
  Floats operator()(Floats value, int64_t row, int part, int64_t lane) const {
    return value + real(load_words(rows + row * kRowBytes + lane * 4), part);
  }
};

// Q8 rows of value(row, part, lane).
template <class Value>
void quantize_channels(int64_t channels, const Quantization& to, const Value& value, uint8_t* out) {
  const Quantizer quantized(to);
  const Words zero_point = Words{} + static_cast<uint32_t>(to.zero_point);
  for (int64_t row = 0; row * 4 < channels; ++row) {
    const int64_t filled = channels - row * 4;  // channels of this row, or more
    for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
      Words words = Words{};
      for (int part = 0; part < 4; ++part) {
        words |= (part < filled ? quantized(value(row, part, lane)) : zero_point) << (8 * part);
      }
      store(out + row * kRowBytes + lane * 4, words);
    }
  }
}

// Rows of floats of value(row, part, lane).
template <class Value>
void store_channels(int64_t channels, const Value& value, float* out) {
  for (int64_t row = 0; row * 4 < channels; ++row) {
    const int64_t filled = channels - row * 4;
    for (int part = 0; part < 4 && part < filled; ++part) {
      for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
        store(out + (row * 4 + part) * kLanes + lane, value(row, part, lane));
      }
    }
  }
}

// The sums of channels from `first` on as real numbers, the residual added.
template <class Residual>
void store_reals(const int32_t* sums, int64_t first, int64_t channels, const Finish& how, const Residual& residual,
                 float* out) {
  sums += first * kLanes;
  const float *multiplier = how.multiplier + first, *bias = how.bias + first, *shift = how.shift + first;
  const auto scaled = [=](int64_t row, int part, int64_t lane) {
    const int64_t channel = row * 4 + part;
    return floats(load_ints(sums + channel * kLanes + lane)) * multiplier[channel] + bias[channel];
  };
  if (how.rounding) {
    const Rounding rounded(*how.rounding);
    const float step = how.rounding->scale;
    const auto value = [=](int64_t row, int part, int64_t lane) {
      return residual(rounded(scaled(row, part, lane)) * step + shift[row * 4 + part], first / 4 + row, part, lane);
    };
    store_channels(channels, value, out);
  } else {
    const auto value = [=](int64_t row, int part, int64_t lane) {
      return residual(scaled(row, part, lane), first / 4 + row, part, lane);
    };
    store_channels(channels, value, out);
  }
}

void store_reals(const int32_t* sums, int64_t first, int64_t channels, const Finish& how, float* out) {
  if (!how.residual) {
    store_reals(sums, first, channels, how, NoResidual{}, out);
  } else if (how.residual_element == Element::F32) {
    store_reals(sums, first, channels, how, FloatResidual{static_cast<const float*>(how.residual)}, out);
  } else {
    const ByteResidual residual{static_cast<const uint8_t*>(how.residual), Dequantizer(how.residual_from)};
    store_reals(sums, first, channels, how, residual, out);
  }
}

// Of a row of floats, the vector that belongs to a channel and a lane.
Floats load_channel(const float* rows, int64_t row, int part, int64_t lane) {
  return load_floats(rows + (row * 4 + part) * kLanes + lane);
}

// Channels whose numbers stay in the first-level cache until the activation is applied, which with its constants would
// not fit into the registers beside all the rest. A multiple of four.
constexpr int64_t kStretch = 16;

}  // namespace

void finish(const int32_t* sums, int64_t outputs, const Finish& how, float* out) {
  for (int64_t first = 0; first < outputs; first += kStretch) {
    const int64_t count = outputs - first < kStretch ? outputs - first : kStretch;
    float* stretch = out + first * kLanes;
    store_reals(sums, first, count, how, stretch);
    if (how.activation.kind != Activation::None) activate(stretch, count, how.activation, stretch);
  }
}

void finish_q8(const int32_t* sums, int64_t outputs, const Finish& how, const Quantization& to, uint8_t* out) {
  alignas(64) float numbers[kStretch * kLanes];
  with_function(how.activation, [&](auto function) {
    for (int64_t first = 0; first < outputs; first += kStretch) {
      const int64_t count = outputs - first < kStretch ? outputs - first : kStretch;
      store_reals(sums, first, count, how, numbers);
      const auto value = [&](int64_t row, int part, int64_t lane) {
        return function(load_channel(numbers, row, part, lane));
      };
      quantize_channels(count, to, value, out + first / 4 * kRowBytes);
    }
  });
}

void quantize(const float* in, int64_t channels, const Quantization& to, uint8_t* out) {
  quantize_channels(
      channels, to, [=](int64_t row, int part, int64_t lane) { return load_channel(in, row, part, lane); }, out);
}

void dequantize(const uint8_t* in, const Quantization& from, int64_t channels, float* out) {
  const Dequantizer real(from);
  const auto value = [=](int64_t row, int part, int64_t lane) {
    return real(load_words(in + row * kRowBytes + lane * 4), part);
  };
  store_channels(channels, value, out);
}

}  // namespace SPARSE_ISA
}  // namespace sparse
