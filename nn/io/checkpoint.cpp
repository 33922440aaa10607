#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>

#include "core/numerics/checked.hpp"
#include "fusetape/io.hpp"
#include "fusetape/runtime.hpp"
#include "nn/io/kernel_choices.hpp"
#include "nn/io/training_parts.hpp"

/// A checkpoint is a .safetensors file: tensors "model.…" and "optimizer.…", and all numbers, exact to the
/// bit, as metadata. Format 1 has no settings.
namespace fusetape::io {
namespace {

constexpr const char* format_key = "format";
constexpr std::string_view format_name = "fusetape checkpoint ";
constexpr int oldest_format = 1, newest_format = 2;
constexpr const char* kernels_key = "kernels";

std::string describe(const Shape& shape, DType dtype) {
  return to_string(shape) + " " + std::string(name_of(dtype));
}

/// "missing: a, b, … (12 in all)"
std::string listed(const char* kind, const std::vector<std::string>& items) {
  constexpr std::size_t shown = 12;
  if (items.empty()) return "";
  std::string text = std::string("; ") + kind + ": ";
  for (std::size_t i = 0; i < items.size() && i < shown; ++i) text += (i > 0 ? ", " : "") + items[i];
  if (items.size() > shown) text += ", … (" + std::to_string(items.size()) + " in all)";
  return text;
}

/// Compares a file with what it is to be loaded into, and collects what to bind. Changes nothing before
/// apply().
class Loading {
 public:
  Loading(const std::string& path, const Training& training, const LoadCheckpointOptions& options,
          Location at)
      : path_(path), training_(training), options_(options), at_(at), file_(load_tensors(path, {}, at)) {}

  void check() {
    check_format();
    check_tensors();
    for (const auto& [prefix, optimizer] : optimizers_of(training_)) check_optimizer(prefix, optimizer);
    check_counters();
    if (format_ >= 2) check_settings();
    check_kernels();
    const std::string faults =
        listed("missing", missing_) + listed("unexpected", unexpected_) + listed("different", different_);
    if (!faults.empty()) {
      fail("does not fit what it is loaded into" + faults +
           (settings_differ_ ? "; LoadCheckpointOptions::settings says whose settings hold" : ""));
    }
  }

  /// Nothing in here fails on a file that check() let pass, but for settings that no constructor takes: those
  /// are the first.
  void apply() {
    if (options_.settings == OnMismatch::take_theirs && format_ >= 2) take_settings();
    for (auto& [cell, tensor] : bindings_) cell.set_data(tensor, at_);
    for (const OfSchedule& of : schedules_) of.schedule->set_index(*of.index, at_);
    if (training_.loss_scaler != nullptr)
      training_.loss_scaler->set_state(*loss_factor_, *loss_clean_steps_, at_);
    for (const OfOptimizer& of : optimizers_) {
      of.optimizer->set_updates(of.updates, at_);
      if (options_.settings == OnMismatch::keep_ours) continue;
      const double ours = of.optimizer->initial_learning_rate();
      of.optimizer->set_learning_rates(of.initial_rate.value_or(ours), *of.learning_rate, at_);
    }
    if (training_.loader != nullptr) {
      training_.loader->set_state({*loader_seed_, *loader_epoch_, *loader_position_}, at_);
    }
    if (training_.generator) set_generator_state({*generator_seed_, *generator_counter_});
    restore_kernel_choices(kernels_);
    materialize({}, at_);  // the first step after a load is the same plan as any other
  }

  Metadata extra() const {
    Metadata result;
    for (const auto& [key, value] : file_.metadata) {
      if (key.starts_with("extra.")) result.emplace(key.substr(6), value);
    }
    return result;
  }

 private:
  void check_format() {
    const auto found = file_.metadata.find(format_key);
    const std::string text = found == file_.metadata.end() ? "" : found->second;
    if (text.starts_with(format_name)) {
      const char* const end = text.data() + text.size();
      const auto [stopped, error] = std::from_chars(text.data() + format_name.size(), end, format_);
      if (error != std::errc() || stopped != end) format_ = 0;
    }
    if (format_ >= oldest_format && format_ <= newest_format) return;
    const std::string range = std::to_string(oldest_format) + " to " + std::to_string(newest_format);
    if (format_ > newest_format) {
      fail("was written by a newer version of this library: expected format " + range + ", got " +
           std::to_string(format_));
    }
    fail(std::string("is no checkpoint of this library: expected the metadata '") + format_key + "' to be '" +
         std::string(format_name) + range + "', got '" + text + "'");
  }

