// Options of the provider, as the user writes them: `ep.sparseexecutionprovider.<name>` in the session's configuration.
#pragma once

#include <map>
#include <string>

namespace sparse {

constexpr char kProviderName[] = "SparseExecutionProvider";

struct Options {
  int threads = 0;         // most threads of the session's pool that a run uses; 0: all
  double threshold = 0.5;  // least share of zeros in the weights of a layer that is taken
  bool tuning = true;      // measure at load which layers gain
  bool jit = true;         // generate machine code at load
  std::string cache;       // directory of what tuning measured; empty: the user's cache directory
  int isa = -1;            // -1: the best of this processor; otherwise an Isa
};

// Takes the whole configuration of a session, whose other entries it ignores.
// Throws ort::InvalidArgument naming the option and what it takes.
Options parse_options(const std::map<std::string, std::string>& configuration);

}  // namespace sparse
