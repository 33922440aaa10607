#include "backends/cpu/onednn_engine.hpp"

#include <algorithm>

#include "backends/cpu/pointwise_blocks.hpp"
#include "core/tape/thread_end.hpp"

namespace fusetape::backends::cpu {
namespace {

constexpr std::size_t alignment = 64;

/// A stream of one thread: tapes of several threads may run at once.
dnnl::stream& onednn_stream() {
  thread_local struct {
    dnnl::stream stream{onednn_engine()};
    core::EndsWithThread end;
  } own;
  return own.stream;
}

dnnl::memory memory_without_data(const dnnl::memory::desc& desc) {
  return {desc, onednn_engine(), DNNL_MEMORY_NONE};
}

void check(dnnl_status_t status, const std::string& kernel) {
  if (status == dnnl_success) return;
  throw Error(kernel, "oneDNN failed while it ran, with status " + std::to_string(static_cast<int>(status)));
}

bool is_half(const dnnl::memory::desc& desc) {
  return desc.get_data_type() == dnnl::memory::data_type::bf16 ||
         desc.get_data_type() == dnnl::memory::data_type::f16;
}

DType dtype_of(const dnnl::memory::desc& desc) {
  if (!is_half(desc)) return DType::f32;
  return desc.get_data_type() == dnnl::memory::data_type::bf16 ? DType::bf16 : DType::f16;
}

/// The same elements in f32.
dnnl::memory::desc widened(const dnnl::memory::desc& desc) {
  return {desc.get_dims(), dnnl::memory::data_type::f32, desc.get_strides()};
}

}  // namespace

const dnnl::engine& onednn_engine() {
  static const dnnl::engine& engine = *new dnnl::engine(dnnl::engine::kind::cpu, 0);  // outlives every tape
  return engine;
}

void rethrow_onednn(const plan::GraphNode& node, const dnnl::error& error) {
  const std::string what = std::string("oneDNN: ") + error.what();
  const std::string name(node.op->name);
  if (node.module_path == nullptr) throw Error(name, what, node.at);
  throw Error(name, what, node.at, *node.module_path);
}

dnnl::primitive_attr onednn_attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

dnnl::memory OnednnKernel::value(int id, const dnnl::memory::desc& desc) {
  values_.push_back({memory_without_data(desc), id});
  return values_.back().memory;
}

dnnl::memory OnednnKernel::scratch(const dnnl::memory::desc& desc) {
  scratch_.push_back({memory_without_data(desc), scratch_bytes_});
  scratch_bytes_ += (desc.get_size() + alignment - 1) / alignment * alignment;
  return scratch_.back().memory;
}

dnnl::memory OnednnKernel::read(const Operand& operand, const dnnl::memory::desc& wanted) {
  dnnl::memory stored = value(operand.value, operand.stored);
  if (wanted == operand.stored) return stored;
  dnnl::memory converted = scratch(wanted);
  add_reorder(stored, converted);
  return converted;
}

dnnl::memory OnednnKernel::place(const Operand& operand, const dnnl::memory::desc& wanted) {
  return wanted == operand.stored ? value(operand.value, operand.stored) : scratch(wanted);
}

void OnednnKernel::store(const dnnl::memory& written, const Operand& operand) {
  if (written.get_desc() == operand.stored) return;
  add_reorder(written, value(operand.value, operand.stored));
}

void OnednnKernel::add(const dnnl::primitive& primitive, const std::vector<Argument>& arguments,
                       const dnnl::memory::desc& scratchpad) {
  Step step{primitive, {}};
  for (const auto& [index, memory] : arguments) step.arguments.push_back({index, memory.get()});
  if (scratchpad.get_size() != 0) step.arguments.push_back({DNNL_ARG_SCRATCHPAD, scratch(scratchpad).get()});
  steps_.push_back(std::move(step));
}

void OnednnKernel::Conversion::run(const void* in, void* out) const {
  constexpr std::int64_t block = 4096;
  const auto* source = static_cast<const std::byte*>(in);
  auto* target = static_cast<std::byte*>(out);
  const auto width = static_cast<std::int64_t>(size_of(from)),
             result = static_cast<std::int64_t>(size_of(to));
#pragma omp parallel for schedule(static)
  for (std::int64_t at = 0; at < count; at += block) {
    const auto some = static_cast<std::size_t>(std::min(block, count - at));
    if (to == DType::f32) {
      load_block(from, source + at * width, reinterpret_cast<float*>(target + at * result), some);
    } else {
      store_block(to, reinterpret_cast<const float*>(source + at * width), target + at * result, some);
    }
  }
}

void OnednnKernel::add_conversion(const dnnl::memory& from, const dnnl::memory& to) {
  const DType type = dtype_of(from.get_desc());
  const auto count = static_cast<std::int64_t>(from.get_desc().get_size() / size_of(type));
  steps_.push_back({.arguments = {{DNNL_ARG_FROM, from.get()}, {DNNL_ARG_TO, to.get()}},
                    .conversion = {type, dtype_of(to.get_desc()), count}});
}

void OnednnKernel::add_reorder(const dnnl::memory& from, const dnnl::memory& to) {
  const dnnl::memory::desc in = from.get_desc(), out = to.get_desc();
  if (is_half(in) != is_half(out) && (is_half(in) ? in : out).get_inner_nblks() == 0) {
    if (is_half(in)) {
      const bool same = widened(in) == out;
      const dnnl::memory wide = same ? to : scratch(widened(in));
      add_conversion(from, wide);
      if (!same) add_reorder(wide, to);
    } else {
      const bool same = widened(out) == in;
      const dnnl::memory wide = same ? from : scratch(widened(out));
      if (!same) add_reorder(from, wide);
      add_conversion(wide, to);
    }
    return;
  }
  const dnnl::reorder::primitive_desc desc(from, to, onednn_attributes());
  add(dnnl::reorder(desc), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}, desc.scratchpad_desc());
}

void OnednnKernel::run(const KernelArgs& args) {
  // oneDNN's C interface: its C++ one would copy the arguments into a new vector at each call.
  for (const ValueMemory& m : values_)
    check(dnnl_memory_set_data_handle(m.memory.get(), args.values[m.id]), name);
  for (const ScratchMemory& m : scratch_) {
    check(dnnl_memory_set_data_handle(m.memory.get(), args.scratch + m.offset), name);
  }
  dnnl_stream_t stream = onednn_stream().get();
  for (const Step& step : steps_) {
    if (step.conversion.count > 0) {
      void *from = nullptr, *to = nullptr;
      check(dnnl_memory_get_data_handle(step.arguments[0].memory, &from), name);
      check(dnnl_memory_get_data_handle(step.arguments[1].memory, &to), name);
      step.conversion.run(from, to);
      continue;
    }
    const int count = static_cast<int>(step.arguments.size());
    check(dnnl_primitive_execute(step.primitive.get(), stream, count, step.arguments.data()), name);
  }
  check(dnnl_stream_wait(stream), name);
}

}  // namespace fusetape::backends::cpu
