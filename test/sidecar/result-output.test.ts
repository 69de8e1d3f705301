import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import type { MessageBus, OutgoingMessage } from "../../lib/bus/message-bus.ts";
import { systemClock } from "../../lib/clock.ts";
import { FrameWriter } from "../../lib/rpc/frames.ts";
import { RunRequestSchema } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { newTraceContext } from "../../lib/telemetry/trace-context.ts";
import { ResultOutput } from "../../sidecar/result-output.ts";

const IDENTITY = { provider: "VU", requestId: "r", attempt: 1 };

/** An output whose messages are caught; each is confirmed when the test says so. */
class Caught {
  readonly output: ResultOutput;
  readonly frames: Frame[] = [];
  readonly bodies: Uint8Array[] = [];
  readonly events: string[] = [];
  #confirm: (() => Promise<void>) | undefined;

  constructor(options: { readonly credits: number; readonly confirm?: () => Promise<void> }) {
    this.#confirm = options.confirm;
    const bus = { publish: (queue: string, message: OutgoingMessage) => this.#publish(queue, message) };
    this.output = new ResultOutput({
      bus: bus as unknown as MessageBus,
      run: create(RunRequestSchema, {
        ...IDENTITY,
        steward: "VU",
        returnAddress: "surf-run",
        reportAddress: "vu-reply",
        credits: options.credits,
        deadlineMs: BigInt(Math.round(systemClock.now()) + 60_000),
      }),
      creditAddress: "vu-run",
      stallTimeoutMs: 5_000,
      clock: systemClock,
      onHandingOn: async () => void this.events.push("handing on"),
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