  void check_settings() {
    for (const SettingsOfPart& part : settings_of(training_)) {
      const Settings theirs = settings_in_file(part.prefix);
      const bool fixed = part.prefix == "loader.settings.";
      if (options_.settings == OnMismatch::refuse ||
          (options_.settings == OnMismatch::take_theirs && fixed)) {
        compare(part, theirs);
      }
    }
  }

  Settings settings_in_file(const std::string& prefix) {
    Settings all;
    for (auto found = file_.metadata.lower_bound(prefix);
         found != file_.metadata.end() && found->first.starts_with(prefix); ++found) {
      if (const auto value = number<double>(found->first)) {
        all.emplace(found->first.substr(prefix.size()), *value);
      }
    }
    return all;
  }

  void compare(const SettingsOfPart& part, const Settings& theirs) {
    if (!part.kind_key.empty()) {
      const auto found = file_.metadata.find(part.kind_key);
      if (found == file_.metadata.end()) {
        missing_.push_back(part.kind_key);
      } else if (found->second != part.kind) {
        differ(part.kind_key, found->second, part.kind);
        return;  // another kind has other settings
      }
    }
    for (const auto& [name, ours] : part.values) {
      const auto found = theirs.find(name);
      if (found == theirs.end()) {
        missing_.push_back(part.prefix + name);
      } else if (found->second != ours) {
        differ(part.prefix + name, to_text(found->second), to_text(ours));
      }
    }
    for (const auto& [name, value] : theirs) {
      if (part.values.count(name) == 0) unexpected_.push_back(part.prefix + name);
    }
  }

  void differ(const std::string& key, const std::string& theirs, const std::string& ours) {
    different_.push_back(key + " (the file has " + theirs + ", expected " + ours + ")");
    settings_differ_ = true;
  }

  /// Schedules and the scaler are tried on copies, and optimizers that took theirs get back what they had, so
  /// that whatever is refused changes nothing.
  void take_settings() {
    std::vector<Settings> before;
    try {
      take_all_settings(before);
    } catch (const Error& error) {
      for (std::size_t i = 0; i < before.size(); ++i) optimizers_[i].optimizer->set_settings(before[i], at_);
      fail("has settings that cannot be taken: " + error.op() + " " + error.message());
    }
  }

  /// `before`: of the optimizers that have taken theirs.
  void take_all_settings(std::vector<Settings>& before) {
    std::vector<optim::Schedule> schedules;
    for (const auto& [prefix, schedule] : schedules_of(training_)) {
      const auto kind = file_.metadata.find(prefix + "kind");
      schedules.push_back(*schedule);
      schedules.back().set_settings(kind == file_.metadata.end() ? "" : kind->second,
                                    settings_in_file(prefix + "settings."), at_);
    }
    std::optional<optim::LossScaler> scaler;
    if (training_.loss_scaler != nullptr) {
      scaler = *training_.loss_scaler;
      scaler->set_settings(settings_in_file("loss_scaler.settings."), at_);
    }
    for (const auto& [prefix, optimizer] : optimizers_of(training_)) {
      Settings ours = optimizer->settings();
      optimizer->set_settings(settings_in_file(prefix + "settings."), at_);
      before.push_back(std::move(ours));
    }
    for (std::size_t i = 0; i < schedules.size(); ++i) *schedules_[i].schedule = schedules[i];
    if (scaler) *training_.loss_scaler = *scaler;
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error("load", path_ + " " + what, at_); }

  void check_tensors() {
    std::set<std::string> wanted;
    for (const auto& [prefix, optimizer] : optimizers_of(training_)) wanted.insert(prefix + "updates");
    for (const auto& [name, cell] : cells_of(training_)) {
      wanted.insert(name);
      const auto found = file_.tensors.find(name);
      if (found == file_.tensors.end()) {
        missing_.push_back(name);
      } else if (!(found->second.shape() == cell.shape()) || found->second.dtype() != cell.dtype()) {
        different_.push_back(name + " (the file has " +
                             describe(found->second.shape(), found->second.dtype()) + ", expected " +
                             describe(cell.shape(), cell.dtype()) + ")");
      } else {
        bindings_.emplace_back(cell, found->second);
      }
    }
    for (const auto& [name, tensor] : file_.tensors) {
      const bool of_given_part = (training_.model != nullptr && name.starts_with("model.")) ||
                                 (has_optimizer() && name.starts_with("optimizer."));
      if (of_given_part && wanted.count(name) == 0) unexpected_.push_back(name);
    }
  }

