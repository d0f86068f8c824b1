"""Samples to token ids, loss weights and soft inputs, through the model's own chat template."""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment

from training import media

PROMPT_WEIGHT, NEWLINE_WEIGHT = 0.05, 0.1
TURN, END_OF_TURN, NEWLINE = 105, 106, 107


def load_template(path):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False, **k)
    return env.from_string(open(path, encoding="utf-8").read())


class Renderer:
    def __init__(self, template_path, tokenizer):
        self.template, self.tokenizer = load_template(template_path), tokenizer
        self.silent = {tokenizer.token_to_id(str(d)) for d in range(10)} | set(range(100)) - {0}  # prompt tokens that carry no loss
        ids = {kind: [tokenizer.token_to_id(t) for t in (f"<|{kind}>", f"<|{kind}|>", f"<{kind}|>")] for kind in ("image", "audio")}
        self.wrapped = {v[1]: v for v in ids.values()}  # placeholder -> begin, soft, end
        self.silent |= {i for v in ids.values() for i in v}
        self.model_turn = tokenizer.encode("<|turn>model\n", add_special_tokens=False).ids

    def prompt(self, s):
        messages = s["messages"]
        if not s["tools"] and all(isinstance(m["content"], str) and m["role"] != "tool" and "tool_calls" not in m and "<" not in m["content"] for m in messages):
            return self.plain_prompt(messages, s["thinking"])
        kwargs = {"enable_thinking": True} if s["thinking"] else {}
        return self.template.render(messages=messages, tools=s["tools"], documents=None, add_generation_prompt=True, bos_token="<bos>", **kwargs)

    @staticmethod
    def plain_prompt(messages, thinking):
        """What the template writes for turns of plain text, without running it: it is the slowest step of the data."""
        leads = messages[0]["role"] == "system"
        out = ["<bos>"]
        if thinking or leads:
            out.append("<|turn>system\n" + ("<|think|>\n" if thinking else "") + (messages[0]["content"].strip() if leads else "") + "<turn|>\n")
        for m in messages[leads:]:
            out.append(f"<|turn>{'model' if m['role'] == 'assistant' else m['role']}\n{m['content'].strip()}<turn|>\n")
        return "".join(out) + ("<|turn>model\n" if thinking else "<|turn>model\n<|channel>thought\n<channel|>")

    def prompt_ids(self, s):
        """(ids with soft tokens in place, soft inputs in order)"""
        ids = self.tokenizer.encode(self.prompt(s), add_special_tokens=False).ids
        if not s["media"]:
            return ids, []
        soft = [media.soft_inputs(m) for m in s["media"]]
        out, left = [], iter(soft)
        for i in ids:
            if i in self.wrapped:
                begin, one, end = self.wrapped[i]
                out += [begin] + [one] * len(next(left)[1]) + [end]
            else:
                out.append(i)
        return out, soft

    def encode(self, s):
        """(ids, weights, soft inputs): weights[i] is the loss weight of predicting ids[i]. Digits and media of the prompt carry none."""
        ids, soft = self.prompt_ids(s)
        reply = self.tokenizer.encode(s["reply"], add_special_tokens=False).ids
        weights = [0.0 if i in self.silent else PROMPT_WEIGHT for i in ids] + [1.0] * len(reply)
        if s["all_turns"]:
            self.weigh_turns(ids, weights)
        ids = ids + reply
        if s["reply"].endswith("<turn|>"):
            ids.append(NEWLINE)
            weights.append(NEWLINE_WEIGHT)
        return ids, weights, soft

    def weigh_turns(self, ids, weights):
        """The model's earlier turns count as its reply does."""
        n, inside = len(self.model_turn), False
        for i in range(n, len(ids)):
            if ids[i - n : i] == self.model_turn and ids[i] != 100:  # the last turn's empty thought begins with 100
                inside = True
            if inside:
                weights[i] = 1.0
                inside = ids[i] != END_OF_TURN
