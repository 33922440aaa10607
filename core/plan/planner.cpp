#include <chrono>
#include <utility>

#include "core/check.hpp"
#include "core/plan/passes.hpp"

namespace fusetape::plan {
namespace {

/// Runs a pass and notes its time under its name.
class Passes {
 public:
  explicit Passes(Report& report) : report_(report) {}

  template <class Pass>
  void run(const char* name, Pass&& pass) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    report_.pass_ms.emplace_back(name, spent.count());
    report_.planning_ms += spent.count();
  }

 private:
  Report& report_;
};

/// One kernel per group, in order; the scratch is shared, as one kernel runs at a time.
void choose_kernels(Plan& plan, backends::Backend& backend) {
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    const Group& group = plan.groups[i];
    Step step;
    step.kernel = backend.compile(plan.graph, group);
    step.group = static_cast<int>(i);
    step.node = group.nodes.back();
    plan.scratch_bytes = std::max(plan.scratch_bytes, step.kernel->scratch_bytes());
    plan.steps.push_back(std::move(step));
  }
}

}  // namespace

std::unique_ptr<Plan> make_plan(Graph graph, const Options& options) {
  auto plan = std::make_unique<Plan>();
  plan->graph = std::move(graph);
  plan->report = std::make_shared<Report>();
  plan->report->backend = options.backend->name();
  plan->report->fusion = options.fusion;

  Passes passes(*plan->report);
  passes.run("simplify", [&] { simplify(plan->graph); });
  passes.run("fuse", [&] {
    plan->groups = fuse(plan->graph, *options.backend, options.fusion, plan->report->refusals);
  });
  passes.run("schedule", [&] { schedule(plan->graph, plan->groups); });
  passes.run("choose kernels", [&] { choose_kernels(*plan, *options.backend); });
  passes.run("place memory", [&] { place_memory(*plan); });
  passes.run("describe", [&] { describe(*plan); });
  passes.run("verify", [&] { verify(*plan); });
  return plan;
}

}  // namespace fusetape::plan
