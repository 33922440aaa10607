#pragma once
#include "core/plan/backend.hpp"

/// The backends, and the names that they know the planner's interface by.
namespace fusetape::backends {

using plan::Arithmetic;
using plan::Backend;
using plan::Kernel;
using plan::KernelArgs;
using plan::NormPart;
using plan::Replay;
using plan::Speed;
using plan::Support;

std::unique_ptr<Backend> make_reference_backend();
std::unique_ptr<Backend> make_cpu_backend();
std::unique_ptr<Backend> make_null_backend();
/// Throws where this build has no CUDA, or this machine no device for it.
std::unique_ptr<Backend> make_cuda_backend();

/// Runs the group's nodes one by one through their reference loops. The oracle, and every backend's last
/// candidate.
std::unique_ptr<Kernel> make_reference_kernel(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends
