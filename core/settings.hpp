#pragma once
#include <cstdint>

#include "core/plan/backend.hpp"
#include "core/plan/rules/rules.hpp"

namespace fusetape::core {

/// Every switch that the environment can turn for a thread's first use: a row is all that it takes beside its
/// declaration in <fusetape/runtime.hpp>. `keyed`: plans made with it on are others than those made with it
/// off. X(field, default, keyed, variable, setter, getter) is on or off; the row defines both functions.
// clang-format off
#define FUSETAPE_ON_OFF_SWITCHES(X)                                                                   \
  X(fusion, true, keyed, "FUSETAPE_FUSE", set_fusion, fusion_enabled)                                 \
  X(deterministic, false, keyed, "FUSETAPE_DETERMINISTIC", set_deterministic, deterministic)          \
  /* but for deterministic plans */                                                                   \
  X(tuning, true, keyed, "FUSETAPE_TUNE", set_tuning, tuning_enabled)                                 \
  X(tf32, false, keyed, "FUSETAPE_TF32", set_tf32, tf32_enabled)                                      \
  /* no fusion, nothing in place, every kernel's outputs are searched */                              \
  X(anomaly, false, keyed, "FUSETAPE_ANOMALY", set_anomaly_detection, anomaly_detection_enabled)      \
  X(flush_denormals, false, not_keyed, "FUSETAPE_FLUSH_DENORMALS", set_flush_denormals, flush_denormals) \
  /* a device's plans may be replayed as graphs */                                                    \
  X(capture, true, not_keyed, "FUSETAPE_CAPTURE", set_graph_capture, graph_capture_enabled)

/// X(type, field, default, keyed, variable); what their functions do beside, runtime.cpp says.
#define FUSETAPE_OTHER_SWITCHES(X)                                                       \
  X(Retention, retention, Retention::fastest, keyed, "FUSETAPE_RETENTION")               \
  X(ConvAlgorithm, conv_algorithm, ConvAlgorithm::automatic, keyed, "FUSETAPE_CONV")     \
  X(bool, eager, false, not_keyed, "FUSETAPE_EAGER")                                     \
  /* bytes of inputs that only pending ops hold */                                       \
  X(std::int64_t, pending_limit, std::int64_t{256} << 20, not_keyed, "FUSETAPE_PENDING_LIMIT")
// clang-format on

struct Settings {
#define FUSETAPE_FIELD(field, otherwise, ...) bool field = otherwise;
  FUSETAPE_ON_OFF_SWITCHES(FUSETAPE_FIELD)
#undef FUSETAPE_FIELD
#define FUSETAPE_FIELD(type, field, otherwise, ...) type field = otherwise;
  FUSETAPE_OTHER_SWITCHES(FUSETAPE_FIELD)
#undef FUSETAPE_FIELD
  plan::RuleSet rules = plan::all_rules;  ///< where fusion is on
  DType autocast = DType::f32;            ///< f32: none
  bool grad = true;
  bool profiling = false;
  int threads = 1;
  plan::Backend* backend = nullptr;

  /// The values of the switches that plans depend on, as one word.
  std::uint64_t key() const;
};

/// The switches as the environment has them. Throws at a value that a variable does not know, and names those
/// that it does.
Settings settings_of_environment();

}  // namespace fusetape::core
