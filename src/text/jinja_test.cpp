#include "text/jinja.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
using json = nlohmann::ordered_json;

std::string render(std::string_view source, const json& variables = json::object()) {
  auto parsed = JinjaTemplate::parse(source);
  if (!parsed) return "syntax: " + parsed.error().message;
  auto out = parsed->render(variables, json::object());
  return out ? out->text : "error: " + out.error().message;
}

// Expected values are what jinja2 3.1 prints.
TEST(Jinja, PrintsAsPython) {
  EXPECT_EQ(render("{{ none }} {{ true }} {{ x }}|"), "None True |");
  EXPECT_EQ(render("{{ 1.0 }} {{ 1e-7 }} {{ 1e16 }} {{ 0.1 }} {{ -0.0 }} {{ 123456.789 }}"), "1.0 1e-07 1e+16 0.1 -0.0 123456.789");
  EXPECT_EQ(render("{{ ['a', 1, none, {'k': \"it's\"}] }}"), "['a', 1, None, {'k': \"it's\"}]");
  EXPECT_EQ(render("{{ (1,) }} {{ 'a\\n' | list }}"), "(1,) ['a', '\\n']");
  EXPECT_EQ(render("{{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ true + 1 }} {{ 1 ~ 'x' }}"), "3.5 -4 2 1024 2 1x");
}

