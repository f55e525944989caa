// Normalisation of every lane over its rows: the mean first, then the squares of what differs from it, in doubles.
#include "kernels/lanes/doubles.h"
#include "kernels/lanes/lanes.h"

namespace sparse {
namespace SPARSE_ISA {
namespace {

// The sum of value(row) over all rows; four by four apart, so that additions need not wait for one another.
template <class Value>
Doubles total(int64_t rows, const Value& value) {
  Doubles sums[4] = {};
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    for (int i = 0; i < 4; ++i) sums[i] = sums[i] + doubles(value(row + i));
  }
  for (; row < rows; ++row) sums[0] = sums[0] + doubles(value(row));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace

void layer_norm(const float* in, int64_t rows, const float* scale, const float* bias, float epsilon, float* out) {
  const double count = static_cast<double>(rows);
  for (int lane = 0; lane < kLanes; lane += kWidth) {
    const float* from = in + lane;
    const Doubles sum = total(rows, [=](int64_t row) { return load_floats(from + row * kLanes); });
    // The mean in two floats: subtracting the first is exact where it matters, namely close to the mean.
    Floats high, low, factor;
    for (int i = 0; i < kWidth; ++i) {
      high[i] = static_cast<float>(sum[i] / count);
      low[i] = static_cast<float>(sum[i] / count - static_cast<double>(high[i]));
    }
    const auto centred = [=](int64_t row) { return (load_floats(from + row * kLanes) - high) - low; };
    const Doubles squares = total(rows, [=](int64_t row) { return centred(row) * centred(row); });
    for (int i = 0; i < kWidth; ++i) {
      factor[i] = static_cast<float>(1.0 / __builtin_sqrt(squares[i] / count + static_cast<double>(epsilon)));
    }
    for (int64_t row = 0; row < rows; ++row) {
      store(out + row * kLanes + lane, centred(row) * factor * scale[row] + bias[row]);
    }
  }
}

}  // namespace SPARSE_ISA
}  // namespace sparse
