// Uploads and downloads through pinned memory, on the double of a device.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "backends/cuda/staging.hpp"
#include "host_double.hpp"

using fusetape::backends::cuda::Staging;
using fusetape::tests::HostDouble;

namespace {

std::vector<int> numbered(std::size_t bytes, int from) {
  std::vector<int> numbers(bytes / sizeof(int));
  std::iota(numbers.begin(), numbers.end(), from);
  return numbers;
}

}  // namespace

TEST_CASE("staging: what is uploaded comes back, whatever its size, and may change right after the call") {
  HostDouble device;
  Staging staging(device);
  for (const std::size_t bytes : {std::size_t{4}, std::size_t{64} << 10, (std::size_t{64} << 10) + 4,
                                  Staging::large_slot_bytes, 3 * Staging::large_slot_bytes + 8}) {
    CAPTURE(bytes);
    void* const place = device.allocate(bytes);
    std::vector<int> numbers = numbered(bytes, 7);
    const std::vector<int> kept = numbers;
    staging.upload(place, numbers.data(), bytes);
    std::fill(numbers.begin(), numbers.end(), -1);
    std::vector<int> back(numbers.size());
    staging.download(back.data(), place, bytes);
    CHECK(back == kept);
    device.free(place);
  }
}

TEST_CASE("staging: of two large uploads none waits; past the room for slots they do, and arrive") {
  struct Row {
    std::size_t bytes;
    bool waits;
  };
  for (const Row& row : {Row{Staging::large_slot_bytes / 2, false}, Row{5 * Staging::large_slot_bytes, false},
                         Row{(Staging::most_large_slots / 2 + 1) * Staging::large_slot_bytes, true}}) {
    const std::size_t bytes = row.bytes;
    const bool waits = row.waits;
    CAPTURE(bytes);
    HostDouble device;
    Staging staging(device);
    void *const first = device.allocate(bytes), *const second = device.allocate(bytes);
    const std::int64_t before = device.waits();
    staging.upload(first, numbered(bytes, 1).data(), bytes);
    staging.upload(second, numbered(bytes, 2).data(), bytes);
    CHECK((device.waits() > before) == waits);
    std::vector<int> back(bytes / sizeof(int));
    staging.download(back.data(), first, bytes);
    CHECK(back == numbered(bytes, 1));
    staging.download(back.data(), second, bytes);
    CHECK(back == numbered(bytes, 2));
  }
}

TEST_CASE("staging: without memory for more slots the upload waits, and arrives") {
  HostDouble device;
  Staging staging(device);
  const std::size_t bytes = 5 * Staging::large_slot_bytes;
  void *const first = device.allocate(bytes), *const second = device.allocate(bytes);
  device.refuse_memory("no memory left");
  const std::int64_t before = device.waits();
  staging.upload(first, numbered(bytes, 1).data(), bytes);
  staging.upload(second, numbered(bytes, 2).data(), bytes);
  CHECK(device.waits() > before);
  device.refuse_memory("");
  std::vector<int> back(bytes / sizeof(int));
  staging.download(back.data(), second, bytes);
  CHECK(back == numbered(bytes, 2));
}
