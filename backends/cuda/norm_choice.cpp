#include "backends/cuda/norm_choice.hpp"

#include <algorithm>

#include "backends/cuda/norm_race.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

using Choice = NormChoices::Choice;

Choice by_race(const plan::Graph& graph, const LibraryNorm& norm, Kernel& ours, DeviceApi& device) try {
  const std::shared_ptr<LibraryOperation> operation = device.make_normalization(norm.spec);
  const auto library = make_library_norm(graph, norm, operation, device);
  const NormVerdict verdict = judge(run_race(graph, norm, ours, *library, device));
  return {.operation = verdict.library ? operation : nullptr, .why = verdict.why};
} catch (const OutOfMemory&) {
  throw;
} catch (const Error& error) {
  return {.operation = nullptr, .why = error.message()};
}

}  // namespace

Choice NormChoices::find(const LibraryNorm& norm, const std::function<Choice()>& decide) try {
  const std::lock_guard lock(mutex_);
  const bool mask = norm.mask >= 0;
  const auto known = std::find_if(known_.begin(), known_.end(), [&](const Known& each) {
    return each.spec == norm.spec && each.mask == mask;
  });
  if (known != known_.end()) return known->choice;
  if (known_.size() >= most) {
    device_.synchronize();  // what is queued may need them
    std::erase_if(known_, [](const Known& each) { return each.choice.operation.use_count() <= 1; });
  }
  return known_.emplace_back(Known{norm.spec, mask, decide()}).choice;
} catch (const OutOfMemory& error) {  // says nothing of the norm: the next plan asks again
  return {.operation = nullptr, .why = error.message()};
}

std::unique_ptr<Kernel> faster_norm(const plan::Graph& graph, const LibraryNorm& norm,
                                    std::unique_ptr<Kernel> ours, Device& device) {
  const auto choose = [&]() -> Choice {
    if (!norm.refusal.empty()) return {.operation = nullptr, .why = norm.refusal};
    if (!graph.timing) return {.operation = nullptr, .why = "not timed"};
    return device.norms.find(norm, [&] { return by_race(graph, norm, *ours, device.api); });
  };
  const Choice choice = choose();
  auto kernel = choice.operation == nullptr ? std::move(ours)
                                            : make_library_norm(graph, norm, choice.operation, device.api);
  kernel->why = "cudnn: " + choice.why;
  return kernel;
}

}  // namespace fusetape::backends::cuda
