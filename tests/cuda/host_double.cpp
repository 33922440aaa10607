#include "host_double.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "fusetape/error.hpp"
#include "library_double.hpp"

namespace fusetape::tests {

using backends::cuda::Grid;
using backends::cuda::HostOrder;
using backends::cuda::Thread;

namespace {

constexpr std::size_t alignment = 256;
/// What no one has written: NaNs in every floating dtype.
constexpr int garbage = 0xff;
/// More device memory than this is hidden from every hundredth kernel only.
constexpr std::size_t small_memory = std::size_t{1} << 20;

std::uintptr_t address(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }
std::byte* pointer(std::uintptr_t at) { return reinterpret_cast<std::byte*>(at); }

void* new_memory(std::size_t bytes) {
  const std::size_t size = (bytes + alignment - 1) / alignment * alignment + alignment;
  void* data = std::aligned_alloc(alignment, size);
  if (data == nullptr)
    throw backends::cuda::OutOfMemory("allocate",
                                      "expected " + std::to_string(bytes) + " bytes of memory, got none");
  std::memset(data, garbage, size);
  return data;
}

std::uint64_t hash_of(const void* data, std::size_t bytes) {
  return std::hash<std::string_view>{}({static_cast<const char*>(data), bytes});
}

using Stretch = std::pair<std::uintptr_t, std::uintptr_t>;  ///< [first, end)

/// The ranges in order, those that touch joined.
std::vector<Stretch> joined(const std::vector<Range>& ranges) {
  std::vector<Stretch> all;
  for (const Range& range : ranges) {
    if (range.bytes > 0) all.emplace_back(address(range.data), address(range.data) + range.bytes);
  }
  std::sort(all.begin(), all.end());
  std::vector<Stretch> out;
  for (const Stretch& stretch : all) {
    if (!out.empty() && stretch.first <= out.back().second) {
      out.back().second = std::max(out.back().second, stretch.second);
    } else {
      out.push_back(stretch);
    }
  }
  return out;
}

/// What is left of `whole` beside `taken` (joined).
std::vector<Stretch> beside(Stretch whole, const std::vector<Stretch>& taken) {
  std::vector<Stretch> out;
  for (const Stretch& stretch : taken) {
    if (stretch.second <= whole.first || stretch.first >= whole.second) continue;
    if (stretch.first > whole.first) out.emplace_back(whole.first, stretch.first);
    whole.first = std::min(stretch.second, whole.second);
  }
  if (whole.first < whole.second) out.push_back(whole);
  return out;
}

/// Bytes that a kernel may not see, or may not change: kept here while it runs.
class Kept {
 public:
  Kept(Stretch stretch, bool hide)
      : stretch_(stretch),
        hidden_(hide),
        bytes_(pointer(stretch.first), pointer(stretch.first) + (stretch.second - stretch.first)) {
    if (hide) std::memset(pointer(stretch.first), garbage, bytes_.size());
  }
  bool changed() const {
    const std::byte* now = pointer(stretch_.first);
    if (!hidden_) return !std::equal(bytes_.begin(), bytes_.end(), now);
    return std::any_of(now, now + bytes_.size(), [](std::byte b) { return b != std::byte{garbage}; });
  }
  void restore() const { std::copy(bytes_.begin(), bytes_.end(), pointer(stretch_.first)); }

 private:
  Stretch stretch_;
  bool hidden_;
  std::vector<std::byte> bytes_;
};

}  // namespace

HostDouble::HostDouble(std::uint64_t seed) : random_(seed) {}

HostDouble::~HostDouble() {
  for (const Memory* memory : {&device_, &pinned_}) {
    for (const auto& [at, bytes] : *memory) std::free(pointer(at));
  }
}

void HostDouble::fail(const std::string& what) { throw Error("cuda double", what); }

backends::cuda::DeviceFacts HostDouble::facts() const {
  return {.name = "host double",
          .major = 9,
          .minor = 0,
          .multiprocessors = 132,
          .memory_bytes = std::size_t{80} << 30,
          .flops = 5e13,
          .half_flops = 8e14,
          .bytes_per_second = 3e12};
}

// ---- memory ----

void HostDouble::refuse_in_capture(const char* what) const {
  if (capturing_) fail(std::string(what) + " while a graph is captured");
}

void* HostDouble::allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("memory is allocated");
  if (!memory_refusal_.empty()) throw backends::cuda::OutOfMemory("cuda double", memory_refusal_);
  void* data = new_memory(bytes);
  device_[address(data)] = bytes;
  return data;
}

