import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import type { OutgoingMessage } from "../../lib/bus/message-bus.ts";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { separated } from "../../lib/rpc/frame-groups.ts";
import { CHUNK_BYTES, FrameWriter } from "../../lib/rpc/frames.ts";
import { RunRequestSchema, type RunRequest } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { newTraceContext } from "../../lib/telemetry/trace-context.ts";
import { ResultOutput } from "../../sidecar/result-output.ts";
import { eventually } from "../support/eventually.ts";

const IDENTITY = { provider: "VU", requestId: "r", attempt: 1 };

/** An output whose messages are caught; each is confirmed when the test says so. */
class Caught {
  readonly output: ResultOutput;
  readonly frames: Frame[] = [];
  readonly bodies: Uint8Array[] = [];
  readonly events: string[] = [];
  /** How many of the frames. */
  confirmed = 0;
  #confirm: (() => Promise<void>) | undefined;

  constructor(options: {
    readonly credits: number;
    readonly confirm?: () => Promise<void>;
    readonly onHandingOn?: () => Promise<void>;
    readonly run?: Partial<Pick<RunRequest, "reportAddress" | "takesFollowing">>;
  }) {
    this.#confirm = options.confirm;
    const bus = { publish: (queue: string, message: OutgoingMessage) => this.#publish(queue, message) };
    this.output = new ResultOutput({
      bus,
      run: create(RunRequestSchema, {
        ...IDENTITY,
        steward: "VU",
        returnAddress: "surf-run",
        reportAddress: "vu-reply",
        credits: options.credits,
        deadlineMs: BigInt(Math.round(systemClock.now()) + 60_000),
        ...options.run,
      }),
      creditAddress: "vu-run",
      stallTimeoutMs: 5_000,
      clock: systemClock,
      onHandingOn: async () => {
        this.events.push("handing on");
        await options.onHandingOn?.();
      },
    });
  }

  publish(frames: readonly Frame[]): Promise<unknown> {
    return this.output.publish(inOrder(frames), newTraceContext(), AbortSignal.timeout(20_000));
  }

  async #publish(queue: string, { body }: OutgoingMessage): Promise<void> {
    assert.equal(queue, "surf-run");
    const frame = fromBinary(FrameSchema, body);
    this.bodies.push(body);
    this.frames.push(frame);
    this.events.push(frame.body.case ?? "nothing");
    await this.#confirm?.();
  }
}

async function* inOrder(frames: readonly Frame[]): AsyncGenerator<Frame> {
  yield* frames;
}

test("where a steward's data are stays there, also when a program hands on the Start that it got", async () => {
  const writer = new FrameWriter(IDENTITY);
  const caught = new Caught({ credits: 8 });
  const start = writer.start({
    arrowSchema: Buffer.from("schema"),
    grants: ["grant"],
    data: { people: { path: "/world/people.sqlite", contentHash: "abc" } },
    creditQueue: "somebody-elses",
  });
  await caught.publish([start, writer.end()]);
  const [sent] = caught.frames;
  assert.ok(sent?.body.case === "start");
  assert.deepEqual(sent.body.value.data, {});
  assert.equal(sent.body.value.creditQueue, "vu-run");
  assert.deepEqual(sent.body.value.grants, ["grant"]);
  assert.ok(!caught.bodies.some((body) => Buffer.from(body).includes("people")), "nor anywhere else in its bytes");
});

test("what is sent stays as it was until it is confirmed, and its memory is then used again", async () => {
  const confirms: (() => void)[] = [];
  const caught = new Caught({
    credits: 8,
    confirm: () => new Promise((resolve) => confirms.push(resolve)),
  });
  const writer = new FrameWriter(IDENTITY);
  const batches = Array.from({ length: 24 }, () => randomBytes(CHUNK_BYTES));
  const frames = [writer.start({}), ...batches.flatMap((batch) => [...writer.batch(batch, 1)]), writer.end()];
  const done = caught.publish(frames);
  const seen: number[] = [];
  const memories = new Set<ArrayBufferLike>();
  while (seen.length < batches.length) {
    await eventually(() => caught.frames.length > caught.confirmed, { describe: "a frame to be published" });
    const oldest = caught.frames[caught.confirmed];
    assert.ok(oldest !== undefined);
    if (oldest.body.case === "chunk") {
      assert.ok(
        Buffer.from(oldest.body.value.data).equals(batches[seen.length] ?? Buffer.alloc(0)),
        "in its order, whole",
      );
      memories.add(oldest.body.value.data.buffer);
      seen.push(caught.frames.length - caught.confirmed);
      caught.output.giveBack(1);
    }
    caught.confirmed += 1;
    confirms.shift()?.();
  }
  await eventually(() => confirms.length > 0, { describe: "the end to be published" });
  confirms.shift()?.();
  await done;
  assert.ok(Math.max(...seen) <= 9, "no more unconfirmed than credits, and the start or the end");
  assert.ok(Math.max(...seen) >= 6, "several at once");
  assert.ok(memories.size < 12, `24 chunks took ${memories.size} memories`);
});

