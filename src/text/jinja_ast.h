// The parsed template: a tree of statements and expressions.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace nibble::jinja {
struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : uint8_t {
  literal,    // value
  name,       // text
  list,       // parts
  tuple,      // parts
  mapping,    // parts: key, value, key, value
  item,       // parts: object, key              a[b]
  attribute,  // parts: object; text: name       a.b
  slice,      // parts: object, begin, end, step (null: absent)
  call,       // parts: callee, positional...; named
  filter,     // parts: input, positional...; named; text: name
  test,       // parts: input, positional...; text: name; negated
  unary,      // parts: operand; text: - + not
  binary,     // parts: left, right; text: operator
  compare,    // parts: first, others...; operators
  logical,    // parts: left, right; text: and or
  conditional // parts: then, condition, else (null: absent)
};

struct Expr {
  ExprKind kind;
  int line = 0;
  std::string text;
  Value value;
  bool negated = false;
  std::vector<ExprPtr> parts;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> operators;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind : uint8_t { text, output, branch, loop, set, set_block, macro, call_block, filter_block, do_nothing, break_loop, continue_loop, group };

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text;                   // text; name of a macro; attribute of a `set ns.attr`
  std::vector<std::string> targets;   // of set and for
  ExprPtr expr, condition;            // output, set value, loop's iterable and its `if`
  std::vector<std::pair<ExprPtr, Body>> branches;  // if and elif; the else branch has no condition
  Body body, otherwise;               // loops, macros, block sets; a loop's else
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // of a macro, with defaults
  bool recursive = false;
};

// Raised by lexer and parser.
struct SyntaxError {
  int line;
  std::string message;
};

Body parse_template(std::string_view source);
}  // namespace nibble::jinja
