#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace nibble::jinja {
namespace {
constexpr int kMaxDepth = 200;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body run() {
    Body body = parse_body({});
    if (peek().kind != TokenKind::end) fail("unexpected end of a block");
    return body;
  }

 private:
  struct Depth {
    explicit Depth(Parser& p) : parser(p) {
      if (++parser.depth_ > kMaxDepth) parser.fail("nested too deeply");
    }
    ~Depth() { --parser.depth_; }
    Parser& parser;
  };

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  [[noreturn]] void fail(std::string message) const { throw SyntaxError{peek().line, std::move(message)}; }
  bool at_symbol(std::string_view s) const { return peek().kind == TokenKind::symbol && peek().text == s; }
  bool at_name(std::string_view s) const { return peek().kind == TokenKind::name && peek().text == s; }
  bool take_symbol(std::string_view s) { return at_symbol(s) && (next(), true); }
  bool take_name(std::string_view s) { return at_name(s) && (next(), true); }
  void expect_symbol(std::string_view s) {
    if (!take_symbol(s)) fail(fmt::format("expected '{}', found '{}'", s, peek().text));
  }
  std::string expect_name() {
    if (peek().kind != TokenKind::name) fail(fmt::format("expected a name, found '{}'", peek().text));
    return next().text;
  }
  void expect_end_block() {
    if (peek().kind != TokenKind::end_block) fail(fmt::format("unexpected '{}' in a block tag", peek().text));
    next();
  }

  // ---- statements ----

  using Names = std::initializer_list<std::string_view>;
  bool at_block(Names names) const {
    if (peek().kind != TokenKind::begin_block || peek(1).kind != TokenKind::name) return false;
    for (const std::string_view name : names) {
      if (peek(1).text == name) return true;
    }
    return false;
  }
  std::string take_block() {
    next();
    return expect_name();
  }

  std::unique_ptr<Statement> make(StatementKind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = peek().line;
    return statement;
  }

  // Until one of the named blocks, which is left for the caller.
  Body parse_body(Names until) {
    const Depth depth(*this);
    Body body;
    while (peek().kind != TokenKind::end && !at_block(until)) {
      if (peek().kind == TokenKind::text) {
        auto statement = make(StatementKind::text);
        statement->text = next().text;
        body.push_back(std::move(statement));
      } else if (peek().kind == TokenKind::begin_output) {
        next();
        auto statement = make(StatementKind::output);
        statement->expr = parse_tuple_or_expression();
        if (peek().kind != TokenKind::end_output) fail(fmt::format("unexpected '{}' in an output tag", peek().text));
        next();
        body.push_back(std::move(statement));
      } else {
        const std::string name = take_block();
        if (auto statement = parse_statement(name)) body.push_back(std::move(statement));
      }
    }
    if (until.size() > 0 && peek().kind == TokenKind::end) fail(fmt::format("the template ends where '{}' is wanted", *until.begin()));
    return body;
  }

  Body parse_until(std::string_view end) {
    Body body = parse_body({end});
    take_block();
    if (end == "endmacro" && peek().kind == TokenKind::name) next();
    expect_end_block();
    return body;
  }

  std::unique_ptr<Statement> parse_statement(const std::string& name) {
    if (name == "if") return parse_if();
    if (name == "for") return parse_for();
    if (name == "set") return parse_set();
    if (name == "macro") return parse_macro();
    if (name == "generation") return parse_group("endgeneration");
    if (name == "break" || name == "continue") {
      auto statement = make(name == "break" ? StatementKind::break_loop : StatementKind::continue_loop);
      expect_end_block();
      return statement;
    }
    if (name == "filter") {
      auto statement = make(StatementKind::filter_block);
      auto input = std::make_unique<Expr>();
      input->kind = ExprKind::literal;
      statement->expr = parse_filter_chain(std::move(input), /*first_without_bar=*/true);
      expect_end_block();
      statement->body = parse_until("endfilter");
      return statement;
    }
    fail(fmt::format("the statement '{}' is not supported", name));
  }

  std::unique_ptr<Statement> parse_group(std::string_view end) {
    auto statement = make(StatementKind::group);
    expect_end_block();
    statement->body = parse_until(end);
    return statement;
  }

  std::unique_ptr<Statement> parse_if() {
    auto statement = make(StatementKind::branch);
    ExprPtr condition = parse_expression();
    expect_end_block();
    while (true) {
      Body body = parse_body({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(condition), std::move(body));
      const std::string name = take_block();
      if (name == "endif") break;
      if (name == "elif") {
        condition = parse_expression();
      } else if (!statement->branches.back().first && statement->branches.size() > 1) {
        fail("a second else");
      } else {
        condition = nullptr;
      }
      expect_end_block();
    }
    expect_end_block();
    return statement;
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool parenthesis = take_symbol("(");
    do {
      targets.push_back(expect_name());
    } while (take_symbol(","));
    if (parenthesis) expect_symbol(")");
    return targets;
  }

  std::unique_ptr<Statement> parse_for() {
    auto statement = make(StatementKind::loop);
    statement->targets = parse_targets();
    if (!take_name("in")) fail("expected 'in'");
    statement->expr = parse_or();  // without a trailing `if`, which filters the loop
    if (take_name("if")) statement->condition = parse_expression();
    if (take_name("recursive")) statement->recursive = true;
    expect_end_block();
    statement->body = parse_body({"else", "endfor"});
    if (take_block() == "else") {
      expect_end_block();
      statement->otherwise = parse_body({"endfor"});
      take_block();
    }
    expect_end_block();
    return statement;
  }

  std::unique_ptr<Statement> parse_set() {
    auto statement = make(StatementKind::set);
    statement->targets.push_back(expect_name());
    if (take_symbol(".")) {
      statement->text = expect_name();
    } else {
      while (take_symbol(",")) statement->targets.push_back(expect_name());
    }
    if (take_symbol("=")) {
      statement->expr = parse_tuple_or_expression();
      expect_end_block();
      return statement;
    }
    statement->kind = StatementKind::set_block;
    if (at_symbol("|")) {
      auto input = std::make_unique<Expr>();
      input->kind = ExprKind::literal;
      statement->expr = parse_filter_chain(std::move(input), false);
    }
    expect_end_block();
    statement->body = parse_until("endset");
    return statement;
  }

  std::unique_ptr<Statement> parse_macro() {
    auto statement = make(StatementKind::macro);
    statement->text = expect_name();
    expect_symbol("(");
    while (!at_symbol(")")) {
      std::string name = expect_name();
      ExprPtr fallback = take_symbol("=") ? parse_expression() : nullptr;
      statement->parameters.emplace_back(std::move(name), std::move(fallback));
      if (!take_symbol(",")) break;
    }
    expect_symbol(")");
    expect_end_block();
    statement->body = parse_until("endmacro");
    return statement;
  }

  // ---- expressions, loosest first ----

  ExprPtr node(ExprKind kind, ExprPtr first = nullptr, ExprPtr second = nullptr) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = peek().line;
    if (first) expr->parts.push_back(std::move(first));
    if (second) expr->parts.push_back(std::move(second));
    return expr;
  }
  ExprPtr with_text(ExprPtr expr, std::string text) const {
    expr->text = std::move(text);
    return expr;
  }

  ExprPtr parse_tuple_or_expression() {
    ExprPtr first = parse_expression();
    if (!at_symbol(",")) return first;
    ExprPtr tuple = node(ExprKind::tuple, std::move(first));
    while (take_symbol(",")) {
      if (peek().kind == TokenKind::end_output || peek().kind == TokenKind::end_block || at_symbol(")")) break;
      tuple->parts.push_back(parse_expression());
    }
    return tuple;
  }

