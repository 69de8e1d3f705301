import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import type { ChainReceiver } from "../../../agent/chains/claimed-chain.ts";
import { RunQueues } from "../../../agent/chains/run-queues.ts";
import type { Delivery, MessageBus } from "../../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../../lib/bus/message-types.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { AppError } from "../../../lib/errors.ts";
import { RunRequestSchema } from "../../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

async function open(
  t: TestContext,
): Promise<{ readonly bus: MessageBus; readonly queues: RunQueues; readonly came: string[] }> {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  const came: string[] = [];
  const receiver: ChainReceiver = {
    take: async ({ messageId }: Delivery) => {
      came.push(messageId ?? "");
      return "accept";
    },
    fail: () => undefined,
  };
  const queues = new RunQueues(bus, "analyst-0a1b2c3d-vu-r1-1-abcde");
  await queues.open(receiver, 2);
  return { bus, queues, came };
}

describe("the queues of a chain that serves one attempt", () => {
  test("take the request to the chain, with the way back, and what comes back to the receiver", async (t) => {
    const { bus, queues, came } = await open(t);
    const asked: Delivery[] = [];
    await bus.consume(queues.run, async (delivery) => {
      asked.push(delivery);
      return "accept";
    });
    await queues.request(
      create(RunRequestSchema, { requestId: "r1", attempt: 1 }),
      newTraceContext(),
      Date.now() + 60_000,
    );
    await eventually(() => asked.length === 1);
    const [delivery] = asked;
    assert.ok(delivery !== undefined);
    assert.deepEqual([delivery.type, delivery.replyTo], [MESSAGE_TYPES.sqlDataRequest, queues.reply]);
    assert.equal(fromBinary(RunRequestSchema, delivery.body).requestId, "r1");
    await bus.publish(queues.reply, {
      type: MESSAGE_TYPES.runReport,
      messageId: "report-1",
      body: new Uint8Array(),
    });
    await eventually(() => came.includes("report-1"));
  });

  test("go both, and where one cannot yet, the other goes all the same, and it may be tried again", async (t) => {
    const { bus, queues } = await open(t);
    const deleteQueue = bus.deleteQueue.bind(bus);
    const away = t.mock.method(bus, "deleteQueue", async (queue: string) => {
      if (queue === queues.run) throw new AppError("unavailable", "The bus is away.");
      await deleteQueue(queue);
    });
    await assert.rejects(queues.close(), { code: "unavailable" });
    assert.equal(await bus.queueStatus(queues.reply), undefined);
    away.mock.restore();
    await queues.close();
    assert.equal(await bus.queueStatus(queues.run), undefined);
  });
});
