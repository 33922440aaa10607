#include "backends/cpu/tune/tuner.hpp"

#include <algorithm>
#include <exception>

#include "backends/cpu/tune/timed_convolution.hpp"
#include "backends/cpu/tune/timed_group.hpp"
#include "core/numerics/number_text.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::backends::cpu::tune {
namespace {

using plan::Graph;
using plan::TakenKernels;
using plan::TunedKernel;

double since(KernelRace::Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(KernelRace::Clock::now() - start).count();
}

/// "12 kinds of convolution, 4 timed in 140 ms, 3 left in the built-in order"
std::string summary(std::size_t kinds, std::size_t timed, std::size_t left, double ms) {
  std::string result = std::to_string(kinds) + (kinds == 1 ? " kind" : " kinds") + " of convolution";
  if (timed > 0) {
    result += ", " + std::to_string(timed) + " timed in " +
              core::number_text(ms, std::chars_format::fixed, 0) + " ms";
  }
  if (left > 0) result += ", " + std::to_string(left) + " left in the built-in order";
  return result;
}

}  // namespace

/// Convolutions, or groups of one and what rides with it, that are timed as one.
struct Tuner::Kind {
  std::unique_ptr<Timed> timed;
  std::vector<std::size_t> nodes;
  bool in_question = false;                              ///< apart unless the race says otherwise
  std::shared_ptr<const TunedKernel> verdict = nullptr;  ///< null: the built-in order holds
  double cost() const { return timed->flops() * static_cast<double>(nodes.size()); }

  /// The kernel was taken by another process, perhaps on another CPU.
  void require_offered(const TunedKernel& kernel, const plan::GraphNode& node) {
    if (timed->offers(kernel)) return;
    std::string name = "'" + kernel.kernel + "'";
    for (const std::int64_t word : kernel.blocking) name += " " + std::to_string(word);
    throw Error(
        std::string(node.op->name),
        "the restored choice of kernels takes " + name + " for " + timed->key() +
            ", which cannot run here (" + cpu_name() +
            "); a load with LoadCheckpointOptions::kernels = false chooses anew, and computes other bits",
        node.at, node.module_path != nullptr ? *node.module_path : std::string());
  }
};

std::vector<Tuner::Kind*> Tuner::unknown(Kinds& kinds, const TakenKernels& taken) {
  const std::lock_guard lock(mutex_);
  if (!file_read_) {
    StoredTunings stored = read_tunings(settings_.file);
    file_ignored_ = stored.ignored;
    for (auto& [key, kernel] : stored.tunings)
      known_.emplace(key, std::make_shared<const TunedKernel>(std::move(kernel)));
    file_read_ = true;
  }
  std::vector<Kind*> unknown;
  for (auto& [key, kind] : kinds) {
    const auto found = taken.find(key);
    const bool settled = found != taken.end() && !found->second.kernel->kernel.empty();
    if (!settled && known_.find(key) == known_.end()) unknown.push_back(&kind);
  }
  std::sort(unknown.begin(), unknown.end(),
            [](const Kind* a, const Kind* b) { return a->cost() > b->cost(); });
  return unknown;
}

Tuner::Found Tuner::time(const std::vector<Kind*>& kinds, double deadline_ms, Backend& backend) const {
  const auto time = std::chrono::duration<double, std::milli>(deadline_ms);
  KernelRace race(backend, settings().stopwatch,
                  KernelRace::Clock::now() + std::chrono::duration_cast<KernelRace::Clock::duration>(time));
  Found timed;
  for (Kind* kind : kinds) {
    if (!race.has_time_for(0)) break;
    const std::string& key = kind->timed->key();
    try {
      if (std::optional<TunedKernel> winner = race.winner(*kind->timed)) {
        timed.found[key] = std::move(*winner);
      } else if (kind == kinds[0]) {
        timed.given_up[key];  // all of a plan's time is too short: it would be so in every plan
      }
    } catch (const std::exception&) {
      timed.given_up[key];  // what cannot be made or run is for the plan to report, if it comes to that
    }
  }
  return timed;
}

