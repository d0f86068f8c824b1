#include "eval/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/workload.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

constexpr const char* kOfficialSha256 = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14";

std::string dumped(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// Every non-empty line as an object, with its index from 0.
template <typename Use>
void for_each_row(const std::string& text, const fs::path& file, const Use& use) {
  int64_t index = 0;
  for (size_t at = 0; at < text.size(); ++index) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json row = Json::parse(line, nullptr, false);
    if (!row.is_object()) raise(ErrorCode::corrupt, "{}:{}: not a JSON object", file.string(), index + 1);
    use(row, index);
  }
}

std::string text_field(const Json& row, const char* key, const fs::path& file, int64_t index) {
  if (!row.contains(key) || !row[key].is_string()) raise(ErrorCode::corrupt, "{}:{}: wanted '{}', a string", file.string(), index + 1, key);
  return row[key];
}

void check_ids(const EvalTask& task) {
  std::set<std::string> seen;
  for (const EvalItem& item : task.items) {
    if (!seen.insert(item.id).second) raise(ErrorCode::corrupt, "{}: the id '{}' is there twice", task.file, item.id);
  }
}

void cut(EvalTask& task, int64_t num_examples) {
  if (num_examples <= 0 || static_cast<size_t>(num_examples) >= task.items.size()) return;
  task.items.resize(static_cast<size_t>(num_examples));
  task.partial_set = true;
}

// {field} from the item; {{ and }} are braces.
std::string fill_template(const std::string& pattern, const Json& item, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if ((c == '{' || c == '}') && i + 1 < pattern.size() && pattern[i + 1] == c) {
      out += c;
      ++i;
    } else if (c == '{') {
      const size_t end = pattern.find('}', i);
      if (end == std::string::npos) raise(ErrorCode::corrupt, "{}: the template has a '{{' without '}}'", where);
      const std::string name = pattern.substr(i + 1, end - i - 1);
      if (!item.contains(name)) raise(ErrorCode::corrupt, "{}: the template wants the field '{}'", where, name);
      out += item[name].is_string() ? item[name].get<std::string>() : dumped(item[name]);
      i = end;
    } else {
      out += c;
    }
  }
  return out;
}

std::set<std::string> template_fields(const std::string& pattern) {
  std::set<std::string> out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '{') continue;
    if (i + 1 < pattern.size() && pattern[i + 1] == '{') {
      ++i;
      continue;
    }
    const size_t end = pattern.find('}', i);
    if (end == std::string::npos) break;
    out.insert(pattern.substr(i + 1, end - i - 1));
  }
  return out;
}

std::string last_user_text(const Json& messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    if (!messages[i].is_object() || messages[i].value("role", "") != "user" || !messages[i].contains("content")) continue;
    const Json& content = messages[i]["content"];
    if (content.is_string()) return content;
    for (const Json& part : content) {
      if (part.is_object() && part.value("type", "") == "text") return part.value("text", "");
    }
  }
  return "";
}

// Media parts name files relative to the task's: they become data for the server by path.
void resolve_paths(Json& messages, const fs::path& folder) {
  for (Json& message : messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array()) continue;
    for (Json& part : message["content"]) {
      if (!part.is_object() || !part.contains("path")) continue;
      const std::string type = part.value("type", "image"), url = "file://" + fs::absolute(folder / part["path"].get<std::string>()).lexically_normal().string();
      const std::string key = type.starts_with("audio") ? "audio_url" : type.starts_with("video") ? "video_url" : "image_url";
      part = {{"type", key}, {key, {{"url", url}}}};
    }
  }
}
}  // namespace

std::string EvalItem::expected_text() const {
  if (expected.empty()) return "";
  const Json value = Json::parse(expected);
  return value.is_string() ? value.get<std::string>() : dumped(value);
}

std::string gsm8k_gold(std::string_view answer) {
  const size_t at = answer.find("####");
  if (at == std::string_view::npos || answer.find("####", at + 4) != std::string_view::npos) raise(ErrorCode::corrupt, "an answer does not have exactly one ####");
  std::string gold(answer.substr(at + 4));
  gold.erase(0, std::min(gold.find_first_not_of(" \t\r\n"), gold.size()));
  gold.erase(gold.find_last_not_of(" \t\r\n") + 1);
  std::erase(gold, ',');
  // "18.0" is printed as 18.
  if (const size_t dot = gold.find('.'); dot != std::string::npos && gold.find_first_not_of('0', dot + 1) == std::string::npos) gold.resize(dot);
  return gold;
}

std::string gsm8k_prompt(std::string_view question) {
  return fmt::format("Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{{}}.\n\n{}", question);
}

