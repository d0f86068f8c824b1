// What a reply may be: grammars in EBNF, compiled for the model's vocabulary, and a matcher that follows one reply token by token.
//
// Text tokens match characters; control tokens match only where the grammar names them: Token(id). The end tokens are allowed exactly where the grammar may end.
// The only file that sees xgrammar is grammar.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/tokenizer.h"

namespace nibble {
// Compiled, immutable, shared by the requests that use it.
class Grammar {
 public:
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  ~Grammar();
  const Impl& impl() const { return *impl_; }
  int64_t bytes() const;

 private:
  std::unique_ptr<Impl> impl_;
};

class GrammarMatcher {
 public:
  // `stop_ids`: the reply may end with these where the grammar may end.
  GrammarMatcher(std::shared_ptr<const Grammar> grammar, std::span<const int32_t> stop_ids);
  ~GrammarMatcher();

  bool accept(int32_t id);                    // false: not allowed here, nothing has changed
  void rollback(int32_t num_tokens);          // takes back the last accepted ones
  void allowed(std::span<uint32_t> bits);     // one bit per id, of a model that may have more or fewer ids than the tokenizer; not after the end
  bool ended() const;                         // an end token has been accepted
  // Whether a call took twice as long as any may, or all of them together hold up others, at 50 ms a token and more. The reply should end then.
  bool is_too_slow() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct GrammarLimits {
  double max_seconds = 5;           // of one compilation, as the caller sees it
  int64_t max_bytes = 100 << 20;    // of one compiled grammar
  size_t max_cached = 256;          // grammars kept for later requests, by use
  // A grammar that can read one text in very many ways, as ((.*){0,30}){0,30} can, may take seconds for a token, and everybody waits. A few tokens are tried when it is compiled, and it is
  // refused if one takes longer than this.
  double max_token_seconds = 0.5;
};

// Compiles on threads of its own. Safe from any thread.
class GrammarCompiler {
 public:
  // Copies what it needs of the vocabulary when the first grammar comes (a second or so for a large one; warm_up() does it before).
  GrammarCompiler(const Tokenizer& tokenizer, std::vector<int32_t> stop_ids, GrammarLimits limits = {});
  ~GrammarCompiler();

  void warm_up();
  // Blocks up to limits.max_seconds. invalid_argument: the grammar is wrong, or too large, or took too long; unavailable: too many are being compiled.
  Result<std::shared_ptr<const Grammar>> compile(const std::string& ebnf, const std::string& root = "root");

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};
}  // namespace nibble
