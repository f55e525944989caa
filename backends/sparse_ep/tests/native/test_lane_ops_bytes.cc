// Operations on eight-bit blocks against references in double precision, rounding half to even.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <random>
#include <vector>

#include "check.h"
#include "every_set.h"
#include "kernels/lane_ops.h"
#include "places.h"

using namespace sparse;

namespace {

std::mt19937 generator(13);
int64_t below(int64_t limit) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(limit)); }

template <class T>
class Rows {
 public:
  explicit Rows(int64_t rows) : bytes_(rows * 64), storage_(static_cast<size_t>(bytes_ + 128), 0xAB) {
    start_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(storage_.data()) + 63) / 64 * 64);
    for (int64_t i = 0; i < bytes_; ++i) start_[i] = static_cast<uint8_t>(generator());
    std::memset(start_ + bytes_, 0xCD, 64);
  }
  T* data() { return reinterpret_cast<T*>(start_); }
  T& operator[](int64_t i) { return data()[i]; }
  Rows copy() const {
    Rows result(bytes_ / 64);
    std::memcpy(result.start_, start_, static_cast<size_t>(bytes_));
    return result;
  }
  bool intact() const {
    return std::all_of(start_ + bytes_, start_ + bytes_ + 64, [](uint8_t byte) { return byte == 0xCD; });
  }

 private:
  int64_t bytes_;
  std::vector<uint8_t> storage_;
  uint8_t* start_;
};

// Powers of two keep floats exact, so that ties are ties: then results have to be equal.
Quantization quantization(bool exact) {
  Quantization result;
  result.scale = exact ? 0.25f * static_cast<float>(1 << below(3)) : 0.01f + 0.001f * static_cast<float>(below(200));
  result.zero_point = static_cast<int32_t>(below(4) ? below(256) : below(2) * 255);
  return result;
}

double real(uint8_t byte, const Quantization& from) { return double{from.scale} * (byte - from.zero_point); }

// Is `byte` what `value` rounds to? Unless exact, either neighbour will do where a tie is near.
bool rounds_to(double value, const Quantization& to, uint8_t byte, bool exact) {
  const double steps = value / double{to.scale};
  const double nearest = std::min(std::max(std::nearbyint(steps) + to.zero_point, 0.0), 255.0);
  if (byte == nearest) return true;
  const double distance = std::fabs(std::fabs(steps - std::nearbyint(steps)) - 0.5);
  return !exact && std::fabs(byte - nearest) == 1 && distance < 1e-4 * std::max(1.0, std::fabs(steps));
}

struct Case {
  Activation activation;
  std::function<double(double)> exact;
  bool rational;  // exact on exact numbers
};

std::vector<Case> cases() {
  return {
      {{Activation::None, 0, 0}, [](double x) { return x; }, true},
      {{Activation::Relu, 0, 0}, [](double x) { return std::max(x, 0.0); }, true},
      {{Activation::LeakyRelu, 0.25f, 0}, [](double x) { return x < 0 ? x / 4 : x; }, true},
      {{Activation::Clip, -1, 6}, [](double x) { return std::min(std::max(x, -1.0), 6.0); }, true},
      {{Activation::Sigmoid, 0, 0}, [](double x) { return 1 / (1 + std::exp(-x)); }, false},
      {{Activation::Gelu, 0, 0}, [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }, false},
      {{Activation::HardSwish, 0, 0}, [](double x) { return x * std::min(std::max(x / 6 + 0.5, 0.0), 1.0); }, false}};
}

void check_elementwise(const LaneOps& ops) {
  for (const Case& one : cases()) {
    for (int i = 0; i < 20; ++i) {
      const bool exact = i % 2 && one.rational;
      const int64_t rows = 1 + below(9);
      const Quantization qa = quantization(exact), qb = quantization(exact), to = quantization(exact);
      Rows<uint8_t> a(rows), b(rows), out(rows);
      ops.sum_q8(a.data(), qa, b.data(), qb, rows, one.activation, to, out.data());
      for (int64_t j = 0; j < rows * 64; ++j) {
        CHECK(rounds_to(one.exact(real(a[j], qa) + real(b[j], qb)), to, out[j], exact));
      }
      ops.activate_q8(a.data(), qa, rows, one.activation, to, out.data());
      for (int64_t j = 0; j < rows * 64; ++j) CHECK(rounds_to(one.exact(real(a[j], qa)), to, out[j], exact));
      CHECK(out.intact());
      ops.sum_q8(a.data(), qa, b.data(), qb, rows, one.activation, to, out.data());
      ops.sum_q8(a.data(), qa, b.data(), qb, rows, one.activation, to, b.data());
      CHECK(std::memcmp(b.data(), out.data(), static_cast<size_t>(rows * 64)) == 0);
    }
  }
}

