#include <dnnl.hpp>
#include <string>

#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/matmul/matrix_product.hpp"
#include "backends/cpu/matmul/nan_keeping_relu.hpp"
#include "backends/cpu/onednn_engine.hpp"
#include "backends/cpu/pointwise_blocks.hpp"

/// matmul, alone and with bias, activation or a cast. f32 and bf16 go to oneDNN, whose threads and kernels
/// are the better ones from about 128×128×128 on; smaller f32 products, and f64, go to OpenBLAS, which needs
/// no primitive and is as fast there. What neither multiplies goes through f32.
namespace fusetape::backends::cpu::matmul {
namespace {

using plan::Graph;
using plan::Group;

constexpr std::int64_t small_product = std::int64_t{1} << 18;  ///< multiply-adds

const plan::MatrixProduct& roles_of(const Group& group) { return *group.as<plan::MatrixProduct>(); }

/// The pointers of a run with some of them exchanged.
class Redirected {
 public:
  explicit Redirected(const Graph& graph) : values_(graph.values.size(), nullptr) {}

  void set(int value, const void* at) { values_[static_cast<std::size_t>(value)] = const_cast<void*>(at); }
  KernelArgs args(std::byte* scratch, plan::Rooms rooms = {}) const {
    return {.values = values_.data(), .scratch = scratch, .rooms = rooms};
  }

 private:
  std::vector<void*> values_;
};

// ---- 16 bits through f32 ----------------------------------------------------------------------------------

/// Calls f(first, count) for blocks of `elements`, on all threads.
template <class F>
void for_blocks(std::int64_t elements, F f) {
  constexpr std::int64_t block = 1 << 13;
#pragma omp parallel for schedule(static)
  for (std::int64_t first = 0; first < elements; first += block) f(first, std::min(block, elements - first));
}

/// Widens a and b into scratch, multiplies there, and narrows the product.
class ThroughF32 final : public Kernel {
 public:
  ThroughF32(const Graph& graph, const Product& outer, std::unique_ptr<Kernel> product)
      : outer_(outer), product_(std::move(product)), inner_(graph) {
    name = product_->name + ", through f32";
    tensor_passes = outer.c.dtype == DType::f32 ? 7 : 9;
  }

  void run(const KernelArgs& args) override {
    const Scratch scratch = carve(args.scratch);
    widen(args, outer_.a, scratch.a);
    widen(args, outer_.b, scratch.b);
    void* const c = narrows() ? scratch.c : args.values[outer_.c.id];
    inner_.set(outer_.c.id, c);
    product_->run(inner_.args(scratch.product));
    if (!narrows()) return;
    for_blocks(stored(outer_.c), [&](std::int64_t first, std::int64_t count) {
      store_block(outer_.c.dtype, scratch.c + first, args.out<std::uint16_t>(outer_.c.id) + first,
                  static_cast<std::size_t>(count));
    });
  }

  std::size_t scratch_bytes() const override { return carve(nullptr).bytes; }

 private:
  struct Scratch {
    std::byte* product = nullptr;
    float *a = nullptr, *b = nullptr, *c = nullptr;
    std::size_t bytes = 0;
  };

  static std::int64_t stored(const Matrix& m) { return m.batch * m.elements(); }
  bool narrows() const { return outer_.c.dtype != DType::f32; }

  Scratch carve(std::byte* base) const {
    ScratchCarver carver(base);
    Scratch scratch;
    scratch.product = carver.take<std::byte>(static_cast<std::int64_t>(product_->scratch_bytes()));
    scratch.a = carver.take<float>(stored(outer_.a));
    scratch.b = carver.take<float>(stored(outer_.b));
    scratch.c = carver.take<float>(narrows() ? stored(outer_.c) : 0);
    scratch.bytes = carver.used();
    return scratch;
  }

  void widen(const KernelArgs& args, const Matrix& m, float* to) {
    const auto* from = args.in<std::uint16_t>(m.id);
    for_blocks(stored(m), [&](std::int64_t first, std::int64_t count) {
      load_block(m.dtype, from + first, to + first, static_cast<std::size_t>(count));
    });
    inner_.set(m.id, to);
  }

  Product outer_;
  std::unique_ptr<Kernel> product_;
  Redirected inner_;
};

// ---- what follows the product -----------------------------------------------------------------------------

/// A product and, in a pass of their own over what the cache still holds of it, the pointwise nodes behind
/// it.
class WithEpilogue final : public Kernel {
 public:
  /// The product writes `written`; where nobody else wants that, in the place of the group's result.
  WithEpilogue(const Graph& graph, const Group& group, int written, std::unique_ptr<Kernel> product,
               std::unique_ptr<Kernel> epilogue)
      : inputs_(group.inputs),
        outputs_(group.outputs),
        written_(written),
        target_(written == roles_of(group).before_activation ? written : roles_of(group).y),
        product_(std::move(product)),
        epilogue_(std::move(epilogue)),
        inner_(graph) {
    name = product_->name + " + " + epilogue_->name;
    tensor_passes = product_->tensor_passes + epilogue_->tensor_passes;
  }

  void run(const KernelArgs& args) override {
    for (int id : inputs_) inner_.set(id, args.values[id]);
    for (int id : outputs_) inner_.set(id, args.values[id]);
    inner_.set(written_, args.values[target_]);
    product_->run(inner_.args(args.scratch));
    epilogue_->run(inner_.args(args.scratch, args.rooms));
  }

  std::size_t scratch_bytes() const override {
    return std::max(product_->scratch_bytes(), epilogue_->scratch_bytes());
  }
  std::size_t room_bytes() const override { return epilogue_->room_bytes(); }

