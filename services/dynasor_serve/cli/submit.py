"""`dynasor submit`: hand a question in and return at once with its id."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli import query_options as options
from dynasor_serve.cli.connection import CALL_SECONDS, DEFAULT_ADDRESS, AddressOption, connected
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP
from dynasor_serve.cli.failures import refusal
from dynasor_serve.cli.interruptions import run_async
from dynasor_serve.cli.presentation import one_line_json

app = typer.Typer()


@app.command(epilog=EXIT_CODES_HELP)
def submit(
    question: options.QuestionArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    prompt: options.PromptOption = False,
    system: options.SystemOption = "",
    answer_type: options.AnswerTypeOption = "text",
    model: options.ModelOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the bare id.")] = False,
    algorithm: options.AlgorithmOption = options.ALGORITHMS[0],
    max_samples: options.MaxSamplesOption = None,
    width: options.WidthOption = None,
    rule: options.RuleOption = "",
    budget_tokens: options.BudgetOption = 0,
    deadline: options.DeadlineOption = None,
    temperature: options.TemperatureOption = None,
    top_p: options.TopPOption = None,
    max_tokens: options.MaxTokensOption = None,
    stop: options.StopOption = None,
    query_class: options.ClassOption = options.ClassName.STANDARD,
    tenant: options.TenantOption = "default",
    idempotency_key: options.IdempotencyKeyOption = "",
    label: options.LabelOption = None,
) -> None:
    """Ask a question and return at once: prints the query's id. It is safe from then on.

    `dynasor watch ID` follows it, `dynasor get ID` reads its answer.
    """
    query = options.QueryOptions(
        question=options.read_question(question),
        is_prompt=prompt,
        system=system,
        answer_type=answer_type,
        model=model,
        algorithm=algorithm,
        max_samples=max_samples,
        width=width,
        rule=rule,
        budget_tokens=budget_tokens,
        deadline_seconds=deadline,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        query_class=query_class,
        tenant=tenant,
        idempotency_key=idempotency_key,
        labels=tuple(label or ()),
    )
    response = run_async(_submit(query.message(), address))
    if as_json:
        print(one_line_json({"query_id": response.query_id, "already_accepted": response.already_accepted}))
    else:
        print(response.query_id)


async def _submit(query: pb.Query, address: str) -> pb.SubmitResponse:
    async with connected(address) as stub:
        try:
            return await stub.Submit(pb.SubmitRequest(query=query), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal(error, address) from error
