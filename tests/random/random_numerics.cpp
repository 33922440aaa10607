#include "tests/random/random_numerics.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "backends/backend.hpp"
#include "core/numerics/reference.hpp"
#include "core/tape/tape.hpp"
#include "helpers.hpp"

namespace fusetape::tests {
namespace {

using backends::Backend;
using backends::Kernel;
using backends::KernelArgs;
using plan::Graph;
using plan::GraphNode;
using plan::Group;

/// What is done to the ops of a run.
struct Probe {
  bool watching = false;
  double bits = 0;       ///< the widest number that an op may come across, in bits
  bool rounded = false;  ///< whether a result was rounded to its dtype
  Disturbance disturbance;
  bool by_value = false;  ///< equal elements of an op's operands equally, as rounding does
  Dice dice{0};
};

/// Ops that choose among their operands' elements, or move them, give the same ones in every dtype.
constexpr std::string_view exact_ops =
    " relu relu_grad neg abs abs_grad minimum maximum clamp clamp_grad max argmax where less "
    "less_equal greater greater_equal equal not_equal max_pool2d max_pool2d_grad max_pool2d_gather pad "
    "concat slice slice_grad transpose reshape broadcast_to cast copy_variable rand ";
constexpr std::string_view convolutions = " conv2d conv2d_grad_input conv2d_grad_weight ";
/// Ops whose terms are products of all their operands; others multiply by scalars only.
constexpr std::string_view products = " mul matmul conv2d conv2d_grad_input conv2d_grad_weight ";

bool is_one_of(std::string_view names, const GraphNode& node) {
  return names.find(" " + std::string(node.op->name) + " ") != std::string_view::npos;
}

double largest(const double* numbers, std::int64_t count) {
  double most = 0;
  for (std::int64_t i = 0; i < count; ++i)
    most = std::isnan(numbers[i]) ? HUGE_VAL : std::max(most, std::abs(numbers[i]));
  return most;
}

/// Binary digits behind the point.
int fraction_bits(const double* numbers, std::int64_t count) {
  int most = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (numbers[i] == 0 || !std::isfinite(numbers[i])) continue;
    int exponent = 0;
    const auto digits = static_cast<std::int64_t>(std::ldexp(std::frexp(numbers[i], &exponent), 53));
    most = std::max(most, 53 - exponent - std::countr_zero(static_cast<std::uint64_t>(digits)));
  }
  return most;
}

/// The op with its floating results as f64.
std::unique_ptr<Kernel> unrounded(Backend& reference, Graph graph, const Group& group) {
  for (const int id : graph.node(group.nodes[0]).outputs) {
    DType& dtype = graph.values[static_cast<std::size_t>(id)].dtype;
    if (is_floating(dtype)) dtype = DType::f64;
  }
  return reference.compile(graph, group);
}

/// One op on the reference backend.
class ProbedKernel final : public Kernel {
 public:
  ProbedKernel(Backend& reference, const Graph& graph, const Group& group, Probe& probe)
      : kernel_(reference.compile(graph, group)),
        unrounded_(unrounded(reference, graph, group)),
        probe_(probe),
        rounds_(!is_one_of(exact_ops, graph.node(group.nodes[0]))),
        multiplies_(is_one_of(products, graph.node(group.nodes[0]))),
        convolves_(is_one_of(convolutions, graph.node(group.nodes[0]))) {
    name = "probe";
    const GraphNode& node = graph.node(group.nodes[0]);
    for (const int id : node.inputs) operands_.push_back({id, graph.value(id)});
    for (const int id : node.outputs) results_.push_back({id, graph.value(id)});
    for (const auto& list : {operands_, results_}) {
      for (const Slot& slot : list)
        pointers_.resize(std::max(pointers_.size(), static_cast<std::size_t>(slot.id) + 1), nullptr);
    }
  }

