#pragma once
/// Networks for images {N, H, W, C}, a page each.
#include "fusetape/models/airbench.hpp"
#include "fusetape/models/conv_norm.hpp"
#include "fusetape/models/convnext.hpp"
#include "fusetape/models/mobilenet.hpp"
#include "fusetape/models/resnet.hpp"
#include "fusetape/models/resnet9.hpp"
#include "fusetape/models/unet.hpp"
#include "fusetape/models/vgg.hpp"
#include "fusetape/models/vit.hpp"
#include "fusetape/models/wide_resnet.hpp"
