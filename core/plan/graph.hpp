#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/op/op.hpp"
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
  bool apart =
      false;  ///< a convolution that carries no part of a norm: that was timed, or is taken, to be slower

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

}  // namespace fusetape::plan
