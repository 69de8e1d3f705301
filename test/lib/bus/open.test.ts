import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { agentQueue, checkQueueName, instanceReplyQueue, runQueue, runReplyQueue } from "../../../lib/bus/queues.ts";
import { withCode } from "../../support/bus.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("embedded:<path> opens a bus that answers", async () => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.sqlite")}`);
  await bus.ping();
  await bus.close();
});

test("URLs without a known adapter are configuration errors that show no credentials", async () => {
  for (const url of [
    "",
    "embedded",
    "embedded:",
    "amqp://user:secret@bus.example.org?password=secret",
    "amqp://user:secret@:5672",
    "kafka://user:secret@bus.example.org",
  ]) {
    await assert.rejects(openMessageBus(url), (error) => {
      assert.doesNotMatch(String(error), /secret/);
      return withCode("configuration_invalid")(error);
    });
  }
});

test("queue names are those of the contract", () => {
  assert.equal(agentQueue("VU"), "VU-in");
  assert.equal(instanceReplyQueue("VU", "1f"), "VU-in-1f");
  assert.equal(runQueue("jane-0a1b2c3d-1"), "jane-0a1b2c3d-1");
  assert.equal(runReplyQueue("jane-0a1b2c3d-1"), "jane-0a1b2c3d-1-reply");
  assert.throws(() => checkQueueName("VU.#"), withCode("invalid_argument"));
});
