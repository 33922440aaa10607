#include "backends/cuda/norm_race.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/number_text.hpp"
#include "core/reference.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

using plan::Graph;

constexpr double clearly_less = 0.9;
constexpr int rounds = 5, runs = 10;
/// At a time between the host and the device.
constexpr std::int64_t chunk = 1 << 16;

// ---- the data

/// In [-1, 1), the same in every race.
double noise(NormPlace place, std::int64_t i) {
  auto bits = static_cast<std::uint64_t>(i) * norm_places + static_cast<std::uint64_t>(place);
  bits = (bits + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return static_cast<double>(bits >> 11) * 0x1p-52 - 1;
}

/// Element i. Channels do not touch each other, so a NaN that is put into one of the first leaves the rest to
/// be compared: one where a mask lets it pass, one where it does not, one among what is normalised. The last
/// is the same everywhere, and far from 0: its y is β, unless it is made as a·x + (β − a·mean).
double element(const NormSpec& spec, NormPlace place, std::int64_t i) {
  constexpr double far = 9984;  // in every dtype
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const bool poisoned = spec.c >= 4;
  const bool constant = poisoned && i % spec.c == spec.c - 1;
  const double u = noise(place, i), channel = static_cast<double>(i % spec.c % 5 - 2);
  switch (place) {
    case NormPlace::x:
      if (constant) return far;
      return poisoned && i == 2 ? nan : channel + 2 * u;
    case NormPlace::z:
      return poisoned && i == 0 ? nan : u;
    case NormPlace::g:
      return poisoned && i <= 1 ? nan : channel / 2 + u;
    case NormPlace::mask: {
      const int bits = static_cast<int>(128 + 128 * u);
      return i > 0 ? bits : ((bits | 1) & ~2);
    }
    case NormPlace::mean:
      return constant ? far : channel + u / 8;
    case NormPlace::inv_std:
    case NormPlace::running_var:
      return 1 + u / 4;
    case NormPlace::momentum:
      return 0.25;
    default:
      return u;
  }
}

/// What a race is run on.
class Memory {
 public:
  explicit Memory(DeviceApi& device)
      : device_(device), numbers_{Numbers(chunk), Numbers(chunk)}, both_(device.allocate_pinned(2 * half)) {
    pinned_ = {both_, static_cast<std::byte*>(both_) + half};
  }
  ~Memory() {
    try {
      device_.synchronize();  // where a run failed, another may still be queued
    } catch (const Error&) {
    }
    for (void* data : owned_) device_.free(data);
    device_.free_pinned(both_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* take(std::size_t bytes) {
    owned_.push_back(device_.allocate(std::max<std::size_t>(bytes, 1)));
    return static_cast<std::byte*>(owned_.back());
  }

  /// NaNs: what is not written will show.
  void spoil(std::byte* data, std::size_t bytes) {
    std::memset(pinned_[0], 0xff, half);
    for (std::size_t at = 0; at < bytes; at += half) {
      device_.upload(Stream::compute, data + at, pinned_[0], std::min(half, bytes - at));
    }
    device_.synchronize();
  }

  void fill(std::byte* to, const NormSpec& spec, const NormOperand& operand) {
    const auto size = static_cast<std::int64_t>(size_of(operand.dtype));
    for (std::int64_t from = 0; from < operand.elements; from += chunk) {
      const std::int64_t count = std::min(chunk, operand.elements - from);
      for (std::int64_t i = 0; i < count; ++i) {
        numbers_[0][static_cast<std::size_t>(i)] = element(spec, operand.place, from + i);
      }
      core::from_doubles(numbers_[0].data(), operand.dtype, count, pinned_[0]);
      device_.upload(Stream::compute, to + from * size, pinned_[0], static_cast<std::size_t>(count * size));
      device_.synchronize();
    }
  }

  /// Calls see(a[i], b[i]) for all elements.
  template <class F>
  void for_each(const std::byte* a, const std::byte* b, const NormOperand& operand, F&& see) {
    const auto size = static_cast<std::int64_t>(size_of(operand.dtype));
    for (std::int64_t from = 0; from < operand.elements; from += chunk) {
      const std::int64_t count = std::min(chunk, operand.elements - from);
      const auto bytes = static_cast<std::size_t>(count * size);
      device_.download(Stream::compute, pinned_[0], a + from * size, bytes);
      device_.download(Stream::compute, pinned_[1], b + from * size, bytes);
      device_.synchronize();
      for (std::size_t k : {0, 1}) core::to_doubles(pinned_[k], operand.dtype, count, numbers_[k].data());
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) see(numbers_[0][i], numbers_[1][i]);
    }
  }

 private:
  using Numbers = std::vector<double>;
  static constexpr std::size_t half = chunk * sizeof(double);

  DeviceApi& device_;
  std::array<Numbers, 2> numbers_;
  void* both_;
  std::array<void*, 2> pinned_{};
  std::vector<void*> owned_;
};

/// One of the two: its results are its own.
struct Runner {
  Kernel& kernel;
  std::vector<void*> values;  ///< of the graph
  std::byte* scratch;

  void run() { kernel.run({values.data(), scratch}); }

  /// As a plan may let it.
  void work_in_place(int from, int to, std::size_t bytes, DeviceApi& device) {
    void* const data = values[static_cast<std::size_t>(to)];
    device.copy(Stream::compute, data, values[static_cast<std::size_t>(from)], bytes);
    values[static_cast<std::size_t>(from)] = data;
  }
};

/// Those that the group has, with its values.
std::vector<std::pair<NormOperand, int>> operands_of_group(const LibraryNorm& norm) {
  using enum NormPlace;
  using Kind = NormOperand::Kind;
  std::vector<std::pair<NormOperand, int>> operands;
  const auto add = [&](const NormOperand& operand) {
    const int value = norm.values[operand.place];
    if (value >= 0) operands.emplace_back(operand, value);
  };
  for (const NormOperand& operand : operands_of(norm.spec)) add(operand);
  for (const NormPlace place : {running_mean, running_var}) {
    add({place, Kind::channels, DType::f32, norm.spec.c});
  }
  add({momentum, Kind::channels, DType::f64, 1});
  for (const NormPlace place : {new_running_mean, new_running_var}) {
    add({place, Kind::channels, DType::f32, norm.spec.c, true});
  }
  if (norm.mask >= 0) operands.emplace_back(bits_of(norm.spec, true), norm.mask);
  return operands;
}

// ---- the comparison

/// Relative to the largest number; at least to this: what vanishes is a difference of larger numbers.
constexpr double least_scale = 0.1;

double tolerance_of(DType dtype) { return dtype == DType::bf16 ? 0.02 : dtype == DType::f16 ? 0.003 : 1e-4; }

/// "its y differs by 0.3"; empty: it does not.
std::string difference_of(Memory& memory, const NormOperand& operand, const void* ours, const void* library) {
  double apart = 0, scale = least_scale;
  bool same_nans = true;
  memory.for_each(static_cast<const std::byte*>(ours), static_cast<const std::byte*>(library), operand,
                  [&](double a, double b) {
                    if (std::isfinite(a)) scale = std::max(scale, std::abs(a));
                    if (a == b || (std::isnan(a) && std::isnan(b))) return;
                    same_nans = same_nans && std::isfinite(a) && std::isfinite(b);
                    apart = std::max(apart, std::abs(a - b));
                  });
  const std::string what = std::string("its ") + name_of(operand.place);
  if (!same_nans) return what + " is not finite in other places than ours";
  if (apart <= tolerance_of(operand.dtype) * scale) return {};
  return what + " differs by " + core::number_text(apart / scale, std::chars_format::general, 2);
}

// ---- the race

double median(std::array<double, rounds> times) {
  std::sort(times.begin(), times.end());
  return times[rounds / 2];
}

class Contest {
 public:
  Contest(const Graph& graph, const LibraryNorm& norm, Kernel& ours, Kernel& library, DeviceApi& device)
      : device_(device),
        memory_(device),
        operands_(operands_of_group(norm)),
        in_place_(library.in_place()),
        ours_{ours, std::vector<void*>(graph.values.size()), memory_.take(ours.scratch_bytes())},
        library_{library, ours_.values, memory_.take(library.scratch_bytes())} {
    for (const auto& [operand, value] : operands_) {
      const auto at = static_cast<std::size_t>(value);
      if (operand.written) {
        ours_.values[at] = memory_.take(operand.bytes());
        library_.values[at] = memory_.take(operand.bytes());
      } else {
        std::byte* const data = memory_.take(operand.bytes());
        memory_.fill(data, norm.spec, operand);
        ours_.values[at] = library_.values[at] = data;
      }
    }
    for (const auto& [operand, value] : operands_) {
      for (const auto& [from, to] : in_place_) {
        if (value == to) library_.work_in_place(from, to, operand.bytes(), device_);
      }
    }
  }

  /// On results and scratch that hold NaNs: in a step others have written there.
  void run_both() {
    for (Runner* runner : {&ours_, &library_}) memory_.spoil(runner->scratch, runner->kernel.scratch_bytes());
    for (const auto& [operand, value] : operands_) {
      if (!operand.written) continue;
      const auto at = static_cast<std::size_t>(value);
      memory_.spoil(static_cast<std::byte*>(ours_.values[at]), operand.bytes());
      if (!updated(value)) memory_.spoil(static_cast<std::byte*>(library_.values[at]), operand.bytes());
    }
    ours_.run();
    library_.run();
    device_.synchronize();
  }

  /// Of the first run, or of any: what is updated in place is then another each time.
  std::string difference(bool of_the_first) {
    for (const auto& [operand, value] : operands_) {
      const bool from_y = operand.place == NormPlace::mask;
      if (!operand.written || from_y || (updated(value) && !of_the_first)) continue;
      const auto at = static_cast<std::size_t>(value);
      std::string found = difference_of(memory_, operand, ours_.values[at], library_.values[at]);
      if (!found.empty()) return found;
    }
    return {};
  }

  void measure(NormRace& race) {
    std::array<double, rounds> ours{}, library{};
    for (std::size_t round = 0; round < rounds; ++round) {
      ours[round] = seconds_of(ours_);
      library[round] = seconds_of(library_);
    }
    race.ours = median(ours);
    race.library = median(library);
  }

 private:
  bool updated(int value) const {
    return std::any_of(in_place_.begin(), in_place_.end(),
                       [&](const auto& pair) { return pair.second == value; });
  }

  double seconds_of(Runner& runner) {
    device_.synchronize();
    const double start = device_.seconds();
    for (int run = 0; run < runs; ++run) runner.run();
    device_.synchronize();
    return (device_.seconds() - start) / runs;
  }

  DeviceApi& device_;
  Memory memory_;
  std::vector<std::pair<NormOperand, int>> operands_;
  std::vector<std::pair<int, int>> in_place_;
  Runner ours_, library_;
};

}  // namespace

NormVerdict judge(const NormRace& race) {
  if (!race.difference.empty()) return {.library = false, .why = race.difference};
  if (!(race.ours > 0) || !(race.library > 0)) return {.library = false, .why = "too fast to be timed"};
  const double ratio = race.library / race.ours;
  NormVerdict verdict{.library = ratio <= clearly_less,
                      .why = core::number_text(ratio, std::chars_format::fixed, 2) + " of our time"};
  if (!verdict.library && ratio < 1) verdict.why += ", which is too little to gain";
  return verdict;
}

NormRace run_race(const Graph& graph, const LibraryNorm& norm, Kernel& ours, Kernel& library,
                  DeviceApi& device) {
  Contest contest(graph, norm, ours, library, device);
  contest.run_both();
  NormRace race{.difference = contest.difference(true)};
  if (!race.difference.empty()) return race;
  contest.measure(race);
  contest.run_both();
  race.difference = contest.difference(false);
  if (!race.difference.empty()) race.difference += " when it runs again";
  return race;
}

}  // namespace fusetape::backends::cuda
