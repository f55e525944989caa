#include "provider/options.h"

#include <charconv>
#include <cstdlib>

#include "kernels/lane_ops.h"
#include "ort/api.h"

namespace sparse {

namespace {

constexpr char kPrefix[] = "ep.sparseexecutionprovider.";
constexpr int kMostThreads = 1024;

[[noreturn]] void refuse(const std::string& name, const std::string& value, const std::string& takes) {
  throw ort::InvalidArgument("option " + name + " takes " + takes + ", not '" + value + "'");
}

int parse_threads(const std::string& value) {
  int threads = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, threads);
  if (error != std::errc() || stop != end || threads < 0 || threads > kMostThreads) {
    refuse("threads", value, "a number from 0 (all of the session's) to " + std::to_string(kMostThreads));
  }
  return threads;
}

// By hand, for strtod reads the decimal point of the process's locale, and from_chars of GCC 10 no floats at all.
double parse_share(const std::string& value) {
  const size_t point = value.find('.');
  const std::string whole = value.substr(0, point);
  const std::string fraction = point == std::string::npos ? "" : value.substr(point + 1);
  const std::string digits = whole + fraction;
  double share = 0.0;
  bool good = !digits.empty() && digits.size() <= 15;
  for (const char digit : digits) {
    good = good && digit >= '0' && digit <= '9';
    share = share * 10.0 + (digit - '0');
  }
  for (size_t i = 0; i < fraction.size(); ++i) share /= 10.0;
  if (!good || share > 1.0) refuse("threshold", value, "a share of zeros from 0 to 1");
  return share;
}

bool parse_switch(const std::string& name, const std::string& value) {
  if (value == "on") return true;
  if (value != "off") refuse(name, value, "on or off");
  return false;
}

int parse_isa(const std::string& value) {
  const std::map<std::string, Isa> known = {{"generic", Isa::Generic}, {"avx2", Isa::Avx2}, {"avx512", Isa::Avx512}};
  const auto found = known.find(value);
  if (found == known.end()) refuse("isa", value, "generic, avx2 or avx512");
  if (best_isa(found->second) != found->second) refuse("isa", value, "a set of instructions that this processor has");
  return static_cast<int>(found->second);
}

}  // namespace

Options parse_options(const std::map<std::string, std::string>& configuration) {
  const std::string prefix = kPrefix;
  Options options;
  for (const auto& [key, value] : configuration) {
    if (key.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string name = key.substr(prefix.size());
    if (name == "threads") {
      options.threads = parse_threads(value);
    } else if (name == "threshold") {
      options.threshold = parse_share(value);
    } else if (name == "tuning") {
      options.tuning = parse_switch(name, value);
    } else if (name == "jit") {
      options.jit = parse_switch(name, value);
    } else if (name == "cache") {
      options.cache = value;
    } else if (name == "isa") {
      options.isa = parse_isa(value);
    } else {
      throw ort::InvalidArgument("no option " + name + ": there are threads, threshold, tuning, jit, cache and isa");
    }
  }
  return options;
}

}  // namespace sparse
