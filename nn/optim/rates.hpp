#pragma once
#include <string>

#include "fusetape/schedule.hpp"

/// The formulas of the schedules, and the way back from what a checkpoint says of one.
namespace fusetape::optim {

using Rate = Schedule::Rate;

/// What a schedule is: to the optimizer functions of the step index, to a checkpoint a name and numbers.
struct Course {
  Rate rate;
  Schedule::Momentum momentum = nullptr;  ///< empty: it stays
  std::string kind;
  Settings settings;
};

Course step_course(double base, const StepLROptions& options, Location at);
Course multi_step_course(double base, const MultiStepLROptions& options, Location at);
Course exponential_course(double base, const ExponentialLROptions& options, Location at);
Course polynomial_course(double base, const PolynomialLROptions& options, Location at);
Course cosine_course(double base, const CosineLROptions& options, Location at);
Course restarts_course(double base, const CosineRestartsLROptions& options, Location at);
Course cyclic_course(const CyclicLROptions& options, Location at);
Course one_cycle_course(const OneCycleLROptions& options, Location at);
Course warmup_course(const Course& then, const LinearWarmupOptions& options, Location at);

struct CoursePart {
  Course course;
  std::int64_t steps = 0;
};
Course sequence_course(const std::vector<CoursePart>& parts, Location at);

Course course_of(const std::string& kind, const Settings& settings, Location at);

}  // namespace fusetape::optim
