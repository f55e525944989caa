// All layers of a graph: products first with what follows them, then what stands between.
#include <algorithm>
#include <unordered_map>

#include "graph/match.h"

namespace sparse {
namespace {

class Matcher {
 public:
  Matcher(const GraphView& graph, const Dimensions& shapes, const ClaimOptions& options)
      : scope_{graph, shapes, std::vector<bool>(graph.operators.size())}, options_(options) {}

  std::vector<Match> run() {
    const int count = static_cast<int>(scope_.graph.operators.size());
    for (int op = 0; op < count; ++op) {
      std::optional<MatrixMatch> matrix = match_matrix(scope_, op, options_.threshold);
      if (!matrix) continue;
      swallow_bias(scope_, *matrix);
      by_output_.emplace(matrix->match.layer.output, products_.size());
      products_.push_back(std::move(*matrix));
    }
    settled_.resize(products_.size());
    for (size_t i = 0; i < products_.size(); ++i) settle(i);
    for (int op = 0; op < count; ++op) accept(match_quantized_bridge(scope_, op));
    for (int op = 0; op < count; ++op) accept(match_bridge(scope_, op));
    for (int op = 0; op < count; ++op) accept(match_reshape(scope_, op));
    std::vector<bool> shared(scope_.graph.operators.size());
    for (const Match& match : matches_) {
      for (const int op : match.dequantizers) shared[static_cast<size_t>(op)] = true;
    }
    for (int op = 0; op < count; ++op) {
      if (!shared[static_cast<size_t>(op)]) accept(match_quantizer(scope_, op));
    }
    std::sort(matches_.begin(), matches_.end(),
              [](const Match& a, const Match& b) { return a.operators.back() < b.operators.back(); });
    return std::move(matches_);
  }

 private:
  // Completes a product. Where two of them meet in an addition, it belongs to the first operand, if that is taken at
  // all: a rule that does not depend on the order of the operators, so that a cut-out graph gives the same layers.
  void settle(size_t index) {
    if (settled_[index]) return;
    settled_[index] = true;
    MatrixMatch& product = products_[index];
    const auto before = by_output_.find(product.match.layer.inputs.front());
    if (before != by_output_.end()) settle(before->second);  // what follows that product is its own first
    if (product.addend < 0) swallow_reshape_before(scope_, product.match);
    std::optional<Residual> residual = find_residual(scope_, product);
    if (residual && residual->op >= 0 && scope_.op(residual->op).inputs[0] == residual->operand) {
      const auto rival = by_output_.find(residual->operand);
      if (rival != by_output_.end()) {
        settle(rival->second);  // as the first operand it looks no further
        residual = find_residual(scope_, product);
      }
    }
    Match match = complete(scope_, std::move(product), residual);
    if (!options_.worth || is_worth(match)) accept(std::move(match));
  }

  bool is_worth(const Match& match) const {
    const int input = match.layer.inputs.front();
    std::vector<int64_t> shape;
    for (int axis = 0; axis < scope_.shapes.rank(input); ++axis) shape.push_back(scope_.shapes.size(input, axis));
    return options_.worth(match.layer, match.reads.front(), shape);
  }

  void accept(std::optional<Match> match) {
    if (!match) return;
    const std::vector<int>& inputs = match->layer.inputs;
    if (inputs.size() == 2 && inputs[0] == inputs[1] && !is_same_form(match->reads[0], match->reads[1])) return;
    for (const int op : match->operators) scope_.taken[static_cast<size_t>(op)] = true;
    std::vector<int>& shared = match->dequantizers;
    std::sort(shared.begin(), shared.end());
    shared.erase(std::unique(shared.begin(), shared.end()), shared.end());
    matches_.push_back(std::move(*match));
  }

