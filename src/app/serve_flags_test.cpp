#include "app/serve_flags.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "app/serve_flag_table.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
struct Parsed {
  ServeFlags flags;
  std::vector<std::string> problems;
};

Parsed parse(std::vector<std::string> args) {
  Parsed out;
  out.flags = parse_serve_flags(args, out.problems);
  return out;
}

// A value that a flag of that type takes, unlike any fallback.
std::string sample(const Flag& flag) {
  static const std::map<std::string, std::string> kChoices{{"reasoning-parser", "none"}, {"tool-call-parser", "none"}, {"grammar-backend", "none"}, {"sampling-defaults", "openai"}, {"log-level", "error"}, {"log-level-http", "error"},
                                                           {"log-format", "json"}, {"log-requests-format", "json"}, {"log-requests-level", "1"}, {"speculative-adaptive", "off"}, {"per-request-spec-decode-metrics", "summary"}, {"schedule-policy", "lpm"}, {"inject-fault", "lost:3"}};
  if (const auto found = kChoices.find(flag.name); found != kChoices.end()) return found->second;
  switch (flag.type) {
    case Flag::Type::integer: return "17";
    case Flag::Type::number: return "0.5";
    case Flag::Type::numbers: return "0.5,1,2";
    case Flag::Type::json: return R"({"a": 1})";
    default: return "word";
  }
}

TEST(ServeFlags, EveryFlagOfTheTableMeetsItsFate) {
  std::set<std::string> names;
  for (const Flag& flag : serve_flag_table()) {
    SCOPED_TRACE(flag.name);
    EXPECT_TRUE(names.insert(flag.name).second) << "listed twice";
    std::string underscored = flag.name;
    std::replace(underscored.begin(), underscored.end(), '-', '_');
    std::vector<std::vector<std::string>> spellings;
    if (flag.type == Flag::Type::boolean) {
      spellings = {{"--" + std::string(flag.name)}, {"--" + underscored}};
    } else {
      spellings = {{"--" + std::string(flag.name), sample(flag)}, {"--" + std::string(flag.name) + "=" + sample(flag)}, {"--" + underscored, sample(flag)}};
    }
    for (const auto& args : spellings) {
      const Parsed parsed = parse(args);
      switch (flag.fate) {
        case Flag::Fate::use:
          EXPECT_TRUE(parsed.problems.empty()) << parsed.problems.front();
          EXPECT_EQ(parsed.flags.text(flag.name), flag.type == Flag::Type::boolean ? "true" : sample(flag));
          EXPECT_EQ(parsed.flags.given.size(), 1u);
          break;
        case Flag::Fate::ignore:
          EXPECT_TRUE(parsed.problems.empty());
          ASSERT_EQ(parsed.flags.ignored.size(), 1u);
          EXPECT_EQ(parsed.flags.ignored[0], "flag --" + std::string(flag.name) + " is accepted for compatibility and has no effect: " + flag.help);
          break;
        case Flag::Fate::refuse:
          ASSERT_EQ(parsed.problems.size(), 1u);
          EXPECT_TRUE(parsed.problems[0].starts_with("error: --" + std::string(flag.name))) << parsed.problems[0];
          EXPECT_NE(parsed.problems[0].find(flag.help), std::string::npos);
          break;
      }
    }
    if (flag.type == Flag::Type::boolean && flag.fate == Flag::Fate::use) EXPECT_EQ(parse({"--" + std::string(flag.name), "--no-" + std::string(flag.name)}).flags.text(flag.name), "false");
  }
}

TEST(ServeFlags, FamiliesAreKnownByTheirBeginning) {
  EXPECT_EQ(parse({"--mm-max-concurrent-calls", "4", "--port", "1"}).flags.ignored.size(), 1u);
  EXPECT_EQ(parse({"--mm-max-concurrent-calls", "4", "--port", "1"}).flags.integer("port"), 1);
  EXPECT_EQ(parse({"--moe-runner-backend", "triton"}).flags.ignored.size(), 1u);
  EXPECT_EQ(parse({"--disaggregation-mode", "prefill"}).problems.size(), 1u);
}

