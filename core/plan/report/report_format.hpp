#pragma once
#include <locale>
#include <sstream>
#include <string>
#include <vector>

#include "core/numerics/number_text.hpp"
#include "fusetape/report.hpp"

/// What the forms of a report share.
namespace fusetape::plan {

inline std::string fixed(double value, int digits) {
  return core::number_text(value, std::chars_format::fixed, digits);
}

inline std::string megabytes(std::int64_t bytes) {
  return fixed(static_cast<double>(bytes) / 1e6, 3) + " MB";
}

/// Writes numbers in the same way whatever the process's locale.
inline std::ostringstream plain_stream() {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  return stream;
}

inline std::string counted(std::size_t n, const std::string& noun) {
  return std::to_string(n) + " " + noun + (n == 1 ? "" : "s");
}

/// A long chain's name by its first ops and their number.
std::string short_name(const GroupReport& group);

/// Near misses of one rule, reason and line are one, with how often it came.
struct CountedRefusal {
  RefusalReport refusal;
  int count = 0;
};
std::vector<CountedRefusal> count_refusals(const std::vector<RefusalReport>& refusals);
/// "batch_norm+relu at model.cpp:42 (stages.0): the output of … (model.cpp:40, stages.0.bn), 3 times"
std::string describe(const CountedRefusal& refusal);

/// The ops of which some results are in no memory: "batch_norm 18 of 21, relu 16 of 19"; empty: none.
std::string unwritten_text(const Report& report);

/// What is kept for backward, by op: the largest first.
struct KeptByOp {
  std::string op;
  std::size_t values = 0;
  std::int64_t bytes = 0;
};
std::vector<KeptByOp> kept_by_op(const Report& report);

}  // namespace fusetape::plan
