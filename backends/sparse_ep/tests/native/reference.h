// Regions computed the plain way, in double precision on NCHW, to compare programs with. Values of bytes are the real
// numbers that the bytes stand for.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "graph/region.h"
#include "program/extents.h"

namespace sparse::reference {

struct Image {
  Extent extent;
  int64_t channels = 0;
  std::vector<double> data;  // [n][channels][h][w]

  Image() = default;
  Image(const Extent& e, int64_t c) : extent(e), channels(c), data(static_cast<size_t>(e.positions() * c), 0.0) {}
  double& at(int64_t n, int64_t c, int64_t y, int64_t x) {
    return data[static_cast<size_t>(((n * channels + c) * extent.h + y) * extent.w + x)];
  }
  double at(int64_t n, int64_t c, int64_t y, int64_t x) const { return const_cast<Image*>(this)->at(n, c, y, x); }
  bool inside(int64_t y, int64_t x) const { return y >= 0 && y < extent.h && x >= 0 && x < extent.w; }
};

inline double activate(const Activation& activation, double x) {
  switch (activation.kind) {
    case Activation::None:
      return x;
    case Activation::Relu:
      return std::max(x, 0.0);
    case Activation::LeakyRelu:
      return x < 0.0 ? activation.alpha * x : x;
    case Activation::Clip:
      return std::min(std::max(x, double{activation.alpha}), double{activation.beta});
    case Activation::HardSwish:
      return x * std::max(0.0, std::min(1.0, x / 6.0 + 0.5));
    case Activation::HardSigmoid:
      return std::max(0.0, std::min(1.0, activation.alpha * x + activation.beta));
    case Activation::Sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Activation::Gelu:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::GeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

inline double rounded(double x, const Quantization& to) {
  const double steps = std::nearbyint(x / double{to.scale});
  return double{to.scale} * std::min(std::max(steps, -double(to.zero_point)), 255.0 - to.zero_point);
}

// Calls body(tap, y, x) for the places in the input that an output pixel reads.
template <class Body>
void over_taps(const PlacedWindow& window, int64_t y, int64_t x, const Body& body) {
  for (int64_t ky = 0; ky < window.kernel[0]; ++ky)
    for (int64_t kx = 0; kx < window.kernel[1]; ++kx)
      body(ky * window.kernel[1] + kx, y * window.strides[0] + ky * window.dilations[0] - window.begin[0],
           x * window.strides[1] + kx * window.dilations[1] - window.begin[1]);
}

inline Image pool(const Layer& layer, const Image& in) {
  if (layer.kind == Layer::GlobalAveragePool) {
    Image out({in.extent.n, 1, 1}, in.channels);
    for (int64_t n = 0; n < in.extent.n; ++n)
      for (int64_t c = 0; c < in.channels; ++c)
        for (int64_t y = 0; y < in.extent.h; ++y)
          for (int64_t x = 0; x < in.extent.w; ++x)
            out.at(n, c, 0, 0) += in.at(n, c, y, x) / static_cast<double>(in.extent.h * in.extent.w);
    return out;
  }
  const PlacedWindow window = place(layer.window, in.extent);
  Image out(window_output(layer.window, in.extent), in.channels);
  for (int64_t n = 0; n < out.extent.n; ++n)
    for (int64_t c = 0; c < in.channels; ++c)
      for (int64_t y = 0; y < out.extent.h; ++y)
        for (int64_t x = 0; x < out.extent.w; ++x) {
          double most = -std::numeric_limits<double>::infinity(), sum = 0.0;
          int64_t count = 0;
          over_taps(window, y, x, [&](int64_t, int64_t iy, int64_t ix) {
            if (!in.inside(iy, ix)) return;
            most = std::max(most, in.at(n, c, iy, ix));
            sum += in.at(n, c, iy, ix);
            ++count;
          });
          const double over =
              layer.window.count_include_pad ? static_cast<double>(window.taps()) : static_cast<double>(count);
          out.at(n, c, y, x) = layer.kind == Layer::MaxPool ? most : sum / over;
        }
  return out;
}

inline Image matrix(const Layer& layer, const Image& in, const Image* residual) {
  const PlacedWindow window = place(layer.window, in.extent);
  const Weights& weights = layer.weights;
  Image out(window_output(layer.window, in.extent), weights.outputs);
  std::vector<double> row(static_cast<size_t>(weights.taps * weights.inputs));
  for (int64_t o = 0; o < weights.outputs; ++o) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int64_t j = weights.row_begin[static_cast<size_t>(o)]; j < weights.row_begin[static_cast<size_t>(o) + 1];
         ++j) {
      const auto i = static_cast<size_t>(j);
      row[static_cast<size_t>(weights.columns[i])] =
          weights.scales.empty() ? weights.values[i]
                                 : double{weights.scales[static_cast<size_t>(o)]} * weights.quantized[i];
    }
    for (int64_t n = 0; n < out.extent.n; ++n)
      for (int64_t y = 0; y < out.extent.h; ++y)
        for (int64_t x = 0; x < out.extent.w; ++x) {
          double sum = weights.bias.empty() ? 0.0 : weights.bias[static_cast<size_t>(o)];
          over_taps(window, y, x, [&](int64_t tap, int64_t iy, int64_t ix) {
            if (!in.inside(iy, ix)) return;
            for (int64_t c = 0; c < in.channels; ++c)
              sum += row[static_cast<size_t>(tap * weights.inputs + c)] * in.at(n, c, iy, ix);
          });
          if (layer.rounding) {
            sum = rounded(sum, *layer.rounding);
            if (!layer.bias.empty()) sum += layer.bias[static_cast<size_t>(o)];
          }
          if (residual) sum += residual->at(n, o, y, x);
          out.at(n, o, y, x) = activate(layer.activation, sum);
        }
  }
  return out;
}

// Of tokens: one image of one row.
inline Image normalized(const Layer& layer, const Image& in) {
  Image out = in;
  const auto count = static_cast<double>(in.channels);
  for (int64_t x = 0; x < in.extent.w; ++x) {
    double mean = 0.0, variance = 0.0;
    for (int64_t c = 0; c < in.channels; ++c) mean += in.at(0, c, 0, x) / count;
    for (int64_t c = 0; c < in.channels; ++c) variance += std::pow(in.at(0, c, 0, x) - mean, 2) / count;
    for (int64_t c = 0; c < in.channels; ++c) {
      const auto i = static_cast<size_t>(c);
      out.at(0, c, 0, x) =
          (in.at(0, c, 0, x) - mean) / std::sqrt(variance + double{layer.epsilon}) * layer.scale[i] + layer.bias[i];
    }
  }
  return out;
}

// All values of a region, its layers over images or over tokens.
inline std::vector<Image> run(const Region& region, const std::vector<Image>& inputs) {
  std::vector<Image> values(region.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(region.inputs[i])] = inputs[i];
  for (const Layer& layer : region.layers) {
    const Image& in = values[static_cast<size_t>(layer.inputs[0])];
    const Image* other = layer.inputs.size() > 1 ? &values[static_cast<size_t>(layer.inputs[1])] : nullptr;
    Image out;
    if (layer.kind == Layer::Matrix) {
      out = matrix(layer, in, other);
    } else if (layer.kind == Layer::Sum || layer.kind == Layer::Activate) {
      out = in;
      for (size_t i = 0; i < out.data.size(); ++i)
        out.data[i] = activate(layer.activation, out.data[i] + (other ? other->data[i] : 0.0));
    } else if (layer.kind == Layer::LayerNorm) {
      out = normalized(layer, in);
    } else {
      out = pool(layer, in);
    }
    const Value& form = region.values[static_cast<size_t>(layer.output)];
    if (form.element == Element::Q8)
      for (double& x : out.data) x = rounded(x, form.quantization);
    values[static_cast<size_t>(layer.output)] = std::move(out);
  }
  return values;
}

}  // namespace sparse::reference
