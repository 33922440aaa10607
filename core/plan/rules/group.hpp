#pragma once
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/op/op_list.hpp"
#include "core/plan/graph.hpp"

/// A group of nodes that one kernel runs, and what each value in it is to that kernel: its *roles*. Those of
/// a single node are filled like those of a fused group, so that kernels ask for roles and never for what a
/// group means.
///
/// Of all roles: value ids, -1 where absent; `node…` are node ids. What nobody beside the group reads of its
/// statistics and sums is absent, too (`close_group`).
///
/// An alternative may say of itself what passes ask of any group: `mask_norm`, `always_writes` and `passes`
/// (see the functions of these names below), and its `results` that perhaps nobody reads.
namespace fusetape::plan {

struct Group;

/// One normalisation inside a group.
struct NormRoles {
  int node = -1;                            ///< the norm's: its attributes hold eps
  int x = -1, gamma = -1, beta = -1;        ///< gamma, beta: -1 where only the statistics or sums are made
  int running_mean = -1, running_var = -1;  ///< inputs; -1 when not tracked
  int momentum = -1;                        ///< input, an f64 scalar; of Statistics::batch
  int mean = -1, inv_std = -1;              ///< outputs of Statistics::batch and sample, else inputs
  int new_running_mean = -1, new_running_var = -1;  ///< outputs
  int normed = -1;                       ///< output: norm(x) itself, where somebody beside the group reads it
  int dx = -1, dgamma = -1, dbeta = -1;  ///< outputs backward; dx may be -1 when nobody wants it

  bool present() const { return node >= 0; }
  /// Calls f(value) for each of them.
  template <class F>
  void values(F f) {
    for (int* const value : {&x, &gamma, &beta, &running_mean, &running_var, &mean, &inv_std,
                             &new_running_mean, &new_running_var, &normed, &dx, &dgamma, &dbeta})
      f(*value);
  }
};

/// Where a normalisation's mean and deviation come from.
enum class Statistics : std::uint8_t {
  batch,    ///< batch_norm: of x itself; mean and inv_std are outputs
  running,  ///< batch_norm_inference: running_mean, running_var are inputs
  given,    ///< batch_norm_apply: mean and inv_std are inputs
  sample,   ///< group_norm: of groups of channels of each sample; mean and inv_std are outputs
};

/// A node of which nothing is to be said but the node itself.
struct PlainNode {};

/// A chain of pointwise nodes of one output shape; kernels read the nodes. It may end in one sum or mean of a
/// member's output: a node of the group, but not of its shape.
struct Chain {
  int reduction_node = -1;
};

/// What a convolution's transform makes of other tensors in place of reading an operand. The operand is an
/// output, too, where anybody else reads it.
struct Prologue {
  int norms = 0;  ///< activation(norm₁(x₁) [+ norm₂(x₂)] [+ z]), the statistics given; 0: not so
  NormRoles norm[2];
  int z = -1;
  const OpDef* activation = nullptr;  ///< null: none
  int numbers[2] = {-1, -1};          ///< inputs, f64 scalars: the activation's (OpDef::numbers)
  int g = -1;  ///< batch norm's gradient, from g, norm[0] and its sums dgamma, dbeta (inputs); -1: not so

  bool present() const { return norms > 0 || g >= 0; }
};

enum class ConvPass : std::uint8_t { forward, grad_input, grad_weight };

/// A convolution between images x and y, or one of its two gradients: of x, w and y the pass reads two and
/// writes the third, and a gradient stands in place of what it is the gradient of. What is written is
/// activation(norm(conv + bias) + z)·mask, every part optional; where the result has another dtype than the
/// operands, it is rounded once. Attributes are the node's.
struct Convolution {
  ConvPass pass = ConvPass::forward;
  int node = -1;
  int x = -1, w = -1, y = -1;
  Prologue before_x, before_y;  ///< of the images that the pass reads
  int bias = -1;
  NormRoles folded;  ///< a batch_norm_inference: ŵ = a·w, b̂ = a·(b − mean) + β, a = γ/√(var + eps)
  int z = -1;        ///< of the result's shape
  const OpDef* activation = nullptr;  ///< null: none
  int before_activation =
      -1;               ///< output: what the activation reads, where somebody beside the group reads it, too
  int mask = -1;        ///< y' of !(y' ≤ 0), or what `gradient` reads; -1: none, or from `masked_by`
  NormRoles masked_by;  ///< from whose x that is computed again: fma(a, x − mean, β), or its activation
  const OpDef* gradient = nullptr;     ///< in place of the mask: this op's, of what is written
  int gradient_numbers[2] = {-1, -1};  ///< inputs: the op's (OpDef::numbers)
  NormRoles statistics;  ///< of what is written: mean, inv_std, new running statistics are outputs
  NormRoles sums;        ///< of what is written: dgamma, dbeta are outputs
  // Beside an input gradient the weights' gradient of the same y; -1: not so.
  int weights_node = -1;
  int read_x = -1;  ///< forward's x, which before_x may make
  int dw = -1;

