#pragma once
/// Everything that fusetape offers.
#include "fusetape/autograd.hpp"
#include "fusetape/data.hpp"
#include "fusetape/dtype.hpp"
#include "fusetape/error.hpp"
#include "fusetape/io.hpp"
#include "fusetape/models.hpp"
#include "fusetape/nn.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/optim.hpp"
#include "fusetape/runtime.hpp"
#include "fusetape/shape.hpp"
#include "fusetape/tensor.hpp"