// What `value` is after it was a byte: whole steps of `form`.
double whole_steps(double value, const Quantization& form) {
  return std::min(std::max(std::nearbyint(value), -double(form.zero_point)), 255.0 - form.zero_point);
}

// Is a step of `form` near which the value could round either way?
bool near_tie(double value, bool exact) {
  return !exact && std::fabs(std::fabs(value - std::nearbyint(value)) - 0.5) < 1e-4 * std::max(1.0, std::fabs(value));
}

void check_sums_of_products(const LaneOps& ops) {
  for (const Case& one : cases()) {
    for (int i = 0; i < 120; ++i) {
      const bool exact = i % 2 && one.rational, rounded = below(2);
      const int residual_kind = static_cast<int>(below(3));  // none, floats, bytes
      const int64_t outputs = 1 + below(23), rows = (outputs + 3) / 4;
      Rows<int32_t> sums(outputs);
      const auto range = static_cast<int32_t>(exact ? 2000 : below(2) ? 1000 : 30000000);
      for (int64_t j = 0; j < outputs * 16; ++j) sums[j] = static_cast<int32_t>(below(2 * range)) - range;
      std::vector<float> multiplier, bias, shift;
      for (int64_t j = 0; j < outputs; ++j) {
        multiplier.push_back(exact ? 0.125f : 10.0f * static_cast<float>(1 + below(100)) / static_cast<float>(range));
        bias.push_back(static_cast<float>(below(33) - 16) * (exact ? 0.25f : 0.333f));
        shift.push_back(static_cast<float>(below(33) - 16) * (exact ? 0.5f : 0.777f));
      }
      const Quantization from = quantization(exact), to = quantization(exact), rounding = quantization(exact);
      Rows<float> real_residual(outputs), real_out(outputs);
      for (int64_t j = 0; j < outputs * 16; ++j) real_residual[j] = static_cast<float>(below(100) - 50) * 0.25f;
      Rows<uint8_t> residual(rows), out(rows);
      Finish how;
      how.multiplier = multiplier.data();
      how.bias = bias.data();
      if (rounded) how.rounding = &rounding;
      how.shift = shift.data();
      if (residual_kind == 1) how.residual = real_residual.data();
      if (residual_kind == 2) how.residual = residual.data();
      how.residual_element = residual_kind == 2 ? Element::Q8 : Element::F32;
      how.residual_from = from;
      how.activation = one.activation;
      ops.finish_q8(sums.data(), outputs, how, to, out.data());
      ops.finish(sums.data(), outputs, how, real_out.data());
      Rows<int32_t> in_place = sums.copy();
      ops.finish(in_place.data(), outputs, how, reinterpret_cast<float*>(in_place.data()));
      CHECK(out.intact() && real_out.intact());
      CHECK(std::memcmp(in_place.data(), real_out.data(), static_cast<size_t>(outputs * 64)) == 0);
      for (int64_t channel = 0; channel < rows * 4; ++channel) {
        for (int64_t lane = 0; lane < 16; ++lane) {
          const int64_t byte = channel / 4 * 64 + lane * 4 + channel % 4;
          if (channel >= outputs) {
            CHECK(out[byte] == to.zero_point);
            continue;
          }
          const auto c = static_cast<size_t>(channel);
          const int64_t at = channel * 16 + lane;
          double value = double{multiplier[c]} * sums[at] + double{bias[c]};
          if (rounded && near_tie(value, exact)) continue;
          if (rounded) value = double{rounding.scale} * whole_steps(value, rounding) + double{shift[c]};
          if (residual_kind == 1) value += double{real_residual[at]};
          if (residual_kind == 2) value += real(residual[byte], from);
          CHECK(rounds_to(one.exact(value), to, out[byte], exact));
          CHECK_NEAR(real_out[at], one.exact(value), exact ? 0.0 : 1e-5 * std::max(1.0, std::fabs(value)));
        }
      }
    }
  }
}

void check_not_a_number(const LaneOps& ops) {
  const float multipliers[] = {1.0f, 1.0f, 1.0f}, biases[] = {NAN, 0.0f, INFINITY}, shifts[] = {0.0f, 1.0f, 0.0f};
  const Quantization form = {1.0f, 9, false};
  Rows<int32_t> sums(3);
  for (int lane = 0; lane < 48; ++lane) sums[lane] = lane % 16;
  for (const bool rounded : {false, true}) {
    Rows<uint8_t> out(1);
    Finish how;
    how.multiplier = multipliers;
    how.bias = biases;
    how.shift = shifts;
    if (rounded) how.rounding = &form;
    ops.finish_q8(sums.data(), 3, how, form, out.data());
    for (int lane = 0; lane < 16; ++lane) {
      CHECK(out[lane * 4] == 0);  // as ONNX Runtime's QuantizeLinear, and nothing spills over to the next channel
      CHECK(out[lane * 4 + 1] == lane + 9 + (rounded ? 1 : 0));
      CHECK(out[lane * 4 + 2] == 255);
    }
  }
}

