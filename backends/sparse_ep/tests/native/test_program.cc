// Random regions, run as programs with every instruction set and several threads, against the plain reference.
#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "check.h"
#include "kernels/lane_ops.h"
#include "kernels/sparse_kernel.h"
#include "program/plan.h"
#include "program/program.h"
#include "reference.h"

namespace {

using namespace sparse;
using reference::Image;

// Threads of its own for every call: slow, and so seen by the thread sanitizer.
class Threads final : public Parallel {
 public:
  explicit Threads(int count) : count_(count) {}
  int threads() const override { return count_; }
  void for_each(size_t count, void (*task)(void*, size_t), void* state) override {
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < count; i = next++) task(state, i);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < count_; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }

 private:
  int count_;
};

class Maker {
 public:
  explicit Maker(unsigned seed) : random_(seed) {}

  int64_t among(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  float real() { return std::uniform_real_distribution<float>(-1.0f, 1.0f)(random_); }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[among(0, static_cast<int64_t>(choices.size()) - 1)];
  }

  int value(int64_t channels) {
    Value value;
    value.name = "v" + std::to_string(region.values.size());
    value.channels = channels;
    region.values.push_back(value);
    return static_cast<int>(region.values.size()) - 1;
  }

  Activation activation() {
    Activation activation;
    activation.kind =
        one_of({Activation::None, Activation::Relu, Activation::LeakyRelu, Activation::Clip, Activation::HardSwish,
                Activation::HardSigmoid, Activation::Sigmoid, Activation::Gelu, Activation::GeluTanh});
    activation.alpha = activation.kind == Activation::Clip ? -0.4f : 0.2f;
    activation.beta = 0.6f;
    return activation;
  }

  Window window(bool same) {
    Window window;
    for (int axis = 0; axis < 2; ++axis) {
      window.kernel[axis] = same ? one_of<int64_t>({1, 3}) : among(1, 3);
      window.dilations[axis] = among(1, 2);
      window.strides[axis] = same ? 1 : among(1, 3);
      const int64_t reach = (window.kernel[axis] - 1) * window.dilations[axis];
      window.begin[axis] = same ? reach / 2 : among(0, reach);
      window.end[axis] = same ? reach - reach / 2 : among(0, reach);
    }
    if (!same) window.auto_pad = one_of({AutoPad::NotSet, AutoPad::NotSet, AutoPad::SameUpper, AutoPad::SameLower});
    return window;
  }

  int matrix(int in, bool same, int residual = -1, int64_t outputs = 0) {
    Layer layer;
    const int64_t inputs = region.values[static_cast<size_t>(in)].channels;
    layer.window = window(same);
    Weights& weights = layer.weights;
    weights.outputs = outputs ? outputs : among(1, 70);
    weights.inputs = inputs;
    weights.taps = layer.window.kernel[0] * layer.window.kernel[1];
    const float density = one_of({0.0f, 0.02f, 0.1f, 0.5f, 1.0f});
    for (int64_t o = 0; o < weights.outputs; ++o) {
      weights.row_begin.push_back(weights.nonzeros());
      for (int64_t column = 0; column < weights.taps * inputs; ++column) {
        if (std::abs(real()) >= density) continue;
        weights.columns.push_back(static_cast<int32_t>(column));
        weights.values.push_back(real());
      }
      if (o % 2) weights.bias.push_back(real());
    }
    weights.row_begin.push_back(weights.nonzeros());
    weights.bias.resize(among(0, 1) ? static_cast<size_t>(weights.outputs) : 0, 0.25f);
    layer.inputs = {in};
    if (residual >= 0) layer.inputs.push_back(residual);
    layer.activation = activation();
    layer.output = value(weights.outputs);
    region.layers.push_back(layer);
    return layer.output;
  }

  int other(Layer::Kind kind, std::vector<int> inputs) {
    Layer layer;
    layer.kind = kind;
    layer.inputs = std::move(inputs);
    if (kind == Layer::MaxPool || kind == Layer::AveragePool) {
      layer.window.kernel[0] = layer.window.kernel[1] = 3;
      layer.window.strides[0] = layer.window.strides[1] = among(1, 2);
      for (int axis = 0; axis < 2; ++axis) layer.window.begin[axis] = layer.window.end[axis] = 1;
      layer.window.ceil_mode = among(0, 1);
      layer.window.count_include_pad = !layer.window.ceil_mode && among(0, 1);
    } else if (kind != Layer::GlobalAveragePool) {
      layer.activation = activation();
    }
    layer.output = value(region.values[static_cast<size_t>(layer.inputs[0])].channels);
    region.layers.push_back(layer);
    return layer.output;
  }

  Region region;
  std::mt19937 random_;
};

