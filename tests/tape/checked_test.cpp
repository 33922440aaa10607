// Arithmetic on a user's numbers, at the ends of its range.
#include <doctest/doctest.h>

#include <limits>

#include "core/numerics/checked.hpp"

using fusetape::core::Checked;

TEST_CASE("a sum, difference or product that leaves 64 bits says so, and so does all that is made of it") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  struct Row {
    Checked got;
    bool fits;
    std::int64_t value;
  };
  const Row rows[] = {
      {Checked(most) + 0, true, most},
      {Checked(most) + 1, false, 0},
      {Checked(most) + 1 - 1, false, 0},
      {Checked(least) - 0, true, least},
      {Checked(least) - 1, false, 0},
      {Checked(0) - least, false, 0},
      {Checked(std::int64_t{1} << 31) * (std::int64_t{1} << 31), true, std::int64_t{1} << 62},
      {Checked(std::int64_t{1} << 32) * (std::int64_t{1} << 31), false, 0},
      {Checked(least) * -1, false, 0},
      {Checked(most) * 2 * 0, false, 0},  // though the whole would be 0
      {2 * Checked(3) + 4, true, 10},
      {Checked(std::uint64_t{1} << 63), false, 0},
      {Checked(std::uint64_t{most}), true, most},
      {Checked(std::uint8_t{255}) + 1, true, 256},
  };
  for (const Row& row : rows) {
    CAPTURE(&row - rows);
    CHECK(row.got.fits() == row.fits);
    if (row.fits) CHECK(row.got.value() == row.value);
  }
  CHECK(Checked(5).within(0, 5));
  CHECK_FALSE(Checked(6).within(0, 5));
  CHECK_FALSE(Checked(-1).within(0, 5));
  CHECK_FALSE((Checked(most) + 1).within(least, most));
  CHECK(Checked(std::int64_t{1} << 31).fits_in<std::uint32_t>());
  CHECK_FALSE(Checked(std::int64_t{1} << 31).fits_in<int>());
  CHECK_FALSE(Checked(-1).fits_in<std::size_t>());
}
