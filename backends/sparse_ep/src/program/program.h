// A region compiled to kernels, and its runs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "graph/region.h"

namespace sparse {

struct ProgramOptions {
  bool jit = true;  // false: kernels compiled ahead of time only
  int isa = -1;     // -1: the best this processor has; 0 generic, 1 AVX2, 2 AVX-512 (for tests)
};

class Program {
 public:
  // Throws std::runtime_error when a layer cannot be compiled.
  Program(Region region, const ProgramOptions& options);
  ~Program();

  using Shape = std::vector<int64_t>;

  // Shapes of the region's outputs for shapes of its inputs. Throws std::runtime_error when they do not fit.
  std::vector<Shape> output_shapes(const std::vector<Shape>& inputs) const;

  // Run once. Data lies as in the model (NCHW or rows of tokens; float, uint8 or int8), in the order of the region's
  // inputs and outputs. Any number of threads may call it at once.
  void run(const std::vector<Shape>& shapes, const void* const* inputs, void* const* outputs, Parallel& parallel) const;

  // Seconds of a run: turning inputs into blocks and outputs out of them, and everything between.
  struct Timing {
    double conversion = 0.0, layers = 0.0;
  };

  // Run once on this thread alone, and time it.
  Timing time(const std::vector<Shape>& shapes, const void* const* inputs, void* const* outputs) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace sparse
