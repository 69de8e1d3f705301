import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import type { ApiCall } from "../../../lib/jobs/kubernetes-api.ts";
import type { KubernetesObject } from "../../../lib/jobs/kubernetes-objects.ts";
import { Reflector } from "../../../lib/jobs/kubernetes-reflector.ts";
import { eventually } from "../../support/eventually.ts";

/** What the server says to one watch: events, and then the end of the connection, well or badly. */
type Watch = readonly (readonly [type: string, object: object])[];
const BREAKS: readonly [string, object] = ["breaks", {}];

/** A server of scripted watches, the last of which stays open. */
function scripted(watches: readonly Watch[]) {
  const asked: { watch: boolean; version: unknown }[] = [];
  let next = 0;
  const api = {
    call: async <Answer>({ query }: ApiCall): Promise<Answer> => {
      asked.push({ watch: query?.["watch"] === true, version: query?.["resourceVersion"] });
      return { items: [item("a", 1)], metadata: { resourceVersion: "5" } } as Answer;
    },
    lines: async function* ({ query, signal }: ApiCall): AsyncGenerator<string, void, undefined> {
      asked.push({ watch: true, version: query?.["resourceVersion"] });
      const script = watches[next++];
      if (script === undefined) {
        await new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new Error("aborted"))));
      }
      for (const [type, object] of script ?? []) {
        if (type === "breaks") throw new AppError("unavailable", "The connection broke.");
        yield JSON.stringify({ type, object });
      }
    },
  };
  return { api, asked };
}

function item(name: string, version: number): KubernetesObject {
  return { metadata: { name, uid: name, resourceVersion: String(version) } };
}

async function reflect(context: TestContext, watches: readonly Watch[]) {
  const { api, asked } = scripted(watches);
  const heard: string[] = [];
  const reported: AppError[] = [];
  const pauses: number[] = [];
  const clock: Clock = { now: () => systemClock.now(), sleep: async (ms) => void pauses.push(ms) };
  const reflector = await Reflector.open<KubernetesObject>({
    api,
    path: "/pods",
    selector: { labelSelector: "a=b" },
    clock,
    onList: (items) => void heard.push(`list ${items.map(({ metadata }) => metadata.name).join()}`),
    onChange: ({ metadata }, isGone) => void heard.push(`${isGone ? "gone" : "changed"} ${metadata.name}`),
    mark: () => 0,
    report: (error) => void reported.push(error),
    random: () => 1,
  });
  context.after(() => reflector.close());
  const untilWatches = (count: number): Promise<unknown> =>
    eventually(() => asked.filter(({ watch }) => watch).length === count);
  return { asked, heard, reported, pauses, untilWatches };
}

test("it lists once, and goes on from the last version that it has seen, also by a bookmark", async (t) => {
  const { asked, heard, untilWatches } = await reflect(t, [
    [["ADDED", item("b", 6)], ["DELETED", item("a", 7)], BREAKS],
    [["BOOKMARK", item("", 9)]],
  ]);
  await untilWatches(3);
  assert.deepEqual(
    asked.map(({ watch, version }) => (watch ? version : "list")),
    ["list", "5", "7", "9"],
  );
  assert.deepEqual(heard, ["list a", "changed b", "gone a"]);
});

test("a version that the server has forgotten makes it list again", async (t) => {
  const { asked, heard, untilWatches } = await reflect(t, [[["ERROR", { code: 410, message: "too old" }]]]);
  await untilWatches(2);
  assert.deepEqual(
    asked.map(({ watch }) => watch),
    [false, true, false, true],
  );
  assert.deepEqual(heard, ["list a", "list a"]);
});

test("it pauses longer after each failure, up to a limit, and reports when that goes on", async (t) => {
  const { reported, pauses, untilWatches } = await reflect(t, Array<Watch>(8).fill([BREAKS]));
  await untilWatches(9);
  assert.deepEqual(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
  assert.deepEqual(
    reported.map(({ code }) => code),
    ["unavailable"],
  );
});

test("a server that ends every watch at once is not asked without a pause", async (t) => {
  const { pauses, untilWatches } = await reflect(t, [[], []]);
  await untilWatches(3);
  assert.deepEqual(pauses, [200, 200]);
});
