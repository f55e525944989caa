// The name of this machine's processor, as measurements are remembered by.
#pragma once

#include <string>

namespace sparse {

std::string processor_name();

}  // namespace sparse
