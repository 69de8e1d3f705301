import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { keepConsuming } from "../../../lib/bus/keep-consuming.ts";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { message, nameOf } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
after(() => bus.close());
const common = {
  declaration: { kind: "service" },
  clock: systemClock,
  logger: createLogger("test", {}, "fatal"),
} as const;

test("a queue that was deleted under its consumer is declared and consumed again", async () => {
  const taken: string[] = [];
  const consumer = await keepConsuming(bus, {
    ...common,
    queue: "kept",
    handler: async (delivery) => {
      taken.push(nameOf(delivery));
      return "accept";
    },
  });
  for (const name of ["before", "after"]) {
    await eventually(async () => (await bus.queueStatus("kept"))?.consumers === 1, { describe: "a consumer" });
    await bus.publish("kept", message(name));
    await eventually(() => taken.includes(name), { describe: `${name} to come` });
    if (name === "before") await bus.deleteQueue("kept");
  }
  await consumer.close();
  assert.deepEqual(taken, ["before", "after"]);
  assert.equal((await bus.queueStatus("kept"))?.consumers, 0);
});

test("what fails at the start fails, so that a program does not seem to run", async () => {
  await bus.declareQueue("other kind", { kind: "run" });
  await assert.rejects(
    keepConsuming(bus, { ...common, queue: "other kind", handler: async () => "accept" }),
    (error) => error instanceof AppError && error.code === "conflict",
  );
});

test("it is tried again while the bus is away, until it is closed", async () => {
  let failures = 0;
  const flaky = new Proxy(bus, {
    get: (target, name: keyof MessageBus) =>
      name === "declareQueue" && failures < 2 && failures >= 0 && isLost
        ? async () => {
            failures++;
            throw new AppError("unavailable", "The bus is away.");
          }
        : (target[name] as () => unknown).bind(target),
  });
  let isLost = false;
  const consumer = await keepConsuming(flaky, { ...common, queue: "flaky", handler: async () => "accept" });
  isLost = true;
  await bus.deleteQueue("flaky");
  await eventually(async () => (await bus.queueStatus("flaky"))?.consumers === 1, { describe: "a consumer again" });
  assert.equal(failures, 2);
  failures = -1;
  await consumer.close();
});
