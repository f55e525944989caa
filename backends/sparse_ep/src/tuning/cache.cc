#include "tuning/cache.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

namespace sparse {
namespace {

namespace fs = std::filesystem;

constexpr char kFileName[] = "tuning-1.tsv";  // the number is that of the format and of what the keys mean

std::string default_directory() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) return std::string(xdg) + "/onnxruntime-ep-sparse";
  if (const char* home = std::getenv("HOME"); home && *home) return std::string(home) + "/.cache/onnxruntime-ep-sparse";
  return "";
}

}  // namespace

TuningCache& TuningCache::of(const std::string& directory) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<TuningCache>> caches;
  const std::string chosen = directory.empty() ? default_directory() : directory;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& cache = caches[chosen];
  if (!cache) cache = std::make_unique<TuningCache>(chosen.empty() ? "" : chosen + "/" + kFileName);
  return *cache;
}

std::optional<LayerTimes> TuningCache::find(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!loaded_) load(&known_);
  loaded_ = true;
  const auto found = known_.find(key);
  return found == known_.end() ? std::nullopt : std::optional(found->second);
}

void TuningCache::add(const std::string& key, const LayerTimes& times) {
  const std::lock_guard<std::mutex> lock(mutex_);
  known_[key] = times;
  changed_ = true;
}

void TuningCache::save() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!changed_ || path_.empty()) return;
  changed_ = false;
  load(&known_);  // others' lines; ours stay
  std::error_code ignored;
  fs::create_directories(fs::path(path_).parent_path(), ignored);
  const std::string draft = path_ + "." + std::to_string(getpid());
  {
    std::ofstream file(draft);
    for (const auto& [key, times] : known_)
      file << key << '\t' << times.dense << '\t' << times.sparse << '\t' << times.conversion << '\n';
    file.close();
    if (!file) {
      std::remove(draft.c_str());
      return;
    }
  }
  if (std::rename(draft.c_str(), path_.c_str()) != 0) std::remove(draft.c_str());
}

void TuningCache::load(std::map<std::string, LayerTimes>* into) const {
  std::ifstream file(path_);
  for (std::string line; std::getline(file, line);) {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) continue;
    LayerTimes times;
    std::istringstream numbers(line.substr(tab + 1));
    if (numbers >> times.dense >> times.sparse >> times.conversion && times.dense > 0.0 && times.sparse > 0.0)
      into->emplace(line.substr(0, tab), times);
  }
}

}  // namespace sparse
