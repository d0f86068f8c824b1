#include "app/command_tree.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
Command tree() {
  return {.name = "nibble",
          .help = "a program",
          .options = {},
          .commands = {{.name = "serve", .help = "it's a server: 'fast'", .options = {{.names = {"--port"}, .help = "port; 0: any", .fallback = "30000"}, {.names = {"--device"}, .help = "auto, cpu", .choices = {"auto", "cpu"}}}},
                       {.name = "bench", .help = "measures", .options = {}, .commands = {{.name = "ops", .help = "kernels", .options = {{.names = {"--json"}, .help = "[x]", .takes_value = false}}}}}}};
}

TEST(CommandTree, WordsAreTakenOutOfListsAndNotOutOfSentences) {
  EXPECT_EQ(listed_words("auto, cpu, cuda, cuda:N"), (std::vector<std::string>{"auto", "cpu", "cuda"}));
  EXPECT_EQ(listed_words("auto, safetensors, dummy (random weights)"), (std::vector<std::string>{"auto", "safetensors", "dummy"}));
  EXPECT_EQ(listed_words("model folder, id in the local Hugging Face cache, or demo"), std::vector<std::string>{});
  EXPECT_EQ(listed_words("machine-readable"), std::vector<std::string>{});
  EXPECT_EQ(listed_words("gsm8k"), std::vector<std::string>{});
  EXPECT_EQ(listed_words(""), std::vector<std::string>{});
}

TEST(CommandTree, TheManPageEscapesDashesAndNamesEveryCommand) {
  const std::string page = man_page(tree(), "1.2");
  EXPECT_NE(page.find(".SS nibble bench ops\nkernels\n"), std::string::npos) << page;
  EXPECT_NE(page.find("\\fB\\-\\-port\\fR \\fIvalue\\fR\nport; 0: any [30000]\n"), std::string::npos) << page;
  EXPECT_EQ(page.find("\n'"), std::string::npos);
}

TEST(CommandTree, ZshTextIsQuoted) {
  const std::string script = zsh_completion(tree());
  EXPECT_NE(script.find(R"('serve:it'\''s a server\: '\''fast'\''')"), std::string::npos) << script;
  EXPECT_NE(script.find(R"('--json[\[x\]]')"), std::string::npos) << script;
}
}  // namespace
}  // namespace nibble
