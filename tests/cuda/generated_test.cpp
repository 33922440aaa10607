// The text of generated pointwise kernels: the host's compiler makes of it what its double computes, and
// NVRTC compiles it.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <sstream>

#include "backends/cuda/pointwise/pointwise_program.hpp"
#include "core/numerics/reference.hpp"
#include "core/op/op_attrs.hpp"
#include "core/plan/passes/passes.hpp"
#include "generated_kernels.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::backends::cuda::pointwise::PointwiseProgram;
using ft::core::Attrs;

namespace {

/// A chain, node by node.
class Chain {
 public:
  explicit Chain(Shape shape) : shape_(shape) { group_.roles = ft::plan::Chain{}; }

  int input(DType dtype = DType::f32) { return input(dtype, shape_); }
  int input(DType dtype, Shape shape) { return add_value({.shape = shape, .dtype = dtype}); }
  int node(std::string_view op, std::vector<int> inputs, DType dtype = DType::f32,
           const Attrs& attrs = Attrs::of(ft::core::NoAttrs{})) {
    const int id = static_cast<int>(graph_.nodes.size());
    const int result = add_value({.shape = shape_, .dtype = dtype, .producer = id});
    for (const int input : inputs) graph_.values[static_cast<std::size_t>(input)].consumers.push_back(id);
    graph_.nodes.push_back(
        {.op = &ft::core::find_op(op), .attrs = attrs, .inputs = std::move(inputs), .outputs = {result}});
    group_.nodes.push_back(id);
    return result;
  }
  /// The sum of a value at the chain's end.
  void sum(int value, std::int64_t axes, Shape result) {
    group_.roles = ft::plan::Chain{.reduction_node = static_cast<int>(graph_.nodes.size())};
    const DType dtype = graph_.value(value).dtype;
    std::swap(shape_, result);
    keep(node("sum", {value}, dtype, Attrs::of(ft::core::ReduceAttrs{.axes = axes})));
    std::swap(shape_, result);
  }
  void keep(int value) { graph_.values[static_cast<std::size_t>(value)].keep = true; }

  /// Why the chain is no program.
  std::string refusal() {
    ft::plan::close_group(graph_, group_);
    return ft::backends::cuda::pointwise::pointwise_refusal(graph_, group_);
  }
  std::shared_ptr<const PointwiseProgram> program(const std::string& name) {
    group_.name = name;
    CHECK(refusal() == "");
    if (group_.reduction_node() >= 0) CHECK(ft::backends::cuda::pointwise::sum_refusal(graph_, group_) == "");
    return std::make_shared<const PointwiseProgram>(
        ft::backends::cuda::pointwise::make_pointwise_program(graph_, group_));
  }

 private:
  int add_value(ft::plan::GraphValue value) {
    graph_.values.push_back(std::move(value));
    return static_cast<int>(graph_.values.size()) - 1;
  }

