import assert from "node:assert/strict";
import { test } from "node:test";
import { Turns } from "../../../agent/data/turns.ts";
import { AppError } from "../../../lib/errors.ts";

/** Work that says when it begins, and lasts until it is let go. */
function lasting(name: string, begun: string[]): { readonly work: () => Promise<string>; readonly letGo: () => void } {
  let letGo = (): void => undefined;
  const gone = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const work = async (): Promise<string> => {
    begun.push(name);
    await gone;
    return name;
  };
  return { work, letGo };
}

const soon = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

test("work is done one after the other, in the order of asking", async () => {
  const [turns, begun] = [new Turns(), [] as string[]];
  const [a, b, c] = [lasting("a", begun), lasting("b", begun), lasting("c", begun)];
  const all = [a, b, c].map(({ work }) => turns.take(work));
  for (const [expected, { letGo }] of [
    [["a"], a],
    [["a", "b"], b],
    [["a", "b", "c"], c],
  ] as const) {
    await soon();
    assert.deepEqual(begun, expected);
    letGo();
  }
  assert.deepEqual(await Promise.all(all), ["a", "b", "c"]);
});

test("after work that failed comes the next", async () => {
  const turns = new Turns();
  const fault = new AppError("data_invalid", "No such column.");
  const failing = turns.take(() => Promise.reject(fault));
  const next = turns.take(async () => "next");
  await assert.rejects(failing, fault);
  assert.equal(await next, "next");
});

test("who is aborted while waiting leaves at once, begins nothing, and holds nobody up", async () => {
  const [turns, begun] = [new Turns(), [] as string[]];
  const [a, b, c] = [lasting("a", begun), lasting("b", begun), lasting("c", begun)];
  const first = turns.take(a.work);
  const leaving = new AbortController();
  const reason = new AppError("cancelled", "The caller left.");
  const second = turns.take(b.work, leaving.signal);
  const third = turns.take(c.work);
  leaving.abort(reason);
  await assert.rejects(second, reason);
  await assert.rejects(turns.take(b.work, leaving.signal), reason);
  await soon();
  assert.deepEqual(begun, ["a"], "the third waits for the first all the same");
  a.letGo();
  c.letGo();
  assert.deepEqual(await Promise.all([first, third]), ["a", "c"]);
  assert.deepEqual(begun, ["a", "c"]);
});
