// Regions: where they are cut, what they keep, and that no path leaves one and comes back, also on random graphs.
#include <functional>
#include <set>
#include <stdexcept>

#include "check.h"
#include "graph_builder.h"

namespace {

using namespace sparse;
using B = GraphBuilder;

void expect(B& b, const char* name, const std::string& expected) {
  const std::string found = describe(claim_half(b.finish()));
  if (found == expected) return;
  std::printf("%s: \"%s\", expected \"%s\"\n", name, found.c_str(), expected.c_str());
  ++failures;
}

void cut_by_other_operators() {
  B b;
  const int x = b.conv(b.input("x", {1, 8, 7, 7}), 8, 8);
  // Both branches from x, one through an operator that is not ours. The addition belongs to its first operand, which so
  // waits for the other branch.
  b.op("Add", {b.conv(x, 8, 8), b.conv(b.op("Softmax", {x}), 8, 8)});
  expect(b, "a path around", "Matrix | Matrix; Matrix +residual");
  B c;
  const int y = c.conv(c.input("x", {1, 8, 7, 7}), 8, 8);
  c.op("Add", {c.conv(c.op("Softmax", {y}), 8, 8), c.conv(y, 8, 8)});
  expect(c, "a path around, the other way", "Matrix; Matrix | Matrix +residual");
}

void cut_by_subgraphs() {
  B b;
  const int x = b.conv(b.input("x", {1, 8, 7, 7}), 8, 8);
  const int outer = b.op("If", {b.input("condition", {}, DataType::Undefined)});
  b.last().subgraphs = true;
  GraphBuilder& same = b;
  const int y = same.conv(x, 8, 8);
  b.op("Add", {y, outer});
  b.at(outer).has_shape = true;
  b.at(outer).shape = {1, 8, 7, 7};
  GraphView graph = b.finish();
  CHECK(describe(claim_half(graph)) == "Matrix; Matrix +residual");
  // Now the branch reads x.
  graph.tensors[static_cast<size_t>(x)].consumers = {1, 2};
  CHECK(describe(claim_half(graph)) == "Matrix | Matrix +residual");
}

void cut_by_form() {
  B b;  // tokens, then an image of one dimension
  const int y = b.matmul(b.input("x", {1, 8, 16}), 16, 16);
  b.op("Conv", {b.op("Relu", {y}), b.weights({8, 8, 1})});
  expect(b, "one value in two forms", "Matrix Relu | Matrix");
  B c;  // the Relu goes with what makes its input
  const int z = c.matmul(c.input("x", {1, 8, 16}), 16, 16);
  c.output(z);
  const int relu = c.op("Relu", {z});
  c.op("Conv", {relu, c.weights({8, 8, 1})});
  c.matmul(relu, 16, 16);
  expect(c, "a bridge between two forms", "Matrix; Activate Relu; Matrix | Matrix");
  B d;  // two readers of an outer value in two forms, whose results meet
  const int outer = d.input("x", {1, 8, 8});
  const int line = d.op("Conv", {outer, d.weights({8, 8, 1})}), rows = d.matmul(outer, 8, 8);
  d.output(line);
  d.output(rows);
  d.matmul(d.op("Add", {rows, line}), 8, 8);
  const std::vector<Claim> claims = claim_half(d.finish());
  for (const Claim& claim : claims) {
    for (const Value& value : claim.region.values) CHECK(value.spatial == claim.region.values.front().spatial);
  }
}

void give_bridges_back() {
  const Attributes window = {{"kernel_shape", ints({2, 2})}, {"strides", ints({2, 2})}};
  {
    B b;
    b.op("Softmax", {b.op("Relu", {b.op("Softmax", {b.input("x", {1, 8, 7, 7})})})});
    expect(b, "no weights", "");
  }
  {
    B b;
    b.conv(b.op("MaxPool", {b.input("x", {1, 8, 8, 8})}, window), 8, 8);
    expect(b, "a pool in front", "Matrix");
  }
  {
    B b;
    const int x = b.input("x", {1, 8, 8, 8});
    b.conv(x, 8, 8);
    b.conv(b.op("MaxPool", {x}, window), 8, 8);
    expect(b, "a pool of a value that crosses anyway", "Matrix; MaxPool; Matrix");
  }
  {
    B b;
    const int y = b.conv(b.input("x", {1, 8, 8, 8}), 8, 8);
    b.output(y);
    b.op("Add", {y, b.input("r", {1, 8, 8, 8})});
    expect(b, "a sum with a value from outside, at the end", "Matrix");
  }
  {
    B b;
    const int y = b.conv(b.input("x", {1, 8, 8, 8}), 8, 8);
    b.output(y);
    b.conv(b.op("Add", {y, b.input("r", {1, 8, 8, 8})}), 8, 8);
    expect(b, "a sum with a value from outside, in the middle", "Matrix; Sum; Matrix");
  }
  {
    B b;  // one given back at the end lays the one before it open
    const int y = b.conv(b.input("x", {1, 8, 8, 8}), 8, 8);
    const int sum = b.op("Add", {y, b.input("r", {1, 8, 8, 8})});
    b.output(y);
    b.output(sum);
    b.op("Add", {sum, b.input("q", {1, 8, 8, 8})});
    expect(b, "a chain at the end", "Matrix");
  }
  {
    B b;  // once the sum is given back, y crosses anyway
    const int y = b.conv(b.input("x", {1, 8, 8, 8}), 8, 8);
    b.op("Add", {y, b.input("r", {1, 8, 8, 8})});
    b.op("Relu", {y});
    expect(b, "two bridges at the end", "Matrix");
  }
  {
    B b;  // one given back in front lays the next one open
    const int sum = b.op("Add", {b.input("p", {1, 8, 8, 8}), b.input("q", {1, 8, 8, 8})});
    b.conv(b.op("MaxPool", {b.op("Relu", {b.op("Relu", {sum})})}, window), 8, 8);
    expect(b, "a chain in front", "Matrix");
  }
}

// A dense convolution over the few channels of an image, in front of sparse ones.
void take_stems() {
  const Attributes pads = {{"pads", ints({1, 1, 1, 1})}};
  const Attributes window = {{"kernel_shape", ints({2, 2})}, {"strides", ints({2, 2})}};
  const auto stem = [&](B& b, int64_t channels) {
    const int weights = b.dense_weights({8, channels, 3, 3});
    return b.op("Conv", {b.input("x", {1, channels, 8, 8}), weights}, pads);
  };
  {
    B b;
    b.conv(b.op("MaxPool", {b.op("Relu", {stem(b, 3)})}, window), 8, 8);
    expect(b, "a stem and its pool", "Matrix Relu; MaxPool; Matrix");
  }
  {
    B b;
    b.op("MaxPool", {stem(b, 4)}, window);
    expect(b, "a stem with nothing behind it", "");
  }
  {
    B b;
    const int y = stem(b, 3);
    b.output(y);
    b.conv(y, 8, 8);
    expect(b, "a stem that is read elsewhere too", "Matrix");
  }
  {
    B b;
    b.conv(stem(b, 5), 8, 8);
    expect(b, "dense, but of more channels", "Matrix");
  }
  {
    B b;
    b.conv(b.op("Conv", {b.input("x", {1, 3, 8, 8}), b.dense_weights({8, 3, 1, 1})}), 8, 8);
    expect(b, "dense, but without a window", "Matrix");
  }
  {
    B b;
    b.conv(b.op("Softmax", {stem(b, 3)}), 8, 8);
    expect(b, "a stem apart", "Matrix");
  }
}

void keep_dequantizers_together() {
  B b;  // one DequantizeLinear for two convolutions, the second of which also waits for another operator
  const int x = b.dequantize(b.input("x", {1, 8, 7, 7}, DataType::Uint8));
  const int y = b.quantize(b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})}));
  const int other = b.op("Softmax", {y}, {}, DataType::Uint8);
  const int z = b.op("Conv", {x, b.dequantized_weights({8, 8, 1, 1})});
  b.quantize(b.op("Add", {z, b.dequantize(other)}));
  expect(b, "a DequantizeLinear that serves two regions", "");
  B c;
  const int v = c.dequantize(c.input("x", {1, 8, 7, 7}, DataType::Uint8));
  c.quantize(c.op("Conv", {v, c.dequantized_weights({8, 8, 1, 1})}));
  c.quantize(c.op("Conv", {v, c.dequantized_weights({8, 8, 1, 1})}));
  expect(c, "a DequantizeLinear that serves two layers", "Matrix8; Matrix8");
  B d;  // the sum would be given back otherwise
  const int u = d.dequantize(d.input("x", {1, 8, 7, 7}, DataType::Uint8));
  d.quantize(d.op("Conv", {u, d.dequantized_weights({8, 8, 1, 1})}));
  d.quantize(d.op("Add", {u, d.dequantize(d.input("r", {1, 8, 7, 7}, DataType::Uint8))}));
  expect(d, "a DequantizeLinear that serves a bridge", "Matrix8; Sum8");
  B f;  // tied weights
  const int tied = f.dequantized_weights({8, 8, 1, 1});
  for (const char* name : {"x", "y"}) {
    f.quantize(f.op("Conv", {f.dequantize(f.input(name, {1, 8, 7, 7}, DataType::Uint8)), tied}));
  }
  expect(f, "a DequantizeLinear of weights that serves two layers", "Matrix8; Matrix8");
  B g;  // one that serves both operands serves one layer, which may be given back
  const int both = g.dequantize(g.input("x", {1, 8, 7, 7}, DataType::Uint8));
  const int made_twice = g.quantize(g.op("Add", {both, both}));
  g.output(made_twice);
  const int twice = g.dequantize(made_twice, 0.25f, 5);
  g.quantize(g.op("Conv", {twice, g.dequantized_weights({8, 8, 1, 1})}));
  expect(g, "a sum of a value with itself in front", "Matrix8");
  B e;  // the second convolution cannot be had, so its input crosses the border, and the pool does not pay
  const int w = e.dequantize(e.input("x", {1, 8, 7, 7}, DataType::Uint8));
  const int made = e.quantize(e.op("Conv", {w, e.dequantized_weights({8, 8, 1, 1})}));
  e.op("MaxPool", {made}, {{"kernel_shape", ints({2, 2})}}, DataType::Uint8);
  const int shared = e.dequantize(made, 0.25f, 5);
  e.quantize(e.op("Conv", {shared, e.dequantized_weights({8, 8, 1, 1})}));
  e.op("Softmax", {shared});
  expect(e, "a DequantizeLinear that serves others too", "Matrix8");
}

