// What tuning measured before, kept in memory and on disk.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace sparse {

// Seconds that one layer takes, on one thread.
struct LayerTimes {
  double dense = 0.0;       // in ONNX Runtime's CPU kernel
  double sparse = 0.0;      // in ours, on blocks
  double conversion = 0.0;  // of its input into blocks and its output out of them
};

// A text file, one measurement a line: `key <tab> dense <tab> sparse <tab> conversion`. Processes may share it: it is
// read once, merged with what others wrote meanwhile when it is saved, and replaced in one step. A cache that cannot
// be read or written is only slower, never an error.
class TuningCache {
 public:
  // The cache of a directory; one for each in this process. Empty: the user's cache directory.
  static TuningCache& of(const std::string& directory);

  explicit TuningCache(std::string path) : path_(std::move(path)) {}
  std::optional<LayerTimes> find(const std::string& key);
  void add(const std::string& key, const LayerTimes& times);
  void save();

 private:
  void load(std::map<std::string, LayerTimes>* into) const;

  const std::string path_;  // empty: nowhere
  std::mutex mutex_;
  bool loaded_ = false, changed_ = false;
  std::map<std::string, LayerTimes> known_;
};

}  // namespace sparse