// Floats to bytes and back.
void check_quantizers(const LaneOps& ops) {
  for (int i = 0; i < 100; ++i) {
    const bool exact = i % 2;
    const int64_t channels = 1 + below(23), rows = (channels + 3) / 4;
    const Quantization form = quantization(exact);
    Rows<float> in(channels), back(channels);
    for (int64_t j = 0; j < channels * 16; ++j) {
      in[j] = static_cast<float>(below(1000) - 500) * form.scale * (exact ? 0.5f : 0.37f);
    }
    in[below(channels * 16)] = INFINITY;
    Rows<uint8_t> out(rows);
    ops.quantize(in.data(), channels, form, out.data());
    ops.dequantize(out.data(), form, channels, back.data());
    CHECK(out.intact() && back.intact());
    for (int64_t channel = 0; channel < rows * 4; ++channel) {
      for (int64_t lane = 0; lane < 16; ++lane) {
        const uint8_t byte = out[channel / 4 * 64 + lane * 4 + channel % 4];
        if (channel >= channels) {
          CHECK(byte == form.zero_point);
          continue;
        }
        CHECK(std::isinf(in[channel * 16 + lane]) ? byte == 255
                                                  : rounds_to(in[channel * 16 + lane], form, byte, exact));
        CHECK(back[channel * 16 + lane] == form.scale * static_cast<float>(byte - form.zero_point));
      }
    }
  }
}

void check_pools(const LaneOps& ops) {
  for (int i = 0; i < 200; ++i) {
    const bool exact = i % 2;
    const int64_t rows = 1 + below(11), count = i == 0 ? 300 : 1 + below(12);
    std::vector<Rows<uint8_t>> taps;
    for (int64_t tap = 0; tap < count; ++tap) taps.emplace_back(rows);
    std::vector<const void*> panels;
    for (Rows<uint8_t>& tap : taps) panels.push_back(tap.data());
    const Quantization from = quantization(exact), to = quantization(exact);
    float weight[16];
    for (float& value : weight)
      value = exact ? 1.0f / static_cast<float>(1 << below(4)) : 1.0f / static_cast<float>(count);
    Rows<uint8_t> largest(rows), average(rows);
    ops.max_pool(Element::Q8, panels.data(), count, rows, largest.data());
    ops.average_pool_q8(reinterpret_cast<const uint8_t* const*>(panels.data()), count, rows, weight, from, to,
                        average.data());
    for (int64_t j = 0; j < rows * 64; ++j) {
      uint8_t expected = 0;
      double sum = 0;
      for (Rows<uint8_t>& tap : taps) {
        expected = std::max(expected, tap[j]);
        sum += real(tap[j], from);
      }
      CHECK(largest[j] == expected);
      CHECK(rounds_to(sum * double{weight[j % 64 / 4]}, to, average[j], exact));
    }
    CHECK(largest.intact() && average.intact());
  }
}

void check_global_average(const LaneOps& ops) {
  for (int i = 0; i < 200; ++i) {
    Layout in, out;
    in.lanes = below(3) ? Layout::Tiles : Layout::Pixels;
    in.grid = kGrids[below(std::size(kGrids))];
    in.element = out.element = Element::Q8;
    out.n = in.n = 1 + below(35);
    in.h = 1 + below(9);
    in.w = 1 + below(9);
    out.channels = in.channels = 1 + below(40);
    const int64_t pixels = in.h * in.w;
    const Quantization from = quantization(false), to = quantization(false);
    Rows<uint8_t> blocks(in.blocks() * in.rows()), result(out.blocks() * out.rows());
    std::memset(result.data(), 77, static_cast<size_t>(out.bytes()));
    const int64_t first = below(in.n), last = first + 1 + below(in.n - first);
    ops.global_average(in, blocks.data(), from, to, out, first, last, result.data());
    for (int64_t n = 0; n < out.blocks() * 16; ++n) {
      for (int64_t channel = 0; channel < in.channels; ++channel) {
        const uint8_t actual = result[(n / 16 * out.rows() + channel / 4) * 64 + n % 16 * 4 + channel % 4];
        if (n < first || n >= last) {
          CHECK(actual == (n >= in.n && last == in.n ? to.zero_point : 77));
          continue;
        }
        double sum = 0;
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
          const auto [block, lane] = place_of(in, n, pixel);
          sum += real(blocks[(block * in.rows() + channel / 4) * 64 + lane * 4 + channel % 4], from);
        }
        CHECK(rounds_to(sum / double(pixels), to, actual, false));
      }
    }
    CHECK(result.intact());
  }
}

}  // namespace

int main() {
  return with_every_set({check_elementwise, check_sums_of_products, check_not_a_number, check_quantizers, check_pools,
                         check_global_average});
}
