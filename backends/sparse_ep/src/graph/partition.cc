// Every operator gets a level, the least that is not below those of the operators it depends on, and for a layer one
// that is above them unless they are layers that it can be joined with. Along a path levels never fall, and a path that
// leaves a region can only come to layers of a higher one: so whatever layers of one level are joined, no path leaves
// them and comes back, and no two regions wait for each other.
#include "graph/partition.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>

namespace sparse {
namespace {

// Rounds after which a graph that keeps falling apart is left alone; real ones need one or two.
constexpr int kMostRounds = 16;

template <class Items>
auto& at(Items& items, int index) {
  return items[static_cast<size_t>(index)];
}

using Flags = std::vector<char>;

class Partition {
 public:
  Partition(const GraphView& graph, const std::vector<Match>& matches)
      : graph_(graph), matches_(matches), owner_(graph.operators.size(), -1), alive_(matches.size(), true) {
    for (size_t m = 0; m < matches.size(); ++m) {
      for (const int op : matches[m].operators) at(owner_, op) = static_cast<int>(m);
      for (const int op : matches[m].dequantizers) sharing_[op].push_back(static_cast<int>(m));
      for (const int input : distinct_inputs(matches[m])) readers_[input].push_back(static_cast<int>(m));
    }
    reads_.resize(graph.operators.size());
    for (size_t op = 0; op < graph.operators.size(); ++op) reads_[op] = graph.operators[op].inputs;
    for (size_t t = 0; t < graph.tensors.size(); ++t) {  // also what subgraphs read
      for (const int reader : graph.tensors[t].consumers) {
        if (graph.operators[static_cast<size_t>(reader)].subgraphs) at(reads_, reader).push_back(static_cast<int>(t));
      }
    }
  }

  std::vector<std::vector<int>> run() {
    for (int round = 0; round < kMostRounds; ++round) {
      release_shared();
      find_levels();
      kept_ = alive_;
      connect();
      trim();
      connect();
      std::vector<std::vector<int>> regions = collect();
      if (!release_conflicts(regions)) return regions;
    }
    return {};
  }

 private:
  const Match& match(int index) const { return matches_[static_cast<size_t>(index)]; }
  const Tensor& tensor(int index) const { return graph_.tensors[static_cast<size_t>(index)]; }

  static std::vector<int> distinct_inputs(const Match& match) {
    std::vector<int> inputs = match.layer.inputs;
    if (inputs.size() == 2 && inputs[0] == inputs[1]) inputs.pop_back();
    return inputs;
  }

  static const Value& form_read(const Match& match, int tensor) {
    return match.reads[match.layer.inputs[0] == tensor ? 0 : 1];
  }

  // The layer that makes a tensor, or -1.
  int maker(int tensor, const Flags& among) const {
    const int producer = this->tensor(tensor).producer;
    const int found = producer < 0 ? -1 : owner_[static_cast<size_t>(producer)];
    return found >= 0 && among[static_cast<size_t>(found)] ? found : -1;
  }

  bool joins(int from, int to, int tensor) const {
    return is_same_form(match(from).makes, form_read(match(to), tensor));
  }

  void release(int m, std::vector<int>& queue) {
    if (!alive_[static_cast<size_t>(m)]) return;
    alive_[static_cast<size_t>(m)] = false;
    for (const int op : match(m).dequantizers) queue.push_back(op);
  }

  // A DequantizeLinear is taken by the layers that it serves, so these have to be all that read it.
  void release_shared() {
    std::vector<int> queue;
    for (const auto& shared : sharing_) queue.push_back(shared.first);
    while (!queue.empty()) {
      const int op = queue.back();
      queue.pop_back();
      const std::vector<int>& users = sharing_[op];
      const Tensor& output = tensor(graph_.operators[static_cast<size_t>(op)].outputs[0]);
      bool taken = !output.graph_output;
      for (const int reader : output.consumers) {
        const int user = at(owner_, reader);
        taken &= user >= 0 && alive_[static_cast<size_t>(user)] &&
                 std::find(match(user).dequantizers.begin(), match(user).dequantizers.end(), op) !=
                     match(user).dequantizers.end();
      }
      if (taken) continue;
      for (const int user : users) release(user, queue);
    }
  }