  Scope scope_;
  const ClaimOptions& options_;
  std::vector<MatrixMatch> products_;
  std::vector<bool> settled_;
  std::unordered_map<int, size_t> by_output_;
  std::vector<Match> matches_;
};

// Calls body(tensor, value) for whatever the layer touches.
template <class Body>
void for_each_port(Match& match, const Body& body) {
  for (size_t i = 0; i < match.reads.size(); ++i) body(match.layer.inputs[i], match.reads[i]);
  body(match.layer.output, match.makes);
}

// Gives layers that fit any form the form of their neighbours.
class Forms {
 public:
  Forms(const GraphView& graph, const Dimensions& shapes, std::vector<Match>& matches)
      : shapes_(shapes), matches_(matches), touching_(graph.tensors.size()) {
    for (size_t m = 0; m < matches.size(); ++m) {
      for_each_port(matches[m], [&](int tensor, const Value&) { at(tensor).push_back(m); });
    }
  }

  void run() {
    spread_spatial();
    spread_quantization();
    const auto unknown = [](const Match& match) {
      return match.makes.spatial == kUnknownSpatial || match.any_quantization;
    };
    matches_.erase(std::remove_if(matches_.begin(), matches_.end(), unknown), matches_.end());
  }

 private:
  std::vector<size_t>& at(int tensor) { return touching_[static_cast<size_t>(tensor)]; }

  void spread_spatial() {
    std::vector<size_t> queue;
    std::vector<bool> seen(touching_.size());
    for (size_t m = 0; m < matches_.size(); ++m) {
      if (matches_[m].makes.spatial != kUnknownSpatial) queue.push_back(m);
    }
    for (size_t next = 0; next < queue.size(); ++next) {
      for_each_port(matches_[queue[next]], [&](int tensor, const Value& value) {
        if (seen[static_cast<size_t>(tensor)]) return;
        seen[static_cast<size_t>(tensor)] = true;
        for (const size_t other : at(tensor)) {
          if (matches_[other].makes.spatial == kUnknownSpatial && set_spatial(matches_[other], value.spatial)) {
            queue.push_back(other);
          }
        }
      });
    }
  }

  bool set_spatial(Match& match, int spatial) {
    if (match.layer.kind == Layer::Reshape && spatial != 0) return false;
    const int tensor = match.layer.output, rank = shapes_.rank(tensor);
    if (spatial > 0 ? rank != spatial + 2 : rank < 2) return false;
    const int64_t channels = shapes_.size(tensor, spatial > 0 ? 1 : rank - 1);
    if (channels < 1) return false;
    for_each_port(match, [&](int, Value& value) {
      value.spatial = spatial;
      value.channels = channels;
    });
    return true;
  }

  void spread_quantization() {
    std::vector<size_t> queue;
    for (size_t m = 0; m < matches_.size(); ++m) {
      if (!matches_[m].any_quantization) queue.push_back(m);
    }
    std::vector<bool> seen(touching_.size());
    for (size_t next = 0; next < queue.size(); ++next) {
      for_each_port(matches_[queue[next]], [&](int tensor, const Value& value) {
        if (value.element != Element::Q8 || seen[static_cast<size_t>(tensor)]) return;
        seen[static_cast<size_t>(tensor)] = true;
        const Quantization found = value.quantization;
        for (const size_t other : at(tensor)) {
          Match& match = matches_[other];
          if (!match.any_quantization) continue;
          match.any_quantization = false;
          for_each_port(match, [&](int, Value& port) { port.quantization = found; });
          queue.push_back(other);
        }
      });
    }
  }

  const Dimensions& shapes_;
  std::vector<Match>& matches_;
  std::vector<std::vector<size_t>> touching_;  // layers that touch each tensor
};

}  // namespace

bool is_same_form(const Value& a, const Value& b) {
  if (a.element != b.element || a.spatial != b.spatial || a.channels != b.channels) return false;
  return is_same(a.quantization, b.quantization);
}

std::vector<Match> match_graph(const GraphView& graph, const Dimensions& shapes, const ClaimOptions& options) {
  std::vector<Match> matches = Matcher(graph, shapes, options).run();
  Forms(graph, shapes, matches).run();
  return matches;
}

}  // namespace sparse
