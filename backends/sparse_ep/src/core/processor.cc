#include "core/processor.h"

#ifdef __x86_64__
#include <cpuid.h>

#include <cstring>
#endif

namespace sparse {

std::string processor_name() {
#ifdef __x86_64__
  unsigned words[12] = {}, family = 0, unused = 0;
  __get_cpuid(1, &family, &unused, &unused, &unused);
  for (unsigned leaf = 0; leaf < 3; ++leaf)
    __get_cpuid(0x80000002u + leaf, &words[leaf * 4], &words[leaf * 4 + 1], &words[leaf * 4 + 2], &words[leaf * 4 + 3]);
  char brand[sizeof words + 1] = {};
  std::memcpy(brand, words, sizeof words);
  return std::string(brand) + " " + std::to_string(family);
#else
  return "other";
#endif
}

}  // namespace sparse
