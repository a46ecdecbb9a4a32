"""The server of the React chat: it names the topic of each answer, and writes the answer as the AI SDK's UI message stream.

It keeps no state: what a chat consists of is the newest event of a topic. A chat's id is random, so its address is the right to
read it. In your application, your users' rights decide, and your database keeps the chats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jwt
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi import Path as PathParameter
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from broker.client import Cancelled, Client

BROKER_URL, SECRET = os.environ["BROKER_URL"], os.environ["BROKER_SECRET"]
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")
HERE = Path(__file__).parent
MAX_ANSWERS = 100  # at a time
ID = "[0-9a-f-]{36}"
ChatId = Annotated[str, PathParameter(pattern=f"^{ID}$")]  # no pattern such as *
Topic = Annotated[str, PathParameter(pattern=rf"^chats\.{ID}\.[A-Za-z0-9_-]{{8}}$")]

RIGHTS = {"publish": ["chats.**"], "subscribe": ["chats.**"]}
openai = AsyncOpenAI()
broker = Client(BROKER_URL, token=jwt.encode({"broker": RIGHTS}, SECRET))
tasks = set[asyncio.Task[None]]()


class Part(BaseModel):
    type: str
    text: str = ""


class Message(BaseModel):
    """A message as useChat has it."""

    id: str
    role: Literal["user", "assistant"]
    parts: list[Part]


class Question(BaseModel):
    """What useChat sends: all messages of the chat, the question last."""

    id: str = Field(pattern=f"^{ID}$")
    messages: list[Message] = Field(min_length=1, max_length=200)


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with broker, openai:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"])  # and yours


@app.get("/", response_class=HTMLResponse)
def page() -> str:
    return (HERE / "index.html").read_text().replace("{{broker}}", BROKER_URL)


@app.get("/app.js")
def script() -> FileResponse:
    return FileResponse(HERE / "build" / "app.js")


@app.post("/api/chat")
async def ask(question: Question) -> dict[str, str]:
    if len(tasks) >= MAX_ANSWERS:
        raise HTTPException(503, "Too many answers are being written; try again in a moment.")
    topic = f"chats.{question.id}.{secrets.token_urlsafe(6)}"
    messages = [message.model_dump() for message in question.messages]
    chat = json.dumps({"topic": topic, "messages": messages})
    await broker.publish(f"chats.{question.id}", chat, retain="24h")
    task = asyncio.create_task(write(topic, question.messages))
    tasks.add(task)  # asyncio itself keeps no reference
    task.add_done_callback(tasks.discard)
    return {"topic": topic}


async def write(topic: str, messages: list[Message]) -> None:
    asked: list[Any] = [
        {"role": message.role, "content": "".join(part.text for part in message.parts)}
        for message in messages
    ]
    with contextlib.suppress(Cancelled):  # the Stop button
        async with broker.stream(topic, retain="24h") as stream:  # if the model fails, it ends as `failed`

            async def send(**part: str) -> None:
                await stream.send(json.dumps(part))

            await send(type="start", messageId=topic)
            await send(type="text-start", id="text")
            async for chunk in await openai.chat.completions.create(model=MODEL, messages=asked, stream=True):
                for choice in chunk.choices:
                    await send(type="text-delta", id="text", delta=choice.delta.content or "")
            await send(type="text-end", id="text")
            await send(type="finish")


@app.get("/api/chat/{chat_id}", response_model=None)
async def chat(chat_id: ChatId) -> Any:
    """The messages up to the last question, and the topic of the answer to it; 204 for a new chat."""
    events = (await broker.history(f"chats.{chat_id}", last=1)).events
    return json.loads(events[0].data) if events else Response(status_code=204)


@app.get("/api/chat/{chat_id}/token")
async def token(chat_id: ChatId) -> str:
    return jwt.encode({"broker": {"subscribe": [f"chats.{chat_id}.*"]}, "exp": time.time() + 600}, SECRET)


@app.post("/api/stop/{topic}", status_code=202)
async def stop(topic: Topic) -> None:
    await broker.cancel(topic)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
