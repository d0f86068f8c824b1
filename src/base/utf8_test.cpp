#include "base/utf8.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
TEST(Utf8, OneReplacementPerMaximalSubpart) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82x"), r + "x");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF"), r + r);
  EXPECT_EQ(replace_invalid_utf8("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(replace_invalid_utf8("a\xF0\x9F\x98\x80z"), "a\xF0\x9F\x98\x80z");
}

TEST(Utf8, EncodesWhatItDecodes) {
  for (uint32_t c = 0; c <= 0x10ffff; ++c) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Step step = decode_utf8(text, 0);
    ASSERT_TRUE(step.valid);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.length, text.size());
    ASSERT_EQ(incomplete_utf8_tail(text), 0u);
    const std::string_view cut = std::string_view(text).substr(0, text.size() - 1);
    ASSERT_EQ(incomplete_utf8_tail(cut), cut.size());
  }
}

TEST(Utf8, AnImpossibleTailIsNotHeldBack) {
  EXPECT_EQ(incomplete_utf8_tail("abc"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("\xFF"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("\xE0\x80"), 0u);  // overlong: cannot become a character
  EXPECT_EQ(incomplete_utf8_tail("\xE2\x82"), 2u);
}
}  // namespace
}  // namespace nibble