void inputs_and_outputs() {
  B b;
  const int x = b.input("x", {1, 8, 7, 7}), r = b.input("r", {1, 8, 7, 7});
  const int y = b.conv(b.op("Softmax", {x}), 8, 8), z = b.op("Add", {b.conv(y, 8, 8), r});
  b.op("Softmax", {y});
  const GraphView& graph = b.finish();
  const std::vector<Claim> claims = claim_half(graph);
  CHECK(claims.size() == 1);
  if (claims.size() != 1) return;
  CHECK((claims[0].operators == std::vector<int>{1, 2, 3}));
  const Region& region = claims[0].region;
  const auto name = [&](int value) { return region.values[static_cast<size_t>(value)].name; };
  CHECK(region.inputs.size() == 2 && name(region.inputs[1]) == "r");
  CHECK(region.outputs.size() == 2 && name(region.outputs[0]) == b.at(y).name &&
        name(region.outputs[1]) == b.at(z).name);
}

// Views that cannot be what they say.
void refuse_views() {
  const auto error = [](const std::function<void()>& body) -> std::string {
    try {
      body();
    } catch (const std::runtime_error& thrown) {
      return thrown.what();
    }
    return "";
  };
  B b;
  b.op("Relu", {b.conv(b.input("x", {1, 8, 7, 7}), 8, 8)});
  GraphView view = b.finish();
  view.tensors[static_cast<size_t>(view.operators[0].outputs[0])].producer = 1;
  CHECK(error([&] { claim_half(view); }) == "Relu 'Relu1' stands before an operator that it depends on");

  B c;
  const int x = c.input("x", {1, 8, 8});
  c.matmul(x, 8, 8);
  c.op("Conv", {x, c.weights({8, 8, 1})});
  CHECK(error([&] { region_of(c.finish()); }) == "Conv 'Conv1' and another operator read 'x' in two forms");

  B d;  // nobody asks for what it computes
  const int y = d.conv(d.input("x", {1, 8, 7, 7}), 8, 8);
  d.finish();
  GraphView dead = d.finish();
  dead.tensors[static_cast<size_t>(y)].graph_output = false;
  CHECK(claim_half(dead).empty());

  Tensor huge;
  huge.has_shape = true;
  huge.shape = {int64_t{1} << 32, int64_t{1} << 31, 2};
  CHECK(huge.elements() == -1);
}