EvalTask load_gsm8k(const fs::path& file, int64_t num_examples) {
  const std::string text = read_file(file);
  EvalTask task{.name = "gsm8k", .file = file.string(), .sha256 = sha256_hex(text)};
  task.official = task.sha256 == kOfficialSha256;
  for_each_row(text, file, [&](const Json& row, int64_t index) {
    EvalItem item;
    std::string gold;
    if (row.contains("problem")) {
      item.problem = text_field(row, "problem", file, index);
      if (!row.contains("expected_answer")) raise(ErrorCode::corrupt, "{}:{}: wanted 'expected_answer'", file.string(), index + 1);
      gold = row["expected_answer"].is_string() ? row["expected_answer"].get<std::string>() : dumped(row["expected_answer"]);
      item.id = row.contains("id") ? row["id"].is_string() ? row["id"].get<std::string>() : dumped(row["id"]) : fmt::format("custom-{}", index);
    } else {
      item.problem = text_field(row, "question", file, index);
      try {
        gold = gsm8k_gold(text_field(row, "answer", file, index));
      } catch (const Error& error) {
        raise(ErrorCode::corrupt, "{}:{}: {}", file.string(), index + 1, error.message);
      }
      item.id = fmt::format("gsm8k-{}", index);
    }
    item.expected = dumped(gold);
    item.messages = dumped(Json::array({{{"role", "user"}, {"content", gsm8k_prompt(item.problem)}}}));
    task.items.push_back(std::move(item));
  });
  if (task.items.empty()) raise(ErrorCode::corrupt, "{}: no rows", file.string());
  check_ids(task);
  cut(task, num_examples);
  return task;
}

EvalTask load_task(const fs::path& file, int64_t num_examples) {
  static const std::set<std::string> kHeader{"task", "version", "system", "template", "scorer", "scorer_args", "request", "n_repeats", "metrics", "license"};
  static const std::set<std::string> kItem{"id", "messages", "expected", "choices", "tools", "tool_choice", "schema", "request", "scorer", "scorer_args", "tags", "weight", "prompt"};
  const std::string text = read_file(file);
  EvalTask task{.name = file.stem().string(), .file = file.string(), .sha256 = sha256_hex(text)};
  std::string system, pattern, scorer = "exact", scorer_args;
  std::set<std::string> fields;
  bool first = true;
  for_each_row(text, file, [&](const Json& row, int64_t index) {
    const std::string where = fmt::format("{}:{}", file.string(), index + 1);
    const bool header = std::exchange(first, false) && row.contains("task");
    for (const auto& [key, value] : row.items()) {
      if (header ? !kHeader.contains(key) : !kItem.contains(key) && !fields.contains(key)) raise(ErrorCode::corrupt, "{}: unknown key '{}'{}", where, key, header ? " in the header" : "; no template names it");
    }
    try {
      if (header) {
        task.name = row.value("task", task.name);
        task.version = row.contains("version") ? row["version"].is_string() ? row["version"].get<std::string>() : dumped(row["version"]) : "";
        task.license = row.value("license", "");
        task.n_repeats = row.value("n_repeats", 1);
        system = row.value("system", "");
        pattern = row.value("template", "");
        fields = template_fields(pattern);
        scorer = row.value("scorer", scorer);
        if (row.contains("scorer_args")) scorer_args = dumped(row["scorer_args"]);
        if (row.contains("request")) task.request = dumped(row["request"]);
        if (!known_scorer(scorer)) raise(ErrorCode::corrupt, "{}: unknown scorer '{}'", where, scorer);
        return;
      }
      EvalItem item;
      item.id = row.contains("id") ? row["id"].is_string() ? row["id"].get<std::string>() : dumped(row["id"]) : fmt::format("{}-{}", task.name, index + 1);
      item.scorer = row.value("scorer", scorer);
      if (!known_scorer(item.scorer)) raise(ErrorCode::corrupt, "{}: unknown scorer '{}'", where, item.scorer);
      item.scorer_args = row.contains("scorer_args") ? dumped(row["scorer_args"]) : scorer_args;
      Json messages = Json::array();
      if (row.contains("messages")) {
        messages = row["messages"];
        if (!messages.is_array() || messages.empty()) raise(ErrorCode::corrupt, "{}: wanted 'messages', a non-empty list", where);
        resolve_paths(messages, file.parent_path());
      } else if (!pattern.empty()) {
        item.prompt = fill_template(pattern, row, where);
        messages.push_back({{"role", "user"}, {"content", item.prompt}});
      } else if (row.contains("prompt")) {
        item.prompt = row["prompt"];
        messages.push_back({{"role", "user"}, {"content", item.prompt}});
      } else {
        raise(ErrorCode::corrupt, "{}: wanted 'messages', 'prompt', or fields of the header's template", where);
      }
      if (!system.empty() && messages[0].value("role", "") != "system") messages.insert(messages.begin(), Json{{"role", "system"}, {"content", system}});
      item.problem = last_user_text(messages);
      item.messages = dumped(messages);
      const auto keep = [&](const char* key, std::string& to) {
        if (row.contains(key)) to = dumped(row[key]);
      };
      keep("expected", item.expected);
      keep("choices", item.choices);
      keep("tools", item.tools);
      keep("tool_choice", item.tool_choice);
      keep("schema", item.schema);
      keep("request", item.request);
      if (row.contains("tags")) item.tags = row["tags"].get<std::vector<std::string>>();
      item.weight = row.value("weight", 1.0);
      task.items.push_back(std::move(item));
    } catch (const nlohmann::json::exception& error) {
      raise(ErrorCode::corrupt, "{}: {}", where, error.what());
    }
  });
  if (task.items.empty()) raise(ErrorCode::corrupt, "{}: no items", file.string());
  check_ids(task);
  cut(task, num_examples);
  return task;
}
}  // namespace nibble
