// A fused node of a session: a program and the places of its inputs and outputs.
#pragma once

#include <cstddef>
#include <vector>

#include "ort/api.h"
#include "program/program.h"
#include "provider/session_threads.h"

namespace sparse {

class CompiledNode : public ort::ComputeInfo {
 public:
  // `graph` is what `fused` stands for. Both are only read here. `threads` has to outlive the node.
  CompiledNode(const ort::Api& api, const ort::Graph* graph, const ort::Node* fused, const ProgramOptions& options,
               ThreadCount& threads);

 private:
  CompiledNode(const ort::Api& api, Region region, const ort::Node* fused, const ProgramOptions& options,
               ThreadCount& threads);

  void run(ort::KernelContext* context) const;

  const ort::Api& api_;
  ThreadCount& threads_;
  // Of the region's inputs and outputs, in its order: their places among those of the fused node.
  std::vector<size_t> inputs_, outputs_;
  Program program_;
};

}  // namespace sparse