  ExprPtr parse_expression() {
    const Depth depth(*this);
    ExprPtr value = parse_or();
    while (take_name("if")) {
      ExprPtr conditional = node(ExprKind::conditional, std::move(value));
      conditional->parts.push_back(parse_or());
      conditional->parts.push_back(take_name("else") ? parse_expression() : nullptr);
      value = std::move(conditional);
    }
    return value;
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (take_name("or")) left = with_text(node(ExprKind::logical, std::move(left), parse_and()), "or");
    return left;
  }
  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (take_name("and")) left = with_text(node(ExprKind::logical, std::move(left), parse_not()), "and");
    return left;
  }
  ExprPtr parse_not() {
    const Depth depth(*this);
    if (take_name("not")) return with_text(node(ExprKind::unary, parse_not()), "not");
    return parse_compare();
  }

  std::optional<std::string> take_comparison() {
    for (const char* symbol : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (take_symbol(symbol)) return symbol;
    }
    if (take_name("in")) return "in";
    if (at_name("not") && peek(1).kind == TokenKind::name && peek(1).text == "in") {
      next();
      next();
      return "not in";
    }
    return std::nullopt;
  }
  ExprPtr parse_compare() {
    ExprPtr left = parse_sum();
    auto op = take_comparison();
    if (!op) return left;
    ExprPtr chain = node(ExprKind::compare, std::move(left));
    for (; op; op = take_comparison()) {
      chain->operators.push_back(*op);
      chain->parts.push_back(parse_sum());
    }
    return chain;
  }

  template <typename Operand>
  ExprPtr parse_binary(std::initializer_list<const char*> symbols, Operand operand) {
    ExprPtr left = (this->*operand)();
    while (true) {
      const char* found = nullptr;
      for (const char* symbol : symbols) {
        if (!found && take_symbol(symbol)) found = symbol;
      }
      if (!found) return left;
      left = with_text(node(ExprKind::binary, std::move(left), (this->*operand)()), found);
    }
  }
  ExprPtr parse_sum() { return parse_binary({"+", "-"}, &Parser::parse_concat); }
  ExprPtr parse_concat() { return parse_binary({"~"}, &Parser::parse_product); }
  ExprPtr parse_product() { return parse_binary({"*", "//", "/", "%"}, &Parser::parse_power); }
  ExprPtr parse_power() { return parse_binary({"**"}, &Parser::parse_unary); }

  ExprPtr parse_unary() { return parse_unary_operand(true); }
  ExprPtr parse_unary_operand(bool with_filters) {
    const Depth depth(*this);
    ExprPtr value;
    if (take_symbol("-")) {
      value = with_text(node(ExprKind::unary, parse_unary_operand(false)), "-");
    } else if (take_symbol("+")) {
      value = with_text(node(ExprKind::unary, parse_unary_operand(false)), "+");
    } else {
      value = parse_postfix(parse_primary());
    }
    return with_filters ? parse_filter_chain(std::move(value), false) : std::move(value);
  }

  ExprPtr parse_primary() {
    const Token& token = peek();
    ExprPtr literal = node(ExprKind::literal);
    switch (token.kind) {
      case TokenKind::name: {
        const std::string name = next().text;
        if (name == "true" || name == "True") return literal->value = Value::boolean(true), std::move(literal);
        if (name == "false" || name == "False") return literal->value = Value::boolean(false), std::move(literal);
        if (name == "none" || name == "None") return literal->value = Value::none(), std::move(literal);
        return with_text(node(ExprKind::name), name);
      }
      case TokenKind::string: {
        std::string text = next().text;
        while (peek().kind == TokenKind::string) text += next().text;  // neighbours are one string
        literal->value = Value::string(text, true);
        return literal;
      }
      case TokenKind::integer: {
        int64_t value = 0;
        const std::string& digits = token.text;
        const auto status = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
        literal->value = status == std::errc() ? Value::integer(value) : Value::big_integer(digits);
        next();
        return literal;
      }
      case TokenKind::floating:
        literal->value = Value::floating(std::strtod(next().text.c_str(), nullptr));
        return literal;
      default: break;
    }
    if (take_symbol("(")) {
      if (take_symbol(")")) return node(ExprKind::tuple);
      ExprPtr inner = parse_tuple_or_expression();
      expect_symbol(")");
      return inner;
    }
    if (take_symbol("[")) {
      ExprPtr list = node(ExprKind::list);
      while (!at_symbol("]")) {
        list->parts.push_back(parse_expression());
        if (!take_symbol(",")) break;
      }
      expect_symbol("]");
      return list;
    }
    if (take_symbol("{")) {
      ExprPtr mapping = node(ExprKind::mapping);
      while (!at_symbol("}")) {
        mapping->parts.push_back(parse_expression());
        expect_symbol(":");
        mapping->parts.push_back(parse_expression());
        if (!take_symbol(",")) break;
      }
      expect_symbol("}");
      return mapping;
    }
    fail(fmt::format("unexpected '{}' in an expression", token.text));
  }

  ExprPtr parse_postfix(ExprPtr value) {
    while (true) {
      if (take_symbol(".")) {
        ExprPtr attribute = node(ExprKind::attribute, std::move(value));
        if (peek().kind == TokenKind::integer) {  // a.0 is a[0]
          attribute->kind = ExprKind::item;
          attribute->parts.push_back(parse_primary());
        } else {
          attribute->text = expect_name();
        }
        value = std::move(attribute);
      } else if (take_symbol("[")) {
        value = parse_subscript(std::move(value));
      } else if (at_symbol("(")) {
        ExprPtr call = node(ExprKind::call, std::move(value));
        parse_arguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  ExprPtr parse_subscript(ExprPtr object) {
    ExprPtr parts[3];
    int colons = 0;
    for (;; next()) {
      if (!at_symbol(":") && !at_symbol("]")) parts[colons] = parse_expression();
      if (!at_symbol(":")) break;
      if (++colons > 2) fail("too many ':' in a slice");
    }
    expect_symbol("]");
    if (colons == 0) {
      if (!parts[0]) fail("an empty subscript");
      return node(ExprKind::item, std::move(object), std::move(parts[0]));
    }
    ExprPtr slice = node(ExprKind::slice, std::move(object));
    for (ExprPtr& part : parts) slice->parts.push_back(std::move(part));
    return slice;
  }

  void parse_arguments(Expr& call) {
    expect_symbol("(");
    while (!at_symbol(")")) {
      if (peek().kind == TokenKind::name && peek(1).kind == TokenKind::symbol && peek(1).text == "=") {
        std::string name = next().text;
        next();
        call.named.emplace_back(std::move(name), parse_expression());
      } else {
        if (!call.named.empty()) fail("a positional argument after a named one");
        call.parts.push_back(parse_expression());
      }
      if (!take_symbol(",")) break;
    }
    expect_symbol(")");
  }

  ExprPtr parse_filter_chain(ExprPtr value, bool first_without_bar) {
    while (true) {
      if (first_without_bar || take_symbol("|")) {
        first_without_bar = false;
        ExprPtr filter = with_text(node(ExprKind::filter, std::move(value)), expect_name());
        if (at_symbol("(")) parse_arguments(*filter);
        value = std::move(filter);
      } else if (at_name("is")) {
        next();
        ExprPtr test = node(ExprKind::test, std::move(value));
        test->negated = take_name("not");
        test->text = expect_name();
        if (at_symbol("(")) {
          parse_arguments(*test);
        } else if (takes_bare_argument()) {
          test->parts.push_back(parse_postfix(parse_primary()));
        }
        value = std::move(test);
      } else if (at_symbol("(")) {
        ExprPtr call = node(ExprKind::call, std::move(value));
        parse_arguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }
  bool takes_bare_argument() const {
    switch (peek().kind) {
      case TokenKind::string:
      case TokenKind::integer:
      case TokenKind::floating: return true;
      case TokenKind::name:
        for (const char* word : {"and", "or", "not", "if", "else", "is", "in", "recursive"}) {
          if (peek().text == word) return false;
        }
        return true;
      case TokenKind::symbol: return peek().text == "[" || peek().text == "{";
      default: return false;
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};
}  // namespace

Body parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }
}  // namespace nibble::jinja