  Shape shape_;
  ft::plan::Graph graph_;
  ft::plan::Group group_;
};

struct Case {
  std::string name;
  Shape shape;
  std::function<void(Chain&)> build;
  bool exact = true;  ///< only + − · / and choices: equal to the bit
};

void arithmetic(Chain& c) {
  const int x = c.input(), y = c.input(), s = c.input(DType::f32, {});
  const int product = c.node("mul", {c.node("add", {x, s}), y});
  c.keep(product);
  c.keep(c.node("neg", {c.node("sub", {c.node("div", {product, s}), x})}));
}

/// Rounded after every node.
void rounded_to(DType dtype, Chain& c) {
  const int x = c.input(dtype), y = c.input(dtype), b = c.input(dtype, {8});
  const int sum = c.node("bias_add", {c.node("mul", {x, y}, dtype), b}, dtype);
  c.keep(c.node("relu", {sum}, dtype));
  c.keep(c.node("relu_grad", {c.node("div", {x, y}, dtype), sum}, dtype));
}

void broadcasts(DType dtype, const std::vector<Shape>& operands, Chain& c) {
  int x = c.input(dtype);
  for (const Shape& operand : operands) x = c.node("add", {x, c.input(dtype, operand)}, dtype);
  c.keep(x);
}

/// A chain's sum over these axes; the product is written, too.
void summed(DType dtype, std::int64_t axes, const Shape& result, Chain& c) {
  const int x = c.input(dtype), product = c.node("mul", {x, c.input(dtype)}, dtype);
  c.keep(product);
  c.sum(c.node("sub", {product, x}, dtype), axes, result);
}

void conversions(Chain& c) {
  const int half = c.input(DType::bf16), bytes = c.input(DType::u8), labels = c.input(DType::i64);
  const int wide = c.node("cast", {half}), small = c.node("cast", {bytes}), large = c.node("cast", {labels});
  const int sum = c.node("add", {c.node("mul", {wide, small}), large});
  c.keep(c.node("cast", {sum}, DType::f16));
  c.keep(c.node("cast", {sum}, DType::boolean));
  c.keep(c.node("cast", {c.node("less", {small, wide}, DType::boolean)}, DType::u8));
  c.keep(c.node("broadcast_to", {bytes}, DType::u8));
}

void choices(Chain& c) {
  const int x = c.input(), y = c.input();
  for (const char* op : {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
    c.keep(c.node(op, {x, y}, DType::boolean));
  const int chosen = c.node("where", {c.node("less", {x, y}, DType::boolean), x, c.node("abs", {y})});
  c.keep(chosen);
  for (const char* op : {"minimum", "maximum", "abs_grad", "relu_grad"}) c.keep(c.node(op, {x, y}));
  const int low = c.input(DType::f64, {}), high = c.input(DType::f64, {});
  c.keep(c.node("clamp", {x, low, high}));
  c.keep(c.node("clamp_grad", {x, y, low, high}));
  c.keep(c.node("leaky_relu", {x, high}));
  c.keep(c.node("leaky_relu_grad", {x, y, high}));
}

void functions(Chain& c) {
  const int x = c.input(), y = c.input(), positive = c.node("abs", {x});
  for (const char* op : {"exp", "relu", "sigmoid", "tanh", "gelu"}) c.keep(c.node(op, {x}));
  for (const char* op : {"log", "sqrt"}) c.keep(c.node(op, {positive}));
  for (const char* op : {"sigmoid_grad", "tanh_grad", "gelu_grad", "bce_logits"}) c.keep(c.node(op, {x, y}));
  c.keep(c.node("pow", {positive, y}));
  c.keep(c.node("bce_logits_grad", {x, y, positive}));
}

std::vector<Case> cases() {
  using std::placeholders::_1;
  const auto broadcast = [](DType dtype, std::vector<Shape> operands) {
    return std::bind(broadcasts, dtype, std::move(operands), _1);
  };
  const auto sum = [](DType dtype, std::int64_t axes, Shape result) {
    return std::bind(summed, dtype, axes, result, _1);
  };
  return {{"arithmetic", {5001}, arithmetic},
          {"bf16", {125, 8}, std::bind(rounded_to, DType::bf16, _1)},
          {"f16", {125, 8}, std::bind(rounded_to, DType::f16, _1)},
          {"rows", {7, 5, 8}, broadcast(DType::f32, {{8}, {5, 1}, {7, 1, 8}, {7, 1, 1}})},
          {"odd_rows", {7, 5, 3}, broadcast(DType::f32, {{3}, {5, 1}, {7, 1, 3}, {7, 1, 1}, {1, 5, 3}})},
          {"half_rows", {2, 3, 4, 16}, broadcast(DType::bf16, {{16}, {4, 1}, {3, 1, 16}, {2, 1, 4, 1}, {}})},
          {"broken_half_rows", {9, 12}, broadcast(DType::f16, {{12}, {9, 1}})},
          {"sum_of_all", {7, 5, 12}, sum(DType::f32, 7, {})},
          {"sum_of_few", {3}, sum(DType::f32, 1, {})},
          {"sum_of_columns", {70, 5, 24}, sum(DType::bf16, 3, {24})},
          {"sum_of_odd_columns", {70, 5, 3}, sum(DType::f16, 3, {3})},
          {"sum_of_rows", {7, 5, 72}, sum(DType::f32, 4, {7, 5})},
          {"sum_of_middle", {3, 70, 6}, sum(DType::f32, 2, {3, 6})},
          {"conversions", {1000}, conversions},
          {"choices", {1000}, choices},
          {"functions", {1000}, functions, false}};
}

constexpr double specials[] = {0, -0.0, 1, -1, HUGE_VAL, -HUGE_VAL, NAN, 3e30, -3e30, 0.1f, -0.1f, 17};

/// A tensor with a guard behind it.
class Memory {
 public:
  static constexpr std::size_t guard = 64;

  Memory(DType dtype, std::int64_t count) : dtype_(dtype), count_(count), bytes_(room()) {
    std::memset(data(), 0x5a, bytes_.size() * sizeof(bytes_[0]));
  }
  void fill(int seed, bool special) {
    std::vector<double> numbers(static_cast<std::size_t>(count_));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto n = i * 37 + static_cast<std::size_t>(seed) * 11;
      numbers[i] = static_cast<double>(n % 191) / 32 - 3;
      if (special && n % 5 == 0) numbers[i] = specials[n / 5 % std::size(specials)];
      if (dtype_ == DType::u8) numbers[i] = static_cast<double>(n % 5);
      if (dtype_ == DType::i64) numbers[i] = static_cast<double>(n) - 1000;
    }
    ft::core::from_doubles(numbers.data(), dtype_, count_, data());
  }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  std::vector<double> numbers() const {
    std::vector<double> numbers(static_cast<std::size_t>(count_));
    ft::core::to_doubles(data(), dtype_, count_, numbers.data());
    return numbers;
  }
  /// Whether what is behind the first `count` elements is as it was.
  bool untouched_from(std::int64_t count) const {
    const auto* bytes = static_cast<const unsigned char*>(data());
    const std::size_t end = bytes_.size() * sizeof(bytes_[0]);
    return std::all_of(bytes + static_cast<std::size_t>(count) * ft::size_of(dtype_), bytes + end,
                       [](unsigned char byte) { return byte == 0x5a; });
  }

 private:
  std::size_t room() const {
    return (static_cast<std::size_t>(count_) * ft::size_of(dtype_) + guard) / sizeof(std::max_align_t) + 1;
  }
  DType dtype_;
  std::int64_t count_;
  std::vector<std::max_align_t> bytes_;
};

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}
bool close(double a, double b) { return same(a, b) || std::abs(a - b) <= 1e-6 * std::max(1.0, std::abs(b)); }

/// The first `count` elements by the text and by its double.
void compare(const Case& c, const PointwiseProgram& program, const ft::backends::cuda::HostBlock& on_host,
             const HostCompiled& compiled, std::int64_t count) {
  std::vector<Memory> in, by_text, by_host;
  for (const auto& input : program.inputs) {
    std::int64_t elements = program.count;
    if (input.kind != PointwiseProgram::Input::Kind::packed) {
      elements = 1;
      for (int axis = 0; axis < input.view.rank; ++axis) {
        const auto a = static_cast<std::size_t>(axis);
        if (input.view.stride[a] != 0) elements *= input.view.extent[a];
      }
    }
    in.emplace_back(input.dtype, elements);
    in.back().fill(static_cast<int>(in.size()), c.exact);
  }
  std::vector<std::int64_t> written;
  for (const auto& output : program.outputs) {
    by_text.emplace_back(program.step(output.step).dtype, program.count);
    written.push_back(count);
  }
  if (program.sum) {
    written.push_back(program.sum->parts * program.sum->results());
    by_text.emplace_back(DType::f32, written.back());
  }
  by_host = by_text;
  const auto args_with = [&](std::vector<Memory>& out) {
    std::vector<std::uint64_t> args;
    args.reserve(in.size() + out.size() + 1);
    for (Memory& memory : in) args.push_back(reinterpret_cast<std::uintptr_t>(memory.data()));
    for (Memory& memory : out) args.push_back(reinterpret_cast<std::uintptr_t>(memory.data()));
    args.push_back(static_cast<std::uint64_t>(count));
    return args;
  };
  // A sum's grid covers its threads; in other kernels each block goes on in strides of the grid.
  constexpr unsigned blocks = 2, threads = PointwiseProgram::threads;
  compiled.run(program.name, blocks, threads, args_with(by_text).data());
  for (const unsigned block : {1u, 0u})
    on_host(args_with(by_host).data(), {.block_x = block, .blocks_x = blocks}, {.first = 5, .step = 7});
  for (std::size_t i = 0; i < by_text.size(); ++i) {
    const std::vector<double> got = by_text[i].numbers(), expected = by_host[i].numbers();
    for (std::size_t j = 0; j < static_cast<std::size_t>(written[i]); ++j) {
      if (c.exact ? same(got[j], expected[j]) : close(got[j], expected[j])) continue;
      FAIL_CHECK(c.name << ", " << count << " elements: output " << i << ", element " << j << ": " << got[j]
                        << ", not " << expected[j]);
      break;
    }
    CHECK_MESSAGE(by_text[i].untouched_from(written[i]), c.name);
    CHECK_MESSAGE(by_host[i].untouched_from(written[i]), c.name);
  }
}

struct Made {
  Case what;
  std::shared_ptr<const PointwiseProgram> program;
};

std::vector<Made> all_programs() {
  std::vector<Made> made;
  for (const Case& c : cases()) {
    Chain chain(c.shape);
    c.build(chain);
    made.push_back({c, chain.program(c.name)});
  }
  return made;
}

std::vector<GeneratedKernel> kernels_of(const std::vector<Made>& made) {
  std::vector<GeneratedKernel> kernels;
  kernels.reserve(made.size());
  for (const Made& one : made)
    kernels.push_back({one.program->name, ft::backends::cuda::pointwise::pointwise_text(*one.program)});
  return kernels;
}

}  // namespace

