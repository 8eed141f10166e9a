"""Asks one question over gRPC and prints what happens.

make up                                  # in another terminal
.venv/bin/python examples/client.py [HOST:PORT]
"""

import sys

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7001"
question = pb.Chat(messages=[pb.ChatMessage(role="user", content="What is 6 times 7?")])
query = pb.Query(chat=question, answer_type="number", policy=pb.Policy(rule="beta-posterior:confidence=0.95"))
with grpc.insecure_channel(address) as channel:
    for response in ReasoningServiceStub(channel).Run(pb.RunRequest(query=query)):
        print(response.event)