// conv, pool, residual block, sum, global pool; outputs in the middle too.
Region make_region(Maker& maker) {
  const int64_t channels = maker.among(1, 40);
  const int in = maker.value(channels);
  maker.region.inputs = {in};
  int x = maker.matrix(in, maker.among(0, 1));
  const int early = x;
  if (maker.among(0, 1)) x = maker.other(maker.one_of({Layer::MaxPool, Layer::AveragePool}), {x});
  const int64_t width = maker.region.values[static_cast<size_t>(x)].channels;
  int y = maker.matrix(x, true);
  y = maker.matrix(y, true, x, width);
  const int z = maker.other(Layer::Sum, {y, x});
  x = maker.other(Layer::Activate, {z});
  if (maker.among(0, 1)) x = maker.other(Layer::GlobalAveragePool, {x});
  maker.region.outputs = {early, z, x};
  return maker.region;
}

void compare(unsigned seed, Maker& maker, const Region& region, const Extent& extent) {
  const int64_t channels = region.values[0].channels;
  Image input(extent, channels);
  std::vector<float> data;
  for (double& x : input.data) data.push_back(static_cast<float>(x = maker.real()));
  const std::vector<Image> expected = reference::run(region, {input});
  for (const int isa : {0, 1, 2})
    for (const bool jit : {true, false}) {
      if (isa > static_cast<int>(best_isa()) || (isa == 0 && jit)) continue;
      ProgramOptions options;
      options.isa = isa;
      options.jit = jit;
      const Program program(region, options);
      const std::vector<Program::Shape> shapes{{extent.n, channels, extent.h, extent.w}};
      const auto out_shapes = program.output_shapes(shapes);
      std::vector<std::vector<float>> results;
      std::vector<void*> outputs;
      for (size_t i = 0; i < region.outputs.size(); ++i) {
        const Image& image = expected[static_cast<size_t>(region.outputs[i])];
        CHECK((out_shapes[i] == Program::Shape{image.extent.n, image.channels, image.extent.h, image.extent.w}));
        results.emplace_back(image.data.size(), -7.0f);
      }
      for (auto& result : results) outputs.push_back(result.data());
      const void* const inputs[] = {data.data()};
      Threads threads(static_cast<int>(maker.among(1, 3)));
      program.run(shapes, inputs, outputs.data(), threads);
      for (size_t i = 0; i < results.size(); ++i) {
        const Image& image = expected[static_cast<size_t>(region.outputs[i])];
        double largest = 1.0, error = 0.0;
        for (size_t j = 0; j < results[i].size(); ++j) {
          largest = std::max(largest, std::fabs(image.data[j]));
          error = std::max(error, std::fabs(image.data[j] - results[i][j]));
        }
        if (!(error <= 1e-5 * largest))
          std::printf("seed %u isa %d jit %d output %zu of %lld x %lld x %lld x %lld: error %g\n", seed, isa, jit, i,
                      static_cast<long long>(extent.n), static_cast<long long>(channels),
                      static_cast<long long>(extent.h), static_cast<long long>(extent.w), error);
        CHECK(error <= 1e-5 * largest);
      }
    }
}

void compare_small(unsigned seed) {
  Maker maker(seed);
  const Region region = make_region(maker);
  compare(seed, maker, region,
          {maker.one_of<int64_t>({1, 2, 3, 15, 16, 17, 32}), maker.among(5, 12), maker.among(5, 20)});
}

// Values that do not stay in the cache: they go band by band, and some of them pass through little memory.
void compare_large(unsigned seed, const Extent& extent) {
  Maker maker(seed);
  const int in = maker.value(24);
  maker.region.inputs = {in};
  const int first = maker.matrix(in, true, -1, 24);
  const int second = maker.matrix(maker.other(Layer::Activate, {first}), true, -1, 30);
  const int third = maker.matrix(second, true, in, 24);
  maker.region.outputs = {second, maker.other(Layer::Sum, {third, first})};

  std::vector<std::unique_ptr<const SparseKernel>> kernels;
  std::vector<const SparseKernel*> borrowed;
  for (const Layer& layer : maker.region.layers) {
    if (layer.kind == Layer::Matrix)
      kernels.push_back(
          make_kernel(layer.weights, Element::F32, layer.activation, layer.inputs.size() > 1, Isa::Generic, false));
    borrowed.push_back(layer.kind == Layer::Matrix ? kernels.back().get() : nullptr);
  }
  const auto plan = make_plan(maker.region, borrowed, {{extent.n, 24, extent.h, extent.w}}, 1);
  CHECK(plan->items.size() > 2 * plan->steps.size());
  CHECK(std::count(plan->passing.begin(), plan->passing.end(), 1) >= 1);
  std::vector<int64_t> done(plan->steps.size(), 0);
  for (const Item& item : plan->items) {  // every block once, in order
    CHECK(item.first == done[item.step] && item.last > item.first);
    done[item.step] = item.last;
  }
  for (size_t i = 0; i < done.size(); ++i) CHECK(done[i] == plan->steps[i].out.blocks());
  compare(seed, maker, maker.region, extent);
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 60; ++seed) compare_small(seed);
  for (unsigned seed = 100; seed < 102; ++seed) {
    compare_large(seed, {1, 76, 77});
    compare_large(seed, {18, 20, 18});
  }
  return failures != 0;
}
