"""Samples to token ids and loss weights, through the model's own chat template."""

import json

from jinja2.sandbox import ImmutableSandboxedEnvironment


def load_template(path):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False, **k)
    return env.from_string(open(path, encoding="utf-8").read())


PROMPT_WEIGHT, NEWLINE_WEIGHT = 0.05, 0.1


class Renderer:
    def __init__(self, template_path, tokenizer):
        self.template, self.tokenizer = load_template(template_path), tokenizer

    def prompt(self, s):
        kwargs = {"enable_thinking": True} if s["thinking"] else {}
        return self.template.render(messages=s["messages"], tools=s["tools"], documents=None, add_generation_prompt=True, bos_token="<bos>", **kwargs)

    def encode(self, s):
        """(ids, weights): weights[i] is the loss weight of predicting ids[i]. Digits of the prompt carry none."""
        prompt = self.tokenizer.encode(self.prompt(s), add_special_tokens=False).ids
        reply = self.tokenizer.encode(s["reply"], add_special_tokens=False).ids
        digits = self.digit_ids()
        weights = [0.0 if i in digits else PROMPT_WEIGHT for i in prompt] + [1.0] * len(reply)
        ids = prompt + reply
        if s["reply"].endswith("<turn|>"):
            ids.append(107)
            weights.append(NEWLINE_WEIGHT)
        return ids, weights

    def digit_ids(self):
        if not hasattr(self, "_digits"):
            self._digits = {self.tokenizer.token_to_id(str(d)) for d in range(10)} | set(range(100)) - {0}
        return self._digits