  std::size_t scratch_bytes() const override {
    return std::max(kernel_->scratch_bytes(), unrounded_->scratch_bytes());
  }
  std::size_t room_bytes() const override {
    return std::max(kernel_->room_bytes(), unrounded_->room_bytes());
  }
  std::vector<std::pair<int, int>> in_place() const override { return kernel_->in_place(); }

  void run(const KernelArgs& args) override {
    int term_bits = 0;
    double sum = 0;
    if (probe_.watching) term_bits = bits_of_terms(args), sum = largest_sum(args), run_unrounded(args);
    if (probe_.disturbance.relative > 0 && rounds_) {
      const std::uint64_t salt = probe_.dice.next();
      const auto share = [&](double x) {
        Dice dice(probe_.by_value ? salt ^ std::bit_cast<std::uint64_t>(x) : probe_.dice.next());
        return static_cast<double>(dice.below(2001)) / 1000 - 1;
      };
      const double relative = probe_.disturbance.relative;
      const double added = convolves_ ? probe_.disturbance.of_largest * largest_product(args) : 0;
      const auto disturbed = [&](double x) { return x * (1 + relative * share(x)); };
      with_operands(args, disturbed);
      kernel_->run({pointers_.data(), args.scratch, args.rooms});
      for (const Slot& slot : results_) {
        if (slot.value.dtype != DType::f64) continue;
        auto* const numbers = args.out<double>(slot.id);
        std::transform(numbers, numbers + slot.value.elements(), numbers,
                       [&](double x) { return disturbed(x) + added * share(x); });
      }
    } else {
      kernel_->run(args);
    }
    if (!probe_.watching) return;
    for (const Slot& slot : results_) probe_.rounded = probe_.rounded || differs(slot, args);
    for (const Slot& slot : results_) {
      if (slot.value.dtype == DType::f64)
        term_bits = std::max(term_bits, fraction_bits(args.in<double>(slot.id), slot.value.elements()));
    }
    if (sum > 0) probe_.bits = std::max(probe_.bits, std::log2(sum) + term_bits);
  }

 private:
  struct Slot {
    int id;
    plan::GraphValue value;
    std::vector<std::byte> copy = {};
  };

  /// Points the op's reads at changed copies of its f64 operands.
  template <class Change>
  void with_operands(const KernelArgs& args, Change change) {
    for (const Slot& slot : results_) pointers_[static_cast<std::size_t>(slot.id)] = args.values[slot.id];
    for (Slot& slot : operands_) {
      pointers_[static_cast<std::size_t>(slot.id)] = args.values[slot.id];
      if (slot.value.dtype != DType::f64 || slot.value.scalar) continue;
      slot.copy.resize(static_cast<std::size_t>(slot.value.bytes()));
      auto* const copy = reinterpret_cast<double*>(slot.copy.data());
      const auto* const from = args.in<double>(slot.id);
      std::transform(from, from + slot.value.elements(), copy, change);
      pointers_[static_cast<std::size_t>(slot.id)] = copy;
    }
  }

  double largest_product(const KernelArgs& args) const {
    double product = 1;
    for (const Slot& slot : operands_) product *= largest(args.in<double>(slot.id), slot.value.elements());
    return product;
  }

  /// No partial sum is larger than the op's result on the operands without their signs.
  double largest_sum(const KernelArgs& args) {
    double most = 0;
    for (const Slot& slot : operands_) {
      if (slot.value.dtype == DType::f64 && !slot.value.scalar)
        most += largest(args.in<double>(slot.id), slot.value.elements());
    }
    with_operands(args, [](double x) { return std::abs(x); });
    for (Slot& slot : results_) {
      slot.copy.resize(static_cast<std::size_t>(slot.value.bytes()));
      pointers_[static_cast<std::size_t>(slot.id)] = slot.copy.data();
    }
    kernel_->run({pointers_.data(), args.scratch, args.rooms});
    for (const Slot& slot : results_) {
      if (slot.value.dtype != DType::f64) continue;
      const auto* const sums = reinterpret_cast<const double*>(slot.copy.data());
      most = std::max(most, largest(sums, slot.value.elements()));
    }
    return most;
  }

