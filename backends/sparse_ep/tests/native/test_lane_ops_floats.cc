// Operations on float blocks against references in double precision; NaN and infinities as in ONNX Runtime.
#include <algorithm>
#include <cfloat>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "every_set.h"
#include "kernels/lane_ops.h"
#include "places.h"

using namespace sparse;

namespace {

const float kInfinity = std::numeric_limits<float>::infinity();
const float kNaN = std::numeric_limits<float>::quiet_NaN();
std::mt19937 generator(11);

double normal() { return std::normal_distribution<double>()(generator); }
int64_t below(int64_t limit) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(limit)); }

// Rows of sixteen floats, aligned; one more row behind them that must stay what it is.
class Rows {
 public:
  explicit Rows(int64_t rows, float fill = 0.0f) : rows_(rows), storage_(static_cast<size_t>(rows * 16 + 32), fill) {
    data_ = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(storage_.data()) + 63) / 64 * 64);
    for (int lane = 0; lane < 16; ++lane) data_[rows * 16 + lane] = 4711.0f;
  }
  float* data() { return data_; }
  float& operator[](int64_t i) { return data_[i]; }
  int64_t size() const { return rows_ * 16; }
  bool intact() const {
    return std::all_of(data_ + rows_ * 16, data_ + rows_ * 16 + 16, [](float value) { return value == 4711.0f; });
  }
  void randomise(double mean = 0.0, double deviation = 1.0) {
    for (int64_t i = 0; i < size(); ++i) data_[i] = static_cast<float>(mean + deviation * normal());
  }

 private:
  int64_t rows_;
  std::vector<float> storage_;
  float* data_;
};