TEST_CASE("the text of generated kernels computes what their double does") {
  const std::vector<Made> made = all_programs();
  const HostCompiled compiled(kernels_of(made));
  if (!compiled.why_not.empty()) {
    MESSAGE("skipped: " << compiled.why_not);
    return;
  }
  REQUIRE(compiled.errors == "");
  for (const Made& one : made) {
    const auto on_host = ft::backends::cuda::pointwise::pointwise_on_host(one.program);
    if (one.program->sum) {
      compare(one.what, *one.program, on_host, compiled, one.program->count);
      continue;
    }
    for (const std::int64_t count : {std::int64_t{1}, std::int64_t{3}, std::int64_t{17}, one.program->count})
      compare(one.what, *one.program, on_host, compiled, count);
  }
}

namespace {

/// Whether anything is done with doubles but to load an op's number and to round it.
bool computes_in_doubles(const std::string& ptx) {
  std::istringstream lines(ptx);
  for (std::string line; std::getline(lines, line);) {
    const bool rounds = contains(line, ".f32.f64"), moves = contains(line, "ld.") || contains(line, ".reg");
    if (contains(line, ".f64") && !rounds && !moves) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("NVRTC compiles the text of generated kernels: f32 alone, 16 bytes at a time") {
  for (const Made& one : all_programs()) {
    const std::string text = ft::backends::cuda::pointwise::pointwise_text(*one.program);
    const NvrtcCompiled compiled = compile_with_nvrtc({one.program->name, text});
    if (!compiled.why_not.empty()) {
      MESSAGE("skipped: " << compiled.why_not);
      return;
    }
    CHECK(compiled.log == "");
    CHECK_MESSAGE(compiled.ptx.find(".entry " + one.program->name) != std::string::npos, one.what.name);
    CHECK_MESSAGE(!computes_in_doubles(compiled.ptx), one.what.name);
    const bool in_fours = compiled.ptx.find("ld.global.v4") != std::string::npos;
    CHECK_MESSAGE(in_fours == (one.program->width >= 4), one.what.name);
  }
}