  void find_levels() {
    match_level_.assign(matches_.size(), 1);  // above what depends on no layer
    std::vector<int> level(graph_.operators.size(), 0);
    for (size_t op = 0; op < level.size(); ++op) {
      const int owner = owner_[op];
      if (owner < 0 || !at(alive_, owner)) {
        for (const int input : reads_[op]) {
          if (input < 0 || tensor(input).producer < 0) continue;
          const int from = maker(input, alive_);
          level[op] = std::max(level[op], from < 0 ? at(level, tensor(input).producer) : at(match_level_, from));
        }
      } else if (match(owner).operators.back() == static_cast<int>(op)) {
        int& result = at(match_level_, owner);
        for (const int input : match(owner).layer.inputs) {
          if (tensor(input).producer < 0) continue;
          const int from = maker(input, alive_);
          const int before = from < 0 ? at(level, tensor(input).producer) : at(match_level_, from);
          result = std::max(result, before + (from >= 0 && joins(from, owner, input) ? 0 : 1));
        }
      }
    }
  }

  int find(int m) {
    while (at(parent_, m) != m) m = at(parent_, m) = at(parent_, at(parent_, m));
    return m;
  }
  void unite(int a, int b) { at(parent_, find(a)) = find(b); }

  // Joins the kept layers of one level that hand each other a tensor, read the same one, or share an operator.
  void connect() {
    parent_.resize(matches_.size());
    std::iota(parent_.begin(), parent_.end(), 0);
    for (const auto& [tensor, readers] : readers_) {
      const int from = maker(tensor, kept_);
      std::map<int, std::vector<int>> seen;  // by level: one layer for each form
      for (const int reader : readers) {
        if (!at(kept_, reader)) continue;
        const int level = at(match_level_, reader);
        if (from >= 0 && at(match_level_, from) == level && joins(from, reader, tensor)) unite(from, reader);
        std::vector<int>& others = seen[level];
        bool found = false;
        for (const int other : others) {
          if (!is_same_form(form_read(match(other), tensor), form_read(match(reader), tensor))) continue;
          unite(other, reader);
          found = true;
          break;
        }
        if (!found) others.push_back(reader);
      }
    }
    for (const auto& [op, users] : sharing_) {
      std::map<int, int> seen;
      for (const int user : users) {
        if (!at(kept_, user)) continue;
        const auto first = seen.emplace(at(match_level_, user), user);
        unite(first.first->second, user);
      }
    }
  }

  bool may_go(int m) const {
    const std::vector<int>& shared = match(m).dequantizers;
    return match(m).is_bridge() &&
           std::all_of(shared.begin(), shared.end(), [&](int op) { return sharing_.at(op).size() == 1; });
  }

  // Gives back bridges at the border of their region that do not pay. Every tensor that crosses the border is
  // converted, so a bridge stays if fewer cross with it than without. If there are as many, it stays where a region
  // ends (a pool makes what crosses smaller) and goes where one begins (it would make it larger, and operators in front
  // are often fused with what they follow), unless it works on bytes or is a network's stem. A bridge with neighbours
  // of its region on both sides stays: without it the region would not be convex. So does one that shares a
  // DequantizeLinear, which is taken with all that it serves. A QuantizeLinear or DequantizeLinear alone goes: bytes
  // are less to convert, and ONNX Runtime fuses it with what is on its other side.
  void trim() {
    std::unordered_map<uint64_t, int> inside;  // readers of a tensor in a region
    std::unordered_map<int, int> outside;      // readers and outputs of a tensor anywhere, but for those of a region
    const auto key = [&](int tensor, int region) {
      return static_cast<uint64_t>(tensor) * matches_.size() + static_cast<uint64_t>(region);
    };
    std::unordered_map<int, int> all;  // readers of a tensor that are layers
    for (const auto& [tensor, readers] : readers_) {
      for (const int reader : readers) {
        if (!at(kept_, reader)) continue;
        ++inside[key(tensor, find(reader))];
        ++all[tensor];
      }
    }
    const auto read_by_others = [&](int tensor, int region) {
      if (all[tensor] > inside[key(tensor, region)] || outside[tensor] > 0) return true;
      if (this->tensor(tensor).graph_output) return true;
      for (const int reader : this->tensor(tensor).consumers) {
        const auto shared = sharing_.find(reader);
        const int user = shared == sharing_.end() ? at(owner_, reader) : shared->second.front();
        if (user < 0 || !at(alive_, user)) return true;
      }
      return false;
    };

    std::vector<int> queue;
    for (size_t m = 0; m < matches_.size(); ++m) {
      if (kept_[m] && may_go(static_cast<int>(m))) queue.push_back(static_cast<int>(m));
    }
    for (size_t next = 0; next < queue.size(); ++next) {
      const int m = queue[next];
      if (!at(kept_, m)) continue;
      const int region = find(m), output = match(m).layer.output;
      const std::vector<int> inputs = distinct_inputs(match(m));
      int inner = 0, inner_freed = 0, outer_added = 0;
      for (const int input : inputs) {
        const int from = maker(input, kept_);
        if (from >= 0 && find(from) == region) {
          ++inner;
          inner_freed += !read_by_others(input, region);
        } else {
          outer_added += inside[key(input, region)] == 1;
        }
      }
      const bool begins = inner == 0, ends = inside[key(output, region)] == 0;
      if (!begins && !ends) continue;
      const int crossing = outer_added + read_by_others(output, region);
      const int most = is_of_bytes(m) || match(m).dense ? 1 : 0;
      const bool pays = !is_quantizer(match(m)) && (begins ? crossing <= most : outer_added + 1 <= inner_freed);
      if (pays) continue;

      at(kept_, m) = false;
      for (const int input : inputs) {
        if (--inside[key(input, region)] == 1) {  // the other one now brings the tensor across alone
          for (const int reader : readers_[input]) {
            if (at(kept_, reader) && find(reader) == region && may_go(reader)) queue.push_back(reader);
          }
        }
        --all[input];
        ++outside[input];
        const int from = maker(input, kept_);
        if (from >= 0 && may_go(from)) queue.push_back(from);
      }
    }
  }

