#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/plan/rules/group.hpp"

/// The fusion table: what may fuse. Whether a device can run it is the backend's word (`Backend::supports`).
namespace fusetape::plan {

/// Which nodes are taken already: a rule may only use free ones.
struct Cover {
  const Graph& graph;
  const std::vector<int>& group_of;  ///< by node; -1: free
  bool free(int node) const { return group_of[static_cast<std::size_t>(node)] < 0; }
};

/// Why a rule that nearly matched does not: worth telling where `reason` is set.
struct NearMiss {
  std::string reason;
  int value = -1;    ///< that stands in the way: its source line is shown
  int outside = -1;  ///< the node that stays out of the group for it; -1: the value's producer
};

/// The steps of the ladder (`compare_fusion --ladder`).
enum class Family : std::uint8_t {
  pointwise,
  convolution,
  batch_norm,
  residual,
  optimizer,
  transform,
  memory
};

/// What else belongs to a row's group beside what its match function always asks for, as bits.
using Parts = unsigned;
namespace with {
constexpr Parts norm = 1, add = 2, mask_from_x = 4, clipping = 8;
constexpr Parts pair = 16;  ///< two groups that are whole without each other: nobody misses the pair
}  // namespace with

/// The op at which a rule is tried, or a kind of ops.
struct Anchor {
  constexpr Anchor(std::nullptr_t = nullptr) {}
  constexpr Anchor(const core::OpDef* one) : op(one) {}
  constexpr Anchor(bool (*of_the_kind)(const core::OpDef&)) : kind(of_the_kind) {}
  bool fits(const core::OpDef& other) const { return kind != nullptr ? kind(other) : op == &other; }

  const core::OpDef* op = nullptr;
  bool (*kind)(const core::OpDef&) = nullptr;
};

struct Rule {
  std::string_view name;
  Family family = Family::pointwise;
  Anchor anchor;
  /// Fills name, nodes and roles. nullopt with a near miss, or with an empty one: no match at all.
  std::optional<Group> (*match)(const Cover& cover, int node, Parts parts, NearMiss& miss) = nullptr;
  Parts parts = 0;
};

std::span<const Rule> fusion_rules();

/// Which rows of the table are on, as bits by row.
using RuleSet = std::uint64_t;
constexpr RuleSet all_rules = ~RuleSet{0};
const char* name_of(Family family);
/// The rows of this name or family; 0: none.
RuleSet rules_named(std::string_view name);
bool has_rule(RuleSet set, std::string_view name);
/// The best of every op by itself: what "unfused" means.
RuleSet in_place_only();

}  // namespace fusetape::plan
