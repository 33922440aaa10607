#include "core/tape/tape.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape {

With::With(const Switches& switches, Location at)
    : before_(std::make_unique<core::Settings>(core::Tape::current(at).settings)) {
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

/// What scopes of their own change in between, NoGrad and Autocast, is theirs to put back.
void With::put_back() noexcept {
  core::Tape* const tape = core::Tape::alive();
  if (tape == nullptr) return;
  before_->grad = tape->settings.grad;
  before_->autocast = tape->settings.autocast;
  tape->settings = *before_;
  tape->settings.backend->set_threads(tape->settings.threads);
}

}  // namespace fusetape