 private:
  std::vector<int> inputs_, outputs_;
  int written_, target_;
  std::unique_ptr<Kernel> product_, epilogue_;
  Redirected inner_;
};

/// The group's nodes from `first` on, as a pointwise group of their own.
Group epilogue_of(const Group& group, std::size_t first, int reads) {
  Group rest;
  rest.roles = plan::Chain{};
  rest.nodes.assign(group.nodes.begin() + static_cast<std::ptrdiff_t>(first), group.nodes.end());
  rest.inputs = {reads};
  const plan::MatrixProduct& roles = roles_of(group);
  rest.outputs = {roles.y};
  if (first == 1 && roles.bias >= 0) {
    rest.inputs.push_back(roles.bias);
    if (roles.before_activation >= 0) rest.outputs.push_back(roles.before_activation);
  }
  return rest;
}

const Candidate& chains() { return pointwise::pointwise_programs()[0]; }

std::unique_ptr<Kernel> with_epilogue(const Graph& graph, const Group& group, std::size_t first, int written,
                                      std::unique_ptr<Kernel> product) {
  const Group rest = epilogue_of(group, first, written);
  auto epilogue = chains().make(graph, rest);
  epilogue->name = chains().name;
  epilogue->tensor_passes = static_cast<double>(1 + rest.outputs.size());
  return std::make_unique<WithEpilogue>(graph, group, written, std::move(product), std::move(epilogue));
}

/// Whether nodes follow the product, other than a cast that it makes itself.
bool has_epilogue(const Group& group) {
  return roles_of(group).bias >= 0 || roles_of(group).activation != nullptr;
}

// ---- candidates: oneDNN -----------------------------------------------------------------------------------

/// The product with as much of what follows as oneDNN's own epilogue does: the bias, and a ReLU whose operand
/// nobody wants. Its GELU is exact to absolute rounding only, ours to relative rounding.
Product with_own_epilogue(const Graph& graph, const Group& group, Product p) {
  if (!has_epilogue(group)) return p;
  const plan::MatrixProduct& roles = roles_of(group);
  p.bias = roles.bias;
  if (roles.bias >= 0) p.c.id = graph.node(group.nodes[1]).outputs[0];
  p.relu = roles.activation == &ops::relu_op && roles.before_activation < 0;
  if (p.relu) p.c.id = roles.y;
  return p;
}

Support supports_onednn(const Graph& graph, const Group& group) {
  const std::optional<Product> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  return supports_onednn_product(with_own_epilogue(graph, group, *product));
}

std::unique_ptr<Kernel> make_onednn(const Graph& graph, const Group& group) {
  Product p = with_own_epilogue(graph, group, *product_of(graph, group));
  try {
    std::unique_ptr<Kernel> kernel = make_onednn_product(p);
    if (p.relu) {
      p.relu = false;
      return std::make_unique<NanKeepingRelu>(graph, p.c.id, std::move(kernel), make_onednn_product(p));
    }
    if (!has_epilogue(group) || p.c.id == roles_of(group).y) return kernel;
    return with_epilogue(graph, group, group.nodes.size() - 1, p.c.id, std::move(kernel));
  } catch (const dnnl::error& error) {
    rethrow_onednn(graph.node(group.nodes[0]), error);
  }
}

// ---- candidates: OpenBLAS, and 16 bits through f32 --------------------------------------------------------

std::unique_ptr<Kernel> finished(const Graph& graph, const Group& group, const Product& p,
                                 std::unique_ptr<Kernel> kernel) {
  return has_epilogue(group) ? with_epilogue(graph, group, 1, p.c.id, std::move(kernel)) : std::move(kernel);
}

bool small(const Product& p) { return p.batch == 1 && p.c.elements() * p.a.columns <= small_product; }

Support supports_blas(const Graph& graph, const Group& group) {
  const std::optional<Product> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  if (Support support = supports_blas_product(*product); !support.ok) return support;
  if (product->a.dtype == DType::f32 && !small(*product))
    return {.ok = false, .reason = "oneDNN is faster at this size"};
  if (!has_epilogue(group)) return {};
  return chains().supports(graph, epilogue_of(group, 1, product->c.id));
}

std::unique_ptr<Kernel> make_blas(const Graph& graph, const Group& group) {
  const Product p = *product_of(graph, group);
  return finished(graph, group, p, make_blas_product(p));
}

Product widened(Product p) {
  for (Matrix* m : {&p.a, &p.b, &p.c}) m->dtype = DType::f32;
  return p;
}

Support supports_through_f32(const Graph& graph, const Group& group) {
  const std::optional<Product> product = product_of(graph, group);
  if (!product) return {.ok = false, .reason = ""};
  if (!product->half()) return {.ok = false, .reason = ""};
  return supports_blas_product(widened(*product));
}

std::unique_ptr<Kernel> make_through_f32(const Graph& graph, const Group& group) {
  const Product p = *product_of(graph, group), wide = widened(p);
  const bool blas = small(wide) || !supports_onednn_product(wide).ok;
  auto inner = blas ? make_blas_product(wide) : make_onednn_product(wide);
  return finished(graph, group, p, std::make_unique<ThroughF32>(graph, p, std::move(inner)));
}

constexpr Candidate candidates[] = {{"openblas:gemm", supports_blas, make_blas},
                                    {"onednn:matmul", supports_onednn, make_onednn},
                                    {"f32 in scratch", supports_through_f32, make_through_f32}};

}  // namespace

std::span<const Candidate> matrix_products() { return candidates; }

}  // namespace fusetape::backends::cpu::matmul
