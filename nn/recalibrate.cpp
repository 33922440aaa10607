#include "fusetape/autograd.hpp"
#include "fusetape/nn.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::nn {

void freeze_statistics(Module& model, bool on) {
  model.apply([on](Module& module) {
    if (auto* const norm = dynamic_cast<BatchNorm2d*>(&module)) norm->freeze_statistics(on);
  });
}

/// Modes, and statistics where they were not made anew, are put back at its end.
class NormRecalibration {
 public:
  explicit NormRecalibration(Module& model) {
    model.apply([this](Module& module) {
      modes_.emplace_back(&module, module.is_training());
      auto* const norm = dynamic_cast<BatchNorm2d*>(&module);
      if (norm == nullptr || norm->folded_ || norm->frozen_) return;
      norms_.push_back({norm, norm->running_mean_.value(), norm->running_var_.value()});
    });
    model.eval();
    for (const Norm& each : norms_) {
      each.norm->train();
      each.norm->averaged_ = 0;
      // Nothing of the old ones stays, not even a NaN.
      each.norm->running_mean_.set_data(zeros(each.mean.shape(), each.mean.dtype()));
      each.norm->running_var_.set_data(ones(each.variance.shape(), each.variance.dtype()));
    }
  }
  ~NormRecalibration() {
    // Parents first: each speaks for its children, too.
    for (auto entry = modes_.rbegin(); entry != modes_.rend(); ++entry) entry->first->train(entry->second);
    for (const Norm& each : norms_) {
      each.norm->averaged_ = -1;
      if (done_) continue;
      each.norm->running_mean_.set_data(each.mean);
      each.norm->running_var_.set_data(each.variance);
    }
  }
  NormRecalibration(const NormRecalibration&) = delete;
  NormRecalibration& operator=(const NormRecalibration&) = delete;

  void require_batches(Location at) const {
    for (const Norm& each : norms_) {
      if (each.norm->averaged_ > 0) continue;
      throw Error("recalibrate_norms", "expected batches through every batch norm, got none", at,
                  each.norm->path());
    }
  }
  void keep() { done_ = true; }

 private:
  struct Norm {
    BatchNorm2d* norm;
    Tensor mean, variance;
  };
  std::vector<std::pair<Module*, bool>> modes_;
  std::vector<Norm> norms_;
  bool done_ = false;
};

void recalibrate_norms(Module& model, const std::function<void()>& run_batches, Location at) {
  if (!run_batches) throw Error("recalibrate_norms", "expected a function, got an empty one", at);
  materialize({}, at);
  NormRecalibration recalibration(model);
  const NoGrad no_history;
  run_batches();
  recalibration.require_batches(at);
  materialize({}, at);
  recalibration.keep();
}

}  // namespace fusetape::nn
