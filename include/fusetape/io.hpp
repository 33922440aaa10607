#pragma once
#include <map>
#include <string>

#include "fusetape/data.hpp"
#include "fusetape/nn.hpp"
#include "fusetape/optim.hpp"
#include "fusetape/tensor.hpp"

/// Files: the safetensors format, and checkpoints of a whole training run in it.
namespace fusetape::io {

using Metadata = std::map<std::string, std::string>;

/// The contents of a .safetensors file.
struct TensorFile {
  std::map<std::string, Tensor> tensors;
  Metadata metadata;
};

/// Writes to a temporary file beside `path` and renames it: a crash leaves the old file or the new one, never
/// a half.
void save_tensors(const std::string& path, const TensorFile& file, Location at = Location::current());
/// Checks everything before it makes a tensor; an Error names the file and what is wrong with it.
TensorFile load_tensors(const std::string& path, Location at = Location::current());

/// What a checkpoint holds; null parts are left out.
struct Training {
  nn::Module* model = nullptr;
  optim::Optimizer* optimizer = nullptr;
  optim::Schedule* schedule = nullptr;
  data::DataLoader* loader = nullptr;
  bool generator = true;  ///< of rand, randn and dropout on this thread
  optim::LossScaler* loss_scaler = nullptr;
};

/// Everything that a run needs to go on with the same bits. `extra` is the caller's (its keys come back from
/// the load).
void save_checkpoint(const std::string& path, const Training& training, const Metadata& extra = {},
                     Location at = Location::current());
/// Restores the parts that are given. Names, shapes and dtypes must agree; where they do not, the Error lists
/// what is missing, unexpected or different, and nothing was changed.
Metadata load_checkpoint(const std::string& path, const Training& training,
                         Location at = Location::current());

}  // namespace fusetape::io
