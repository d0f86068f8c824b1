#include "app/chat_lines.h"

#include <histedit.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace nibble {
namespace {
// libedit's callbacks have no argument of ours: there is one terminal.
bool g_stopped = false, g_continued = false;

char* prompt(EditLine*) {
  static char first[] = "> ", further[] = "… ";
  return g_continued ? further : first;
}

unsigned char stop_line(EditLine*, int) {
  g_stopped = true;
  return CC_NEWLINE;
}

unsigned char next_line(EditLine* editor, int) {  // Alt-Enter: a line break in the message
  return el_insertstr(editor, "\n") == 0 ? CC_REFRESH : CC_ERROR;
}
}  // namespace

ChatLines::ChatLines() : terminal_(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
  if (!terminal_) return;
  // The terminal's own characters; "C" would take UTF-8 apart.
  if (!std::setlocale(LC_CTYPE, "") || std::string(std::setlocale(LC_CTYPE, nullptr)) == "C") std::setlocale(LC_CTYPE, "C.UTF-8");
  editor_ = el_init("nibble", stdin, stdout, stderr);
  history_ = history_init();
  HistEvent event;
  history(history_, &event, H_SETSIZE, 500);
  el_set(editor_, EL_PROMPT, prompt);
  el_set(editor_, EL_EDITOR, "emacs");
  el_set(editor_, EL_HIST, history, history_);
  // Ctrl-C is a key while a line is edited, and a signal at any other time.
  el_set(editor_, EL_ADDFN, "nibble-stop", "drop the line", stop_line);
  el_set(editor_, EL_ADDFN, "nibble-next-line", "a line break", next_line);
  el_set(editor_, EL_BIND, "^C", "nibble-stop", nullptr);
  el_set(editor_, EL_BIND, "^[^M", "nibble-next-line", nullptr);
  el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
}

ChatLines::~ChatLines() {
  if (!terminal_) return;
  history_end(history_);
  el_end(editor_);
}

ChatLines::Kind ChatLines::next_physical(std::string& line) {
  if (!terminal_) return std::getline(std::cin, line) ? Kind::line : Kind::end;
  g_stopped = false;
  int count = 0;
  const char* text = el_gets(editor_, &count);
  if (g_stopped) {
    std::fputs("^C\n", stdout);
    std::fflush(stdout);
    return Kind::stopped;
  }
  if (!text || count <= 0) return Kind::end;
  line.assign(text, static_cast<size_t>(count));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  return Kind::line;
}

ChatLines::Kind ChatLines::next(std::string& line) {
  line.clear();
  g_continued = false;
  while (true) {
    std::string part;
    const Kind kind = next_physical(part);
    if (kind != Kind::line) return kind;
    g_continued = terminal_ && part.ends_with('\\');
    if (g_continued) part.back() = '\n';
    line += part;
    if (!g_continued) break;
  }
  if (terminal_ && !line.empty()) {
    std::string entry = line;
    std::replace(entry.begin(), entry.end(), '\n', ' ');
    HistEvent event;
    history(history_, &event, H_ENTER, entry.c_str());
  }
  return Kind::line;
}
}  // namespace nibble
