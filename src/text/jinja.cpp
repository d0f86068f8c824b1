#include "text/jinja.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "text/jinja_ast.h"
#include "text/jinja_builtins.h"

namespace nibble {
namespace {
using namespace jinja;

constexpr int kMaxCalls = 200;

enum class Flow { next, break_loop, continue_loop };

class Renderer {
 public:
  explicit Renderer(int64_t max_steps) : max_steps_(max_steps) {}
  void define(const std::string& name, Value value) { globals_[name] = std::move(value); }

  Text run(const Body& body) {
    Text out;
    scopes_.push_back({&globals_});
    execute(body, out);
    return out;
  }

 private:
  using Scope = std::map<std::string, Value, std::less<>>;

  // One iteration of a loop; its `loop` variable is made only when the body asks for it.
  struct LoopState {
    const Statement* statement;
    const List* items;
    int64_t index;
    int depth;
  };
  struct Frame {
    Scope* scope;
    const LoopState* loop = nullptr;
  };
  struct PushedScope {
    PushedScope(Renderer& r, Scope& scope, const LoopState* loop = nullptr) : renderer(r) { renderer.scopes_.push_back({&scope, loop}); }
    ~PushedScope() { renderer.scopes_.pop_back(); }
    Renderer& renderer;
  };

  void count_step() {
    if (++steps_ > max_steps_) fail_render(fmt::format("the template takes more than {} steps", max_steps_));
  }
  void emit(Text& out, const Text& text) {
    out.append(text);
  }

  // ---- statements ----

  Flow execute(const Body& body, Text& out) {
    for (const auto& statement : body) {
      const Flow flow = execute(*statement, out);
      if (flow != Flow::next) return flow;
    }
    return Flow::next;
  }

  Flow execute(const Statement& s, Text& out) {
    count_step();
    switch (s.kind) {
      case StatementKind::text: emit(out, Text(s.text, true)); break;
      case StatementKind::output: emit(out, to_text(evaluate(*s.expr))); break;
      case StatementKind::branch:
        for (const auto& [condition, body] : s.branches) {
          if (!condition || evaluate(*condition).truth()) return execute(body, out);
        }
        break;
      case StatementKind::loop: execute_loop(s, out); break;
      case StatementKind::set: assign(s, evaluate(*s.expr)); break;
      case StatementKind::set_block: {
        Text captured;
        execute(s.body, captured);
        Value value = Value::string(std::move(captured));
        assign(s, s.expr ? filter_with_input(*s.expr, value) : value);
        break;
      }
      case StatementKind::filter_block: {
        Text captured;
        execute(s.body, captured);
        emit(out, to_text(filter_with_input(*s.expr, Value::string(std::move(captured)))));
        break;
      }
      case StatementKind::macro: (*scopes_.back().scope)[s.text] = make_macro(s); break;
      case StatementKind::group: return execute(s.body, out);
      case StatementKind::break_loop: return Flow::break_loop;
      case StatementKind::continue_loop: return Flow::continue_loop;
      default: break;
    }
    return Flow::next;
  }

  void assign(const Statement& s, Value value) {
    if (!s.text.empty()) {
      const Value holder = lookup(s.targets[0]);
      if (!holder.is(Kind::scope)) fail_render(fmt::format("line {}: '{}' is not a namespace", s.line, s.targets[0]));
      // It could hold itself, and nothing would ever free it.
      if (value.holds_scope()) fail_render(fmt::format("line {}: a namespace cannot be kept in a namespace", s.line));
      for (auto& [key, held] : holder.pairs_in_place()) {
        if (key.text().bytes == s.text) {
          held = std::move(value);
          return;
        }
      }
      holder.pairs_in_place().emplace_back(Value::string(s.text, true), std::move(value));
      return;
    }
    bind_targets(s.targets, value, *scopes_.back().scope, s.line);
  }

  void bind_targets(const std::vector<std::string>& targets, const Value& value, Scope& scope, int line) {
    if (targets.size() == 1) {
      scope[targets[0]] = value;
      return;
    }
    const List parts = iterate(value);
    if (parts.size() != targets.size()) fail_render(fmt::format("line {}: cannot unpack {} values into {} names", line, parts.size(), targets.size()));
    for (size_t i = 0; i < targets.size(); ++i) scope[targets[i]] = parts[i];
  }

  void execute_loop(const Statement& s, Text& out) { loop_over(s, evaluate(*s.expr), out, 0); }

