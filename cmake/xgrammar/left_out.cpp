// What the linker misses when xgrammar's frontends are left out, and where its messages go. Compiled into the target xgrammar.
#include <stdexcept>
#include <string>

#include "json_schema_converter.h"
#include "lark_converter.h"
#include "structural_tag.h"

namespace xgrammar {
namespace {
[[noreturn]] void left_out(const char* what) { throw std::logic_error(std::string("xgrammar's ") + what + " is not in this build"); }
}  // namespace

Grammar JSONSchemaToGrammar(const std::string&, bool, std::optional<int>, std::optional<std::pair<std::string, std::string>>, bool, std::optional<int>, bool, JSONFormat,
                            std::vector<std::string>) {
  left_out("JSON schema frontend");
}
Grammar LarkToGrammar(const std::string&, const std::optional<TokenizerInfo>&, const std::vector<NamedGrammar>&) { left_out("Lark frontend"); }
Result<Grammar, StructuralTagError> StructuralTagToGrammar(const std::string&, const std::optional<TokenizerInfo>&) { left_out("structural tag frontend"); }

void LogFatalImpl(const std::string&, int, const std::string& message) { throw std::runtime_error(message); }
void LogMessageImpl(const std::string&, int, int, const std::string&) {}
}  // namespace xgrammar
