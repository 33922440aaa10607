#include "fuzz/readers.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/tune/tuning_file.hpp"
#include "tests/nn/small_net.hpp"

namespace fusetape::fuzz {
namespace {

void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

/// A file that is on no disk.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    require(descriptor_ >= 0, "there is no file in memory");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& hold(Bytes bytes) {
    const bool held = ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, bytes.data(), bytes.size(),
                                                                   0) == static_cast<ssize_t>(bytes.size());
    require(held, "a file in memory cannot be written");
    return path_;
  }

 private:
  int descriptor_;
  std::string path_ = "/proc/self/fd/" + std::to_string(descriptor_);
};

/// Whether the reader took the file.
template <class Read>
bool taken(Read&& read) {
  try {
    read();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// What a checkpoint is loaded into.
struct Run {
  tests::SmallNet net;
  optim::SGD sgd{net.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4}};
  optim::CosineLR schedule{sgd, {.total_steps = 8}};
  optim::LossScaler scaler;
  data::DataLoader loader{data::synthetic_images({.count = 48, .size = 8, .seed = 1}),
                          {.batch = 8, .crop = 1, .flip = true, .prefetch = false}};

  /// Everything that a load may change.
  std::vector<double> state() const {
    const data::DataLoader::State at = loader.state();
    const GeneratorState random = generator_state();
    std::vector<double> all{sgd.learning_rate(),
                            sgd.initial_learning_rate(),
                            scaler.factor(),
                            static_cast<double>(scaler.clean_steps()),
                            static_cast<double>(schedule.index()),
                            static_cast<double>(at.seed),
                            static_cast<double>(at.epoch),
                            static_cast<double>(at.position),
                            static_cast<double>(random.seed),
                            static_cast<double>(random.counter)};
    const auto add = [&](const std::vector<std::pair<std::string, Cell>>& cells) {
      for (const auto& [name, cell] : cells) {
        const std::vector<std::int64_t> bits = bits_of(cell.value());
        all.insert(all.end(), bits.begin(), bits.end());
      }
    };
    for (const auto& [name, cell] : net.named_parameters()) add({{name, cell}});
    for (const auto& [name, cell] : net.named_buffers()) add({{name, cell}});
    add(sgd.named_state());
    for (std::int64_t count : sgd.updates()) all.push_back(static_cast<double>(count));
    return all;
  }

 private:
  /// A NaN equals itself.
  static std::vector<std::int64_t> bits_of(const Tensor& tensor) {
    std::vector<std::int64_t> bits;
    for (float value : tensor.to_vector()) bits.push_back(std::bit_cast<std::int32_t>(value));
    return bits;
  }
};

/// One that its own writer made here, without the list of convolutions: what it begins with depends on the
/// machine.
std::string tuning_header() {
  const auto file = std::filesystem::temp_directory_path() / ("fusetape_fuzz." + std::to_string(::getpid())) /
                    "tuning.json";
  const std::string failed = backends::cpu::tune::add_tunings(file, {{"a", {.kernel = "direct"}}});
  require(failed.empty(), "a tuning file cannot be written");
  std::ifstream in(file);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::filesystem::remove_all(file.parent_path());
  return text.substr(0, text.find('[', text.find("\"convolutions\"")));
}

}  // namespace

void safetensors(Bytes bytes) {
  static MemoryFile file;
  const std::string& path = file.hold(bytes);
  const bool ours = taken([&] { io::load_tensors(path); });
  const bool ours_or_foreign = taken([&] { io::load_tensors(path, {.foreign = io::ForeignDType::convert}); });
  const bool rest = taken([&] { io::load_tensors(path, {.foreign = io::ForeignDType::skip}); });
  require(!ours || (ours_or_foreign && rest), "a file is refused only where its dtypes are asked about");
}

void checkpoint(Bytes bytes) {
  static MemoryFile file;
  static Run run;
  const std::string& path = file.hold(bytes);
  set_kernel_choices({});  // files add to them
  const io::Training parts{&run.net, &run.sgd, &run.schedule, &run.loader, true, &run.scaler};
  for (const io::OnMismatch settings :
       {io::OnMismatch::refuse, io::OnMismatch::take_theirs, io::OnMismatch::keep_ours}) {
    const std::vector<double> before = run.state();
    const optim::Settings made = run.sgd.settings(), scheduled = run.schedule.settings();
    const std::vector<KernelChoice> chosen = kernel_choices();
    if (taken([&] { io::load_checkpoint(path, parts, {.settings = settings}); })) continue;
    require(run.state() == before && run.sgd.settings() == made && run.schedule.settings() == scheduled &&
                kernel_choices() == chosen,
            "a checkpoint that is refused changes something");
  }
}

void cifar(Bytes bytes) {
  if (bytes.empty()) return;
  static MemoryFile file;
  const bool hundred = bytes[0] % 2 != 0;
  const std::string& path = file.hold(bytes.subspan(1));
  taken([&] {
    const data::Dataset set = hundred ? data::cifar100_file(path) : data::cifar10_file(path);
    const auto record = static_cast<std::size_t>(hundred ? 2 : 1) + 3 * 32 * 32;
    require(set.labels.size() * record + 1 == bytes.size(), "records get lost");
    require(set.images.size() == set.labels.size() * 3 * 32 * 32, "pixels get lost");
    for (const std::uint8_t label : set.labels) require(label < set.classes, "a label is out of range");
  });
}

void idx(Bytes bytes) {
  if (bytes.empty() || bytes[0] >= bytes.size()) return;
  static MemoryFile images, labels;
  const std::string& label_path = labels.hold(bytes.subspan(1, bytes[0]));
  const std::string& image_path = images.hold(bytes.subspan(1 + bytes[0]));
  taken([&] {
    const data::Dataset set = data::idx_files(image_path, label_path);
    require(set.labels.size() + 8 == bytes[0], "labels get lost");
    require(set.images.size() + 16 + 1 + bytes[0] == bytes.size(), "pixels get lost");
    for (const std::uint8_t label : set.labels) require(label < set.classes, "a label is out of range");
  });
}

void tuning_file(Bytes bytes) {
  static MemoryFile file;
  static const std::string header = tuning_header();
  std::string text(bytes.begin(), bytes.end());
  if (!text.empty() && text[0] % 2 != 0) text = header + text.substr(1);
  const auto* const first = reinterpret_cast<const std::uint8_t*>(text.data());
  const backends::cpu::tune::StoredTunings stored =
      backends::cpu::tune::read_tunings(file.hold({first, text.size()}));
  require(stored.ignored.empty() || stored.tunings.empty(), "what is ignored is used");
}

}  // namespace fusetape::fuzz
