// The scorers of tasks: a reply in, a mark in [0, 1] out.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "base/error.h"
#include "eval/grading.h"
#include "eval/json_schema.h"
#include "eval/task.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

const std::set<std::string, std::less<>> kScorers{"boxed_number", "number", "exact", "contains", "regex", "choice", "json_schema", "json_equal", "tool_call",
                                                  "logprob_choice", "logprob_choice_norm", "loglikelihood", "none"};

std::vector<std::string> accepted(const EvalItem& item) {
  std::vector<std::string> out;
  if (item.expected.empty()) return out;
  const Json value = Json::parse(item.expected);
  const auto add = [&](const Json& v) { out.push_back(v.is_string() ? v.get<std::string>() : v.dump()); };
  if (value.is_array()) {
    for (const Json& v : value) add(v);
  } else {
    add(value);
  }
  return out;
}

std::string strip(const std::string& s) {
  const size_t from = s.find_first_not_of(" \t\r\n");
  return from == std::string::npos ? "" : s.substr(from, s.find_last_not_of(" \t\r\n") - from + 1);
}

std::string lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

std::string prepared(std::string s, const Json& args) {
  if (args.value("strip", true)) s = strip(s);
  return args.value("lower", false) ? lower(std::move(s)) : s;
}

// The last number in a text: digits with ,ddd groups, sign and fraction.
std::optional<std::string> last_number(const std::string& text) {
  const auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
  std::optional<std::string> found;
  for (size_t i = 0; i < text.size();) {
    if (!digit(i)) {
      ++i;
      continue;
    }
    size_t end = i;
    while (digit(end)) ++end;
    while (end < text.size() && text[end] == ',' && digit(end + 1) && digit(end + 2) && digit(end + 3) && !digit(end + 4)) end += 4;
    if (end < text.size() && text[end] == '.' && digit(end + 1)) {
      ++end;
      while (digit(end)) ++end;
    }
    const bool negative = i > 0 && text[i - 1] == '-' && (i < 2 || !std::isalnum(static_cast<unsigned char>(text[i - 2])));
    found = (negative ? "-" : "") + text.substr(i, end - i);
    i = end;
  }
  if (found) std::erase(*found, ',');
  return found;
}

std::optional<std::string> letter(const std::string& text) {
  static const std::regex kSaid("answer is:?\\s*\\(?\\**([A-J])\\b", std::regex::icase), kAlone("(^|[^A-Za-z0-9])([A-J])(?![A-Za-z0-9])");
  std::optional<std::string> found;
  for (std::sregex_iterator at(text.begin(), text.end(), kSaid), end; at != end; ++at) found = (*at)[1].str();
  if (!found) {
    for (std::sregex_iterator at(text.begin(), text.end(), kAlone), end; at != end; ++at) found = (*at)[2].str();
  }
  if (found) (*found)[0] = static_cast<char>(std::toupper(static_cast<unsigned char>((*found)[0])));
  return found;
}

Mark against(std::optional<std::string> answer, const std::vector<std::string>& wanted, bool numeric) {
  if (!answer) return {0, std::nullopt, "no answer found"};
  for (const std::string& w : wanted) {
    if (numeric ? same_number(w, *answer) : w == *answer) return {1, answer, "equal"};
  }
  return {0, answer, "not equal"};
}

// Equal as multisets of (name, arguments).
Mark mark_calls(const EvalItem& item, const EvalReply& reply) {
  const auto listed = [](const Json& value) {
    std::vector<std::pair<std::string, nlohmann::json>> calls;
    for (const Json& c : value.is_array() ? value : Json::array({value})) {
      nlohmann::json arguments = nlohmann::json::object();
      if (c.contains("arguments")) arguments = c["arguments"].is_string() ? nlohmann::json::parse(c["arguments"].get<std::string>(), nullptr, false) : nlohmann::json(c["arguments"]);
      calls.emplace_back(c.value("name", ""), std::move(arguments));
    }
    std::sort(calls.begin(), calls.end());
    return calls;
  };
  const Json got = reply.tool_calls.empty() ? Json::array() : Json::parse(reply.tool_calls);
  const Json wanted = item.expected.empty() ? Json::array() : Json::parse(item.expected);
  const bool same = listed(got) == listed(wanted);
  return {same ? 1.0 : 0.0, got.empty() ? std::nullopt : std::optional(reply.tool_calls), same ? "equal" : "other calls"};
}

