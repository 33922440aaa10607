#include "core/tape/tape.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape {

With::With(const Switches& switches, Location at)
    : given_(switches), before_(std::make_unique<core::Settings>(core::Tape::current(at).settings)) {
  const auto turn = [](const auto& wanted, auto&& set) {
    if (wanted) set(*wanted);
  };
  try {
    turn(switches.backend, [at](const std::string& name) { set_backend(name, at); });
    turn(switches.threads, [at](int count) { set_threads(count, at); });
    turn(switches.eager, [at](bool on) { set_eager(on, at); });
    turn(switches.fusion_rules, [at](const std::vector<std::string>& names) { set_fusion_rules(names, at); });
    turn(switches.retention, [at](Retention to) { set_retention(to, at); });
    turn(switches.conv_algorithm, [at](ConvAlgorithm to) { set_conv_algorithm(to, at); });
    turn(switches.pending_limit, [at](std::int64_t bytes) { set_pending_limit(bytes, at); });
  } catch (...) {
    put_back();
    throw;
  }
  turn(switches.fusion, set_fusion);
  turn(switches.deterministic, set_deterministic);
  turn(switches.tuning, set_tuning);
  turn(switches.tf32, set_tf32);
  turn(switches.anomaly_detection, set_anomaly_detection);
  turn(switches.flush_denormals, set_flush_denormals);
  turn(switches.graph_capture, set_graph_capture);
  turn(switches.profiling, set_profiling);
}

With::~With() { put_back(); }

/// Only what was given: other setters and scopes have their own ends.
void With::put_back() noexcept {
  core::Tape* const tape = core::Tape::alive();
  if (tape == nullptr) return;
  core::Settings &now = tape->settings, &before = *before_;
  const auto restore = [](const auto& wanted, auto& field, const auto& value) {
    if (wanted) field = value;
  };
  restore(given_.backend, now.backend, before.backend);
  restore(given_.threads, now.threads, before.threads);
  restore(given_.eager, now.eager, before.eager);
  restore(given_.fusion_rules, now.rules, before.rules);
  restore(given_.retention, now.retention, before.retention);
  restore(given_.conv_algorithm, now.conv_algorithm, before.conv_algorithm);
  restore(given_.pending_limit, now.pending_limit, before.pending_limit);
  restore(given_.fusion, now.fusion, before.fusion);
  restore(given_.deterministic, now.deterministic, before.deterministic);
  restore(given_.tuning, now.tuning, before.tuning);
  restore(given_.tf32, now.tf32, before.tf32);
  restore(given_.anomaly_detection, now.anomaly, before.anomaly);
  restore(given_.flush_denormals, now.flush_denormals, before.flush_denormals);
  restore(given_.graph_capture, now.capture, before.capture);
  restore(given_.profiling, now.profiling, before.profiling);
  if (given_.backend || given_.threads) now.backend->set_threads(now.threads);
}

}  // namespace fusetape
