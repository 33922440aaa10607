// The CUDA C++ of pointwise programs.
#include <cstdint>

#include "backends/cuda/pointwise/pointwise_program.hpp"
#include "backends/cuda/pointwise/program_headers.hpp"

namespace fusetape::backends::cuda::pointwise {
namespace {

using Input = PointwiseProgram::Input;
using Step = PointwiseProgram::Step;

/// What the headers take from the standard library, for a compiler that comes without one (NVRTC).
constexpr const char* standard_library = R"(#ifdef __CUDACC_RTC__
namespace std {
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
template <class To, class From>
__host__ __device__ constexpr To bit_cast(const From& from) {
  return __builtin_bit_cast(To, from);
}
using ::abs;
using ::cos;
using ::erfc;
using ::exp;
using ::expm1;
using ::floor;
using ::log;
using ::log1p;
using ::pow;
using ::rint;
using ::sin;
using ::sqrt;
using ::tanh;
}  // namespace std
#endif
)";

constexpr const char* kernel_body = R"(  const Index stride = static_cast<Index>(gridDim.x) * blockDim.x;
  const Index first = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  const Index count = static_cast<Index>(args.count), packs = count / width;
  for (Index i = first; i < packs; i += stride) run<width>(args, i * width);
  for (Index i = packs * width + first; i < count; i += stride) run<1>(args, i);
}
)";

const char* type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float";
    case DType::bf16:
      return "Bf16";
    case DType::f16:
      return "F16";
    case DType::boolean:
      return "Bool";
    case DType::u8:
      return "U8";
    case DType::i64:
      return "I64";
    case DType::f64:
      return "double";
  }
  FUSETAPE_ASSERT(false);
  return "";
}

std::string number(std::int64_t i) { return std::to_string(i); }
std::string number(std::size_t i) { return std::to_string(i); }

class Text {
 public:
  explicit Text(const PointwiseProgram& program) : program_(program) {}

  std::string write() {
    text_ = standard_library;
    text_ += program_headers;
    const bool large = program_.count >= std::int64_t{1} << 31;
    line("using namespace fusetape::backends::cuda::program;");
    line("namespace formulas = fusetape::core::formulas;");
    line(std::string("using Index = ") + (large ? "unsigned long long;" : "unsigned;"));
    line("constexpr int width = " + number(std::int64_t{program_.width}) + ";");
    line("struct Args {");
    line("  const void* in[" + number(program_.inputs.size()) + "];");
    line("  void* out[" + number(program_.results()) + "];");
    line("  long long count;\n};");
    write_run();
    line("extern \"C\" __global__ void __launch_bounds__(" + number(std::int64_t{program_.threads}) + ") " +
         program_.name + "(const Args args) {");
    if (program_.sum) {
      write_sums();
    } else {
      text_ += kernel_body;
    }
    return std::move(text_);
  }

 private:
  void line(const std::string& what) { text_ += what + "\n"; }

