#include "graph/region.h"

namespace sparse {

double Weights::density() const {
  const double elements = static_cast<double>(outputs) * static_cast<double>(inputs) * static_cast<double>(taps);
  return elements > 0 ? static_cast<double>(nonzeros()) * static_cast<double>(groups) / elements : 0.0;
}

}  // namespace sparse
