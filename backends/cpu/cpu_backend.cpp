#include <cblas.h>
#include <omp.h>
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "backends/candidate_choice.hpp"
#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"
#include "backends/cpu/instructions.hpp"
#include "backends/cpu/tune/tuner.hpp"
#include "backends/custom_kernel.hpp"

namespace fusetape::backends {
namespace {

using cpu::Candidate;
using plan::Graph;
using plan::Group;

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

/// Every kernel of the CPU in the order in which they are asked; the reference comes after all of them.
std::array<std::span<const Candidate>, 18> candidate_lists() {
  return {cpu::conv::winograd_convolutions(),
          cpu::conv::row_convolutions(),
          cpu::conv::onednn_convolutions(),
          cpu::reduce::poolings(),
          cpu::matmul::matrix_products(),
          cpu::norm::batch_norms(),
          cpu::norm::group_norms(),
          cpu::norm::bias_relu_gradients(),
          cpu::pointwise::pointwise_programs(),
          cpu::reduce::reductions(),
          cpu::reduce::softmaxes(),
          cpu::reduce::cross_entropies(),
          cpu::update::optimizers(),
          cpu::move::movements(),
          cpu::move::transposes(),
          cpu::move::indexed(),
          cpu::move::random_draws(),
          cpu::norm::relu_masks()};
}

/// Why Winograd takes the group: what was timed for its convolution, or for each of two, if that was so.
/// (oneDNN's kernels say so themselves: not all of them obey.)
std::string tuned_winograd(const Graph& graph, const Group& group) {
  std::string why;
  bool several = false;
  for (const int node : group.nodes) {
    const auto& tuned = graph.node(node).tuned;
    if (tuned == nullptr || tuned->kernel != "winograd") continue;
    several = !why.empty();
    why += (why.empty() ? "" : "; ") + tuned->why;
  }
  return several ? "each by itself " + why : why;
}

/// Why Winograd does not take the group, however fast: its error.
std::string inaccurate_winograd(const Graph& graph, const Group& group) {
  if (graph.conv_algorithm != ConvAlgorithm::automatic) return {};
  for (const int n : group.nodes) {
    const plan::GraphNode& node = graph.node(n);
    if (!cpu::conv::winograd_computes(graph, node).ok) continue;
    const Support accurate = cpu::conv::winograd_is_accurate(graph, node);
    if (!accurate.ok) return "winograd: " + accurate.reason;
  }
  return {};
}

/// OpenBLAS takes as many as it was built for, and would leave OpenMP's number at that.
void set_threads_of_all(int threads) {
  openblas_set_num_threads(threads);
  omp_set_num_threads(threads);  // oneDNN's and our own
}

bool is_winograd(const Candidate* candidate) {
  return candidate != nullptr && candidate == cpu::conv::winograd_convolutions().data();
}

class CpuBackend final : public Backend {
 public:
  CpuBackend() {
    // One pool for everybody: a second one would fight the first for the cores.
    constexpr int openmp_build = 2;
    if (openblas_get_parallel() != openmp_build) {
      throw Error("cpu", std::string("expected OpenBLAS built with OpenMP (libopenblas-openmp-dev), got ") +
                             openblas_get_config());
    }
    set_threads_of_all(omp_get_max_threads());
  }

  std::string instructions() const override { return instructions_; }
  std::string_view name() const override { return "cpu"; }

  void* allocate(std::size_t bytes) override {
    // Huge pages save most of the page faults and TLB misses of an arena.
    const bool big = bytes >= 2 * huge_page;
    const std::size_t alignment = big ? huge_page : cache_line;
    const std::size_t size = round_up(bytes == 0 ? 1 : bytes, cache_line);
    void* data = nullptr;
    if (size < bytes || posix_memalign(&data, alignment, size) != 0) {
      throw Error("allocate", "expected " + std::to_string(bytes) + " bytes of memory, got none");
    }
    if (big) madvise(data, size / huge_page * huge_page, MADV_HUGEPAGE);
    return data;
  }

  void free(void* data, std::size_t) override { std::free(data); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { upload(to, from, bytes); }
  void synchronize() override {}

  void set_threads(int threads) override { set_threads_of_all(threads); }

  Speed speed() const override {
    // What a core of today's servers does in convolutions, and streams from memory beside its neighbours.
    constexpr double flops_of_a_core = 1e11, bytes_of_a_core = 1e10;
    const double cores = omp_get_max_threads();
    return {.flops = flops_of_a_core * cores,
            .half_flops = 2 * flops_of_a_core * cores,
            .bytes = bytes_of_a_core * cores};
  }

  Support supports(const Graph& graph, const Group& group) const override {
    if (group.single()) return {};
    return support_of(choose(candidate_lists(), graph, group), group, "CPU");
  }

  bool carries(const Graph& graph, const plan::GraphNode& convolution, NormPart,
               const core::OpDef* activation) const override {
    return !convolution.apart && (cpu::conv::winograd_carries(graph, convolution, activation) ||
                                  cpu::conv::rows_carry(graph, convolution));
  }

  std::string tune(Graph& graph, plan::TakenKernels& taken) override {
    return cpu::tune::process_tuner().tune(graph, taken, *this);
  }

  int threads_of_kernels() const override { return omp_get_max_threads(); }

  Apart tune_carried(const Graph& graph, const std::vector<Group>& groups,
                     plan::TakenKernels& taken) override {
    return cpu::tune::process_tuner().tune_carried(graph, groups, taken, *this);
  }

  std::unique_ptr<Kernel> compile(const Graph& graph, const Group& group) override {
    if (is_custom(graph, group)) return make_custom_kernel(graph, group);
    const auto choice = choose(candidate_lists(), graph, group);
    std::unique_ptr<Kernel> kernel = choice.candidate != nullptr ? choice.candidate->make(graph, group)
                                                                 : make_reference_kernel(graph, group);
    if (kernel->name.empty())
      kernel->name = choice.candidate != nullptr ? choice.candidate->name : "reference";
    if (choice.candidate == nullptr)
      kernel->why = choice.refusals.empty() ? "no CPU kernel" : choice.refusals;
    if (is_winograd(choice.candidate)) {
      kernel->why = tuned_winograd(graph, group);
    } else if (choice.candidate != nullptr) {
      const std::string refusal = inaccurate_winograd(graph, group);
      kernel->why += (kernel->why.empty() || refusal.empty() ? "" : "; ") + refusal;
    }
    if (kernel->tensor_passes == 0) kernel->tensor_passes = plan::tensor_passes(graph, group);
    return kernel;
  }

 private:
  std::string instructions_ = cpu::limit_instructions();
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace fusetape::backends
