#include "backends/cuda/update/commit.hpp"

#include <cstdint>
#include <vector>

#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/commit.hpp"
#include "backends/cuda/tensor_list.hpp"

namespace fusetape::backends::cuda::update {
namespace {

class CommitKernel final : public DeviceKernel {
 public:
  CommitKernel(const plan::Graph& graph, std::span<const plan::Commit> commits, DeviceApi& device,
               std::shared_ptr<Faults> faults)
      : DeviceKernel(graph, device), faults_(std::move(faults)) {
    name = "cuda:commit";
    for (const plan::Commit& commit : commits) {
      const std::int64_t bytes = graph.value(commit.value).bytes();
      (bytes % 4 == 0 ? words_ : bytes_).push_back({commit, bytes});
    }
  }

  bool can_fail() const override { return false; }

  void run(const KernelArgs& args) override {
    copy<std::uint32_t>(args, words_);
    copy<std::uint8_t>(args, bytes_);
  }

 private:
  struct Sized {
    plan::Commit commit;
    std::int64_t bytes;
  };

  template <class Word>
  void copy(const KernelArgs& args, const std::vector<Sized>& list) const {
    using K = Commit<Word>;
    typename K::Args arguments{};
    arguments.fault = faults_->place();
    TensorList<K> tensors(arguments, {{piece(faults_->place(), 1)}, {}});
    for (const Sized& each : list) {
      const int value = each.commit.value, input = each.commit.input;  // clang captures no structured binding
      tensors.add(each.bytes / static_cast<std::int64_t>(sizeof(Word)),
                  {{whole(args, value)}, {whole(args, input)}}, [&](std::int64_t first) {
                    return typename K::Entry{
                        .from = args.in<Word>(value) + first, .to = args.out<Word>(input) + first, .at = {}};
                  });
    }
    for (const auto& part : tensors.parts()) launch<K>({.x = part.blocks}, part.args, part.access);
  }

  std::vector<Sized> words_, bytes_;  ///< by whether their size is one of whole words
  std::shared_ptr<Faults> faults_;
};

}  // namespace

std::unique_ptr<Kernel> make_commit(const plan::Graph& graph, std::span<const plan::Commit> commits,
                                    DeviceApi& device, std::shared_ptr<Faults> faults) {
  return std::make_unique<CommitKernel>(graph, commits, device, std::move(faults));
}

}  // namespace fusetape::backends::cuda::update