  int& result() { return pass == ConvPass::forward ? y : pass == ConvPass::grad_input ? x : w; }
  int result() const { return const_cast<Convolution*>(this)->result(); }
  /// Whether parts of batch norms ride in its transforms.
  bool carries() const {
    return before_x.present() || before_y.present() || statistics.present() || sums.present();
  }
  const NormRoles* mask_norm() const { return masked_by.present() ? &masked_by : nullptr; }
  template <class F>
  void results(F f) {
    statistics.values(f);
    sums.values(f);
  }
  double passes(const Graph& graph, const Group& group) const;
};

/// Convolutions of one pass and shape that share their image x, side by side. Of input gradients, x is their
/// sum.
struct ConvSiblings {
  std::vector<Convolution> members;
  double passes(const Graph& graph, const Group& group) const;
};

/// y = activation(matmul(a, b) + bias), or y = matmul(a, b) cast to f32; attributes are the node's.
struct MatrixProduct {
  int node = -1;
  int a = -1, b = -1, bias = -1;
  int before_activation = -1;  ///< as in Convolution
  int y = -1;
  const OpDef* activation = nullptr;  ///< null: none
};

/// dx = max_pool2d_grad(g, index)[·[!(y ≤ 0)]]; attributes are the node's.
struct MaxPoolGrad {
  int node = -1;
  int g = -1, index = -1;
  int y = -1;  ///< -1: no mask
  int dx = -1;
};

/// Every update of a slice by one op, or one, with clipping inside: every gradient is multiplied by `scale`
/// (a scalar) first.
struct Updates {
  int scale = -1;  ///< -1: no clipping
  bool always_writes(const Graph& graph, int value) const;
  double passes(const Graph& graph, const Group& group) const;
};

/// g' = g·[!(y ≤ 0)], db = Σ g' over all but the last axis: backward of conv+bias+relu.
struct BiasReluGrad {
  int g = -1;
  int y = -1;       ///< -1 where the mask comes as bits
  int mask = -1;    ///< mask as bits (relu_mask's)
  int masked = -1;  ///< g'; always written
  int bias_grad = -1;

  bool always_writes(const Graph&, int value) const { return value == masked; }
  double passes(const Graph& graph, const Group& group) const;
};

/// y = activation(norm₁(x₁) [+ norm₂(x₂)] [+ z]), or the statistics of x₁ alone.
struct NormForward {
  NormRoles norm[2];
  int norms = 1;
  Statistics statistics = Statistics::batch;
  int z = -1;
  const OpDef* activation = nullptr;  ///< null: none
  int numbers[2] = {-1, -1};          ///< inputs, f64 scalars: the activation's (OpDef::numbers)
  int sum = -1;   ///< output: what the activation reads, where somebody beside the group reads it, too
  int y = -1;     ///< -1 where only others of its results are wanted
  int mask = -1;  ///< output: relu_mask(y), one bit an element

  template <class F>
  void results(F f) {
    for (NormRoles& roles : norm) roles.values(f);
    f(sum);
    f(y);
  }
  double passes(const Graph& graph, const Group& group) const;
};

/// pooled, index = max_pool2d(relu(norm(x))). The ReLU's output, `norm.y`, is written only where a gradient
/// reads it after all.
struct NormMaxPool {
  NormForward norm;
  int node = -1;
  int pooled = -1, index = -1;