  void check_optimizer(const std::string& prefix, optim::Optimizer* optimizer) {
    OfOptimizer of{.optimizer = optimizer};
    const auto name = file_.metadata.find(prefix + "name");
    if (name == file_.metadata.end()) {
      missing_.push_back(prefix + "name");
    } else if (name->second != optimizer->name()) {
      different_.push_back(prefix + "name (the file has " + name->second + ", expected " + optimizer->name() +
                           ")");
    }
    of.learning_rate = number<double>(prefix + "learning_rate");
    if (format_ >= 2) of.initial_rate = number<double>(prefix + "initial_learning_rate");
    for (const auto& [key, rate] : {std::pair("learning_rate", of.learning_rate),
                                    std::pair("initial_learning_rate", of.initial_rate)}) {
      if (rate && (!(*rate >= 0) || std::isinf(*rate))) bad(prefix + key);
    }

    const std::string updates_name = prefix + "updates";
    const auto counts = file_.tensors.find(updates_name);
    const auto parameters = static_cast<std::int64_t>(optimizer->parameters().size());
    if (counts == file_.tensors.end()) {
      missing_.push_back(updates_name);
    } else if (counts->second.dtype() != DType::i64 || !(counts->second.shape() == Shape{parameters})) {
      different_.push_back(updates_name + " (expected " + describe({parameters}, DType::i64) + ")");
    } else {
      of.updates = counts->second.to_vector<std::int64_t>(at_);
      for (std::int64_t count : of.updates) {
        if (count < 0 || count > core::most_counted) bad(updates_name);
      }
    }
    optimizers_.push_back(std::move(of));
  }

  void check_counters() {
    for (const auto& [prefix, schedule] : schedules_of(training_)) {
      const std::string key = prefix + "index";
      schedules_.push_back({schedule, number<std::int64_t>(key)});
      check_count(key, schedules_.back().index);
    }
    if (!schedules_.empty()) check_other_schedules();
    if (training_.loss_scaler != nullptr) {
      loss_factor_ = number<double>("loss_scaler.factor");
      loss_clean_steps_ = number<std::int64_t>("loss_scaler.clean_steps");
      const double factor = loss_factor_.value_or(1);
      if (!(factor > 0) || !std::isfinite(factor)) bad("loss_scaler.factor");
      check_count("loss_scaler.clean_steps", loss_clean_steps_);
    }
    if (training_.loader != nullptr) {
      loader_seed_ = number<std::uint64_t>("loader.seed");
      loader_epoch_ = number<std::int64_t>("loader.epoch");
      loader_position_ = number<std::int64_t>("loader.position");
      check_count("loader.epoch", loader_epoch_);
      const std::int64_t position = loader_position_.value_or(0);
      if (position < 0 || position > training_.loader->batches()) bad("loader.position");
    }
    if (training_.generator) {
      generator_seed_ = number<std::uint64_t>("generator.seed");
      generator_counter_ = number<std::uint64_t>("generator.counter");
      if (generator_counter_.value_or(0) > std::uint64_t{core::most_counted}) bad("generator.counter");
    }
  }

  /// A schedule that is not loaded would begin anew.
  void check_other_schedules() {
    std::set<std::string> wanted;
    for (const auto& [prefix, schedule] : schedules_of(training_)) wanted.insert(prefix + "index");
    for (const auto& [key, value] : file_.metadata) {
      const bool of_schedule = key.starts_with("schedule.") && key.ends_with(".index");
      if (of_schedule && wanted.count(key) == 0) unexpected_.push_back(key);
    }
  }

  void check_count(const std::string& key, const std::optional<std::int64_t>& count) {
    if (count && (*count < 0 || *count > core::most_counted)) bad(key);
  }

  /// Files of earlier versions have none.
  void check_kernels() {
    const auto text = file_.metadata.find(kernels_key);
    const bool wanted = options_.kernels && options_.settings != OnMismatch::keep_ours;
    if (!has_optimizer() || !wanted || text == file_.metadata.end()) return;
    if (std::optional<std::vector<KernelChoice>> choices = parse_kernel_choices(text->second)) {
      kernels_ = std::move(*choices);
    } else {
      different_.push_back(std::string(kernels_key) + " (no list of kernels)");
    }
  }

  bool has_optimizer() const { return training_.optimizer != nullptr || !training_.optimizers.empty(); }