TEST(Jinja, WhiteSpaceControl) {
  EXPECT_EQ(render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(render("a \n {%- if true -%} \n b \n {%- endif -%} \n c"), "abc");
  EXPECT_EQ(render("  {{ 1 }}\n  {# note #}\n x"), "  1\n x");
  EXPECT_EQ(render("a\n  {%+ if true +%}\nb{% endif %}"), "a\n  \nb");
  EXPECT_EQ(render("x{{- ' y ' -}}  z"), "x y z");
}

TEST(Jinja, Scoping) {
  EXPECT_EQ(render("{% set x = 1 %}{% for i in [1, 2] %}{% set x = i + 10 %}{{ x }},{% endfor %}{{ x }}"), "11,12,1");
  EXPECT_EQ(render("{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}"), "2");
  EXPECT_EQ(render("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"), "6");
  EXPECT_EQ(render("{% macro f(a, b=2) %}{{ a }}{{ b }}{{ g }}{{ l }}{% endmacro %}{% set g = 'G' %}{% for l in [9] %}{{ f(1) }}{{ f(b=5, a=4) }}{% endfor %}"), "12G45G");
  EXPECT_EQ(render("{% macro a(n) %}{{ n }}{% if n %}{{ b(n - 1) }}{% endif %}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(3) }}"), "3210");
}

TEST(Jinja, LoopsAndTheirVariable) {
  EXPECT_EQ(render("{% for k, v in {'b': 1, 'A': 2} | dictsort %}{{ k }}{{ v }}{{ ',' if not loop.last }}{% endfor %}"), "A2,b1");
  EXPECT_EQ(render("{% for x in [3, 1, 2] if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %}"), "1:3 2:2 ");
  EXPECT_EQ(render("{% for x in [] %}{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(render("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "0134");
  EXPECT_EQ(render("{% for i in [1, [2, [3]]] recursive %}{{ loop(i) if i is not number else i }}{% endfor %}"), "123");
}

TEST(Jinja, ItemsMethodsAndUndefined) {
  const json v = {{"d", {{"items", 5}, {"a", nullptr}}}, {"s", "h\u00e9llo"}};
  EXPECT_EQ(render("{{ d['items'] }} {{ d.a }} {{ d.get('z', 7) }} {{ d.z is defined }} {{ d['values'] is defined }}", v), "5 None 7 False True");
  EXPECT_EQ(render("{{ d.items is mapping }} {{ s[1] }} {{ s[::-1] }} {{ s[-2:] }} {{ s.split('l')[0] }}", v), "False \u00e9 oll\u00e9h lo h\u00e9");
  EXPECT_TRUE(render("{{ x.y }}").starts_with("error")) << render("{{ x.y }}");
  EXPECT_TRUE(render("{{ x + 1 }}").starts_with("error"));
  EXPECT_TRUE(render("{{ 'a' + none }}").starts_with("error"));
  EXPECT_TRUE(render("{{ 'a' < 1 }}").starts_with("error"));
  EXPECT_EQ(render("{{ x == y }} {{ x | length }} {{ x | default('d') }} {{ '' | default('e', true) }} {{ 1 in x }}"), "True 0 d e False");
}

TEST(Jinja, FiltersAndTests) {
  EXPECT_EQ(render("{{ ['string', 'null'] | upper }} {{ 'stra\u00dfe' | upper }} {{ none | trim }}"), "['STRING', 'NULL'] STRASSE None");
  EXPECT_EQ(render("{{ ['a', 'b'] | map('upper') | join('-') }} {{ [{'k': 1}, {'k': 2}] | map(attribute='k') | list }}"), "A-B [1, 2]");
  EXPECT_EQ(render("{{ [1, 2, 3] | select('odd') | list }} {{ [{'a': 1}, {}] | selectattr('a', 'defined') | list }}"), "[1, 3] [{'a': 1}]");
  EXPECT_EQ(render("{{ {'a': [1, 'x\"', none, true]} | tojson }}"), "{\"a\": [1, \"x\\\"\", null, true]}");
  EXPECT_EQ(render("{{ {'b': 1, 'a': []} | tojson(indent=2) }}"), "{\n  \"b\": 1,\n  \"a\": []\n}");
  EXPECT_EQ(render("{{ x is sequence }} {{ none is sequence }} {{ 'a' is sequence }} {{ 1 is boolean }} {{ 3 is divisibleby 3 }}"), "True False True False True");
}

TEST(Jinja, ErrorsAndLimits) {
  EXPECT_EQ(render("{{ raise_exception('no') }}"), "error: chat template: no");
  EXPECT_TRUE(render("{% if %}").starts_with("syntax"));
  EXPECT_TRUE(render("{% include 'x' %}").starts_with("syntax"));
  EXPECT_TRUE(render("{{ 'open }}").starts_with("syntax"));
  EXPECT_TRUE(render("{% for a in range(90000) %}{% for b in range(900) %}{% endfor %}{% endfor %}").starts_with("error"));
  EXPECT_TRUE(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").starts_with("error"));
  EXPECT_TRUE(render(std::string(100000, '(')).starts_with("((("));
  EXPECT_TRUE(render("{{ " + std::string(100000, '(') + " }}").starts_with("syntax"));
}

TEST(Jinja, OriginIsKept) {
  auto parsed = JinjaTemplate::parse("<b>{{ x }}{{ '<c>' + x | trim }}{{ (x ~ '<d>')[1:] }}{{ bos }}");
  const auto out = parsed->render({{"x", " <e>"}}, {{"bos", "<bos>"}});
  ASSERT_TRUE(out.has_value());
  EXPECT_EQ(out->text, "<b> <e><c><e><e><d><bos>");
  EXPECT_EQ(out->trusted, (std::vector<TextSpan>{{0, 3}, {7, 10}, {16, 24}}));
}

// The demo model's template is of our own writing and must ask for what the 12B's asks for.
TEST(ChatTemplateGoldens, TheDemoModelsTemplateRendersAsThe12Bs) {
  const json goldens = json::parse(read_file(test_data("serving/chat_template.json")));
  auto parsed = JinjaTemplate::parse(read_file(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo/chat_template.jinja"));
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  for (const json& c : goldens["cases"]) {
    json variables = c.value("kwargs", json::object());
    variables["messages"] = c["messages"];
    variables["tools"] = c.contains("tools") ? c["tools"] : json(nullptr);
    variables["add_generation_prompt"] = c.value("add_generation_prompt", true);
    const json& expected = c["expected"]["gemma-4-mid2026.jinja"];
    const auto out = parsed->render(variables, goldens["special_tokens"]);
    ASSERT_EQ(out.has_value(), expected.contains("text")) << c["id"];
    if (out) EXPECT_EQ(out->text, expected["text"].get<std::string>()) << c["id"];
  }
}

TEST(ChatTemplateGoldens, RealTemplatesRenderByteForByte) {
  const json goldens = json::parse(read_file(test_data("serving/chat_template.json")));
  const auto folder = shared_data("goldens/serving/templates");
  if (!folder) GTEST_SKIP() << "the real chat templates are not here (set NIBBLE_SHARED_DIR)";
  int checked = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    const std::string name = entry.path().filename().string();
    auto parsed = JinjaTemplate::parse(read_file(entry.path()));
    ASSERT_TRUE(parsed.has_value()) << name << ": " << parsed.error().message;
    for (const json& c : goldens["cases"]) {
      json variables = c.value("kwargs", json::object());
      variables["messages"] = c["messages"];
      variables["tools"] = c.contains("tools") ? c["tools"] : json(nullptr);
      variables["documents"] = nullptr;
      variables["add_generation_prompt"] = c.value("add_generation_prompt", true);
      const json& expected = c["expected"][name];
      const auto out = parsed->render(variables, goldens["special_tokens"]);
      if (expected.contains("error")) {
        EXPECT_FALSE(out.has_value()) << name << " " << c["id"];
      } else {
        ASSERT_TRUE(out.has_value()) << name << " " << c["id"] << ": " << out.error().message;
        EXPECT_EQ(out->text, expected["text"].get<std::string>()) << name << " " << c["id"];
      }
      ++checked;
    }
  }
  EXPECT_EQ(checked, 4 * 95);
}
TEST(Jinja, EndlessGrowthIsAnErrorNotAnEnd) {
  const auto refused = [](std::string_view source, std::string_view why) {
    const std::string out = render(source);
    EXPECT_TRUE(out.starts_with("error: ") && out.find(why) != std::string::npos) << source << " gave " << out.substr(0, 200);
  };
  refused("{% set ns = namespace(t='abcdefgh') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}", "64 MiB");
  refused("{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", "1,000,000 items");
  refused("{% set ns = namespace(t=[1]) %}{% for i in range(100000) %}{% set ns.t = [ns.t] %}{% endfor %}", "300 levels");
  refused("{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t }}", "too much text");
  refused("{% set ns = namespace(t=1) %}{% set ns.t = [ns] %}", "namespace");
}
}  // namespace
}  // namespace nibble
