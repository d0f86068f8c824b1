#include "base/json_shape.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
std::string said(std::string_view text, int max_depth = kMaxJsonDepth) {
  const auto shape = check_json_shape(text, max_depth);
  return shape ? "" : shape.error().message;
}
std::string object(int64_t members) {
  std::string out = "{";
  for (int64_t i = 0; i < members; ++i) out += fmt::format("{}\"{}\": [1, 2]", i ? "," : "", i);
  return out + "}";
}

TEST(JsonShape, LevelsAreCountedOutsideOfStrings) {
  EXPECT_EQ(said(R"({"a": [[1]], "b": "[[[[\"[[[["})", 3), "");
  EXPECT_EQ(said(R"({"a": [[[1]]]})", 3), "nests 4 levels deep, at most 3 are allowed");
  EXPECT_EQ(said(std::string(1'000'000, '[')), "nests 1000000 levels deep, at most 256 are allowed");
  EXPECT_EQ(said("]]]]}}}}[{"), "");  // no JSON; that is the parser's to say
}

TEST(JsonShape, ObjectsMayHaveManyMembersButNotTooMany) {
  EXPECT_EQ(said(object(kMaxJsonMembers)), "");
  EXPECT_NE(said(object(kMaxJsonMembers + 2)).find("at most 10000"), std::string::npos);
  std::string several = "[";
  for (int i = 0; i < 5; ++i) several += object(kMaxJsonMembers / 2) + ",";
  EXPECT_NE(said(several).find("too many members"), std::string::npos);
  EXPECT_EQ(said("[" + std::string(200'000, ',') + "]"), "");  // elements of an array cost nothing
  std::string small = "[";
  for (int i = 0; i < 100'000; ++i) small += R"({"role": "user", "content": "a", "name": "b"},)";
  EXPECT_EQ(said(small), "");
}
}  // namespace
}  // namespace nibble