  // In bytes converting is cheap, and what ONNX Runtime does with bytes outside of its own convolutions is slow: it
  // pools channel by channel, and turns the others into floats and back.
  bool is_of_bytes(int m) const {
    const auto bytes = [](const Value& value) { return value.element == Element::Q8; };
    return bytes(match(m).makes) && std::all_of(match(m).reads.begin(), match(m).reads.end(), bytes);
  }

  std::vector<std::vector<int>> collect() {
    std::map<int, std::vector<int>> by_root;
    for (size_t m = 0; m < matches_.size(); ++m) {
      if (kept_[m]) by_root[find(static_cast<int>(m))].push_back(static_cast<int>(m));
    }
    std::vector<std::vector<int>> regions;
    for (auto& [root, members] : by_root) {
      const bool worth = std::any_of(members.begin(), members.end(), [&](int m) { return !match(m).is_bridge(); });
      if (worth) regions.push_back(std::move(members));
    }
    std::sort(regions.begin(), regions.end());
    return regions;
  }

  // Releases layers whose DequantizeLinear serves another region too, and those that read a tensor in another form than
  // their region does. True if there were any.
  bool release_conflicts(const std::vector<std::vector<int>>& regions) {
    std::vector<int> region_of(matches_.size(), -1);
    for (size_t r = 0; r < regions.size(); ++r) {
      for (const int m : regions[r]) at(region_of, m) = static_cast<int>(r);
    }
    std::vector<int> released, queue;
    for (const auto& [op, users] : sharing_) {
      for (const int user : users) {
        if (at(region_of, user) == at(region_of, users.front())) continue;
        released.insert(released.end(), users.begin(), users.end());
        break;
      }
    }
    for (const std::vector<int>& region : regions) {
      std::unordered_map<int, const Value*> forms;
      for (const int m : region) {
        for (const int input : match(m).layer.inputs) {
          const Value& form = form_read(match(m), input);
          if (!is_same_form(form, *forms.emplace(input, &form).first->second)) released.push_back(m);
        }
      }
    }
    bool any = false;
    for (const int m : released) {
      any |= static_cast<bool>(at(alive_, m));
      release(m, queue);
    }
    return any;
  }

  const GraphView& graph_;
  const std::vector<Match>& matches_;
  std::vector<int> owner_;                   // of each operator but for dequantizers: its layer, or -1
  std::map<int, std::vector<int>> sharing_;  // layers that each dequantizer serves
  std::map<int, std::vector<int>> readers_;  // layers that read each tensor
  std::vector<std::vector<int>> reads_;      // what each operator reads
  Flags alive_, kept_;                       // layers not released; and of these, not given back as bridges
  std::vector<int> match_level_, parent_;
};

}  // namespace

std::vector<std::vector<int>> partition(const GraphView& graph, const std::vector<Match>& matches) {
  return Partition(graph, matches).run();
}

}  // namespace sparse
