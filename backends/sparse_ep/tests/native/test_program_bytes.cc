// Regions whose values are bytes here and floats there, with every instruction set, against the plain reference.
#include <cstring>
#include <random>

#include "check.h"
#include "core/parallel.h"
#include "kernels/lane_ops.h"
#include "program/program.h"
#include "reference.h"

namespace {

using namespace sparse;
using reference::Image;

class Alone final : public Parallel {
 public:
  int threads() const override { return 1; }
  void for_each(size_t count, void (*task)(void*, size_t), void* state) override {
    for (size_t i = 0; i < count; ++i) task(state, i);
  }
};

class Maker {
 public:
  Maker(unsigned seed, int spatial) : random_(seed), spatial_(spatial) {}

  int64_t among(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  float real() { return std::uniform_real_distribution<float>(-1.0f, 1.0f)(random_); }
  std::vector<float> reals(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = real();
    return values;
  }

  Quantization quantization() {
    Quantization result;
    result.scale = 0.02f + 0.005f * real();
    result.zero_point = static_cast<int32_t>(among(100, 150));
    result.is_signed = among(0, 1);
    return result;
  }

  int value(int64_t channels, Element element) {
    Value value;
    value.name = "v" + std::to_string(region.values.size());
    value.channels = channels;
    value.spatial = spatial_;
    value.element = element;
    if (element == Element::Q8) value.quantization = quantization();
    region.values.push_back(value);
    return static_cast<int>(region.values.size()) - 1;
  }

  int64_t channels(int value) const { return region.values[static_cast<size_t>(value)].channels; }

  // Reads bytes; `residual` may be anything.
  int matrix(int in, int64_t outputs, Element element, int residual = -1) {
    Layer layer;
    Weights& weights = layer.weights;
    weights.outputs = outputs;
    weights.inputs = channels(in);
    const float density = among(0, 1) ? 0.2f : 0.9f;
    for (int64_t output = 0; output < outputs; ++output) {
      weights.row_begin.push_back(weights.nonzeros());
      for (int64_t column = 0; column < weights.inputs; ++column) {
        if (std::abs(real()) >= density) continue;
        weights.columns.push_back(static_cast<int32_t>(column));
        weights.quantized.push_back(static_cast<int8_t>(among(-127, 127)));
      }
      weights.scales.push_back(0.004f + 0.002f * real());
    }
    weights.row_begin.push_back(weights.nonzeros());
    if (among(0, 1)) weights.bias = reals(outputs);
    if (among(0, 3)) {
      layer.rounding = quantization();
      if (among(0, 3)) layer.bias = reals(outputs);
    }
    const Activation::Kind kinds[] = {Activation::None, Activation::Relu, Activation::Gelu, Activation::Sigmoid};
    layer.activation.kind = kinds[among(0, 3)];
    layer.inputs = {in};
    if (residual >= 0) layer.inputs.push_back(residual);
    return add(layer, outputs, element);
  }

  int other(Layer::Kind kind, std::vector<int> inputs, Element element, Activation::Kind activation) {
    Layer layer;
    layer.kind = kind;
    layer.inputs = std::move(inputs);
    layer.activation.kind = activation;
    const int64_t width = channels(layer.inputs[0]);
    if (kind == Layer::LayerNorm) {
      layer.scale = reals(width);
      layer.bias = reals(width);
      layer.epsilon = 0.05f;
    }
    return add(layer, width, element);
  }

  Element element() { return among(0, 1) ? Element::F32 : Element::Q8; }

  Region region;

 private:
  int add(Layer& layer, int64_t width, Element element) {
    layer.output = value(width, element);
    region.layers.push_back(layer);
    return layer.output;
  }

  std::mt19937 random_;
  int spatial_;
};

// Where the model keeps element `i` of an image: there, or among tokens by rows.
size_t place_of(int spatial, const Image& image, size_t i) {
  const auto tokens = static_cast<size_t>(image.extent.w);
  return spatial > 0 ? i : i % tokens * static_cast<size_t>(image.channels) + i / tokens;
}

void write(const Value& form, float number, size_t place, std::vector<uint8_t>& data) {
  if (form.element == Element::F32) {
    std::memcpy(&data[place * 4], &number, 4);
    return;
  }
  const long code = std::lround(number / form.quantization.scale) + form.quantization.zero_point;
  data[place] = static_cast<uint8_t>(form.quantization.is_signed ? code - 128 : code);
}

double read(const Value& form, const std::vector<uint8_t>& data, size_t place) {
  if (form.element == Element::F32) {
    float number;
    std::memcpy(&number, &data[place * 4], 4);
    return double{number};
  }
  const int code = form.quantization.is_signed ? static_cast<int8_t>(data[place]) + 128 : data[place];
  return double{form.quantization.scale} * (code - form.quantization.zero_point);
}

// Every layer reads the inputs and its result is an output: roundings do not add up.
void compare(unsigned seed) {
  const int spatial = seed % 3 ? 0 : 2;
  Maker maker(seed, spatial);
  const Element bytes = Element::Q8;
  const int64_t width = maker.among(1, 40);
  const int in = maker.value(width, bytes), floats = maker.value(width, Element::F32);
  maker.region.inputs = {in, floats};
  maker.matrix(in, maker.among(1, 70), maker.element());
  maker.matrix(in, width, maker.element(), in);
  maker.matrix(in, width, maker.element(), floats);
  maker.other(Layer::Activate, {in}, Element::F32, Activation::None);
  maker.other(Layer::Activate, {floats}, bytes, Activation::None);
  maker.other(Layer::Activate, {in}, Element::F32, Activation::Gelu);
  maker.other(Layer::Activate, {floats}, bytes, Activation::Sigmoid);
  maker.other(Layer::Sum, {floats, in}, bytes, Activation::Relu);
  maker.other(Layer::Sum, {in, floats}, Element::F32, Activation::None);
  maker.other(Layer::Sum, {in, in}, Element::F32, Activation::Relu);
  if (spatial == 0) {
    maker.other(Layer::LayerNorm, {in}, maker.element(), Activation::None);
    maker.other(Layer::LayerNorm, {floats}, bytes, Activation::None);
  }
  const Region& region = maker.region;
  for (const Layer& layer : region.layers) maker.region.outputs.push_back(layer.output);

  Extent extent{1, 1, maker.among(1, 70)};
  if (spatial > 0) extent = {maker.among(1, 17), maker.among(1, 5), maker.among(1, 5)};
  std::vector<Image> images;
  std::vector<std::vector<uint8_t>> data;
  for (const int input : region.inputs) {
    const Value& form = region.values[static_cast<size_t>(input)];
    images.emplace_back(extent, width);
    data.emplace_back(images.back().data.size() * 4);
    for (size_t i = 0; i < images.back().data.size(); ++i) {
      const auto code = static_cast<int32_t>(maker.among(0, 255));
      const float number = form.element == bytes
                               ? form.quantization.scale * static_cast<float>(code - form.quantization.zero_point)
                               : 2.0f * maker.real();
      images.back().data[i] = double{number};
      write(form, number, place_of(spatial, images.back(), i), data.back());
    }
  }
  const std::vector<Image> expected = reference::run(region, images);
  Program::Shape shape{extent.w, width};
  if (spatial > 0) shape = {extent.n, width, extent.h, extent.w};
  const void* const inputs[] = {data[0].data(), data[1].data()};

  for (const int isa : {0, 1, 2}) {
    if (isa > static_cast<int>(best_isa())) continue;
    ProgramOptions options;
    options.isa = isa;
    options.jit = maker.among(0, 1);
    const Program program(region, options);
    std::vector<std::vector<uint8_t>> results;
    std::vector<void*> outputs;
    for (const int value : region.outputs) results.emplace_back(expected[static_cast<size_t>(value)].data.size() * 4);
    for (auto& result : results) outputs.push_back(result.data());
    Alone alone;
    program.run({shape, shape}, inputs, outputs.data(), alone);
    for (size_t l = 0; l < results.size(); ++l) {
      const Layer& layer = region.layers[l];
      const Value& form = region.values[static_cast<size_t>(layer.output)];
      const Image& image = expected[static_cast<size_t>(layer.output)];
      const double rounding = layer.rounding ? double{layer.rounding->scale} : 0.0;
      const double quantum = form.element == bytes ? double{form.quantization.scale} : 0.0;
      size_t off = 0;
      for (size_t i = 0; i < image.data.size(); ++i) {
        const double error = std::fabs(read(form, results[l], place_of(spatial, image, i)) - image.data[i]);
        const double noise = 2e-5 * std::max(1.0, std::fabs(image.data[i]));
        off += error > noise;
        CHECK(error <= 1.2 * rounding + quantum + noise);  // next to a border between two quanta
      }
      if (off > 2 + image.data.size() / 200) {
        std::printf("seed %u isa %d jit %d layer %zu: %zu of %zu are off\n", seed, isa, options.jit, l, off,
                    image.data.size());
        ++failures;
      }
    }
  }
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 200; ++seed) compare(seed);
  return failures != 0;
}
