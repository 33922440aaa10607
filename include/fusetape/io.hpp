#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fusetape/data.hpp"
#include "fusetape/nn.hpp"
#include "fusetape/schedule.hpp"
#include "fusetape/tensor.hpp"

/// Files: the safetensors format, and checkpoints of a whole training run in it.
namespace fusetape::io {

using Metadata = std::map<std::string, std::string>;

/// The contents of a .safetensors file.
struct TensorFile {
  std::map<std::string, Tensor> tensors;
  Metadata metadata;
  std::vector<std::string> skipped{};  ///< by load_tensors: names of tensors whose dtype is none of ours
};

/// What becomes of a tensor whose dtype this library does not have.
enum class ForeignDType : std::uint8_t {
  refuse,   ///< an Error that names it
  skip,     ///< it is left out, and its name is in TensorFile::skipped
  convert,  ///< I8, I16, I32, U16, U32, U64 become i64, F8_E4M3 and F8_E5M2 f32, exactly; others are refused
};

struct LoadTensorsOptions {
  std::vector<std::string> names{};  ///< only these, each of which must be there; empty: all
  ForeignDType foreign = ForeignDType::refuse;
};

/// Writes to a temporary file beside `path` and renames it: a crash leaves the old file or the new one, never
/// a half. A symbolic link is written through. What killed saves to `path` left beside it is removed.
void save_tensors(const std::string& path, const TensorFile& file, Location at = Location::current());
/// Checks everything before it makes a tensor; an Error names the file and what is wrong with it.
TensorFile load_tensors(const std::string& path, const LoadTensorsOptions& options = {},
                        Location at = Location::current());

/// Replaces a file's contents, in the same way; makes the file where there is none.
void replace_file(const std::string& path, std::string_view contents, Location at = Location::current());
/// Removes the temporary files that killed saves to `path` left, as its next save would. What a living
/// process writes there stays. Throws nothing: what cannot be removed stays, too.
void remove_abandoned(const std::string& path);

/// What a checkpoint holds; null parts are left out. Where a run has several optimizers (Muon for the filters
/// and SGD for the rest, or a GAN's two), they and their schedules have names, without a dot. Several models
/// are the children of one Module.
struct Training {
  nn::Module* model = nullptr;
  optim::Optimizer* optimizer = nullptr;
  optim::Schedule* schedule = nullptr;
  data::DataLoader* loader = nullptr;
  bool generator = true;                     ///< of rand, randn and dropout on this thread
  optim::LossScaler* loss_scaler = nullptr;  ///< one only, whatever the optimizers
  std::vector<std::pair<std::string, optim::Optimizer*>> optimizers = {};  ///< in place of `optimizer`
  std::vector<std::pair<std::string, optim::Schedule*>> schedules = {};    ///< in place of `schedule`
};

/// Everything that a run needs to go on with the same bits. `extra` is the caller's (its keys come back from
/// the load).
void save_checkpoint(const std::string& path, const Training& training, const Metadata& extra = {},
                     Location at = Location::current());

/// What becomes of settings (momentum, a schedule's kind and length, a loader's batch, …) that are not the
/// same in a checkpoint and in the parts that it is loaded into.
enum class OnMismatch : std::uint8_t {
  refuse,       ///< an Error with both values
  keep_ours,    ///< the parts stay as they were made, learning rate included: for fine-tuning
  take_theirs,  ///< the parts become what the file says; a loader cannot, and must agree
};

struct LoadCheckpointOptions {
  OnMismatch settings = OnMismatch::refuse;
  /// A load that restores an optimizer, and does not keep_ours, takes the kernel_choices() of the run, where
  /// the file has them: it goes on to the bit on such a CPU, with as many threads. False: kernels are chosen
  /// anew.
  bool kernels = true;
};

/// Restores the parts that are given. Names, shapes, dtypes and settings must agree; where they do not, the
/// Error lists what is missing, unexpected or different, and nothing was changed. Reads every format that
/// this library ever wrote; the first holds no settings.
Metadata load_checkpoint(const std::string& path, const Training& training,
                         const LoadCheckpointOptions& options = {}, Location at = Location::current());

}  // namespace fusetape::io