// Every claim is convex, claims do not wait for each other, and each gives its own region when it is cut out.
void check_claims(const GraphView& graph, const std::vector<Claim>& claims, uint32_t seed) {
  const int before = failures;
  std::vector<int> owner(graph.operators.size(), -1);
  for (size_t c = 0; c < claims.size(); ++c) {
    bool weights = false;
    for (const Layer& layer : claims[c].region.layers) weights |= layer.kind == Layer::Matrix;
    CHECK(weights && !claims[c].region.outputs.empty());
    for (const int op : claims[c].operators) {
      CHECK(owner[static_cast<size_t>(op)] == -1);
      owner[static_cast<size_t>(op)] = static_cast<int>(c);
    }
  }
  // What crosses the border is an input or an output of the region, of the right type.
  for (const Claim& claim : claims) {
    std::set<std::string> inputs, outputs, expected_inputs, expected_outputs;
    for (const int value : claim.region.inputs) inputs.insert(claim.region.values[static_cast<size_t>(value)].name);
    for (const int value : claim.region.outputs) outputs.insert(claim.region.values[static_cast<size_t>(value)].name);
    const auto inside = [&](int op) { return std::binary_search(claim.operators.begin(), claim.operators.end(), op); };
    for (const Tensor& tensor : graph.tensors) {
      if (tensor.constant != nullptr) continue;
      const bool made = tensor.producer >= 0 && inside(tensor.producer);
      const size_t readers =
          static_cast<size_t>(std::count_if(tensor.consumers.begin(), tensor.consumers.end(), inside));
      if (!made && readers > 0) expected_inputs.insert(tensor.name);
      if (made && (tensor.graph_output || readers < tensor.consumers.size())) expected_outputs.insert(tensor.name);
    }
    CHECK(inputs == expected_inputs && inputs.size() == claim.region.inputs.size());
    CHECK(outputs == expected_outputs && outputs.size() == claim.region.outputs.size());
  }
  // Claims and single operators as nodes: their graph must have no cycle.
  const int nodes = static_cast<int>(claims.size() + graph.operators.size());
  const auto node = [&](int op) {
    const int c = owner[static_cast<size_t>(op)];
    return c >= 0 ? c : static_cast<int>(claims.size()) + op;
  };
  std::vector<std::set<int>> after(static_cast<size_t>(nodes));
  std::vector<int> waiting(static_cast<size_t>(nodes));
  for (const Tensor& tensor : graph.tensors) {
    if (tensor.producer < 0) continue;
    for (const int reader : tensor.consumers) {
      const int from = node(tensor.producer), to = node(reader);
      if (from != to && after[static_cast<size_t>(from)].insert(to).second) ++waiting[static_cast<size_t>(to)];
    }
  }
  std::vector<int> ready;
  for (int n = 0; n < nodes; ++n) {
    if (waiting[static_cast<size_t>(n)] == 0) ready.push_back(n);
  }
  for (size_t i = 0; i < ready.size(); ++i) {
    for (const int next : after[static_cast<size_t>(ready[i])]) {
      if (--waiting[static_cast<size_t>(next)] == 0) ready.push_back(next);
    }
  }
  CHECK(static_cast<int>(ready.size()) == nodes);
  for (const Claim& claim : claims) {
    std::set<int> made(claim.region.inputs.begin(), claim.region.inputs.end());
    for (const Layer& layer : claim.region.layers) {
      for (const int input : layer.inputs) CHECK(made.count(input) == 1);
      CHECK(made.insert(layer.output).second);
    }
    CHECK(is_same(region_of(cut_out(graph, claim.operators)), claim.region));
  }
  if (failures != before) std::printf("on the graph of seed %u\n", seed);
}

