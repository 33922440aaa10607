#include "nn/io/training_parts.hpp"

#include <set>

namespace fusetape::io {
namespace {

template <class Part>
std::vector<Prefixed<Part>> prefixed(const std::string& kind, Part* one,
                                     const std::vector<std::pair<std::string, Part*>>& several) {
  std::vector<Prefixed<Part>> all;
  if (one != nullptr) all.push_back({kind + ".", one});
  for (const auto& [name, part] : several) all.push_back({kind + "." + name + ".", part});
  return all;
}

template <class Part>
void check_names(const char* op, const std::string& kind, Part* one,
                 const std::vector<std::pair<std::string, Part*>>& several, Location at) {
  if (one != nullptr && !several.empty())
    throw Error(op, "expected one " + kind + " or " + kind + "s with names, got both", at);
  std::set<std::string> names;
  std::set<const Part*> parts;
  for (const auto& [name, part] : several) {
    const std::string quoted = kind + " \"" + name + "\"";
    if (part == nullptr) throw Error(op, quoted + " is null", at);
    if (name.empty() || name.find('.') != std::string::npos)
      throw Error(op, "expected a name without a dot, got " + quoted, at);
    if (!names.insert(name).second) throw Error(op, "two parts are named " + quoted, at);
    if (!parts.insert(part).second) throw Error(op, quoted + " has another name already", at);
  }
}

}  // namespace

std::vector<Prefixed<optim::Optimizer>> optimizers_of(const Training& training) {
  return prefixed("optimizer", training.optimizer, training.optimizers);
}

std::vector<Prefixed<optim::Schedule>> schedules_of(const Training& training) {
  return prefixed("schedule", training.schedule, training.schedules);
}

void check_parts(const char* op, const Training& training, Location at) {
  check_names(op, "optimizer", training.optimizer, training.optimizers, at);
  check_names(op, "schedule", training.schedule, training.schedules, at);
  // What is saved or loaded by the name of a parameter is to be the parameter.
  for (const auto& [prefix, optimizer] : optimizers_of(training)) {
    if (!optimizer->is_exchanged()) continue;
    throw Error(op,
                "the optimizer's parameters are exchanged with their averages (AveragedWeights): only the "
                "model alone can be saved now",
                at);
  }
}

std::vector<std::pair<std::string, Cell>> cells_of(const Training& training) {
  std::vector<std::pair<std::string, Cell>> cells;
  if (training.model != nullptr) {
    for (auto& [name, cell] : training.model->named_parameters()) cells.emplace_back("model." + name, cell);
    for (auto& [name, cell] : training.model->named_buffers()) cells.emplace_back("model." + name, cell);
  }
  for (const auto& [prefix, optimizer] : optimizers_of(training)) {
    for (auto& [name, cell] : optimizer->named_state()) cells.emplace_back(prefix + name, cell);
  }
  return cells;
}

std::vector<SettingsOfPart> settings_of(const Training& training) {
  std::vector<SettingsOfPart> all;
  for (const auto& [prefix, optimizer] : optimizers_of(training))
    all.push_back({prefix + "settings.", "", "", optimizer->settings()});
  for (const auto& [prefix, schedule] : schedules_of(training))
    all.push_back({prefix + "settings.", prefix + "kind", schedule->kind(), schedule->settings()});
  if (training.loss_scaler != nullptr)
    all.push_back({"loss_scaler.settings.", "", "", training.loss_scaler->settings()});
  if (training.loader != nullptr) all.push_back({"loader.settings.", "", "", training.loader->settings()});
  return all;
}

}  // namespace fusetape::io
