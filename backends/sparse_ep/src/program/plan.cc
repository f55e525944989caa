#include "program/plan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "program/layouts.h"
#include "program/order.h"
#include "program/place.h"
#include "program/shapes.h"

namespace sparse {
namespace {

using Shape = std::vector<int64_t>;

// A tile's panels and results should stay in the second-level cache while its parts of code go by.
constexpr int64_t kTileBytes = 640 << 10;
constexpr int64_t kLeastTile = 4, kMostTile = 16;
// What is read once for every tile. Of more the threads take a share each, rather than tiles.
constexpr int64_t kMuchCode = 256 << 10;

uint32_t word_of(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

uint32_t padding_of(const Layer& layer, const Value& in) {
  const bool max = layer.kind == Layer::MaxPool;
  if (in.element == Element::F32) return max ? word_of(std::numeric_limits<float>::lowest()) : 0;
  return max ? 0 : static_cast<uint32_t>(in.quantization.zero_point) * 0x01010101u;
}

// Dedupe what the taps of a range pack, tile by tile.
TilePacks tile_packs(const Gather& gather, int64_t blocks, int64_t tile, int64_t tap_begin, int64_t tap_end) {
  TilePacks packs;
  std::vector<int32_t> slot(gather.copies.size(), -1);
  packs.begin.push_back(0);
  for (int64_t first = 0; first < blocks; first += tile) {
    const int32_t base = packs.begin.back();
    for (int64_t block = first; block < std::min(blocks, first + tile); ++block)
      for (int64_t tap = tap_begin; tap < tap_end; ++tap) {
        const int32_t panel = gather.panels[static_cast<size_t>(block * gather.taps + tap)];
        if (panel > -2) {
          packs.slots.push_back(-1);
          continue;
        }
        int32_t& known = slot[static_cast<size_t>(-2 - panel)];
        if (known < base) {
          known = static_cast<int32_t>(packs.copies.size());
          packs.copies.push_back(-2 - panel);
        }
        packs.slots.push_back(known - base);
      }
    packs.begin.push_back(static_cast<int32_t>(packs.copies.size()));
    packs.most = std::max(packs.most, packs.begin.back() - base);
  }
  return packs;
}

int64_t tile_for(const Step& step, int threads) {
  int64_t bytes = step.out.block_bytes();
  if (step.kernel) {
    const std::vector<Chunk>& chunks = step.kernel->plan().chunks;
    int64_t longest = 0;
    for (const Chunk& chunk : chunks)
      longest = std::max(longest, (chunk.tap_end - chunk.tap_begin) * (chunk.row_end - chunk.row_begin));
    bytes = longest * kRowBytes;
    if (chunks.size() > 1) bytes += step.kernel->plan().outputs * kRowBytes;  // sums come back for every chunk
  } else if (step.gather && step.gather->packed()) {
    bytes += step.gather->taps * step.in.block_bytes();
  }
  const int64_t most = std::clamp(kTileBytes / std::max<int64_t>(bytes, 1), kLeastTile, kMostTile);
  // Even ones, and as many for each thread; few blocks, or much code, are shared by groups of outputs.
  const int64_t blocks = std::max<int64_t>(step.out.blocks(), 1);
  int64_t tiles = std::max<int64_t>(1, (blocks + most / 2) / most);  // up to half as large again rather than one more
  const bool much_code = step.kernel && step.kernel->bytes() > kMuchCode;
  if (blocks >= (much_code ? kMostTile : kLeastTile) * threads) tiles = (tiles + threads - 1) / threads * threads;
  return (blocks + tiles - 1) / tiles;
}

void prepare_tiles(int threads, Step* step) {
  step->tile = tile_for(*step, threads);
  if (!step->gather || !step->gather->packed()) return;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  if (!step->kernel) {
    ranges.push_back({0, step->gather->taps});
  } else {
    for (const Chunk& chunk : step->kernel->plan().chunks) {
      const std::pair<int64_t, int64_t> range{chunk.tap_begin, chunk.tap_end};
      if (ranges.empty() || ranges.back() != range) ranges.push_back(range);
      step->range_of_chunk.push_back(ranges.size() - 1);
    }
  }
  for (const auto& [begin, end] : ranges)
    step->packs.push_back(tile_packs(*step->gather, step->out.blocks(), step->tile, begin, end));
}

// real = input scale * weight scale * (sum - zero point * sum of weights) + bias, in steps of the rounding if there is
// one
void prepare_requantization(const Layer& layer, const Quantization& in, Step* step) {
  const Weights& weights = layer.weights;
  const double unit = layer.rounding ? layer.rounding->scale : 1.0;
  for (size_t output = 0; output < static_cast<size_t>(weights.outputs); ++output) {
    int64_t sum = 0;
    for (int64_t i = weights.row_begin[output]; i < weights.row_begin[output + 1]; ++i)
      sum += weights.quantized[static_cast<size_t>(i)];
    const double multiplier = static_cast<double>(in.scale) * weights.scales[output] / unit;
    const double bias = weights.bias.empty() ? 0.0 : weights.bias[output] / unit;
    step->multipliers.push_back(static_cast<float>(multiplier));
    step->biases.push_back(static_cast<float>(bias - multiplier * static_cast<double>(in.zero_point * sum)));
  }
  step->shifts = layer.bias;
  step->shifts.resize(static_cast<size_t>(weights.outputs));
}

void prepare_average(const PlacedWindow& window, Step* step) {
  const float taps = static_cast<float>(window.taps());
  step->lane_weights = inside_taps(step->in, step->out, window);
  for (float& weight : step->lane_weights)
    weight = step->layer->window.count_include_pad ? 1.0f / taps : weight > 0.0f ? 1.0f / weight : 0.0f;
}

// `tile`: of the step before, with which an export goes in step. An import follows whatever is asked of it.
Step conversion(Step::Kind kind, int value, size_t port, int64_t tile, const std::vector<Layout>& layouts) {
  Step step;
  step.kind = kind;
  (kind == Step::Import ? step.output : step.inputs.emplace_back()) = value;
  step.port = port;
  step.in = step.out = layouts[static_cast<size_t>(value)];
  step.tile = tile;
  if (step.in.lanes == Layout::Tiles)  // turned in whole squares, or as wide as a tile is
    step.tile = step.in.grid.across == 1 ? kLanes : step.in.tile_w();
  return step;
}

Step computation(const Region& region, const Layer& layer, const SparseKernel* kernel,
                 const std::vector<Layout>& layouts, int threads, GatherCache* gathers) {
  const auto source = static_cast<size_t>(layer.inputs[0]);
  Step step;
  step.inputs = layer.inputs;
  step.output = layer.output;
  step.layer = &layer;
  step.kernel = kernel;
  step.in = layouts[source];
  step.out = layouts[static_cast<size_t>(layer.output)];
  if (windowed(layer)) {
    const PlacedWindow window = place(layer.window, {step.in.n, step.in.h, step.in.w});
    step.gather = gathers->get(step.in, step.out, window);
    step.fill = padding_of(layer, region.values[source]);
    step.padding = Buffer(static_cast<size_t>(step.in.block_bytes()));
    std::fill_n(reinterpret_cast<uint32_t*>(step.padding.data()), step.in.block_bytes() / 4, step.fill);
    if (layer.kind == Layer::AveragePool) prepare_average(window, &step);
  }
  if (layer.kind == Layer::Matrix && step.in.element == Element::Q8)
    prepare_requantization(layer, region.values[source].quantization, &step);
  prepare_tiles(threads, &step);
  return step;
}

}  // namespace

std::unique_ptr<const Plan> make_plan(const Region& region, const std::vector<const SparseKernel*>& kernels,
                                      const std::vector<Shape>& input_shapes, int threads) {
  auto plan = std::make_unique<Plan>();
  plan->shapes = value_shapes(region, input_shapes);
  GatherCache gathers;
  plan->layouts = choose_layouts(region, kernels, plan->shapes, threads, &gathers);
  std::vector<char> imported(region.values.size(), 0);
  std::vector<int> home(region.values.size());  // whose bytes a value has: another's, where it is only reshaped
  std::iota(home.begin(), home.end(), 0);
  for (size_t i = 0; i < region.layers.size(); ++i) {
    const Layer& layer = region.layers[i];
    for (const int value : layer.inputs)  // as late as possible
      for (size_t port = 0; port < region.inputs.size(); ++port)
        if (region.inputs[port] == value && !std::exchange(imported[static_cast<size_t>(value)], 1))
          plan->steps.push_back(conversion(Step::Import, value, port, 1, plan->layouts));
    if (layer.kind == Layer::Reshape) {
      home[static_cast<size_t>(layer.output)] = home[static_cast<size_t>(layer.inputs[0])];
    } else {
      plan->steps.push_back(computation(region, layer, kernels[i], plan->layouts, threads, &gathers));
    }
    for (size_t port = 0; port < region.outputs.size(); ++port)
      if (region.outputs[port] == layer.output)
        plan->steps.push_back(conversion(Step::Export, layer.output, port, plan->steps.back().tile, plan->layouts));
  }
  for (Step& step : plan->steps)
    for (int& input : step.inputs) input = home[static_cast<size_t>(input)];
  plan->items = order_of_work(plan->steps, region.values.size());
  place_values(plan.get());
  for (size_t i = 0; i < home.size(); ++i) {
    plan->offsets[i] = plan->offsets[static_cast<size_t>(home[i])];
    plan->passing[i] = plan->passing[static_cast<size_t>(home[i])];
  }
  return plan;
}

}  // namespace sparse
