#include "app/config_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "app/serve_flags.h"

namespace nibble {
namespace {
std::string shown(std::string_view text) {
  const auto entries = parse_config(text);
  if (!entries) return "error: " + entries.error().message;
  std::string out;
  for (const ConfigEntry& e : *entries) out += e.name + (e.is_switch ? "?" : "=") + e.value + ";";
  return out;
}

TEST(Config, YamlAndJsonSayTheSame) {
  const std::string want = "model-path=/m/a b;port=8000;log-requests?true;api-key=true;limit-mm-data-per-request={\"image\":4};";
  EXPECT_EQ(shown("---\n# where\nmodel-path: /m/a b   # the model\nport: 8000\r\n\nlog-requests: true\napi-key: \"true\"\nlimit-mm-data-per-request: {\"image\":4}\n"), want);
  EXPECT_EQ(shown(R"( {"model-path": "/m/a b", "port": 8000, "log-requests": true, "api-key": "true", "limit-mm-data-per-request": {"image": 4}} )"), want);
  EXPECT_EQ(shown("a: 'x # y' # z\nb: x#y\nc: \"q\\\"r\"\nd: http://h:1/\ne: \"\"\n"), "a=x # y;b=x#y;c=q\"r;d=http://h:1/;e=;");
  EXPECT_EQ(shown(""), "");
  EXPECT_EQ(shown("# nothing\n"), "");
}

TEST(Config, WhatIsNotPlainIsRefusedWithItsLine) {
  EXPECT_EQ(shown("port: 1\nhosts:\n  - a\n"), "error: line 2: hosts has no value");
  EXPECT_EQ(shown("port: 1\n  nested: 2\n"), "error: line 2: lists and nesting are not supported; one name: value a line");
  EXPECT_EQ(shown("- port\n"), "error: line 1: lists and nesting are not supported; one name: value a line");
  EXPECT_EQ(shown("port 1\n"), "error: line 1: 'port 1', wanted name: value");
  EXPECT_EQ(shown("key: \"open\n"), "error: line 1: a quote is not closed, or something follows it");
  EXPECT_EQ(shown("{\"a\": 1").substr(0, 6), "error:");
  EXPECT_EQ(shown("{} {}").substr(0, 6), "error:");
}

TEST(Config, TheCommandLineWinsWhereverItStands) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "nibble_config_test.yaml";
  std::ofstream(file) << "port: 1\nlog-utc: true\nmax_connections: 5\n";
  for (const bool first : {false, true}) {
    std::vector<std::string> args{"--port", "2"}, config{"--config", file.string()};
    args.insert(first ? args.begin() : args.end(), config.begin(), config.end());
    std::vector<std::string> problems;
    const ServeFlags flags = parse_serve_flags(args, problems);
    EXPECT_TRUE(problems.empty());
    EXPECT_EQ(flags.integer("port"), 2);
    EXPECT_EQ(flags.integer("max-connections"), 5);
    EXPECT_TRUE(flags.flag("log-utc"));
  }
  std::ofstream(file) << "prt: 1\nconfig: x\n";
  std::vector<std::string> problems;
  parse_serve_flags(std::vector<std::string>{"--config=" + file.string()}, problems);
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_NE(problems[0].find("--prt: unknown flag"), std::string::npos);
  std::filesystem::remove(file);
}
}  // namespace
}  // namespace nibble