  /// All operands are read before any result is written: they may share memory.
  void write_run() {
    line("/// Elements [at, at + width).");
    line("template <int width>\nstatic __device__ inline void run(const Args& args, Index at" +
         std::string(program_.sum ? ", float* sums" : "") + ") {");
    for (std::size_t i = 0; i < program_.inputs.size(); ++i) read_at_once(i);
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) {
      line("  Neighbours<" + std::string(stored_type(i)) + ", width> to" + number(i) + ";");
    }
    line("#pragma unroll\n  for (int k = 0; k < width; ++k) {");
    for (std::size_t i = 0; i < program_.inputs.size(); ++i) read_element(i);
    for (std::size_t i = 0; i < program_.steps.size(); ++i) compute(i);
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) {
      line("    to" + number(i) + ".at[k] = y" + number(slot_of(program_.outputs[i].step)) + ";");
    }
    if (program_.sum) line("    sums[k] += x" + number(std::int64_t{program_.sum->operand}) + ";");
    line("  }");
    for (std::size_t i = 0; i < program_.outputs.size(); ++i) {
      line("  store(args.out[" + number(i) + "], at, to" + number(i) + ");");
    }
    line("}");
  }

  void write_sums() {
    const PointwiseProgram::Sum& sum = *program_.sum;
    const std::string columns = number(program_.sum_columns()) + "u", parts = number(sum.parts) + "u";
    const std::string rows = number(sum.rows) + "u";
    line("  const Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;");
    line("  if (i >= " + number(program_.sum_threads()) + "u) return;");
    line("  const Index column = i % " + columns + ", part = i / " + columns + " % " + parts + ";");
    line("  const Index outer = i / " + columns + " / " + parts + ";");
    line("  float sums[width] = {};");
    line("  for (Index row = part; row < " + rows + "; row += " + parts + ") {");
    line("    run<width>(args, ((outer * " + rows + " + row) * " + columns +
         " + column) * width, sums);\n  }");
    line("  float* const to = static_cast<float*>(args.out[" + number(program_.outputs.size()) +
         "]) + part * " + number(sum.results()) + "u + outer * " + number(sum.inner) + "u;");
    if (sum.along_rows()) {
      line("  for (int k = 1; k < width; ++k) sums[0] += sums[k];");
      line("  to[0] = sums[0];\n}");
    } else {
      line("  for (int k = 0; k < width; ++k) to[column * width + k] = sums[k];\n}");
    }
  }

  const char* stored_type(std::size_t output) const {
    return type_of(program_.step(program_.outputs[output].step).dtype);
  }
  std::size_t slot_of(int step) const { return program_.inputs.size() + static_cast<std::size_t>(step); }

  // ---- operands ----

  /// How an operand is read by the elements [at, at + width).
  enum class Reading : std::uint8_t {
    neighbours,  ///< it has as many beside each other
    same,        ///< all read one
    single,      ///< each its own
  };
  Reading reading_of(const Input& input) const {
    if (input.kind == Input::Kind::packed) return Reading::neighbours;
    if (input.kind == Input::Kind::scalar) return Reading::same;
    const auto last = static_cast<std::size_t>(input.view.rank - 1);
    if (input.view.extent[last] % program_.width != 0) return Reading::single;
    return input.view.stride[last] == 0 ? Reading::same : Reading::neighbours;
  }

  void read_at_once(std::size_t i) {
    const Input& input = program_.inputs[i];
    const std::string type = type_of(input.dtype), from = "(args.in[" + number(i) + "], ";
    switch (reading_of(input)) {
      case Reading::neighbours:
        return line("  const auto from" + number(i) + " = load<" + type + ", width>" + from +
                    place(input, "at") + ");");
      case Reading::same:
        if (input.dtype == DType::f64)
          return line("  const double x" + number(i) + " = *static_cast<const double*>(args.in[" + number(i) +
                      "]);");
        return line("  const float x" + number(i) + " = load_float<" + type + ">" + from +
                    place(input, "at") + ");");
      case Reading::single:
        return;
    }
  }

  void read_element(std::size_t i) {
    const Input& input = program_.inputs[i];
    const std::string x = "    const float x" + number(i) + " = ";
    switch (reading_of(input)) {
      case Reading::neighbours:
        return line(x + "to_float(from" + number(i) + ".at[k]);");
      case Reading::same:
        return;
      case Reading::single:
        return line(x + "load_float<" + type_of(input.dtype) + ">(args.in[" + number(i) + "], " +
                    place(input, "(at + k)") + ");");
    }
  }

  /// Where in an operand the element `at` of the group's shape reads.
  static std::string place(const Input& input, const std::string& at) {
    if (input.kind == Input::Kind::packed) return at;
    if (input.kind == Input::Kind::scalar) return "0u";
    std::string sum;
    std::int64_t inner = 1;
    for (auto axis = static_cast<std::size_t>(input.view.rank); axis-- > 0;) {
      const std::int64_t extent = input.view.extent[axis], stride = input.view.stride[axis];
      if (stride != 0) {
        std::string term = at;
        if (inner > 1) term += " / " + number(inner) + "u";
        if (axis > 0) term += " % " + number(extent) + "u";
        if (stride > 1) term += " * " + number(stride) + "u";
        sum += (sum.empty() ? "" : " + ") + term;
      }
      inner *= extent;
    }
    return sum;
  }

  // ---- nodes ----

  /// x: the result as a float, y: as it is stored.
  void compute(std::size_t i) {
    const Step& step = program_.steps[i];
    std::string operands;
    for (const int operand : step.operands) operands += ", x" + number(std::int64_t{operand});
    const std::string slot = number(slot_of(static_cast<int>(i)));
    const std::string type = type_of(step.dtype);
    line("    const " + type + " y" + slot + " = from_float<" + type +
         ">(formulas::" + std::string(step.op->name) + "<float>(" + operands.substr(2) + "));");
    line("    const float x" + slot + " = to_float(y" + slot + ");");
  }

  const PointwiseProgram& program_;
  std::string text_;
};

}  // namespace

std::string pointwise_text(const PointwiseProgram& program) { return Text(program).write(); }

}  // namespace fusetape::backends::cuda::pointwise