TEST(ServeFlags, IntegersTakeSuffixes) {
  for (const auto& [text, value] : std::vector<std::pair<std::string, int64_t>>{{"25.6k", 25600}, {"4Ki", 4096}, {"1M", 1000000}, {"0.5k", 500}, {"7", 7}}) {
    EXPECT_EQ(parse({"--max-total-tokens", text}).flags.integer("max-total-tokens"), value) << text;
  }
  for (const char* text : {"k", "1.5", "1.5Ki", "4ki", "", "1e3", "99999999999999999999"}) EXPECT_EQ(parse({"--max-total-tokens", text}).problems.size(), 1u) << text;
}

TEST(ServeFlags, BadValuesAreAllNamedAtOnce) {
  const Parsed parsed = parse({"--port", "70000", "--reasoning-parser", "qwen", "--mm-process-config", "[1]", "--watchdog-timeout", "soon", "--bucket-inter-token-latency", "2,1", "--log-utc=1"});
  ASSERT_EQ(parsed.problems.size(), 6u);
  for (const std::string& problem : parsed.problems) EXPECT_TRUE(problem.starts_with("error: --")) << problem;
}

TEST(ServeFlags, UnknownFlagsNameTheirNeighbours) {
  const Parsed parsed = parse({"--prt", "1"});
  ASSERT_FALSE(parsed.problems.empty());
  EXPECT_NE(parsed.problems[0].find("did you mean --port"), std::string::npos) << parsed.problems[0];
  EXPECT_FALSE(parse({"--served"}).problems.empty());  // a prefix is no abbreviation
}

TEST(ServeFlags, OneDeviceAndLosslessSpeculation) {
  EXPECT_TRUE(parse({"--tp-size", "1", "--dp-size=1"}).problems.empty());
  EXPECT_EQ(parse({"--tp-size", "2"}).problems.size(), 1u);
  EXPECT_TRUE(parse({"--speculative-accept-threshold-single", "1.0"}).problems.empty());
  EXPECT_EQ(parse({"--speculative-accept-threshold-acc=0.9"}).problems.size(), 1u);
}

TEST(ServeFlags, SecretsAreNotShown) {
  const Parsed parsed = parse({"--api-key", "hush"});
  ASSERT_EQ(parsed.flags.given.size(), 1u);
  EXPECT_EQ(parsed.flags.given[0], "--api-key ***");
}

TEST(ServeFlags, HelpHasEveryUsedFlagInEightyColumns) {
  const std::string help = serve_help(false), all = serve_help(true);
  for (const Flag& flag : serve_flag_table()) {
    const std::string entry = "  --" + std::string(flag.name) + " ";
    EXPECT_EQ(help.find(entry) != std::string::npos, flag.fate == Flag::Fate::use) << flag.name;
    EXPECT_EQ(all.find(entry) != std::string::npos, flag.fate != Flag::Fate::refuse) << flag.name;
  }
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 80u) << line;
}

TEST(ServeFlags, TheModelCardsCommandLinesParse) {
  const auto path = shared_data("reference/model-card.txt");
  if (!path) GTEST_SKIP() << "shared/reference is not beside the repository";
  std::ifstream file(*path);
  int commands = 0;
  std::vector<std::string> args;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    for (const char* start : {"sglang serve", "python -m sglang.launch_server"}) {
      if (const size_t at = line.find(start); at != std::string::npos && (line.ends_with("\\") || line.find("--model-path") != std::string::npos)) {
        inside = true;
        args.clear();
        line = line.substr(at + std::string(start).size());
      }
    }
    if (!inside) continue;
    inside = line.ends_with("\\");
    if (inside) line.pop_back();
    std::istringstream words(line);
    for (std::string word; words >> word;) args.push_back(word);
    if (inside) continue;
    ++commands;
    const Parsed parsed = parse(args);
    EXPECT_TRUE(parsed.problems.empty()) << parsed.problems.front();
    EXPECT_EQ(parsed.flags.text("model-path"), "AxionML/Gemma-4-12B-NVFP4");
  }
  EXPECT_GE(commands, 3);
}
}  // namespace
}  // namespace nibble