  void loop_over(const Statement& s, const Value& iterable, Text& out, int depth) {
    if (depth > kMaxCalls) fail_render("a recursive loop is too deep");
    List items = iterate(iterable);
    if (s.condition) {
      List kept;
      for (const Value& item : items) {
        count_step();
        Scope scope;
        bind_targets(s.targets, item, scope, s.line);
        const PushedScope pushed(*this, scope);
        if (evaluate(*s.condition).truth()) kept.push_back(item);
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      execute(s.otherwise, out);
      return;
    }
    const auto size = static_cast<int64_t>(items.size());
    for (int64_t i = 0; i < size; ++i) {
      count_step();
      Scope scope;  // what the body sets ends with the iteration
      bind_targets(s.targets, items[static_cast<size_t>(i)], scope, s.line);
      const LoopState loop{&s, &items, i, depth};
      const PushedScope pushed(*this, scope, &loop);
      if (execute(s.body, out) == Flow::break_loop) break;
    }
  }

  Value loop_variable(const LoopState& state) {
    const Statement& s = *state.statement;
    const List& items = *state.items;
    const int64_t i = state.index, size = static_cast<int64_t>(items.size());
    const int depth = state.depth;
    Items loop;
    const auto put = [&](const char* name, Value value) { loop.emplace_back(Value::string(name, true), std::move(value)); };
    put("index0", Value::integer(i));
    put("index", Value::integer(i + 1));
    put("first", Value::boolean(i == 0));
    put("last", Value::boolean(i + 1 == size));
    put("length", Value::integer(size));
    put("revindex", Value::integer(size - i));
    put("revindex0", Value::integer(size - i - 1));
    put("depth", Value::integer(depth + 1));
    put("depth0", Value::integer(depth));
    put("previtem", i > 0 ? items[static_cast<size_t>(i - 1)] : Value::undefined("loop.previtem"));
    put("nextitem", i + 1 < size ? items[static_cast<size_t>(i + 1)] : Value::undefined("loop.nextitem"));
    put("cycle", Value::function([i](const Arguments& args) {
          if (args.positional.empty()) fail_render("loop.cycle wants items");
          return args.positional[static_cast<size_t>(i) % args.positional.size()];
        }));
    if (s.recursive) {
      put("__call__", Value::function([this, &s, depth](const Arguments& args) {
            Text inner;
            loop_over(s, args.positional.at(0), inner, depth + 1);
            return Value::string(std::move(inner));
          }));
    }
    return Value::mapping(std::move(loop), Kind::scope);
  }

  // A macro sees the template's globals and its own arguments, not its caller's variables.
  Value make_macro(const Statement& s) {
    return Value::function([this, &s](const Arguments& args) {
      if (++calls_ > kMaxCalls) fail_render(fmt::format("macro '{}' calls itself more than {} times deep", s.text, kMaxCalls));
      Scope locals;
      std::vector<Frame> outer{{&globals_}, {&locals}};
      std::swap(scopes_, outer);
      if (args.positional.size() > s.parameters.size()) fail_render(fmt::format("macro '{}' takes {} arguments, got {}", s.text, s.parameters.size(), args.positional.size()));
      for (const auto& [name, value] : args.named) {
        bool known = false;
        for (const auto& parameter : s.parameters) known = known || parameter.first == name;
        if (!known) fail_render(fmt::format("macro '{}' has no argument '{}'", s.text, name));
        locals[name] = value;
      }
      for (size_t i = 0; i < s.parameters.size(); ++i) {
        const auto& [name, fallback] = s.parameters[i];
        if (i < args.positional.size()) {
          locals[name] = args.positional[i];
        } else if (!locals.contains(name)) {
          locals[name] = fallback ? evaluate(*fallback) : Value::undefined(name);
        }
      }
      Text out;
      execute(s.body, out);
      std::swap(scopes_, outer);
      --calls_;
      return Value::string(std::move(out));
    });
  }

  // ---- expressions ----

  Value lookup(const std::string& name) {
    for (auto frame = scopes_.rbegin(); frame != scopes_.rend(); ++frame) {
      const auto at = frame->scope->find(name);
      if (at != frame->scope->end()) return at->second;
      if (frame->loop && name == "loop") return loop_variable(*frame->loop);
    }
    return global_function(name);
  }

  Value evaluate(const Expr& e) {
    count_step();
    switch (e.kind) {
      case ExprKind::literal: return e.value;
      case ExprKind::name: return lookup(e.text);
      case ExprKind::list:
      case ExprKind::tuple: {
        List items;
        for (const ExprPtr& part : e.parts) items.push_back(evaluate(*part));
        return Value::list(std::move(items), e.kind == ExprKind::tuple ? Kind::tuple : Kind::list);
      }
      case ExprKind::mapping: {
        Items items;
        for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
          Value key = evaluate(*e.parts[i]), value = evaluate(*e.parts[i + 1]);
          bool replaced = false;
          for (auto& [known, held] : items) {
            if (equal(known, key)) held = value, replaced = true;
          }
          if (!replaced) items.emplace_back(std::move(key), std::move(value));
        }
        return Value::mapping(std::move(items));
      }
      case ExprKind::item: return get_item(e);
      case ExprKind::attribute: return get_attribute(evaluate(*e.parts[0]), e.text);
      case ExprKind::slice: return get_slice(e);
      case ExprKind::call: return call(e);
      case ExprKind::filter: return apply_filter(e.text, arguments_of(e, 0));
      case ExprKind::test: return Value::boolean(apply_test(e.text, arguments_of(e, 0)) != e.negated);
      case ExprKind::unary: return unary(e);
      case ExprKind::binary: return binary(e.text, evaluate(*e.parts[0]), evaluate(*e.parts[1]));
      case ExprKind::compare: return compare_chain(e);
      case ExprKind::logical: {
        Value left = evaluate(*e.parts[0]);
        return left.truth() == (e.text == "or") ? left : evaluate(*e.parts[1]);
      }
      case ExprKind::conditional:
        if (evaluate(*e.parts[1]).truth()) return evaluate(*e.parts[0]);
        return e.parts[2] ? evaluate(*e.parts[2]) : Value::undefined("an inline if without else");
    }
    return {};
  }

