#pragma once
#include <mutex>

#include "backends/cpu/tune/kernel_race.hpp"
#include "backends/cpu/tune/tuning_file.hpp"

/// Chooses the kernels of convolutions by timing them, once for each kind on a machine.
namespace fusetape::backends::cpu::tune {

class Tuner {
 public:
  struct Settings {
    std::filesystem::path file = default_tuning_file();  ///< empty: nothing is kept
    double deadline_ms = 300;                            ///< of one plan's convolutions by themselves
    double carried_ms = 200;                             ///< and of those that carry norms
    double budget_ms = 3000;  ///< of all plans; what is begun within it may go on to its deadline
    Stopwatch stopwatch = time_run;
  };
  struct Stats {
    int timed = 0;  ///< kinds of convolution
  };

  Tuner() = default;
  explicit Tuner(Settings settings) : settings_(std::move(settings)) {}

  /// Notes on each convolution of the graph which kernel was taken for such convolutions before, else which
  /// is the fastest; what is not known is timed, the most expensive first. What there is no time for is taken
  /// from the built-in order and left to a later plan to time, for others, and so is everything while another
  /// thread times; once the budget is spent, it is left for good: programs whose shapes never repeat are not
  /// slowed for ever. Never throws for a file; throws for a restored kernel that cannot run here. Tells what
  /// it did.
  std::string tune(plan::Graph& graph, plan::TakenKernels& taken, Backend& backend);
  /// The same of convolutions that carry norms in these groups: which are faster without.
  Backend::Apart tune_carried(const plan::Graph& graph, const std::vector<plan::Group>& groups,
                              plan::TakenKernels& taken, Backend& backend);

  Stats stats() const;
  /// Forgets everything and goes on so.
  void start_over(Settings settings);

 private:
  struct Kind;
  struct Found {
    Tunings found;
    Tunings given_up;  ///< for this process: not for the file
  };
  struct Settled {
    std::size_t timed = 0, left = 0;  ///< kinds; left in the built-in order
    double ms = 0;
    bool too_late = false;  ///< the budget was spent
    std::string unwritten;  ///< why the file could not be
  };
  using Kinds = std::map<std::string, Kind>;

  static Kinds kinds_of(const plan::Graph& graph);
  /// Those that nobody timed yet, but for kernels that are taken; the most expensive first.
  std::vector<Kind*> unknown(Kinds& kinds, const plan::TakenKernels& taken);
  /// What is taken for each kind, timed now where nobody knows.
  Settled settle(const plan::Graph& graph, Kinds& kinds, plan::TakenKernels& taken, double deadline_ms,
                 Backend& backend);
  Found time(const std::vector<Kind*>& kinds, double deadline_ms, Backend& backend) const;
  void publish(const Found& timed);
  /// Writes them to the file; why it could not, if so.
  std::string keep(const Tunings& found);
  bool budget_spent() const;
  void spend(double ms);
  /// Returns how many kinds keep the built-in order.
  std::size_t take(const plan::Graph& graph, Kinds& kinds, plan::TakenKernels& taken) const;
  /// What is known; else that the built-in order holds.
  std::shared_ptr<const plan::TunedKernel> verdict(const std::string& key) const;
  std::string told_of_file(const std::string& unwritten) const;
  Settings settings() const;

  mutable std::mutex mutex_;  ///< of all below; never held while kernels run
  Settings settings_;
  bool file_read_ = false;
  std::string file_ignored_;                                               ///< why it was not read
  double spent_ms_ = 0;                                                    ///< of the budget
  std::map<std::string, std::shared_ptr<const plan::TunedKernel>> known_;  ///< what is in here stays
  Stats stats_;

  std::mutex timing_;  ///< two that time at once would disturb each other
};

/// The tuner of every plan of the process.
Tuner& process_tuner();

}  // namespace fusetape::backends::cpu::tune
