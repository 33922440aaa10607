// What happens to a process: fork(), the end of a thread, destructors of what is in static storage.
#include <doctest/doctest.h>
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::most_threads;

namespace {

/// Set before main() and so destroyed last.
struct AtEnd {
  std::function<void()> action;
  ~AtEnd() {
    if (action) action();
  }
};
AtEnd at_exit;

/// Says something to the parent, and ends the child there.
using Say = std::function<void(const std::string&)>;

/// What a child of fork() says; empty where it crashes or hangs.
template <class Body>
std::string said_in_child(Body&& body) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(30);
    body(Say([&ends](const std::string& text) {
      const bool written = ::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
      ::_exit(written ? 0 : 1);
    }));
    ::_exit(1);
  }
  ::close(ends[1]);
  std::string said;
  std::array<char, 4096> part{};
  for (ssize_t count = 0; (count = ::read(ends[0], part.data(), part.size())) > 0;)
    said.append(part.data(), static_cast<std::size_t>(count));
  ::close(ends[0]);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  return said;
}

/// A process of its own that runs one of this file's skipped cases; what it prints.
std::string said_in_new_process(const std::string& environment, const std::string& name) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command =
      environment + " '" + self + "' --no-skip --no-intro --test-case='" + name + "' 2>&1";
  FILE* const out = ::popen(command.c_str(), "r");
  REQUIRE(out != nullptr);
  std::string said;
  std::array<char, 4096> part{};
  for (std::size_t count = 0; (count = std::fread(part.data(), 1, part.size(), out)) > 0;)
    said.append(part.data(), count);
  ::pclose(out);
  return said;
}

/// Runs a product, a convolution and a chain: OpenBLAS, oneDNN and kernels of ours.
double run_something() {
  const Tensor a = ft::full({64, 64}, 0.5);
  const Tensor y = ft::conv2d(ft::ones({4, 16, 16, 8}), ft::full({8, 3, 3, 8}, 0.25), {.padding = {1, 1}});
  return ft::sum(ft::matmul(a, a)).item() + ft::sum(ft::exp(y * 0.0) * 2.0).item();
}
constexpr double something = 64 * 64 * 16 + 2.0 * 4 * 16 * 16 * 8;