void HostDouble::free(void* data) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("memory is freed");
  synchronize();  // as cudaFree
  if (device_.erase(address(data)) == 0) fail("freed memory was not allocated");
  std::free(data);
}

void* HostDouble::allocate_pinned(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("pinned memory is allocated");
  void* data = new_memory(bytes);
  pinned_[address(data)] = bytes;
  return data;
}

void HostDouble::free_pinned(void* data) {
  const std::lock_guard lock(mutex_);
  synchronize();
  if (pinned_.erase(address(data)) == 0) fail("freed pinned memory was not allocated");
  std::free(data);
}

bool HostDouble::holds(const Memory& memory, Range range) {
  auto after = memory.upper_bound(address(range.data));
  if (after == memory.begin()) return false;
  const auto& [at, bytes] = *std::prev(after);
  return address(range.data) + range.bytes <= at + bytes;
}

// ---- work ----

void HostDouble::check_ranges(const Task& task) const {
  for (const auto* ranges : {&task.access.reads, &task.access.writes}) {
    for (const Range& range : *ranges) {
      if (range.bytes > 0 && !holds(device_, range)) fail(task.what + ": a range outside of any allocation");
    }
  }
}

void HostDouble::queue(Stream stream, Task task) {
  check_ranges(task);
  if (capturing_ == stream) {
    graphs_.back().push_back(std::move(task));
  } else {
    tasks(stream).push_back(std::move(task));
  }
}

void HostDouble::upload(Stream stream, void* to, const void* pinned, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!holds(pinned_, {pinned, bytes})) fail("an upload from memory that is not pinned");
  const std::uint64_t hash = hash_of(pinned, bytes);
  const bool captured = capturing_ == stream;  // a graph's copy reads what is there when it runs
  queue(stream, {.what = "upload",
                 .work =
                     [=] {
                       if (!captured && hash_of(pinned, bytes) != hash)
                         fail("pinned memory changed before its upload was done");
                       std::memcpy(to, pinned, bytes);
                     },
                 .access = {.reads = {}, .writes = {{to, bytes}}}});
}

void HostDouble::download(Stream stream, void* pinned, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!holds(pinned_, {pinned, bytes})) fail("a download to memory that is not pinned");
  std::memset(pinned, garbage, bytes);
  queue(stream, {.what = "download",
                 .work = [=] { std::memcpy(pinned, from, bytes); },
                 .access = {.reads = {{from, bytes}}, .writes = {}}});
}

void HostDouble::copy(Stream stream, void* to, const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  queue(stream, {.what = "copy",
                 .work = [=] { std::memmove(to, from, bytes); },
                 .access = {.reads = {{from, bytes}}, .writes = {{to, bytes}}}});
}

void HostDouble::clear(Stream stream, void* data, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  queue(stream, {.what = "clear",
                 .work = [=] { std::memset(data, 0, bytes); },
                 .access = {.reads = {}, .writes = {{data, bytes}}}});
}

void HostDouble::check_launch(const Launch& launch) const {
  const KernelEntry& kernel = *launch.kernel;
  const auto require = [&](bool ok, const char* what) {
    if (!ok) fail(kernel.name + ": " + what);
  };
  require(launch.grid.x >= 1 && launch.grid.x <= 0x7fffffff, "a grid of 1 to 2^31 - 1 blocks in x");
  require(launch.grid.y >= 1 && launch.grid.y <= 0xffff, "a grid of 1 to 65,535 blocks in y");
  require(kernel.threads >= 32 && kernel.threads <= 1024, "32 to 1,024 threads");
  require(kernel.shared_bytes <= std::size_t{48} << 10, "at most 48 KiB of shared memory");
  require(kernel.args_bytes <= 4096, "at most 4 KiB of arguments");
}