// Operators of all sorts over values of one shape, with a mind to meet again.
size_t random_graph(uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  const auto pick = [&](size_t count) {
    state = state * 1664525u + 1013904223u;
    return static_cast<size_t>((static_cast<uint64_t>(state >> 8) * count) >> 24);
  };
  B b;
  const bool image = pick(2) == 0;
  const Shape shape = image ? Shape{1, 4, -1, 4} : Shape{-1, 4, 4};
  std::vector<int> floats = {b.input("x", shape), b.input("y", shape)};
  std::vector<int> bytes = {b.input("b", shape, DataType::Uint8)};
  std::vector<int> dequantized = {b.dequantize(bytes[0])};
  std::vector<int> rows;  // tokens of two dimensions
  const auto recent = [&](const std::vector<int>& from) {
    return from[from.size() - 1 - pick(std::min<size_t>(from.size(), 5))];
  };
  const size_t count = 5 + pick(40);
  for (size_t i = 0; i < count; ++i) {
    const int x = recent(floats);
    switch (pick(18)) {
      case 0:
      case 1:
        floats.push_back(image ? b.conv(x, 4, 4, pick(2) == 0 ? 1 : 3) : b.matmul(x, 4, 4));
        break;
      case 2:
        floats.push_back(image ? b.conv(x, 4, 4) : b.op("Conv", {x, b.weights({4, 4, 1})}));
        break;
      case 3:
      case 4:
      case 5:
        floats.push_back(b.op("Add", {x, recent(floats)}));
        break;
      case 6:
        floats.push_back(b.op("Relu", {x}));
        break;
      case 7:
        floats.push_back(b.op("Softmax", {x}));
        break;
      case 8:
        floats.push_back(b.op("Add", {b.filled(image ? Shape{4, 1, 1} : Shape{4}, 1), x}));
        break;
      case 9:
        floats.push_back(b.op("Mul", {x, b.op("HardSigmoid", {x}, {{"alpha", real(1.0f / 6)}})}));
        break;
      case 10:
        dequantized.push_back(b.dequantize(recent(bytes), 0.25f, 5));
        break;
      case 11:
      case 12: {
        const int from = recent(dequantized);
        const int w = image ? b.dequantized_weights({4, 4, 1, 1}) : b.dequantized_weights({4, 4}, 1);
        const int made = b.op(image ? "Conv" : "MatMul", {from, w});
        bytes.push_back(b.quantize(pick(3) == 0 ? b.op("Add", {made, recent(dequantized)}) : made));
        break;
      }
      case 13:
        if (image) break;
        rows.push_back(b.reshape(x, {-1, 4}));
        if (pick(4) == 0) b.output(rows.back());
        break;
      case 14:
        if (!rows.empty()) rows.push_back(b.matmul(recent(rows), 4, 4));
        break;
      case 15:
        if (!rows.empty()) rows.push_back(b.op("Add", {recent(rows), recent(rows)}));
        break;
      case 16:
        if (!rows.empty()) floats.push_back(b.reshape(recent(rows), {-1, 4, 4}));
        break;
      default:
        if (pick(2) == 0) {
          bytes.push_back(b.quantize(b.op("Add", {recent(dequantized), recent(dequantized)})));
        } else {
          bytes.push_back(b.quantize(b.op("Relu", {recent(dequantized)})));
        }
        break;
    }
    if (pick(8) == 0) b.output(floats.back());
    if (pick(20) == 0) b.output(dequantized.back());
    if (pick(20) == 0) b.output(bytes.back());
  }
  const GraphView& graph = b.finish();
  ClaimOptions options;
  options.threshold = 0.5;
  if (pick(3) == 0)
    options.worth = [&](const Layer&, const Value&, const std::vector<int64_t>&) { return pick(4) != 0; };
  const std::vector<Claim> claims = claim(graph, options);
  check_claims(graph, claims, seed);
  return claims.size();
}

// Ten thousand operators, all of them to be looked at a few times, not ten thousand.
void large_graph() {
  B b;
  const int w = b.weights({4, 4, 1, 1});
  int x = b.input("x", {1, 4, 4, 4});
  const int first = x;
  for (int i = 0; i < 10000; i += 4) {
    const int y = b.op("Conv", {x, w});
    const int relu = b.op("Relu", {b.op("Add", {y, i % 3 == 0 ? first : x})});
    x = i % 40 == 0 ? b.op("Softmax", {relu}) : b.op("MaxPool", {relu}, {{"kernel_shape", ints({1, 1})}});
  }
  const GraphView& graph = b.finish();
  const std::vector<Claim> claims = claim_half(graph);
  CHECK(claims.size() == 251);
  check_claims(graph, claims, 0);
}

}  // namespace

int main() {
  cut_by_other_operators();
  cut_by_subgraphs();
  cut_by_form();
  give_bridges_back();
  take_stems();
  keep_dequantizers_together();
  inputs_and_outputs();
  refuse_views();
  size_t regions = 0;
  for (uint32_t seed = 1; seed <= 1500; ++seed) regions += random_graph(seed);
  CHECK(regions > 1500);
  large_graph();
  return failures != 0;
}
