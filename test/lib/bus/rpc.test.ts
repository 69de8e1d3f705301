import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Delivery, MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { instanceReplyQueue } from "../../../lib/bus/queues.ts";
import { RpcClient, reply } from "../../../lib/bus/rpc.ts";
import { AppError } from "../../../lib/errors.ts";
import { deadLettersOf, nameOf, newQueue, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

let bus: MessageBus;

before(async () => {
  bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.sqlite")}`);
});
after(() => bus.close());

function newClient(): { readonly rpc: RpcClient; readonly replyQueue: string } {
  const replyQueue = instanceReplyQueue("orchestrator", randomUUID());
  return { rpc: new RpcClient(bus, { replyQueue }), replyQueue };
}

/** A queue whose questions are answered by `answer`; undefined: not at all. */
async function newCallee(answer: (question: Delivery) => Promise<string | undefined>): Promise<string> {
  const queue = await newQueue(bus);
  await bus.consume(queue, async (question) => {
    const text = await answer(question);
    if (text !== undefined) await reply(bus, question, { type: "validationResponse", body: Buffer.from(text) });
    return "accept";
  });
  return queue;
}

test("each of many calls at once gets the answer to its own question, in whatever order they come", async () => {
  const { rpc } = newClient();
  const echo = await newCallee(async (question) => {
    if (Number(nameOf(question)) % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    return `answer to ${nameOf(question)}`;
  });
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, index) => rpc.call(echo, "requestApproval", Buffer.from(`${index}`))),
  );
  assert.deepEqual(
    answers.map(nameOf),
    Array.from({ length: 50 }, (_, index) => `answer to ${index}`),
  );
  assert.equal(rpc.pendingCalls, 0);
  await rpc.close();
});

test("type, headers, message id and deadline reach the callee", async () => {
  const { rpc, replyQueue } = newClient();
  let seen: Delivery | undefined;
  const callee = await newCallee(async (question) => {
    seen = question;
    return "";
  });
  const deadlineMs = Date.now() + 5000;
  const options = { deadlineMs, headers: { traceparent: "00-1" }, messageId: "once" };
  const answer = await rpc.call(callee, "compositionRequest", Buffer.from("x"), options);
  assert.equal(answer.type, "validationResponse");
  assert.equal(seen?.type, "compositionRequest");
  assert.equal(seen?.headers["traceparent"], "00-1");
  assert.equal(seen?.messageId, "once");
  assert.equal(seen?.expiresAtMs, deadlineMs);
  assert.equal(seen?.replyTo, replyQueue);
  await rpc.close();
});

test("no answer in time is deadline_exceeded, or what the caller wants it to be", async () => {
  const { rpc } = newClient();
  const silent = await newCallee(async () => undefined);
  const body = Buffer.from("x");
  await assert.rejects(rpc.call(silent, "cancel", body, { timeoutMs: 30 }), withCode("deadline_exceeded"));
  const timeoutError = (): AppError => new AppError("agent_timeout", "VU did not answer.", { party: "VU" });
  await assert.rejects(rpc.call(silent, "cancel", body, { timeoutMs: 30, timeoutError }), withCode("agent_timeout"));
  await assert.rejects(rpc.call(silent, "cancel", body, { deadlineMs: Date.now() - 1 }), withCode("deadline_exceeded"));
  assert.equal(rpc.pendingCalls, 0);
  await rpc.close();
});

test("a question that nobody took before its deadline is not worked on afterwards", async () => {
  const { rpc } = newClient();
  // The first call opens the reply queue. A question whose time passes meanwhile is not sent at all.
  await rpc.call(await newCallee(async () => ""), "cancel", Buffer.from("opens"));
  const queue = await newQueue(bus);
  await assert.rejects(rpc.call(queue, "cancel", Buffer.from("x"), { timeoutMs: 500 }), withCode("deadline_exceeded"));
  await eventually(async () => (await deadLettersOf(bus, queue))[0]?.reason === "expired");
  await rpc.close();
});

test("calling a queue that nobody declared is not_found", async () => {
  const { rpc } = newClient();
  await assert.rejects(rpc.call("NOBODY-in", "cancel", Buffer.from("x")), withCode("not_found"));
  await rpc.close();
});

test("an aborted call ends at once with the reason, also when it was aborted before", async () => {
  const { rpc } = newClient();
  const silent = await newCallee(async () => undefined);
  const controller = new AbortController();
  const call = rpc.call(silent, "cancel", Buffer.from("x"), { signal: controller.signal });
  controller.abort();
  await assert.rejects(call, withCode("cancelled"));
  const reason = new AppError("agreement_gone", "The agreement has gone.");
  const gone = rpc.call(silent, "cancel", Buffer.from("x"), { signal: AbortSignal.abort(reason) });
  await assert.rejects(gone, withCode("agreement_gone"));
  assert.equal(rpc.pendingCalls, 0);
  await rpc.close();
});

test("late and repeated answers are dropped, and the next call gets its own", async () => {
  const { rpc, replyQueue } = newClient();
  const questions: Delivery[] = [];
  const late = await newCallee(async (question) => {
    questions.push(question);
    return undefined;
  });
  const echo = await newCallee(async (question) => nameOf(question));
  await assert.rejects(rpc.call(late, "cancel", Buffer.from("x"), { timeoutMs: 1500 }), withCode("deadline_exceeded"));
  const answer = { type: "cancel", body: Buffer.from("late") };
  assert.equal(await reply(bus, questions[0] as Delivery, answer), true);
  assert.equal(await reply(bus, questions[0] as Delivery, answer), true);
  assert.equal(nameOf(await rpc.call(echo, "cancel", Buffer.from("next"))), "next");
  await eventually(async () => {
    return (await bus.queueStatus(replyQueue))?.ready === 0;
  });
  await rpc.close();
});

test("when the reply queue is lost, waiting calls are unavailable and the next one opens it again", async () => {
  const { rpc, replyQueue } = newClient();
  const asked: string[] = [];
  const silent = await newCallee(async (question) => {
    asked.push(nameOf(question));
    return undefined;
  });
  const echo = await newCallee(async (question) => nameOf(question));
  const waiting = rpc.call(silent, "cancel", Buffer.from("x"));
  const outcome = assert.rejects(waiting, withCode("unavailable"));
  await eventually(() => asked.length === 1);
  await bus.deleteQueue(replyQueue);
  await outcome;
  assert.equal(nameOf(await rpc.call(echo, "cancel", Buffer.from("again"))), "again");
  await rpc.close();
});

test("closing fails the waiting calls, removes the reply queue, and answers then find nobody", async () => {
  const { rpc, replyQueue } = newClient();
  const questions: Delivery[] = [];
  const silent = await newCallee(async (question) => {
    questions.push(question);
    return undefined;
  });
  const outcome = assert.rejects(rpc.call(silent, "cancel", Buffer.from("x")), withCode("unavailable"));
  await eventually(() => questions.length === 1);
  await rpc.close();
  await outcome;
  assert.equal(await bus.queueStatus(replyQueue), undefined);
  const answer = { type: "cancel", body: Buffer.from("too late") };
  assert.equal(await reply(bus, questions[0] as Delivery, answer), false);
  await assert.rejects(rpc.call(silent, "cancel", Buffer.from("x")), withCode("unavailable"));
});