test("the run is said to hand on before its first chunk goes out", async () => {
  const caught = new Caught({ credits: 8 });
  const writer = new FrameWriter(IDENTITY);
  await caught.publish([writer.start({}), ...writer.batch(Buffer.from("rows"), 1), writer.end()]);
  assert.deepEqual(caught.events, ["start", "handing on", "chunk", "end"]);
});

test("chunks do not wait until that is confirmed, but the result does", async () => {
  let confirm = (): void => undefined;
  const confirmed = new Promise<void>((resolve) => (confirm = resolve));
  const caught = new Caught({ credits: 8, onHandingOn: () => confirmed });
  const writer = new FrameWriter(IDENTITY);
  let isPublished = false;
  const published = caught
    .publish([writer.start({}), ...writer.batch(Buffer.from("rows"), 1), writer.end()])
    .then(() => (isPublished = true));
  await eventually(() => caught.events.includes("end"), { describe: "all frames to go out" });
  assert.deepEqual(caught.events, ["start", "handing on", "chunk", "end"]);
  assert.ok(!isPublished, "not before the agent is known to know");
  confirm();
  await published;
});

test("a result that cannot be said to be handed on fails", async () => {
  const fault = new AppError("unavailable", "not confirmed");
  const caught = new Caught({ credits: 8, onHandingOn: () => Promise.reject(fault) });
  const writer = new FrameWriter(IDENTITY);
  const frames = [writer.start({}), ...writer.batch(Buffer.from("rows"), 1), writer.end()];
  await assert.rejects(caught.publish(frames), fault);
});

test("an agent that takes it so gets its own small result in one message, whole and of its run; nobody else does", async () => {
  const small = (): Frame[] => {
    const writer = new FrameWriter({ ...IDENTITY, attempt: 77 });
    return [writer.start({}), ...writer.batch(Buffer.from("rows"), 1), writer.end()];
  };
  const own = { reportAddress: "surf-run", takesFollowing: true };
  const caught = new Caught({ credits: 8, run: own });
  await caught.publish(small());
  assert.deepEqual(caught.events, ["start"]);
  const frames = separated(caught.frames[0] as Frame);
  assert.deepEqual(
    frames.map(({ body, requestId, attempt, sequence }) => [body.case, requestId, attempt, sequence]),
    [
      ["start", "r", 1, 0n],
      ["chunk", "r", 1, 1n],
      ["end", "r", 1, 2n],
    ],
  );
  const others = [
    { credits: 8, run: { ...own, takesFollowing: false } },
    { credits: 8, run: { takesFollowing: true } },
    // Credits for fewer frames than one message may have: none must wait for what comes back of another one beside it.
    { credits: 1, run: own },
  ];
  for (const other of others) {
    const plain = new Caught(other);
    await plain.publish(small());
    assert.deepEqual(
      plain.events.filter((event) => event !== "handing on"),
      ["start", "chunk", "end"],
    );
  }
});

test("a frame that is not confirmed fails the result at once, also while it waits for credits", async () => {
  let published = 0;
  const caught = new Caught({
    credits: 8,
    confirm: () => {
      published += 1;
      return published === 3 ? Promise.reject(new AppError("unavailable", "not confirmed")) : Promise.resolve();
    },
  });
  const writer = new FrameWriter(IDENTITY);
  const batches = Array.from({ length: 50 }, () => [...writer.batch(Buffer.from("rows"), 1)]).flat();
  await assert.rejects(
    caught.publish([
      new FrameWriter(IDENTITY).start({}),
      ...batches.map((frame) => ({ ...frame, sequence: frame.sequence + 1n })),
    ]),
    { code: "unavailable" },
  );
  assert.ok(published <= 3 + 9, `${published} were sent`);
});
