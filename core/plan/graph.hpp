#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/op.hpp"
#include "fusetape/runtime.hpp"

/// What the planner works on: one slice of the tape with dense ids, and the groups it makes of it. Names no
/// backend.
namespace fusetape::plan {

using core::Attrs;
using core::OpDef;

enum class Phase : std::uint8_t { forward, backward, update };

struct GraphValue {
  Shape shape;
  DType dtype = DType::f32;
  int producer = -1;           ///< node; -1: an input of the slice
  int output = 0;              ///< of the producer
  std::vector<int> consumers;  ///< nodes, once per use
  bool keep = false;           ///< somebody can name it after the run: it must be written
  bool donated = false;        ///< an input that nobody can name after the run: its buffer may be overwritten
  bool guarded = false;        ///< donated, but needed again where the run fails
  bool scalar = false;         ///< a run-time scalar input

  std::int64_t bytes() const { return shape.elements() * static_cast<std::int64_t>(size_of(dtype)); }
  std::int64_t elements() const { return shape.elements(); }
};

/// The kernel that a backend found to be the fastest for a node, by timing it.
struct TunedKernel {
  std::string kernel;  ///< in the backend's terms; empty: none was found, the built-in order holds
  std::vector<std::int64_t> blocking;  ///< how it cuts its work; empty: as is built in for the shape
  std::string why;                     ///< "tuned: 0.92 ms, direct 2.7 ms"
};

/// What was taken for each kind of work that kernels are timed for, by the backend's words for it. Later
/// plans of the thread take the same, so that a plan that is made anew computes the same bits.
struct TakenKernel {
  std::shared_ptr<const TunedKernel> kernel;
  bool restored = false;  ///< of another process, and no plan has found yet that this CPU can run it
};
using TakenKernels = std::map<std::string, TakenKernel>;

struct GraphNode {
  const OpDef* op = nullptr;
  Attrs attrs;
  std::vector<int> inputs, outputs;  ///< values
  Phase phase = Phase::forward;
  Location at;
  const std::string* module_path = nullptr;
  int recorded = -1;        ///< the slice's node that it came from
  bool recomputed = false;  ///< computes again what an earlier node did, to save memory: never merged with it
  bool dead = false;
  std::shared_ptr<const TunedKernel> tuned;  ///< null: nobody timed it

  bool is(const core::OpDef& other) const { return op == &other; }
};

struct Graph {
  std::vector<GraphNode> nodes;  ///< in recorded order, which is topological
  std::vector<GraphValue> values;
  std::vector<int> inputs;  ///< values that come from outside, in order of first use
  ConvAlgorithm conv_algorithm = ConvAlgorithm::automatic;
  bool timing = true;  ///< kernels may be chosen by timing them
  bool tf32 = false;   ///< a device may round factors of f32 products to TF32