  void bad(const std::string& key) {
    const auto found = file_.metadata.find(key);
    different_.push_back(key + " (" +
                         (found == file_.metadata.end() ? "a number" : "'" + found->second + "'") +
                         " is out of range)");
  }

  template <class Number>
  std::optional<Number> number(const std::string& key) {
    const auto found = file_.metadata.find(key);
    if (found == file_.metadata.end()) {
      missing_.push_back(key);
      return std::nullopt;
    }
    Number value{};
    const char* const end = found->second.data() + found->second.size();
    const auto [stopped, error] = std::from_chars(found->second.data(), end, value);
    if (error != std::errc() || stopped != end) {
      different_.push_back(key + " ('" + found->second + "' is no such number)");
      return std::nullopt;
    }
    return value;
  }

  struct OfOptimizer {
    optim::Optimizer* optimizer;
    std::optional<double> learning_rate = {}, initial_rate = {};
    std::vector<std::int64_t> updates = {};
  };
  struct OfSchedule {
    optim::Schedule* schedule;
    std::optional<std::int64_t> index;
  };

  const std::string& path_;
  const Training& training_;
  const LoadCheckpointOptions& options_;
  Location at_;
  TensorFile file_;
  std::vector<std::string> missing_, unexpected_, different_;
  std::vector<std::pair<Cell, Tensor>> bindings_;
  std::vector<OfOptimizer> optimizers_;
  std::vector<OfSchedule> schedules_;
  int format_ = 0;
  bool settings_differ_ = false;
  std::vector<KernelChoice> kernels_;
  std::optional<std::int64_t> loader_epoch_, loader_position_, loss_clean_steps_;
  std::optional<double> loss_factor_;
  std::optional<std::uint64_t> loader_seed_, generator_seed_, generator_counter_;
};

}  // namespace

void save_checkpoint(const std::string& path, const Training& training, const Metadata& extra, Location at) {
  check_parts("save", training, at);
  TensorFile file;
  file.metadata[format_key] = std::string(format_name) + std::to_string(newest_format);
  for (const auto& [name, cell] : cells_of(training)) file.tensors[name] = cell.value();
  for (const auto& [prefix, optimizer] : optimizers_of(training)) {
    const std::vector<std::int64_t>& updates = optimizer->updates();
    file.tensors[prefix + "updates"] = from_vector(updates, {static_cast<std::int64_t>(updates.size())}, at);
    file.metadata[prefix + "name"] = optimizer->name();
    file.metadata[prefix + "learning_rate"] = to_text(optimizer->learning_rate());
    file.metadata[prefix + "initial_learning_rate"] = to_text(optimizer->initial_learning_rate());
  }
  for (const auto& [prefix, schedule] : schedules_of(training))
    file.metadata[prefix + "index"] = to_text(schedule->index());
  if (training.loss_scaler != nullptr) {
    file.metadata["loss_scaler.factor"] = to_text(training.loss_scaler->factor());
    file.metadata["loss_scaler.clean_steps"] = to_text(training.loss_scaler->clean_steps());
  }
  if (training.loader != nullptr) {
    const data::DataLoader::State state = training.loader->state();
    file.metadata["loader.seed"] = to_text(state.seed);
    file.metadata["loader.epoch"] = to_text(state.epoch);
    file.metadata["loader.position"] = to_text(state.position);
  }
  if (training.generator) {
    const GeneratorState state = generator_state();
    file.metadata["generator.seed"] = to_text(state.seed);
    file.metadata["generator.counter"] = to_text(state.counter);
  }
  for (const SettingsOfPart& part : settings_of(training)) {
    if (!part.kind_key.empty()) file.metadata[part.kind_key] = part.kind;
    for (const auto& [name, value] : part.values) file.metadata[part.prefix + name] = to_text(value);
  }
  file.metadata[kernels_key] = text_of(kernel_choices());
  for (const auto& [key, value] : extra) file.metadata["extra." + key] = value;
  save_tensors(path, file, at);
}

Metadata load_checkpoint(const std::string& path, const Training& training,
                         const LoadCheckpointOptions& options, Location at) {
  if (options.settings > OnMismatch::take_theirs) {
    throw Error("load",
                "expected an OnMismatch: refuse, keep_ours or take_theirs, got " +
                    std::to_string(static_cast<int>(options.settings)),
                at);
  }
  check_parts("load", training, at);
  Loading loading(path, training, options, at);
  loading.check();
  loading.apply();
  return loading.extra();
}

}  // namespace fusetape::io
