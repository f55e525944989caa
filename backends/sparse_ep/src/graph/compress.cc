#include "graph/compress.h"

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace sparse {
namespace {

bool is_finite(float value) { return std::fabs(value) <= FLT_MAX; }
bool is_finite(int8_t) { return true; }

std::vector<float>& stored(Weights& weights, float) { return weights.values; }
std::vector<int8_t>& stored(Weights& weights, int8_t) { return weights.quantized; }

// Nonzeros of each output; false if an element is not finite. Runs over the tensor in the order of its memory.
template <class Element>
bool count(const DenseWeights& dense, const Element* data, std::vector<int64_t>& counts) {
  bool finite = true;
  if (dense.output_stride == 1) {
    for (int64_t channel = 0; channel < dense.channels; ++channel) {
      const Element* row = data + channel * dense.channel_stride;
      for (int64_t output = 0; output < dense.outputs; ++output) {
        counts[static_cast<size_t>(output)] += row[output] != 0;
        finite &= is_finite(row[output]);
      }
    }
    return finite;
  }
  const int64_t size = dense.channels * dense.taps;
  for (int64_t output = 0; output < dense.outputs; ++output) {
    const Element* row = data + output * dense.output_stride;
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < size; ++i) {
      nonzeros += row[i] != 0;
      finite &= is_finite(row[i]);
    }
    counts[static_cast<size_t>(output)] = nonzeros;
  }
  return finite;
}

// [channels][outputs], one tap: rows grow side by side while the tensor is read from front to back.
template <class Element>
void fill_transposed(const DenseWeights& dense, const Element* data, Weights& weights) {
  std::vector<Element>& values = stored(weights, Element());
  std::vector<int64_t> next(weights.row_begin.begin(), weights.row_begin.end() - 1);
  for (int64_t channel = 0; channel < dense.channels; ++channel) {
    const Element* row = data + channel * dense.channel_stride;
    for (int64_t output = 0; output < dense.outputs; ++output) {
      if (row[output] == 0) continue;
      const size_t place = static_cast<size_t>(next[static_cast<size_t>(output)]++);
      weights.columns[place] = static_cast<int32_t>(channel);
      values[place] = row[output];
    }
  }
}

template <class Element>
void fill(const DenseWeights& dense, const Element* data, Weights& weights) {
  std::vector<Element>& values = stored(weights, Element());
  const int64_t outputs_per_group = dense.outputs / dense.groups;
  size_t place = 0;
  for (int64_t output = 0; output < dense.outputs; ++output) {
    const Element* row = data + output * dense.output_stride;
    const int64_t first = output / outputs_per_group * dense.channels;
    for (int64_t tap = 0; tap < dense.taps; ++tap) {
      for (int64_t channel = 0; channel < dense.channels; ++channel) {
        const Element value = row[channel * dense.channel_stride + tap];
        if (value == 0) continue;
        weights.columns[place] = static_cast<int32_t>(tap * weights.inputs + first + channel);
        values[place++] = value;
      }
    }
  }
}

template <class Element>
std::optional<Weights> compress_elements(const DenseWeights& dense, const Element* data, double threshold) {
  Weights weights;
  weights.outputs = dense.outputs;
  weights.inputs = dense.channels * dense.groups;
  weights.taps = dense.taps;
  weights.groups = dense.groups;
  if (weights.inputs > INT32_MAX / dense.taps) return std::nullopt;

  std::vector<int64_t> counts(static_cast<size_t>(dense.outputs));
  if (!count(dense, data, counts)) return std::nullopt;
  weights.row_begin.resize(counts.size() + 1);
  std::partial_sum(counts.begin(), counts.end(), weights.row_begin.begin() + 1);
  const int64_t nonzeros = weights.row_begin.back(), elements = dense.elements();
  if (static_cast<double>(elements - nonzeros) < threshold * static_cast<double>(elements)) return std::nullopt;

  weights.columns.resize(static_cast<size_t>(nonzeros));
  stored(weights, Element()).resize(static_cast<size_t>(nonzeros));
  if (dense.output_stride == 1 && dense.taps == 1 && dense.groups == 1) {
    fill_transposed(dense, data, weights);
  } else {
    fill(dense, data, weights);
  }
  return weights;
}

}  // namespace

std::optional<Weights> compress(const DenseWeights& dense, const float* data, double threshold) {
  return compress_elements(dense, data, threshold);
}

std::optional<Weights> compress(const DenseWeights& dense, const int8_t* data, double threshold) {
  return compress_elements(dense, data, threshold);
}

}  // namespace sparse
