// Dense weights of the model to rows without zeros.
#pragma once

#include <optional>
#include <vector>

#include "graph/region.h"

namespace sparse {

// Where a matrix lies in the model's tensor: element (output, channel of its group, tap) stands at
// output * output_stride + channel * channel_stride + tap.
struct DenseWeights {
  int64_t outputs = 0, channels = 0, taps = 1, groups = 1;
  int64_t output_stride = 0, channel_stride = 0;

  int64_t elements() const { return outputs * channels * taps; }
};

// Rows without zeros (0.0 and -0.0). Nothing if less than `threshold` of the elements are zero, if an element is not
// finite, or if there are more columns than their type holds. Neither scales nor bias are set.
std::optional<Weights> compress(const DenseWeights& dense, const float* data, double threshold);
std::optional<Weights> compress(const DenseWeights& dense, const int8_t* data, double threshold);

}  // namespace sparse
