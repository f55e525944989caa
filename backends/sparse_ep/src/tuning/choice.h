// Which layers gain from sparse kernels on this machine: measured, remembered.
#pragma once

#include <string>
#include <vector>

#include "graph/claim.h"
#include "ort/api.h"
#include "program/program.h"
#include "tuning/cache.h"

namespace sparse {

class Choice {
 public:
  // `runtime`: version of ONNX Runtime, part of what a measurement is remembered by.
  Choice(const ort::Api& api, std::string runtime, const ProgramOptions& options, TuningCache& cache);
  ~Choice();  // saves the cache

  // Times of one layer on one thread; dimensions that are not known are taken as one image, 56 pixels, 128 tokens.
  LayerTimes times(const Layer& layer, const Value& input, const std::vector<int64_t>& shape);

  // Is the layer faster than the dense one, its values being in blocks already?
  bool worth(const Layer& layer, const Value& input, const std::vector<int64_t>& shape);

  // Are the layers together, with what enters and leaves converted, faster than the dense ones?
  bool worth(const Claim& claim, const GraphView& graph);

 private:
  LayerTimes measure(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) const;
  std::string key(const Layer& layer, const Value& input, const std::vector<int64_t>& shape) const;

  const ort::Api& api_;
  const std::string machine_;
  const ProgramOptions options_;
  TuningCache& cache_;
};

}  // namespace sparse
