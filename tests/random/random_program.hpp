#pragma once
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"

/// Random training programs: what the dice of a seed record, and what came out. random_ops.cpp has the table
/// of what may be recorded.
namespace fusetape::tests {

using Numbers = std::vector<double>;

/// splitmix64: the same numbers everywhere.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}
  Dice(std::uint64_t seed, std::uint64_t a, std::uint64_t b) : state_(seed) {
    state_ = next() + a;
    state_ = next() + b;
  }
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n));
  }
  std::int64_t pick(std::initializer_list<std::int64_t> from) {
    return from.begin()[below(std::ssize(from))];
  }
  bool chance(int percent) { return below(100) < percent; }

 private:
  std::uint64_t state_;
};

enum class ProgramKind : std::uint8_t {
  plain,           ///< f32
  mixed,           ///< under Autocast(bf16), in whole or in parts
  integers,        ///< f32, with ops and data of which every result is exact
  integers_mixed,  ///< the same under Autocast(bf16)
};

struct Recipe {
  std::uint64_t seed = 0, data_seed = 0;
  ProgramKind kind = ProgramKind::plain;
  bool checkpointed = false;   ///< the same program, in checkpoint segments
  bool in_double = false;      ///< the same program on the same numbers, in f64
  std::set<int> without = {};  ///< these ops are left out: for smaller programs that fail alike
};

/// What a run came to. Two runs of one recipe may be compared result by result.
struct Outcome {
  std::vector<Numbers> results;
  std::vector<std::string> names;  ///< of the results
  std::string listing;             ///< the program, an op a line
  std::set<std::string> groups;    ///< the names of the groups that the steps' plans had
  int ops = 0;
};

/// Records and runs the program in the current mode of the library.
Outcome run_program(const Recipe& recipe);

/// What an op of the table may be applied to: values that there are, and parameters.
class Ingredients {
 public:
  explicit Ingredients(const Recipe& recipe);

  Dice dice;  ///< of the op that is being recorded
  ProgramKind kind;

  bool integers() const { return kind == ProgramKind::integers || kind == ProgramKind::integers_mixed; }
  bool mixed() const { return kind == ProgramKind::mixed || kind == ProgramKind::integers_mixed; }

  Tensor any();                  ///< of the values so far
  Tensor image();                ///< {N, H, W, C}; undefined where there is none
  Tensor matrix();               ///< {N, C}; as a reshaped image where there is none
  Tensor like(const Tensor& x);  ///< of x's shape: perhaps x itself
  /// A weight of which two share each shape. `fan_in`: the terms of one of its sums.
  Tensor weight(const Shape& shape, std::int64_t fan_in);
  /// {C}, around `centre`.
  Tensor channels(std::int64_t c, double centre);
  /// Batch normalisation with shared parameters, of this batch or with the running statistics.
  Tensor norm(const Tensor& x, bool evaluation);
  /// A channel count of the program.
  std::int64_t out_channels() { return channels_[static_cast<std::size_t>(dice.below(2))]; }
  /// x, a value inside a pattern: at times somebody else names it, too.
  Tensor between(const Tensor& x);
  /// Data that is no parameter.
  Tensor data(const Shape& shape, double centre = 0);
  Tensor labels(std::int64_t n, std::int64_t classes);

 protected:
  /// A value as an op of this moment takes it: bf16 goes into f32 ops through a cast.
  Tensor taken(const Tensor& value) const;
  Parameter& parameter(const Shape& shape, double centre, std::int64_t fan_in);

  struct Slot {
    Parameter parameter;
    std::string name;
  };
  struct Statistics {
    Cell mean, variance;
  };

  /// Numbers of the data and the parameters in the program's dtype.
  Tensor exactly(const std::vector<float>& elements, const Shape& shape) const {
    return cast(from_vector(elements, shape), dtype_);
  }

  DType dtype_;  ///< f32, or f64
  Dice numbers_;
  std::int64_t channels_[2] = {1, 1};
  std::vector<Tensor> pool_;
  std::vector<std::pair<std::string, Tensor>> kept_;
  std::deque<Slot> parameters_;  ///< in the order of their first use; hooks point into it
  std::map<std::string, std::size_t> by_key_;
  std::map<std::int64_t, Statistics> statistics_;
  std::string listing_;
};

struct OpRow {
  const char* name;
  /// Undefined where there is nothing that it applies to.
  Tensor (*record)(Ingredients& from);
  bool exact = false;  ///< on small integers
  bool jumps = false;  ///< its value jumps where its input hardly moves
};

/// Every public op by itself, and groups of ops that the rules of the fusion table look for.
const std::vector<OpRow>& op_rows();
const std::vector<OpRow>& array_rows();
const std::vector<OpRow>& pattern_rows();

}  // namespace fusetape::tests
