"""Questions that the project ships with gold answers, and what a small real model answered to them.

`prompts` builds the exact prompt of a question, `record` asks an engine and writes a trace, `selection` chooses from
the traces the questions that `dynasor demo` and the examples use (`bundled.jsonl`). `question_set` reads the files.

    candidates.jsonl                          short factual and arithmetical questions
    arithmetic.jsonl                          problems to be worked out step by step
    bundled.jsonl                             the chosen ones; written by `selection`
    traces/smollm2-135m.jsonl.gz              32 answers to each candidate
    traces/smollm2-135m-arithmetic.jsonl.gz   16 worked answers to each problem
"""
