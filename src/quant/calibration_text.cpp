#include "quant/calibration_text.h"

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file_io.h"
#include "base/shipped_files.h"
#include "text/chat_messages.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// One file's samples, one after the other.
class Reader {
 public:
  Reader(fs::path path, const CalibrationTextOptions& options, const Tokenizer* tokenizer, const ChatTemplate* chat_template)
      : path_(std::move(path)), options_(options), tokenizer_(tokenizer), chat_template_(chat_template), text_(read_file(path_)) {
    const size_t first = text_.find_first_not_of(" \t\r\n");
    is_json_ = first != std::string::npos && text_[first] == '{';
    if (!is_json_) plain_ = text_tokenizer().encode(text_, false);
  }

  std::optional<std::vector<int32_t>> next() { return is_json_ ? next_line() : next_window(); }

 private:
  std::optional<std::vector<int32_t>> next_window() {
    if (at_ >= plain_.size()) return std::nullopt;
    const size_t n = std::min(static_cast<size_t>(options_.max_tokens) - options_.bos, plain_.size() - at_);
    std::vector<int32_t> ids(plain_.begin() + static_cast<int64_t>(at_), plain_.begin() + static_cast<int64_t>(at_ + n));
    at_ += n;
    return finished(std::move(ids));
  }

  std::optional<std::vector<int32_t>> next_line() {
    while (at_ < text_.size()) {
      const size_t end = std::min(text_.find('\n', at_), text_.size());
      const std::string_view line = std::string_view(text_).substr(at_, end - at_);
      at_ = end + 1;
      ++number_;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      if (auto ids = sample_of(Json::parse(line, nullptr, false)); !ids.empty()) return ids;
    }
    return std::nullopt;
  }

  const Tokenizer& text_tokenizer() const {
    if (!tokenizer_) raise(ErrorCode::invalid_argument, "{}: text, but the model's folder has no tokenizer.json; give token ids, as {{\"ids\": [...]}} a line", path_.string());
    return *tokenizer_;
  }
  [[noreturn]] void complain(const std::string& what) const { raise(ErrorCode::corrupt, "{}:{}: {}", path_.string(), number_, what); }

  std::vector<int32_t> sample_of(const Json& row) const {
    for (const char* key : {"text", "article"}) {
      if (!row.is_object() || !row.contains(key)) continue;
      if (!row[key].is_string()) complain(fmt::format("'{}' is not a string", key));
      const std::string text = row[key];
      return text.empty() ? std::vector<int32_t>() : finished(text_tokenizer().encode(text, false));
    }
    if (row.is_object() && row.contains("messages")) {
      if (!chat_template_) complain("'messages', but the model's folder has no chat template");
      Json messages = row["messages"];
      if (auto normal = normalize_messages(messages); !normal) complain(normal.error().message);
      const auto rendered = chat_template_->render(messages, {.add_generation_prompt = false});
      if (!rendered) complain(rendered.error().message);
      return finished(text_tokenizer().encode_marked(rendered->text, rendered->trusted));
    }
    if (row.is_object() && row.contains("ids") && row["ids"].is_array()) {
      std::vector<int32_t> ids;
      for (const Json& id : row["ids"]) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= options_.vocab_size) complain(fmt::format("'ids' holds {}, wanted 0 to {}", id.dump(), options_.vocab_size - 1));
        ids.push_back(id.get<int32_t>());
      }
      if (static_cast<int64_t>(ids.size()) > options_.max_tokens) ids.resize(static_cast<size_t>(options_.max_tokens));
      return ids;
    }
    complain("wanted an object with 'text', 'article', 'messages' or 'ids'");
  }

  std::vector<int32_t> finished(std::vector<int32_t> ids) const {
    const bool has = !ids.empty() && ids[0] == options_.bos_token_id;
    if (options_.bos && !has) ids.insert(ids.begin(), options_.bos_token_id);
    if (!options_.bos && has) ids.erase(ids.begin());
    if (static_cast<int64_t>(ids.size()) > options_.max_tokens) ids.resize(static_cast<size_t>(options_.max_tokens));
    return ids;
  }

  fs::path path_;
  const CalibrationTextOptions& options_;
  const Tokenizer* tokenizer_;
  const ChatTemplate* chat_template_;
  std::string text_;
  bool is_json_ = false;
  std::vector<int32_t> plain_;
  size_t at_ = 0;
  int64_t number_ = 0;
};
}  // namespace

CalibrationText read_calibration_text(const CalibrationTextOptions& options, const Tokenizer* tokenizer, const ChatTemplate* chat_template) {
  if (options.counts.size() != 1 && options.counts.size() != options.files.size()) {
    raise(ErrorCode::invalid_argument, "--calib_size has {} numbers for {} files; give one for all, or one a file", options.counts.size(), options.files.size());
  }
  const bool total = options.counts.size() == 1;
  std::vector<Reader> readers;
  readers.reserve(options.files.size());
  for (const fs::path& file : options.files) readers.emplace_back(file, options, tokenizer, chat_template);
  CalibrationText out{{}, std::vector<int64_t>(readers.size())};
  // One from each file in turn, until all have ended or given their share.
  std::vector<bool> ended(readers.size());
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < readers.size(); ++i) {
      if (ended[i] || (total ? static_cast<int64_t>(out.samples.size()) >= options.counts[0] : out.from_file[i] >= options.counts[i])) continue;
      if (auto ids = readers[i].next()) {
        out.samples.push_back(std::move(*ids));
        ++out.from_file[i];
        more = true;
      } else {
        ended[i] = true;
      }
    }
  }
  if (out.samples.empty()) raise(ErrorCode::invalid_argument, "no calibration sample in {}{}", options.files.empty() ? "no file" : options.files[0].string(), options.files.size() > 1 ? " and the others" : "");
  return out;
}

fs::path own_calibration_text() {
  if (const char* file = std::getenv("NIBBLE_CALIBRATION")) return file;
  return shipped_file("calibration.jsonl", "models/calibration.jsonl");
}
}  // namespace nibble