void HostDouble::launch(Stream stream, const Launch& launch, const Access& access) {
  const std::lock_guard lock(mutex_);
  check_launch(launch);
  const auto* bytes = static_cast<const std::byte*>(launch.args);
  const std::vector<std::byte> args(bytes, bytes + launch.kernel->args_bytes);
  Task task{
      .what = launch.kernel->name,
      .work = [this, kernel = launch.kernel, grid = launch.grid, args] { run_blocks(*kernel, grid, args); },
      .access = access,
      .isolated = true};
  if (const auto made = programs_.find(launch.kernel); made != programs_.end()) task.needs = made->second;
  queue(stream, std::move(task));
}

void HostDouble::run_blocks(const KernelEntry& kernel, Grid grid, const std::vector<std::byte>& args) {
  // Aligned as an object on the stack would be.
  std::vector<std::max_align_t> room(args.size() / sizeof(std::max_align_t) + 1);
  std::copy(args.begin(), args.end(), reinterpret_cast<std::byte*>(room.data()));  // there may be none
  std::vector<std::int64_t> order(static_cast<std::size_t>(grid.x * grid.y));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::shuffle(order.begin(), order.end(), random_);
  for (const std::int64_t block : order) {
    const Thread thread{.index = 0,
                        .block_x = static_cast<unsigned>(block % grid.x),
                        .block_y = static_cast<unsigned>(block / grid.x),
                        .blocks_x = static_cast<unsigned>(grid.x),
                        .blocks_y = static_cast<unsigned>(grid.y)};
    const auto draw = static_cast<unsigned>(random_());
    kernel.run_block(room.data(), thread, {.first = draw >> 16, .step = (draw & 0xffff) | 1});
  }
  kernels_run_.insert(kernel.name);
}

/// Hides all memory that the task does not declare, and watches what it only reads.
void HostDouble::run_isolated(const Task& task) {
  std::size_t all = 0;
  for (const auto& [at, bytes] : device_) all += bytes;
  if (all > small_memory && random_() % 100 != 0) return task.work();

  const std::vector<Stretch> reads = joined(task.access.reads), writes = joined(task.access.writes);
  std::vector<Range> both = task.access.reads;
  both.insert(both.end(), task.access.writes.begin(), task.access.writes.end());
  const std::vector<Stretch> declared = joined(both);
  std::vector<Kept> kept;
  for (const auto& [at, bytes] : device_) {
    for (const Stretch& stretch : beside({at, at + bytes}, declared)) kept.emplace_back(stretch, true);
  }
  for (const Stretch& read : reads) {
    for (const Stretch& stretch : beside(read, writes)) kept.emplace_back(stretch, false);
  }
  for (const Stretch& write : writes) {
    for (const Stretch& stretch : beside(write, reads)) {
      std::memset(pointer(stretch.first), garbage, stretch.second - stretch.first);
    }
  }
  task.work();
  for (const Kept& part : kept) {
    if (part.changed()) fail(task.what + " wrote where it did not declare to");
    part.restore();
  }
}

void HostDouble::run(Stream stream, LibraryOperation& operation, const OperationArgs& args,
                     const Access& access) {
  const std::lock_guard lock(mutex_);
  auto& library = dynamic_cast<LibraryDouble&>(operation);
  queue(stream, {.what = operation.name,
                 .work = [&library, args] { library.run(args); },
                 .access = access,
                 .isolated = true,
                 .needs = library.life()});
}

// ---- order ----

bool HostDouble::can_start(const Task& task) const {
  return task.awaited < 0 || done_[static_cast<std::size_t>(task.awaited)] >= task.version;
}

void HostDouble::run_one(std::deque<Task>& stream) {
  const Task task = std::move(stream.front());
  stream.pop_front();
  if (task.recorded >= 0) done_[static_cast<std::size_t>(task.recorded)] = task.version;
  if (!task.work) return;
  check_ranges(task);
  if (task.needs && task.needs->expired()) fail(task.what + " was let go before it ran");
  task.isolated ? run_isolated(task) : task.work();
}

/// Any stream whose next task may start goes first.
void HostDouble::run_until(const std::function<bool()>& done) {
  while (!done()) {
    std::vector<std::deque<Task>*> ready;
    for (auto& stream : streams_) {
      if (!stream.empty() && can_start(stream.front())) ready.push_back(&stream);
    }
    if (ready.empty()) fail("the host waits for what is never done");
    run_one(*ready[random_() % ready.size()]);
  }
}

