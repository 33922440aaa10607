#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "fusetape/io.hpp"
#include "fusetape/runtime.hpp"

/// A checkpoint is a .safetensors file: tensors "model.…" and "optimizer.…", and all numbers, exact to the
/// bit, as metadata.
namespace fusetape::io {
namespace {

constexpr const char* format_key = "format";
constexpr const char* format_value = "fusetape checkpoint 1";
constexpr const char* updates_name = "optimizer.updates";

/// Digits that read back as the same number.
template <class Number>
std::string to_text(Number number) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof(digits), number);
  return std::string(digits, end.ptr);
}

/// Every tensor that a checkpoint of these parts holds, by name.
std::vector<std::pair<std::string, Cell>> cells_of(const Training& training) {
  std::vector<std::pair<std::string, Cell>> cells;
  if (training.model != nullptr) {
    for (auto& [name, cell] : training.model->named_parameters()) cells.emplace_back("model." + name, cell);
    for (auto& [name, cell] : training.model->named_buffers()) cells.emplace_back("model." + name, cell);
  }
  if (training.optimizer != nullptr) {
    for (auto& [name, cell] : training.optimizer->named_state())
      cells.emplace_back("optimizer." + name, cell);
  }
  return cells;
}

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
  Loading(const std::string& path, const Training& training, Location at)
      : path_(path), training_(training), at_(at), file_(load_tensors(path, at)) {}

  void check() {
    const auto format = file_.metadata.find(format_key);
    if (format == file_.metadata.end() || format->second != format_value) {
      fail(std::string("is no checkpoint of this library: expected the metadata '") + format_key +
           "' to be '" + format_value + "'");
    }
    check_tensors();
    check_optimizer();
    check_counters();
    const std::string faults =
        listed("missing", missing_) + listed("unexpected", unexpected_) + listed("different", different_);
    if (!faults.empty()) fail("does not fit what it is loaded into" + faults);
  }

  /// Nothing in here fails on a file that check() let pass.
  void apply() {
    for (auto& [cell, tensor] : bindings_) cell.set_data(tensor, at_);
    if (training_.schedule != nullptr) training_.schedule->set_index(*schedule_index_, at_);
    if (training_.loss_scaler != nullptr)
      training_.loss_scaler->set_state(*loss_factor_, *loss_clean_steps_, at_);
    if (training_.optimizer != nullptr) {
      training_.optimizer->set_updates(updates_, at_);
      training_.optimizer->set_learning_rate(*learning_rate_, at_);
    }
    if (training_.loader != nullptr) {
      training_.loader->set_state({*loader_seed_, *loader_epoch_, *loader_position_}, at_);
    }
    if (training_.generator) set_generator_state({*generator_seed_, *generator_counter_});
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
  [[noreturn]] void fail(const std::string& what) const { throw Error("load", path_ + " " + what, at_); }

  void check_tensors() {
    std::set<std::string> wanted;
    if (training_.optimizer != nullptr) wanted.insert(updates_name);
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
                                 (training_.optimizer != nullptr && name.starts_with("optimizer."));
      if (of_given_part && wanted.count(name) == 0) unexpected_.push_back(name);
    }
  }

  void check_optimizer() {
    if (training_.optimizer == nullptr) return;
    const auto name = file_.metadata.find("optimizer.name");
    if (name == file_.metadata.end()) {
      missing_.push_back("optimizer.name");
    } else if (name->second != training_.optimizer->name()) {
      different_.push_back("optimizer.name (the file has " + name->second + ", expected " +
                           training_.optimizer->name() + ")");
    }
    learning_rate_ = number<double>("optimizer.learning_rate");
    if (learning_rate_ && (!(*learning_rate_ >= 0) || std::isinf(*learning_rate_)))
      bad("optimizer.learning_rate");

    const auto counts = file_.tensors.find(updates_name);
    const auto parameters = static_cast<std::int64_t>(training_.optimizer->parameters().size());
    if (counts == file_.tensors.end()) {
      missing_.push_back(updates_name);
    } else if (counts->second.dtype() != DType::i64 || !(counts->second.shape() == Shape{parameters})) {
      different_.push_back(std::string(updates_name) + " (expected " + describe({parameters}, DType::i64) +
                           ")");
    } else {
      updates_ = counts->second.to_vector<std::int64_t>(at_);
      for (std::int64_t count : updates_) {
        if (count < 0) bad(updates_name);
      }
    }
  }

  void check_counters() {
    if (training_.schedule != nullptr) {
      schedule_index_ = number<std::int64_t>("schedule.index");
      if (schedule_index_.value_or(0) < 0) bad("schedule.index");
    }
    if (training_.loss_scaler != nullptr) {
      loss_factor_ = number<double>("loss_scaler.factor");
      loss_clean_steps_ = number<std::int64_t>("loss_scaler.clean_steps");
      const double factor = loss_factor_.value_or(1);
      if (!(factor > 0) || !std::isfinite(factor)) bad("loss_scaler.factor");
      if (loss_clean_steps_.value_or(0) < 0) bad("loss_scaler.clean_steps");
    }
    if (training_.loader != nullptr) {
      loader_seed_ = number<std::uint64_t>("loader.seed");
      loader_epoch_ = number<std::int64_t>("loader.epoch");
      loader_position_ = number<std::int64_t>("loader.position");
      if (loader_epoch_.value_or(0) < 0) bad("loader.epoch");
      const std::int64_t position = loader_position_.value_or(0);
      if (position < 0 || position > training_.loader->batches()) bad("loader.position");
    }
    if (training_.generator) {
      generator_seed_ = number<std::uint64_t>("generator.seed");
      generator_counter_ = number<std::uint64_t>("generator.counter");
    }
  }

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

  const std::string& path_;
  const Training& training_;
  Location at_;
  TensorFile file_;
  std::vector<std::string> missing_, unexpected_, different_;
  std::vector<std::pair<Cell, Tensor>> bindings_;
  std::vector<std::int64_t> updates_;
  std::optional<double> learning_rate_;
  std::optional<std::int64_t> schedule_index_, loader_epoch_, loader_position_, loss_clean_steps_;
  std::optional<double> loss_factor_;
  std::optional<std::uint64_t> loader_seed_, generator_seed_, generator_counter_;
};

}  // namespace

void save_checkpoint(const std::string& path, const Training& training, const Metadata& extra, Location at) {
  TensorFile file;
  file.metadata[format_key] = format_value;
  for (const auto& [name, cell] : cells_of(training)) file.tensors[name] = cell.value();
  if (training.optimizer != nullptr) {
    const std::vector<std::int64_t>& updates = training.optimizer->updates();
    file.tensors[updates_name] = from_vector(updates, {static_cast<std::int64_t>(updates.size())}, at);
    file.metadata["optimizer.name"] = training.optimizer->name();
    file.metadata["optimizer.learning_rate"] = to_text(training.optimizer->learning_rate());
  }
  if (training.schedule != nullptr) file.metadata["schedule.index"] = to_text(training.schedule->index());
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
  for (const auto& [key, value] : extra) file.metadata["extra." + key] = value;
  save_tensors(path, file, at);
}

Metadata load_checkpoint(const std::string& path, const Training& training, Location at) {
  Loading loading(path, training, at);
  loading.check();
  loading.apply();
  return loading.extra();
}

}  // namespace fusetape::io
