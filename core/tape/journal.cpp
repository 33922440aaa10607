#include "core/tape/journal.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/tape/tape.hpp"

namespace fusetape::core {

void Journal::note(Cell& cell, Part part) {
  Tensor& held = place_in(cell, part);
  if (part == Part::value && !held.defined()) return;  // the cell's first value
  entries_.push_back({cell.weak_from_this(), held, part});
}

void Journal::undo() {
  // Newest first: of several bindings of a cell the last one that was made good counts.
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    const std::shared_ptr<Cell> cell = entry->cell.lock();
    if (cell == nullptr) continue;
    Tensor& held = place_in(*cell, entry->part);
    if (held.defined() && held.value()->state == State::lost) held = std::move(entry->before);
  }
  forget();
}

Journal::Versions Journal::versions_before() const {
  Versions versions;
  for (const Entry& entry : entries_) {
    if (entry.part != Part::value) continue;
    const std::shared_ptr<Cell> cell = entry.cell.lock();
    const auto is_cell = [&cell](const auto& known) { return known.first == cell; };
    if (cell == nullptr || std::any_of(versions.values_.begin(), versions.values_.end(), is_cell)) continue;
    versions.values_.emplace_back(cell, entry.before);
  }
  return versions;
}

void Journal::Versions::put_back() {
  for (auto& [cell, value] : values_) cell->value = std::move(value);
  values_.clear();
}

void Journal::forget() {
  forgotten_ += entries_.size();
  entries_.clear();
}

BindingScope::BindingScope()
    : mark_(Tape::current().journal.mark()), exceptions_(std::uncaught_exceptions()) {}

BindingScope::~BindingScope() {
  if (std::uncaught_exceptions() > exceptions_) Tape::current().journal.take_back(mark_);
}

void bind_gradient(Cell& cell, Tensor gradient) {
  if (gradient.pending()) Tape::current().journal.note(cell, Journal::Part::gradient);
  cell.gradient = std::move(gradient);
}

void Journal::take_back(std::uint64_t mark) {
  while (!entries_.empty() && this->mark() > mark) {
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    if (const std::shared_ptr<Cell> cell = entry.cell.lock()) {
      place_in(*cell, entry.part) = std::move(entry.before);
    }
  }
}

}  // namespace fusetape::core
