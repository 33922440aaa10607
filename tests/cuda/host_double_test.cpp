// The double of a device catches what a device would do wrong in silence.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "helpers.hpp"
#include "host_double.hpp"

using namespace fusetape::tests;
using namespace fusetape::backends::cuda;

namespace {

constexpr std::int64_t count = 100;
constexpr std::size_t bytes = count * sizeof(float);

/// y = 2x, of neighbours through shared memory: y[i] = 2x[i ^ 1].
struct DoubleNeighbour {
  struct Args {
    const float* x;
    float* y;
    std::int64_t count;
  };
  struct Shared {
    float x[64];
  };
  using Local = Nothing;
  static std::string name() { return "double_neighbour"; }
  static constexpr unsigned threads = 64;
  static constexpr int phases = 2;
  static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const std::int64_t i = static_cast<std::int64_t>(thread.block_x) * threads + thread.index;
    if (i >= args.count) return;
    if (phase == 0) {
      shared.x[thread.index] = args.x[i];
    } else {
      args.y[i] = 2 * shared.x[thread.index ^ 1];
    }
  }
};

/// A device with x = 0, 1, 2, … and room for y.
struct Scene {
  explicit Scene(std::uint64_t seed = 1) : device(seed) {
    x = static_cast<float*>(device.allocate(bytes));
    y = static_cast<float*>(device.allocate(bytes));
    pinned = static_cast<float*>(device.allocate_pinned(bytes));
    arrived = static_cast<float*>(device.allocate_pinned(bytes));
    for (std::int64_t i = 0; i < count; ++i) pinned[i] = static_cast<float>(i);
    device.upload(Stream::compute, x, pinned, bytes);
  }
  void launch(const Access& access, Grid grid = {.x = 2}) {
    const DoubleNeighbour::Args args{x, y, count};
    device.launch(Stream::compute, {.kernel = &entry_of<DoubleNeighbour>(), .grid = grid, .args = &args},
                  access);
  }
  void launch() { launch({{{x, bytes}}, {{y, bytes}}}); }
  std::vector<float> result() {
    device.download(Stream::compute, arrived, y, bytes);
    device.synchronize();
    return {arrived, arrived + count};
  }

  HostDouble device;
  float *x, *y, *pinned, *arrived;
};

std::vector<float> expected() {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<float>(2 * (i ^ 1)));
  return out;
}

}  // namespace

TEST_CASE("work runs late, in stream order, blocks and threads in any order") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    Scene scene(seed);
    scene.device.synchronize();
    scene.launch();
    CHECK(std::isnan(scene.y[0]));  // nothing ran yet
    CHECK(scene.result() == expected());
    CHECK(scene.device.kernels_run() == std::set<std::string>{"double_neighbour"});
  }
}

TEST_CASE("each mistake is an error") {
  struct Row {
    const char* says;
    std::function<void(Scene&)> mistake;
  };
  const Row rows[] = {
      {"wrote where it did not declare to",
       [](Scene& s) {
         s.launch({{{s.x, bytes}}, {{s.y, bytes - 4}}});
       }},
      {"wrote where it did not declare to",
       [](Scene& s) {
         s.launch({{{s.x, bytes}, {s.y, bytes}}, {}});
       }},
      {"outside of any allocation",
       [](Scene& s) {
         s.launch({{{s.x, bytes}}, {{s.y, bytes + 1}}});
       }},
      {"a grid of",
       [](Scene& s) {
         s.launch({{{s.x, bytes}}, {{s.y, bytes}}}, {.x = 0});
       }},
      {"a grid of",
       [](Scene& s) {
         s.launch({{{s.x, bytes}}, {{s.y, bytes}}}, {.x = 1, .y = 70'000});
       }},
      {"not pinned",
       [](Scene& s) {
         const float number = 1;
         s.device.upload(Stream::compute, s.y, &number, sizeof number);
       }},
      {"pinned memory changed", [](Scene& s) { s.pinned[3] = 17; }},
      {"was not allocated", [](Scene& s) { s.device.free(s.x + 1); }},
      {"memory is allocated while a graph is captured",
       [](Scene& s) {
         s.device.begin_capture(Stream::compute);
         s.device.allocate(16);
       }},
      {"the host waits while a graph is captured", [](Scene& s) { s.device.begin_capture(Stream::compute); }},
      {"program was let go before it ran",
       [](Scene& s) {
         const auto program = s.device.make_program(
             {.name = "program", .text = "", .run_block = [](const void*, Thread, HostOrder) {}});
         s.device.launch(Stream::compute, {.kernel = program.get()}, {});
       }},
      {"double:product was let go before it ran",
       [](Scene& s) { s.device.run(Stream::compute, *s.device.make_product({}), OperationArgs{}, {}); }},
      {"outside of any allocation",
       [](Scene& s) {
         s.device.synchronize();
         s.device.begin_capture(Stream::compute);
         s.launch();
         const GraphId graph = s.device.end_capture(Stream::compute);
         s.device.free(s.y);
         s.y = nullptr;
         s.device.launch_graph(Stream::compute, graph);
       }},
  };
  for (const Row& row : rows) {
    Scene scene;
    const std::string said = message_of([&] {
      row.mistake(scene);
      scene.device.synchronize();
    });
    CHECK_MESSAGE(contains(said, row.says), row.says << ": " << said);
  }
}

TEST_CASE("what a launch does not declare to read is not there") {
  Scene scene;
  scene.launch({{{scene.x, bytes / 2}}, {{scene.y, bytes}}});
  const std::vector<float> y = scene.result();
  CHECK(y[0] == 2);
  CHECK(std::isnan(y[count - 1]));
}

TEST_CASE("a stream waits for another's event, and only then") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Scene scene(seed);
    scene.device.synchronize();
    std::memset(scene.pinned, 0, bytes);
    const Event uploaded = scene.device.make_event();
    scene.device.upload(Stream::copies, scene.x, scene.pinned, bytes);
    scene.device.record(uploaded, Stream::copies);
    scene.device.wait(Stream::compute, uploaded);
    scene.launch();
    CHECK(scene.result() == std::vector<float>(count, 0));
  }
}

TEST_CASE("a graph runs when it is launched, with what memory holds then") {
  Scene scene;
  scene.device.begin_capture(Stream::compute);
  scene.launch();
  const GraphId graph = scene.device.end_capture(Stream::compute);
  scene.device.synchronize();
  CHECK(std::isnan(scene.y[0]));
  scene.device.launch_graph(Stream::compute, graph);
  CHECK(scene.result() == expected());
  std::memset(scene.pinned, 0, bytes);
  scene.device.upload(Stream::compute, scene.x, scene.pinned, bytes);
  scene.device.launch_graph(Stream::compute, graph);
  CHECK(scene.result() == std::vector<float>(count, 0));
}