  bool always_writes(const Graph&, int value) const {
    return value == pooled || value == index || value == norm.norm[0].mean || value == norm.norm[0].inv_std;
  }
  template <class F>
  void results(F f) {
    for (int* const value : {&norm.norm[0].new_running_mean, &norm.norm[0].new_running_var, &norm.y})
      f(*value);
  }
  double passes(const Graph& graph, const Group& group) const {
    return norm.passes(graph, group) + 3;  // and x or y, whichever is pooled
  }
};

/// g' = (g [+ g2]) [· mask], or an activation's gradient by g [+ g2], then the gradients of one or two
/// normalisations from g'.
struct NormBackward {
  NormRoles norm[2];
  int norms = 1;
  int g = -1;
  int g2 = -1;    ///< the other branch of a fork, added first; -1: none
  int y = -1;     ///< mask from y: !(y ≤ 0); -1 when it is recomputed, comes as bits, or there is none
  int mask = -1;  ///< mask as bits (relu_mask's)
  bool recompute = false;  ///< mask from x: !(fma(a, x − mean, β) ≤ 0), a = γ·inv_std, as forward; norms == 1
  /// In place of the mask: this op's, of g [+ g2] and what it reads: `y`, or computed again from x, as
  /// forward.
  const OpDef* gradient = nullptr;
  int numbers[2] = {-1, -1};  ///< inputs: the op's (OpDef::numbers)
  bool sums_given = false;    ///< batch_norm_grad_apply: dgamma and dbeta are inputs
  int masked = -1;            ///< g', written when the residual branch reads it; else -1

  const NormRoles* mask_norm() const { return recompute ? &norm[0] : nullptr; }
  template <class F>
  void results(F f) {
    for (NormRoles& roles : norm) roles.values(f);
  }
  double passes(const Graph& graph, const Group& group) const;
};

using Roles = std::variant<PlainNode, Chain, Convolution, ConvSiblings, MatrixProduct, MaxPoolGrad,
                           BiasReluGrad, NormForward, NormMaxPool, NormBackward, Updates>;

struct Group {
  Roles roles;
  std::string name;        ///< full op names: "batch_norm+add+relu"
  std::string rule;        ///< the row of the fusion table that made it; empty: a single node
  std::vector<int> nodes;  ///< in recorded order; run one by one they are the group's meaning
  std::vector<int> inputs,
      outputs;  ///< values read from and written for the outside, each once, no order of meaning

  bool single() const { return rule.empty(); }
  /// nullptr: the group is of another kind.
  template <class R>
  const R* as() const {
    return std::get_if<R>(&roles);
  }
  /// Its reduction; -1: none, or no chain.
  int reduction_node() const { return as<Chain>() != nullptr ? as<Chain>()->reduction_node : -1; }
  bool writes(int value) const;
};

/// The pass of conv2d and its two gradients; nullopt for all other ops.
std::optional<ConvPass> conv_pass(const OpDef& op);
/// Such a node's x, w and y. `id` is the node's.
Convolution convolution_of(const GraphNode& node, int id);

/// A group of one node.
Group single_group(const Graph& graph, int node);

/// Finds what the group reads from outside itself and what others (or the user) read of it, and drops the
/// roles that no one beside the group reads.
void close_group(const Graph& graph, Group& group);

// What a group's roles say of it; where they do not say it, what holds for most.

/// The normalisation from whose x the mask of a ReLU's gradient is computed again: y is not read then, but
/// the norm's parameters are. nullptr: none is.
const NormRoles* mask_norm(const Group& group);
/// Whether the kernel writes what a node of the group makes even where nobody reads it: it needs a place for
/// one step.
bool always_writes(const Graph& graph, const Group& group, int value);
/// How often the group's kernel reads or writes a whole tensor, counted on the graph: what explain() shows
/// for kernels that nobody measured. Vectors and scalars beside larger operands do not count, nor do a
/// convolution's weights.
double tensor_passes(const Graph& graph, const Group& group);
/// Of one node, run alone.
double tensor_passes(const Graph& graph, const GraphNode& node);
/// What a kernel of so many passes moves: every operand once, and what it passes over again at the size of
/// its largest.
std::int64_t bytes_moved(const Graph& graph, const std::vector<int>& inputs, const std::vector<int>& outputs,
                         double passes);

}  // namespace fusetape::plan