  Arguments arguments_of(const Expr& e, size_t first) {
    Arguments args;
    for (size_t i = first; i < e.parts.size(); ++i) args.positional.push_back(evaluate(*e.parts[i]));
    for (const auto& [name, value] : e.named) args.named.emplace_back(name, evaluate(*value));
    return args;
  }

  // A filter chain whose innermost input is a captured block.
  Value filter_with_input(const Expr& e, const Value& input) {
    if (e.kind != ExprKind::filter) return input;
    Arguments args{{filter_with_input(*e.parts[0], input)}, {}};
    for (size_t i = 1; i < e.parts.size(); ++i) args.positional.push_back(evaluate(*e.parts[i]));
    for (const auto& [name, value] : e.named) args.named.emplace_back(name, evaluate(*value));
    return apply_filter(e.text, args);
  }

  static void refuse_undefined(const Value& object) {
    if (object.is(Kind::undefined)) fail_render(fmt::format("'{}' is undefined", object.digits()));
  }

  // a.b: a method first, then an item.
  Value get_attribute(const Value& object, const std::string& name) const {
    if (object.is(Kind::undefined)) refuse_undefined(object);
    if (Value method = method_of(object, name); !method.is(Kind::undefined)) return method;
    if (const Value* found = object.find(name)) return *found;
    return Value::undefined(name);
  }

  // a[b]: an item first, then a method.
  Value get_item(const Expr& e) {
    const Value object = evaluate(*e.parts[0]), key = evaluate(*e.parts[1]);
    if (object.is(Kind::undefined)) refuse_undefined(object);
    if (object.is_mapping() || object.is(Kind::scope)) {
      for (const auto& [known, value] : object.pairs()) {
        if (equal(known, key)) return value;
      }
      return key.is(Kind::string) ? method_of(object, key.text().bytes) : Value::undefined(to_repr(key));
    }
    if (key.is(Kind::integer) || key.is(Kind::boolean)) {
      if (object.is_list()) {
        const auto size = static_cast<int64_t>(object.items().size());
        const int64_t index = key.as_integer() < 0 ? key.as_integer() + size : key.as_integer();
        return index >= 0 && index < size ? object.items()[static_cast<size_t>(index)] : Value::undefined("index " + to_repr(key));
      }
      if (object.is(Kind::string)) {
        const auto all = code_points(object.text().bytes);
        const auto size = static_cast<int64_t>(all.size());
        const int64_t index = key.as_integer() < 0 ? key.as_integer() + size : key.as_integer();
        if (index < 0 || index >= size) return Value::undefined("index " + to_repr(key));
        return Value::string(object.text().slice(all[static_cast<size_t>(index)].first, all[static_cast<size_t>(index)].second));
      }
    }
    if (key.is(Kind::string)) return method_of(object, key.text().bytes);
    return Value::undefined(to_repr(key));
  }