class Threads {
 public:
  explicit Threads(int count) : before_(ft::threads()) { ft::set_threads(count); }
  ~Threads() { ft::set_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace

#ifndef __SANITIZE_THREAD__  // which ends such children

TEST_CASE("after a run on several threads, a child of fork() throws where it runs something") {
  const Threads two(2);
  REQUIRE(run_something() == something);
  const Tensor ready = ft::ones({3}) * 2.0;
  ft::materialize({ready});
  const Tensor pending = ft::sum(ready * 3.0);

  struct Case {
    const char* name;
    std::function<std::string()> body;
    const char* says;
  };
  const char* const lost = "[run] expected a process whose threads live, got a child of fork()";
  const std::vector<Case> cases = {
      {"a run", [] { return message_of(run_something); }, lost},
      {"what was pending", [&] { return message_of([&] { pending.item(); }); }, lost},
      {"an optimizer's step",
       [] {
         ft::Parameter w(ft::ones({2}), "w");
         ft::optim::SGD sgd({w}, {.lr = 0.1});
         ft::sum(w * 2.0).backward();
         return message_of([&] { sgd.step(); });
       },
       lost},
      {"its own line", [] { return message_of([] { ft::materialize({ft::ones({2}) * 2.0}); }); },
       "(process_test.cpp:"},
      {"a value that is there", [&] { return std::to_string(static_cast<int>(ready.to_vector()[2])); }, "2"},
      {"one thread",
       [&] {
         ft::set_threads(1);
         const bool right = run_something() == something && pending.item() == 18;
         return std::string(right ? "right" : "wrong");
       },
       "right"},
      {"a child of the child",
       [] { return said_in_child([](const Say& say) { say(message_of(run_something)); }); }, lost},
  };
  for (const Case& one : cases) {
    CAPTURE(one.name);
    const std::string said = said_in_child([&one](const Say& say) { say(one.body()); });
    CHECK_MESSAGE(contains(said, one.says), said);
  }
  CHECK(pending.item() == 18);
  CHECK(run_something() == something);
}

TEST_CASE("a process that has run nothing yet, or on one thread, may fork" * doctest::skip()) {
  const Threads one(1);
  const Tensor pending = ft::ones({3}) * 2.0;
  const auto runs_in_child = [&] {
    return said_in_child([&](const Say& say) {
      const Threads two(2);
      say(run_something() == something && pending.to_vector()[0] == 2 ? "right" : "wrong");
    });
  };
  CHECK(runs_in_child() == "right");
  CHECK(run_something() == something);
  CHECK(runs_in_child() == "right");
}

TEST_CASE("fork() before the first run on several threads") {
  const std::string said = said_in_new_process("", "a process that has run nothing yet*");
  CHECK_MESSAGE(contains(said, "Status: SUCCESS"), said);
  CHECK(contains(said, "1 passed"));
}

TEST_CASE("in a child of fork() a loader begins its thread anew, where it stood") {
  const auto set = std::make_shared<const ft::data::Dataset>(
      ft::data::synthetic_images({.classes = 2, .count = 40, .size = 8}));
  const auto rest = [](ft::data::DataLoader& loader) {
    std::string numbers;
    for (const auto& [images, labels] : loader) {
      numbers += std::to_string(images.to_vector()[5]) + " ";
      for (const std::int64_t label : labels.to_vector<std::int64_t>()) numbers += std::to_string(label);
    }
    return numbers + "; " + std::to_string(loader.epoch());
  };
  const auto begun = [&set](bool prefetch) {
    auto loader = std::make_unique<ft::data::DataLoader>(
        set, ft::data::DataLoaderOptions{.batch = 2, .prefetch = prefetch, .seed = 7});
    int taken = 0;
    for (const auto& batch : *loader) {
      static_cast<void>(batch);
      if (++taken == 5) break;
    }
    return loader;
  };
  const std::string expected = rest(*begun(false));
  const auto loader = begun(true);
  const auto spare = begun(true);
  // Its thread waits by now, or is about to.
  for (const int wait_ms : {0, 20}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
    CHECK(said_in_child([&](const Say& say) { say(rest(*loader)); }) == expected);
    const std::string set_back = said_in_child([&](const Say& say) {
      spare->set_state({.seed = 7, .epoch = 0, .position = 5});
      auto more = begun(true);  // a second one, begun and ended in the child
      more.reset();
      say(rest(*spare));
    });
    CHECK(set_back == expected);
  }
  CHECK(rest(*loader) == expected);
}

// ---- ends
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("what is recorded by the destructor of a static throws") {
  struct Net : ft::nn::Module {
    ft::nn::Linear fc{2, 2};
    Net() { register_child("fc", fc); }
    Tensor forward(const Tensor& x) override { return fc(x); }
  };
  /// Everything that a destructor may still have in its hands.
  struct Things {
    Tensor ready = ft::ones({2, 2}) * 2.0, pending, loss;
    Net net;
    ft::optim::SGD sgd{net.parameters(), {.lr = 0.1}};
    ft::data::DataLoader loader{ft::data::synthetic_images({.classes = 2, .count = 8, .size = 8}),
                                {.batch = 2}};
    Things() {
      ft::materialize();
      loss = ft::sum(net(ready));
      loss.item();
      pending = ready * 3.0;
    }
  };
  struct Case {
    const char* name;
    std::function<void(Things&)> call;
    std::string says = "[tape] expected a thread that goes on, got a call at its end";
  };
  const std::vector<Case> cases = {
      {"a leaf", [](Things&) { ft::zeros({3}); }},
      {"an op", [](Things& t) { t.ready + t.ready; }},
      {"a scalar op", [](Things& t) { t.ready * 2.0; }},
      {"random numbers", [](Things&) { ft::rand({3}); }},
      {"a module", [](Things& t) { t.net(t.ready); }},
      {"a new module", [](Things&) { ft::nn::Linear(2, 2); }},
      {"backward", [](Things& t) { t.loss.backward(); }},
      {"grad", [](Things& t) { ft::grad({t.loss}, {t.net.fc.weight()}); }},
      {"a step", [](Things& t) { t.sgd.step(); }},
      {"detach", [](Things& t) { t.ready.detach(); }},
      {"new data of a parameter", [](Things& t) { t.net.parameters()[0].set_data(t.ready); }},
      {"a batch", [](Things& t) { t.loader.begin(); }},
      {"materialize", [](Things&) { ft::materialize(); }},
      {"a setting", [](Things&) { ft::set_fusion(false); }},
      {"a setting asked for", [](Things&) { ft::threads(); }},
      {"a scope", [](Things&) { const ft::NoGrad off; }},
      {"a report", [](Things&) { ft::explain(); }},
      {"what was pending", [](Things& t) { t.pending.to_vector(); }, "the thread that recorded it ended"},
      {"a value that is there",
       [](Things& t) { throw ft::Error("ok", std::to_string(t.ready.to_vector()[3])); }, "[ok] 2"},
  };
  for (const Case& one : cases) {
    CAPTURE(one.name);
    const std::string said = said_in_child([&one](const Say& say) {
      ft::set_threads(1);
      Things& things = *new Things;
      at_exit.action = [&] { say(message_of([&] { one.call(things); })); };
      std::exit(1);
    });
    CHECK_MESSAGE(contains(said, one.says), said);
  }
}

TEST_CASE("scopes and tensors may be in static storage") {
  const std::string said = said_in_child([](const Say& say) {
    ft::set_threads(1);
    static const ft::NoGrad no_grad;
    static const ft::Autocast cast(ft::DType::bf16);
    static const ft::DetectAnomaly anomaly;
    static const Tensor pending = ft::ones({2}) * 2.0;
    static const Tensor ready = ft::ones({2}) * 3.0;
    ready.to_vector();
    at_exit.action = [&say] { say("ended well"); };
    std::exit(1);
  });
  CHECK(said == "ended well");
}

#endif

TEST_CASE("what is recorded at the end of a thread throws, whichever of its things is gone") {
  // Destroyed in the opposite order: before and after the thread's tape, its lists, its streams.
  for (int made_before = 0; made_before < 3; ++made_before) {
    CAPTURE(made_before);
    std::string said;
    std::thread([&] {
      const auto action = [&said] { said = message_of([] { ft::sum(ft::ones({2, 2}) * 2.0).item(); }); };
      static thread_local AtEnd first;
      if (made_before == 0) first.action = action;
      ft::threads();
      static thread_local AtEnd second;
      if (made_before == 1) second.action = action;
      Tensor kept = ft::ones({4, 4});
      static thread_local AtEnd third;
      if (made_before == 2) third.action = action;
      const Tensor x = ft::variable(kept);
      ft::sum(ft::matmul(x, x)).backward();
      run_something();
    }).join();
    CHECK_MESSAGE(contains(said, "[tape] expected a thread that goes on"), said);
    CHECK(contains(said, "(process_test.cpp:"));
  }
}

// ---- threads
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("shows its threads" * doctest::skip()) {
  MESSAGE("threads: " << message_of([] { ft::threads(); }) << message_of([] { ft::set_threads(1); }));
}

TEST_CASE("there is a largest number of threads, in the environment, too") {
  const int before = ft::threads();
  for (const int wrong : {0, -1, ft::max_threads + 1, 1 << 30}) {
    const std::string said = message_of([wrong] { ft::set_threads(wrong); });
    CHECK(contains(said, "[set_threads] expected 1 to 1024 threads, got " + std::to_string(wrong)));
    CHECK(contains(said, "(process_test.cpp:"));
    CHECK(ft::threads() == before);
  }
  {
    const Threads most(ft::max_threads);  // more than OpenBLAS has places for
    CHECK(omp_get_max_threads() == ft::max_threads);
  }
  const std::string said = said_in_new_process("OMP_NUM_THREADS=5000", "shows its threads");
  CHECK_MESSAGE(contains(said, "[OMP_NUM_THREADS] expected at most 1024 threads, got 5000"), said);
}
