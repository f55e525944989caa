#include "tuning/choice.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <sstream>

#include "core/buffer.h"
#include "core/processor.h"
#include "kernels/lane_ops.h"
#include "tuning/dense_model.h"
#include "tuning/dense_session.h"

namespace sparse {
namespace {

constexpr double kMargin = 0.95;  // a layer has to gain something, or noise decides
constexpr int kRounds = 25, kLeastRounds = 4;
constexpr double kSeconds = 0.04;  // of measuring a layer

constexpr int64_t kUsualImages = 1, kUsualPixels = 56, kUsualTokens = 128;

// `shape` with what is not known filled in; images large enough for the window.
std::vector<int64_t> concrete(const Value& input, const Window& window, std::vector<int64_t> shape) {
  if (shape.empty()) {  // not even the rank is stated
    shape.assign(input.spatial == 0 ? 2 : static_cast<size_t>(input.spatial) + 2, -1);
    shape[1] = input.channels;
  }
  const size_t rank = shape.size();
  for (size_t axis = 0; axis < rank; ++axis) {
    if (shape[axis] > 0) continue;
    if (input.spatial == 0) {
      shape[axis] = axis + 2 == rank ? kUsualTokens : 1;
    } else if (axis == 0) {
      shape[axis] = kUsualImages;
    } else {
      const size_t side = 2 - (rank - axis);  // 1: the last
      shape[axis] = std::max(kUsualPixels, 2 * ((window.kernel[side] - 1) * window.dilations[side] + 1));
    }
  }
  return shape;
}

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

int width_of(const Value& value) { return value.element == Element::F32 ? 4 : 1; }

// The layer by itself, bytes to bytes or floats to floats: no rounding, no residual, no activation, as the dense model
// has none.
Region alone(const Layer& layer, const Value& input) {
  Region region;
  region.values = {input, input};
  region.values[0].name = "x";
  region.values[1].name = "y";
  region.values[1].channels = layer.weights.outputs;
  Layer bare = layer;
  bare.activation = {};
  if (bare.rounding) bare.bias.clear();
  bare.rounding.reset();
  bare.inputs = {0};
  bare.output = 1;
  region.layers.push_back(std::move(bare));
  region.inputs = {0};
  region.outputs = {1};
  return region;
}

// Rows of panels that hold at least one nonzero: with eight bits what a layer costs, with floats the same as columns.
int64_t quads(const Weights& weights) {
  int64_t count = 0;
  for (size_t output = 0; output < static_cast<size_t>(weights.outputs); ++output) {
    int64_t previous = -1;
    for (int64_t i = weights.row_begin[output]; i < weights.row_begin[output + 1]; ++i) {
      const int64_t column = weights.columns[static_cast<size_t>(i)];
      const int64_t quad = column / weights.inputs * weights.inputs + column % weights.inputs / 4;
      count += quad != previous;
      previous = quad;
    }
  }
  return count;
}

}  // namespace

Choice::Choice(const ort::Api& api, std::string runtime, const ProgramOptions& options, TuningCache& cache)
    : api_(api),
      machine_(
          processor_name() + "|ort " + runtime + "|ep " SPARSE_EP_VERSION "|isa " +
          std::to_string(static_cast<int>(best_isa(options.isa < 0 ? Isa::Avx512 : static_cast<Isa>(options.isa)))) +
          (options.jit ? "|jit" : "|no jit")),
      options_(options),
      cache_(cache) {}

Choice::~Choice() { cache_.save(); }

LayerTimes Choice::times(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) {
  const std::vector<int64_t> sizes = concrete(input, layer.window, shape);
  const std::string known_as = key(layer, input, sizes);
  if (const auto known = cache_.find(known_as)) return *known;
  const LayerTimes measured = measure(layer, input, sizes);
  cache_.add(known_as, measured);
  return measured;
}

bool Choice::worth(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) {
  const LayerTimes measured = times(layer, input, shape);
  return measured.sparse < kMargin * measured.dense;
}

bool Choice::worth(const Claim& claim, const GraphView& graph) {
  std::map<std::string, const std::vector<int64_t>*> shapes;
  for (const int index : claim.operators)
    for (const auto* ports :
         {&graph.operators[static_cast<size_t>(index)].inputs, &graph.operators[static_cast<size_t>(index)].outputs})
      for (const int tensor : *ports)
        if (tensor >= 0)
          shapes[graph.tensors[static_cast<size_t>(tensor)].name] = &graph.tensors[static_cast<size_t>(tensor)].shape;
  const auto shape_of = [&](int value) {  // as the graph has it
    const auto found = shapes.find(claim.region.values[static_cast<size_t>(value)].name);
    return found == shapes.end() ? std::vector<int64_t>() : *found->second;
  };
  const auto size_of = [&](int value, const Window& window) {
    const Value& about = claim.region.values[static_cast<size_t>(value)];
    return static_cast<double>(elements(concrete(about, window, shape_of(value))));
  };
  double dense = 0.0, sparse = 0.0, per_byte = 0.0;
  for (const Layer& layer : claim.region.layers) {
    if (layer.kind != Layer::Matrix) continue;
    const int input = layer.inputs[0];
    const Value& about = claim.region.values[static_cast<size_t>(input)];
    const LayerTimes measured = times(layer, about, shape_of(input));
    dense += measured.dense;
    sparse += measured.sparse;
    const double elements = size_of(input, layer.window) + size_of(layer.output, layer.window);
    per_byte = std::max(per_byte, measured.conversion / (elements * width_of(about)));
  }
  for (const auto* values : {&claim.region.inputs, &claim.region.outputs})
    for (const int value : *values) {
      const Value& about = claim.region.values[static_cast<size_t>(value)];
      sparse += per_byte * size_of(value, Window()) * width_of(about);
    }
  return sparse < kMargin * dense;
}

LayerTimes Choice::measure(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) const {
  using Clock = std::chrono::steady_clock;
  DenseSession session(api_, dense_model(layer, input, shape));
  const Program program(alone(layer, input), options_);
  const auto width = static_cast<size_t>(width_of(input));
  const Buffer in(static_cast<size_t>(elements(shape)) * width);
  std::fill_n(in.data(), in.size(), std::byte{0});
  const Buffer out(static_cast<size_t>(elements(program.output_shapes({shape})[0])) * width);
  const void* const inputs[] = {in.data()};
  void* const outputs[] = {out.data()};
  const DataType type = input.element == Element::F32  ? DataType::Float
                        : input.quantization.is_signed ? DataType::Int8
                                                       : DataType::Uint8;

  constexpr double never = std::numeric_limits<double>::infinity();
  LayerTimes best{never, never, never};
  const auto start = Clock::now();
  const auto since = [](Clock::time_point then) { return std::chrono::duration<double>(Clock::now() - then).count(); };
  for (int round = 0; round < kRounds && (round < kLeastRounds || since(start) < kSeconds); ++round) {
    const auto begin = Clock::now();
    session.run(in.data(), in.size(), type, shape);
    const double dense = since(begin);
    const Program::Timing timing = program.time({shape}, inputs, outputs);
    if (round == 0) continue;  // first touches of memory
    best.dense = std::min(best.dense, dense);
    best.sparse = std::min(best.sparse, timing.layers);
    best.conversion = std::min(best.conversion, timing.conversion);
  }
  return best;
}

std::string Choice::key(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) const {
  const Weights& weights = layer.weights;
  const Window& window = layer.window;
  std::ostringstream text;
  text << machine_ << (input.element == Element::F32 ? "|f32" : input.quantization.is_signed ? "|s8" : "|u8");
  for (const int64_t size : shape) text << (&size == shape.data() ? "|in " : "x") << size;
  text << "|out " << weights.outputs << "|groups " << weights.groups;
  for (const auto* pair : {&window.kernel, &window.strides, &window.dilations, &window.begin, &window.end})
    text << '|' << (*pair)[0] << ',' << (*pair)[1];
  // Close enough is the same layer: a hundredth of the weights, and of the quads.
  const double all = static_cast<double>(weights.outputs * weights.inputs / weights.groups * weights.taps);
  text << "|pad " << static_cast<int>(window.auto_pad) << "|nonzero " << std::lround(100.0 * weights.density())
       << "|quads " << std::lround(400.0 * static_cast<double>(quads(weights)) / all);
  return text.str();
}

}  // namespace sparse