  const GraphValue& value(int id) const { return values[static_cast<std::size_t>(id)]; }
  const GraphNode& node(int id) const { return nodes[static_cast<std::size_t>(id)]; }
  /// The node that makes value `id` if it is of this op, else nullptr.
  const GraphNode* producer_if(int id, const core::OpDef& op) const {
    const int p = value(id).producer;
    return p >= 0 && node(p).is(op) ? &node(p) : nullptr;
  }
};

/// A result that replaces a cell's version where the run succeeds: on a device it is copied there at the end.
struct Commit {
  int value = -1, input = -1;  ///< values: the result, the slice's input that it replaces
};

/// The kinds of group that a kernel is made for. `single` is one plain node. In every other, `roles` names
/// the group's values.
enum class Pattern : std::uint8_t {
  single,
  pointwise,    ///< a chain of pointwise nodes of one output shape; kernels read the nodes; roles: Chain
  convolution,  ///< roles: Convolution
  carried,      ///< a convolution with parts of batch norms in its transforms; roles: Carried
  conv_grad_input_add,    ///< roles: ConvGradInputAdd
  conv_grad_weight_cast,  ///< roles: ConvGradWeightCast
  conv_siblings,          ///< roles: ConvSiblings, as the next two
  conv_grad_weight_siblings,
  conv_grad_input_siblings,
  matrix_product,        ///< roles: MatrixProduct
  bias_relu_grad,        ///< roles: BiasReluGrad (backward of conv+bias+relu: g' and db in one pass)
  batch_norm_relu,       ///< roles: BatchNormRelu
  batch_norm_relu_grad,  ///< roles: BatchNormReluGrad
  max_pool_relu_grad,    ///< roles: MaxPoolReluGrad
  optimizer,  ///< every sgd_update / adam_update node of a slice with the same scalars; roles: Updates
};

// Of all roles: value ids, -1 where absent; `…node` are node ids.

/// y = relu(norm(conv2d(x, w)) + bias + z), every part but conv2d optional; attributes are the conv node's.
/// The norm is a batch_norm_inference, folded into the weights: ŵ = a·w, b̂ = a·(b − mean) + β, a = γ/√(var +
/// eps).
struct Convolution {
  int x = -1, w = -1, bias = -1;
  int z = -1;  ///< of y's shape
  int norm_node = -1;
  int gamma = -1, beta = -1, running_mean = -1, running_var = -1;
  int before_relu = -1;  ///< output: what the ReLU reads, where somebody beside the group reads it, too
  int y = -1;
  bool relu = false;
  int conv_node = -1;
};

/// dx = conv2d_grad_input(g, w) + other: the gradient of a fork, accumulated in place where `other` dies
/// here.
struct ConvGradInputAdd {
  int g = -1, w = -1, other = -1;
  int dx = -1;
  int conv_node = -1;
};

/// dw = cast(conv2d_grad_weight(x, g)) to a wider dtype: the sums are written without being rounded to x's
/// first, so that dw agrees with the nodes run one by one within that rounding, and is the more exact of the
/// two.
struct ConvGradWeightCast {
  int x = -1, g = -1;
  int dw = -1;
  int conv_node = -1;
};

/// One of several convolutions of one image. In a gradient, w and y stand for the gradients, too.
struct ConvSibling {
  int w = -1, bias = -1, y = -1;
  bool relu = false;
  int conv_node = -1;
};

/// Convolutions of one shape, side by side: each y = relu(conv2d(x, w) + bias), bias and ReLU optional; or
/// each w = conv2d_grad_weight(x, y), perhaps cast to a wider dtype; or x = Σ conv2d_grad_input(y, w).
struct ConvSiblings {
  int x = -1;
  std::vector<ConvSibling> members;
};

enum class Activation : std::uint8_t { none, relu, gelu };

/// y = activation(matmul(a, b) + bias), or y = matmul(a, b) cast to f32; attributes are the matmul node's.
struct MatrixProduct {
  int a = -1, b = -1, bias = -1;
  int pre = -1;  ///< output: what the activation reads, where somebody beside the group reads it, too
  int y = -1;
  Activation activation = Activation::none;
  int matmul_node = -1;
};

/// dx = max_pool2d_grad(g, index)·[!(y ≤ 0)]; attributes are the pool node's.
struct MaxPoolReluGrad {
  int g = -1, index = -1, y = -1;
  int dx = -1;
  int pool_node = -1;
};

/// A pointwise chain may end in one sum or mean of a member's output: a node of the group, but not of its
/// shape.
struct Chain {
  int reduction_node = -1;
};

/// Updates with clipping inside: every gradient is multiplied by `scale` (a scalar) first.
struct Updates {
  int scale = -1;  ///< -1: no clipping
};

/// g' = g·[!(y ≤ 0)], db = Σ g' over all but the last axis.
struct BiasReluGrad {
  int g = -1;
  int y = -1;       ///< -1 where the mask comes as bits
  int mask = -1;    ///< mask as bits (relu_mask's)
  int masked = -1;  ///< g'; always written
  int bias_grad = -1;
};

/// Where a normalisation's mean and deviation come from.
enum class Statistics : std::uint8_t {
  batch,    ///< batch_norm: of x itself; mean and inv_std are outputs
  running,  ///< batch_norm_inference: running_mean, running_var are inputs
  given,    ///< batch_norm_apply: mean and inv_std are inputs
};

/// One normalisation inside a group.
struct NormRoles {
  int node = -1;                            ///< the batch_norm… node: its attributes hold eps
  int x = -1, gamma = -1, beta = -1;        ///< gamma, beta: -1 where only the statistics or sums are made
  int running_mean = -1, running_var = -1;  ///< inputs; -1 when not tracked
  int momentum = -1;                        ///< input, an f64 scalar; of Statistics::batch
  int mean = -1, inv_std = -1;              ///< outputs of Statistics::batch, else inputs
  int new_running_mean = -1, new_running_var = -1;  ///< outputs
  int normed = -1;                       ///< output: norm(x) itself, where somebody beside the group reads it
  int dx = -1, dgamma = -1, dbeta = -1;  ///< outputs backward; dx may be -1 when nobody wants it
};

/// y = max(0, norm₁(x₁) [+ norm₂(x₂)] [+ z])
struct BatchNormRelu {
  NormRoles norm[2];
  int norms = 1;
  Statistics statistics = Statistics::batch;
  int z = -1;
  int sum = -1;   ///< output: what the ReLU reads, where somebody beside the group reads it, too
  int y = -1;     ///< -1 where only the mask is wanted
  int mask = -1;  ///< output: relu_mask(y), one bit an element
};

/// g' = (g [+ g2]) · mask, then the gradients of one or two normalisations from g'.
struct BatchNormReluGrad {
  NormRoles norm[2];
  int norms = 1;
  int g = -1;
  int g2 = -1;             ///< the other branch of a fork, added first; -1: none
  int y = -1;              ///< mask from y: !(y ≤ 0); -1 when it is recomputed, or comes as bits
  int mask = -1;           ///< mask as bits (relu_mask's)
  bool recompute = false;  ///< mask from x: !(fma(a, x − mean, β) ≤ 0), a = γ·inv_std, as forward; norms == 1
  bool sums_given = false;  ///< batch_norm_grad_apply: dgamma and dbeta are inputs
  int masked = -1;          ///< g', written when the residual branch reads it; else -1
};

/// What a convolution's transform makes of other tensors in place of reading an operand.
struct Prologue {
  int value = -1;  ///< the operand; an output, too, where anybody else reads it
  int norms = 0;   ///< [relu](norm₁(x₁) [+ norm₂(x₂)] [+ z]), the statistics given; 0: not so
  NormRoles norm[2];
  int z = -1;
  bool relu = false;
  int g = -1;  ///< batch norm's gradient, from g, norm[0] and its sums dgamma, dbeta (inputs); -1: not so