std::string unfenced(const std::string& text) {
  const std::string s = strip(text);
  if (!s.starts_with("```") || !s.ends_with("```") || s.size() < 7) return s;
  const size_t line = s.find('\n');
  return line == std::string::npos ? s : strip(s.substr(line + 1, s.size() - line - 4));
}
}  // namespace

bool known_scorer(std::string_view name) { return kScorers.contains(name); }
bool needs_logprobs(std::string_view scorer) { return scorer.starts_with("logprob_choice") || scorer == "loglikelihood"; }

Mark mark_reply(const EvalItem& item, const EvalReply& reply) {
  const Json args = item.scorer_args.empty() ? Json::object() : Json::parse(item.scorer_args);
  const std::vector<std::string> wanted = accepted(item);
  if (item.scorer == "boxed_number") return against(extract_boxed(reply.content), wanted, true);
  if (item.scorer == "number") return against(last_number(reply.content), wanted, true);
  if (item.scorer == "choice") return against(letter(reply.content), wanted, false);
  if (item.scorer == "exact") {
    std::vector<std::string> forms;
    for (const std::string& w : wanted) forms.push_back(prepared(w, args));
    return against(prepared(reply.content, args), forms, false);
  }
  if (item.scorer == "contains") {
    const std::string text = prepared(reply.content, args);
    for (const std::string& w : wanted) {
      if (text.find(prepared(w, args)) != std::string::npos) return {1, w, "found"};
    }
    return {0, std::nullopt, "not found"};
  }
  if (item.scorer == "regex") {
    std::smatch match;
    const std::regex pattern(args.at("pattern").get<std::string>());
    if (!std::regex_search(reply.content, match, pattern)) return {0, std::nullopt, "the pattern does not match"};
    return wanted.empty() ? Mark{1, match[0].str(), "matches"} : against(match[args.value("group", 0)].str(), wanted, false);
  }
  if (item.scorer == "json_schema" || item.scorer == "json_equal") {
    const Json value = Json::parse(unfenced(reply.content), nullptr, false);
    if (value.is_discarded()) return {0, std::nullopt, "not JSON"};
    if (item.scorer == "json_equal") {
      const bool same = nlohmann::json(value) == nlohmann::json::parse(item.expected);  // the order of keys does not matter
      return {same ? 1.0 : 0.0, value.dump(), same ? "equal" : "not equal"};
    }
    const std::string problem = schema_problem(item.schema.empty() ? Json::object() : Json::parse(item.schema), value);
    return {problem.empty() ? 1.0 : 0.0, value.dump(), problem.empty() ? "valid" : problem};
  }
  if (item.scorer == "tool_call") return mark_calls(item, reply);
  if (item.scorer == "logprob_choice" || item.scorer == "logprob_choice_norm") {
    const Json choices = Json::parse(item.choices.empty() ? "[]" : item.choices);
    if (reply.logprobs.empty() || reply.logprobs.size() != choices.size()) return {0, std::nullopt, "no log-probabilities"};
    size_t best = 0;
    double most = -1e300;
    for (size_t i = 0; i < reply.logprobs.size(); ++i) {
      const double v = item.scorer == "logprob_choice" ? reply.logprobs[i] : reply.logprobs[i] / static_cast<double>(std::max<size_t>(choices[i].get<std::string>().size(), 1));
      if (v > most) most = v, best = i;
    }
    return against(choices[best].get<std::string>(), wanted, false);
  }
  if (item.scorer == "loglikelihood") {
    if (reply.logprobs.empty()) return {0, std::nullopt, "no log-probabilities"};
    const double per_token = reply.logprobs[0] / static_cast<double>(std::max<int64_t>(reply.logprob_tokens.empty() ? 1 : reply.logprob_tokens[0], 1));
    return {std::exp(per_token), fmt::format("{:.6f}", reply.logprobs[0]), fmt::format("{:.6f} a token", per_token)};
  }
  return {0, std::nullopt, "stored only"};
}
}  // namespace nibble