  /// Into the copies: the op's results may take the place of its operands.
  void run_unrounded(const KernelArgs& args) {
    for (const Slot& slot : operands_) pointers_[static_cast<std::size_t>(slot.id)] = args.values[slot.id];
    for (Slot& slot : results_) {
      slot.copy.resize(static_cast<std::size_t>(slot.value.elements()) * sizeof(double));
      pointers_[static_cast<std::size_t>(slot.id)] = slot.copy.data();
    }
    unrounded_->run({pointers_.data(), args.scratch, args.rooms});
  }

  static bool differs(const Slot& slot, const KernelArgs& args) {
    if (!is_floating(slot.value.dtype)) return false;
    std::vector<double> stored(static_cast<std::size_t>(slot.value.elements()));
    core::to_doubles(args.values[slot.id], slot.value.dtype, slot.value.elements(), stored.data());
    const auto* const exact = reinterpret_cast<const double*>(slot.copy.data());
    return !std::equal(stored.begin(), stored.end(), exact);
  }

  int bits_of_terms(const KernelArgs& args) const {
    int of_factors = 0, of_summands = 0;
    for (const Slot& slot : operands_) {
      if (slot.value.dtype != DType::f64) continue;
      const int bits = fraction_bits(args.in<double>(slot.id), slot.value.elements());
      if (multiplies_ || slot.value.scalar) {
        of_factors += bits;
      } else {
        of_summands = std::max(of_summands, bits);
      }
    }
    return of_factors + of_summands;
  }

  std::unique_ptr<Kernel> kernel_, unrounded_;
  Probe& probe_;
  bool rounds_, multiplies_, convolves_;
  std::vector<Slot> operands_, results_;
  std::vector<void*> pointers_;  ///< by value id
};

class ProbedBackend final : public Backend {
 public:
  Probe probe;

  std::string_view name() const override { return "reference"; }
  void* allocate(std::size_t bytes) override { return reference_->allocate(bytes); }
  void free(void* data, std::size_t bytes) override { reference_->free(data, bytes); }
  void upload(void* to, const void* from, std::size_t bytes) override { reference_->upload(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override {
    reference_->download(to, from, bytes);
  }
  void synchronize() override { reference_->synchronize(); }
  backends::Support supports(const Graph&, const Group&) const override {
    return {.ok = false, .reason = "ops are probed one by one"};
  }
  std::unique_ptr<Kernel> compile(const Graph& graph, const Group& group) override {
    return std::make_unique<ProbedKernel>(*reference_, graph, group, probe);
  }

 private:
  std::unique_ptr<Backend> reference_ = backends::make_reference_backend();
};

Outcome run_probed(Recipe recipe, Probe& probe) {
  static ProbedBackend& backend = *new ProbedBackend;  // plans of the cache refer to it
  backend.probe = probe;
  recipe.checkpointed = false;
  const OnBackend before("reference");
  const Fusion off(false);
  core::Tape::current().settings.backend = &backend;
  Outcome outcome = run_program(recipe);
  materialize();
  probe = backend.probe;
  return outcome;
}

}  // namespace

Outcome run_in_double(Recipe recipe, const Disturbance& disturbance, std::uint64_t seed) {
  recipe.in_double = true;
  Probe probe{.disturbance = disturbance, .by_value = seed % 2 == 1, .dice = Dice(seed)};
  return run_probed(std::move(recipe), probe);
}

bool is_exact(Recipe recipe) {
  Probe probe{.watching = true};
  run_probed(recipe, probe);
  if (probe.rounded) return false;
  recipe.in_double = true;
  run_probed(std::move(recipe), probe);
  return probe.bits <= 24;
}

}  // namespace fusetape::tests
