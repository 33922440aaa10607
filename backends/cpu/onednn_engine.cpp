#include "backends/cpu/onednn_engine.hpp"

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

void OnednnKernel::add_reorder(const dnnl::memory& from, const dnnl::memory& to) {
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
    const int count = static_cast<int>(step.arguments.size());
    check(dnnl_primitive_execute(step.primitive.get(), stream, count, step.arguments.data()), name);
  }
  check(dnnl_stream_wait(stream), name);
}

}  // namespace fusetape::backends::cpu
