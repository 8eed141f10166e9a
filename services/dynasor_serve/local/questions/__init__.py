"""Questions that the project ships with gold answers, and what a small real model answered to them.

`prompts` builds the exact prompt of a question, `record` asks an engine and writes a trace, `selection` chooses from
the traces the questions that `dynasor demo` and the examples use (`bundled.jsonl`). `question_set` reads the files.

    candidates.jsonl                          short factual and arithmetical questions
    arithmetic.jsonl                          problems to be worked out step by step
    word-problems.jsonl                       120 problems of one to three steps, the former among them
    bundled.jsonl                             the chosen ones; written by `selection`
    traces/smollm2-135m.jsonl.gz              32 answers to each candidate
    traces/smollm2-135m-arithmetic.jsonl.gz   16 worked answers to each problem
    traces/word-problems-votes.jsonl.gz       16 worked answers to each of the first 100 word problems
    traces/word-problems-chains.jsonl.gz      a chain, probed every 16 tokens, for each of the first 60
    traces/word-problems-trees.jsonl.gz       a Rebase tree of width 4 for each of the first 12

The last three were written by `dynasor record` on the CPU vLLM (T = 0.5). The model is weak at them (8 % of the samples
are right): they show machinery, and are no benchmark. A prompt with `[[trace:word-problems/ID#probes]]` is answered by
the chain, `#samples` and `#steps` by the others.
"""