std::shared_ptr<const TunedKernel> Tuner::verdict(const std::string& key) const {
  static const auto& built_in = *new auto(std::make_shared<const TunedKernel>());
  const std::lock_guard lock(mutex_);
  const auto known = known_.find(key);
  return known != known_.end() ? known->second : built_in;
}

std::size_t Tuner::take(const Graph& graph, Kinds& kinds, TakenKernels& taken) const {
  std::size_t built_in = 0;
  for (auto& [key, kind] : kinds) {
    auto entry = taken.find(key);
    if (entry == taken.end() && taken.size() < most_stored_tunings)
      entry = taken.emplace(key, plan::TakenKernel{verdict(key)}).first;
    std::shared_ptr<const TunedKernel> tuned = entry != taken.end() ? entry->second.kernel : nullptr;
    if (tuned != nullptr && tuned->kernel.empty()) tuned = nullptr;
    if (tuned == nullptr) {
      ++built_in;
    } else if (entry->second.restored) {
      kind.require_offered(*tuned, graph.nodes[kind.nodes[0]]);
    }
    if (entry != taken.end()) entry->second.restored = false;
    kind.verdict = std::move(tuned);
  }
  return built_in;
}

Tuner::Kinds Tuner::kinds_of(const Graph& graph) {
  Kinds kinds;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    std::optional<TimedConvolution> timed = TimedConvolution::of(graph, graph.nodes[n]);
    if (!timed.has_value()) continue;
    const std::string key = timed->key();
    Kind kind{std::make_unique<TimedConvolution>(std::move(*timed)), {}};
    kinds.try_emplace(key, std::move(kind)).first->second.nodes.push_back(n);
  }
  return kinds;
}

Tuner::Settled Tuner::settle(const Graph& graph, Kinds& kinds, TakenKernels& taken, double deadline_ms,
                             Backend& backend) {
  const auto start = KernelRace::Clock::now();
  std::vector<Kind*> missing = unknown(kinds, taken);
  Found timed;
  Settled settled;
  const std::unique_lock timing(timing_, std::try_to_lock);
  settled.too_late = !missing.empty() && budget_spent();
  if (!missing.empty() && timing.owns_lock() && !settled.too_late) {
    missing = unknown(kinds, taken);  // by now
    timed = time(missing, deadline_ms, backend);
    publish(timed);
    settled.unwritten = keep(timed.found);
    spend(since(start));
  }
  settled.timed = timed.found.size();
  settled.left = take(graph, kinds, taken);
  settled.ms = since(start);
  return settled;
}

std::string Tuner::tune(Graph& graph, TakenKernels& taken, Backend& backend) {
  Kinds kinds = kinds_of(graph);
  if (kinds.empty()) return {};
  const Settled settled = settle(graph, kinds, taken, settings().deadline_ms, backend);
  for (const auto& [key, kind] : kinds) {
    for (const std::size_t node : kind.nodes) graph.nodes[node].tuned = kind.verdict;
  }
  std::string text = summary(kinds.size(), settled.timed, settled.left, settled.ms);
  if (settled.too_late) text += ": the process's time for timing is spent";
  return text + told_of_file(settled.unwritten);
}

