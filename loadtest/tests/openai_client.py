"""Makes calls with OpenAI's own client library for openai.rs and prints the results as JSON.

    python openai_client.py BASE_URL CALLS

CALLS is a JSON array of objects:
    consumer        the consumer
    prompt, output  tokens that the mock host counts
    via             "create"; "stream": create(stream=True); "helper": chat.completions.stream()
    asynchronous    whether to use AsyncOpenAI (false)
    options         stream_options (omitted)
    retries         max_retries (0)

The calls are made sequentially. The output is an array with the result of each call; see Call.
"""

import asyncio
import json
import sys
import time

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

# For each attempt. No test waits longer.
TIMEOUT_S = 30
RECORDED_HEADERS = ("retry-after", "x-should-retry", "ratelimit")


class Call:
    """One call and its result."""

    def __init__(self, url, call):
        self.call = call
        self.text = ""
        self.usages = []  # of each chunk that has the field, including null
        self.finish = None
        self.chunks = 0
        self.without_choices = 0
        self.error = None
        self.attempts = []  # each: sent, answered (monotonic seconds), retry (its number), status, headers
        self.client = {
            "base_url": f"{url}/v1",
            "api_key": "none",
            "timeout": TIMEOUT_S,
            "max_retries": call.get("retries", 0),
            "default_headers": {
                "x-mse-consumer": call["consumer"],
                "x-mock-prompt-tokens": str(call["prompt"]),
                "x-mock-output-tokens": str(call["output"]),
            },
        }
        self.request = {"model": "mock", "messages": [{"role": "user", "content": "How many tokens is this?"}]}
        if "options" in call:
            self.request["stream_options"] = call["options"]

    def sent(self, request):
        retry = request.headers["x-stainless-retry-count"]
        self.attempts.append({"sent": time.monotonic(), "retry": int(retry)})

    def answered(self, response):
        headers = {name: response.headers[name] for name in RECORDED_HEADERS if name in response.headers}
        self.attempts[-1].update(answered=time.monotonic(), status=response.status_code, headers=headers)

    def completion(self, completion):
        # The library accepts any shape, but the response must have OpenAI's shape.
        ChatCompletion.model_validate(completion.to_dict())
        self.text = completion.choices[0].message.content
        self.finish = completion.choices[0].finish_reason
        self.usages.append(self.usage(completion))

    def chunk(self, chunk):
        ChatCompletionChunk.model_validate(chunk.to_dict())
        self.chunks += 1
        self.without_choices += not chunk.choices
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
        if "usage" in chunk.model_fields_set:
            self.usages.append(self.usage(chunk))

    @staticmethod
    def usage(answer):
        return answer.usage and answer.usage.to_dict()

    def failed(self, error):
        body = error.body if isinstance(error.body, dict) else {}
        self.error = {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "code": error.code,
            "type": error.type,
            "message": body.get("message"),
            "text": str(error),
        }

    def make(self):
        http = openai.DefaultHttpxClient(event_hooks={"request": [self.sent], "response": [self.answered]})
        with openai.OpenAI(**self.client, http_client=http) as client:
            chat = client.chat.completions
            if self.call["via"] == "create":
                self.completion(chat.create(**self.request))
            elif self.call["via"] == "stream":
                for chunk in chat.create(**self.request, stream=True):
                    self.chunk(chunk)
            else:
                with chat.stream(**self.request) as stream:
                    for event in stream:
                        if event.type == "chunk":
                            self.chunk(event.chunk)
                    final = stream.get_final_completion()
                assert final.choices[0].message.content == self.text, final
                assert self.usage(final) == (self.usages[-1] if self.usages else None), final

    async def make_asynchronously(self):
        async def sent(request):
            self.sent(request)

        async def answered(response):
            self.answered(response)

        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [sent], "response": [answered]})
        async with openai.AsyncOpenAI(**self.client, http_client=http) as client:
            chat = client.chat.completions
            if self.call["via"] == "create":
                self.completion(await chat.create(**self.request))
            elif self.call["via"] == "stream":
                async for chunk in await chat.create(**self.request, stream=True):
                    self.chunk(chunk)
            else:
                raise ValueError("the helper is only called synchronously")

    def result(self):
        try:
            if self.call.get("asynchronous"):
                asyncio.run(self.make_asynchronously())
            else:
                self.make()
        except openai.APIError as error:
            self.failed(error)
        seen = ("text", "usages", "finish", "chunks", "without_choices", "error", "attempts")
        return {name: getattr(self, name) for name in seen}


def main():
    url, calls = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps([Call(url, call).result() for call in calls]))


if __name__ == "__main__":
    main()
