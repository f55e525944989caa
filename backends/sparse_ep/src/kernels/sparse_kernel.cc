#include "kernels/sparse_kernel.h"

#include <algorithm>
#include <cstring>

namespace sparse {
namespace {

constexpr int64_t kAvx512Widest = 30, kAvx2Widest = 6, kCompiledWidest = 8;

// Generated AVX2 code takes 22 bytes for a nonzero; from beyond the second-level cache it is slower than compressed
// rows.
constexpr int64_t kMostAvx2 = (int64_t{1} << 20) / 22;

// Rows are loaded for every group. Below this share of nonzeros that costs more than parts of uneven length.
constexpr double kScarce = 0.15;

// A part should be long enough that loading and storing its sums is nothing beside it, and its panel short enough to
// stay in the first-level cache.
constexpr double kPartNonzeros = 1500;
constexpr int64_t kShortestChunk = 384, kLongestChunk = 1152;

// Groups that begin at multiples of `unit`: of even size, or as large as may be and one of what is left.
std::vector<Group> split_outputs(int64_t outputs, int64_t widest, int64_t unit, bool even) {
  const int64_t units = (outputs + unit - 1) / unit, most = widest / unit, count = (units + most - 1) / most;
  std::vector<Group> groups;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = even ? units * i / count : most * i, end = even ? units * (i + 1) / count : most * (i + 1);
    groups.push_back({begin * unit, std::min(outputs, end * unit)});
  }
  return groups;
}

std::vector<Chunk> split_reduction(int64_t taps, int64_t rows, int64_t target) {
  std::vector<Chunk> chunks;
  if (rows > target) {
    const int64_t pieces = (rows + target - 1) / target;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < pieces; ++i) chunks.push_back({tap, tap + 1, rows * i / pieces, rows * (i + 1) / pieces});
    return chunks;
  }
  const int64_t most = std::max<int64_t>(1, target / std::max<int64_t>(1, rows));
  const int64_t count = (taps + most - 1) / most;
  for (int64_t i = 0; i < count; ++i) chunks.push_back({taps * i / count, taps * (i + 1) / count, 0, rows});
  return chunks;
}

// Nonzeros of the whole layer by (output, tap, row): single weights, or quads of four neighbouring channels.
std::vector<Nonzero> nonzeros_of(const Weights& weights, Element element) {
  std::vector<Nonzero> all;
  all.reserve(weights.columns.size());
  for (int64_t output = 0; output < weights.outputs; ++output) {
    const size_t first = all.size();
    for (int64_t i = weights.row_begin[static_cast<size_t>(output)];
         i < weights.row_begin[static_cast<size_t>(output) + 1]; ++i) {
      const auto index = static_cast<size_t>(i);
      const int64_t tap = weights.columns[index] / weights.inputs, channel = weights.columns[index] % weights.inputs;
      Nonzero nonzero{static_cast<int32_t>(tap), static_cast<int32_t>(channel), static_cast<int32_t>(output), 0};
      if (element == Element::F32) {
        std::memcpy(&nonzero.payload, &weights.values[index], 4);
        all.push_back(nonzero);
        continue;
      }
      nonzero.row = static_cast<int32_t>(channel / 4);
      if (all.size() == first || all.back().tap != nonzero.tap || all.back().row != nonzero.row) all.push_back(nonzero);
      all.back().payload |= static_cast<uint32_t>(static_cast<uint8_t>(weights.quantized[index]))
                            << (8 * (channel % 4));
    }
  }
  return all;
}

}  // namespace

KernelPlan plan_kernel(const Weights& weights, Element element, const Activation& activation, bool residual,
                       int64_t widest) {
  KernelPlan plan;
  plan.element = element;
  plan.outputs = weights.outputs;
  plan.taps = weights.taps;
  plan.rows = element == Element::F32 ? weights.inputs : (weights.inputs + 3) / 4;
  if (element == Element::F32) {
    plan.bias = weights.bias;
    plan.activation = activation;
    plan.residual = residual;
  }
  const std::vector<Nonzero> all = nonzeros_of(weights, element);
  plan.nonzeros = static_cast<int64_t>(all.size());
  const int64_t unit = element == Element::F32 ? 1 : 4;  // whole rows of a Q8 result
  const bool even = plan.nonzeros > kScarce * static_cast<double>(plan.outputs * plan.taps * plan.rows);
  plan.groups = split_outputs(plan.outputs, widest, unit, even);
  const double per_row = static_cast<double>(all.size()) /
                         static_cast<double>(std::max<int64_t>(1, plan.taps * plan.rows)) /
                         static_cast<double>(plan.groups.size());
  const double wanted = std::min(kPartNonzeros / std::max(per_row, 1e-6), static_cast<double>(kLongestChunk));
  plan.chunks = split_reduction(plan.taps, plan.rows, std::max(kShortestChunk, static_cast<int64_t>(wanted)));

  std::vector<size_t> chunk_of(static_cast<size_t>(plan.taps * plan.rows)), group_of(static_cast<size_t>(plan.outputs));
  for (size_t chunk = 0; chunk < plan.chunks.size(); ++chunk)
    for (int64_t tap = plan.chunks[chunk].tap_begin; tap < plan.chunks[chunk].tap_end; ++tap)
      for (int64_t row = plan.chunks[chunk].row_begin; row < plan.chunks[chunk].row_end; ++row)
        chunk_of[static_cast<size_t>(tap * plan.rows + row)] = chunk;
  for (size_t group = 0; group < plan.groups.size(); ++group)
    for (int64_t output = plan.groups[group].begin; output < plan.groups[group].end; ++output)
      group_of[static_cast<size_t>(output)] = group;
  plan.parts.resize(plan.chunks.size() * plan.groups.size());
  for (const Nonzero& nonzero : all) {
    const size_t chunk = chunk_of[static_cast<size_t>(nonzero.tap * plan.rows + nonzero.row)];
    plan.parts[chunk * plan.groups.size() + group_of[static_cast<size_t>(nonzero.output)]].push_back(nonzero);
  }
  for (std::vector<Nonzero>& part : plan.parts)
    std::stable_sort(part.begin(), part.end(),
                     [](const Nonzero& a, const Nonzero& b) { return a.tap != b.tap ? a.tap < b.tap : a.row < b.row; });
  return plan;
}

std::unique_ptr<const SparseKernel> make_kernel(const Weights& weights, Element element, const Activation& activation,
                                                bool residual, Isa isa, bool jit) {
  const auto planned = [&](int64_t widest) { return plan_kernel(weights, element, activation, residual, widest); };
#ifdef __x86_64__
  if (jit && isa == Isa::Avx512)
    if (auto kernel = make_avx512_kernel(planned(kAvx512Widest))) return kernel;
  if (jit && isa == Isa::Avx2 && element == Element::F32 && weights.nonzeros() < kMostAvx2)
    if (auto kernel = make_avx2_kernel(planned(kAvx2Widest))) return kernel;
#endif
  return make_compiled_kernel(planned(kCompiledWidest), isa);
}

}  // namespace sparse