Event HostDouble::make_event() {
  const std::lock_guard lock(mutex_);
  recorded_.push_back(0);
  done_.push_back(0);
  return static_cast<Event>(recorded_.size()) - 1;
}

void HostDouble::record(Event event, Stream stream) {
  const std::lock_guard lock(mutex_);
  queue(stream,
        {.what = "event", .recorded = event, .version = ++recorded_[static_cast<std::size_t>(event)]});
}

void HostDouble::wait(Stream stream, Event event) {
  const std::lock_guard lock(mutex_);
  queue(stream, {.what = "wait", .awaited = event, .version = recorded_[static_cast<std::size_t>(event)]});
}

void HostDouble::synchronize(Event event) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("the host waits");
  ++waits_;
  const auto e = static_cast<std::size_t>(event);
  const std::uint64_t version = recorded_[e];
  run_until([&] { return done_[e] >= version; });
}

void HostDouble::synchronize() {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("the host waits");
  ++waits_;
  run_until([&] { return streams_[0].empty() && streams_[1].empty(); });
}

// ---- graphs ----

void HostDouble::begin_capture(Stream stream) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("another capture begins");
  graphs_.emplace_back();
  capturing_ = stream;
}

void HostDouble::refuse_captures(std::string why) {
  const std::lock_guard lock(mutex_);
  capture_refusal_ = std::move(why);
}

GraphId HostDouble::end_capture(Stream stream) {
  const std::lock_guard lock(mutex_);
  if (capturing_ != stream) fail("the end of a capture that did not begin");
  capturing_.reset();
  if (!capture_refusal_.empty()) fail(capture_refusal_);
  return static_cast<GraphId>(graphs_.size()) - 1;
}

void HostDouble::launch_graph(Stream stream, GraphId graph) {
  const std::lock_guard lock(mutex_);
  for (const Task& task : graphs_.at(static_cast<std::size_t>(graph))) queue(stream, task);
}

void HostDouble::free_graph(GraphId graph) {
  const std::lock_guard lock(mutex_);
  graphs_.at(static_cast<std::size_t>(graph)).clear();
}

// ---- building ----

void HostDouble::refuse_operations(Refusal refusal, std::string why) {
  const std::lock_guard lock(mutex_);
  refusal_ = refusal;
  refusal_words_ = std::move(why);
}

void HostDouble::refuse_memory(std::string why) {
  const std::lock_guard lock(mutex_);
  memory_refusal_ = std::move(why);
}

void HostDouble::begin_building() {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("an operation is built");
  if (refusal_ == Refusal::verdict) fail(refusal_words_);
  if (refusal_ == Refusal::shortage) throw backends::cuda::OutOfMemory("cuda double", refusal_words_);
  ++operations_built_;
}

std::unique_ptr<LibraryOperation> HostDouble::make_convolution(const backends::cuda::ConvolutionSpec& spec) {
  begin_building();
  return make_convolution_double(spec);
}

std::unique_ptr<LibraryOperation> HostDouble::make_product(const backends::cuda::ProductSpec& spec) {
  begin_building();
  return make_product_double(spec);
}

std::shared_ptr<const KernelEntry> HostDouble::make_program(const backends::cuda::ProgramSource& source) {
  const std::lock_guard lock(mutex_);
  refuse_in_capture("a program is compiled");
  const auto program = std::make_shared<const KernelEntry>(KernelEntry{.name = source.name,
                                                                       .threads = source.threads,
                                                                       .shared_bytes = 0,
                                                                       .args_bytes = source.args_bytes,
                                                                       .run_block = source.run_block});
  std::erase_if(programs_, [](const auto& known) { return known.second.expired(); });
  programs_[program.get()] = program;
  return program;
}

std::size_t HostDouble::programs_held() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::ranges::count_if(programs_, [](const auto& known) { return !known.second.expired(); }));
}

std::set<std::string> HostDouble::kernels_run() const {
  const std::lock_guard lock(mutex_);
  return kernels_run_;
}

}  // namespace fusetape::tests