Backend::Apart Tuner::tune_carried(const Graph& graph, const std::vector<plan::Group>& groups,
                                   TakenKernels& taken, Backend& backend) {
  Kinds kinds;
  Backend::Apart result;
  const auto nodes_of = [](const plan::Group& group) {
    const auto& conv = *group.as<plan::Convolution>();
    std::vector<std::size_t> nodes{static_cast<std::size_t>(conv.node)};
    if (conv.weights_node >= 0) nodes.push_back(static_cast<std::size_t>(conv.weights_node));
    return nodes;
  };
  const auto keep_apart = [&](const std::vector<std::size_t>& nodes) {
    for (const std::size_t node : nodes) result.convolutions.push_back(graph.nodes[node].recorded);
  };
  for (const plan::Group& group : groups) {
    const bool in_question = TimedGroup::is_in_question(graph, group);
    std::optional<TimedGroup> timed = TimedGroup::of(graph, group);
    if (!timed.has_value()) {
      if (in_question) keep_apart(nodes_of(group));
      continue;
    }
    const std::string key = timed->key();
    Kind kind{std::make_unique<TimedGroup>(std::move(*timed)), {}, in_question};
    std::vector<std::size_t>& nodes = kinds.try_emplace(key, std::move(kind)).first->second.nodes;
    for (const std::size_t node : nodes_of(group)) nodes.push_back(node);
  }
  std::size_t slower = 0, unknown = 0;
  Settled settled;
  if (!kinds.empty()) settled = settle(graph, kinds, taken, settings().carried_ms, backend);
  for (const auto& [key, kind] : kinds) {
    if (kind.verdict != nullptr ? kind.verdict->kernel != apart : !kind.in_question) continue;
    ++(kind.verdict != nullptr ? slower : unknown);
    keep_apart(kind.nodes);
  }
  std::sort(result.convolutions.begin(), result.convolutions.end());
  if (kinds.empty()) return result;
  result.told = "; of " + std::to_string(kinds.size()) + " kinds that carry norms " + std::to_string(slower) +
                " are faster apart";
  if (unknown > 0) result.told += ", " + std::to_string(unknown) + " are apart, not timed";
  if (settled.timed > 0) {
    result.told += ", " + std::to_string(settled.timed) + " timed in " +
                   core::number_text(settled.ms, std::chars_format::fixed, 0) + " ms";
  }
  if (settled.too_late) result.told += ": the process's time for timing is spent";
  if (!settled.unwritten.empty()) result.told += ", not written: " + settled.unwritten;
  return result;
}

std::string Tuner::keep(const Tunings& found) {
  const std::filesystem::path file = settings().file;
  if (found.empty() || file.empty()) return {};
  std::string unwritten = add_tunings(file, found);
  if (unwritten.empty()) {
    const std::lock_guard lock(mutex_);
    file_ignored_.clear();  // it has been replaced
  }
  return unwritten;
}

std::string Tuner::told_of_file(const std::string& unwritten) const {
  const std::lock_guard lock(mutex_);
  std::string text;
  if (!settings_.file.empty()) text += ", file " + settings_.file.string();
  if (!file_ignored_.empty()) text += ", ignored: " + file_ignored_;
  if (!unwritten.empty()) text += ", not written: " + unwritten;
  return text;
}

bool Tuner::budget_spent() const {
  const std::lock_guard lock(mutex_);
  return spent_ms_ >= settings_.budget_ms;
}

void Tuner::spend(double ms) {
  const std::lock_guard lock(mutex_);
  spent_ms_ += ms;
}

void Tuner::publish(const Found& timed) {
  const std::lock_guard lock(mutex_);
  for (const Tunings* tunings : {&timed.found, &timed.given_up}) {
    for (const auto& [key, kernel] : *tunings)
      known_.emplace(key, std::make_shared<const TunedKernel>(kernel));
  }
  stats_.timed += static_cast<int>(timed.found.size());
}

Tuner::Settings Tuner::settings() const {
  const std::lock_guard lock(mutex_);
  return settings_;
}

Tuner::Stats Tuner::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Tuner::start_over(Settings settings) {
  const std::lock_guard lock(mutex_);
  settings_ = std::move(settings);
  file_read_ = false;
  file_ignored_.clear();
  spent_ms_ = 0;
  known_.clear();
  stats_ = {};
}

Tuner& process_tuner() {
  static Tuner& tuner = *new Tuner;  // outlives every tape
  return tuner;
}

}  // namespace fusetape::backends::cpu::tune