  Value get_slice(const Expr& e) {
    const Value object = evaluate(*e.parts[0]);
    if (object.is(Kind::undefined)) refuse_undefined(object);
    const bool is_string = object.is(Kind::string);
    if (!is_string && !object.is_list()) fail_render(fmt::format("a {} cannot be sliced", object.type_name()));
    const auto part = [&](size_t i) -> std::optional<int64_t> {
      if (!e.parts[i]) return std::nullopt;
      const Value v = evaluate(*e.parts[i]);
      if (v.is(Kind::none)) return std::nullopt;
      if (!v.is(Kind::integer) && !v.is(Kind::boolean)) fail_render("slice bounds must be integers");
      return v.as_integer();
    };
    const auto points = is_string ? code_points(object.text().bytes) : std::vector<std::pair<size_t, size_t>>();
    const auto size = static_cast<int64_t>(is_string ? points.size() : object.items().size());
    const int64_t step = part(3).value_or(1);
    if (step == 0) fail_render("a slice's step cannot be zero");
    const auto bound = [&](std::optional<int64_t> value, int64_t fallback) {
      if (!value) return fallback;
      const int64_t from_start = *value < 0 ? *value + size : *value;
      return step > 0 ? std::clamp<int64_t>(from_start, 0, size) : std::clamp<int64_t>(from_start, -1, size - 1);
    };
    const int64_t begin = bound(part(1), step > 0 ? 0 : size - 1), end = bound(part(2), step > 0 ? size : -1);
    Text text;
    List list;
    for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
      if (is_string) {
        text.append(object.text().slice(points[static_cast<size_t>(i)].first, points[static_cast<size_t>(i)].second));
      } else {
        list.push_back(object.items()[static_cast<size_t>(i)]);
      }
    }
    return is_string ? Value::string(std::move(text)) : Value::list(std::move(list), object.kind());
  }

  Value call(const Expr& e) {
    const Value callee = evaluate(*e.parts[0]);
    if (callee.is(Kind::scope)) {  // loop(...) of a recursive loop
      if (const Value* body = callee.find("__call__")) return body->callable()(arguments_of(e, 1));
    }
    if (!callee.is(Kind::function)) {
      const std::string name = e.parts[0]->text;
      fail_render(fmt::format("line {}: '{}' is {}, not a function", e.line, name, callee.is(Kind::undefined) ? "undefined" : callee.type_name()));
    }
    return callee.callable()(arguments_of(e, 1));
  }

  Value unary(const Expr& e) {
    const Value v = evaluate(*e.parts[0]);
    if (e.text == "not") return Value::boolean(!v.truth());
    if (!v.is_number()) fail_render(fmt::format("cannot negate a {}", v.type_name()));
    if (v.is(Kind::floating)) return Value::floating(e.text == "-" ? -v.as_double() : v.as_double());
    return Value::integer(e.text == "-" ? -v.as_integer() : v.as_integer());
  }

  Value binary(const std::string& op, const Value& a, const Value& b) {
    if (op == "~") {
      Text out = to_text(a);
      out.append(to_text(b));
      return Value::string(std::move(out));
    }
    if (a.is(Kind::undefined)) refuse_undefined(a);
    if (b.is(Kind::undefined)) refuse_undefined(b);
    if (op == "+") return add(a, b);
    if (op == "*" && (a.is(Kind::string) || a.is_list()) && b.is(Kind::integer)) return repeat(a, b.as_integer());
    if (op == "*" && a.is(Kind::integer) && (b.is(Kind::string) || b.is_list())) return repeat(b, a.as_integer());
    if (!a.is_number() || !b.is_number()) fail_render(fmt::format("'{}' cannot take a {} and a {}", op, a.type_name(), b.type_name()));
    return arithmetic(op, a, b);
  }

  Value repeat(const Value& value, int64_t count) {
    Text text;
    List list;
    for (int64_t i = 0; i < count; ++i) {
      count_step();
      if (value.is(Kind::string)) {
        emit(text, value.text());
      } else {
        list.insert(list.end(), value.items().begin(), value.items().end());
        if (list.size() > 1'000'000) fail_render("a list grows too long");
      }
    }
    return value.is(Kind::string) ? Value::string(std::move(text)) : Value::list(std::move(list), value.kind());
  }

