/** Short words for tests of the message bus. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import type {
  Consumer,
  DeadLetter,
  Delivery,
  MessageBus,
  OutgoingMessage,
  QueueOptions,
  QueueStatus,
  Settlement,
} from "../../lib/bus/message-bus.ts";
import { AppError, type ErrorCode } from "../../lib/errors.ts";
import { eventually } from "./eventually.ts";

/** A queue with a name of its own. */
export async function newQueue(bus: MessageBus, options: QueueOptions = { kind: "service" }): Promise<string> {
  const queue = `contract-${randomUUID()}`;
  await bus.declareQueue(queue, options);
  return queue;
}

/** A message that is told apart by its body. */
export function message(name: string): OutgoingMessage {
  return { type: "frame", body: Buffer.from(name) };
}

/** What {@link message} was given. */
export function nameOf(delivery: Delivery): string {
  return Buffer.from(delivery.body).toString();
}

/** A handler that accepts. */
export async function accept(): Promise<Settlement> {
  return "accept";
}

/** Takes `count` messages with a consumer of its own, settles each alike, and closes it. */
export async function take(
  bus: MessageBus,
  queue: string,
  count: number,
  prefetch = 16,
  as: Settlement = "accept",
): Promise<Delivery[]> {
  const taken: Delivery[] = [];
  const consumer = await bus.consume(
    queue,
    async (delivery) => {
      taken.push(delivery);
      return as;
    },
    { prefetch },
  );
  try {
    await eventually(() => taken.length >= count, { describe: `${count} messages of ${queue}`, intervalMs: 5 });
  } finally {
    await consumer.close();
  }
  return taken;
}

/** The dead letters of one queue, oldest first. */
export async function deadLettersOf(bus: MessageBus, queue: string): Promise<DeadLetter[]> {
  return (await bus.deadLetters(10_000)).filter((letter) => letter.queue === queue);
}

/** The dead letters of one queue once there are as many: they come a moment after the settlement. */
export async function nextDeadLetters(bus: MessageBus, queue: string, count: number): Promise<DeadLetter[]> {
  return eventually(
    async () => {
      const letters = await deadLettersOf(bus, queue);
      return letters.length >= count ? letters : undefined;
    },
    { describe: `${count} dead letters of ${queue}`, timeoutMs: 20_000 },
  );
}

/** Waits until the queue has these figures: a broker's own may be a moment old. */
export async function untilStatus(bus: MessageBus, queue: string, expected: QueueStatus): Promise<void> {
  await eventually(
    async () => {
      assert.deepEqual(await bus.queueStatus(queue), expected);
      return true;
    },
    { describe: `the figures of ${queue}` },
  );
}

/** Waits until the queue is gone. Publishing is the way of asking that does not count as use. */
export async function untilGone(bus: MessageBus, queue: string): Promise<void> {
  await eventually(
    () =>
      bus.publish(queue, message("is it there?")).then(
        () => false,
        (error: unknown) => error instanceof AppError && error.code === "not_found",
      ),
    { describe: `${queue} to expire`, intervalMs: 100 },
  );
}

/** Closes consumers side by side. */
export async function closeAll(consumers: readonly Consumer[]): Promise<void> {
  await Promise.all(consumers.map((consumer) => consumer.close()));
}

/** Something that handlers wait for; the test opens it, at the latest when it ends. */
export function newGate(context: TestContext): { readonly opened: Promise<void>; open(): void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  context.after(() => open());
  return { opened, open: () => open() };
}

/** A check for `assert.rejects`: an AppError of this code. */
export function withCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof AppError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

/** What such a process reports of a delivery. */
export interface SeenDelivery {
  readonly messageId: string;
  readonly redeliveryCount: number;
}

/** A process of its own that takes up to `prefetch` messages and never decides. */
export function startHangingConsumer(context: TestContext, url: string, queue: string, prefetch: number) {
  const program = new URL("hanging-consumer.js", import.meta.url).pathname;
  const child: ChildProcess = spawn(process.execPath, [program, url, queue, String(prefetch)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  context.after(() => child.kill("SIGKILL"));
  const seen: SeenDelivery[] = [];
  createInterface({ input: child.stdout! }).on("line", (line) => seen.push(JSON.parse(line) as SeenDelivery));
  return {
    nextDeliveries: (count: number): Promise<SeenDelivery[]> =>
      eventually(() => (seen.length >= count ? seen.splice(0, count) : undefined), {
        describe: "the child's deliveries",
      }),
    kill: async (): Promise<void> => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
