import assert from "node:assert/strict";
import { test } from "node:test";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { CreditGate, CreditReturn } from "../../../lib/rpc/credits.ts";
import { Handoff } from "../../../lib/rpc/handoff.ts";
import { eventually } from "../../support/eventually.ts";

const never = new AbortController().signal;

/** Takes credits for ever; counts them. */
function taker(gate: CreditGate, signal: AbortSignal): { taken: number; ended: Promise<unknown> } {
  const state = { taken: 0, ended: Promise.resolve<unknown>(undefined) };
  state.ended = (async () => {
    for (;;) {
      await gate.take(signal);
      state.taken++;
    }
  })().catch((error: unknown) => error);
  return state;
}

test("a sender takes as many credits as there are, and then as many as come back", async () => {
  const stop = new AbortController();
  const gate = new CreditGate(3, 60_000, systemClock);
  const sender = taker(gate, stop.signal);
  await eventually(() => sender.taken === 3);
  gate.giveBack(2);
  await eventually(() => sender.taken === 5);
  gate.giveBack(1000);
  await eventually(() => sender.taken === 8, { describe: "no more than the window, whatever comes back" });
  stop.abort(new AppError("cancelled", "Enough."));
  assert.equal(((await sender.ended) as AppError).code, "cancelled");
  assert.equal(sender.taken, 8);
});

test("a receiver that returns nothing for the stall time ends the sender, and the error names the setting", async () => {
  const gate = new CreditGate(1, 30, systemClock);
  const sender = taker(gate, never);
  const error = await sender.ended;
  assert.ok(error instanceof AppError);
  assert.equal(error.code, "time_limit_exceeded");
  assert.match(error.message, /30 ms \(DYNAMOS_STALL_TIMEOUT_MS\)/);
  assert.equal(sender.taken, 1);
});

test("settled chunks are returned in batches, the rest a little later, all of them", async () => {
  const sent: number[] = [];
  const credits = new CreditReturn({
    batch: 4,
    send: async (chunks) => void sent.push(chunks),
    onError: (error) => assert.fail(error),
  });
  for (let index = 0; index < 10; index++) credits.settle();
  await eventually(() => sent.reduce((sum, chunks) => sum + chunks, 0) === 10);
  assert.ok(sent.length < 10, `${sent.length} messages for 10 credits`);
  await credits.close();
});

test("a sender whose queue has gone is owed nothing; another fault is told once", async () => {
  const errors: AppError[] = [];
  const failing = (code: "not_found" | "unavailable"): CreditReturn =>
    new CreditReturn({
      batch: 1,
      send: async () => {
        throw new AppError(code, "It does not work.");
      },
      onError: (error) => errors.push(error),
    });
  const gone = failing("not_found");
  gone.settle();
  await gone.close();
  const broken = failing("unavailable");
  broken.settle();
  broken.settle();
  await eventually(() => errors.length === 1);
  await broken.close();
  assert.deepEqual(
    errors.map(({ code }) => code),
    ["unavailable"],
  );
});

test("a push resolves when the reader asks for the next value, and not before", async () => {
  const handoff = new Handoff<number>();
  const done: number[] = [];
  const push = (value: number): void => void handoff.push(value).then(() => done.push(value));
  push(1);
  push(2);
  const reader = handoff[Symbol.asyncIterator]();
  assert.deepEqual(await reader.next(), { done: false, value: 1 });
  assert.deepEqual(done, []);
  assert.deepEqual(await reader.next(), { done: false, value: 2 });
  await eventually(() => done.length === 1);
  handoff.end();
  assert.equal((await reader.next()).done, true);
  await eventually(() => done.length === 2);
});

test("a reader that leaves frees all who push", async () => {
  const handoff = new Handoff<number>();
  const pushes = [handoff.push(1), handoff.push(2)];
  for await (const value of handoff) {
    assert.equal(value, 1);
    break;
  }
  await Promise.all([...pushes, handoff.push(3)]);
});