  static Value arithmetic(const std::string& op, const Value& a, const Value& b) {
    const bool floating = a.is(Kind::floating) || b.is(Kind::floating) || op == "/";
    if ((op == "/" || op == "//" || op == "%") && b.as_double() == 0) fail_render("division by zero");
    if (floating) {
      const double x = a.as_double(), y = b.as_double();
      if (op == "-") return Value::floating(x - y);
      if (op == "*") return Value::floating(x * y);
      if (op == "/") return Value::floating(x / y);
      if (op == "//") return Value::floating(std::floor(x / y));
      if (op == "%") return Value::floating(x - std::floor(x / y) * y);
      return Value::floating(std::pow(x, y));
    }
    const int64_t x = a.as_integer(), y = b.as_integer();
    int64_t result = 0;
    bool overflow = false;
    if (op == "-") {
      overflow = __builtin_sub_overflow(x, y, &result);
    } else if (op == "*") {
      overflow = __builtin_mul_overflow(x, y, &result);
    } else if (op == "**") {
      const double power = std::pow(static_cast<double>(x), static_cast<double>(y));
      if (y < 0 || std::fabs(power) >= 9e15) return Value::floating(power);
      result = static_cast<int64_t>(power);
    } else {
      if (x == INT64_MIN && y == -1) fail_render("integer overflow");
      const int64_t quotient = x / y, rest = x % y;
      const bool adjust = rest != 0 && (rest < 0) != (y < 0);  // Python rounds down
      result = op == "//" ? quotient - adjust : rest + (adjust ? y : 0);
    }
    if (overflow) fail_render("integer overflow");
    return Value::integer(result);
  }

  Value compare_chain(const Expr& e) {
    Value left = evaluate(*e.parts[0]);
    for (size_t i = 0; i < e.operators.size(); ++i) {
      Value right = evaluate(*e.parts[i + 1]);
      if (!holds(e.operators[i], left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  static bool holds(const std::string& op, const Value& a, const Value& b) {
    if (op == "==") return equal(a, b);
    if (op == "!=") return !equal(a, b);
    if (op == "in") return contains(b, a);
    if (op == "not in") return !contains(b, a);
    if (a.is(Kind::undefined)) refuse_undefined(a);
    if (b.is(Kind::undefined)) refuse_undefined(b);
    const int order = compare(a, b);
    if (op == "<") return order < 0;
    if (op == ">") return order > 0;
    return op == "<=" ? order <= 0 : order >= 0;
  }

  Scope globals_;
  std::vector<Frame> scopes_;
  int64_t max_steps_, steps_ = 0;
  int calls_ = 0;
};
}  // namespace

struct JinjaTemplate::Impl {
  jinja::Body body;
};

JinjaTemplate::JinjaTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
JinjaTemplate::JinjaTemplate(JinjaTemplate&&) noexcept = default;
JinjaTemplate& JinjaTemplate::operator=(JinjaTemplate&&) noexcept = default;
JinjaTemplate::~JinjaTemplate() = default;

Result<JinjaTemplate> JinjaTemplate::parse(std::string_view source) {
  try {
    return JinjaTemplate(std::make_unique<Impl>(Impl{parse_template(source)}));
  } catch (const SyntaxError& error) {
    return fail(ErrorCode::invalid_argument, "chat template, line {}: {}", error.line, error.message);
  }
}

Result<MarkedText> JinjaTemplate::render(const nlohmann::ordered_json& variables, const nlohmann::ordered_json& trusted_variables, const JinjaLimits& limits) const {
  try {
    const WorkLimit work(limits.work_bytes);
    Renderer renderer(limits.steps);
    for (const auto& [name, value] : variables.items()) renderer.define(name, Value::from_json(value, false));
    for (const auto& [name, value] : trusted_variables.items()) renderer.define(name, Value::from_json(value, true));
    Text text = renderer.run(impl_->body);
    MarkedText out;
    for (size_t at = 0; at < text.origin.size();) {
      const size_t begin = text.origin.find('\1', at);
      if (begin == std::string::npos) break;
      const size_t end = std::min(text.origin.find('\0', begin), text.origin.size());
      out.trusted.push_back({begin, end});
      at = end;
    }
    out.text = std::move(text.bytes);
    return out;
  } catch (const RenderError& error) {
    return fail(ErrorCode::invalid_argument, "chat template: {}", error.message);
  }
}
}  // namespace nibble