double exact(const Activation& activation, double x) {
  const double a = activation.alpha, b = activation.beta;
  switch (activation.kind) {
    case Activation::None:
      return x;
    case Activation::Relu:
      return x < 0 ? 0 : x;
    case Activation::LeakyRelu:
      return x < 0 ? a * x : x;
    case Activation::Clip:
      return x < a ? a : x > b ? b : x;
    case Activation::HardSwish:
      return x * (x < -3 ? 0 : x > 3 ? 1 : x / 6 + 0.5);
    case Activation::HardSigmoid:
      return a * x + b < 0 ? 0 : a * x + b > 1 ? 1 : a * x + b;
    case Activation::Sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::Gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::GeluTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

std::vector<Activation> activations() {
  return {{Activation::None, 0, 0},
          {Activation::Relu, 0, 0},
          {Activation::LeakyRelu, 0.1f, 0},
          {Activation::LeakyRelu, 1.5f, 0},
          {Activation::Clip, -1, 6},
          {Activation::HardSwish, 0, 0},
          {Activation::HardSigmoid, 0.2f, 0.5f},
          {Activation::Sigmoid, 0, 0},
          {Activation::Gelu, 0, 0},
          {Activation::GeluTanh, 0, 0}};
}

void check_activations(const LaneOps& ops) {
  const int64_t rows = 4001;
  Rows in(rows), out(rows);
  for (int64_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<float>((static_cast<double>(i) / static_cast<double>(in.size()) - 0.5) * 30);
  }
  for (int64_t i = 0; i < 16000; ++i) in[i] = static_cast<float>(std::exp(normal() * 6) * (i % 2 ? 1 : -1));
  in[0] = 0.0f;
  for (const Activation& activation : activations()) {
    ops.activate(in.data(), rows, activation, out.data());
    double worst = 0;
    for (int64_t i = 0; i < in.size(); ++i) {
      const double expected = exact(activation, in[i]);
      const double error = std::fabs(out[i] - expected) / std::max(1.0, std::fabs(expected));
      worst = std::max(worst, error <= 1 ? error : 1.0);
    }
    CHECK(worst < 4e-7);
    CHECK(out.intact());
    if (worst >= 4e-7) std::printf("  activation %d: error %g\n", activation.kind, worst);
  }
}

// What ONNX Runtime's CPU provider gives (1.31): activations hand NaN on, and products of zero and infinity are NaN.
void check_special_values(const LaneOps& ops) {
  const float values[] = {kNaN, kInfinity, -kInfinity, 3e38f, -3e38f, 0.0f};
  const struct {
    Activation activation;
    float expected[6];
  } cases[] = {
      {{Activation::None, 0, 0}, {kNaN, kInfinity, -kInfinity, 3e38f, -3e38f, 0}},
      {{Activation::Relu, 0, 0}, {kNaN, kInfinity, 0, 3e38f, 0, 0}},
      {{Activation::LeakyRelu, 0.5f, 0}, {kNaN, kInfinity, -kInfinity, 3e38f, -1.5e38f, 0}},
      {{Activation::Clip, -1, 6}, {kNaN, 6, -1, 6, -1, 0}},
      {{Activation::HardSwish, 0, 0}, {kNaN, kInfinity, kNaN, 3e38f, 0, 0}},
      {{Activation::HardSigmoid, 0.2f, 0.5f}, {kNaN, 1, 0, 1, 0, 0.5f}},
      {{Activation::Sigmoid, 0, 0}, {kNaN, 1, 0, 1, 0, 0.5f}},
      {{Activation::Gelu, 0, 0}, {kNaN, kInfinity, kNaN, 3e38f, 0, 0}},
      {{Activation::GeluTanh, 0, 0}, {kNaN, kInfinity, kNaN, 3e38f, 0, 0}},
  };
  // Any bits may be those of a NaN.
  const uint32_t odd_bits = 0xFFD5AAABu;
  for (const auto& special : cases) {
    Rows in(7), out(7);
    for (int64_t i = 0; i < in.size(); ++i) in[i] = values[i % 6];
    std::memcpy(in.data() + 6, &odd_bits, 4);
    ops.activate(in.data(), 7, special.activation, out.data());
    for (int64_t i = 0; i < in.size(); ++i) {
      const float expected = special.expected[i % 6];
      const bool same = std::isnan(expected) ? std::isnan(out[i]) : out[i] == expected;
      CHECK(same);
      if (!same) std::printf("  activation %d of %g is %g\n", special.activation.kind, in[i], out[i]);
    }
  }
}

void check_sum(const LaneOps& ops) {
  for (const Activation& activation : activations()) {
    for (const int64_t rows : {1, 2, 7, 64}) {
      Rows a(rows), b(rows), out(rows);
      a.randomise();
      b.randomise();
      ops.sum(a.data(), b.data(), rows, activation, out.data());
      for (int64_t i = 0; i < a.size(); ++i) CHECK_NEAR(out[i], exact(activation, double(a[i]) + b[i]), 1e-6);
      CHECK(out.intact());
      ops.sum(a.data(), b.data(), rows, activation, a.data());
      CHECK(std::memcmp(a.data(), out.data(), static_cast<size_t>(rows * 64)) == 0);
    }
  }
}

void check_pools(const LaneOps& ops) {
  for (int i = 0; i < 300; ++i) {
    const int64_t rows = 1 + below(11), count = 1 + below(12);
    std::vector<Rows> taps;
    std::vector<const void*> panels;
    for (int64_t tap = 0; tap < count; ++tap) {
      taps.emplace_back(rows);
      taps.back().randomise();
      for (int64_t j = 0; j < rows * 16; ++j) {
        if (below(16) == 0) taps.back()[j] = below(3) == 0 ? kNaN : below(2) ? -FLT_MAX : -kInfinity;
      }
    }
    for (Rows& tap : taps) panels.push_back(tap.data());
    float weight[16];
    for (float& value : weight) value = static_cast<float>(1.0 / static_cast<double>(1 + below(9)));
    Rows largest(rows), average(rows);
    ops.max_pool(Element::F32, panels.data(), count, rows, largest.data());
    ops.average_pool(reinterpret_cast<const float* const*>(panels.data()), count, rows, weight, average.data());
    for (int64_t j = 0; j < rows * 16; ++j) {
      float expected = taps[0][j];
      double sum = 0;
      for (Rows& tap : taps) {
        expected = expected > tap[j] ? expected : tap[j];
        sum += static_cast<double>(tap[j]);
      }
      CHECK(std::isnan(expected) ? std::isnan(largest[j]) : largest[j] == expected);
      const double mean = sum * static_cast<double>(weight[j % 16]);
      if (!std::isfinite(mean) || std::fabs(mean) > FLT_MAX / 20) {
        CHECK(std::isnan(mean) ? std::isnan(average[j]) : average[j] < -FLT_MAX / 40);
      } else {
        CHECK_NEAR(average[j], mean, 2e-6);
      }
    }
    CHECK(largest.intact() && average.intact());
  }
}

void check_layer_norm(const LaneOps& ops) {
  for (const int64_t rows : {1, 2, 3, 64, 769, 4096}) {
    for (const double mean : {0.0, 3.0, -1e4}) {
      Rows in(rows), out(rows);
      in.randomise(mean);
      if (mean == 3.0) {
        for (int lane = 0; lane < 16; ++lane) in[lane] = 2000.0f;  // far from all the others
      }
      std::vector<float> scale(static_cast<size_t>(rows)), bias(static_cast<size_t>(rows));
      for (float& value : scale) value = static_cast<float>(normal());
      for (float& value : bias) value = static_cast<float>(normal());
      ops.layer_norm(in.data(), rows, scale.data(), bias.data(), 1e-5f, out.data());
      double worst = 0;
      for (int64_t lane = 0; lane < 16; ++lane) {
        double sum = 0, squares = 0;
        for (int64_t row = 0; row < rows; ++row) sum += in[row * 16 + lane];
        const double average = sum / static_cast<double>(rows);
        for (int64_t row = 0; row < rows; ++row) squares += std::pow(in[row * 16 + lane] - average, 2);
        const double deviation = std::sqrt(squares / static_cast<double>(rows) + static_cast<double>(1e-5f));
        for (int64_t row = 0; row < rows; ++row) {
          const auto r = static_cast<size_t>(row);
          const double expected = (in[row * 16 + lane] - average) / deviation * scale[r] + bias[r];
          worst = std::max(worst, std::fabs(out[row * 16 + lane] - expected) / std::max(1.0, std::fabs(expected)));
        }
      }
      CHECK(worst < 5e-7);
      CHECK(out.intact());
      if (worst >= 5e-7) std::printf("  layer_norm of %ld rows, mean %g: error %g\n", long(rows), mean, worst);
      ops.layer_norm(in.data(), rows, scale.data(), bias.data(), 1e-5f, in.data());
      CHECK(std::memcmp(in.data(), out.data(), static_cast<size_t>(rows * 64)) == 0);
    }
  }
}

void check_global_average(const LaneOps& ops) {
  for (int i = 0; i < 200; ++i) {
    Layout in, out;
    in.lanes = below(3) ? Layout::Tiles : Layout::Pixels;
    in.grid = kGrids[below(std::size(kGrids))];
    in.n = 1 + below(35);
    in.h = 1 + below(9);
    in.w = 1 + below(9);
    if (i == 0) in = {Layout::Pixels, Element::F32, 2, 400, 401, 1, {}};
    if (i == 1) in = {Layout::Tiles, Element::F32, 3, 200, 201, 1, {}};
    in.channels = 1 + below(40);
    const double mean = i < 2 ? 100.0 : 0.0;
    if (i < 2) in.channels = 3;
    out.n = in.n;
    out.channels = in.channels;
    const int64_t pixels = in.h * in.w;
    Rows blocks(in.blocks() * in.rows(), kNaN), result(out.blocks() * out.rows(), -7.0f);
    std::vector<double> expected(static_cast<size_t>(in.n * in.channels));
    for (int64_t n = 0; n < in.n; ++n) {
      const bool odd = in.n > 2 && below(8) == 0;  // an image of NaN beside others
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        const auto [block, lane] = place_of(in, n, pixel);
        for (int64_t channel = 0; channel < in.channels; ++channel) {
          const float value = odd ? kNaN : static_cast<float>(mean + normal());
          blocks[(block * in.channels + channel) * 16 + lane] = value;
          expected[static_cast<size_t>(n * in.channels + channel)] += static_cast<double>(value) / double(pixels);
        }
      }
    }
    const int64_t first = below(in.n), last = first + 1 + below(in.n - first);
    ops.global_average(in, blocks.data(), {}, {}, out, first, last, result.data());
    for (int64_t n = 0; n < out.blocks() * 16; ++n) {
      for (int64_t channel = 0; channel < in.channels; ++channel) {
        const double actual = result[(n / 16 * in.channels + channel) * 16 + n % 16];
        if (n >= in.n) {
          CHECK(actual == (last == in.n ? 0 : -7));
        } else if (n < first || n >= last) {
          CHECK(actual == -7);
        } else {
          const double value = expected[static_cast<size_t>(n * in.channels + channel)];
          if (std::isnan(value)) {
            CHECK(std::isnan(actual));
          } else {
            CHECK_NEAR(actual, value, 5e-7 * std::max(1.0, std::fabs(value)));
          }
        }
      }
    }
    CHECK(result.intact());
  }
}

}  // namespace

int main() {
  return with_every_set(
      {check_activations, check_special_values, check_sum, check_pools, check_layer_norm, check_global_average});
}
