#include "base/nearest.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
TEST(EditDistance, CountsSingleEdits) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("port", "port"), 0);
  EXPECT_EQ(edit_distance("prot", "port"), 1);  // a swap
  EXPECT_EQ(edit_distance("model-pth", "model-path"), 1);
}

TEST(NearestNames, NearestFirstAndNothingFarAway) {
  const std::vector<std::string> known{"--port", "--host", "--model-path"};
  EXPECT_EQ(nearest_names("--prt", known), (std::vector<std::string>{"--port", "--host"}));
  EXPECT_TRUE(nearest_names("--speculative", known).empty());
}
}  // namespace
}  // namespace nibble
