#include "program/shapes.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "program/extents.h"

namespace sparse {
namespace {

using Shape = std::vector<int64_t>;

// `target` with its -1 worked out.
Shape reshaped(const std::string& name, const Shape& from, Shape target) {
  int64_t elements = 1, known = 1;
  for (const int64_t size : from) elements *= size;
  for (const int64_t size : target) known *= size < 0 ? 1 : size;
  for (int64_t& size : target)
    if (size < 0) size = known == 0 ? 0 : elements / known;
  known = 1;
  for (const int64_t size : target) known *= size;
  if (known != elements)
    throw std::runtime_error("'" + name + "' cannot have " + std::to_string(known) + " elements: it is made of " +
                             std::to_string(elements));
  return target;
}

// Shape of the output; what is added to it must have it too.
Shape output_shape(const Region& region, const Layer& layer, const std::vector<Shape>& shapes) {
  const auto source = static_cast<size_t>(layer.inputs[0]);
  const Value& in = region.values[source];
  const Value& out = region.values[static_cast<size_t>(layer.output)];
  Shape shape = shapes[source];
  if (layer.kind == Layer::Reshape) return reshaped(out.name, shape, layer.shape);
  if (in.spatial == 0) {
    shape.back() = out.channels;
  } else {
    shape[1] = out.channels;
    if (layer.kind == Layer::GlobalAveragePool) {
      std::fill(shape.begin() + 2, shape.end(), 1);
    } else if (windowed(layer)) {
      const Extent extent = window_output(layer.window, extent_of(in, shapes[source]));
      if (in.spatial == 2) shape[2] = extent.h;
      shape.back() = extent.w;
    }
  }
  for (size_t i = 1; i < layer.inputs.size(); ++i)
    if (shapes[static_cast<size_t>(layer.inputs[i])] != shape)
      throw std::runtime_error("'" + region.values[static_cast<size_t>(layer.inputs[i])].name +
                               "' does not have the shape of '" + out.name + "', to which it is added");
  return shape;
}

}  // namespace

bool windowed(const Layer& layer) {
  return layer.kind == Layer::Matrix || layer.kind == Layer::MaxPool || layer.kind == Layer::AveragePool;
}

std::vector<Shape> value_shapes(const Region& region, const std::vector<Shape>& input_shapes) {
  std::vector<Shape> shapes(region.values.size());
  for (size_t i = 0; i < region.inputs.size(); ++i) {
    const auto value = static_cast<size_t>(region.inputs[i]);
    extent_of(region.values[value], input_shapes.at(i));
    shapes[value] = input_shapes[i];
  }
  for (const Layer& layer : region.layers)
    shapes[static_cast<size_t>(layer.output)] = output_shape(region, layer, shapes);
  return shapes;
}

}  // namespace sparse
