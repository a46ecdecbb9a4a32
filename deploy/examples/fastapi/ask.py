"""FastAPI and openai-python: each answer of the model is a topic, which any page can read at any time.

`POST /ask` names the topic at once; `write` goes on without the request. The page follows the topic at the broker. A topic's
name is random, so its address is the right to read it, and to stop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import jwt
import uvicorn
from fastapi import Body, FastAPI, HTTPException
from fastapi import Path as PathParameter
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse
from openai import AsyncOpenAI

from broker.client import Cancelled, Client

BROKER_URL, SECRET = os.environ["BROKER_URL"], os.environ["BROKER_SECRET"]
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
MAX_ANSWERS = 100  # at a time
Topic = Annotated[str, PathParameter(pattern=r"^answers\.[A-Za-z0-9_-]{16}$")]  # no pattern such as answers.*
PAGE = Path(__file__).with_name("page.html").read_text().replace("{{broker}}", BROKER_URL)

openai = AsyncOpenAI()
broker = Client(BROKER_URL, token=jwt.encode({"broker": {"publish": ["answers.*"]}}, SECRET))
tasks = set[asyncio.Task[None]]()


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with broker, openai:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])  # and yours


@app.get("/", response_class=HTMLResponse)
def page() -> str:
    return PAGE


@app.post("/ask", status_code=202)
async def ask(question: Annotated[str, Body(embed=True, min_length=1, max_length=10_000)]) -> str:
    if len(tasks) >= MAX_ANSWERS:
        raise HTTPException(503, "Too many answers are being written; try again in a moment.")
    topic = f"answers.{secrets.token_urlsafe(12)}"
    task = asyncio.create_task(write(topic, question))
    tasks.add(task)  # asyncio itself keeps no reference
    task.add_done_callback(tasks.discard)
    return topic


async def write(topic: str, question: str) -> None:
    with contextlib.suppress(Cancelled):  # the page's Stop button
        async with broker.stream(topic, retain="24h") as answer:  # if the model fails, it ends as `failed`
            async for chunk in await openai.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": question}], stream=True
            ):
                for choice in chunk.choices:
                    await answer.send(choice.delta.content or "")


@app.get("/token/{topic}")
async def token(topic: Topic) -> str:
    return jwt.encode({"broker": {"subscribe": [topic]}, "exp": time.time() + 600}, SECRET)


@app.post("/stop/{topic}", status_code=202)
async def stop(topic: Topic) -> None:
    await broker.cancel(topic)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
