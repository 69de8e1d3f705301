import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { RpcClient } from "../../../lib/rpc/client.ts";
import { frameBytes } from "../../../lib/rpc/frame-bytes.ts";
import { FrameGroups, joined, MOST_FOLLOWING, separated } from "../../../lib/rpc/frame-groups.ts";
import { sendFrames } from "../../../lib/rpc/frame-sending.ts";
import { FrameReader, FrameWriter } from "../../../lib/rpc/frames.ts";
import { MicroserviceService } from "../../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { FrameSchema, type Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer } from "../../../lib/rpc/server.ts";
import { implement, methodDefinition } from "../../../lib/rpc/service.ts";

function stream(...batches: readonly Uint8Array[]): Frame[] {
  const writer = new FrameWriter({ provider: "VU", requestId: "r", attempt: 3 });
  return [
    writer.start({ arrowSchema: Buffer.from("schema"), grants: ["grant"] }),
    ...batches.flatMap((batch) => [...writer.batch(batch, 1)]),
    writer.end({ note: true }),
  ];
}

async function groupsOf(frames: AsyncIterable<Frame>, mayGather = true): Promise<(string | undefined)[][]> {
  const groups: (string | undefined)[][] = [];
  for await (const group of new FrameGroups(frames, () => mayGather)) {
    groups.push(group.map(({ body }) => body.case));
  }
  return groups;
}

async function* atOnce(frames: readonly Frame[]): AsyncGenerator<Frame> {
  yield* frames;
}

const rows = Buffer.from("rows");

test("frames in one message are on its other side what they were", () => {
  const frames = stream(rows, Buffer.from("more rows"));
  const message = fromBinary(FrameSchema, frameBytes(joined(frames)));
  assert.deepEqual(
    separated(message).map((frame) => frameBytes(frame)),
    frames.map((frame) => frameBytes(frame)),
  );
  const reader = new FrameReader();
  for (const frame of separated(message)) reader.accept(frame);
  assert.ok(reader.isEnded);
  for (const frame of frames) assert.deepEqual(separated(joined([frame])), [frame]);
});

test("what is put into a Start inside a Start does not count", () => {
  const [start, chunk, end] = stream(rows) as [Frame, Frame, Frame];
  const nested = joined([start, joined([start, chunk, end])]);
  const reader = new FrameReader();
  for (const frame of separated(nested)) reader.accept(frame);
  assert.ok(!reader.isEnded);
});

test("a small result goes with its start; what is large, late or much does not, nor where it is not taken so", async () => {
  assert.deepEqual(await groupsOf(atOnce(stream(rows))), [["start", "chunk", "end"]]);
  assert.deepEqual(await groupsOf(atOnce(stream())), [["start", "end"]]);
  assert.deepEqual(await groupsOf(atOnce(stream(rows)), false), [["start"], ["chunk"], ["end"]]);
  const large = stream(rows, randomBytes(64 * 1024));
  assert.deepEqual(await groupsOf(atOnce(large)), [["start", "chunk"], ["chunk"], ["end"]]);
  const many = await groupsOf(atOnce(stream(...Array.from({ length: 50 }, () => rows))));
  assert.equal(many[0]?.length, 1 + MOST_FOLLOWING);
  assert.equal(many.flat().length, 52);
});

test("a start does not wait for rows that are still to come, and loses none of them", async () => {
  let come = (): void => undefined;
  const coming = new Promise<void>((resolve) => (come = resolve));
  const slow = async function* (): AsyncGenerator<Frame> {
    const [start, ...others] = stream(rows) as [Frame, ...Frame[]];
    yield start;
    await coming;
    yield* others;
  };
  const groups = new FrameGroups(slow(), () => true)[Symbol.asyncIterator]();
  const first = await groups.next();
  assert.ok(first.done !== true);
  assert.deepEqual(
    first.value.map(({ body }) => body.case),
    ["start"],
  );
  come();
  const others: unknown[] = [];
  for (let next = await groups.next(); next.done !== true; next = await groups.next()) {
    others.push(next.value.map(({ body }) => body.case));
  }
  assert.deepEqual(others, [["chunk"], ["end"]]);
});

test("a source that fails behind its start fails there, and one that is left is left", async () => {
  let isLeft = false;
  const failing = async function* (): AsyncGenerator<Frame> {
    try {
      yield* stream(rows).slice(0, 2);
      throw new Error("no more");
    } finally {
      isLeft = true;
    }
  };
  const groups = new FrameGroups(failing(), () => true)[Symbol.asyncIterator]();
  const first = await groups.next();
  assert.ok(first.done !== true && first.value.length === 2);
  await assert.rejects(groups.next(), /no more/);
  assert.ok(isLeft);
  isLeft = false;
  for await (const group of new FrameGroups(failing(), () => true)) {
    assert.equal(group.length, 2);
    break;
  }
  assert.ok(isLeft);
});

test("who said at a call before that it takes them gets a small result in one message, and its handler every frame", async () => {
  const taken: (string | undefined)[] = [];
  const messages: Frame[] = [];
  const process = async (incoming: AsyncIterable<Frame>): Promise<object> => {
    for await (const { body } of incoming) taken.push(body.case);
    return {};
  };
  const server = await startRpcServer({ port: 0, implementations: [implement(MicroserviceService, { process })] });
  const client = new RpcClient({ port: server.port, peer: "the server" });
  const method = MicroserviceService.method.process;
  const counted = {
    stream: (of: typeof method, source: AsyncIterable<Frame>, options: object) => {
      const tapped = async function* (): AsyncGenerator<Frame> {
        for await (const frame of source) {
          messages.push(frame);
          yield frame;
        }
      };
      return client.stream(of, tapped(), options);
    },
  } as unknown as RpcClient;
  for (let call = 0; call < 2; call++) await sendFrames(counted, method, atOnce(stream(rows)));
  client.close();
  await server.close();
  assert.deepEqual(taken, ["start", "chunk", "end", "start", "chunk", "end"]);
  assert.equal(messages.length, 4, "three, and then one");
  const bytes = methodDefinition(method).requestSerialize(messages[3] as Frame);
  assert.equal(separated(fromBinary(FrameSchema, bytes)).length, 3);
});
