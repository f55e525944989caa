// The execution provider of one session: which parts of a graph it takes, and their compilation.
#pragma once

#include "ort/api.h"
#include "provider/options.h"
#include "provider/session_threads.h"

namespace sparse {

class Provider : public ort::Ep {
 public:
  // `api` has to outlive the provider.
  Provider(const ort::Api& api, const Options& options);

 private:
  void take(const ort::Graph* graph, ort::GraphSupportInfo* support);
  void compile_all(const ort::Graph** graphs, const ort::Node** fused, size_t count, ort::ComputeInfo** infos);

  const ort::Api& api_;
  Options options_;
  ThreadCount threads_;  // shared by the nodes of the session
  bool taken_ = false;   // anything yet
};

}  // namespace sparse
