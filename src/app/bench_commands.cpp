#include "app/bench_commands.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "app/bench_checkpoint.h"
#include "app/bench_offline.h"
#include "app/bench_ops.h"
#include "app/bench_report.h"
#include "app/bench_serving.h"
#include "app/bench_verify.h"
#include "app/eval_command.h"
#include "app/fidelity_command.h"
#include "app/model_loader.h"

namespace nibble {
void add_model_detail_flags(CLI::App& app, ModelFlags& flags) {
  app.add_option("--revision", flags.revision, "branch or commit in the cache");
  app.add_option("--tokenizer-path", flags.tokenizer_path, "folder of the tokenizer (default: the model's)");
  app.add_option("--device", flags.device, "auto, cpu, cuda, cuda:N")->capture_default_str();
  app.add_option("--threads", flags.threads, "CPU threads (default: one per core)");
  app.add_option("--dtype", flags.dtype, "auto, bfloat16, float32 (everything in f32: to compare with a reference)")->capture_default_str();
  app.add_option("--load-format", flags.load_format, "auto, safetensors, dummy")->capture_default_str();
  app.add_option("--quantization", flags.quantization, "must agree with the checkpoint");
  app.add_option("--kv-cache-dtype", flags.kv_cache_dtype, "auto, float32, bfloat16, fp8_e4m3")->capture_default_str();
  app.add_option("--activation-quant", flags.activation_quant, "auto, none, nvfp4")->capture_default_str();
  app.add_option("--json-model-override-args", flags.override_args, "JSON merged into config.json");
}

void add_speculative_flags(CLI::App& app, SpeculativeFlags& flags) {
  app.add_option("--speculative-algorithm", flags.algorithm, "NEXTN, EAGLE, FROZEN_KV_MTP: draft with the model's MTP assistant");
  app.add_option("--speculative-draft-model-path,--speculative-draft-model", flags.draft_model_path, "folder of the assistant");
  app.add_option("--speculative-draft-model-quantization", flags.draft_quantization, "unquant");
  app.add_option("--speculative-num-steps", flags.num_steps, "drafts a round (default: 5)");
  app.add_option("--speculative-num-draft-tokens", flags.num_draft_tokens, "must be num-steps + 1 (default)");
  app.add_option("--speculative-eagle-topk", flags.eagle_topk, "1 (default)");
  app.add_option("--speculative-adaptive", flags.adaptive, "on: at most num-steps drafts, as measured time advises; off: always")->capture_default_str()->expected(0, 1)->default_str("on");
}

namespace {
void add_serving(CLI::App& bench, const std::string& command_line, std::function<int()>& action) {
  auto flags = std::make_shared<BenchServingFlags>();
  flags->command_line = command_line;
  CLI::App* app = bench.add_subcommand("serving", "load test of a server: time to first token, inter-token latency, throughput over concurrency");
  app->add_option("--base-url", flags->base_url, "the server")->capture_default_str();
  app->add_option("--api-key", flags->api_key, "sent as Bearer token")->capture_default_str();
  app->add_option("--model", flags->model_name, "the model's name in requests (default: the first that the server lists)");
  app->add_option("--model-path", flags->model.model_path, "run this model in process instead of asking a server")->each([flags](const std::string&) { flags->in_process = true; });
  app->add_option("--prompts", flags->prompts, "JSONL of {question_id, category, messages} (default: our own 880 prompts in 11 categories)");
  app->add_option("--workload", flags->workload, "random (token ids) or words (chat) instead of --prompts; both synthetic");
  app->add_option("--input-len", flags->input_len, "tokens (random) or words of a synthetic prompt")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--random-ids", flags->random_ids, "range of random token ids, LOW:HIGH")->capture_default_str();
  app->add_option("--output-len", flags->output_len, "exactly so many output tokens (ignore_eos) instead of --max-tokens");
  app->add_option("--max-tokens", flags->max_tokens, "output cap")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--num-prompts,--num-examples", flags->num_prompts, "of the shuffled prompts (default: all of a file; four per request in flight, at least 16, of a synthetic workload)");
  app->add_option("--concurrency", flags->concurrency, "requests in flight; a list sweeps")->capture_default_str();
  app->add_option("--rate", flags->rate, "open loop: Poisson arrivals per second instead of --concurrency");
  app->add_option("--seed", flags->seed, "of order, arrivals and synthetic prompts")->capture_default_str();
  app->add_option("--warmup", flags->warmup, "requests before the clock runs (default: the larger of concurrency and 8)");
  app->add_option("--repeats", flags->repeats, "measure so often; the median run and the spread are reported")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_flag("--multi-turn", flags->multi_turn, "all turns of a conversation in order, with the model's own replies between");
  app->add_flag("--no-shared-prefix", flags->no_shared_prefix, "a salt of its own for each request: nothing comes from the prefix cache");
  app->add_flag("--usage-per-chunk", flags->chunk_usage, "ask for usage on every chunk (continuous_usage_stats)");
  app->add_option("--slo", flags->slo, "limits in ms for goodput: ttft=500,itl=50");
  app->add_option("--extra-request", flags->extra, "JSON merged into every request");
  app->add_option("--client-tokenizer", flags->tokenizer_path, "folder of a tokenizer.json, to count input tokens without the chat template");
  app->add_option("--load-format", flags->model.load_format, "in process: auto, safetensors, dummy")->capture_default_str();
  app->add_option("--device", flags->model.device, "in process: auto, cpu, cuda, cuda:N")->capture_default_str();
  app->add_option("--threads", flags->model.threads, "in process: CPU threads");
  app->add_option("--out", flags->out, "folder for results")->capture_default_str();
  app->add_option("--name", flags->name, "in the result's folder name");
  app->add_flag("--json", flags->json, "machine-readable");
  app->callback([flags, &action] { action = [flags] { return run_bench_serving(*flags); }; });
}

void add_offline(CLI::App& bench, const std::string& command_line, std::function<int()>& action) {
  auto flags = std::make_shared<BenchOfflineFlags>();
  flags->command_line = command_line;
  CLI::App* app = bench.add_subcommand("offline", "the engine in this process: prefill and decode at a given batch and context");
  app->add_option("MODEL,--model-path,--model", flags->model.model_path, "model folder, id in the local Hugging Face cache, or demo")->capture_default_str();
  add_model_detail_flags(*app, flags->model);
  app->add_option("--batch", flags->batch, "sequences at once; a list sweeps")->capture_default_str();
  app->add_option("--input-len", flags->input_len, "prompt tokens; a list sweeps")->capture_default_str();
  app->add_option("--output-len", flags->output_len, "decoded tokens")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--chunked-prefill-size", flags->chunked_prefill, "rows of prefill in a step")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--max-total-tokens", flags->model.max_total_tokens, "KV cache (default: what the largest batch needs)");
  add_speculative_flags(*app, flags->model.speculative);
  app->add_option("--force-acceptance", flags->forced, "SYNTHETIC: accept so many tokens a round whatever is right; timing only; a list runs each")->delimiter(',')->check(CLI::PositiveNumber);
  app->add_option("--repeats", flags->repeats, "per measurement")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--seed", flags->seed, "of the random prompts")->capture_default_str();
  app->add_option("--out", flags->out, "folder for results (default: none)");
  app->add_option("--name", flags->name, "in the result's folder name");
  app->add_flag("--json", flags->json, "machine-readable");
  app->callback([flags, &action] { action = [flags] { return run_bench_offline(*flags); }; });
}

void add_verify(CLI::App& bench, std::function<int()>& action) {
  auto flags = std::make_shared<BenchVerifyFlags>();
  CLI::App* app = bench.add_subcommand("verify-spec", "greedy output with and without speculation, bit by bit; also spelled bench --verify-spec");
  app->add_option("MODEL,--model-path,--model", flags->model.model_path, "model folder, id in the local Hugging Face cache, or demo")->capture_default_str();
  add_model_detail_flags(*app, flags->model);
  add_speculative_flags(*app, flags->model.speculative);
  app->add_option("--prompts", flags->prompts, "JSONL of {question_id, category, messages} (default: the own 880 prompts; random ids without a tokenizer)");
  app->add_option("--num-prompts", flags->num_prompts, "so many of them")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--concurrency", flags->concurrency, "requests at once; a list runs each")->capture_default_str()->delimiter(',')->check(CLI::PositiveNumber);
  app->add_option("--max-tokens", flags->max_tokens, "of a reply")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--force-acceptance", flags->forced, "SYNTHETIC: accept so many tokens a round whatever is right; timing only, nothing is compared");
  app->add_flag("--json", flags->json, "machine-readable");
  app->callback([flags, &action] { action = [flags] { return run_bench_verify(*flags); }; });
}

// For those who work on nibble: not in the list of commands.
void add_checkpoint(CLI::App& bench, std::function<int()>& action) {
  auto flags = std::make_shared<BenchCheckpointFlags>();
  CLI::App* app = bench.add_subcommand("checkpoint", "a BF16 checkpoint of a config's shape with random weights")->group("");
  app->add_option("CONFIG", flags->config, "folder with config.json")->required();
  app->add_option("OUT", flags->out, "folder to write")->required();
  app->add_option("--max-shard-size", flags->max_shard_size, "of one file")->capture_default_str();
  app->add_option("--seed", flags->seed, "of the weights")->capture_default_str();
  app->add_option("--threads", flags->threads, "CPU threads (default: one per core)")->check(CLI::NonNegativeNumber);
  app->callback([flags, &action] { action = [flags] { return run_bench_checkpoint(*flags); }; });
}

void add_ops(CLI::App& bench, std::function<int()>& action) {
  auto flags = std::make_shared<BenchOpsFlags>();
  CLI::App* app = bench.add_subcommand("ops", "linear kernels in every weight format and, on a GPU, attention, in GB/s and TFLOP/s");
  app->add_option("--device", flags->device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  app->add_option("--threads", flags->threads, "CPU threads (default: one per core)");
  app->add_option("--ops", flags->ops, "linear, attention or all")->check(CLI::IsMember({"linear", "attention", "all"}))->capture_default_str();
  app->add_option("--out", flags->out, "folder for the JSON");
  app->add_option("--seconds", flags->seconds, "per measurement")->capture_default_str()->check(CLI::PositiveNumber);
  app->callback([flags, &action] { action = [flags] { return run_bench_ops(*flags); }; });
}
void add_reports(CLI::App& bench, std::function<int()>& action) {
  struct Flags {
    std::vector<std::string> runs;
    std::string a, b, out;
    bool force = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* compare = bench.add_subcommand("compare", "two stored runs side by side: load tests as ratios, evaluations as a paired test");
  compare->add_option("A", flags->a, "a run's folder")->required();
  compare->add_option("B", flags->b, "another")->required();
  compare->add_flag("--force", flags->force, "even when workload, token source, output cap or concurrency differ");
  compare->callback([flags, &action] { action = [flags] { return run_bench_compare(flags->a, flags->b, flags->force); }; });
  CLI::App* report = bench.add_subcommand("report", "report.md and report.json of stored runs (tools/plot_results.py draws them)");
  report->add_option("RUNS", flags->runs, "folders of bench serving and eval")->required();
  report->add_option("--out", flags->out, "folder to write to (default: the report to stdout)");
  report->callback([flags, &action] { action = [flags] { return run_bench_report(flags->runs, flags->out); }; });
}
}  // namespace

void add_bench_commands(CLI::App& bench, const std::string& command_line, std::function<int()>& action) {
  bench.require_subcommand(1);
  add_serving(bench, command_line, action);
  add_offline(bench, command_line, action);
  add_ops(bench, action);
  add_checkpoint(bench, action);
  add_verify(bench, action);
  add_reports(bench, action);
}

void add_eval_command(CLI::App& parent, const std::string& command_line, std::function<int()>& action) {
  auto flags = std::make_shared<EvalFlags>();
  flags->command_line = command_line;
  CLI::App* app = parent.add_subcommand("eval", "accuracy of a server, or of a model in this process");
  app->add_option("NAME", flags->name, "gsm8k");
  app->add_option("--data", flags->data, "gsm8k: its test.jsonl, or rows of {problem, expected_answer}");
  app->add_option("--task", flags->task, "a JSONL file of items, with an optional header line");
  app->add_option("--regrade", flags->regrade, "mark the generations of a predictions file or run folder again; asks no model");
  const auto fidelity = std::make_shared<FidelityFlags>();
  app->add_option("--fidelity", fidelity->reference, "a reference checkpoint: KL divergence, top-1 agreement and perplexity of --model-path against it");
  app->add_option("--prompts", fidelity->prompts, "fidelity: JSONL of {text}, {ids} or {messages} (default: some of our own prompts)");
  app->add_option("--baseline", flags->baseline, "an earlier run folder or predictions file: paired test against it");
  app->add_option("--resume", flags->resume, "an interrupted run's folder: asks what is missing");
  app->add_option("--base-url", flags->base_url, "the server")->capture_default_str();
  app->add_option("--api-key", flags->api_key, "sent as Bearer token")->capture_default_str();
  app->add_option("--model", flags->model_name, "the model's name in requests (default: the first that the server lists)");
  app->add_option("--model-path", flags->model.model_path, "run this model in process instead of asking a server")->each([flags](const std::string&) { flags->in_process = true; });
  app->add_flag("--in-process", flags->in_process, "no server: the model of --model-path (default: demo) in this process");
  add_model_detail_flags(*app, flags->model);
  add_speculative_flags(*app, flags->model.speculative);
  app->add_option("--num-examples", flags->num_examples, "the first rows only");
  app->add_option("--concurrency", flags->concurrency, "requests in flight")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--n-repeats", flags->n_repeats, "samples of every row (default: what the task says)")->check(CLI::PositiveNumber);
  app->add_option_function<int64_t>("--max-tokens", [flags](const int64_t& n) { flags->max_tokens = n; }, "output cap (default: the context)");
  app->add_option_function<int64_t>("--seed", [flags](const int64_t& n) { flags->seed = n; }, "of sampling; repeat k gets seed + k");
  app->add_option("--temperature", flags->temperature, "0: greedy")->capture_default_str();
  app->add_option("--top-p", flags->top_p, "")->capture_default_str();
  app->add_option("--min-p", flags->min_p, "")->capture_default_str();
  app->add_option("--repetition-penalty", flags->repetition_penalty, "")->capture_default_str();
  app->add_option("--out", flags->out, "folder for results")->capture_default_str();
  app->add_option("--run-name", flags->run_name, "in the result's folder name (default: the task's)");
  app->add_flag("--json", flags->json, "machine-readable");
  app->callback([flags, fidelity, &action] {
    if (fidelity->reference.empty()) {
      action = [flags] { return run_eval_command(*flags); };
      return;
    }
    fidelity->candidate = flags->model;
    if (flags->num_examples > 0) fidelity->num_examples = flags->num_examples;
    fidelity->json = flags->json;
    action = [fidelity] { return run_fidelity(*fidelity); };
  });
}
}  // namespace nibble
