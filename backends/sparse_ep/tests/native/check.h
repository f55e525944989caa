// The little that native tests need: checks that go on after a failure, and an exit code.
#pragma once

#include <cmath>
#include <cstdio>

static int failures = 0;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                               \
    }                                                                           \
  } while (0)

#define CHECK_NEAR(actual, expected, tolerance)                                               \
  do {                                                                                        \
    const double a_ = (actual), e_ = (expected);                                              \
    if (!(std::fabs(a_ - e_) <= (tolerance)) && a_ != e_) {                                   \
      std::printf("%s:%d: %s is %.9g, expected %.9g\n", __FILE__, __LINE__, #actual, a_, e_); \
      ++failures;                                                                             \
    }                                                                                         \
  } while (0)
