// Which dimensions of a graph are equal, also where their size is not known: sizes follow from those of the inputs
// through convolutions, pools, elementwise operators and changes of shape, so that both branches of a residual block
// compare equal.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "graph/view.h"

namespace sparse {

class Dimensions {
 public:
  // `trusting`: what is not known to differ counts as equal. For a graph that was cut out of one where it was proved.
  Dimensions(const GraphView& graph, bool trusting);

  int rank(int tensor) const;                // -1: not known
  int64_t size(int tensor, int axis) const;  // -1: not known
  bool same(int a, int b) const;             // is the shape the same?
  bool same_elements(int a, int b) const;    // are there as many elements?

 private:
  // A dimension: its size, or below zero the name of an unknown size.
  using Dimension = int64_t;
  struct Shape {
    bool known = false;
    std::vector<Dimension> dimensions;
  };

  // A product of dimensions: the known ones, and the names of the others, ascending.
  struct Product {
    int64_t known = 1;
    std::vector<Dimension> unknown;

    bool operator<(const Product& other) const {
      return std::tie(known, unknown) < std::tie(other.known, other.unknown);
    }
    bool operator==(const Product& other) const { return known == other.known && unknown == other.unknown; }
  };

  Dimension fresh() { return --last_; }
  Shape derive(const Operator& op);
  Shape derive_window(const Operator& op, int input, int weights);
  Shape derive_broadcast(const Shape& a, const Shape& b);
  Shape derive_reshape(const Operator& op, const Shape& from);
  Shape derive_flatten(const Operator& op, const Shape& from);
  Shape derive_squeeze(const Operator& op, const Shape& from);
  Shape derive_unsqueeze(const Operator& op, const Shape& from);
  std::optional<std::vector<int64_t>> axes(const Operator& op, size_t rank) const;
  std::optional<Product> product(const Dimension* first, const Dimension* last) const;
  std::optional<Product> product(const std::vector<Dimension>& all) const;
  Dimension dimension(const Product& size);
  std::optional<Product> quotient(Product size, const Product& divisor) const;
  Dimension slide(Dimension size, int64_t offset, int64_t stride);
  void settle(const Tensor& tensor, const Shape& derived, Shape& result);
  const Shape& of(int tensor) const;

  const GraphView& graph_;
  bool trusting_;
  Dimension last_ = 0;
  std::vector<Shape> shapes_;
  std::map<std::string, Dimension> symbols_;
  std::map<std::tuple<Dimension, int64_t, int64_t>, Dimension> slid_;
  std::map<Product, Dimension> named_;    // dimensions that are products
  std::map<Dimension, Product> factors_;  // and the other way round
};

}  // namespace sparse
