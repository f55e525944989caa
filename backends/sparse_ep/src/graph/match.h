// Operators as layers: what the matchers find, one candidate each, before the graph is partitioned.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/claim.h"
#include "graph/dimensions.h"
#include "graph/region.h"
#include "graph/view.h"

namespace sparse {

constexpr int kUnknownSpatial = -1;

// A layer and the operators that it replaces. Between them and the rest of the graph stand only the layer's inputs and
// its output: no value in between is read by anyone else.
struct Match {
  Layer layer;                    // inputs and output are tensors of the view, not yet values of a region
  std::vector<Value> reads;       // how the layer reads its inputs; not yet named
  Value makes;                    // and how it makes its output
  std::vector<int> operators;     // the one that makes the output last
  std::vector<int> dequantizers;  // further operators, which may serve other layers too
  std::vector<int64_t> shape;     // of a Matrix over tokens: what its input is reshaped to first; empty: it is not
  // Layers that work on any form leave `spatial` unknown, and a pool of bytes its quantization: they take both from
  // the layers around them.
  bool any_quantization = false;
  // A Matrix with too few zeros to be taken for itself, but worth it in front of others: see match_matrix.
  bool dense = false;

  bool is_bridge() const { return layer.kind != Layer::Matrix || dense; }

  void read(int tensor, const Value& value) {
    layer.inputs.push_back(tensor);
    reads.push_back(value);
  }
};

// What every matcher looks at.
struct Scope {
  const GraphView& graph;
  const Dimensions& shapes;
  std::vector<bool> taken;  // operators of layers found so far, without dequantizers

  const Operator& op(int index) const { return graph.operators[static_cast<size_t>(index)]; }
  const Tensor& tensor(int index) const { return graph.tensors[static_cast<size_t>(index)]; }

  int input(const Operator& op, size_t index) const { return index < op.inputs.size() ? op.inputs[index] : -1; }
  bool is_free(int op) const { return op >= 0 && !taken[static_cast<size_t>(op)]; }
  bool is_constant(int tensor) const { return tensor >= 0 && this->tensor(tensor).constant != nullptr; }
  bool is_float(int tensor) const { return tensor >= 0 && this->tensor(tensor).type == DataType::Float; }
  bool is_bytes(int tensor) const;

  // The single operator that reads a tensor which would vanish into a layer; -1 if there are others, if the tensor is
  // an output of the graph, or if the operator belongs to another layer.
  int only_reader(int tensor) const;
};

bool is_onnx(const Operator& op, const char* type);             // an operator of the standard
bool is_microsoft(const Operator& op, const char* type);        // of com.microsoft
bool makes_only_first(const Scope& scope, const Operator& op);  // nothing reads its further outputs

bool is_copy(const Scope& scope, const Operator& op);  // Identity, Dropout at inference

// A DequantizeLinear of activations, of one scale and zero point.
struct Dequantized {
  int op = -1, tensor = -1;
  Quantization quantization;
};
std::optional<Dequantized> dequantized(const Scope& scope, int tensor);

// The operator that `tensor` ends in, if that is a QuantizeLinear to bytes.
struct Requantized {
  int op = -1, tensor = -1;
  Quantization quantization;
};
std::optional<Requantized> requantized(const Scope& scope, int tensor);

// A constant of floats, or of integers behind a DequantizeLinear of one scale or of one for each element.
struct RealConstant {
  std::vector<int64_t> shape;
  std::vector<float> values;
  int dequantizer = -1;
};
std::optional<RealConstant> real_constant(const Scope& scope, int tensor);

// What a constant adds to each of `channels` at `axis` of a tensor of rank `rank`: one number for each channel.
// Nothing if it is no constant, or would not add along that axis alone.
std::optional<std::vector<float>> channel_constant(const RealConstant& constant, int64_t channels, int rank, int axis);

// An activation that starts from a tensor, of one operator or of several.
struct ActivationMatch {
  Activation activation;
  std::vector<int> operators;
  int output = -1;
};
std::optional<ActivationMatch> match_activation(const Scope& scope, int op);         // that begins with this operator
std::optional<ActivationMatch> match_activation_of(const Scope& scope, int tensor);  // that swallows this tensor

// The product of a Matrix layer with its bias, before residual and activation: the tensor `layer.output`.
// Weights of which less than `threshold` is zero are left alone, but for the stem of a network: a convolution over the
// few channels of its input. With it what enters a region is an image of three channels rather than one of sixty-four.
struct MatrixMatch {
  Match match;
  bool requantized = false;  // complete: QLinearConv, QLinearMatMul
  int addend = -1;           // a Gemm's C that is no bias: what the product is added to
  // Where the product is rounded to bytes on its way: these, and the DequantizeLinear behind them.
  int rounded = -1, rounded_reader = -1;
};
std::optional<MatrixMatch> match_matrix(const Scope& scope, int op, double threshold);

// Swallows what follows the product: constant additions and normalisations along its channels, also those behind bytes
// that a product of bytes is rounded to first.
void swallow_bias(const Scope& scope, MatrixMatch& matrix);

// The addition of another value of the same shape that the product ends in: the operator, and the operand that is not
// the product. No operator where the product adds by itself.
struct Residual {
  int op = -1, operand = -1;
};
std::optional<Residual> find_residual(const Scope& scope, const MatrixMatch& matrix);

// Swallows the rest: `residual` if there is one, an activation, and the QuantizeLinear behind a product of bytes.
Match complete(const Scope& scope, MatrixMatch matrix, const std::optional<Residual>& residual);

// Reads `tensor` as floats, or as the bytes that it comes from where nothing but the match reads it.
void read_either(const Scope& scope, int tensor, Value form, Match& match);

// The output as bytes if a QuantizeLinear is all that reads it.
void make_either(const Scope& scope, Match& match);

// Swallows an activation behind the layer, if there is one.
void swallow_activation(const Scope& scope, Match& match);

// Does the operator only give tokens of floats or bytes another shape, their channels kept?
bool keeps_channels(const Scope& scope, const Operator& op);

// Swallow the operator, if there is one that keeps the channels: what makes the input of a product over tokens and is
// read by it alone, or what reads its output. Products do not mind the shape, so the input takes that of the output
// first, and what follows finds the shapes of the model.
bool swallow_reshape_before(const Scope& scope, Match& match);
bool swallow_reshape_behind(const Scope& scope, int op, Match& match);

// Bridges: layers without weights.
std::optional<Match> match_reshape(const Scope& scope, int op);
std::optional<Match> match_bridge(const Scope& scope, int op);
std::optional<Match> match_quantized_bridge(const Scope& scope, int op);

// A QuantizeLinear or DequantizeLinear that belongs to nothing else.
std::optional<Match> match_quantizer(const Scope& scope, int op);
bool is_quantizer(const Match& match);

// Swallows a limit behind a layer of bytes that is quantized once more.
void swallow_requantization(const Scope& scope, Match& match);

bool is_same(const Quantization& a, const Quantization& b);

// Do two layers mean the same by a tensor that both touch?
bool is_same_form(const Value& a, const Value& b);

// Everything that the graph's operators can be, in an order in which the layers can run. Layers that fit any form have
// the form of those around them; without one they are left out.
std::vector<Match> match_graph(const GraphView& graph, const Dimensions& shapes, const ClaimOptions& options);

}  // namespace sparse
