// The reference backend: every group by its meaning, node after node, each value rounded to its dtype.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "backends/backend.hpp"
#include "backends/custom_kernel.hpp"
#include "core/check.hpp"
#include "core/numerics/reference.hpp"

namespace fusetape::backends {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

std::size_t padded(std::int64_t bytes) { return (static_cast<std::size_t>(bytes) + 63) / 64 * 64; }

bool contains(const std::vector<int>& values, int id) {
  return std::find(values.begin(), values.end(), id) != values.end();
}

/// Owns a graph of the group's nodes alone, so that it needs nothing of the plan later. Values that no one
/// outside reads live in the scratch, beside the doubles of the node that runs.
class ReferenceKernel final : public Kernel {
 public:
  ReferenceKernel(const Graph& graph, const Group& group) {
    name = "reference";
    for (int id : group.nodes) {
      const GraphNode& node = graph.node(id);
      GraphNode& step = part_.nodes.emplace_back(node);
      for (int& value : step.inputs) value = local(graph, value);
      for (int& value : step.outputs) value = local(graph, value);
      tensor_passes += plan::tensor_passes(graph, node);
    }
    place(group);
    find_in_place(group);
  }

  std::size_t scratch_bytes() const override { return inner_bytes_ + doubles_bytes_; }
  std::vector<std::pair<int, int>> in_place() const override { return in_place_; }

  void run(const KernelArgs& args) override {
    for (std::size_t v = 0; v < outer_.size(); ++v) {
      pointers_[v] = offset_[v] == outside ? args.values[outer_[v]] : args.scratch + offset_[v];
    }
    for (const GraphNode& node : part_.nodes) {
      core::run_reference(part_, node, pointers_.data(), args.scratch + inner_bytes_);
    }
  }

 private:
  static constexpr std::size_t outside = ~std::size_t{0};

  /// The id in part_ of a value of the whole graph.
  int local(const Graph& graph, int value) {
    const auto found = std::find(outer_.begin(), outer_.end(), value);
    if (found == outer_.end()) {
      outer_.push_back(value);
      part_.values.push_back(graph.value(value));
      return static_cast<int>(outer_.size()) - 1;
    }
    return static_cast<int>(found - outer_.begin());
  }

  void place(const Group& group) {
    offset_.assign(outer_.size(), outside);
    pointers_.assign(outer_.size(), nullptr);
    std::vector<bool> known(outer_.size(), false);
    for (std::size_t v = 0; v < outer_.size(); ++v) known[v] = contains(group.inputs, outer_[v]);
    for (const GraphNode& node : part_.nodes) {
      for (int input : node.inputs) FUSETAPE_ASSERT(known[static_cast<std::size_t>(input)]);
      for (int output : node.outputs) {
        const auto v = static_cast<std::size_t>(output);
        known[v] = true;
        if (group.single() || contains(group.outputs, outer_[v])) continue;
        offset_[v] = inner_bytes_;
        inner_bytes_ += padded(part_.values[v].bytes());
      }
      doubles_bytes_ = std::max(doubles_bytes_, core::reference_scratch_bytes(part_, node));
    }
  }

  /// A node alone reads all of its inputs before it writes.
  void find_in_place(const Group& group) {
    if (!group.single() || part_.nodes[0].outputs.size() != 1) return;
    const int output = part_.nodes[0].outputs[0];
    const plan::GraphValue& result = part_.value(output);
    for (int input : part_.nodes[0].inputs) {
      const plan::GraphValue& operand = part_.value(input);
      if (operand.scalar || operand.dtype != result.dtype || operand.elements() != result.elements())
        continue;
      in_place_.emplace_back(outer_[static_cast<std::size_t>(input)],
                             outer_[static_cast<std::size_t>(output)]);
    }
  }

  Graph part_;
  std::vector<int> outer_;           ///< by local value: its id in the plan
  std::vector<std::size_t> offset_;  ///< by local value: where in the scratch, or `outside`
  std::vector<void*> pointers_;
  std::vector<std::pair<int, int>> in_place_;
  std::size_t inner_bytes_ = 0, doubles_bytes_ = 0;
};

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

  void* allocate(std::size_t bytes) override {
    void* data = std::aligned_alloc(64, padded(static_cast<std::int64_t>(bytes == 0 ? 1 : bytes)));
    if (data == nullptr)
      throw Error("allocate", "expected " + std::to_string(bytes) + " bytes of memory, got none");
    return data;
  }
  void free(void* data, std::size_t) override { std::free(data); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { upload(to, from, bytes); }
  void synchronize() override {}

  Support supports(const Graph&, const Group& group) const override {
    if (const auto* norm = group.as<plan::NormBackward>(); norm != nullptr && norm->recompute) {
      return {.ok = false, .reason = "the reference runs plain nodes, and relu_grad reads y"};
    }
    return {};
  }

  std::unique_ptr<Kernel> compile(const Graph& graph, const Group& group) override {
    return is_custom(graph, group) ? make_custom_kernel(graph, group) : make_reference_kernel(graph, group);
  }
};

}  // namespace

std::unique_ptr<Kernel> make_reference_kernel(const Graph& graph, const Group& group) {
  return std::make_unique<ReferenceKernel>(graph, group);
}

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace fusetape::backends