  bool present() const { return norms > 0 || g >= 0; }
};

/// A convolution or one of its gradients, with a prologue to its operands and an epilogue:
/// y = (conv + bias + z)·mask, and of what is written the statistics of a norm, or the sums of its gradient.
struct Carried {
  int conv_node = -1;  ///< conv2d, conv2d_grad_input or conv2d_grad_weight
  Prologue x, g;       ///< of its operands by those names
  int w = -1;          ///< but for the weight gradient
  int bias = -1, z = -1;
  int mask = -1;         ///< y' of !(y' ≤ 0); -1: none, or from `masked_by`
  NormRoles masked_by;   ///< mask computed again: !(fma(a, x − mean, β) ≤ 0); node -1: not so
  NormRoles statistics;  ///< mean, inv_std and new running statistics are outputs; node -1: none
  NormRoles sums;        ///< dgamma, dbeta are outputs; node -1: none
  int y = -1;
};

struct Group {
  Pattern pattern = Pattern::single;
  std::string name;        ///< full op names: "batch_norm+add+relu"
  std::string rule;        ///< the row of the fusion table that made it; empty: a single node
  std::vector<int> nodes;  ///< in recorded order; run one by one they are the group's meaning
  std::vector<int> inputs,
      outputs;  ///< values read from and written for the outside, each once, no order of meaning

  Convolution conv;
  Carried carried;
  ConvGradInputAdd conv_grad_add;
  ConvGradWeightCast conv_grad_cast;
  ConvSiblings conv_siblings;
  MatrixProduct product;
  MaxPoolReluGrad pool_grad;
  Chain chain;
  Updates updates;
  BiasReluGrad bias_grad;
  BatchNormRelu norm;
  BatchNormReluGrad norm_grad;
};

}  // namespace fusetape::plan
