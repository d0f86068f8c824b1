#include "eval/grading.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
struct Vector {
  const char* gold;
  const char* answer;
};

TEST(Boxed, LastOneCounts) {
  EXPECT_EQ(extract_boxed("so \\boxed{3} and \\boxed{4}."), "4");
  EXPECT_EQ(extract_boxed("\\boxed{\\frac{1}{2}}"), "\\frac{1}{2}");
  EXPECT_EQ(extract_boxed("\\boxed{}"), "");
  EXPECT_EQ(extract_boxed("**42**"), std::nullopt);
  EXPECT_EQ(extract_boxed("\\boxed{5} or \\boxed 7"), std::nullopt);
  EXPECT_EQ(extract_boxed("\\boxed 5"), std::nullopt);
  EXPECT_EQ(extract_boxed("\\boxed {7}"), std::nullopt);
  EXPECT_EQ(extract_boxed("\\boxed{7"), std::nullopt);
  EXPECT_EQ(extract_boxed("\\fbox{7}"), std::nullopt);
}

TEST(Grading, PublishedVectorsThatAreRight) {
  const Vector vectors[] = {
      {"18", "18"}, {"18", "18.0"}, {"18", "18.00"}, {"18", "$18"}, {"18", "\\$18"}, {"18", "18\\text{ dollars}"}, {"18", "\\text{18}"}, {"70000", "70,000"}, {"70000", "70{,}000"},
      {"70000", "70 000"}, {"5", "5%"}, {"5", "5\\%"}, {"16", "016"}, {"-3", "-3"}, {"3", "x=3"}, {"3", "x = 3"}, {"3", "\\frac{6}{2}"}, {"3", "6/2"}, {"3", "3."}, {"3", "3^\\circ"},
      {"3", "3 apples"}, {"45", "45 minutes"}, {"25", "25 cents"}, {"1000", "10^3"}, {"1000", "1 \\times 10^3"}, {"5", "\\mathbf{5}"}, {"120", "$120.00"}, {"3", "\\(3\\)"}, {"460", "\\$460"},
      {"5", "5 \\text{ m/s}"}, {"3", "3 + 0"}, {"3", "(3)"}, {"3", "[3]"}, {"3", "3\\,\\text{hours}"}, {"3", "3th"}};
  for (const Vector& v : vectors) EXPECT_TRUE(same_number(v.gold, v.answer)) << v.gold << " from " << v.answer << " as " << canonical_answer(v.answer);
}

TEST(Grading, PublishedVectorsThatAreWrong) {
  const Vector vectors[] = {{"18", "18 dollars"}, {"70000", "70\\,000"}, {"5", "0.05"}, {"3", "three"}, {"10", "10 - 12"}, {"10", "10, 12"}, {"12", "2:00"}, {"5", "5!"}, {"1000", "1e3"},
                            {"5", "5.0000000001"}, {"5", ""}, {"460", "€460"}, {"64", "**64**"}, {"64", "64,"}, {"64", "64)"}, {"3", "3 hours 0 minutes"}, {"25", "1/4"}, {"1", "A"},
                            {"3", "\\approx 3"}, {"3", "= 3"}, {"3", "3~\\text{hours}"}};
  for (const Vector& v : vectors) EXPECT_FALSE(same_number(v.gold, v.answer)) << v.gold << " from " << v.answer << " as " << canonical_answer(v.answer);
}

TEST(Grading, DocumentedDifferencesStay) {
  EXPECT_FALSE(same_number("3", "3,3"));
  EXPECT_FALSE(same_number("3", "\\fbox{3}"));
  EXPECT_FALSE(same_number("1", "1:1"));
  EXPECT_TRUE(same_number("1250", "\\text{1,250}"));
}

TEST(Grading, HostileAnswersEndQuickly) {
  EXPECT_FALSE(same_number("1", "9^{64}^{64}"));
  EXPECT_FALSE(same_number("1", "((9^{64})^{64})^{64}"));
  EXPECT_FALSE(same_number("1", std::string(100, '(') + "1" + std::string(100, ')')));
  EXPECT_FALSE(same_number("1", std::string(100000, '-') + "1"));
  EXPECT_FALSE(same_number("1", "1/0"));
  EXPECT_FALSE(same_number("1", "0^{-1}"));
  EXPECT_TRUE(same_number("0.125", "2^{-3}"));
  EXPECT_TRUE(same_number("-4", "--4 - 8"));
}
}  // namespace
}  // namespace nibble
