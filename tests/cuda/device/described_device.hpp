#pragma once
#include <cudnn_frontend.h>

#include <memory>

namespace fusetape::tests {

/// An H100, in the words of cuDNN 9.19; null where this cuDNN wants others.
std::shared_ptr<const cudnn_frontend::DeviceProperties> hopper();

bool there_is_a_driver();

}  // namespace fusetape::tests
