#pragma once
#include <algorithm>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "cifar_options.hpp"

/// What resnet_cifar makes of its options: data and model; and how it judges.
namespace examples {

namespace ft = fusetape;

using Images = std::shared_ptr<const ft::data::Dataset>;

struct CifarData {
  Images train, test;
};

/// Images first … last − 1.
inline ft::data::Dataset part_of(const ft::data::Dataset& all, std::int64_t first, std::int64_t last) {
  ft::data::Dataset part{.height = all.height,
                         .width = all.width,
                         .channels = all.channels,
                         .classes = all.classes,
                         .mean = all.mean,
                         .stddev = all.stddev};
  part.images.assign(all.images.begin() + first * all.image_bytes(),
                     all.images.begin() + last * all.image_bytes());
  part.labels.assign(all.labels.begin() + first, all.labels.begin() + last);
  return part;
}

inline CifarData load_cifar(const CifarOptions& options) {
  const auto images = [&](ft::data::Split split, std::int64_t limit) {
    const bool train = split == ft::data::Split::train;
    if (options.data == "synthetic") {
      const std::int64_t count = limit > 0 ? limit : (train ? 10'000 : 2'000);
      return ft::data::synthetic_images({.count = count, .seed = train ? 1u : 2u});
    }
    ft::data::Dataset all = ft::data::cifar10(options.data, split);
    return limit > 0 && limit < all.count() ? part_of(all, 0, limit) : all;
  };
  const auto shared = [](ft::data::Dataset set) {
    return std::make_shared<const ft::data::Dataset>(std::move(set));
  };
  ft::data::Dataset train = images(ft::data::Split::train, options.limit_train);
  if (options.hold_out == 0) {
    return {.train = shared(std::move(train)),
            .test = shared(images(ft::data::Split::test, options.limit_test))};
  }
  const std::int64_t rest = train.count() - options.hold_out;
  if (rest < 1) {
    throw std::runtime_error("--hold-out " + std::to_string(options.hold_out) + " leaves none of " +
                             std::to_string(train.count()) + " images to train on");
  }
  return {.train = shared(part_of(train, 0, rest)), .test = shared(part_of(train, rest, train.count()))};
}

inline ft::nn::Function activation_of(const std::string& name) {
  if (name == "gelu") return ft::gelu;
  if (name == "silu") return ft::silu;
  if (name == "mish") return ft::mish;
  return name == "hardswish" ? ft::hardswish : ft::relu;
}

/// Some thousands of the images as the loader gives them, without augmentation.
inline ft::Tensor some_images(const Images& images) {
  ft::data::DataLoader loader(
      images, ft::data::DataLoaderOptions::evaluation(std::min<std::int64_t>(images->count(), 5000)));
  return loader.begin()->images;
}

inline std::unique_ptr<ft::nn::Module> make_model(const CifarOptions& options, const CifarData& data) {
  if (options.model != "resnet" && options.activation != "relu")
    throw std::runtime_error("--activation is of --model resnet, not of " + options.model);
  const std::int64_t width = width_of(options);
  if (options.model == "resnet9")
    return std::make_unique<ft::nn::ResNet9>(ft::nn::ResNet9::Options{.width = width});
  if (options.model == "airbench") {
    auto model = std::make_unique<ft::nn::Airbench>(ft::nn::Airbench::Options{.width = width});
    model->whiten(some_images(data.train));
    return model;
  }
  return std::make_unique<ft::nn::ResNet>(ft::nn::resnet_cifar(
      {.depth = options.depth, .width = width, .activation = activation_of(options.activation)}));
}

/// How many of the batch's labels the logits get right, as a scalar.
inline ft::Tensor count_correct(const ft::Tensor& logits, const ft::Tensor& labels) {
  return ft::sum(ft::cast(ft::equal(ft::argmax(logits), labels), ft::DType::f32));
}

/// The image {N, H, W, C} one pixel further on, down and right, or up and left; mirrored at the border.
inline ft::Tensor shifted(ft::Tensor x, bool forward) {
  for (const int axis : {1, 2}) {
    const std::int64_t size = x.size(axis);
    x = forward ? ft::concat({ft::slice(x, axis, 1, 2), ft::slice(x, axis, 0, size - 1)}, axis)
                : ft::concat({ft::slice(x, axis, 1, size), ft::slice(x, axis, size - 2, size - 1)}, axis);
  }
  return x;
}

/// Over an image, with 2 views its mirror image, too, with 6 both shifted one pixel in two directions, half
/// as much each.
inline ft::Tensor logits_of_views(ft::nn::Module& model, const ft::Tensor& images, std::int64_t views) {
  if (views == 1) return model(images);
  const auto both = [&](const ft::Tensor& x) { return model(x) + model(ft::flip(x, 2)); };
  if (views == 2) return both(images);
  return both(images) + (both(shifted(images, true)) + both(shifted(images, false))) * 0.5;
}

}  // namespace examples
