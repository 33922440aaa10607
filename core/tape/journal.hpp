#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/tape/value.hpp"

/// A run is a transaction: what the pending ops will change in cells goes back to what it was where the run
/// fails, or where the module call that recorded them does.
namespace fusetape::core {

/// Which cells were bound to pending values, and what they held before. A version that it remembers keeps its
/// data, but does not count as held by a user: the plan may overwrite it once nothing can fail any more.
class Journal {
 public:
  enum class Part : std::uint8_t { value, gradient };

  /// The cell is about to be bound to a value of the pending ops.
  void note(Cell& cell, Part part);
  /// After a failed run: what was bound to a lost value takes the latest that was not lost; a gradient may
  /// have none, and is undefined then.
  void undo();
  /// After a run that succeeded.
  void forget();

  /// Where the journal stands; never less than before.
  std::uint64_t mark() const { return forgotten_ + entries_.size(); }
  /// Takes back the bindings since then, but for those that a run has made good.
  void take_back(std::uint64_t mark);

  /// What the cells that were bound hold once more, when put back: of each the value before all bindings.
  /// They count as held by a user.
  class Versions {
   public:
    void put_back();

   private:
    friend class Journal;
    std::vector<std::pair<std::shared_ptr<Cell>, Tensor>> values_;
  };
  Versions versions_before() const;

  template <class Visit>
  void for_each_version(Visit&& visit) const {
    for (const Entry& entry : entries_) {
      if (entry.before.defined()) visit(*entry.before.value());
    }
  }

 private:
  struct Entry {
    std::weak_ptr<Cell> cell;
    Tensor before;  ///< undefined: a gradient that there was not
    Part part;
  };
  static Tensor& place_in(Cell& cell, Part part) { return part == Part::value ? cell.value : cell.gradient; }

  std::vector<Entry> entries_;  ///< in the order of the bindings
  std::uint64_t forgotten_ = 0;
};

/// Where an exception ends it, what was bound while it lived is taken back: a module call that throws has no
/// effect.
class BindingScope {
 public:
  BindingScope();
  ~BindingScope();
  BindingScope(const BindingScope&) = delete;
  BindingScope& operator=(const BindingScope&) = delete;

 private:
  std::uint64_t mark_;
  int exceptions_;
};

/// Binds the gradient, noted where it is pending.
void bind_gradient(Cell& cell, Tensor gradient);

}  // namespace fusetape::core
