#include "fusetape/summary.hpp"

#include <algorithm>
#include <cstdio>
#include <map>
#include <ostream>
#include <set>

#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/runtime.hpp"
#include "nn/module_state.hpp"

namespace fusetape::nn {
namespace {

/// Puts back what a plan without a run has changed.
class Undone {
 public:
  Undone(core::Tape& tape, const Module& model)
      : tape_(tape), report_(tape.executor.last_report), generator_(generator_state()) {
    for (const auto& [name, cell] : model.named_buffers()) values_.emplace_back(cell, cell.value());
    for (const auto& [name, cell] : model.named_parameters()) values_.emplace_back(cell, cell.value());
  }
  /// Whatever bound them: a planned value, or one that is still pending where something threw.
  ~Undone() {
    tape_.journal.take_back(mark_);
    for (const auto& [cell, value] : values_) cell.state()->value = value;
    tape_.executor.last_report = report_;
    set_generator_state(generator_);
  }
  Undone(const Undone&) = delete;
  Undone& operator=(const Undone&) = delete;

  /// Plans what is pending. Where that is nothing, the report is empty.
  const Report& plan(Location at) {
    tape_.executor.last_report = nullptr;
    core::Journal::Versions before = tape_.journal.versions_before();  // of borrowed modules, too
    tape_.flush(at);
    before.put_back();
    return explain();
  }

 private:
  core::Tape& tape_;
  decltype(core::Executor::last_report) report_;
  GeneratorState generator_;
  std::uint64_t mark_ = tape_.journal.mark();
  std::vector<std::pair<Cell, Tensor>> values_;
};

std::vector<SummaryRow> rows_of(Module& model, const std::map<const Module*, Shape>& outputs) {
  std::vector<SummaryRow> rows;
  std::set<const void*> counted;
  const auto add = [&](const auto& self, Module& module, const std::string& path, int depth) -> void {
    SummaryRow row{.path = path, .type = module.type_name(), .depth = depth};
    const auto output = outputs.find(&module);
    row.called = output != outputs.end();
    if (row.called) row.output = output->second;
    for (const auto& [name, parameter] : module.named_parameters()) {
      const bool own = name.find('.') == std::string::npos;
      if (own && counted.insert(parameter.state()).second) row.parameters += parameter.shape().elements();
    }
    rows.push_back(std::move(row));
    for (const auto& [name, child] : module.named_children())
      self(self, *child, path.empty() ? name : path + "." + name, depth + 1);
  };
  add(add, model, "", 0);
  return rows;
}

/// "1,234,567"
std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t place = digits.size(); place > 3; place -= 3) digits.insert(place - 3, ",");
  return digits;
}

std::string line(const std::string& layer, const std::string& output, const std::string& parameters,
                 const std::string& flops, const std::string& kept) {
  char text[256];
  std::snprintf(text, sizeof text, "%-44s %-20s %14s %12s %12s\n", layer.c_str(), output.c_str(),
                parameters.c_str(), flops.c_str(), kept.c_str());
  return text;
}

std::string fixed(double number) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f", number);
  return text;
}

std::string mega(double count) { return count == 0 ? "" : fixed(count / 1e6); }
std::string kibi(std::int64_t bytes) { return bytes == 0 ? "" : fixed(static_cast<double>(bytes) / 1024); }

}  // namespace

Summary summary(Module& model, const Tensor& input, Location at) {
  core::Tape& tape = core::Tape::current(at);
  const std::string prefix = model.path();
  const With planning_only({.eager = false, .pending_limit = std::int64_t{1} << 60, .backend = "null"}, at);
  Undone undone(tape, model);
  const Tensor x = input.detach(at);  // its history is the caller's

  std::map<const Module*, Shape> outputs;
  std::map<std::string, double> flops;
  {
    const With unfused({.fusion = false}, at);
    const ModuleObserver note([&outputs](const Module& module, const Tensor& y) {
      if (y.defined()) outputs[&module] = y.shape();
    });
    const Tensor y = model(x, at);
    for (const GroupReport& group : undone.plan(at).groups) flops[group.module_path] += group.flops;
  }
  const Tensor y = model(x, at);
  std::vector<Tensor> wanted;
  for (const Parameter& parameter : model.parameters()) {
    if (parameter.requires_grad()) wanted.push_back(parameter.value());
  }
  std::vector<Tensor> gradients;
  if (y.requires_grad() && !wanted.empty()) gradients = grad({sum({y, at})}, wanted, {}, {}, at);
  const Report& step = undone.plan(at);
  std::map<std::string, std::int64_t> kept;
  for (const KeptReport& value : step.kept) kept[value.module_path] += value.bytes;

  Summary summary{.rows = rows_of(model, outputs), .kept_bytes = step.kept_bytes};
  for (const Parameter& parameter : model.parameters()) {
    summary.parameters += parameter.shape().elements();
    if (parameter.requires_grad()) summary.trainable += parameter.shape().elements();
  }
  for (SummaryRow& row : summary.rows) {
    const std::string path = prefix.empty() || row.path.empty() ? prefix + row.path : prefix + "." + row.path;
    row.flops = flops[path];
    row.kept_bytes = kept[path];
  }
  for (const auto& [path, count] : flops) summary.flops += count;
  return summary;
}

std::string Summary::to_string() const {
  std::string text = line("layer", "output", "parameters", "MFLOP", "kept KiB");
  for (const SummaryRow& row : rows) {
    const std::string name = row.path.substr(row.path.rfind('.') + 1);
    const std::string indent(2 * static_cast<std::size_t>(row.depth), ' ');
    text += line(indent + (name.empty() ? row.type : name + " (" + row.type + ")"),
                 row.called ? fusetape::to_string(row.output) : "",
                 row.parameters == 0 ? "" : grouped(row.parameters), mega(row.flops), kibi(row.kept_bytes));
  }
  text += line("total", "", grouped(parameters), mega(flops), kibi(kept_bytes));
  if (trainable != parameters) text += line("  trainable", "", grouped(trainable), "", "");
  return text;
}

std::ostream& operator<<(std::ostream& out, const Summary& summary) { return out << summary.to_string(); }

}  // namespace fusetape::nn
