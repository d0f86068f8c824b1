// The events of one streamed reply, timed: which chunks carry content, and what the server said about itself.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
struct SpeculationCounts {
  int64_t steps = 0, drafted = 0, accepted = 0;
  std::vector<int64_t> histogram;                             // [j]: steps with exactly j accepted
  std::vector<int32_t> per_step_drafted, per_step_accepted;  // when the server tells them
};

class ReplyStream {
 public:
  ReplyStream();
  ~ReplyStream();
  ReplyStream(ReplyStream&&) noexcept;
  ReplyStream& operator=(ReplyStream&&) noexcept;

  // Bytes of the event stream as they arrived; may be cut anywhere.
  void push(std::string_view bytes, int64_t now_ns);

  // A content chunk: non-empty content, non-empty reasoning_content, a tool-call part, or text of a plain completion.
  std::vector<int64_t> chunk_ns;
  int64_t first_content_ns = 0;        // of the first chunk that is not reasoning; 0: none
  int64_t first_chunk_tokens = 0;      // from usage on the first chunk; 0: not told
  std::optional<int64_t> prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens;
  std::string content, reasoning, finish_reason, error;
  bool done = false;                   // [DONE] came
  std::optional<SpeculationCounts> speculation;

 private:
  void event(std::string_view data, int64_t now_ns);
  bool event_like_the_last(std::string_view data, int64_t now_ns);
  void remember_frame(std::string_view data, std::string_view content);
  struct Parser;
  std::unique_ptr<Parser> parser_;
  std::string held_;
};
}  // namespace nibble
