import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { describe, test, type TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Requests, type RequestName, type RequestsOptions } from "../../agent/requests.ts";
import type { AppError } from "../../lib/errors.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const never = new AbortController().signal;
/** One frame with its envelope. */
const FRAME_BYTES = 1_000;

function chunk(sequence: number): Frame {
  const body = { case: "chunk", value: { data: new Uint8Array(FRAME_BYTES).fill(sequence) } } as const;
  return create(FrameSchema, { provider: "VU", sequence: BigInt(sequence), body });
}

async function openRequests(
  t: TestContext,
  changes: Partial<RequestsOptions> = {},
): Promise<{ readonly requests: Requests; readonly folder: string; readonly ask: Ask; readonly runs: () => number }> {
  const folder = await temporaryFolder();
  const requests = new Requests({
    folder,
    maxBytesPerAnswer: 1_000_000,
    maxBytes: 1_000_000,
    keepMs: 60_000,
    lingerMs: 1_000,
    maxKept: 100,
    stallMs: 10_000,
    onForgotten: () => undefined,
    report: (error) => assert.fail(error),
    ...changes,
  });
  t.after(() => requests.close());
  let runs = 0;
  const ask: Ask = (name, frames = 3) =>
    requests.attachOrStart(
      { user: "ada@example.org", requestId: "r", fingerprint: "f", decision: "d", isRepeatable: true, ...name },
      async function* (signal) {
        runs += 1;
        for (let sequence = 0; sequence < frames; sequence += 1) yield chunk(sequence);
        if (frames === ENDLESS) await new Promise((_resolve, reject) => signal.addEventListener("abort", reject));
        signal.throwIfAborted();
      },
      never,
    );
  return { requests, folder, ask, runs: () => runs };
}

type Ask = (name?: Partial<RequestName>, frames?: number) => AsyncIterable<Frame>;
/** One frame, and then nothing until the run is ended. */
const ENDLESS = 0.5;

async function count(frames: AsyncIterable<Frame>): Promise<number> {
  let read = 0;
  for await (const _frame of frames) read += 1;
  return read;
}

describe("a request that is asked again", () => {
  test("is answered again under the same decision, and runs anew under another", async (t) => {
    const { ask, runs, folder } = await openRequests(t);
    assert.equal(await count(ask({ decision: "revision 1" })), 3);
    assert.equal(await count(ask({ decision: "revision 1" })), 3);
    assert.equal(runs(), 1);
    assert.equal(await count(ask({ decision: "revision 2" })), 3);
    assert.equal(runs(), 2);
    await eventually(async () => (await readdir(folder)).length === 1, { describe: "the old answer to be deleted" });
  });

  test("while it runs under another decision ends that run with agreement_gone", async (t) => {
    const { ask, runs } = await openRequests(t);
    const first = ask({ decision: "revision 1" }, ENDLESS)[Symbol.asyncIterator]();
    await first.next();
    assert.equal(await count(ask({ decision: "revision 2" })), 3);
    await assert.rejects(Promise.resolve(first.next()), { code: "agreement_gone" });
    assert.equal(runs(), 2);
  });

  test("ends who still reads the answer of another decision", async (t) => {
    const { ask } = await openRequests(t);
    await count(ask({ decision: "revision 1" }));
    const slow = ask({ decision: "revision 1" })[Symbol.asyncIterator]();
    await slow.next();
    await count(ask({ decision: "revision 2" }));
    await assert.rejects(Promise.resolve(slow.next()), { code: "agreement_gone" });
  });

  test("with another question is refused, whatever the decision", async (t) => {
    const { ask } = await openRequests(t);
    await count(ask());
    assert.throws(() => ask({ fingerprint: "other", decision: "other" }), { code: "idempotency_key_reused" });
  });
});

describe("a kept answer", () => {
  test("is kept as long as somebody reads it, however long that takes, and no longer", async (t) => {
    const { ask, folder } = await openRequests(t, { keepMs: 1 });
    const reader = ask({}, 3)[Symbol.asyncIterator]();
    await reader.next();
    // Long after its time: the timer of the end has fired many times over.
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal((await readdir(folder)).length, 1);
    for (const sequence of [1n, 2n]) {
      const { value } = (await reader.next()) as IteratorResult<Frame, undefined>;
      assert.equal(value?.sequence, sequence);
    }
    assert.equal((await reader.next()).done, true);
    await eventually(async () => (await readdir(folder)).length === 0, { describe: "the last reader to remove it" });
  });

  test("makes room for another when all of them together are too large, the oldest first", async (t) => {
    const { ask, runs } = await openRequests(t, { maxBytes: 8 * FRAME_BYTES });
    for (const requestId of ["a", "b", "c"]) assert.equal(await count(ask({ requestId })), 3);
    await count(ask({ requestId: "c" }));
    await count(ask({ requestId: "b" }));
    assert.equal(runs(), 3, "b and c are still there");
    await count(ask({ requestId: "a" }));
    assert.equal(runs(), 4, "a had to go");
  });

  test("that cannot have room is passed on and not kept", async (t) => {
    const { ask, folder } = await openRequests(t, { maxBytes: FRAME_BYTES / 2 });
    assert.equal(await count(ask()), 3);
    assert.deepEqual(await readdir(folder), []);
  });
});

test("beyond the most that may be under way a request is refused, with the setting's name", async (t) => {
  const { ask } = await openRequests(t, { maxKept: 1 });
  const first = ask({ requestId: "a" }, ENDLESS)[Symbol.asyncIterator]();
  await first.next();
  assert.throws(
    () => ask({ requestId: "b" }),
    (error: AppError) => {
      assert.equal(error.code, "rate_limited");
      assert.match(error.message, /DYNAMOS_MAX_KEPT_ANSWERS/);
      return true;
    },
  );
});

test("a run whose last frame was read is left to end by itself; one that was left before is ended", async (t) => {
  const { requests } = await openRequests(t);
  const end = create(FrameSchema, { provider: "VU", sequence: 1n, body: { case: "end", value: {} } });
  for (const last of [end, chunk(1)]) {
    const outcome = { isAborted: false, isOver: false };
    let finish = (): void => undefined;
    const finishing = new Promise<void>((resolve) => (finish = resolve));
    const frames = requests.attachOrStart(
      {
        user: "ada@example.org",
        requestId: last.body.case ?? "",
        fingerprint: "f",
        decision: "d",
        isRepeatable: false,
      },
      async function* (signal) {
        signal.addEventListener("abort", () => {
          outcome.isAborted = true;
          finish();
        });
        yield chunk(0);
        yield last;
        // What a chain says behind its last frame.
        await finishing;
        outcome.isOver = true;
      },
      never,
    );
    for await (const { sequence } of frames) if (sequence === 1n) break;
    // A timer of no time has passed by then, whatever it was to do.
    await new Promise((resolve) => setTimeout(resolve, 1));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(outcome.isAborted, last !== end);
    finish();
    await eventually(() => outcome.isOver);
  }
});
